"""Makes camera paths from the cameras of a fit: through its views, and around what they look at."""

import dataclasses

import numpy as np

from jax_gsplat_depth.datasets import CaptureError, camera_centers
from jax_gsplat_depth.datasets._geometry import pinhole_matrix, poses_at
from jax_gsplat_depth.frames._paths import TURN_LENGTH, CameraPath, numbered_path, smooth_path
from jax_gsplat_depth.frames._scene_cameras import SceneCameras

_FRAMES_PER_VIEW = 10
"""Frames from one view to the next where a path may choose its views."""

_FRAMES_PER_STEP = 2
"""The same where it follows a recording, of which more views only add the shaking of a hand."""

_A_RECORDING = 2.0
"""Largest length of a recording, relative to a tour from each view to the nearest one left."""

_EQUAL_VIEWS = 1e-6
"""Views nearer than this, relative to the extent of all, are one."""

_LEAST_SPREAD = 1e-3
"""Least eigenvalue, 0 to 1/3, at which directions meet in a point: they differ by some degrees."""

_IN_FRONT = 0.5
"""Least depth of that point relative to the extent of the cameras: else they look outwards."""

_STEEPEST = np.radians(80)
"""Elevation above which an orbit would turn about the optical axis."""


@dataclasses.dataclass(frozen=True)
class _Target:
    """What cameras look at.

    Attributes:
        point: ``[3]`` world frame.
        height: Median height of the cameras above it.
        radius: Median horizontal distance of the cameras from it.
        start: ``[3]`` horizontal unit vector from it towards the first camera.
    """

    point: np.ndarray
    height: float
    radius: float
    start: np.ndarray


def views_path(cameras: SceneCameras, indices: np.ndarray) -> CameraPath:
    """Return the cameras of some views as a path with images of one size, that of its first view.

    A view of another size is scaled until it fits into the image, and put into its middle.

    Args:
        cameras: The views.
        indices: Which of them, in the order of the path.

    Raises:
        CaptureError: ``indices`` is empty.
    """
    if len(indices) == 0:
        raise CaptureError("there are no such views")
    width, height = int(cameras.width[indices[0]]), int(cameras.height[indices[0]])
    Ks = np.array(cameras.Ks[indices])
    sizes = np.stack([cameras.width[indices], cameras.height[indices]], axis=1)
    scales = ([width, height] / sizes).min(axis=1)
    Ks[:, :2] *= scales[:, None, None]
    Ks[:, :2, 2] += ([width, height] - scales[:, None] * sizes) / 2
    return CameraPath(
        names=_unique([cameras.names[i] for i in indices]),
        viewmats=cameras.viewmats[indices],
        Ks=Ks.astype(np.float32),
        width=width,
        height=height,
    )


def training_path(cameras: SceneCameras, n_frames: int) -> CameraPath:
    """Return a smooth path through training views, from the first of them on.

    It follows the order of the views where that is a recording. Photos in no order are thinned out
    to some that are far from each other, and each is followed by the nearest one that is left.

    Args:
        cameras: The views.
        n_frames: Number of frames, at least 2; a single view gives one.

    Raises:
        ImportError: SciPy is not installed.
    """
    train = cameras.train_indices
    places = _places(cameras.viewmats[train])
    nearest = _tour(places)
    if _length(places) <= _A_RECORDING * _length(places[nearest]):
        count = min(len(train), max(2, n_frames // _FRAMES_PER_STEP))
        keys = np.unique(np.linspace(0, len(train) - 1, count).round().astype(int))
    else:
        keys = _far_apart(places, max(2, n_frames // _FRAMES_PER_VIEW))
        keys = keys[_tour(places[keys])]
    path = views_path(cameras, train[keys])
    return path if len(keys) < 2 else smooth_path(path, n_frames)


def views_orbit(
    cameras: SceneCameras,
    *,
    n_frames: int,
    width: int,
    height: int,
    fov_x: float,
    up: np.ndarray | None = None,
    elevation: float | None = None,
    distance: float = 1.0,
) -> CameraPath | None:
    """Return cameras on a circle around the point that training views look at.

    The circle has their height above the point and their distance from it, and begins in the
    direction of the first view.

    Args:
        cameras: The views.
        n_frames: Number of frames, at least 1; the last is one step before the first.
        width: Width of the images in pixels.
        height: Height of the images in pixels.
        fov_x: Horizontal field of view, radians.
        up: ``[3]`` upward direction, world frame, not zero; None for that of the views.
        elevation: Angle in radians, between -pi/2 and pi/2, by which the cameras look down; None
            for what follows from their height.
        distance: Factor on the distance from the point, positive.

    Returns:
        The path, or None if the views look at no common point: all the same way, or outwards.
    """
    up = cameras.up if up is None else np.asarray(up, np.float64)
    up = up / np.linalg.norm(up)
    target = _target(cameras.viewmats[cameras.train_indices], up)
    if target is None:
        return None
    if elevation is None:
        elevation = float(np.arctan2(target.height, target.radius))
        elevation = float(np.clip(elevation, -_STEEPEST, _STEEPEST))
    away = distance * np.hypot(target.height, target.radius)
    turn = 2 * np.pi * np.arange(n_frames)[:, None] / n_frames
    aside = np.cos(turn) * target.start + np.sin(turn) * np.cross(up, target.start)
    backward = np.cos(elevation) * aside + np.sin(elevation) * up
    right = np.cross(up, aside)
    rotations = np.stack([right, np.cross(right, backward), -backward], axis=1)
    viewmats = poses_at(target.point + away * backward, rotations)
    focal = width / 2 / np.tan(fov_x / 2)
    K = pinhole_matrix(focal, focal, width / 2, height / 2)
    return numbered_path(viewmats, np.tile(K, (n_frames, 1, 1)), width, height)


def _target(viewmats: np.ndarray, up: np.ndarray) -> _Target | None:
    """Return the point that is nearest to all optical axes, if it is in front of the cameras."""
    centers, axes = camera_centers(viewmats), viewmats[:, 2, :3]
    middle = centers.mean(axis=0)
    centers = centers - middle
    # The sum of the squared distances from the axes is a quadratic form.
    across = np.eye(3) - axes[:, :, None] * axes[:, None, :]
    form = across.mean(axis=0)
    if np.linalg.eigvalsh(form)[0] < _LEAST_SPREAD:
        return None
    point = np.linalg.solve(form, np.einsum("vij,vj->vi", across, centers).mean(axis=0))
    extent = np.median(np.linalg.norm(centers, axis=1))
    depth = np.median(np.einsum("vi,vi->v", point - centers, axes))
    if not depth > _IN_FRONT * extent:
        return None
    away = centers - point
    heights = away @ up
    aside = away - heights[:, None] * up
    radii = np.linalg.norm(aside, axis=1)
    # From above, the first camera may be in no direction.
    start = aside[0] if radii[0] > _EQUAL_VIEWS * np.abs(heights[0]) else -viewmats[0, 1, :3]
    start = start - (start @ up) * up
    if not np.linalg.norm(start) > 0:
        start = np.linalg.svd(up[None])[2][1]
    return _Target(
        point=point + middle,
        height=float(np.median(heights)),
        radius=float(np.median(radii)),
        start=start / np.linalg.norm(start),
    )


def _places(viewmats: np.ndarray) -> np.ndarray:
    """Return ``[V, 12]`` vectors whose distances are the time that a path takes between views."""
    centers = camera_centers(viewmats)
    size = np.linalg.norm(np.ptp(centers, axis=0)) or 1.0
    # Between rotations, the Frobenius norm is the angle times sqrt(2), while that is small.
    turns = viewmats[:, :3, :3].reshape(-1, 9) * (TURN_LENGTH / np.sqrt(2))
    return np.concatenate([centers / size, turns], axis=1)


def _length(places: np.ndarray) -> float:
    return float(np.linalg.norm(np.diff(places, axis=0), axis=1).sum())


def _tour(places: np.ndarray) -> np.ndarray:
    """Return an order in which each place is the nearest one that is left; the first stays."""
    left = np.arange(1, len(places))
    order = [0]
    while len(left):
        nearest = np.linalg.norm(places[left] - places[order[-1]], axis=1).argmin()
        order.append(int(left[nearest]))
        left = np.delete(left, nearest)
    return np.array(order)


def _far_apart(places: np.ndarray, n: int) -> np.ndarray:
    """Return the sorted indices of up to ``n`` places, each as far as can be from those before."""
    chosen = [0]
    distances = np.linalg.norm(places - places[0], axis=1)
    while len(chosen) < n and distances.max() > _EQUAL_VIEWS:
        chosen.append(int(distances.argmax()))
        distances = np.minimum(distances, np.linalg.norm(places - places[chosen[-1]], axis=1))
    return np.sort(chosen)


def _unique(names: list[str]) -> list[str]:
    """Return the names, with numbers before them if two are equal."""
    if len(set(names)) == len(names):
        return names
    return [f"{i:04d}_{name}" for i, name in enumerate(names)]
