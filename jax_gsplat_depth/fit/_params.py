"""Converts between Gaussians and the free parameters that the optimiser moves."""

import jax.numpy as jnp
import numpy as np
from jax import Array

from jax_gsplat_depth import densify
from jax_gsplat_depth._types import Gaussians
from jax_gsplat_depth.sh import SH_C0

Params = dict[str, Array]
"""Unconstrained float32 parameters of ``N`` Gaussians.

- ``means`` ``[N, 3]``, ``quats`` ``[N, 4]``: as in ``Gaussians``.
- ``log_scales`` ``[N, 3]``: natural logarithm of ``scales``.
- ``opacity_logits`` ``[N]``: logit of ``opacities``.
- ``sh`` ``[N, B, 3]``: as in ``Gaussians``.
"""


def to_gaussians(params: Params) -> Gaussians:
    """Activate the parameters: exp of the log scales, sigmoid of the opacity logits."""
    return densify.activate(densify.Population(params, jnp.ones(len(params["means"]), bool)))


def from_points(
    means: np.ndarray, colors: np.ndarray, scales: np.ndarray, opacity: float, sh_degree: int
) -> Params:
    """Return parameters of round Gaussians whose colour is the same from every direction.

    Args:
        means: ``[N, 3]`` centres, world units.
        colors: ``[N, 3]`` RGB, 0..1.
        scales: ``[N]`` standard deviations, world units, positive.
        opacity: Opacity of all of them, between 0 and 1.
        sh_degree: Degree for which there is room; the coefficients above degree 0 are 0.
    """
    n = len(means)
    sh = np.zeros((n, (sh_degree + 1) ** 2, 3))
    sh[:, 0] = (colors - 0.5) / SH_C0
    quats = np.zeros((n, 4))
    quats[:, 0] = 1
    arrays = {
        "means": means,
        "quats": quats,
        "log_scales": np.repeat(np.log(scales)[:, None], 3, axis=1),
        "opacity_logits": np.full(n, np.log(opacity / (1 - opacity))),
        "sh": sh,
    }
    return {name: jnp.asarray(array, dtype=jnp.float32) for name, array in arrays.items()}
