"""The main job: fit a capture, measure it on the held-out views, write everything to a folder."""

import csv
import dataclasses
import importlib.metadata
import json
import math
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jax_gsplat_depth import io
from jax_gsplat_depth.datasets import Capture
from jax_gsplat_depth.fit._evaluate import HeldOutView, evaluate
from jax_gsplat_depth.fit._output import METRICS, PROGRAM, check_folder, list_files, publish
from jax_gsplat_depth.fit._report import write_held_out, write_loss_curve
from jax_gsplat_depth.fit._settings import FitSettings
from jax_gsplat_depth.fit._train import FitResult, StepReport, fit
from jax_gsplat_depth.io._extras import require

_VERSIONS_OF = ("jax-gsplat-depth", "jax", "jaxlib", "optax", "dm-pix", "numpy")


def fit_to_folder(
    capture: Capture,
    out: Path,
    settings: FitSettings,
    *,
    source: str,
    on_step: Callable[[StepReport], None] | None = None,
    on_fitted: Callable[[], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    started: float | None = None,
) -> dict[str, Any]:
    """Fit a capture and write pictures, ``metrics.json``, ``splats.ply`` and the loss curve.

    Nothing appears at ``out`` before all of it is there. See ``fit`` for ``on_step`` and
    ``should_stop``; a fit that was stopped is measured and written like any other.

    Args:
        capture: Posed photos.
        out: Folder to write; new, empty, or with an earlier result, which is replaced.
        settings: See ``FitSettings``.
        source: Where the capture comes from, for ``metrics.json``.
        on_step: Called with a report of each step.
        on_fitted: Called when the steps are done and the writing begins.
        should_stop: Asked after each step.
        started: ``time.perf_counter()`` from which the total time counts; None for now.

    Returns:
        What was written to ``metrics.json``.

    Raises:
        FitError: The capture cannot be fitted.
        OutputError: The folder cannot be written.
        ImportError: A package of the ``fit`` extra is not installed.
    """
    started = time.perf_counter() if started is None else started
    check_folder(out)
    # write_ply would miss it only when all the work is done.
    require("plyfile")
    before_fit = time.perf_counter()
    result = fit(capture, settings, on_step=on_step, should_stop=should_stop)
    after_fit = time.perf_counter()
    if on_fitted is not None:
        on_fitted()
    metrics: dict[str, Any] = {}

    def build(folder: Path) -> None:
        measured = _write_held_out(capture, result, folder / "heldout")
        io.write_ply(folder / "splats.ply", result.gaussians)
        _write_loss_csv(result.reports, folder / "loss.csv")
        write_loss_curve(result.reports, folder / "loss.png")
        now = time.perf_counter()
        metrics.update(
            program=PROGRAM,
            source=source,
            interrupted=result.interrupted,
            steps_done=len(result.reports),
            n_gaussians=len(result.gaussians.means),
            **measured,
            steps_per_second=result.steps_per_second,
            seconds={
                "before_the_fit": before_fit - started,
                "fit": after_fit - before_fit,
                "of_that_in_steps": result.seconds,
                "evaluation_and_files": now - after_fit,
                "total": now - started,
            },
            capture=_describe(capture),
            settings=dataclasses.asdict(settings),
            versions=_versions(),
            files=sorted([*list_files(folder), METRICS]),
        )
        text = json.dumps(_without_nonfinite(metrics), indent=2, allow_nan=False)
        (folder / METRICS).write_text(text + "\n")

    publish(out, build)
    return metrics


def _write_held_out(capture: Capture, result: FitResult, folder: Path) -> dict[str, Any]:
    """Write the pictures and return the part of the metrics that is measured on these views."""
    folder.mkdir()
    entries = []
    errors = []
    for view in evaluate(capture, result.gaussians):
        write_held_out(view, folder / f"{view.name}.png")
        entries.append(_entry(view))
        if view.depth_errors is not None:
            errors.append(view.depth_errors)
    return {
        "psnr": _mean([entry["psnr"] for entry in entries]),
        "ssim": _mean([entry["ssim"] for entry in entries]),
        "depth_error": float(np.median(np.concatenate(errors))) if errors else None,
        "heldout": entries,
    }


def _entry(view: HeldOutView) -> dict[str, Any]:
    errors = view.depth_errors
    return {
        "name": view.name,
        "psnr": view.psnr,
        "ssim": view.ssim,
        "depth_error": None if errors is None else float(np.median(errors)),
    }


def _write_loss_csv(reports: list[StepReport], path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([field.name for field in dataclasses.fields(StepReport)])
        writer.writerows(dataclasses.astuple(report) for report in reports)


def _describe(capture: Capture) -> dict[str, Any]:
    return {
        "views": len(capture.names),
        "heldout_views": len(capture.test_indices),
        "width": capture.width,
        "height": capture.height,
        "sparse_points": 0 if capture.points is None else len(capture.points),
        "true_depth": capture.depths is not None,
    }


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in _VERSIONS_OF:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "unknown"
    versions["device"] = str(jax.devices()[0].device_kind)
    return versions


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _without_nonfinite(value: Any) -> Any:
    """Replace infinity and NaN, which JSON does not have, by null."""
    if isinstance(value, dict):
        return {key: _without_nonfinite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nonfinite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
