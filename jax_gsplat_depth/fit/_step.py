"""One step of a fit: everything that changes is one pytree, and one compiled function changes it.

Nothing but arrays differs between two steps, the SH degree included, so one compilation serves the
whole fit.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jax_gsplat_depth._render import render
from jax_gsplat_depth.fit._loss import loss_parts
from jax_gsplat_depth.fit._params import Params, to_gaussians
from jax_gsplat_depth.fit._settings import FitSettings
from jax_gsplat_depth.fit._views import TrainingViews


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything that a step reads and changes.

    Attributes:
        params: See ``Params``.
        opt_state: State of the optimiser.
        step: ``[]`` int32, finished steps.
    """

    params: Params
    opt_state: Any
    step: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class StepMetrics:
    """What a step measures before its update.

    Attributes:
        parts: The terms of the loss, see ``loss_parts``; each ``[]``.
        mse: ``[]`` mean squared error of the view's colours.
        n_gaussians: ``[]`` int32 number of Gaussians.
    """

    parts: dict[str, Array]
    mse: Array
    n_gaussians: Array


Step = Callable[[TrainState, TrainingViews, Array], tuple[TrainState, StepMetrics]]
"""``(state, views, view number) -> (state, metrics)``."""


def make_step(settings: FitSettings, optimizer: optax.GradientTransformation) -> Step:
    """Return the jitted step, compiled once; the state is donated."""

    def step(state, views, index):
        view = views[index]
        degree = settings.sh_degree_at(state.step)

        def loss_fn(params):
            out = render(to_gaussians(params, degree), view.camera, background=view.background)
            parts = loss_parts(settings, out, view)
            mse = jnp.mean(jnp.square(out.image - view.photo))
            return sum(parts.values()), (parts, mse)

        gradient, (parts, mse) = jax.grad(loss_fn, has_aux=True)(state.params)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params: Any = optax.apply_updates(state.params, updates)
        metrics = StepMetrics(parts, mse, jnp.int32(len(state.params["means"])))
        return TrainState(params, opt_state, state.step + 1), metrics

    return jax.jit(step, donate_argnums=0)
