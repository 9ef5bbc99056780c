"""Draws the picture of the viewer: a pure function of Gaussians, pose and controls."""

import dataclasses
import io
import math

import numpy as np

from jax_gsplat_depth._common.depth_colors import color_range
from jax_gsplat_depth._common.extras import require
from jax_gsplat_depth._common.local_scene import LocalScene
from jax_gsplat_depth._types import Config, Gaussians
from jax_gsplat_depth.datasets._geometry import inverted, pinhole_matrix, rotation_matrix
from jax_gsplat_depth.frames import (
    LARGEST_SIDE,
    CameraPath,
    depth_picture,
    render_frames,
    weight_picture,
)

_MOST_PIXELS = 2048 * 1024
"""Most pixels of a picture; a larger browser window enlarges it."""

_SIDES = (64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)
"""Sides of pictures in pixels, two per octave: one of the canvas between them is scaled by 1.23 at
most."""

SIZES = tuple(
    (width, height)
    for width in _SIDES
    for height in _SIDES
    if max(width, height) <= 2 * min(width, height) and width * height <= _MOST_PIXELS
)
"""The 45 sizes that pictures have: each is compiled once, whatever becomes of a window."""

_LARGEST_PNG = 4096
"""Longest side of a picture to be saved, pixels."""


@dataclasses.dataclass(frozen=True)
class Pose:
    """A camera as the browser describes it, whose world is the local frame of the scene.

    Attributes:
        position: ``[3]`` in that frame.
        wxyz: ``[4]`` unit quaternion from camera axes (x right, y down, z forward) to that frame.
        fov_y: Vertical field of view, radians.
        width: Width of the canvas in pixels, whatever the browser says: 0 if its window is hidden.
        height: Height of the canvas in pixels, likewise.
    """

    position: np.ndarray
    wxyz: np.ndarray
    fov_y: float
    width: int
    height: int

    @property
    def canvas(self) -> tuple[int, int]:
        """Width and height in pixels, at least 1 and limited to what can be drawn."""
        width, height = (min(max(n, 1), LARGEST_SIDE) for n in (self.width, self.height))
        return width, height


@dataclasses.dataclass(frozen=True)
class Look:
    """The state of the controls.

    Attributes:
        output: ``image``, ``depth`` or ``weight``.
        depth_range: Depths of the first and the last colour, world units.
        min_weight: Pixels of less weight are grey in depth pictures and black in weight pictures.
        background: ``(r, g, b)`` in 0..1.
    """

    output: str
    depth_range: tuple[float, float]
    min_weight: float
    background: tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class DrawnView:
    """A picture with the depth and the weight of its pixels.

    Attributes:
        picture: ``[H, W, 3]`` uint8.
        depth: ``[H, W]`` world units, 0 where nothing was hit.
        weight: ``[H, W]`` in 0..1.
    """

    picture: np.ndarray
    depth: np.ndarray
    weight: np.ndarray


def draw(
    gaussians: Gaussians | LocalScene,
    pose: Pose,
    look: Look,
    factor: float = 1.0,
    *,
    config: Config | None = None,
) -> DrawnView:
    """Render the picture that the browser should show.

    Args:
        gaussians: Activated Gaussians with 3 colour channels.
        pose: The camera.
        look: The state of the controls.
        factor: Sides of the picture relative to those of the canvas, at most 1.
        config: Settings of the renderer; None for its defaults.
    """
    width, height = picture_size(pose, factor)
    viewmat, K = camera_of(pose, width, height)
    scene = LocalScene.of(gaussians)
    camera = CameraPath([""], scene.frame.world_viewmats(viewmat[None]), K[None], width, height)
    (frame,) = render_frames(scene, camera, np.asarray(look.background), config=config)
    depth, weight = frame.depth, frame.weight
    if look.output == "depth":
        picture = depth_picture(depth, weight, *look.depth_range, look.min_weight)
    elif look.output == "weight":
        gray = weight_picture(np.where(weight < look.min_weight, 0, weight))
        picture = np.repeat(gray[..., None], 3, axis=-1)
    else:
        picture = frame.image
    return DrawnView(picture, depth, weight)


def picture_size(pose: Pose, factor: float) -> tuple[int, int]:
    """Return that of ``SIZES`` to which the sides of the canvas are scaled least."""
    across, down = (factor * side for side in pose.canvas)

    def scaling(size: tuple[int, int]) -> float:
        return math.log(size[0] / across) ** 2 + math.log(size[1] / down) ** 2

    return min(SIZES, key=scaling)


def camera_of(pose: Pose, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """Return ``viewmat [4, 4]``, local to camera, and ``K [3, 3]`` that fill the canvas."""
    wxyz = np.asarray(pose.wxyz, np.float64)
    to_world = np.eye(4)
    to_world[:3, :3] = rotation_matrix(wxyz / np.linalg.norm(wxyz))
    to_world[:3, 3] = pose.position
    fy = 0.5 * height / np.tan(0.5 * pose.fov_y)
    # The browser stretches the picture to the canvas, which has square pixels.
    across, down = pose.canvas
    fx = fy * (width / height) / (across / down)
    K = pinhole_matrix(fx, fy, width / 2, height / 2)
    return inverted(to_world), K.astype(np.float32)


def range_of(view: DrawnView, min_weight: float) -> tuple[float, float] | None:
    """Return the range of depth colours that suits the solid pixels of a view, None without any."""
    solid = view.depth[(view.depth > 0) & (view.weight >= min_weight)]
    return color_range(solid) if len(solid) else None


def png_of(picture: np.ndarray, pose: Pose, look: Look) -> bytes:
    """Return a PNG of a picture with square pixels, of the size that the canvas has.

    Args:
        picture: ``[H, W, 3]`` uint8 of that canvas, which the browser stretches.
        pose: The camera that it shows.
        look: What it shows: colours that mean depths are not mixed.
    """
    image = require("PIL.Image", "viewer")
    scale = min(1.0, _LARGEST_PNG / max(pose.canvas))
    width, height = (max(1, round(scale * side)) for side in pose.canvas)
    how = image.Resampling.LANCZOS if look.output == "image" else image.Resampling.NEAREST
    stream = io.BytesIO()
    image.fromarray(picture).resize((width, height), how).save(stream, "PNG")
    return stream.getvalue()
