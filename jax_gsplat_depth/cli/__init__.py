"""The command ``jax-gsplat-depth``: ``_main`` is its entry point, each command has a file."""

from jax_gsplat_depth.cli._main import main

__all__ = ["main"]
