"""Distances between images: colours, and the weight map against a mask."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jax_gsplat_depth.io._extras import require
from jax_gsplat_depth.losses._masked import masked_mean, same_shape

SSIM_WINDOW = 11
"""Side of the SSIM window in pixels (Wang et al. 2004); no image side may be shorter."""

# Standard deviation of the SSIM window in pixels (Wang et al. 2004).
_SSIM_SIGMA = 1.5

# Outputs per matrix product of the blur. Measured on 2 CPU cores, 640x480: 16 to 32 are equally
# fast, 128 is 1.6 times slower, one product per image side 2 times.
_BLUR_BLOCK = 32


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

    Equal images give infinity.

    Args:
        image: ``[...]`` rendered values.
        target: ``[...]`` wanted values, of the same shape.

    Raises:
        ValueError: The shapes differ; raised while tracing.
    """
    same_shape(image, target)
    return -10 * jnp.log10(jnp.mean(jnp.square(image - target)))


def ssim(image: Array, target: Array) -> Array:
    """Return the mean structural similarity, ``[]``, 1 for equal images.

    The definition of Wang et al. 2004 as in ``dm_pix.ssim``: Gaussian window of 11 pixels and
    sigma 1.5, constants 0.01 and 0.03, windows inside the image only, mean over the channels. Only
    the blur is ours: as products with small banded matrices the value with its gradient takes a
    seventh of the time on a CPU.

    Args:
        image: ``[H, W, C]`` rendered colours, H and W at least 11.
        target: ``[H, W, C]`` wanted colours.

    Raises:
        ValueError: The shapes differ or a side is shorter than the window; raised while tracing.
        ImportError: dm-pix, part of the ``fit`` extra, is not installed.
    """
    same_shape(image, target)
    if np.ndim(image) != 3 or min(np.shape(image)[:2]) < SSIM_WINDOW:
        raise ValueError(
            f"image has shape {np.shape(image)}, expected (H, W, C) with H and W at least "
            f"{SSIM_WINDOW}, the window of SSIM"
        )
    dm_pix = require("dm_pix")
    # dm_pix relies on both promotions; a caller may have forbidden them.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return dm_pix.ssim(jnp.asarray(image), jnp.asarray(target), filter_fn=_blur)


def dssim(image: Array, target: Array) -> Array:
    """Return the structural dissimilarity (1 - SSIM) / 2, ``[]``, 0 for equal images.

    Args:
        image: ``[H, W, C]`` rendered colours, H and W at least 11.
        target: ``[H, W, C]`` wanted colours.

    Raises:
        ValueError: The shapes differ or a side is shorter than the window; raised while tracing.
        ImportError: dm-pix, part of the ``fit`` extra, is not installed.
    """
    return (1 - ssim(image, target)) / 2


def photometric(image: Array, target: Array, ssim_weight: float = 0.2) -> Array:
    """Return (1 - w) L1 + w (1 - SSIM), ``[]``, the loss of 3DGS.

    Args:
        image: ``[H, W, C]`` rendered colours, H and W at least 11.
        target: ``[H, W, C]`` wanted colours.
        ssim_weight: w, 0..1. 3DGS calls 1 - SSIM D-SSIM and has w = 0.2.

    Raises:
        ValueError: The shapes differ or a side is shorter than the window; raised while tracing.
        ImportError: dm-pix, part of the ``fit`` extra, is not installed.
    """
    return (1 - ssim_weight) * l1(image, target) + ssim_weight * 2 * dssim(image, target)


def mask_loss(weight: Array, target: Array, mask: Array | None = None) -> Array:
    """Return the binary cross-entropy of a weight map with an object mask, ``[]``, in nats.

    Finite, and with a finite gradient that points the right way, for weights of 0 and 1 as well.

    Args:
        weight: ``[...]`` rendered weight, 0..1.
        target: ``[...]`` how much of the pixel the object covers, 0..1.
        mask: ``[...]`` bool, the pixels that count (default: all).

    Returns:
        Mean over the pixels that count; 0 if there are none.

    Raises:
        ValueError: The shapes differ; raised while tracing.
    """
    same_shape(weight, target, names=("weight", "target"))
    # One grey level: the loss of a pixel is at most ln 255.
    floor = 1 / 255
    covered = jnp.log(jnp.maximum(weight, 0) + floor)
    free = jnp.log(jnp.maximum(1 - weight, 0) + floor)
    values = jnp.log1p(floor) - target * covered - (1 - target) * free
    return masked_mean(values, mask)


def _blur(image: Array) -> Array:
    """Average over the Gaussian window: ``[H, W, C]`` to ``[C, W - 10, H - 10]``.

    The order of the axes is the one the products leave behind; SSIM only takes the mean.
    """
    rows = _blur_last_axis(jnp.moveaxis(image, -1, 0))
    return _blur_last_axis(jnp.swapaxes(rows, -1, -2))


def _blur_last_axis(x: Array) -> Array:
    """Blur ``[..., n]`` along the last axis, to ``[..., n - 10]``."""
    halo = SSIM_WINDOW - 1
    n_out = x.shape[-1] - halo
    n_blocks = -(-n_out // _BLUR_BLOCK)
    padding = (n_blocks + 1) * _BLUR_BLOCK - x.shape[-1]
    x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, padding)])
    x = x.reshape(*x.shape[:-1], n_blocks + 1, _BLUR_BLOCK)
    inputs = jnp.concatenate([x[..., :-1, :], x[..., 1:, :halo]], axis=-1)
    band = jnp.asarray(_blur_band(), dtype=x.dtype)
    blurred = jnp.matmul(inputs, band, precision=jax.lax.Precision.HIGHEST)
    return blurred.reshape(*blurred.shape[:-2], -1)[..., :n_out]


def _blur_band() -> np.ndarray:
    """Return the matrix that takes a block and its halo to the blurred block."""
    offsets = np.arange(SSIM_WINDOW) - SSIM_WINDOW // 2
    window = np.exp(-0.5 * (offsets / _SSIM_SIGMA) ** 2)
    window /= window.sum()
    band = np.zeros((_BLUR_BLOCK + SSIM_WINDOW - 1, _BLUR_BLOCK))
    for i in range(_BLUR_BLOCK):
        band[i : i + SSIM_WINDOW, i] = window
    return band
