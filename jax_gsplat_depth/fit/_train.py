"""The fit itself: one jitted Optax step per view, and the loop around it."""

import dataclasses
import functools
import time
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from jax_gsplat_depth import losses
from jax_gsplat_depth._camera import Camera
from jax_gsplat_depth._render import render
from jax_gsplat_depth._types import Gaussians
from jax_gsplat_depth.datasets import Capture
from jax_gsplat_depth.fit._init import initial_params, scene_extent
from jax_gsplat_depth.fit._params import Params, to_gaussians
from jax_gsplat_depth.fit._settings import FitError, FitSettings

# 3DGS: gradients of means are so small that Adam's usual 1e-8 would damp them.
_ADAM_EPS = 1e-15


@dataclasses.dataclass(frozen=True)
class StepReport:
    """What one finished step says about itself.

    Attributes:
        step: Number of the step, counted from 1.
        loss: Value of the loss before the step's update.
        psnr: PSNR in dB of the training view, before the step's update.
    """

    step: int
    loss: float
    psnr: float


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


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainingViews:
    """The training views on the device: photos stay 8 bit and are converted in the step.

    Attributes:
        photos: ``[T, H, W, 3]`` uint8.
        alphas: ``[T, H, W]`` uint8, or None if the photos have no alpha.
        viewmats: ``[T, 4, 4]``.
        Ks: ``[T, 3, 3]`` pixels.
        background: ``[3]``.
    """

    photos: Array
    alphas: Array | None
    viewmats: Array
    Ks: Array
    background: Array

    @classmethod
    def of(cls, capture: Capture) -> "TrainingViews":
        """Select the training views of a capture."""
        train = capture.train_indices
        alphas = capture.alphas
        return cls(
            photos=jnp.asarray(capture.images[train]),
            alphas=None if alphas is None else jnp.asarray(_to_8_bit(alphas[train])),
            viewmats=jnp.asarray(capture.viewmats[train], dtype=jnp.float32),
            Ks=jnp.asarray(capture.Ks[train], dtype=jnp.float32),
            background=jnp.asarray(capture.background, dtype=jnp.float32),
        )


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
        opt_state = jax.jit(optimizer.init)(params)
        step_fn = make_step(settings, optimizer)
        views = TrainingViews.of(capture)
        order = view_order(len(views.photos), settings.seed)
        reports: list[StepReport] = []
        durations: list[tuple[int, float]] = []

        def report(step: int, metrics: tuple[Array, Array]) -> None:
            loss, mse = (float(value) for value in metrics)
            psnr = -10 * float(np.log10(max(mse, 1e-12)))
            reports.append(StepReport(step=step, loss=loss, psnr=psnr))
            if on_step is not None:
                on_step(reports[-1])

        start = time.perf_counter()
        previous, pending, interrupted = start, None, False
        for step in range(settings.steps):
            degree = settings.sh_degree_at(step)
            view = jnp.int32(next(order))
            params, opt_state, metrics = step_fn(params, opt_state, views, view, sh_degree=degree)
            if pending is not None:
                report(step, pending)
            pending = metrics
            now = time.perf_counter()
            durations.append((degree, now - previous))
            previous = now
            if step + 1 < settings.steps and should_stop is not None and should_stop():
                interrupted = True
                break
        assert pending is not None
        report(len(durations), pending)
    return FitResult(
        gaussians=jax.jit(to_gaussians)(params),
        reports=reports,
        interrupted=interrupted,
        seconds=time.perf_counter() - start,
        steps_per_second=_median_speed(durations),
    )


def make_optimizer(settings: FitSettings, extent: float) -> optax.GradientTransformation:
    """Return Adam with one learning rate for each kind of parameter.

    Args:
        settings: The learning rates and the number of steps over which they fall.
        extent: World units; see ``scene_extent``.
    """
    rates: dict[str, Any] = {
        "means": optax.exponential_decay(
            settings.lr_means * extent, settings.steps, settings.lr_means_final
        ),
        "quats": settings.lr_quats,
        "log_scales": settings.lr_scales,
        "opacity_logits": settings.lr_opacities,
        "sh0": settings.lr_sh0,
        "sh_rest": settings.lr_sh_rest,
    }
    adams: dict[Hashable, optax.GradientTransformation] = {
        name: optax.adam(rate, eps=_ADAM_EPS) for name, rate in rates.items()
    }
    return optax.partition(adams, {name: name for name in rates})


def make_step(
    settings: FitSettings, optimizer: optax.GradientTransformation
) -> Callable[..., tuple[Params, Any, tuple[Array, Array]]]:
    """Return the jitted step.

    It takes ``(params, opt_state, views, view, sh_degree=)`` and returns the new params and
    optimiser state with the loss and the mean squared error of the view before the update. Params
    and state are donated; each ``sh_degree`` compiles once.
    """

    @functools.partial(jax.jit, static_argnames="sh_degree", donate_argnums=(0, 1))
    def step(params, opt_state, views, view, *, sh_degree):
        loss_fn = functools.partial(_loss, settings, views, view, sh_degree)
        (loss, mse), gradient = jax.value_and_grad(loss_fn, has_aux=True)(params)
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, (loss, mse)

    return step


def view_order(n_views: int, seed: int) -> Iterator[int]:
    """Yield view numbers forever: each epoch is a new random order of all views."""
    epochs = np.random.default_rng([seed, 1])
    while True:
        yield from epochs.permutation(n_views).tolist()


def _loss(
    settings: FitSettings, views: TrainingViews, view: Array, sh_degree: int, params: Params
) -> tuple[Array, Array]:
    photo = _from_8_bit(views.photos[view])
    height, width = photo.shape[:2]
    camera = Camera(views.viewmats[view], views.Ks[view], width=width, height=height)
    out = render(to_gaussians(params), camera, background=views.background, sh_degree=sh_degree)
    loss = losses.photometric(out.image, photo, settings.ssim_weight)
    if views.alphas is not None:
        alpha = _from_8_bit(views.alphas[view])
        loss += settings.alpha_weight * losses.l1(out.weight, alpha)
    return loss, jnp.mean(jnp.square(out.image - photo))


def _check(capture: Capture) -> None:
    if len(capture.train_indices) == 0:
        raise FitError("the capture has no view to train on: all of its photos are held out")
    if min(capture.width, capture.height) < losses.SSIM_WINDOW:
        raise FitError(
            f"the photos have {capture.width}x{capture.height} pixels, but the loss needs at "
            f"least {losses.SSIM_WINDOW} pixels on each side"
        )


def _median_speed(durations: list[tuple[int, float]]) -> float | None:
    """Return the median of 1 / seconds over steps that are not the first of their degree."""
    compiled: set[int] = set()
    usual = []
    for degree, seconds in durations:
        if degree in compiled:
            usual.append(seconds)
        compiled.add(degree)
    return 1 / float(np.median(usual)) if usual else None


def _to_8_bit(values: np.ndarray) -> np.ndarray:
    return np.round(255 * values).astype(np.uint8)


def _from_8_bit(values: Array) -> Array:
    return values.astype(jnp.float32) / 255
