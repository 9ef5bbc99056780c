"""Computes what a step minimises: the distance of one rendered training view from its photo."""

from jax import Array

from jax_gsplat_depth import losses
from jax_gsplat_depth._types import RenderOutput
from jax_gsplat_depth.fit._settings import FitSettings
from jax_gsplat_depth.fit._views import TrainingView


def loss_parts(settings: FitSettings, out: RenderOutput, view: TrainingView) -> dict[str, Array]:
    """Return the terms of the loss by name, each ``[]`` and with its weight in it.

    Their sum is the loss. Which terms there are depends on the settings and on what the capture
    knows, never on values, so it is the same in every step of a fit.

    Args:
        settings: The weights.
        out: The rendering of the view.
        view: What it should look like.
    """
    weight = settings.ssim_weight
    parts = {
        "l1": (1 - weight) * losses.l1(out.image, view.photo, view.mask),
        "ssim": weight * (1 - losses.ssim(out.image, view.photo, view.mask)),
    }
    if view.alpha is not None:
        parts["alpha"] = settings.alpha_weight * losses.l1(out.weight, view.alpha, view.mask)
    if view.depth is not None:
        parts["depth"] = settings.depth_weight * view.depth.distance(out.depth)
    return parts
