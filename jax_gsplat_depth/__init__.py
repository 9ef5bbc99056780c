"""3D Gaussian splatting for JAX: image, depth and weight in one differentiable pass."""

from jax_gsplat_depth import io as io
from jax_gsplat_depth._bin import bin
from jax_gsplat_depth._blend import blend
from jax_gsplat_depth._camera import Camera
from jax_gsplat_depth._project import project
from jax_gsplat_depth._render import render
from jax_gsplat_depth._shade import shade
from jax_gsplat_depth._types import Config, Gaussians, Intersections, RenderOutput, Splats
from jax_gsplat_depth.seeds import GaussianRasterizationSettings, GaussianRasterizer
from jax_gsplat_depth.sh import convert_sh, rotate_sh

__version__ = "0.1.0"

__all__ = [
    "Camera",
    "Config",
    "GaussianRasterizationSettings",
    "GaussianRasterizer",
    "Gaussians",
    "Intersections",
    "RenderOutput",
    "Splats",
    "bin",
    "blend",
    "convert_sh",
    "project",
    "render",
    "rotate_sh",
    "shade",
]
