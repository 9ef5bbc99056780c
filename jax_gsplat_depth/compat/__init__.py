"""Offers the interface of the PyTorch rasterizers that this library continues.

``_rasterizer`` has their names, argument layouts and numbers; ``_recorder`` saves the inputs of
calls that go wrong, for their flags ``debug`` and ``prefiltered``.
"""

from jax_gsplat_depth.compat._rasterizer import (
    GaussianRasterizationSettings,
    GaussianRasterizer,
    Snapshot,
    load_snapshot,
)

__all__ = ["GaussianRasterizationSettings", "GaussianRasterizer", "Snapshot", "load_snapshot"]
