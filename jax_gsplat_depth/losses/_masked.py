"""Averages over the pixels that a mask selects or weighs, each image of a batch on its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jax_gsplat_depth._explicit import split_like


def masked_mean(values: Array, mask: Array | None) -> Array:
    """Return the mean of the values where the mask is true, ``[]``; 0 if it is true nowhere.

    Elsewhere the values may be anything, and they get no gradient. A value that is not finite must
    already have been replaced where its gradient would be NaN.

    Args:
        values: Of any shape.
        mask: Of the same shape: bool, or the weights of a weighted mean, 0 or more; None for all.
    """
    if mask is None:
        return jnp.mean(values)
    same_shape(values, mask, names=("the image", "mask"))
    if mask.dtype == bool:
        total = jnp.sum(jnp.where(mask, values, 0))
        return total / jnp.maximum(jnp.sum(mask, dtype=values.dtype), 1)
    weights = mask.astype(values.dtype)
    size = jnp.sum(weights)
    return jnp.sum(weights * jnp.where(weights > 0, values, 0)) / jnp.where(size > 0, size, 1)


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
        mask: Bool, what counts, or weights; the images weigh the same.
        axes: As in ``each_image``.
    """
    losses = each_image(loss, *arrays, mask, axes=axes)
    return masked_mean(losses, counts(mask).any(axis=tuple(range(-min(mask.ndim, axes), 0))))


def of_channels(mask: ArrayLike, image: Array) -> Array:
    """Return a mask in the shape of an image, of whose pixels or channels it is one.

    Args:
        mask: Bool, or weights, of which those that are not positive become 0: in the shape of the
            image; or ``[..., H, W]``, without the channels, or with one for all; or ``[H, W]``, one
            mask for all images.
        image: ``[..., H, W, C]``; up to three axes are one image.

    Returns:
        Bool, or weights of the dtype of the image, one for each of its values.

    Raises:
        ValueError: The mask has another shape; raised while tracing.
    """
    shape, found = np.shape(image), np.shape(mask)
    mask = jnp.asarray(mask)
    if found == shape[:-1] or (len(shape) > 3 and found == shape[-3:-1]):
        mask = mask[..., None]
    elif found not in (shape, (*shape[:-1], 1)):
        raise ValueError(f"mask has shape {found}, expected {shape[:-1]} or {shape} (from image)")
    if mask.dtype != bool:
        mask = mask.astype(image.dtype)
        mask = jnp.where(mask > 0, mask, 0)
    return jnp.broadcast_to(mask, shape)


def counts(mask: Array) -> Array:
    """Return where a mask, or a weight, lets a pixel count at all; bool."""
    return mask if mask.dtype == bool else mask > 0


def same_shape(
    first: ArrayLike, second: ArrayLike, *, names: tuple[str, str] = ("image", "target")
) -> None:
    """Raise a ValueError that names both arrays if their shapes differ."""
    if np.shape(first) != np.shape(second):
        raise ValueError(
            f"{names[1]} has shape {np.shape(second)}, expected {np.shape(first)} (from {names[0]})"
        )
