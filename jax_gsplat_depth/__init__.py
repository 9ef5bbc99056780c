"""3D Gaussian splatting for JAX: image, depth and weight in one differentiable pass."""

from jax_gsplat_depth._bin import bin
from jax_gsplat_depth._blend import blend
from jax_gsplat_depth._project import project
from jax_gsplat_depth._render import render
from jax_gsplat_depth._shade import shade
from jax_gsplat_depth._types import (
    Camera,
    Config,
    Gaussians,
    Intersections,
    RenderOutput,
    Splats,
)

__version__ = "0.1.0"

__all__ = [
    "Camera",
    "Config",
    "Gaussians",
    "Intersections",
    "RenderOutput",
    "Splats",
    "bin",
    "blend",
    "project",
    "render",
    "shade",
]
