"""Converts quaternions and scales to covariances and back, in JAX alone.

The kernels do the first inside; these are for code that works on covariances: other descriptions of
a shape, linear maps of a scene (A C A^T), and files, which hold quaternions and scales only.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jax_gsplat_depth._check_arrays import float_array, reference_array
from jax_gsplat_depth._common.rotation import rotation_rows
from jax_gsplat_depth._debug import takes_any_data

# Of a symmetric matrix: rows and columns of xx, xy, xz, yy, yz, zz, and back.
_ROWS, _COLUMNS = np.triu_indices(3)
_FULL = np.array([[0, 1, 2], [1, 3, 4], [2, 4, 5]])


@takes_any_data(returns_any=True)
def covariances(quats: ArrayLike, scales: ArrayLike, *, triu: bool = False) -> Array:
    """Return the covariances R(q) diag(s)^2 R(q)^T of Gaussians, for ``Gaussians.covars``.

    The renderer draws the same with them as with the quats and scales. Differentiable in both. With
    ``1 / scales`` for the scales the result is the inverses, the precision matrices.

    Args:
        quats: ``[..., 4]`` rotations from the local axes to the world, wxyz, of any length but
            zero: they are normalised here.
        scales: ``[..., 3]`` standard deviations along the local axes, linear, world units,
            positive; the same leading axes.
        triu: Default False. True gives the upper triangles only.

    Returns:
        ``[..., 3, 3]``, symmetric to the bit, or ``[..., 6]`` in the order xx, xy, xz, yy, yz, zz;
        world units squared. NaN, with gradients of 0, for a Gaussian that the renderer would not
        draw: one with a zero quaternion, a scale <= 0 or a value that is not finite.

    Raises:
        ValueError: A shape disagrees; raised while tracing.
        TypeError: A dtype disagrees; raised while tracing.
    """
    quats = reference_array("quats", quats)
    scales = float_array("scales", scales, quats.dtype, "quats")
    for name, array, last in (("quats", quats, 4), ("scales", scales, 3)):
        if array.ndim < 1 or array.shape[-1] != last or array.shape[:-1] != quats.shape[:-1]:
            expected = "(..., 4)" if last == 4 else f"{(*quats.shape[:-1], 3)} (from quats)"
            raise ValueError(f"{name} has shape {array.shape}, expected {expected}")
    triangles = _upper_triangles(quats, scales)
    return triangles if triu else triangles[..., _FULL]


# Compiled as a whole for callers that are not: their many small steps would be compiled one by one.
@jax.jit
def _upper_triangles(quats: Array, scales: Array) -> Array:
    """Return the covariances ``[..., 6]`` of checked arrays; see ``covariances``."""
    largest = jnp.max(jnp.abs(quats), axis=-1, keepdims=True)
    # Half of it, so that no square or sum of squares overflows.
    limit = 0.5 * np.sqrt(np.finfo(quats.dtype).max)
    usable = (largest > 0) & jnp.isfinite(quats).all(axis=-1, keepdims=True)
    usable &= ((scales > 0) & (scales < limit)).all(axis=-1, keepdims=True)
    # Replaced before the formulas: 0 times the derivative of an overflow is NaN.
    quats, scales = (jnp.where(usable, x, 1) for x in (quats, scales))
    # The squares of a long quaternion may leave the range; its length has no derivative anyway.
    quats = quats / jax.lax.stop_gradient(jnp.where(usable, largest, 1))
    unit = quats / jnp.sqrt(jnp.sum(quats * quats, axis=-1, keepdims=True))
    rows = rotation_rows(*(unit[..., i] for i in range(4)))
    scaled = [jnp.stack(row, axis=-1) * scales for row in rows]
    entries = [
        jnp.sum(scaled[i] * scaled[j], axis=-1) for i, j in zip(_ROWS, _COLUMNS, strict=True)
    ]
    return jnp.where(usable, jnp.stack(entries, axis=-1), jnp.nan)


@takes_any_data(returns_any=True)
def quats_and_scales(covars: ArrayLike) -> tuple[Array, Array]:
    """Return quaternions and scales whose covariances are the given ones: ``covariances`` inverted.

    A covariance has 24 pairs of them, since its axes may be named in any order and turned round.
    The one returned has the axes by size, the longest first, and w >= 0; of the two ends of the
    first and of the second axis the one whose largest entry is positive, and the third axis makes
    the system right-handed.

    Differentiable, as long as order and ends stay: where they change, the quaternion jumps, and its
    gradient knows nothing of it. Between two axes of equal variance, to rounding, every direction
    is as good as any other: what turns them within their plane gets a gradient of 0, never NaN.

    Args:
        covars: ``[..., 6]`` in the order xx, xy, xz, yy, yz, zz, or ``[..., 3, 3]``, whose
            symmetric part is used; world units squared, positive definite.

    Returns:
        ``quats`` ``[..., 4]``, wxyz, of length 1, and ``scales`` ``[..., 3]``, world units,
        descending. A scale that is below some 3e-4 of the largest in float32 (1e-8 in float64) is
        lost in the rounding of the covariance; one whose variance is not positive is 0, which is
        not drawn. NaN, with gradients of 0, where a value is not finite.

    Raises:
        ValueError: The shape disagrees; raised while tracing.
        TypeError: The dtype is not a float; raised while tracing.
    """
    return _quats_and_scales(_matrices(reference_array("covars", covars)))


def _matrices(covars: Array) -> Array:
    """Return covariances of either shape as symmetric matrices ``[..., 3, 3]``."""
    if covars.ndim >= 2 and covars.shape[-2:] == (3, 3):
        return 0.5 * (covars + covars.swapaxes(-1, -2))
    if covars.ndim >= 1 and covars.shape[-1] == 6:
        return covars[..., _FULL]
    raise ValueError(f"covars has shape {covars.shape}, expected (..., 6) or (..., 3, 3)")


@jax.jit
def _quats_and_scales(matrices: Array) -> tuple[Array, Array]:
    """Return quaternions and scales of symmetric matrices; see ``quats_and_scales``."""
    usable = jnp.isfinite(matrices).all(axis=(-1, -2), keepdims=True)
    identity = jnp.broadcast_to(jnp.eye(3, dtype=matrices.dtype), matrices.shape)
    matrices = jnp.where(usable, matrices, identity)
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(matrices), axis=(-1, -2), keepdims=True))
    largest = jnp.where(largest > 0, largest, 1)
    variances, axes = _principal_axes(matrices / largest)
    positive = variances > 0
    deviations = jnp.where(positive, jnp.sqrt(jnp.where(positive, variances, 1)), 0)
    scales = deviations * jnp.sqrt(largest[..., 0])
    usable = usable[..., 0]
    return jnp.where(usable, _quaternion(axes), jnp.nan), jnp.where(usable, scales, jnp.nan)


@jax.custom_jvp
def _principal_axes(matrices: Array) -> tuple[Array, Array]:
    """Return variances ``[..., 3]``, descending, and axes ``[..., 3, 3]``, the columns."""
    variances, axes = jnp.linalg.eigh(matrices, symmetrize_input=False)
    first, second = axes[..., 2], axes[..., 1]
    first, second = (_positive_end(axis) for axis in (first, second))
    third = jnp.cross(first, second)
    return variances[..., ::-1], jnp.stack([first, second, third], axis=-1)


@_principal_axes.defjvp
def _principal_axes_jvp(primals: Any, tangents: Any) -> Any:
    """First-order perturbation theory, with no rotation between axes of equal variance.

    d lambda_i = a_i . dC a_i, d a_i = sum_j a_j (a_j . dC a_i) / (lambda_i - lambda_j).
    """
    variances, axes = _principal_axes(*primals)
    (tangent,) = tangents
    change = _product(_product(axes.swapaxes(-1, -2), tangent), axes)
    gaps = variances[..., None, :] - variances[..., :, None]
    # Rounding moves a variance by some units in the last place of the largest.
    resolved = jnp.abs(gaps) > 16 * np.finfo(gaps.dtype).eps * variances[..., :1, None]
    turn = jnp.where(resolved, change / jnp.where(resolved, gaps, 1), 0)
    return (variances, axes), (jnp.diagonal(change, axis1=-2, axis2=-1), _product(axes, turn))


def _positive_end(axis: Array) -> Array:
    """Turn unit vectors ``[..., 3]`` so that their largest entry is positive."""
    largest = jnp.argmax(jnp.abs(axis), axis=-1, keepdims=True)
    return jnp.where(jnp.take_along_axis(axis, largest, axis=-1) < 0, -axis, axis)


def _quaternion(rotation: Array) -> Array:
    """Return the unit quaternions ``[..., 4]`` of rotation matrices, with w >= 0.

    4 q q^T is linear in the matrix; its longest row, normalised, is the quaternion.
    """
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = (
        [rotation[..., i, j] for j in range(3)] for i in range(3)
    )
    table = (
        (1 + xx + yy + zz, zy - yz, xz - zx, yx - xy),
        (zy - yz, 1 + xx - yy - zz, xy + yx, xz + zx),
        (xz - zx, xy + yx, 1 - xx + yy - zz, yz + zy),
        (yx - xy, xz + zx, yz + zy, 1 - xx - yy + zz),
    )
    outer = jnp.stack([jnp.stack(row, axis=-1) for row in table], axis=-2)
    longest = jnp.argmax(jnp.diagonal(outer, axis1=-2, axis2=-1), axis=-1)
    row = jnp.take_along_axis(outer, longest[..., None, None], axis=-2)[..., 0, :]
    quats = row / jnp.sqrt(jnp.sum(row * row, axis=-1, keepdims=True))
    return jnp.where(quats[..., :1] < 0, -quats, quats)


def _product(a: Array, b: Array) -> Array:
    # Accelerators round the operands of a product to bfloat16 or TF32 by default.
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
