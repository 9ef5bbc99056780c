"""3D Gaussian splatting for JAX: image, depth and weight in one differentiable pass."""

from typing import TYPE_CHECKING

from jax_gsplat_depth import _start as _start  # before anything imports JAX

# isort: split
from jax_gsplat_depth import compat as compat
from jax_gsplat_depth import io as io
from jax_gsplat_depth._bin import bin as bin
from jax_gsplat_depth._blend import blend
from jax_gsplat_depth._camera import Camera
from jax_gsplat_depth._common.extras import lazy_names
from jax_gsplat_depth._covariances import covariances, quats_and_scales
from jax_gsplat_depth._project import opacity_compensation, project
from jax_gsplat_depth._render import render
from jax_gsplat_depth._shade import shade
from jax_gsplat_depth._types import (
    Bins,
    Config,
    Contributors,
    Gaussians,
    RenderOutput,
    Splats,
    ViewStatistics,
)
from jax_gsplat_depth._weights import contributors, view_statistics
from jax_gsplat_depth.compat import GaussianRasterizationSettings, GaussianRasterizer
from jax_gsplat_depth.sh import convert_sh, rotate_sh

if TYPE_CHECKING:
    from jax_gsplat_depth import datasets as datasets
    from jax_gsplat_depth import densify as densify
    from jax_gsplat_depth import evaluation as evaluation
    from jax_gsplat_depth import fit as fit
    from jax_gsplat_depth import frames as frames
    from jax_gsplat_depth import losses as losses
    from jax_gsplat_depth import viewer as viewer

__version__ = "0.1.0"

# Without ``bin``, which would shadow the built-in function where all names are imported.
__all__ = [
    "Bins",
    "Camera",
    "Config",
    "Contributors",
    "GaussianRasterizationSettings",
    "GaussianRasterizer",
    "Gaussians",
    "RenderOutput",
    "Splats",
    "ViewStatistics",
    "blend",
    "contributors",
    "convert_sh",
    "covariances",
    "opacity_compensation",
    "project",
    "quats_and_scales",
    "render",
    "rotate_sh",
    "shade",
    "view_statistics",
]

# Loaded when first used: importing the renderer stays quick.
_LAZY = ("datasets", "densify", "evaluation", "fit", "frames", "losses", "viewer")
__getattr__ = lazy_names(__name__, dict.fromkeys(_LAZY, ""))


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
