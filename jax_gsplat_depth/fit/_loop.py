"""Runs the loop around the step: order of the views, refinements, reports, checkpoints, Ctrl-C."""

import contextlib
import dataclasses
import itertools
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jax_gsplat_depth import densify, losses
from jax_gsplat_depth._common.by_shape import shown_by_shape
from jax_gsplat_depth._common.local_frame import LocalFrame
from jax_gsplat_depth._common.local_scene import LocalScene
from jax_gsplat_depth._types import Gaussians
from jax_gsplat_depth.datasets import Capture
from jax_gsplat_depth.fit._checkpoint import Checkpoints
from jax_gsplat_depth.fit._density import make_strategy
from jax_gsplat_depth.fit._frame import local_capture
from jax_gsplat_depth.fit._init import initial_params, scene_extent
from jax_gsplat_depth.fit._log import StepReport
from jax_gsplat_depth.fit._optimizer import make_optimizer, means_schedule
from jax_gsplat_depth.fit._params import to_gaussians
from jax_gsplat_depth.fit._profile import measure_step
from jax_gsplat_depth.fit._rate import StepRate
from jax_gsplat_depth.fit._settings import FitError, FitSettings
from jax_gsplat_depth.fit._step import (
    StepMetrics,
    TrainState,
    initial_state,
    make_refine,
    make_step,
)
from jax_gsplat_depth.fit._views import TrainingViews, view_order

# Shorter fits skip the measurement, which would take longer than the fit.
_ENOUGH_STEPS = 20


@shown_by_shape
@dataclasses.dataclass(frozen=True)
class FitResult:
    """A fitted scene and how it came about.

    Attributes:
        gaussians: The fitted Gaussians that are alive, activated, in the units of the capture.
        origin: ``[3]`` float64, position in the capture's world to which their means are relative:
            0, unless the capture is so far from its zero that float32 would lose its detail.
        state: The state of the training at its end, in the local frame in which it trains.
        reports: One per finished step, those before a checkpoint included.
        resumed_after: Number of the step after which the checkpoint was written from which this run
            went on; 0 for none.
        interrupted: Whether ``should_stop`` ended the fit before its last step.
        seconds: Wall time of the steps of this run, compilation included.
        steps_per_second: One over the median time of the steps of this run but its first, which
            compiles, as in the progress bar; None if there are no others.
        shares: See ``measure_step``; None if not asked for, after an interruption or too few steps,
            or if the memory did not suffice to measure it.
        depth_loss_used: The depth loss that was minimised: what the settings ask for, or "l1" if
            the sparse points decided scale and shift for "ssi".
    """

    gaussians: Gaussians
    origin: np.ndarray
    state: TrainState
    reports: list[StepReport]
    resumed_after: int
    interrupted: bool
    seconds: float
    steps_per_second: float | None
    shares: dict[str, float] | None
    depth_loss_used: str

    @property
    def scene(self) -> LocalScene:
        """The Gaussians with their place, as ``evaluation`` and ``frames`` take them."""
        return LocalScene.of(self.gaussians, self.origin)


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
    the same Gaussians to the bit. The units of the capture and the place of its origin do not
    matter: it is trained in a frame of its own.

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
    # The optimiser relies on standard promotion, which the process may have forbidden.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        training = _Training(capture, settings, checkpoints, on_step)
        training.run(should_stop)
        shares = training.shares() if measure_shares else None
    return training.result(shares)


class _Training:
    """The steps of one fit, and what they have reached so far."""

    def __init__(
        self,
        capture: Capture,
        settings: FitSettings,
        checkpoints: Checkpoints | None,
        on_step: Callable[[StepReport], None] | None,
    ) -> None:
        """Make the state before the first step of this run; see ``fit`` for the arguments."""
        # Checkpoints know the local capture: one that was made in another frame is refused.
        capture, self._frame = local_capture(capture)
        params = initial_params(capture, settings)
        extent = scene_extent(capture, np.asarray(params["means"]))
        self._settings = settings
        self._checkpoints = checkpoints
        self._on_step = on_step
        self._optimizer = make_optimizer(settings, extent)
        self._strategy = make_strategy(settings, extent)
        self._state = initial_state(params, settings, self._optimizer, self._strategy)
        self._reports: list[StepReport] = []
        if checkpoints is not None:
            self._state, self._reports = checkpoints.start(capture, settings, self._state)
        self._done = len(self._reports)
        self._step = make_step(
            settings, self._optimizer, means_schedule(settings, extent), self._strategy
        )
        self._refine = None
        if self._strategy is not None:
            self._refine = make_refine(settings, self._optimizer, self._strategy, extent)
        self._views = TrainingViews.of(capture, settings)
        self._pending: StepMetrics | None = None
        self._rate = StepRate()
        self._n_steps = 0
        self._seconds = 0.0
        self._interrupted = False

    def run(self, should_stop: Callable[[], bool] | None) -> None:
        """Make all steps that are left, or those before ``should_stop`` returns True."""
        last = self._settings.steps
        order = view_order(len(self._views.photos), self._settings.seed)
        views = itertools.islice(order, self._done, last)
        start = time.perf_counter()
        for step, view in enumerate(views, start=self._done + 1):
            self._advance(step, view)
            self._rate.count()
            self._n_steps += 1
            self._interrupted = step < last and should_stop is not None and should_stop()
            self._save_if_due(step)
            if self._interrupted:
                break
        self._report_pending()
        self._seconds = time.perf_counter() - start

    def shares(self) -> dict[str, float] | None:
        """Return ``measure_step`` of the last state, or None where it would not be worth it."""
        if self._interrupted or self._n_steps < _ENOUGH_STEPS:
            return None
        # It needs memory that the fit did not, and its result is worth less than the fit's.
        with contextlib.suppress(MemoryError, jax.errors.JaxRuntimeError):
            return measure_step(
                self._settings,
                self._optimizer,
                self._strategy,
                self._step,
                self._views,
                self._state,
            )
        return None

    def result(self, shares: dict[str, float] | None) -> FitResult:
        """Return what has been reached."""
        depths = self._views.depths
        gaussians = to_gaussians(densify.compact(self._state.population))
        origin = self._frame.world_origin
        return FitResult(
            gaussians=_in_world_units(gaussians, self._frame, origin),
            origin=origin,
            state=self._state,
            reports=self._reports,
            resumed_after=self._done,
            interrupted=self._interrupted,
            seconds=self._seconds,
            steps_per_second=self._rate.per_second(),
            shares=shares,
            depth_loss_used="none" if depths is None else depths.loss,
        )

    def _advance(self, step: int, view: int) -> None:
        self._state, metrics = self._step(self._state, self._views, jnp.int32(view))
        # Not before the device has its next step: fetching the numbers of the last one waits.
        self._report_pending()
        self._pending = metrics
        if self._refine and self._strategy and self._strategy.refines_at(step):
            reset = jnp.bool_(self._strategy.resets_at(step))
            self._state = self._refine(self._state, reset)

    def _report_pending(self) -> None:
        if self._pending is None:
            return
        self._reports.append(_report(len(self._reports) + 1, self._pending))
        self._pending = None
        if self._on_step is not None:
            self._on_step(self._reports[-1])

    def _save_if_due(self, step: int) -> None:
        if self._checkpoints is None:
            return
        if self._interrupted or self._checkpoints.due(step, self._settings.steps):
            self._report_pending()
            self._checkpoints.save(self._state, self._reports)


def _in_world_units(gaussians: Gaussians, frame: LocalFrame, origin: np.ndarray) -> Gaussians:
    """Return local Gaussians in world units, their means relative to ``origin``."""
    if frame.unit == 1 and np.array_equal(frame.origin, origin):
        return gaussians
    means = frame.world_points(np.asarray(gaussians.means), origin)
    scales = np.asarray(gaussians.scales, np.float64) * frame.unit
    return dataclasses.replace(
        gaussians, means=jnp.asarray(means, jnp.float32), scales=jnp.asarray(scales, jnp.float32)
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
