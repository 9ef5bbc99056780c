"""Places the initial Gaussians at points of the capture and, between them, where photos suggest.

Density control adds Gaussians beside existing ones, so the initial ones have to cover what the
cameras see. Only training views are read.
"""

from typing import Any

import numpy as np
from scipy.spatial import KDTree

from jax_gsplat_depth.datasets import Capture, PosedViews
from jax_gsplat_depth.fit._params import Params, from_points
from jax_gsplat_depth.fit._settings import FitSettings

# Nearest points in the image among which a pixel finds its depth.
_DEPTH_NEIGHBOURS = 3
# Spread of a depth taken from a neighbour, so that filled-in points do not lie on shells.
_DEPTH_JITTER = 0.02
# Standard deviations of initial Gaussians in pixels of the nearest training camera: thinner ones
# would be invisible between the pixels, wider ones blur whole objects and are slow to render.
_SCALE_PIXELS = (0.3, 16.0)
# Fraction of the random points that lie behind the centre of the scene, where backgrounds are.
_FAR_FRACTION = 0.2
# Shortest distance from a camera, relative to the distance of the scene's centre.
_NEAREST = 0.05


def initial_params(capture: Capture, settings: FitSettings) -> Params:
    """Return ``settings.initial_gaussians`` Gaussians to start from.

    Sparse points of the capture come first: a subset if they are too many. If they are too few,
    random pixels of the training photos fill up; each takes its depth from a sparse point near it
    in the image. Without sparse points, pixels with a known depth are used (but not if the capture
    has depth priors, since it then stands for one without measured depth), and without those,
    random positions in the space that the cameras look at. A Gaussian is round and as wide as the
    mean distance of its three nearest neighbours.

    Args:
        capture: Posed photos with at least one training view.
        settings: ``initial_gaussians``, ``seed``, ``sh_degree`` and ``initial_opacity`` are read.

    Returns:
        The parameters in the units and the coordinates of the capture, which a fit has moved near
        its origin before (float32 cannot hold positions far away from it).
    """
    rng = np.random.default_rng(settings.seed)
    views = PosedViews.training(capture)
    n = settings.initial_gaussians
    sparse = _sparse_points(capture)
    depths = None
    # With depth priors the true depth must not be used.
    if capture.depths is not None and capture.depth_priors is None:
        depths = capture.counted(capture.depths)[capture.train_indices]
    if sparse is not None:
        means, colors = sparse
        if len(means) >= n:
            chosen = np.sort(rng.choice(len(means), n, replace=False))
            means, colors = means[chosen], colors[chosen]
        else:
            extra_means, extra_colors = _fill_between(views, means, n - len(means), rng)
            means = np.concatenate([means, extra_means])
            colors = np.concatenate([colors, extra_colors])
    elif depths is not None and (depths > 0).any():
        means, colors = _from_depths(views, depths, n, rng)
    else:
        means, colors = _random_in_view(views, n, rng)
    scales = _scales(views, means)
    return from_points(means, colors, scales, settings.initial_opacity, settings.sh_degree)


def scene_extent(capture: Capture, means: np.ndarray) -> float:
    """Return the length, in world units, to which the centres' learning rate is relative.

    As in 3DGS about the radius of the camera path, here from a quantile so that one stray camera
    does not decide; for cameras that hardly move, a tenth of the distance to the scene.

    Args:
        capture: Posed photos with at least one training view.
        means: ``[N, 3]`` initial centres.
    """
    centers = PosedViews.training(capture).centers
    offsets = np.linalg.norm(centers - np.median(centers, axis=0), axis=1)
    distance = float(np.median(np.linalg.norm(means - np.median(centers, axis=0), axis=1)))
    return max(1.1 * float(np.quantile(offsets, 0.9)), 0.1 * distance)


def _sparse_points(capture: Capture) -> tuple[np.ndarray, np.ndarray] | None:
    if capture.points is None or len(capture.points) == 0:
        return None
    points = capture.points.astype(np.float64)
    if capture.point_colors is None:
        return points, np.full(points.shape, 0.5)
    return points, capture.point_colors / 255.0


def _fill_between(
    views: PosedViews, points: np.ndarray, n: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return ``n`` points at random pixels, as far away as a sparse point seen near the pixel.

    One neighbour is drawn rather than their depths averaged: between two surfaces there is nothing.
    """
    means, colors = [], []
    for view, count in enumerate(_shares(n, len(views))):
        pixels = _random_pixels(views, view, count, rng)
        projected, depths, inside = views.project(view, points)
        if not inside.any():
            projected, depths = np.zeros((1, 2)), np.array([typical_distance(views, points)])
        else:
            projected, depths = projected[inside], depths[inside]
        k = min(_DEPTH_NEIGHBOURS, len(depths))
        _, neighbours = _nearest(projected, pixels, range(1, k + 1))
        drawn = neighbours[np.arange(count), rng.integers(k, size=count)]
        jitter = np.exp(_DEPTH_JITTER * rng.standard_normal(count))
        means.append(views.back_project(view, pixels, depths[drawn] * jitter))
        colors.append(views.colors(view, pixels))
    return np.concatenate(means), np.concatenate(colors)


def _from_depths(
    views: PosedViews, depths: np.ndarray, n: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return ``n`` points at random pixels of known depth; ``depths`` is ``[T, H, W]``."""
    known = np.flatnonzero(depths > 0)
    drawn = np.sort(rng.choice(known, n, replace=len(known) < n))
    view_of, rows, columns = np.unravel_index(drawn, depths.shape)
    means, colors = [], []
    for view in range(len(views)):
        mine = view_of == view
        pixels = np.stack([columns[mine], rows[mine]], axis=1) + rng.random((mine.sum(), 2))
        means.append(views.back_project(view, pixels, depths[view, rows[mine], columns[mine]]))
        colors.append(views.colors(view, pixels))
    return np.concatenate(means), np.concatenate(colors)


def _random_in_view(
    views: PosedViews, n: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return ``n`` random points that training cameras see, with the mean colour of their pixels.

    Most lie around the point that the cameras look at, between it and the cameras or as far behind;
    the rest lie further away, with uniform inverse depth.
    """
    distance = typical_distance(views, look_at_point(views)[None])
    n_far = int(_FAR_FRACTION * n)
    means = []
    for view, count in enumerate(_shares(n - n_far, len(views))):
        depths = distance * rng.uniform(_NEAREST, 2 - _NEAREST, size=count)
        means.append(views.back_project(view, _random_pixels(views, view, count, rng), depths))
    for view, count in enumerate(_shares(n_far, len(views))):
        depths = distance / rng.uniform(_NEAREST, 0.5, size=count)
        means.append(views.back_project(view, _random_pixels(views, view, count, rng), depths))
    points = np.concatenate(means)
    return points, _mean_colors(views, points)


def look_at_point(views: PosedViews) -> np.ndarray:
    """Return the point ``[3]`` that is nearest to all optical axes.

    Parallel axes meet nowhere: a weak pull towards a point as far in front of the cameras as they
    are apart decides along the directions that the axes leave open.
    """
    centers, forward = views.centers, views.axes
    spread = np.linalg.norm(centers - centers.mean(axis=0), axis=1).max()
    baseline = 2 * spread if spread > 0 else 1.0
    ahead = (centers + baseline * forward).mean(axis=0)
    across = np.eye(3) - forward[:, :, None] * forward[:, None, :]
    pull = 1e-3 * np.eye(3)
    lhs = across.mean(axis=0) + pull
    rhs = np.einsum("tij,tj->ti", across, centers).mean(axis=0) + pull @ ahead
    point = np.linalg.solve(lhs, rhs)
    in_front = np.einsum("ti,ti->t", point - centers, forward)
    # Cameras that look outwards have axes that meet behind them.
    return point if np.median(in_front) > 0 else ahead


def typical_distance(views: PosedViews, points: np.ndarray) -> float:
    """Return the median distance between training cameras and the middle of the points."""
    distances = np.linalg.norm(views.centers - np.median(points, axis=0), axis=1)
    median = float(np.median(distances))
    return median if median > 0 else 1.0


def _mean_colors(views: PosedViews, points: np.ndarray) -> np.ndarray:
    total, count = np.zeros(points.shape), np.zeros((len(points), 1))
    for view in range(len(views)):
        pixels, _, inside = views.project(view, points)
        if views.masks is not None:
            columns, rows = pixels[inside].astype(np.int64).T
            inside[inside] = views.masks[view, rows, columns]
        total[inside] += views.colors(view, pixels[inside])
        count[inside] += 1
    return np.where(count > 0, total / np.maximum(count, 1), 0.5)


def _scales(views: PosedViews, means: np.ndarray) -> np.ndarray:
    """Return the mean distance of the three nearest neighbours, limited in pixels."""
    camera_distances, _ = _nearest(views.centers, means, range(1, 2))
    # A Gaussian at a camera's centre has no size in pixels; the floor keeps its scale positive.
    floor = 1e-3 * typical_distance(views, means)
    pixel = np.maximum(camera_distances[:, 0], floor) / views.focal
    k = min(3, len(means) - 1)
    if k == 0:
        return pixel * _SCALE_PIXELS[1]
    # The first is the point itself.
    distances, _ = _nearest(means, means, range(2, k + 2))
    spacing = distances.mean(axis=1)
    return np.clip(spacing, pixel * _SCALE_PIXELS[0], pixel * _SCALE_PIXELS[1])


def _nearest(
    points: np.ndarray, queries: np.ndarray, ranks: range
) -> tuple[np.ndarray, np.ndarray]:
    """Return distances and indices ``[Q, R]`` of the nearest points of the given ranks from 1."""
    query: Any = KDTree(points).query  # Its annotation knows no lists of ranks.
    return query(queries, k=list(ranks))


def _random_pixels(views: PosedViews, view: int, n: int, rng: np.random.Generator) -> np.ndarray:
    """Return ``n`` random positions ``[n, 2]`` in a view, in pixels that count if there are any."""
    height, width = views.images.shape[1:3]
    if views.masks is None or not views.masks[view].any():
        return rng.random((n, 2)) * [width, height]
    rows, columns = np.nonzero(views.masks[view])
    drawn = rng.integers(len(rows), size=n)
    return np.stack([columns[drawn], rows[drawn]], axis=1) + rng.random((n, 2))


def _shares(n: int, parts: int) -> list[int]:
    """Split ``n`` into ``parts`` whole numbers that differ by at most 1."""
    return [n // parts + (i < n % parts) for i in range(parts)]
