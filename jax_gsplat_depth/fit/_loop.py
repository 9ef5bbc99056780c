"""The fit itself: the loop around the step."""

import contextlib
import dataclasses
import itertools
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jax_gsplat_depth import densify, losses
from jax_gsplat_depth._types import Gaussians
from jax_gsplat_depth.datasets import Capture
from jax_gsplat_depth.fit._checkpoint import Checkpoints
from jax_gsplat_depth.fit._density import make_strategy
from jax_gsplat_depth.fit._init import initial_params, scene_extent
from jax_gsplat_depth.fit._log import StepReport
from jax_gsplat_depth.fit._optimizer import make_optimizer, means_schedule
from jax_gsplat_depth.fit._params import to_gaussians
from jax_gsplat_depth.fit._profile import measure_step
from jax_gsplat_depth.fit._settings import FitError, FitSettings
from jax_gsplat_depth.fit._step import (
    StepMetrics,
    TrainState,
    initial_state,
    make_refine,
    make_step,
)
from jax_gsplat_depth.fit._views import TrainingViews, view_order

# Who makes fewer steps does not want to wait for measurements.
_ENOUGH_STEPS = 20


@dataclasses.dataclass(frozen=True)
class FitResult:
    """A fitted scene and how it came about.

    Attributes:
        gaussians: The fitted Gaussians that are alive, activated.
        state: The state of the training at its end.
        reports: One per finished step, those before a checkpoint included.
        resumed_after: Number of the step after which the checkpoint was written from which this run
            went on; 0 for none.
        interrupted: Whether ``should_stop`` ended the fit before its last step.
        seconds: Wall time of the steps of this run, compilation included.
        steps_per_second: One over the median time of the steps of this run but its first, which
            compiles; None if there are no others.
        shares: See ``measure_step``; None if not asked for, after an interruption or too few steps,
            or if the memory did not suffice to measure it.
        depth_loss_used: The depth loss that was minimised: what the settings ask for, or "l1" if
            the sparse points decided scale and shift for "ssi".
    """

    gaussians: Gaussians
    state: TrainState
    reports: list[StepReport]
    resumed_after: int
    interrupted: bool
    seconds: float
    steps_per_second: float | None
    shares: dict[str, float] | None
    depth_loss_used: str


def fit(
    capture: Capture,
    settings: FitSettings | None = None,
    *,
    on_step: Callable[[StepReport], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    checkpoints: Checkpoints | None = None,
    measure_shares: bool = False,
) -> FitResult:
    """Fit Gaussians to the training views of a capture.

    The held-out views are not read. On the CPU of one machine the same capture and settings give
    the same Gaussians to the bit.

    Args:
        capture: Posed photos.
        settings: See ``FitSettings``; None stands for its defaults.
        on_step: Called after each step, one step late so that the device need not wait.
        should_stop: Asked after each step; True ends the fit with what has been reached.
        checkpoints: Where to save the training on the way and when it is stopped, and whether to
            go on from there: on the CPU, the result then has the bits of a fit that was never
            stopped.
        measure_shares: Whether to measure where the time goes, after the last step.

    Raises:
        FitError: The capture has no training view, or its photos are too small for the loss; or
            the checkpoint cannot be used.
        OutputError: A checkpoint cannot be written.
    """
    settings = settings or FitSettings()
    _check(capture)
    params = initial_params(capture, settings)
    extent = scene_extent(capture, np.asarray(params["means"]))
    optimizer = make_optimizer(settings, extent)
    strategy = make_strategy(settings, extent)
    # The optimiser relies on standard promotion, which the process may have forbidden.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        state = initial_state(params, settings, optimizer, strategy)
        reports: list[StepReport] = []
        if checkpoints is not None:
            state, reports = checkpoints.start(capture, settings, state)
        done = len(reports)
        step_fn = make_step(settings, optimizer, means_schedule(settings, extent), strategy)
        refine_fn = strategy and make_refine(settings, optimizer, strategy, extent)
        views = TrainingViews.of(capture, settings)
        order = view_order(len(views.photos), settings.seed)
        durations: list[float] = []
        pending: StepMetrics | None = None

        def report_pending() -> None:
            nonlocal pending
            if pending is not None:
                reports.append(_report(len(reports) + 1, pending))
                pending = None
                if on_step is not None:
                    on_step(reports[-1])

        start = previous = time.perf_counter()
        interrupted = False
        for step, view in enumerate(itertools.islice(order, done, settings.steps), start=done + 1):
            state, metrics = step_fn(state, views, jnp.int32(view))
            report_pending()
            pending = metrics
            if refine_fn and strategy and strategy.refines_at(step):
                state = refine_fn(state, jnp.bool_(strategy.resets_at(step)))
            now = time.perf_counter()
            durations.append(now - previous)
            previous = now
            is_last = step == settings.steps
            interrupted = not is_last and should_stop is not None and should_stop()
            due = checkpoints is not None and checkpoints.due(step, settings.steps)
            if checkpoints is not None and (interrupted or due):
                report_pending()
                checkpoints.save(state, reports)
            if interrupted:
                break
        report_pending()
        seconds = time.perf_counter() - start
        shares = None
        if measure_shares and not interrupted and len(durations) >= _ENOUGH_STEPS:
            # It needs memory that the fit did not, and its result is worth less than the fit's.
            with contextlib.suppress(MemoryError, jax.errors.JaxRuntimeError):
                shares = measure_step(settings, optimizer, strategy, step_fn, views, state)
    return FitResult(
        gaussians=to_gaussians(densify.compact(state.population)),
        state=state,
        reports=reports,
        resumed_after=done,
        interrupted=interrupted,
        seconds=seconds,
        # The first step compiles.
        steps_per_second=1 / float(np.median(durations[1:])) if len(durations) > 1 else None,
        shares=shares,
        depth_loss_used="none" if views.depths is None else views.depths.loss,
    )


def _report(step: int, metrics: StepMetrics) -> StepReport:
    """Fetch what a step has measured."""
    return StepReport(
        step=step,
        loss=float(metrics.loss),
        psnr=-10 * float(np.log10(max(float(metrics.mse), 1e-12))),
        n_gaussians=int(metrics.n_gaussians),
        parts={name: float(value) for name, value in metrics.parts.items()},
    )


def _check(capture: Capture) -> None:
    if len(capture.train_indices) == 0:
        raise FitError("the capture has no view to train on: all of its photos are held out")
    if min(capture.width, capture.height) < losses.SSIM_WINDOW:
        raise FitError(
            f"the photos have {capture.width}x{capture.height} pixels, but the loss needs at "
            f"least {losses.SSIM_WINDOW} pixels on each side"
        )
