"""Reads and writes files of Gaussians: PLY, compressed PLY, .splat, .spz, SOG; reads .ksplat."""

from jax_gsplat_depth.io._compressed_ply import read_compressed_ply, write_compressed_ply
from jax_gsplat_depth.io._files import check_suffix, describe, load, read, save, size_on_disk
from jax_gsplat_depth.io._ksplat import read_ksplat
from jax_gsplat_depth.io._ply import read_ply, write_ply
from jax_gsplat_depth.io._sog import read_sog
from jax_gsplat_depth.io._sog_write import write_sog
from jax_gsplat_depth.io._splat import read_splat, write_splat
from jax_gsplat_depth.io._spz import MAX_EXPANSION, read_spz, write_spz
from jax_gsplat_depth.io._tags import FileWarning, Saved, SplatFile, Tags

__all__ = [
    "MAX_EXPANSION",
    "FileWarning",
    "Saved",
    "SplatFile",
    "Tags",
    "check_suffix",
    "describe",
    "load",
    "read",
    "read_compressed_ply",
    "read_ksplat",
    "read_ply",
    "read_sog",
    "read_splat",
    "read_spz",
    "save",
    "size_on_disk",
    "write_compressed_ply",
    "write_ply",
    "write_sog",
    "write_splat",
    "write_spz",
]
