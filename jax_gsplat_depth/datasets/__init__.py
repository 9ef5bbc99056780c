"""Readers of posed photos, and a capture that needs no files."""

from jax_gsplat_depth.datasets._builtin import builtin_capture
from jax_gsplat_depth.datasets._capture import Capture, CaptureError
from jax_gsplat_depth.datasets._load import load_capture

__all__ = ["Capture", "CaptureError", "builtin_capture", "load_capture"]
