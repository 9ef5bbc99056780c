"""Makes Adam with one learning rate for each kind of parameter."""

from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from jax_gsplat_depth._common.fusion import unfused
from jax_gsplat_depth.fit._settings import FitSettings
from jax_gsplat_depth.sh import sh_degrees

# 3DGS: gradients of means are so small that Adam's usual 1e-8 would damp them.
_ADAM_EPS = 1e-15

Descent = Callable[[Any, Any, Any], tuple[Any, Any]]
"""``(params, optimiser state, gradient) -> (params, optimiser state)``."""


def means_schedule(settings: FitSettings, extent: float) -> optax.Schedule:
    """Return the learning rate of the centres, in world units, by step."""
    return optax.exponential_decay(
        settings.lr_means * extent, settings.steps, settings.lr_means_final
    )


def make_optimizer(settings: FitSettings, extent: float) -> optax.GradientTransformation:
    """Return Adam with one learning rate for each kind of parameter.

    A parameter whose gradient has always been zero does not move, and neither does a coefficient
    of spherical harmonics before its degree is used. Updates are for arrays as ``make_descent``
    shapes them.

    Args:
        settings: The learning rates, the number of steps over which they fall, and the schedule of
            the degree.
        extent: World units; see ``scene_extent``.
    """
    degrees = np.repeat(sh_degrees((settings.sh_degree + 1) ** 2), 3)
    rates = {
        "quats": settings.lr_quats,
        "log_scales": settings.lr_scales,
        "opacity_logits": settings.lr_opacities,
        "sh": np.where(degrees == 0, settings.lr_sh0, settings.lr_sh_rest).astype(np.float32),
    }
    schedules: dict[str, Any] = {
        name: optax.exponential_decay(rate, settings.steps, settings.lr_final)
        for name, rate in rates.items()
    }
    schedules["means"] = means_schedule(settings, extent)

    def used(step: Any) -> Array:
        return jnp.where(jnp.asarray(degrees) <= settings.sh_degree_at(step), 1.0, 0.0)

    adams: dict[Hashable, optax.GradientTransformation] = {
        name: optax.adam(schedule, eps=_ADAM_EPS) for name, schedule in schedules.items()
    }
    adams["sh"] = optax.chain(optax.scale_by_schedule(used), adams["sh"])
    return optax.partition(adams, {name: name for name in schedules})


def make_descent(optimizer: optax.GradientTransformation) -> Descent:
    """Return the function that makes a step against the gradient.

    The optimiser sees arrays whose last two axes are one. XLA's CPU backend loops over the last
    axis, and three or four numbers are too few for its vectors: a third of the time with the
    coefficients as ``[N, 3 B]`` instead of ``[N, B, 3]``.
    """

    # Donated arguments in the order of the results, so that XLA updates them in place.
    @unfused
    def descend(params: Any, opt_state: Any, gradient: Any) -> tuple[Any, Any]:
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    def descent(params: Any, opt_state: Any, gradient: Any) -> tuple[Any, Any]:
        result = descend(*_long_rows((params, opt_state, gradient)))
        return jax.tree.map(lambda x, like: x.reshape(like.shape), result, (params, opt_state))

    return descent


def _long_rows(arrays: Any) -> Any:
    return jax.tree.map(lambda x: x.reshape(*x.shape[:-2], -1) if x.ndim > 1 else x, arrays)
