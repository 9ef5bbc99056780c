"""Averages over the pixels that a mask selects."""

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


def pixel_mean(values: Array, mask: Array | None) -> Array:
    """Return the mean of pixels with or without channels where a mask of pixels is true, ``[]``.

    Args:
        values: ``[..., C]``, or the shape of the mask.
        mask: ``[...]`` bool, or None for all.

    Raises:
        ValueError: The shapes disagree; raised while tracing.
    """
    if mask is not None and np.shape(mask) == np.shape(values)[:-1]:
        mask = jnp.broadcast_to(jnp.asarray(mask)[..., None], np.shape(values))
    return masked_mean(values, mask)


def same_shape(
    first: Array, second: Array, *, names: tuple[str, str] = ("image", "target")
) -> None:
    """Raise a ValueError that names both arrays if their shapes differ."""
    if np.shape(first) != np.shape(second):
        raise ValueError(
            f"{names[1]} has shape {np.shape(second)}, expected {np.shape(first)} (from {names[0]})"
        )
