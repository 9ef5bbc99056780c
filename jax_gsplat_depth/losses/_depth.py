"""Computes losses of rendered depth against measured or estimated depth.

A pixel counts where ``mask`` is true and both maps have a depth, that is, a positive finite number:
a rendered pixel that no Gaussian covers has depth 0, and sensors report 0 or NaN where they could
not measure. All other pixels have a gradient of zero, never NaN. If no pixel counts, every loss is
0.

Maps are ``[..., H, W]``: each is compared, and aligned, on its own, and a loss is the mean over the
maps in which a pixel counts. Arrays of one axis are taken as one map.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jax_gsplat_depth._explicit import split_like
from jax_gsplat_depth.losses._masked import (
    each_image,
    masked_mean,
    mean_over_images,
    same_shape,
)


def depth_l1(depth: Array, target: Array, mask: Array | None = None) -> Array:
    """Return the mean absolute difference of two depth maps, ``[]``, world units.

    Args:
        depth: ``[..., H, W]`` rendered depth, 0 where nothing was hit.
        target: ``[..., H, W]`` wanted depth, of the same shape.
        mask: ``[..., H, W]`` bool, further restricts the pixels that count.

    Raises:
        ValueError: The shapes differ; raised while tracing.
    """
    depth, target, valid = _filled(depth, target, mask)
    return mean_over_images(masked_mean, jnp.abs(depth - target), mask=valid)


def disparity_l1(depth: Array, target: Array, mask: Array | None = None) -> Array:
    """Return the mean absolute difference of the inverse depths, ``[]``, 1 / world units.

    Far depths, where sensors and stereo are least certain, count less than in ``depth_l1``.

    Args:
        depth: ``[..., H, W]`` rendered depth, 0 where nothing was hit.
        target: ``[..., H, W]`` wanted depth (not disparity), of the same shape.
        mask: ``[..., H, W]`` bool, further restricts the pixels that count.

    Raises:
        ValueError: The shapes differ; raised while tracing.
    """
    depth, target, valid = _filled(depth, target, mask)
    return mean_over_images(masked_mean, jnp.abs(1 / depth - 1 / target), mask=valid)


def align_depth(depth: Array, target: Array, mask: Array | None = None) -> tuple[Array, Array]:
    """Return the scale and shift, ``[...]`` each, that bring ``depth`` closest to ``target``.

    Least squares: they minimise the sum of (scale depth + shift - target)^2 over the pixels that
    count. A constant depth has scale 0. Each map has a scale and a shift of its own.

    Args:
        depth: ``[..., H, W]`` rendered depth, 0 where nothing was hit.
        target: ``[..., H, W]`` depth known up to scale and shift; positive where it is known.
        mask: ``[..., H, W]`` bool, further restricts the pixels that count.

    Raises:
        ValueError: The shapes differ; raised while tracing.
    """
    return each_image(_alignment, *_filled(depth, target, mask), axes=2)


def scale_shift_invariant(depth: Array, target: Array, mask: Array | None = None) -> Array:
    """Return half the mean squared error after ``align_depth``, ``[]``.

    Ranftl et al. 2020 (MiDaS), equations 1 to 4, for targets that are known up to scale and shift,
    as monocular depth estimates are. The rendered depth is aligned to the target: the other way
    round, a flat rendering would have no error.

    Args:
        depth: ``[..., H, W]`` rendered depth, or disparity if the target is one.
        target: ``[..., H, W]`` depth known up to scale and shift; positive where it is known.
        mask: ``[..., H, W]`` bool, further restricts the pixels that count.

    Raises:
        ValueError: The shapes differ; raised while tracing.
    """
    depth, target, valid = _filled(depth, target, mask)
    return mean_over_images(_aligned_error, depth, target, mask=valid)


def pearson(depth: Array, target: Array, mask: Array | None = None) -> Array:
    """Return 1 minus the correlation of two depth maps, ``[]``, 0..2.

    Zhu et al. 2023 (FSGS), section 3.3: invariant to scale and shift of either map. It is 1 if a
    map is constant, and 0 if no pixel counts.

    Args:
        depth: ``[..., H, W]`` rendered depth, 0 where nothing was hit.
        target: ``[..., H, W]`` depth known up to scale and shift; positive where it is known.
        mask: ``[..., H, W]`` bool, further restricts the pixels that count.

    Raises:
        ValueError: The shapes differ; raised while tracing.
    """
    depth, target, valid = _filled(depth, target, mask)
    return mean_over_images(_decorrelation, depth, target, mask=valid)


def pearson_patches(
    depth: Array, target: Array, mask: Array | None = None, *, size: int = 32
) -> Array:
    """Return the mean of ``pearson`` over square patches of all maps, ``[]``.

    Xiong et al. 2023 (SparseGS), section 3.2: each patch may have its own scale and shift, which
    monocular estimates need. The patches do not overlap; incomplete patches at the right and at the
    bottom are ignored.

    Args:
        depth: ``[..., H, W]`` rendered depth, 0 where nothing was hit.
        target: ``[..., H, W]`` depth known up to scale and shift; positive where it is known.
        mask: ``[..., H, W]`` bool, further restricts the pixels that count.
        size: Side of a patch in pixels, 2 to min(H, W), static.

    Returns:
        Mean over the patches in which a pixel counts.

    Raises:
        ValueError: The shapes differ, or the size is out of range; raised while tracing.
    """
    same_shape(depth, target, names=("depth", "target"))
    if np.ndim(depth) < 2 or not 2 <= size <= min(np.shape(depth)[-2:]):
        raise ValueError(
            f"depth has shape {np.shape(depth)}, expected (..., H, W) with H and W at least "
            f"size = {size}, and size at least 2"
        )
    depth, target, valid = (_patches(x, size) for x in _filled(depth, target, mask))
    return mean_over_images(_decorrelation, depth, target, mask=valid)


def sparse_depth_l1(
    depth: Array, points2d: Array, target: Array, weights: Array | None = None
) -> Array:
    """Return the mean absolute depth error at single points, ``[]``, world units.

    Deng et al. 2022 (DS-NeRF), section 3: the points that structure from motion triangulates come
    with a depth. The rendered depth of a point is that of the pixel in which it lies.

    Args:
        depth: ``[..., H, W]`` rendered depth, 0 where nothing was hit.
        points2d: ``[..., M, 2]`` positions of the points in each image, (x, y) in pixels; points
            outside of the image do not count.
        target: ``[..., M]`` camera z of the points.
        weights: ``[..., M]`` weight of each point, not negative, for example the inverse of its
            reprojection error (default: 1). Images with fewer points than M pad with 0.

    Returns:
        Mean over the images of the weighted mean over the points of each; images in which no point
        counts are left out.

    Raises:
        ValueError: A shape disagrees; raised while tracing.
    """
    if np.ndim(depth) < 2:
        raise ValueError(f"depth has shape {np.shape(depth)}, expected (..., H, W)")
    lead = np.shape(depth)[:-2]
    n = np.shape(points2d)[-2] if np.ndim(points2d) >= 2 else 0
    if np.shape(points2d) != (*lead, n, 2):
        expected = ", ".join(map(str, (*lead, "M", 2)))
        raise ValueError(
            f"points2d has shape {np.shape(points2d)}, expected ({expected}) for depth of shape "
            f"{np.shape(depth)}"
        )
    given = {"target": target} if weights is None else {"target": target, "weights": weights}
    for name, array in given.items():
        if np.shape(array) != (*lead, n):
            raise ValueError(
                f"{name} has shape {np.shape(array)}, expected {(*lead, n)} from points2d"
            )
    target = jnp.asarray(target)
    weights = jnp.ones_like(target) if weights is None else jnp.asarray(weights)
    of_one = _error_at_points
    for _ in lead:
        of_one = jax.vmap(of_one)
    arrays = (jnp.asarray(depth), jnp.asarray(points2d), target, weights)
    return masked_mean(*of_one(*split_like(arrays, arrays, len(lead))))


def _error_at_points(
    depth: Array, points2d: Array, target: Array, weights: Array
) -> tuple[Array, Array]:
    """Return the weighted mean of the errors in one image, and whether a point counts."""
    height, width = depth.shape
    size = jnp.array([[width, height]], points2d.dtype)
    inside = ((points2d >= 0) & (points2d < size)).all(axis=1)
    column, row = jnp.where(inside[:, None], points2d, 0).astype(jnp.int32).T
    at_points, target, valid = _filled(depth[row, column], target, inside)
    counted = jnp.where(valid, weights, 0)
    total = jnp.sum(counted)
    error = jnp.sum(counted * jnp.abs(at_points - target))
    return error / jnp.where(total > 0, total, 1), total > 0


def _alignment(depth: Array, target: Array, valid: Array) -> tuple[Array, Array]:
    """Return the scale and shift of one map; see ``align_depth``."""
    mean_depth, mean_target, variance, _, covariance = _moments(depth, target, valid)
    scale = _ratio_or_0(covariance, variance)
    return scale, mean_target - scale * mean_depth


def _aligned_error(depth: Array, target: Array, valid: Array) -> Array:
    """Return half the mean squared error of one map after its alignment."""
    scale, shift = _alignment(depth, target, valid)
    return 0.5 * masked_mean(jnp.square(scale * depth + shift - target), valid)


def _decorrelation(depth: Array, target: Array, valid: Array) -> Array:
    """Return 1 minus the correlation of one map, 0 if no pixel counts; see ``pearson``."""
    _, _, variance_depth, variance_target, covariance = _moments(depth, target, valid)
    product = variance_depth * variance_target
    # The root is never that of 0, even where the ratio is not used: its gradient stays finite.
    root = jnp.sqrt(jnp.where(product > 0, product, 1))
    return jnp.where(valid.any(), 1 - jnp.where(product > 0, covariance / root, 0), 0)


def _filled(depth: Array, target: Array, mask: Array | None) -> tuple[Array, Array, Array]:
    """Return both maps, with 1 where a pixel does not count, and the mask of those that count."""
    same_shape(depth, target, names=("depth", "target"))
    depth, target = jnp.asarray(depth), jnp.asarray(target)
    valid = jnp.isfinite(depth) & jnp.isfinite(target) & (depth > 0) & (target > 0)
    if mask is not None:
        same_shape(depth, mask, names=("depth", "mask"))
        valid &= jnp.asarray(mask, bool)
    # 1 and not 0: whatever is computed from it needs a finite derivative.
    return jnp.where(valid, depth, 1), jnp.where(valid, target, 1), valid


def _moments(depth: Array, target: Array, valid: Array) -> tuple[Array, ...]:
    """Return the means, the variances and the covariance over the pixels that count."""
    mean_depth, mean_target = masked_mean(depth, valid), masked_mean(target, valid)
    centred = jnp.where(valid, depth - mean_depth, 0), jnp.where(valid, target - mean_target, 0)
    return (
        mean_depth,
        mean_target,
        masked_mean(jnp.square(centred[0]), valid),
        masked_mean(jnp.square(centred[1]), valid),
        masked_mean(centred[0] * centred[1], valid),
    )


def _ratio_or_0(numerator: Array, denominator: Array) -> Array:
    """Divide; 0 where the denominator is not positive, with a gradient of 0."""
    usable = denominator > 0
    return jnp.where(usable, numerator / jnp.where(usable, denominator, 1), 0)


def _patches(x: Array, size: int) -> Array:
    """Cut ``[..., H, W]`` into ``[..., P, size, size]``."""
    *lead, height, width = x.shape
    rows, columns = height // size, width // size
    x = x[..., : rows * size, : columns * size].reshape(*lead, rows, size, columns, size)
    return x.swapaxes(-3, -2).reshape(*lead, rows * columns, size, size)
