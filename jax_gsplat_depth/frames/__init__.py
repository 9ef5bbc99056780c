"""Renders Gaussians along camera paths to pictures and videos, as ``jax-gsplat-depth render`` does.

``_box`` finds the scene in a cloud of Gaussians, ``_paths`` and ``_camera_file`` make cameras.
``_scene_cameras`` keeps those of a fit beside its Gaussians, with the direction that ``_up`` finds,
and ``_scene_path`` makes a path of them. ``_render`` renders cameras, ``_colors`` turns depth and
weight into colours, ``_write`` writes files.
"""

from jax_gsplat_depth._common.local_frame import LocalFrame
from jax_gsplat_depth._common.local_scene import LocalScene
from jax_gsplat_depth._common.result_folder import OutputError
from jax_gsplat_depth.frames._box import SceneBox, scene_box
from jax_gsplat_depth.frames._camera_file import read_cameras, write_cameras
from jax_gsplat_depth.frames._colors import color_of, depth_picture, weight_picture
from jax_gsplat_depth.frames._paths import (
    LARGEST_SIDE,
    CameraPath,
    orbit,
    resized,
    smooth_path,
    views_of,
)
from jax_gsplat_depth.frames._render import Frame, depth_range, render_frames
from jax_gsplat_depth.frames._scene_cameras import (
    SCENE_CAMERAS,
    SceneCameras,
    load_scene_cameras,
    save_scene_cameras,
)
from jax_gsplat_depth.frames._scene_path import training_path, views_orbit, views_path
from jax_gsplat_depth.frames._up import up_of
from jax_gsplat_depth.frames._write import OUTPUTS, RenderSettings, check_output, render_to

__all__ = [
    "LARGEST_SIDE",
    "OUTPUTS",
    "CameraPath",
    "Frame",
    "LocalFrame",
    "LocalScene",
    "OutputError",
    "RenderSettings",
    "SCENE_CAMERAS",
    "SceneBox",
    "SceneCameras",
    "check_output",
    "color_of",
    "depth_picture",
    "depth_range",
    "load_scene_cameras",
    "orbit",
    "read_cameras",
    "render_frames",
    "render_to",
    "resized",
    "save_scene_cameras",
    "scene_box",
    "smooth_path",
    "training_path",
    "up_of",
    "views_of",
    "views_orbit",
    "views_path",
    "weight_picture",
    "write_cameras",
]
