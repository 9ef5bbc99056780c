"""Measures where the time of a step goes."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from jax_gsplat_depth import densify
from jax_gsplat_depth._render import render
from jax_gsplat_depth._types import Gaussians, RenderOutput
from jax_gsplat_depth.fit._loss import loss_parts
from jax_gsplat_depth.fit._optimizer import make_descent
from jax_gsplat_depth.fit._settings import FitSettings
from jax_gsplat_depth.fit._step import Step, TrainState, reads_absgrad, watched_offset
from jax_gsplat_depth.fit._views import TrainingView, TrainingViews

# How many views are measured, and how often each.
_VIEWS = 4
_REPEATS = 4


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
        The shares of a step: ``render`` is the rendering kernels, forward and backward, with the
        cotangents that the loss gives; ``loss`` the terms that compare a rendering with the photo,
        with their gradient; ``optimizer`` the update; ``other`` the rest (from free parameters to
        Gaussians and back, density control, the dispatch). The times that they are made of, the
        step's own included, are means over some views of the shortest of some runs. On a busy
        machine they mean nothing.
    """
    parts = _Parts(settings, strategy)
    descent = jax.jit(make_descent(optimizer), donate_argnums=(0, 1))
    population = state.population
    gaussians = jax.jit(densify.activate)(population)
    offset = watched_offset(strategy, population.params)
    gradient = jax.tree.map(jnp.zeros_like, population.params)
    copy, params, opt_state = jax.tree.map(jnp.copy, (state, population.params, state.opt_state))
    n_views = min(_VIEWS, len(views.photos))
    watch = _Stopwatch()
    # The first round compiles.
    for repeat in range(n_views * _REPEATS + 1):
        index = jnp.int32(repeat % n_views)
        view = views[index]
        out = jax.block_until_ready(parts.draw(gaussians, offset, view))
        _, v_maps = watch.timed("loss", parts.loss, _compared(out, view), out, view)
        watch.timed("render", parts.render, gaussians, offset, view, v_maps)
        params, opt_state = watch.timed("optimizer", descent, params, opt_state, gradient)
        copy, _ = watch.timed("step", step, copy, views, index)
    return _shares({name: watch.seconds(name, n_views) for name in watch.times})


class _Parts:
    """The parts of a step that draw and compare, each one compiled function."""

    def __init__(self, settings: FitSettings, strategy: densify.Strategy | None) -> None:
        """See ``measure_step`` for the arguments."""
        self._settings = settings
        self._absgrad = reads_absgrad(strategy)
        self.draw = jax.jit(self._draw)
        self.render = jax.jit(self._render)
        self.loss = jax.jit(jax.value_and_grad(self._loss))

    def _draw(self, gaussians: Gaussians, offset: Any, view: TrainingView) -> RenderOutput:
        return render(
            gaussians,
            view.camera,
            background=view.background,
            means2d_offset=None if self._absgrad else offset,
            absgrad_probe=offset if self._absgrad else None,
            config=self._settings.config,
        )

    def _render(self, gaussians: Gaussians, offset: Any, view: TrainingView, v_maps: Any) -> Any:
        def maps(gaussians: Gaussians, offset: Any) -> Any:
            return _compared(self._draw(gaussians, offset, view), view)

        primal, pull_back = jax.vjp(maps, gaussians, offset)
        return primal, pull_back(v_maps)

    def _loss(self, maps: Any, out: RenderOutput, view: TrainingView) -> Array:
        out = dataclasses.replace(out, **maps)
        return jnp.sum(jnp.stack(list(loss_parts(self._settings, out, view).values())))


class _Stopwatch:
    """Wall times of functions by name, in seconds."""

    def __init__(self) -> None:
        """Begin with none."""
        self.times: dict[str, list[float]] = {}

    def timed(self, name: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return what the function returns, when it is there."""
        begin = time.perf_counter()
        result = jax.block_until_ready(function(*arguments))
        self.times.setdefault(name, []).append(time.perf_counter() - begin)
        return result

    def seconds(self, name: str, n_views: int) -> float:
        """Return the mean over the views of the shortest run, which nothing has disturbed."""
        rounds = np.reshape(self.times[name][1:], (_REPEATS, n_views))
        return float(rounds.min(axis=0).mean())


def _shares(seconds: dict[str, float]) -> dict[str, float]:
    """Return what part of a step each of the others takes."""
    shares = {name: seconds[name] / seconds["step"] for name in ("render", "loss", "optimizer")}
    return {**shares, "other": 1 - sum(shares.values())}


def _compared(out: RenderOutput, view: TrainingView) -> dict[str, Array]:
    """Return the maps that the loss reads; the kernels give no gradient for the others."""
    maps = {"image": out.image}
    if view.alpha is not None:
        maps["weight"] = out.weight
    if view.depth is not None:
        maps["depth"] = out.depth
    return maps
