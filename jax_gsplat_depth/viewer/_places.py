"""Finds the places to look from: the views of a capture, or one in front of the scene.

All is pure: it knows cameras and the scene, but neither browsers nor controls.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jax_gsplat_depth._camera import Camera
from jax_gsplat_depth._common.local_frame import LocalFrame
from jax_gsplat_depth._common.local_scene import LocalScene
from jax_gsplat_depth.datasets import Capture, CaptureError, camera_centers
from jax_gsplat_depth.datasets._geometry import pinhole, pinhole_matrix, rigid
from jax_gsplat_depth.frames import (
    CameraPath,
    SceneBox,
    SceneCameras,
    load_scene_cameras,
    orbit,
    scene_box,
    up_of,
)

_FOV_X, _ELEVATION = math.radians(60), math.radians(20)
"""Horizontal field of view and elevation of the camera in front of a scene, radians."""

_WIDTH, _HEIGHT = 160, 120
"""Size in pixels of the picture that gives the first range of depths."""

FOV_DEGREES = (1.0, 150.0)
"""Least and largest vertical field of view, degrees."""

_NEAREST_PIVOT = 0.25
"""Least distance to the point that the mouse turns around, relative to the scene's half width."""

_UPRIGHT = 0.1
"""Least sine of the angle between up and a camera's right side for the camera to be upright."""

_Z = (0.0, 0.0, 1.0)

Cameras = Any
"""Cameras of any kind of this package: ``frames.SceneCameras``, a ``datasets.Capture``,
``frames.CameraPath``, a ``Camera`` of one or of many views, or a sequence of these."""


@dataclasses.dataclass(frozen=True)
class Place:
    """Where the camera of the browser can go, in the local frame of the scene.

    Attributes:
        label: Its name in a list.
        viewmat: ``[4, 4]`` float64, local to camera.
        up: ``[3]`` direction that is up in the picture.
        distance: Distance, along the optical axis, of the point that the mouse turns around.
        reach: Tangents of the largest angles across and down that have to be in the picture.
    """

    label: str
    viewmat: np.ndarray
    up: np.ndarray
    distance: float
    reach: tuple[float, float]

    @property
    def position(self) -> np.ndarray:
        """``[3]`` float64."""
        return camera_centers(self.viewmat[None])[0]

    @property
    def look_at(self) -> np.ndarray:
        """``[3]`` float64, the point that the mouse turns around."""
        return self.position + self.distance * self.viewmat[2, :3]

    def fov_y(self, width: int, height: int) -> float:
        """Return the vertical field of view, radians, that shows all of it on a canvas.

        Args:
            width: Of the canvas in pixels; what is no size counts as one of the place's shape.
            height: Likewise.
        """
        across, down = self.reach
        half = max(down, across * height / width) if min(width, height) > 0 else down
        low, high = np.radians(FOV_DEGREES)
        return float(np.clip(2 * math.atan(half), low, high))

    def small_view(self, frame: LocalFrame) -> CameraPath:
        """Return the camera of a small picture that shows all of it.

        Args:
            frame: The local frame of the scene.
        """
        focal = 0.5 * _HEIGHT / math.tan(0.5 * self.fov_y(_WIDTH, _HEIGHT))
        K = pinhole_matrix(focal, focal, _WIDTH / 2, _HEIGHT / 2).astype(np.float32)
        return CameraPath(
            [self.label], frame.world_viewmats(self.viewmat[None]), K[None], _WIDTH, _HEIGHT
        )


@dataclasses.dataclass(frozen=True)
class Tour:
    """All places of a scene.

    Attributes:
        places: In the order of the list, at least one.
        start: Index of the first to be shown.
        up: ``[3]`` unit vector, upward direction of the scene.
    """

    places: tuple[Place, ...]
    start: int
    up: np.ndarray

    @property
    def first(self) -> Place:
        """The place that is shown at first."""
        return self.places[self.start]

    @classmethod
    def of(cls, scene: LocalScene, cameras: Cameras | None, up: np.ndarray | None) -> "Tour":
        """Return the views of a capture, or without cameras one place in front of the scene.

        Args:
            scene: The Gaussians.
            cameras: Cameras of any kind (see ``Cameras``), world frame.
            up: ``[3]`` upward direction, world frame; None takes that of the cameras, else z.

        Raises:
            ValueError: The cameras cannot be used, ``up`` is no direction, or no Gaussian can be
                drawn.
        """
        views = None if cameras is None else scene_cameras_of(cameras)
        if up is None:
            up = np.array(_Z) if views is None else views.up
        up = _direction(up)
        # The frame has the axes of the world.
        local = LocalScene(scene.gaussians, LocalFrame(np.zeros(3), 1.0))
        box = scene_box(local, up)
        if views is None:
            return cls((_in_front(local, up, box),), 0, up)
        viewmats = scene.frame.local_viewmats(views.viewmats)
        places = tuple(
            Place(
                label=label,
                viewmat=viewmat,
                up=_up_in_picture(viewmat, up),
                distance=_pivot_distance(viewmat, box),
                reach=reach_of(K, *size),
            )
            for label, viewmat, K, *size in zip(
                _labels(views), viewmats, views.Ks, views.width, views.height, strict=True
            )
        )
        return cls(places, int(views.train_indices[0]), up)


def cameras_beside(path: str | Path, say: Callable[[str], None]) -> SceneCameras | None:
    """Return the cameras that were saved beside a file of Gaussians; None if there are none.

    Args:
        path: The file of Gaussians.
        say: Called with a warning where they are damaged: nobody asked for them.
    """
    try:
        return load_scene_cameras(path)
    except CaptureError as error:
        say(f"warning: its cameras are not used: {error}")
        return None


def scene_cameras_of(cameras: Cameras) -> SceneCameras:
    """Return cameras of any kind as the views of a scene.

    Args:
        cameras: See ``Cameras``; at least one.

    Raises:
        ValueError: They are of no such kind, there are none, or a pose or a pinhole is none.
    """
    if isinstance(cameras, Capture):
        cameras = SceneCameras.of_capture(cameras)
    if isinstance(cameras, SceneCameras | CameraPath):
        names = list(cameras.names)
        parts = [(cameras.viewmats, cameras.Ks, cameras.width, cameras.height)]
    else:
        found = [cameras] if isinstance(cameras, Camera) else cameras
        if not isinstance(found, Sequence) or not all(isinstance(c, Camera) for c in found):
            raise ValueError(
                "cameras: expected a Camera, a list of them, a Capture, a CameraPath or "
                f"SceneCameras, got {type(cameras).__name__}"
            )
        names = None
        parts = [(c.viewmat, c.K, c.width, c.height) for c in found]
    stacked = [_stacked(*part) for part in parts]
    if sum(len(viewmats) for viewmats, _, _ in stacked) == 0:
        raise ValueError("cameras: expected at least one")
    viewmats, Ks, sizes = (np.concatenate(arrays) for arrays in zip(*stacked, strict=True))
    names = [f"{i:04d}" for i in range(len(viewmats))] if names is None else names
    for i, (viewmat, K) in enumerate(zip(viewmats, Ks, strict=True)):
        where = f"cameras: view {names[i]}"
        viewmats[i] = rigid(viewmat[:3, :3], viewmat[:3, 3], where=where)
        pinhole(K[0, 0], K[1, 1], K[0, 2], K[1, 2], where=where)
    if isinstance(cameras, SceneCameras):
        return dataclasses.replace(cameras, viewmats=viewmats)
    return SceneCameras(
        names=names,
        viewmats=viewmats,
        Ks=Ks,
        width=sizes[:, 0],
        height=sizes[:, 1],
        up=up_of(viewmats),
        held_out=np.zeros(len(names), bool),
    )


def reach_of(K: np.ndarray, width: float, height: float) -> tuple[float, float]:
    """Return the tangents of the largest angles across and down in an image.

    Args:
        K: ``[3, 3]`` pinhole matrix in pixels; the principal point may be off the middle.
        width: Of the image in pixels.
        height: Of the image in pixels.
    """
    across = max(K[0, 2], width - K[0, 2]) / K[0, 0]
    down = max(K[1, 2], height - K[1, 2]) / K[1, 1]
    return float(across), float(down)


def _in_front(scene: LocalScene, up: np.ndarray, box: SceneBox) -> Place:
    path = orbit(
        scene, up=up, n_frames=1, width=_WIDTH, height=_HEIGHT, fov_x=_FOV_X, elevation=_ELEVATION
    )
    viewmat = path.viewmats[0]
    distance = float(np.linalg.norm(box.center - camera_centers(viewmat[None])[0]))
    return Place("start", viewmat, up, distance, reach_of(path.Ks[0], _WIDTH, _HEIGHT))


def _pivot_distance(viewmat: np.ndarray, box: SceneBox) -> float:
    """Return how far along the optical axis the scene is; of one behind the camera, a little."""
    depth = viewmat[2, :3] @ box.center + viewmat[2, 3]
    return float(max(depth, _NEAREST_PIVOT * box.half_widths.max()))


def _up_in_picture(viewmat: np.ndarray, up: np.ndarray) -> np.ndarray:
    """Return what the browser has to keep up so that the picture has the roll of the camera.

    It is the nearest to the upward direction of the scene, around which the mouse should turn.
    """
    right, above = viewmat[0, :3], -viewmat[1, :3]
    nearest = up - (up @ right) * right
    nearest /= max(np.linalg.norm(nearest), _UPRIGHT)
    # A camera that looks straight down, is upside down or lies on its side has its own.
    return nearest / np.linalg.norm(nearest) if nearest @ above > _UPRIGHT else above


def _direction(up: Any) -> np.ndarray:
    try:
        vector = np.asarray(up, np.float64)
    except (TypeError, ValueError):
        vector = np.zeros(0)
    length = np.linalg.norm(vector)
    if vector.shape != (3,) or not np.isfinite(length) or length == 0:
        raise ValueError(f"up: expected 3 finite numbers, not all zero, got {up!r}")
    return vector / length


def _stacked(viewmat: Any, K: Any, width: Any, height: Any) -> tuple[np.ndarray, ...]:
    """Return poses, pinholes and sizes of cameras that may or may not have an axis of views."""
    viewmats = np.array(viewmat, np.float64).reshape(-1, 4, 4)
    n = len(viewmats)
    Ks = np.broadcast_to(np.asarray(K, np.float64), (n, 3, 3))
    sizes = np.stack([np.broadcast_to(np.asarray(side), n) for side in (width, height)], axis=1)
    return viewmats, Ks, sizes


def _labels(views: SceneCameras) -> list[str]:
    """Return the names, with a number where two are equal, and what was held out."""
    unique = len(set(views.names)) == len(views.names)
    return [
        (name if unique else f"{i}: {name}") + (" (held out)" if held_out else "")
        for i, (name, held_out) in enumerate(zip(views.names, views.held_out, strict=True))
    ]
