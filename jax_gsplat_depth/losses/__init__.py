"""Computes the losses and metrics of a fit: distances of images, depth and weight maps.

Every function takes JAX or NumPy arrays of one floating dtype, is differentiable, and can be jitted
and vmapped. Images are ``[..., H, W, C]`` with values in 0..1, depth maps ``[..., H, W]`` camera z
in world units with 0 where there is none, weight maps ``[..., H, W]`` in 0..1. Leading axes, as
``render`` returns them for several cameras, hold images of which each is compared on its own; a
loss is the mean over them. Masks choose the pixels that count, or weigh them in ``l1``, ``mse``,
``psnr``, ``ssim``, ``dssim`` and ``photometric``; all other pixels may be NaN and have a gradient
of 0.
"""

from jax_gsplat_depth.losses._depth import (
    align_depth,
    depth_l1,
    disparity_l1,
    pearson,
    pearson_patches,
    scale_shift_invariant,
    sparse_depth_l1,
)
from jax_gsplat_depth.losses._image import (
    SSIM_WINDOW,
    dssim,
    l1,
    mask_loss,
    mse,
    photometric,
    psnr,
    ssim,
)
from jax_gsplat_depth.losses._surface import (
    edge_aware_smoothness,
    normal_consistency,
    normals_from_depth,
)

__all__ = [
    "SSIM_WINDOW",
    "align_depth",
    "depth_l1",
    "disparity_l1",
    "dssim",
    "edge_aware_smoothness",
    "l1",
    "mask_loss",
    "mse",
    "normal_consistency",
    "normals_from_depth",
    "pearson",
    "pearson_patches",
    "photometric",
    "psnr",
    "scale_shift_invariant",
    "sparse_depth_l1",
    "ssim",
]
