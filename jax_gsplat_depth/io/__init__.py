"""Readers and writers of Gaussian files."""

from jax_gsplat_depth.io._ply import read_ply, write_ply

__all__ = ["read_ply", "write_ply"]
