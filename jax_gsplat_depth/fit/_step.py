"""Makes the step of a fit: one compiled function that takes and returns one pytree.

Two steps differ in the values of arrays only, never in shapes: SH coefficients above the degree are
there but do not move, and Gaussians that do not exist yet have their place. One compilation serves
the whole fit, and one more all refinements of the density.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jax_gsplat_depth import densify, losses
from jax_gsplat_depth._common.by_shape import shown_by_shape
from jax_gsplat_depth._render import render
from jax_gsplat_depth.fit._loss import loss_parts
from jax_gsplat_depth.fit._optimizer import make_descent
from jax_gsplat_depth.fit._settings import FitSettings
from jax_gsplat_depth.fit._views import TrainingViews


@shown_by_shape
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything that a step reads and changes.

    Random keys are made from the seed and ``step``.

    Attributes:
        population: The Gaussians and the free places.
        opt_state: State of the optimiser.
        density: State of the strategy of density control; ``()`` if there is none.
        step: ``[]`` int32, finished steps.
    """

    population: densify.Population
    opt_state: Any
    density: Any
    step: Array


@shown_by_shape
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class StepMetrics:
    """The numbers that a step measures before its update.

    Attributes:
        loss: ``[]`` what the step minimises.
        parts: The terms of the loss, see ``loss_parts``; each ``[]``.
        mse: ``[]`` mean squared error of the view's colours.
        n_gaussians: ``[]`` int32 number of Gaussians.
    """

    loss: Array
    parts: dict[str, Array]
    mse: Array
    n_gaussians: Array


Step = Callable[[TrainState, TrainingViews, Array], tuple[TrainState, StepMetrics]]
"""``(state, views, view number) -> (state, metrics)``."""

Refine = Callable[[TrainState, Any], TrainState]
"""``(state, whether to reset opacities) -> state``."""


def initial_state(
    params: dict[str, Array],
    settings: FitSettings,
    optimizer: optax.GradientTransformation,
    strategy: densify.Strategy | None,
) -> TrainState:
    """Return the state before the first step.

    Args:
        params: ``[N, ...]`` each; see ``Population``.
        settings: ``max_gaussians`` is how many there may be in the end.
        optimizer: The optimiser.
        strategy: Density control, or None.
    """
    capacity = settings.max_gaussians if strategy else len(params["means"])

    # Compiled, so that no two leaves are one buffer, which could be donated only once.
    @jax.jit
    def make(params):
        population = densify.pad(params, capacity)
        density = () if strategy is None else strategy.init(population)
        return TrainState(population, optimizer.init(population.params), density, jnp.int32(0))

    return make(params)


def make_step(
    settings: FitSettings,
    optimizer: optax.GradientTransformation,
    lr_means: optax.Schedule,
    strategy: densify.Strategy | None,
) -> Step:
    """Return the jitted step, compiled once; the state is donated.

    Args:
        settings: The weights of the loss.
        optimizer: Moves the parameters.
        lr_means: Its learning rate of the centres, which scales the noise of ``Mcmc``.
        strategy: Density control, or None.
    """
    absgrad = reads_absgrad(strategy)
    descent = make_descent(optimizer)

    def step(state, views, index):
        view = views[index]

        def loss_fn(params, offset):
            population = dataclasses.replace(state.population, params=params)
            out = render(
                densify.activate(population),
                view.camera,
                background=view.background,
                means2d_offset=None if absgrad else offset,
                absgrad_probe=offset if absgrad else None,
                config=settings.config,
            )
            parts = loss_parts(settings, out, view)
            if strategy is not None and strategy.has_penalty:
                parts["penalty"] = strategy.penalty(population)
            mse = losses.mse(out.image, view.photo, view.mask)
            return sum(parts.values()), (parts, mse, out.radii)

        params = state.population.params
        offset = watched_offset(strategy, params)
        grad = jax.value_and_grad(loss_fn, argnums=(0, 1), has_aux=True)
        (loss, (parts, mse, radii)), (gradient, v_means2d) = grad(params, offset)
        moved, opt_state = descent(params, state.opt_state, gradient)
        population = dataclasses.replace(state.population, params=moved)
        density = state.density
        if strategy is not None:
            info = densify.StepInfo(
                key=_key(settings, state.step, 0),
                lr_means=lr_means(state.step),
                radii=radii,
                width=view.camera.width,
                height=view.camera.height,
                v_means2d=v_means2d,
            )
            population, density = strategy.update(population, density, info)
        metrics = StepMetrics(loss, parts, mse, state.population.n_alive())
        return TrainState(population, opt_state, density, state.step + 1), metrics

    return jax.jit(step, donate_argnums=0)


def reads_absgrad(strategy: densify.Strategy | None) -> bool:
    """Return whether the strategy reads the gradient of ``absgrad_probe``."""
    return strategy is not None and strategy.absgrad


def watched_offset(strategy: densify.Strategy | None, params: dict[str, Array]) -> Array | None:
    """Return the ``[N_max, 2]`` screen-space offset or probe whose gradient the strategy reads.

    Without such a strategy it is None: its gradient then costs nothing.
    """
    watched = strategy is not None and strategy.needs_means2d
    return jnp.zeros_like(params["means"][:, :2]) if watched else None


def make_refine(
    settings: FitSettings,
    optimizer: optax.GradientTransformation,
    strategy: densify.Strategy,
    extent: float,
) -> Refine:
    """Return the jitted refinement of the density, compiled once; the state is donated.

    Args:
        settings: The seed is read.
        optimizer: Whose state follows the Gaussians.
        strategy: Density control.
        extent: World units; see ``scene_extent``.
    """

    def refine(state, reset):
        info = densify.RefineInfo(key=_key(settings, state.step, 1), extent=extent, reset=reset)
        population, opt_state, density = strategy.refine(
            state.population, state.opt_state, state.density, info, optimizer=optimizer
        )
        return TrainState(population, opt_state, density, state.step)

    return jax.jit(refine, donate_argnums=0)


def _key(settings: FitSettings, step: Array, purpose: int) -> Array:
    key = jax.random.fold_in(jax.random.key(settings.seed), step)
    return jax.random.fold_in(key, purpose)
