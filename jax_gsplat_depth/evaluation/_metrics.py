"""Collects the numbers of a result: metrics of held-out views, size of the capture, versions."""

import importlib.metadata
import platform
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jax_gsplat_depth._common.file_names import file_name
from jax_gsplat_depth._common.local_scene import LocalScene
from jax_gsplat_depth._types import Config, Gaussians
from jax_gsplat_depth.datasets import Capture
from jax_gsplat_depth.evaluation._heldout import HeldOutView, evaluate
from jax_gsplat_depth.evaluation._pictures import write_held_out

_VERSIONS_OF = ("jax-gsplat-depth", "jax", "jaxlib", "optax", "dm-pix", "numpy")


def measure(
    capture: Capture,
    gaussians: Gaussians | LocalScene,
    folder: Path | None = None,
    *,
    config: Config | None = None,
    on_view: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Render and measure the held-out views, and draw them if ``folder`` is given.

    Args:
        capture: Posed photos.
        gaussians: As in ``evaluate``.
        folder: New folder for one picture ``NAME.png`` per view (see ``file_name``), or None for no
            pictures.
        config: Settings of the renderer; None for its defaults.
        on_view: Called with the entry of each view in ``heldout``.

    Returns:
        For ``metrics.json``: ``psnr`` (dB) and ``ssim``, means over the views; ``depth_error``, the
        median of the relative errors of all pixels of known depth; ``heldout``, the same for each
        view with its ``name``. None where nothing is known; the means are over the other views.
        Without held-out views a ``note`` says so.
    """
    if folder is not None and len(capture.test_indices) > 0:
        folder.mkdir()
    entries = []
    errors = []
    for view in evaluate(capture, gaussians, config=config):
        if folder is not None:
            write_held_out(view, folder / file_name(view.name, ".png"))
        entries.append(_entry(view))
        if view.depth_errors is not None:
            errors.append(view.depth_errors)
        if on_view is not None:
            on_view(entries[-1])
    measured: dict[str, Any] = {
        "psnr": _mean([entry["psnr"] for entry in entries]),
        "ssim": _mean([entry["ssim"] for entry in entries]),
        "depth_error": float(np.median(np.concatenate(errors))) if errors else None,
        "heldout": entries,
    }
    if not entries:
        measured["note"] = "no photo was held out, so nothing was measured"
    return measured


def describe_capture(capture: Capture) -> dict[str, Any]:
    """Return the size of a capture for ``metrics.json``."""
    return {
        "views": len(capture.names),
        "heldout_views": len(capture.test_indices),
        "width": capture.width,
        "height": capture.height,
        "sparse_points": 0 if capture.points is None else len(capture.points),
        "true_depth": capture.depths is not None,
        "masks": capture.masks is not None,
    }


def versions() -> dict[str, str]:
    """Return the versions and the device that decide the numbers, for ``metrics.json``."""
    found = {"python": platform.python_version()}
    for name in _VERSIONS_OF:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "unknown"
    found["device"] = str(jax.devices()[0].device_kind)
    return found


def _entry(view: HeldOutView) -> dict[str, Any]:
    errors = view.depth_errors
    return {
        "name": view.name,
        "psnr": view.psnr,
        "ssim": view.ssim,
        "depth_error": None if errors is None else float(np.median(errors)),
    }


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
