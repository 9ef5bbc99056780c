"""Averages over the pixels that a mask selects, each image of a batch on its own."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jax_gsplat_depth._explicit import split_like


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


def each_image(function: Callable[..., Any], *arrays: Array, axes: int) -> Any:
    """Apply a function of single images, or maps, to each.

    Args:
        function: Takes a part of each array.
        arrays: With equal leading axes.
        axes: Number of axes of an image in the first of them; fewer are one image.
    """
    n_batch = max(arrays[0].ndim - axes, 0)
    for _ in range(n_batch):
        function = jax.vmap(function)
    return function(*split_like(arrays, arrays, n_batch))


def mean_over_images(
    loss: Callable[..., Array], *arrays: Array, mask: Array, axes: int = 2
) -> Array:
    """Return the mean of a loss of each image, or map, ``[]``, over those in which a pixel counts.

    Args:
        loss: Takes a part of each array, and of the mask.
        arrays: With equal leading axes; the first has the shape of the mask.
        mask: Bool, what counts.
        axes: As in ``each_image``.
    """
    losses = each_image(loss, *arrays, mask, axes=axes)
    return masked_mean(losses, mask.any(axis=tuple(range(-min(mask.ndim, axes), 0))))


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
