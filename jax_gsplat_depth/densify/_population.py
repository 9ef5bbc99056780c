"""Holds the free parameters of up to ``N_max`` Gaussians in arrays of fixed size."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jax_gsplat_depth._common import flax_states
from jax_gsplat_depth._common.by_shape import shown_by_shape
from jax_gsplat_depth._common.fusion import unfused
from jax_gsplat_depth._types import Gaussians
from jax_gsplat_depth.sh import sh_degrees

REQUIRED = ("means", "quats", "log_scales", "opacity_logits")
_WIDTHS = {"means": (3,), "quats": (4,), "log_scales": (3,), "opacity_logits": ()}


@shown_by_shape
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Population:
    """The unconstrained parameters of ``N_max`` Gaussians, and which of these are alive.

    A pytree of arrays whose shapes never change: Gaussians are born and die by flipping ``alive``
    and overwriting their slot. The parameters of a dead slot mean nothing.

    Attributes:
        params: ``[N_max, ...]`` each: ``means`` ``[N_max, 3]`` and ``quats`` ``[N_max, 4]`` as in
            ``Gaussians``, ``log_scales`` ``[N_max, 3]`` natural logarithms of the scales,
            ``opacity_logits`` ``[N_max]``, and any others, which follow their Gaussian.
        alive: ``[N_max]`` bool.
    """

    params: dict[str, Array]
    alive: Array

    @property
    def capacity(self) -> int:
        """``N_max``."""
        return self.alive.shape[0]

    def n_alive(self) -> Array:
        """Return the number of Gaussians that are alive, int32, on the device."""
        return jnp.sum(self.alive, dtype=jnp.int32)


flax_states.register(Population)


def pad(params: Mapping[str, ArrayLike], capacity: int) -> Population:
    """Return a population that begins with the given Gaussians, the other slots dead.

    Args:
        params: ``[N, ...]`` each, see ``Population``; of one floating dtype.
        capacity: ``N_max``, at least ``N`` and at least 1.

    Raises:
        ValueError: A parameter is missing or has the wrong shape, or there are more Gaussians than
            slots.
    """
    arrays = {name: jnp.asarray(value) for name, value in params.items()}
    for name in REQUIRED:
        if name not in arrays:
            raise ValueError(f"params has no {name!r}, only {', '.join(map(repr, arrays))}")
    n = arrays["means"].shape[0] if arrays["means"].ndim else 0
    for name, array in arrays.items():
        expected = (n, *_WIDTHS.get(name, array.shape[1:]))
        if array.shape != expected:
            raise ValueError(f"{name} has shape {array.shape}, expected {expected}")
    if capacity < max(n, 1):
        raise ValueError(f"capacity is {capacity}, but must be at least max(N, 1) = {max(n, 1)}")

    def widen(name: str, array: Array) -> Array:
        dead = jnp.zeros((capacity - n, *array.shape[1:]), array.dtype)
        if name == "quats":
            dead = dead.at[:, 0].set(1)
        return jnp.concatenate([array, dead])

    padded = {name: widen(name, array) for name, array in arrays.items()}
    return Population(padded, jnp.arange(capacity) < n)


def activate(population: Population, sh_degree: ArrayLike | None = None) -> Gaussians:
    """Return what to render: exp of the log scales, sigmoid of the opacity logits.

    Differentiable. A dead slot has opacity 0, so it is culled, and its gradients are 0 whatever
    its parameters hold.

    Args:
        population: Its appearance is ``colors`` or ``sh``, as in ``Gaussians``, or ``sh0``
            ``[N_max, 1, 3]`` with, optionally, ``sh_rest`` ``[N_max, B - 1, 3]``, which together
            are ``sh``.
        sh_degree: Coefficients above this degree count as 0 and get no gradient. A whole number or
            a traced integer, so that raising it compiles nothing. None for all of them.

    Raises:
        ValueError: There is no appearance.
    """
    params, alive = population.params, population.alive
    # A value is replaced before the function as well: 0 times its infinite derivative is NaN.
    log_scales = jnp.where(alive[:, None], params["log_scales"], 0)
    opacities = jnp.where(alive, jax.nn.sigmoid(_logits(population)), 0)
    appearance: dict[str, Array] = {}
    if "sh" in params or "sh0" in params:
        appearance["sh"] = _coefficients(params, sh_degree)
    elif "colors" in params:
        appearance["colors"] = params["colors"]
    else:
        raise ValueError("params has neither 'sh', 'sh0' nor 'colors'")
    # In one row: XLA's CPU backend loops over the last axis, and three numbers fill no vector.
    scales = unfused(jnp.exp)(log_scales.reshape(-1)).reshape(log_scales.shape)
    return Gaussians(params["means"], params["quats"], scales, opacities, **appearance)


def compact(population: Population) -> dict[str, Array]:
    """Return the parameters of those alive, ``[N, ...]`` each, in their order.

    On the host: not for use inside ``jax.jit``.
    """
    alive = np.flatnonzero(np.asarray(population.alive))
    return {name: value[alive] for name, value in population.params.items()}


def healthy(population: Population, min_opacity: float) -> Array:
    """Which slots ``[N_max]`` are alive, finite and of an opacity above ``min_opacity``."""
    finite = population.alive
    for value in population.params.values():
        finite &= jnp.all(jnp.isfinite(value.reshape(population.capacity, -1)), axis=1)
    return finite & (jax.nn.sigmoid(_logits(population)) > min_opacity)


def rotate(quats: Array, vectors: Array) -> Array:
    """Rotate ``[N, 3]`` vectors by ``[N, 4]`` quaternions wxyz of any length; zero does nothing."""
    largest = jnp.max(jnp.abs(quats), axis=1, keepdims=True)
    # Scaled before squaring, which would overflow or vanish for extreme lengths.
    quats = quats / jnp.where(largest > 0, largest, 1)
    norm = jnp.sum(jnp.square(quats), axis=1, keepdims=True)
    w, axis = quats[:, :1], quats[:, 1:]
    cross = jnp.cross(axis, vectors)
    return vectors + 2 * (w * cross + jnp.cross(axis, cross)) / jnp.where(norm > 0, norm, 1)


def from_own_axes(population: Population, vectors: Array) -> Array:
    """Return R S v ``[N_max, 3]``: own axes in standard deviations to world axes and units."""
    scales = jnp.exp(population.params["log_scales"])
    return rotate(population.params["quats"], scales * vectors)


def to_own_axes(population: Population, vectors: Array) -> Array:
    """Return S R^T v ``[N_max, 3]``, the transpose of ``from_own_axes``."""
    scales = jnp.exp(population.params["log_scales"])
    inverse = population.params["quats"] * jnp.array([[1, -1, -1, -1]], vectors.dtype)
    return scales * rotate(inverse, vectors)


def take(population: Population, source: Array, **changed: Array) -> dict[str, Array]:
    """Return params with slot ``i`` read from slot ``source[i]``, some of them changed before."""
    return {name: value[source] for name, value in {**population.params, **changed}.items()}


def free_slots(alive: Array) -> Array:
    """Return ``[N_max]`` int32: the number of a dead slot among the dead ones; -1 if alive."""
    return jnp.where(alive, -1, jnp.cumsum(~alive, dtype=jnp.int32) - 1)


def _logits(population: Population) -> Array:
    return jnp.where(population.alive, population.params["opacity_logits"], 0)


def _coefficients(params: dict[str, Array], sh_degree: ArrayLike | None) -> Array:
    parts = [params[name] for name in ("sh", "sh0", "sh_rest") if name in params]
    sh = parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=1)
    if sh_degree is not None:
        used = sh_degrees(sh.shape[1]) <= jnp.asarray(sh_degree)
        sh = jnp.where(used[None, :, None], sh, 0)
    return sh
