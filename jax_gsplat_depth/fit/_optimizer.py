"""Adam with one learning rate for each kind of parameter."""

from collections.abc import Hashable

import optax

from jax_gsplat_depth.fit._settings import FitSettings

# 3DGS: gradients of means are so small that Adam's usual 1e-8 would damp them.
_ADAM_EPS = 1e-15


def means_schedule(settings: FitSettings, extent: float) -> optax.Schedule:
    """Return the learning rate of the centres, in world units, by step."""
    return optax.exponential_decay(
        settings.lr_means * extent, settings.steps, settings.lr_means_final
    )


def make_optimizer(settings: FitSettings, extent: float) -> optax.GradientTransformation:
    """Return Adam with one learning rate for each kind of parameter.

    A parameter whose gradient has always been zero does not move.

    Args:
        settings: The learning rates and the number of steps over which they fall.
        extent: World units; see ``scene_extent``.
    """
    rates = {
        "quats": settings.lr_quats,
        "log_scales": settings.lr_scales,
        "opacity_logits": settings.lr_opacities,
        "sh0": settings.lr_sh0,
        "sh_rest": settings.lr_sh_rest,
    }
    schedules = {
        name: optax.exponential_decay(rate, settings.steps, settings.lr_final)
        for name, rate in rates.items()
    }
    schedules["means"] = means_schedule(settings, extent)
    adams: dict[Hashable, optax.GradientTransformation] = {
        name: optax.adam(schedule, eps=_ADAM_EPS) for name, schedule in schedules.items()
    }
    return optax.partition(adams, {name: name for name in schedules})
