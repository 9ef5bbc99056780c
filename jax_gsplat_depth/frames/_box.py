"""Finds the box of the scene in a cloud of Gaussians, whatever outliers surround it."""

import dataclasses

import numpy as np

from jax_gsplat_depth._cpu import ALPHA_MIN
from jax_gsplat_depth._types import Gaussians

_OUTSIDE = 0.02
"""Fraction of the weight beyond each side of the box."""

_SMALL = 0.1
"""Gaussians below this quantile of size are weighted as if they had it: specks are no detail."""

_BACKDROP_SHARE = 0.25
"""Share of the opacity that has to lie outside of the box to count as a backdrop."""

_THINNEST = 1e-3
"""Least half width relative to the largest: a flat scene must not give an orbit of no width."""


@dataclasses.dataclass(frozen=True)
class SceneBox:
    """A box around most of the scene.

    Attributes:
        center: ``[3]`` float64, world frame.
        axes: ``[3, 3]`` float64, rows: the longer and the shorter horizontal axis, and up; a
            right-handed orthonormal frame.
        half_widths: ``[3]`` float64 along these axes, world units, positive.
        backdrop: Median horizontal distance, from the centre, of the Gaussians around the box, such
            as walls or a landscape; infinity if there is hardly any.
    """

    center: np.ndarray
    axes: np.ndarray
    half_widths: np.ndarray
    backdrop: float


def scene_box(gaussians: Gaussians, up: np.ndarray) -> SceneBox:
    """Find the box that holds nearly all of the detail.

    Its sides are quantiles along each axis, with opacity over squared size as weights: a fit makes
    near surfaces of small Gaussians and the background of large ones, so neither a backdrop nor
    floaters nor many faint Gaussians move the box. The horizontal axes are the principal axes of
    the Gaussians inside.

    Args:
        gaussians: Activated Gaussians with ``scales``; those that cannot be drawn do not count.
        up: ``[3]`` upward direction, world frame, not zero.

    Raises:
        ValueError: No Gaussian can be drawn.
    """
    means = np.asarray(gaussians.means, np.float64)
    opacities = np.asarray(gaussians.opacities, np.float64)
    sizes = np.asarray(gaussians.scales, np.float64).max(axis=1)
    drawn = np.isfinite(means).all(axis=1) & (opacities > ALPHA_MIN)
    drawn &= (sizes > 0) & np.isfinite(sizes)
    if not drawn.any():
        raise ValueError("none of the Gaussians can be drawn")
    means, sizes = means[drawn], sizes[drawn]
    opacities = opacities[drawn]
    weights = opacities / np.maximum(sizes, np.quantile(sizes, _SMALL)) ** 2

    axes = _axes_with_up(up)
    center, half_widths = _quantile_box(means @ axes.T, weights)
    local = means @ axes.T - center
    inside = (np.abs(local) <= half_widths).all(axis=1)
    if np.count_nonzero(inside) > 1:
        spread = np.cov(local[inside, :2].T, aweights=weights[inside])
        longer = np.linalg.eigh(spread)[1][:, 1]
        # The sign of an eigenvector is arbitrary.
        longer = longer * np.sign(longer[np.abs(longer).argmax()])
        first = longer @ axes[:2]
        axes = np.stack([first, np.cross(axes[2], first), axes[2]])
        center, half_widths = _quantile_box(means @ axes.T, weights)
    local = means @ axes.T - center
    outside = (np.abs(local) > half_widths).any(axis=1)
    backdrop = np.inf
    if opacities[outside].sum() > _BACKDROP_SHARE * opacities.sum():
        distances = np.hypot(local[outside, 0], local[outside, 1])
        backdrop = _quantile(distances, opacities[outside], 0.5)
    return SceneBox(axes.T @ center, axes, half_widths, backdrop)


def _quantile_box(points: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    low, high = (
        np.array([_quantile(column, weights, fraction) for column in points.T])
        for fraction in (_OUTSIDE, 1 - _OUTSIDE)
    )
    half = (high - low) / 2
    # A single Gaussian has no width at all.
    return (low + high) / 2, np.maximum(half, _THINNEST * (half.max() or 1.0))


def _quantile(values: np.ndarray, weights: np.ndarray, fraction: float) -> float:
    """Return the least value at or below which the given fraction of the weight lies."""
    order = np.argsort(values)
    below = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(below, fraction * below[-1])])


def _axes_with_up(up: np.ndarray) -> np.ndarray:
    """Return a right-handed frame whose third row is ``up``."""
    up = np.asarray(up, np.float64) / np.linalg.norm(up)
    helper = np.eye(3)[np.abs(up).argmin()]
    first = np.cross(helper, up)
    first /= np.linalg.norm(first)
    return np.stack([first, np.cross(up, first), up])
