"""Where the time of a step goes."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jax_gsplat_depth import densify
from jax_gsplat_depth._render import render
from jax_gsplat_depth._types import RenderOutput
from jax_gsplat_depth.fit._loss import loss_parts
from jax_gsplat_depth.fit._settings import FitSettings
from jax_gsplat_depth.fit._step import Step, TrainState, step_config, watched_offset
from jax_gsplat_depth.fit._views import TrainingViews

# Each part is run this often, on one view after the other.
_REPEATS = 12


def measure_step(
    settings: FitSettings,
    optimizer: optax.GradientTransformation,
    strategy: densify.Strategy | None,
    step: Step,
    views: TrainingViews,
    state: TrainState,
) -> dict[str, float]:
    """Measure the parts of a step, each compiled on its own, in the state in which a fit has ended.

    Args:
        settings: Those of the fit.
        optimizer: That of the fit.
        strategy: That of the fit; decides what the backward pass of the rendering has to give.
        step: That of the fit; works on a copy of the state.
        views: The training views.
        state: The state.

    Returns:
        ``step``, the shortest time of a whole step in seconds, and the shares of it: ``loss`` is
        the terms that compare a rendering with the photo, with their backward pass; ``render`` the
        gradient without them; ``optimizer`` the update; ``other`` the rest (density control,
        copies, noise of the measurement). On a busy machine they mean nothing.
    """
    population = state.population

    def draw(params: Any, offset: Any, view: Any) -> RenderOutput:
        return render(
            densify.activate(dataclasses.replace(population, params=params)),
            view.camera,
            background=view.background,
            means2d_offset=offset,
            config=step_config(strategy),
        )

    def loss(maps: Any, out: RenderOutput, view: Any) -> Array:
        image, depth, weight = maps
        out = dataclasses.replace(out, image=image, depth=depth, weight=weight)
        return jnp.sum(jnp.stack(list(loss_parts(settings, out, view).values())))

    @jax.jit
    def gradient_part(params, offset, view):
        def whole(params, offset):
            out = draw(params, offset, view)
            return loss((out.image, out.depth, out.weight), out, view)

        return jax.grad(whole, argnums=(0, 1))(params, offset)

    @jax.jit
    def optimizer_part(gradient, opt_state, params):
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    loss_part = jax.jit(jax.value_and_grad(loss))
    draw_once = jax.jit(draw)
    times: dict[str, list[float]] = {"gradient": [], "loss": [], "optimizer": [], "step": []}
    copy = jax.tree.map(jnp.copy, state)
    params, offset = population.params, watched_offset(strategy, population.params)
    # The first round compiles.
    for repeat in range(_REPEATS + 1):
        index = jnp.int32(repeat % len(views.photos))
        view = views[index]
        out = draw_once(params, offset, view)
        _, loss_time = _timed(loss_part, (out.image, out.depth, out.weight), out, view)
        (gradient, _), gradient_time = _timed(gradient_part, params, offset, view)
        _, optimizer_time = _timed(optimizer_part, gradient, state.opt_state, params)
        (copy, _), step_time = _timed(step, copy, views, index)
        if repeat > 0:
            times["gradient"].append(gradient_time)
            times["loss"].append(loss_time)
            times["optimizer"].append(optimizer_time)
            times["step"].append(step_time)
    # The shortest, since whatever else the machine does only adds.
    least = {name: min(values) for name, values in times.items()}
    # Apart, the backward pass of the rendering would have gradients of maps that no loss reads.
    parts = {
        "render": least["gradient"] - least["loss"],
        "loss": least["loss"],
        "optimizer": least["optimizer"],
    }
    shares = {name: seconds / least["step"] for name, seconds in parts.items()}
    return {"step": least["step"], **shares, "other": 1 - sum(shares.values())}


def _timed(function: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    begin = time.perf_counter()
    result = jax.block_until_ready(function(*arguments))
    return result, time.perf_counter() - begin
