"""Computes losses on the shape of a rendered depth map: its smoothness and its normals."""

import jax.numpy as jnp
import numpy as np
from jax import Array

from jax_gsplat_depth.losses._masked import (
    each_image,
    masked_mean,
    mean_over_images,
    same_shape,
)


def edge_aware_smoothness(depth: Array, image: Array, mask: Array | None = None) -> Array:
    """Return the mean slope of a depth map where the image has no edge, ``[]``.

    Godard et al. 2017, section 3.2: |d_x depth| exp(-|d_x image|) + |d_y depth| exp(-|d_y image|),
    the differences of the image averaged over its channels. The depth is divided by its mean
    first (Wang et al. 2018), so that shrinking the scene does not lower the loss.

    Args:
        depth: ``[..., H, W]`` rendered depth or disparity, H and W at least 2.
        image: ``[..., H, W, C]`` colours, 0..1.
        mask: ``[..., H, W]`` bool, the pixels that count (default: those with a positive depth). A
            difference counts where both of its pixels do.

    Returns:
        Sum of the means in x and y, 0 where nothing counts; mean over the maps in which a pixel
        counts.

    Raises:
        ValueError: A shape disagrees; raised while tracing.
    """
    if (
        np.ndim(image) < 3
        or np.shape(image)[:-1] != np.shape(depth)
        or min(np.shape(depth)[-2:]) < 2
    ):
        raise ValueError(
            f"depth has shape {np.shape(depth)} and image {np.shape(image)}, expected (..., H, W) "
            "and (..., H, W, C) with H and W at least 2"
        )
    depth, image = jnp.asarray(depth), jnp.asarray(image)
    valid = depth > 0
    if mask is not None:
        same_shape(depth, mask, names=("depth", "mask"))
        valid &= jnp.asarray(mask, bool)
    return mean_over_images(_smoothness, depth, image, mask=valid)


def _smoothness(depth: Array, image: Array, valid: Array) -> Array:
    # The image too: 0 times what NaN makes of it is NaN.
    depth, image = jnp.where(valid, depth, 0), jnp.where(valid[..., None], image, 0)
    mean = masked_mean(depth, valid)
    depth = depth / jnp.where(mean > 0, mean, 1)
    total = jnp.zeros((), depth.dtype)
    for axis in (0, 1):
        near, far = (
            (slice(None),) * axis + (slice(1, None),),
            (slice(None),) * axis + (slice(None, -1),),
        )
        edge = jnp.mean(jnp.abs(image[near] - image[far]), axis=-1)
        slope = jnp.abs(depth[near] - depth[far])
        total += masked_mean(slope * jnp.exp(-edge), valid[near] & valid[far])
    return total


def normals_from_depth(depth: Array, K: Array) -> Array:
    """Return the surface normals of a depth map, ``[..., H, W, 3]``.

    A normal is the cross product of the central differences of the points that the pixels see
    (one-sided at the border of the image), in the camera frame with OpenCV axes, of length 1,
    towards the camera. It is 0 where the pixel or a neighbour has no depth. Differentiable in depth
    and K.

    Args:
        depth: ``[..., H, W]`` camera z, 0 where there is none; H and W at least 2.
        K: ``[3, 3]`` of all maps, or ``[..., 3, 3]`` of each, pixels; only fx, fy, cx and cy are
            read.

    Raises:
        ValueError: A shape disagrees; raised while tracing.
    """
    if np.ndim(depth) < 2 or min(np.shape(depth)[-2:]) < 2:
        raise ValueError(
            f"depth has shape {np.shape(depth)}, expected (..., H, W) with H and W at least 2"
        )
    lead = np.shape(depth)[:-2]
    if np.shape(K) not in ((3, 3), (*lead, 3, 3)):
        each = f" or {(*lead, 3, 3)}" if lead else ""
        raise ValueError(f"K has shape {np.shape(K)}, expected (3, 3){each}")
    return each_image(_normals, jnp.asarray(depth), jnp.broadcast_to(K, (*lead, 3, 3)), axes=2)


def _normals(depth: Array, K: Array) -> Array:
    """Return the normals of one map; see ``normals_from_depth``."""
    height, width = depth.shape
    valid = jnp.isfinite(depth) & (depth > 0)
    z = jnp.where(valid, depth, 0)
    x = (jnp.arange(width, dtype=depth.dtype) + 0.5 - K[0, 2]) / K[0, 0]
    y = (jnp.arange(height, dtype=depth.dtype) + 0.5 - K[1, 2]) / K[1, 1]
    points = jnp.stack([x[None, :] * z, y[:, None] * z, z], axis=-1)
    (right, right_valid), (down, down_valid) = (
        _central_difference(points, valid, axis) for axis in (1, 0)
    )
    normal = jnp.cross(down, right)  # y cross x: against z, towards the camera
    squared = jnp.sum(jnp.square(normal), axis=-1, keepdims=True)
    usable = (valid & right_valid & down_valid)[..., None] & (squared > 0)
    return jnp.where(usable, normal / jnp.sqrt(jnp.where(usable, squared, 1)), 0)


def normal_consistency(normals: Array, target: Array, mask: Array | None = None) -> Array:
    """Return the mean of 1 - cos of the angle between two normal maps, ``[]``, 0..2.

    Compares the normals of a rendered depth (``normals_from_depth``) with measured or estimated
    normals, or with normals that were blended as channels.

    Args:
        normals: ``[..., H, W, 3]`` of length 1, or 0 where unknown.
        target: ``[..., H, W, 3]`` in the same frame, of any length; 0 where unknown.
        mask: ``[..., H, W]`` bool, further restricts the pixels that count.

    Returns:
        Mean over the pixels of a map where both have a normal, and over the maps that have such a
        pixel; 0 if there are none.

    Raises:
        ValueError: The shapes differ; raised while tracing.
    """
    same_shape(normals, target, names=("normals", "target"))
    normals, target = jnp.asarray(normals), jnp.asarray(target)
    valid = jnp.isfinite(target).all(axis=-1) & (target != 0).any(axis=-1)
    valid &= (normals != 0).any(axis=-1)
    if mask is not None:
        same_shape(normals[..., 0], mask, names=("normals", "mask"))
        valid &= jnp.asarray(mask, bool)
    target = jnp.where(valid[..., None], target, 1)
    length = jnp.sqrt(jnp.sum(jnp.square(target), axis=-1))
    cosine = jnp.sum(normals * target, axis=-1) / length
    return mean_over_images(masked_mean, 1 - cosine, mask=valid)


def _central_difference(points: Array, valid: Array, axis: int) -> tuple[Array, Array]:
    """Return the difference of a point's neighbours along an axis, and whether both exist."""
    n = points.shape[axis]
    after, before = np.minimum(np.arange(n) + 1, n - 1), np.maximum(np.arange(n) - 1, 0)
    difference = jnp.take(points, after, axis) - jnp.take(points, before, axis)
    return difference, jnp.take(valid, after, axis) & jnp.take(valid, before, axis)
