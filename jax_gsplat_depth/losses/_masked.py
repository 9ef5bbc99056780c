"""Averages over the pixels that a mask selects, each image of a batch on its own."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


def masked_mean(values: Array, mask: Array | None) -> Array:
    """Return the mean of the values where the mask is true, ``[]``; 0 if it is true nowhere.

    Elsewhere the values may be anything, and they get no gradient. A value that is not finite must
    already have been replaced where its gradient would be NaN.
    """
    if mask is None:
        return jnp.mean(values)
    same_shape(values, mask, names=("the image", "mask"))
    total = jnp.sum(jnp.where(mask, values, 0))
    return total / jnp.maximum(jnp.sum(mask, dtype=values.dtype), 1)


def each_map(function: Callable[..., Any], *maps: Array) -> Any:
    """Apply a function of maps ``[H, W]`` to each of ``[..., H, W]``; fewer axes are one map."""
    for _ in maps[0].shape[:-2]:
        function = jax.vmap(function)
    return function(*maps)


def mean_over_maps(loss: Callable[..., Array], *maps: Array, mask: Array) -> Array:
    """Return the mean of a loss of each map, ``[]``, over those in which a pixel counts.

    The loss takes a map of each of ``maps`` and the mask of the pixels that count.
    """
    losses = each_map(loss, *maps, mask)
    return masked_mean(losses, mask.any(axis=tuple(range(-min(mask.ndim, 2), 0))))


def same_shape(
    first: Array, second: Array, *, names: tuple[str, str] = ("image", "target")
) -> None:
    """Raise a ValueError that names both arrays if their shapes differ."""
    if np.shape(first) != np.shape(second):
        raise ValueError(
            f"{names[1]} has shape {np.shape(second)}, expected {np.shape(first)} (from {names[0]})"
        )
