"""The fit itself: the loop around the step."""

import dataclasses
import itertools
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jax_gsplat_depth import losses
from jax_gsplat_depth._types import Gaussians
from jax_gsplat_depth.datasets import Capture
from jax_gsplat_depth.fit._init import initial_params, scene_extent
from jax_gsplat_depth.fit._optimizer import make_optimizer
from jax_gsplat_depth.fit._params import to_gaussians
from jax_gsplat_depth.fit._settings import FitError, FitSettings
from jax_gsplat_depth.fit._step import StepMetrics, TrainState, make_step
from jax_gsplat_depth.fit._views import TrainingViews, view_order


@dataclasses.dataclass(frozen=True)
class StepReport:
    """What one finished step says about itself.

    Attributes:
        step: Number of the step, counted from 1.
        loss: Value of the loss before the step's update.
        psnr: PSNR in dB of the training view, before the step's update.
        n_gaussians: Number of Gaussians that were rendered or could have been.
        parts: The terms of the loss by name; they sum to ``loss``.
    """

    step: int
    loss: float
    psnr: float
    n_gaussians: int
    parts: dict[str, float]


@dataclasses.dataclass(frozen=True)
class FitResult:
    """A fitted scene and how it came about.

    Attributes:
        gaussians: The fitted Gaussians, activated.
        reports: One per finished step.
        interrupted: Whether ``should_stop`` ended the fit before its last step.
        seconds: Wall time of the steps, compilation included.
        steps_per_second: Median speed over the steps that compiled nothing; None before any.
    """

    gaussians: Gaussians
    reports: list[StepReport]
    interrupted: bool
    seconds: float
    steps_per_second: float | None


def fit(
    capture: Capture,
    settings: FitSettings | None = None,
    *,
    on_step: Callable[[StepReport], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> FitResult:
    """Fit Gaussians to the training views of a capture.

    The held-out views are not read. On one machine the same capture and settings give the same
    Gaussians to the bit.

    Args:
        capture: Posed photos.
        settings: See ``FitSettings``; None stands for its defaults.
        on_step: Called after each step, one step late so that the device need not wait.
        should_stop: Asked after each step; True ends the fit with what has been reached.

    Raises:
        FitError: The capture has no training view, or its photos are too small for the loss.
    """
    settings = settings or FitSettings()
    _check(capture)
    params = initial_params(capture, settings)
    optimizer = make_optimizer(settings, scene_extent(capture, np.asarray(params["means"])))
    # The optimiser relies on standard promotion, which the process may have forbidden.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        state = TrainState(params, jax.jit(optimizer.init)(params), jnp.int32(0))
        step_fn = make_step(settings, optimizer)
        views = TrainingViews.of(capture)
        order = view_order(len(views.photos), settings.seed)
        reports: list[StepReport] = []
        durations: list[float] = []

        def report(metrics: StepMetrics) -> None:
            reports.append(_report(len(reports) + 1, metrics))
            if on_step is not None:
                on_step(reports[-1])

        start = time.perf_counter()
        previous, pending, interrupted = start, None, False
        for step, view in enumerate(itertools.islice(order, settings.steps), start=1):
            state, metrics = step_fn(state, views, jnp.int32(view))
            if pending is not None:
                report(pending)
            pending = metrics
            now = time.perf_counter()
            durations.append(now - previous)
            previous = now
            if step < settings.steps and should_stop is not None and should_stop():
                interrupted = True
                break
        assert pending is not None
        report(pending)
    return FitResult(
        gaussians=jax.jit(to_gaussians)(state.params),
        reports=reports,
        interrupted=interrupted,
        seconds=time.perf_counter() - start,
        # The first step compiles.
        steps_per_second=1 / float(np.median(durations[1:])) if len(durations) > 1 else None,
    )


def _report(step: int, metrics: StepMetrics) -> StepReport:
    """Fetch what a step has measured."""
    parts = {name: float(value) for name, value in metrics.parts.items()}
    return StepReport(
        step=step,
        loss=sum(parts.values()),
        psnr=-10 * float(np.log10(max(float(metrics.mse), 1e-12))),
        n_gaussians=int(metrics.n_gaussians),
        parts=parts,
    )


def _check(capture: Capture) -> None:
    if len(capture.train_indices) == 0:
        raise FitError("the capture has no view to train on: all of its photos are held out")
    if min(capture.width, capture.height) < losses.SSIM_WINDOW:
        raise FitError(
            f"the photos have {capture.width}x{capture.height} pixels, but the loss needs at "
            f"least {losses.SSIM_WINDOW} pixels on each side"
        )
