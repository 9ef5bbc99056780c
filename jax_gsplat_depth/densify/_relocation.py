"""Computes opacity and scale of ``n`` copies in one place that look like the one they replace.

Kheradmand et al. 2024, "3D Gaussian Splatting as Markov Chain Monte Carlo", section 4.2 and
appendix: with the opacity

    o_new = 1 - (1 - o)^(1/n)

the copies let as much light through at the centre as the one did. Along a line through the centre
they make the profile 1 - (1 - o_new exp(-x^2 / 2 s_new^2))^n, and the scale s_new is chosen so that
its integral is that of o exp(-x^2 / 2 s^2). Expanded by the binomial theorem, that is the formula
of the paper,

    s_new / s = o / S,   S = sum_{i=1..n} sum_{k=0..i-1} C(i-1, k) (-1)^k o_new^(k+1) / sqrt(k+1)
                           = sum_{j=1..n} C(n, j) (-1)^(j-1) o_new^j / sqrt(j),

whose terms of alternating sign reach 10^14 for n = 51 and leave nothing of float32. Before the
expansion, S is an integral of a positive function,

    S = 1/sqrt(pi) * integral of 1 - (1 - o_new exp(-t^2))^n over all t,

which has neither a cancellation nor a largest n. The function is entire and falls like exp(-t^2):
the trapezoidal rule converges faster than exponentially, and 26 nodes give 11 digits for any n.
"""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

_SPACING = 0.2
_NODES = np.arange(26) * _SPACING
# The function is even: each node but the one at 0 stands for two.
_WEIGHTS = np.where(_NODES > 0, 2.0, 1.0) * _SPACING / math.sqrt(math.pi)


def relocation(opacities: ArrayLike, n_copies: ArrayLike) -> tuple[Array, Array]:
    """Return opacity and scale of each of ``n`` Gaussians that replace one in the same place.

    Differentiable in ``opacities``. Accurate to a few units in the last place.

    Args:
        opacities: ``[...]`` opacity of the one, above 0 and below 1, float.
        n_copies: ``[...]`` number of Gaussians in its place, the one included; integers from 1.

    Returns:
        ``(new_opacities, scale_ratios)``, ``[...]`` each: the opacity of every copy, and its scales
        divided by those of the one.
    """
    opacities, n_copies = jnp.broadcast_arrays(opacities, n_copies)
    n = n_copies.astype(opacities.dtype)
    new_opacities = split_opacity(-jnp.log1p(-opacities), n)
    return new_opacities, scale_ratio(opacities, new_opacities, n)


def split_opacity(absorbances: Array, n: Array) -> Array:
    """Return 1 - (1 - o)^(1/n) from the absorbance -log(1 - o) and a floating ``n``."""
    return -jnp.expm1(-absorbances / n)


def scale_ratio(opacities: Array, new_opacities: Array, n: Array) -> Array:
    """Return o / S of the module docstring, for a floating ``n``."""
    dtype = opacities.dtype
    nodes = (*(1,) * opacities.ndim, -1)
    falloffs = jnp.asarray(np.exp(-np.square(_NODES)), dtype).reshape(nodes)
    weights = jnp.asarray(_WEIGHTS, dtype).reshape(nodes)
    covered = -jnp.expm1(n[..., None] * jnp.log1p(-new_opacities[..., None] * falloffs))
    return opacities / jnp.sum(weights * covered, axis=-1)
