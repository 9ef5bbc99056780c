"""Moves a capture into the frame in which it is trained, whatever its units and its origin.

There the near plane, and all else that is a number of units, means the same for every capture. What
decides is how far away the cameras see something. Only training views are read.
"""

import dataclasses

import numpy as np

from jax_gsplat_depth._common.local_frame import FAR, LocalFrame
from jax_gsplat_depth.datasets import Capture, PosedViews, camera_centers
from jax_gsplat_depth.datasets._geometry import poses_at, project_points
from jax_gsplat_depth.fit._init import look_at_point, typical_distance

_UNITS_AWAY = 2.0
"""Local units between a camera and the nearest things that it sees."""

_NEAR_FRACTION = 0.1
_NEAR_POINTS = 50
"""What counts as nearest: this fraction of what a camera sees, but no more than so many points.

Along a street, most of the points in front of a camera are far away or hidden.
"""

_NEAR_OF_CENTER = 0.6
"""Distance of the nearest things relative to that of the scene's centre, where nothing is known."""

_MOST_VIEWS, _MOST_POINTS = 64, 50_000
"""Views and points that are looked at, evenly chosen if there are more."""

_ROUNDING = 64.0
"""Differences of so many last digits between positions of cameras are rounding."""


def local_capture(capture: Capture) -> tuple[Capture, LocalFrame]:
    """Return the capture in the frame of its training, with poses and points in float64.

    The frame follows the capture: one that was scaled, moved or turned gives the same local
    capture, turned. Depth priors, whose scale means nothing, stay.

    Args:
        capture: Posed photos with at least one training view.
    """
    viewmats, origin = _recentred(capture)
    points = None if capture.points is None else capture.points.astype(np.float64) - origin
    capture = dataclasses.replace(capture, viewmats=viewmats, points=points)
    frame = LocalFrame.around(np.zeros(3), _near_distance(capture) / _UNITS_AWAY, origin)
    if frame.unit == 1:
        return capture, frame
    scaled = LocalFrame(np.zeros(3), frame.unit)
    depths = capture.depths
    return dataclasses.replace(
        capture,
        viewmats=scaled.local_viewmats(viewmats),
        points=None if points is None else scaled.local_points(points),
        depths=None if depths is None else (depths / frame.unit).astype(depths.dtype),
    ), frame


def _recentred(capture: Capture) -> tuple[np.ndarray, np.ndarray]:
    """Return poses relative to an origin at the cameras, or to 0 if that is near enough."""
    viewmats = capture.viewmats.astype(np.float64)
    centers = camera_centers(viewmats)
    training = centers[capture.train_indices]
    middle = np.median(training, axis=0)
    spread = np.median(np.linalg.norm(training - middle, axis=1))
    if np.linalg.norm(middle) <= FAR * spread:
        return viewmats, np.zeros(3)
    offsets = centers - middle
    # Cameras in one place must not get a baseline, which would set the size of the scene.
    rounding = _ROUNDING * np.finfo(capture.viewmats.dtype).eps * np.abs(training).max()
    offsets[np.abs(offsets) <= rounding] = 0
    return poses_at(offsets, viewmats[:, :3, :3]), middle


def _near_distance(capture: Capture) -> float:
    """Return the distance of the nearest things that the training views see, world units."""
    train = _some(capture.train_indices, _MOST_VIEWS)
    seen: list[np.ndarray] = []
    if capture.points is not None:
        points = _some(capture.points, _MOST_POINTS)
        seen = [_depths_of(capture, view, points) for view in train]
    # With depth priors the true depth must not be used.
    if not any(map(len, seen)) and capture.depths is not None and capture.depth_priors is None:
        seen = [depths[depths > 0] for depths in capture.counted(capture.depths)[train]]
        nearest = [np.quantile(depths, _NEAR_FRACTION) for depths in seen if len(depths)]
    else:
        nearest = [_near_one(depths) for depths in seen if len(depths)]
    if nearest:
        return float(np.median(nearest))
    views = PosedViews.training(capture)
    return _NEAR_OF_CENTER * typical_distance(views, look_at_point(views)[None])


def _depths_of(capture: Capture, view: int, points: np.ndarray) -> np.ndarray:
    """Return the depths of the points that lie in a view, in no order."""
    K = capture.Ks[view].astype(np.float64)
    size = (capture.width, capture.height)
    _, depths, inside = project_points(points, capture.viewmats[view], K, size)
    return depths[inside]


def _near_one(depths: np.ndarray) -> float:
    rank = min(int(_NEAR_FRACTION * len(depths)), _NEAR_POINTS - 1)
    return float(np.partition(depths, rank)[rank])


def _some(rows: np.ndarray, most: int) -> np.ndarray:
    """Return the rows, or evenly chosen ones if there are too many."""
    if len(rows) <= most:
        return rows
    return rows[np.linspace(0, len(rows) - 1, most).round().astype(int)]
