"""Evaluates, rotates and converts spherical-harmonics coefficients, in JAX alone.

The coefficients of degree l belong to a space of functions that every rotation maps to itself:
Y(R d) = D(R) Y(d) for all directions d, with an orthogonal matrix D(R) of size 2 l + 1, the Wigner
matrix of real harmonics. Since Y is orthonormal, D(R) is the integral of Y(R d) Y(d)^T over the
sphere, and a quadrature that is exact for degree 2 l gives it, and its derivative, exactly.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jax_gsplat_depth import _check
from jax_gsplat_depth._check_arrays import float_array, reference_array
from jax_gsplat_depth._debug import takes_any_data
from jax_gsplat_depth._types import SH_CONVENTIONS, ShConvention

# (x, y, z) -> (z, x, y): a direction to the axes of the e3nn convention.
_PERMUTATION = np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0]], np.float64)
_MAX_DEGREE = 4
# The coefficient whose polynomial "e3nn-legacy" has wrong.
_LEGACY = 14

SH_C0 = 0.28209479177387814
"""Value of the constant basis function: a colour is 0.5 + SH_C0 * the first coefficient."""


def sh_degrees(n_coefficients: int) -> np.ndarray:
    """Return the degree ``[B]`` int32 of each of ``B`` coefficients."""
    return np.floor(np.sqrt(np.arange(n_coefficients))).astype(np.int32)


@takes_any_data(returns_any=True)
def evaluate(
    sh: ArrayLike,
    directions: ArrayLike,
    *,
    sh_degree: int | None = None,
    convention: ShConvention = "3dgs",
) -> Array:
    """Evaluate functions on the sphere, given by their coefficients: sum_b Y_b(direction) sh[b].

    This is the raw sum for any number of channels. ``shade`` makes the colour max(sum + 0.5, 0) of
    it, in the direction from the camera to the mean. Differentiable in both arguments.

    Args:
        sh: ``[..., B, D]`` coefficients, B = 1, 4, 9, 16 or 25.
        directions: ``[..., 3]`` of any length but zero: they are normalised here.
        sh_degree: 0 to 4, at most what B allows (default). Higher coefficients are not read.
        convention: "3dgs" (default), "e3nn" or "e3nn-legacy", as ``Config.sh_convention``.

    Returns:
        ``[..., D]``. The leading axes of the two arguments are broadcast: one function in many
        directions is ``[B, D]`` and ``[Q, 3]``. For a direction that is zero or not finite the
        polynomials are those of (0, 0, 0), as in ``shade``, and its gradient is 0.

    Raises:
        ValueError: A shape disagrees, or sh_degree or convention is out of range.
        TypeError: A dtype disagrees.
    """
    sh = reference_array("sh", sh)
    directions = float_array("directions", directions, sh.dtype, "sh")
    _check_evaluation(sh, directions)
    degree = _check.check_sh_degree(sh_degree, sh.shape[-2], source="sh")
    if convention not in SH_CONVENTIONS:
        expected = ", ".join(map(repr, SH_CONVENTIONS[:-1])) + f" or {SH_CONVENTIONS[-1]!r}"
        raise ValueError(f"convention must be {expected}, got {convention!r}")
    return _evaluate(sh[..., : (degree + 1) ** 2, :], directions, degree, convention)


# Compiled as a whole for callers that are not: its many small steps would be compiled one by one.
@functools.partial(jax.jit, static_argnums=(2, 3))
def _evaluate(sh: Array, directions: Array, degree: int, convention: str) -> Array:
    """``evaluate`` without the checks."""
    unit = _normalized(directions)
    if convention != "3dgs":
        unit = unit[..., np.argmax(_PERMUTATION, axis=1)]
    basis = _basis(unit, degree)
    if convention == "e3nn-legacy" and degree >= 3:
        basis = basis.at[..., _LEGACY].set(_legacy_polynomial(unit))
    return _product(basis[..., None, :], sh)[..., 0, :]


@takes_any_data(returns_any=True)
def rotate_sh(sh: ArrayLike, R: ArrayLike, *, convention: ShConvention = "3dgs") -> Array:
    """Rotate spherical-harmonics coefficients together with what they belong to.

    With the new coefficients a Gaussian has in direction R d the colour that it had in direction d:
    a scene whose means, quats and coefficients are rotated by R looks the same to a camera that is
    rotated by R. Differentiable in both arguments.

    Args:
        sh: ``[..., B, 3]`` coefficients, B = 1, 4, 9, 16 or 25.
        R: ``[3, 3]`` rotation matrix, old to new directions as column vectors; or ``[..., 3, 3]``
            with the leading axes of ``sh``, a rotation for each.
        convention: "3dgs" (default) or "e3nn", as ``Config.sh_convention``.

    Returns:
        ``[..., B, 3]``.

    Raises:
        ValueError: A shape disagrees, or the convention is another: the wrong polynomial of
            "e3nn-legacy" has no rotated version.
        TypeError: A dtype disagrees.
    """
    sh, R = _check.check_sh_and_rotation(sh, R)
    if _is_e3nn("convention", convention):
        # The polynomials see P d, and P R d = (P R P^T) P d.
        p = jnp.array(_PERMUTATION, R.dtype)
        R = _product(_product(p, R), p.T)
    return _apply(sh, R)


@takes_any_data(returns_any=True)
def convert_sh(sh: ArrayLike, *, source: ShConvention, target: ShConvention) -> Array:
    """Convert spherical-harmonics coefficients from one convention to the other.

    Rendering the result with ``Config(sh_convention=target)`` is rendering ``sh`` with
    ``Config(sh_convention=source)``.

    Args:
        sh: ``[..., B, 3]`` coefficients, B = 1, 4, 9, 16 or 25.
        source: "3dgs" or "e3nn", the convention of ``sh``.
        target: "3dgs" or "e3nn", the convention of the result.

    Returns:
        ``[..., B, 3]``. Degree 1 is permuted, with signs; higher degrees are mixed.

    Raises:
        ValueError: The shape disagrees, or a convention is another one: "e3nn-legacy" does not in
            general render a sum of harmonics of the same degrees.
        TypeError: The dtype is not a float.
    """
    sh, _ = _check.check_sh_and_rotation(sh, np.eye(3))
    turns = _is_e3nn("target", target) - _is_e3nn("source", source)
    if turns == 0:
        return sh
    # Y(d) = D(P)^T Y(P d), hence the coefficients of Y(P d) are D(P) times those of Y(d).
    return _apply(sh, _PERMUTATION if turns > 0 else _PERMUTATION.T)


def wigner_matrices(R: Any, degree: int) -> list[Any]:
    """Return D(R) for the degrees 0 to ``degree`` in the 3DGS convention.

    Args:
        R: ``[..., 3, 3]`` rotation matrices. For NumPy arrays, which are constants, NumPy computes
            in float64: entries that are 0 or 1 then are so to 1e-15, whatever the dtype of the
            coefficients.
        degree: 0 to 4, static.

    Returns:
        ``[..., 2 l + 1, 2 l + 1]`` for each degree l.
    """
    directions, weights = _quadrature()
    xp = jnp if isinstance(R, Array) else np
    rotated = _basis(_product(xp.asarray(directions, R.dtype), xp.swapaxes(R, -1, -2)), degree)
    fixed = _basis(directions, degree)
    matrices = []
    for band in range(degree + 1):
        part = slice(band**2, (band + 1) ** 2)
        right = xp.asarray(weights[:, None] * fixed[:, part], R.dtype)
        matrices.append(_product(xp.swapaxes(rotated[..., part], -1, -2), right))
    return matrices


def _apply(sh: Array, R: Any) -> Array:
    degree = math.isqrt(sh.shape[-2]) - 1
    parts = [
        _product(jnp.asarray(matrix, sh.dtype), sh[..., band**2 : (band + 1) ** 2, :])
        for band, matrix in enumerate(wigner_matrices(R, degree))
    ]
    return jnp.concatenate(parts, axis=-2)


def _product(a: Any, b: Any) -> Any:
    """Matrix product over the last two axes, at full precision on every device."""
    if isinstance(a, np.ndarray):
        return np.matmul(a, b)
    axes = max(a.ndim, b.ndim)
    a, b = (jnp.expand_dims(x, tuple(range(axes - x.ndim))) for x in (a, b))
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def _is_e3nn(name: str, convention: ShConvention) -> bool:
    if convention not in SH_CONVENTIONS[:2]:
        raise ValueError(f"{name} must be '3dgs' or 'e3nn', got {convention!r}")
    return convention == "e3nn"


def _check_evaluation(sh: Array, directions: Array) -> None:
    if sh.ndim < 2 or sh.shape[-2] not in _check.SH_BASES:
        raise ValueError(
            f"sh has shape {sh.shape}, expected (..., B, D) with B = 1, 4, 9, 16 or 25"
        )
    if directions.ndim < 1 or directions.shape[-1] != 3:
        raise ValueError(f"directions has shape {directions.shape}, expected (..., 3)")
    try:
        np.broadcast_shapes(sh.shape[:-2], directions.shape[:-1])
    except ValueError:
        raise ValueError(
            f"directions has shape {directions.shape}, expected (..., 3) with leading axes that "
            f"broadcast with {sh.shape[:-2]} (from sh)"
        ) from None


def _normalized(directions: Array) -> Array:
    """Return unit vectors, and 0 with a gradient of 0 where there is no direction."""
    # By the largest entry first: squares of extreme vectors leave the range.
    largest = jnp.max(jnp.abs(directions), axis=-1, keepdims=True)
    usable = jnp.isfinite(largest) & (largest > 0)
    scale = jax.lax.stop_gradient(jnp.where(usable, largest, 1))
    scaled = jnp.where(usable, directions, 1) / scale
    length = jnp.sqrt(jnp.sum(scaled * scaled, axis=-1, keepdims=True))
    return jnp.where(usable, scaled / length, 0)


def _legacy_polynomial(unit: Array) -> Array:
    """Return the wrong polynomial of "e3nn-legacy": x in place of z, in the permuted axes."""
    x, y = unit[..., 0], unit[..., 1]
    return math.sqrt(105 / (16 * math.pi)) * x * (x * x - y * y)


def _quadrature() -> tuple[np.ndarray, np.ndarray]:
    """Return unit vectors ``[Q, 3]`` and weights ``[Q]``, exact for twice the highest degree."""
    heights, weights = np.polynomial.legendre.leggauss(_MAX_DEGREE + 1)
    n = 2 * _MAX_DEGREE + 1
    angles = 2 * np.pi * np.arange(n) / n
    z, angle = (grid.ravel() for grid in np.meshgrid(heights, angles, indexing="ij"))
    r = np.sqrt(1 - z * z)
    directions = np.stack([r * np.cos(angle), r * np.sin(angle), z], axis=1)
    return directions, np.repeat(weights, n) * 2 * np.pi / n


def _basis(directions: Any, degree: int) -> Any:
    """Evaluate the 3DGS basis at unit vectors ``[..., 3]``; ``[..., (degree + 1)^2]``.

    NumPy directions are evaluated by NumPy, in float64.
    """
    xp = jnp if isinstance(directions, Array) else np
    x, y, z = (directions[..., i] for i in range(3))
    one = xp.ones_like(z)
    columns = {}
    cosine, sine, start = one, xp.zeros_like(z), 1.0
    for m in range(degree + 1):
        # c_m + i s_m = (x + i y)^m; d^m P_l / dz^m by the three-term recursion in l from l = m.
        lower, legendre = xp.zeros_like(z), start * one
        for band in range(m, degree + 1):
            n = (2 * band + 1) / (4 * math.pi) * math.factorial(band - m) / math.factorial(band + m)
            n = math.sqrt(n if m == 0 else 2 * n) * (-1) ** m
            columns[band, m] = n * legendre * cosine
            if m > 0:
                columns[band, -m] = n * legendre * sine
            upper = ((2 * band + 1) * z * legendre - (band + m) * lower) / (band + 1 - m)
            lower, legendre = legendre, upper
        cosine, sine = x * cosine - y * sine, x * sine + y * cosine
        start *= 2 * m + 1
    order = [(band, m) for band in range(degree + 1) for m in range(-band, band + 1)]
    return xp.stack([columns[key] for key in order], axis=-1)
