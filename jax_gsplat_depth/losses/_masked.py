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


def of_channels(mask: Array, image: Array) -> Array:
    """Return a mask in the shape of an image, of whose pixels or channels it is one.

    Args:
        mask: ``[..., C]`` or ``[...]`` bool.
        image: ``[..., C]``.

    Raises:
        ValueError: The mask has another shape; raised while tracing.
    """
    shape = np.shape(image)
    if np.shape(mask) == shape:
        return jnp.asarray(mask)
    if np.shape(mask) == shape[:-1]:
        return jnp.broadcast_to(jnp.asarray(mask)[..., None], shape)
    raise ValueError(
        f"mask has shape {np.shape(mask)}, expected {shape[:-1]} or {shape} (from image)"
    )


def same_shape(
    first: Array, second: Array, *, names: tuple[str, str] = ("image", "target")
) -> None:
    """Raise a ValueError that names both arrays if their shapes differ."""
    if np.shape(first) != np.shape(second):
        raise ValueError(
            f"{names[1]} has shape {np.shape(second)}, expected {np.shape(first)} (from {names[0]})"
        )
