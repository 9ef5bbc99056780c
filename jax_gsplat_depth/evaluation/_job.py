"""Measures a file of Gaussians on the held-out views of a capture, as ``fit`` does."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jax_gsplat_depth import losses
from jax_gsplat_depth._common.extras import require, undisturbed
from jax_gsplat_depth._common.local_scene import LocalScene
from jax_gsplat_depth._common.result_folder import check_folder, publish, write_metrics
from jax_gsplat_depth._types import Config, Gaussians
from jax_gsplat_depth.datasets import Capture, CaptureError

PROGRAM = "jax-gsplat-depth eval"
"""The command that writes here, as ``metrics.json`` names it."""


def evaluate_splats(
    capture: Capture,
    gaussians: Gaussians | LocalScene,
    out: Path | None = None,
    *,
    config: Config | None = None,
    source: str = "",
    splats: str = "",
    options: Mapping[str, Any] | None = None,
    on_view: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Render the held-out views and compare them with the photos, and with the depth where known.

    Args:
        capture: Posed photos.
        gaussians: As in ``evaluate``.
        out: Folder for ``metrics.json`` and ``heldout/NAME.png``: new, empty, or with an earlier
            evaluation, which is replaced. None writes nothing.
        config: Settings of the renderer; None for its defaults.
        source: Origin of the capture, for ``metrics.json``.
        splats: Origin of the Gaussians, for ``metrics.json``.
        options: How capture and Gaussians were read, for ``metrics.json``.
        on_view: Called with ``name``, ``psnr`` (dB), ``ssim`` (or None) and ``depth_error`` (median
            relative error, or None) of each view.

    Returns:
        The content of ``metrics.json``.

    Raises:
        CaptureError: The capture has no held-out view, or its photos are too small for SSIM.
        OutputError: The folder cannot be written.
        ImportError: A package of the ``fit`` extra is not installed.
    """
    check_evaluation(out)
    # Imported late: it needs the packages of the extra.
    with undisturbed():
        from jax_gsplat_depth.evaluation._metrics import describe_capture, measure, versions

    if len(capture.test_indices) == 0:
        raise CaptureError("the capture has no held-out view")
    if min(capture.width, capture.height) < losses.SSIM_WINDOW:
        raise CaptureError(
            f"the photos have {capture.width}x{capture.height} pixels, but SSIM needs at least "
            f"{losses.SSIM_WINDOW} pixels on each side"
        )
    scene = LocalScene.of(gaussians)
    metrics: dict[str, Any] = {}

    def build(folder: Path | None) -> None:
        pictures = None if folder is None else folder / "heldout"
        metrics.update(
            source=source,
            splats=splats,
            n_gaussians=len(scene.gaussians.means),
            **measure(capture, scene, pictures, config=config, on_view=on_view),
            options=dict(options or {}),
            capture=describe_capture(capture),
            versions=versions(),
        )
        if folder is not None:
            metrics.update(write_metrics(folder, PROGRAM, metrics))

    if out is None:
        build(None)
    else:
        publish(out, build, PROGRAM)
    return metrics


def check_evaluation(out: Path | None) -> None:
    """Check, before the work, that it can be done.

    Raises:
        OutputError: The folder cannot be written.
        ImportError: A package of the ``fit`` extra is not installed.
    """
    for library in ("dm_pix", "matplotlib"):
        require(library)
    if out is not None:
        check_folder(out, PROGRAM)
