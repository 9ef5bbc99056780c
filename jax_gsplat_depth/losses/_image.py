"""Computes distances between images: of colours, and of a weight map from an object mask."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jax_gsplat_depth._common.extras import require
from jax_gsplat_depth.losses._blur import WINDOW, blur
from jax_gsplat_depth.losses._masked import (
    counts,
    each_image,
    masked_mean,
    mean_over_images,
    of_channels,
    same_shape,
)

SSIM_WINDOW = WINDOW
"""Side of the SSIM window in pixels (Wang et al. 2004); no image side may be shorter."""


def l1(image: Array, target: Array, mask: ArrayLike | None = None) -> Array:
    """Return the mean absolute difference, ``[]``.

    Args:
        image: ``[..., H, W, C]`` rendered values; up to three axes are one image.
        target: ``[..., H, W, C]`` wanted values, of the same shape.
        mask: ``[..., H, W]``, the pixels that count (default: all): bool, or weights of a weighted
            mean, of which only the proportions matter and those that are not positive are 0. Also
            ``[H, W]``, the same for all images, or one for each channel, in the shape of the image.

    Returns:
        Mean over what counts in an image, and over the images in which anything counts; 0 if there
        is nothing. What does not count may be NaN, and has a gradient of 0.

    Raises:
        ValueError: The shapes differ; raised while tracing.
    """
    return _mean(jnp.abs, image, target, mask)


def mse(image: Array, target: Array, mask: ArrayLike | None = None) -> Array:
    """Return the mean squared difference, ``[]``.

    Args:
        image: ``[..., H, W, C]`` rendered values; up to three axes are one image.
        target: ``[..., H, W, C]`` wanted values, of the same shape.
        mask: As in ``l1``.

    Returns:
        As ``l1``.

    Raises:
        ValueError: The shapes differ; raised while tracing.
    """
    return _mean(jnp.square, image, target, mask)


def psnr(image: Array, target: Array, mask: ArrayLike | None = None) -> Array:
    """Return the peak signal-to-noise ratio in dB for values in 0..1, ``[]``.

    Equal images give infinity. Of several images it is the mean of their ratios.

    Args:
        image: ``[..., H, W, C]`` rendered values; up to three axes are one image.
        target: ``[..., H, W, C]`` wanted values, of the same shape.
        mask: As in ``l1``.

    Raises:
        ValueError: The shapes differ; raised while tracing.
    """
    difference, counted = _difference(image, target, mask)
    squared = jnp.square(difference)
    if counted is not None:
        return mean_over_images(_decibels, squared, mask=counted, axes=3)
    return jnp.mean(each_image(_decibels, squared, axes=3))


def ssim(image: Array, target: Array, mask: ArrayLike | None = None) -> Array:
    """Return the mean structural similarity, ``[]``, 1 for equal images.

    The definition of Wang et al. 2004 as in ``dm_pix.ssim``: Gaussian window of 11 pixels and
    sigma 1.5, constants 0.01 and 0.03, windows inside the image only, mean over the channels and
    the images. Only the blur is our own, for its speed on a CPU.

    Args:
        image: ``[..., H, W, C]`` rendered colours, H and W at least 11.
        target: ``[..., H, W, C]`` wanted colours.
        mask: As in ``l1``. A window counts as much as its middle does, and has 0 in both images at
            the pixels that do not count.

    Raises:
        ValueError: The shapes differ or a side is shorter than the window; raised while tracing.
        ImportError: dm-pix, part of the ``fit`` extra, is not installed.
    """
    same_shape(image, target)
    if np.ndim(image) < 3 or min(np.shape(image)[-3:-1]) < SSIM_WINDOW:
        raise ValueError(
            f"image has shape {np.shape(image)}, expected (..., H, W, C) with H and W at least "
            f"{SSIM_WINDOW}, the window of SSIM"
        )
    dm_pix = require("dm_pix")

    def of_one(image: Array, target: Array) -> Array:
        return dm_pix.ssim(image, target, filter_fn=blur)

    def of_one_masked(image: Array, target: Array, mask: Array) -> tuple[Array, Array]:
        images = (jnp.where(counts(mask), x, 0) for x in (image, target))
        windows = dm_pix.ssim(*images, filter_fn=blur, return_map=True)
        margin = SSIM_WINDOW // 2
        middles = mask[margin:-margin, margin:-margin]
        return masked_mean(windows, middles), counts(middles).any()

    images = jnp.asarray(image), jnp.asarray(target)
    # dm_pix relies on both promotions; a caller may have forbidden them.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        if mask is None:
            return jnp.mean(each_image(of_one, *images, axes=3))
        of_each = of_channels(mask, images[0])
        return masked_mean(*each_image(of_one_masked, *images, of_each, axes=3))


def dssim(image: Array, target: Array, mask: ArrayLike | None = None) -> Array:
    """Return the structural dissimilarity (1 - SSIM) / 2, ``[]``, 0 for equal images.

    Args:
        image: ``[..., H, W, C]`` rendered colours, H and W at least 11.
        target: ``[..., H, W, C]`` wanted colours.
        mask: As in ``ssim``.

    Raises:
        ValueError: The shapes differ or a side is shorter than the window; raised while tracing.
        ImportError: dm-pix, part of the ``fit`` extra, is not installed.
    """
    return (1 - ssim(image, target, mask)) / 2


def photometric(
    image: Array, target: Array, ssim_weight: float = 0.2, mask: ArrayLike | None = None
) -> Array:
    """Return (1 - w) L1 + w (1 - SSIM), ``[]``, the loss of 3DGS.

    Args:
        image: ``[..., H, W, C]`` rendered colours, H and W at least 11.
        target: ``[..., H, W, C]`` wanted colours.
        ssim_weight: w, 0..1. 3DGS calls 1 - SSIM D-SSIM and uses w = 0.2.
        mask: As in ``ssim``.

    Raises:
        ValueError: The shapes differ or a side is shorter than the window; raised while tracing.
        ImportError: dm-pix, part of the ``fit`` extra, is not installed.
    """
    distance = (1 - ssim_weight) * l1(image, target, mask)
    return distance + ssim_weight * 2 * dssim(image, target, mask)


def mask_loss(weight: Array, target: Array, mask: ArrayLike | None = None) -> Array:
    """Return the binary cross-entropy of a weight map with an object mask, ``[]``, in nats.

    Finite, and with a finite gradient that points the right way, for weights of 0 and 1 as well.

    Args:
        weight: ``[..., H, W]`` rendered weight, 0..1.
        target: ``[..., H, W]`` how much of the pixel the object covers, 0..1.
        mask: ``[..., H, W]`` bool, the pixels that count (default: all).

    Returns:
        Mean over the pixels that count of each map, and over the maps that have any; 0 if none has.

    Raises:
        ValueError: The shapes differ; raised while tracing.
    """
    same_shape(weight, target, names=("weight", "target"))
    weight, target = jnp.asarray(weight), jnp.asarray(target)
    if mask is not None:
        same_shape(weight, mask, names=("weight", "mask"))
        mask = jnp.asarray(mask, bool)
        weight, target = (jnp.where(mask, x, 0) for x in (weight, target))
    # One grey level: it limits the loss of a pixel to ln 256.
    floor = 1 / 255
    covered = jnp.log(jnp.maximum(weight, 0) + floor)
    free = jnp.log(jnp.maximum(1 - weight, 0) + floor)
    values = jnp.log1p(floor) - target * covered - (1 - target) * free
    if mask is None:
        return jnp.mean(values)
    return mean_over_images(masked_mean, values, mask=mask)


def _mean(
    distance: Callable[[Array], Array], image: Array, target: Array, mask: ArrayLike | None
) -> Array:
    """Return the mean of a distance, a function of the difference, over images and pixels."""
    difference, counted = _difference(image, target, mask)
    if counted is None:
        return jnp.mean(distance(difference))
    return mean_over_images(masked_mean, distance(difference), mask=counted, axes=3)


def _decibels(squared: Array, counted: Array | None = None) -> Array:
    return -10 * jnp.log10(masked_mean(squared, counted))


def _difference(image: Array, target: Array, mask: ArrayLike | None) -> tuple[Array, Array | None]:
    """Subtract, and return the mask in the same shape.

    The difference is 0, with a gradient of 0, where it does not count.
    """
    same_shape(image, target)
    difference = jnp.asarray(image) - jnp.asarray(target)
    if mask is None:
        return difference, None
    counted = of_channels(mask, difference)
    return jnp.where(counts(counted), difference, 0), counted
