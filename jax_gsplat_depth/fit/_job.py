"""Fits a capture, measures the result on the held-out views and writes everything to a folder."""

import dataclasses
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jax_gsplat_depth import io
from jax_gsplat_depth._common.extras import require
from jax_gsplat_depth._common.result_folder import publish, write_metrics
from jax_gsplat_depth.datasets import Capture
from jax_gsplat_depth.evaluation import describe_capture, measure, versions
from jax_gsplat_depth.fit._checkpoint import CHECKPOINT, PROGRAM, Checkpoints, check_folder
from jax_gsplat_depth.fit._log import StepReport, write_csv
from jax_gsplat_depth.fit._loop import fit
from jax_gsplat_depth.fit._loss_curve import write_loss_curve
from jax_gsplat_depth.fit._settings import FitSettings
from jax_gsplat_depth.frames import SCENE_CAMERAS, SceneCameras, save_scene_cameras


def fit_to_folder(
    capture: Capture,
    out: Path,
    settings: FitSettings,
    *,
    source: str,
    on_step: Callable[[StepReport], None] | None = None,
    on_fitted: Callable[[], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    checkpoints: Checkpoints | None = None,
    started: float | None = None,
    data: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Fit a capture and write ``splats.ply``, ``cameras.json``, numbers and pictures.

    Nothing but checkpoints appears at ``out`` before all of it is there. See ``fit`` for
    ``on_step`` and ``should_stop``; a fit that was stopped is measured and written like any other.

    Args:
        capture: Posed photos.
        out: Folder to write; new, empty, or with an earlier result, which is replaced.
        settings: See ``FitSettings``.
        source: Where the capture comes from, for ``metrics.json``.
        on_step: Called with a report of each step.
        on_fitted: Called when the steps are done and the writing begins.
        should_stop: Asked after each step.
        checkpoints: Those of ``out``, deleted when the fit is done; None for none.
        started: ``time.perf_counter()`` from which the total time counts; None for now.
        data: Absolute path of the capture, or ``builtin``, for ``cameras.json``, by which ``eval``
            finds it; None if it has none.
        options: How the capture was chosen from its files, for ``metrics.json``.

    Returns:
        What was written to ``metrics.json``.

    Raises:
        FitError: The capture cannot be fitted, or the checkpoint cannot be used.
        OutputError: The folder cannot be written.
        ImportError: A package of the ``fit`` extra is not installed.
    """
    started = time.perf_counter() if started is None else started
    check_folder(out, resume=checkpoints is not None and checkpoints.resume)
    # Saving the Gaussians would miss it only when all the work is done.
    require("plyfile")
    before_fit = time.perf_counter()
    result = fit(
        capture,
        settings,
        on_step=on_step,
        should_stop=should_stop,
        checkpoints=checkpoints,
        measure_shares=True,
    )
    after_fit = time.perf_counter()
    if on_fitted is not None:
        on_fitted()
    metrics: dict[str, Any] = {}

    def build(folder: Path) -> None:
        measured = measure(capture, result.scene, folder / "heldout", config=settings.config)
        x, y, z = map(float, result.origin)
        tags = io.Tags(antialiased=settings.antialiased, origin=(x, y, z))
        io.save(folder / "splats.ply", result.gaussians, tags)
        views = SceneCameras.of_capture(capture, data)
        save_scene_cameras(folder / SCENE_CAMERAS, views, origin=result.origin)
        write_csv(result.reports, folder / "loss.csv")
        write_loss_curve(result.reports, folder / "loss.png")
        now = time.perf_counter()
        metrics.update(
            source=source,
            interrupted=result.interrupted,
            steps_done=len(result.reports),
            resumed_after=result.resumed_after,
            n_gaussians=len(result.gaussians.means),
            origin=[x, y, z],
            **measured,
            steps_per_second=result.steps_per_second,
            step_shares=result.shares,
            depth_loss_used=result.depth_loss_used,
            seconds={
                "before_the_fit": before_fit - started,
                "fit": after_fit - before_fit,
                "of_that_in_steps": result.seconds,
                "evaluation_and_files": now - after_fit,
                "total": now - started,
            },
            capture=describe_capture(capture),
            options={"data": data, "downscale": capture.downscale, **(options or {})},
            settings=dataclasses.asdict(settings),
            versions=versions(),
        )
        metrics.update(write_metrics(folder, PROGRAM, metrics))

    # A checkpoint, if there is one, is that of the fit which publishes.
    publish(out, build, PROGRAM, may_hold=[CHECKPOINT])
    if checkpoints is not None and not result.interrupted:
        checkpoints.delete()
    return metrics
