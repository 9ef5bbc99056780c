"""Reads posed photos, makes a capture that needs no files, and selects few views of a capture."""

from jax_gsplat_depth.datasets._builtin import builtin_capture
from jax_gsplat_depth.datasets._capture import Capture, CaptureError, CaptureWarning
from jax_gsplat_depth.datasets._geometry import PosedViews, camera_centers
from jax_gsplat_depth.datasets._load import load_capture
from jax_gsplat_depth.datasets._priors import monocular_like
from jax_gsplat_depth.datasets._select import select_views

__all__ = [
    "Capture",
    "CaptureError",
    "CaptureWarning",
    "PosedViews",
    "builtin_capture",
    "camera_centers",
    "load_capture",
    "monocular_like",
    "select_views",
]
