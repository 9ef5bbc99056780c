"""What the commands ``render``, ``eval`` and ``view`` do with fitted Gaussians.

``_extent`` finds the scene in a cloud of Gaussians, ``_paths`` and ``_camera_file`` make cameras,
``_frames`` renders them and ``_colors`` turns depth and weight into colours; ``_output`` and
``_evaluation`` write files. ``_view`` is the picture of the viewer as a function of camera and
controls, ``_session`` the loop of one browser and ``_viewer`` the server.
"""

from jax_gsplat_depth.tools._camera_file import read_cameras, write_cameras
from jax_gsplat_depth.tools._colors import color_of, depth_picture, weight_picture
from jax_gsplat_depth.tools._evaluation import evaluate_splats
from jax_gsplat_depth.tools._extent import Extent, scene_extent
from jax_gsplat_depth.tools._frames import Frame, depth_range, render_frames
from jax_gsplat_depth.tools._output import OUTPUTS, RenderSettings, check_output, render_to
from jax_gsplat_depth.tools._paths import (
    LARGEST_SIDE,
    CameraPath,
    orbit,
    resized,
    smooth_path,
    views_of,
)

__all__ = [
    "LARGEST_SIDE",
    "OUTPUTS",
    "CameraPath",
    "Extent",
    "Frame",
    "RenderSettings",
    "check_output",
    "color_of",
    "depth_picture",
    "depth_range",
    "evaluate_splats",
    "orbit",
    "read_cameras",
    "render_frames",
    "render_to",
    "resized",
    "scene_extent",
    "smooth_path",
    "views_of",
    "weight_picture",
    "write_cameras",
]
