"""Runs the command ``jax-gsplat-depth``: ``_main`` chooses among the commands, one file each."""

from jax_gsplat_depth.cli._main import main

__all__ = ["main"]
