"""Finds the box of the scene in a cloud of Gaussians, whatever outliers surround it."""

import dataclasses

import numpy as np

from jax_gsplat_depth._common.local_scene import Detail, LocalScene, weighted_quantile
from jax_gsplat_depth._cpu import ALPHA_MIN
from jax_gsplat_depth._types import Gaussians

_OUTSIDE = 0.02
"""Fraction of the weight beyond each side of the box."""

_FEW = 50
"""Fewer Gaussians than this are all in the box, strays aside: each is more than the fraction."""

_STRAY = 100.0
"""Distance of a stray among few from their middle, relative to what is usual."""

_BACKDROP_SHARE = 0.25
"""Share of the opacity that has to lie outside of the box to count as a backdrop."""

_SYMMETRIC = 1e-4
"""Skewness, 0 to 1, below which neither side of the scene reaches further than the other."""

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


def scene_box(gaussians: Gaussians | LocalScene, up: np.ndarray) -> SceneBox:
    """Find the box that holds nearly all of the detail.

    Its sides are quantiles along each axis of where the Gaussians end, with opacity over squared
    size as weights: a fit makes near surfaces of small Gaussians and the background of large ones,
    so neither a backdrop nor floaters nor many faint Gaussians move the box. Of few Gaussians, all
    that are not far away from the others are inside. The horizontal axes are the principal axes of
    the centres inside.

    Args:
        gaussians: Activated Gaussians; those that cannot be drawn do not count.
        up: ``[3]`` upward direction, world frame, not zero.

    Raises:
        ValueError: No Gaussian can be drawn.
    """
    scene = LocalScene.of(gaussians)
    detail = Detail.of(scene.gaussians)
    if len(detail.means) == 0:
        raise ValueError("none of the Gaussians can be drawn")
    few = len(detail.means) < _FEW
    detail = _without_strays(detail) if few else detail
    outside = 0.0 if few else _OUTSIDE

    axes = _axes_with_up(up)
    center, half_widths = _quantile_box(detail, axes, outside)
    local = detail.means @ axes.T - center
    longer = _longer_axis(detail, local, half_widths)
    if longer is not None:
        first = longer @ axes[:2]
        axes = np.stack([first, np.cross(axes[2], first), axes[2]])
        center, half_widths = _quantile_box(detail, axes, outside)
        local = detail.means @ axes.T - center
    beyond = (np.abs(local) > half_widths).any(axis=1)
    backdrop = np.inf
    if detail.opacities[beyond].sum() > _BACKDROP_SHARE * detail.opacities.sum():
        distances = np.hypot(local[beyond, 0], local[beyond, 1])
        backdrop = weighted_quantile(distances, detail.opacities[beyond], 0.5)
    unit = scene.frame.unit
    return SceneBox(
        scene.frame.world_points(axes.T @ center), axes, unit * half_widths, unit * backdrop
    )


def _without_strays(detail: Detail) -> Detail:
    """Leave out what is far away from the middle, and let all others count alike."""
    distances = np.linalg.norm(detail.means - np.median(detail.means, axis=0), axis=1)
    kept = distances <= _STRAY * np.median(distances + detail.sizes)
    means, sizes, opacities = detail.means[kept], detail.sizes[kept], detail.opacities[kept]
    return Detail(means, sizes, opacities, np.ones(len(means)))


def _quantile_box(
    detail: Detail, axes: np.ndarray, outside: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return centre and half widths along the axes of the box that the Gaussians fill."""
    # Where the renderer stops to draw a Gaussian; of the faintest, at least something.
    reach = detail.sizes * np.sqrt(np.maximum(2 * np.log(detail.opacities / ALPHA_MIN), 1))
    columns = axes @ detail.means.T
    low = [weighted_quantile(x - reach, detail.weights, outside) for x in columns]
    high = [weighted_quantile(x + reach, detail.weights, 1 - outside) for x in columns]
    half = (np.array(high) - low) / 2
    return (np.array(low) + high) / 2, np.maximum(half, _THINNEST * half.max())


def _longer_axis(detail: Detail, local: np.ndarray, half_widths: np.ndarray) -> np.ndarray | None:
    """Return the direction ``[2]`` in which the centres in the box lie; None for a single one."""
    inside = (np.abs(local) <= half_widths).all(axis=1)
    if np.count_nonzero(inside) < 2:
        return None
    points, weights = local[inside, :2], detail.weights[inside]
    points = points - np.average(points, axis=0, weights=weights)
    longer = np.linalg.eigh((weights * points.T) @ points)[1][:, 1]
    # The sign of an eigenvector is arbitrary: of the scene, the side that reaches further decides,
    # so that a turned scene has a turned box; where neither does, the axes of the world.
    cubes = weights * (points @ longer) ** 3
    if abs(cubes.sum()) > _SYMMETRIC * np.abs(cubes).sum():
        return longer * np.sign(cubes.sum())
    return longer * np.sign(longer[np.abs(longer).argmax()])


def _axes_with_up(up: np.ndarray) -> np.ndarray:
    """Return a right-handed frame whose third row is ``up``."""
    up = np.asarray(up, np.float64) / np.linalg.norm(up)
    helper = np.eye(3)[np.abs(up).argmin()]
    first = np.cross(helper, up)
    first /= np.linalg.norm(first)
    return np.stack([first, np.cross(up, first), up])
