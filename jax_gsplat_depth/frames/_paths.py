"""Makes camera paths: around a scene, from the views of a capture, smoothly through them."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from jax_gsplat_depth._camera import Camera
from jax_gsplat_depth._common.by_shape import shown_by_shape
from jax_gsplat_depth._common.extras import require
from jax_gsplat_depth._common.local_frame import LocalFrame
from jax_gsplat_depth._common.local_scene import LocalScene
from jax_gsplat_depth._types import Gaussians
from jax_gsplat_depth.datasets import Capture, CaptureError, camera_centers
from jax_gsplat_depth.datasets._geometry import poses_at, scaled_pinhole
from jax_gsplat_depth.frames._box import scene_box

LARGEST_SIDE = 1 << 14
"""Longest side of an image in pixels; longer ones are mistakes, and fit into no memory."""

_MARGIN = 1.2
"""Factor on the distance of an orbit: room around the box in the image."""

_BEFORE_BACKDROP = 0.65
"""Largest radius of an orbit relative to the backdrop, which from behind would hide the scene."""

_CLEAR = 1.2
"""Least radius of an orbit as a multiple of the half widths of the box."""

TURN_LENGTH = 0.5
"""Turning by one radian takes as long as moving by this part of the extent of the path."""

_LEAST_STEP = 1e-3
"""Least time between two views relative to the mean: equal cameras must not divide by 0."""


@shown_by_shape
@dataclasses.dataclass(frozen=True)
class CameraPath:
    """``V`` cameras of one image size, in the order in which they are rendered.

    Attributes:
        names: ``V`` unique names of the frames, good as file names.
        viewmats: ``[V, 4, 4]`` float64, world to camera, OpenCV axes.
        Ks: ``[V, 3, 3]`` float32, pixels.
        width: Width of the images in pixels.
        height: Height of the images in pixels.
    """

    names: list[str]
    viewmats: np.ndarray
    Ks: np.ndarray
    width: int
    height: int


def orbit(
    gaussians: Gaussians | LocalScene,
    *,
    up: np.ndarray,
    n_frames: int,
    width: int,
    height: int,
    fov_x: float,
    elevation: float = 0.3,
    distance: float = 1.0,
) -> CameraPath:
    """Return cameras on an ellipse around the scene, once around, all looking at its centre.

    The ellipse keeps the distance from the box of ``scene_box`` at which the widest side of the box
    fits into the image with a margin: its half axes are those of the box plus that distance. A
    backdrop makes it narrower, so that the cameras stay in front of the backdrop.

    Args:
        gaussians: Activated Gaussians.
        up: ``[3]`` upward direction, world frame, not zero.
        n_frames: Number of cameras, at least 1; the last is one step before the first.
        width: Width of the images in pixels.
        height: Height of the images in pixels.
        fov_x: Horizontal field of view, radians.
        elevation: Angle in radians, between -pi/2 and pi/2, by which the cameras look down.
        distance: Factor on the distance from the centre, positive.

    Raises:
        ValueError: No Gaussian can be drawn.
    """
    scene = LocalScene.of(gaussians)
    # In its own frame, and back at the end: the camera is computed in float32.
    box = scene_box(LocalScene(scene.gaussians, LocalFrame(np.zeros(3), 1.0)), up)
    half_angle = min(fov_x / 2, np.arctan(np.tan(fov_x / 2) * height / width))
    away = _MARGIN * box.half_widths.max() / np.tan(half_angle)
    radii = box.half_widths[:2] + away
    radii *= min(1.0, _BEFORE_BACKDROP * box.backdrop / radii.max())
    radii = distance * np.maximum(radii, _CLEAR * box.half_widths[:2])
    turn = 2 * np.pi * np.arange(n_frames) / n_frames
    local = np.stack(
        [
            np.cos(elevation) * radii[0] * np.cos(turn),
            np.cos(elevation) * radii[1] * np.sin(turn),
            np.full(n_frames, np.sin(elevation) * radii.mean()),
        ],
        axis=1,
    )
    camera = Camera.look_at(
        np.asarray(box.center + local @ box.axes, np.float32),
        np.asarray(box.center, np.float32),
        np.asarray(box.axes[2], np.float32),
        fov_x=jnp.float32(fov_x),
        width=width,
        height=height,
    )
    viewmats = scene.frame.world_viewmats(np.asarray(camera.viewmat))
    return numbered_path(viewmats, np.asarray(camera.K), width, height)


def views_of(capture: Capture, indices: np.ndarray) -> CameraPath:
    """Return the cameras of some views of a capture, with their names.

    Raises:
        CaptureError: ``indices`` is empty.
    """
    if len(indices) == 0:
        raise CaptureError("the capture has no such views")
    return CameraPath(
        names=[capture.names[i] for i in indices],
        viewmats=capture.viewmats[indices].astype(np.float64),
        Ks=capture.Ks[indices],
        width=capture.width,
        height=capture.height,
    )


def smooth_path(cameras: CameraPath, n_frames: int) -> CameraPath:
    """Return cameras on a smooth path through the given ones, in their order, at a steady pace.

    Positions follow a cubic spline, rotations a spline with continuous angular velocity. The time
    between two cameras is proportional to the distance between them, turns included. The first and
    the last camera are those of ``cameras``. Intrinsics change linearly.

    Args:
        cameras: The cameras to pass through, at least 2.
        n_frames: Number of cameras of the result, at least 2.

    Raises:
        CaptureError: There are fewer than 2 cameras.
        ImportError: SciPy is not installed.
    """
    if len(cameras.names) < 2:
        raise CaptureError("a path needs at least 2 views")
    interpolate = require("scipy.interpolate")
    transform = require("scipy.spatial.transform")
    given = np.asarray(cameras.viewmats, np.float64)
    eyes = camera_centers(given)
    rotations = transform.Rotation.from_matrix(given[:, :3, :3].swapaxes(1, 2))

    moved = np.linalg.norm(np.diff(eyes, axis=0), axis=1)
    size = np.linalg.norm(np.ptp(eyes, axis=0)) or 1.0
    turned = (rotations[:-1].inv() * rotations[1:]).magnitude()
    steps = np.hypot(moved, TURN_LENGTH * size * turned)
    steps = np.maximum(steps, _LEAST_STEP * (steps.mean() or 1.0))
    times = np.concatenate([[0.0], np.cumsum(steps)])

    at = np.linspace(0, times[-1], n_frames)
    eyes = interpolate.CubicSpline(times, eyes)(at)
    to_camera = transform.RotationSpline(times, rotations)(at).as_matrix().swapaxes(1, 2)
    viewmats = poses_at(eyes, to_camera)
    Ks = interpolate.make_interp_spline(times, cameras.Ks, k=1)(at)
    return numbered_path(viewmats, Ks, cameras.width, cameras.height)


def resized(cameras: CameraPath, width: int | None, height: int | None) -> CameraPath:
    """Return the same views with another number of pixels.

    Args:
        cameras: The cameras.
        width: New width in pixels, or None to keep the shape of the image.
        height: New height in pixels, or None to keep the shape of the image.

    Raises:
        ValueError: A side would be longer than ``LARGEST_SIDE``.
    """
    if width is None:
        scale = 1.0 if height is None else height / cameras.height
        width = max(1, round(scale * cameras.width))
    if height is None:
        height = max(1, round(width / cameras.width * cameras.height))
    if max(width, height) > LARGEST_SIDE:
        raise ValueError(
            f"images of {width}x{height} pixels are too large: expected at most {LARGEST_SIDE} on "
            "a side"
        )
    Ks = scaled_pinhole(cameras.Ks, width / cameras.width, height / cameras.height)
    return dataclasses.replace(cameras, Ks=Ks.astype(np.float32), width=width, height=height)


def numbered_path(viewmats: np.ndarray, Ks: np.ndarray, width: int, height: int) -> CameraPath:
    """Return cameras whose names are numbers that sort in their order."""
    digits = max(4, len(str(len(viewmats) - 1)))
    return CameraPath(
        names=[f"{i:0{digits}d}" for i in range(len(viewmats))],
        viewmats=viewmats,
        Ks=Ks.astype(np.float32),
        width=width,
        height=height,
    )
