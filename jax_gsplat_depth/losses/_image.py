"""Computes distances between images: of colours, and of a weight map from an object mask."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jax_gsplat_depth._common.extras import require
from jax_gsplat_depth.losses._blur import WINDOW, blur
from jax_gsplat_depth.losses._masked import masked_mean, mean_over_maps, same_shape

SSIM_WINDOW = WINDOW
"""Side of the SSIM window in pixels (Wang et al. 2004); no image side may be shorter."""


def l1(image: Array, target: Array) -> Array:
    """Return the mean absolute difference, ``[]``.

    Args:
        image: ``[...]`` rendered values.
        target: ``[...]`` wanted values, of the same shape.

    Raises:
        ValueError: The shapes differ; raised while tracing.
    """
    same_shape(image, target)
    return jnp.mean(jnp.abs(image - target))


def psnr(image: Array, target: Array) -> Array:
    """Return the peak signal-to-noise ratio in dB for values in 0..1, ``[]``.

    Equal images give infinity. Of several images it is the mean of their ratios.

    Args:
        image: ``[..., H, W, C]`` rendered values; up to three axes are one image.
        target: ``[..., H, W, C]`` wanted values, of the same shape.

    Raises:
        ValueError: The shapes differ; raised while tracing.
    """
    same_shape(image, target)
    axes = tuple(range(-min(np.ndim(image), 3), 0))
    return jnp.mean(-10 * jnp.log10(jnp.mean(jnp.square(image - target), axis=axes)))


def ssim(image: Array, target: Array) -> Array:
    """Return the mean structural similarity, ``[]``, 1 for equal images.

    The definition of Wang et al. 2004 as in ``dm_pix.ssim``: Gaussian window of 11 pixels and
    sigma 1.5, constants 0.01 and 0.03, windows inside the image only, mean over the channels and
    the images. Only the blur is our own, for its speed on a CPU.

    Args:
        image: ``[..., H, W, C]`` rendered colours, H and W at least 11.
        target: ``[..., H, W, C]`` wanted colours.

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
    of_one = functools.partial(require("dm_pix").ssim, filter_fn=blur)
    for _ in np.shape(image)[:-3]:
        of_one = jax.vmap(of_one)
    # dm_pix relies on both promotions; a caller may have forbidden them.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return jnp.mean(of_one(jnp.asarray(image), jnp.asarray(target)))


def dssim(image: Array, target: Array) -> Array:
    """Return the structural dissimilarity (1 - SSIM) / 2, ``[]``, 0 for equal images.

    Args:
        image: ``[..., H, W, C]`` rendered colours, H and W at least 11.
        target: ``[..., H, W, C]`` wanted colours.

    Raises:
        ValueError: The shapes differ or a side is shorter than the window; raised while tracing.
        ImportError: dm-pix, part of the ``fit`` extra, is not installed.
    """
    return (1 - ssim(image, target)) / 2


def photometric(image: Array, target: Array, ssim_weight: float = 0.2) -> Array:
    """Return (1 - w) L1 + w (1 - SSIM), ``[]``, the loss of 3DGS.

    Args:
        image: ``[..., H, W, C]`` rendered colours, H and W at least 11.
        target: ``[..., H, W, C]`` wanted colours.
        ssim_weight: w, 0..1. 3DGS calls 1 - SSIM D-SSIM and uses w = 0.2.

    Raises:
        ValueError: The shapes differ or a side is shorter than the window; raised while tracing.
        ImportError: dm-pix, part of the ``fit`` extra, is not installed.
    """
    return (1 - ssim_weight) * l1(image, target) + ssim_weight * 2 * dssim(image, target)


def mask_loss(weight: Array, target: Array, mask: Array | None = None) -> Array:
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
    # One grey level: it limits the loss of a pixel to ln 256.
    floor = 1 / 255
    covered = jnp.log(jnp.maximum(weight, 0) + floor)
    free = jnp.log(jnp.maximum(1 - weight, 0) + floor)
    values = jnp.log1p(floor) - target * covered - (1 - target) * free
    if mask is None:
        return jnp.mean(values)
    same_shape(values, mask, names=("weight", "mask"))
    return mean_over_maps(masked_mean, values, mask=jnp.asarray(mask, bool))
