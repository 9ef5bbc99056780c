"""Finds which Gaussians make up each pixel of a view, and what each of them adds to the view.

A weight is that of blending, w = alpha T: how much of a pixel's light a Gaussian takes.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jax_gsplat_depth import _check, _ffi
from jax_gsplat_depth._bin import depth_order
from jax_gsplat_depth._blend import list_capacity
from jax_gsplat_depth._camera import Camera
from jax_gsplat_depth._camera_axis import with_camera_axis, without_camera_axis
from jax_gsplat_depth._debug import takes_any_data
from jax_gsplat_depth._project import project_checked
from jax_gsplat_depth._shade import cull_by_color, shade_checked
from jax_gsplat_depth._types import Config, Contributors, Gaussians, Splats, ViewStatistics


@takes_any_data()
def contributors(
    gaussians: Gaussians,
    camera: Camera,
    k: int,
    *,
    sh_degree: int | None = None,
    config: Config | None = None,
) -> Contributors:
    """Find the Gaussians that make up each pixel.

    ``N`` is the number of Gaussians, ``C`` of cameras, ``H`` and ``W`` the size of the image. Not
    differentiable: the weights are constants.

    Args:
        gaussians: As for ``render``; sh and colors may be missing.
        camera: OpenCV axes (x right, y down, z forward), pixels; with a leading axis ``C`` all
            results have it too.
        k: How many Gaussians of each pixel, 1 to 32768, static. The others are left out.
        sh_degree: As for ``render``, which does not draw a Gaussian whose colour is not finite.
        config: Static settings, as for ``render``.

    Returns:
        Contributors: ids and weights ``[H, W, k]`` by weight, the largest first; of two equal ones
        the nearer first. Where a pixel has fewer, id -1 and weight 0.

    Raises:
        ValueError: A shape disagrees, or k is out of range; raised while tracing.
        TypeError: A dtype disagrees, or k is not a static integer; raised while tracing.
    """
    k = _check.check_contributors(k)
    view = _view(gaussians, camera, sh_degree, config)
    c, n = view.splats.depths.shape
    listed = (c, view.height, view.width, k)
    absent = _ffi.Absent(2)
    ids, weights, *_ = view.call(k, [listed, listed, absent, absent, absent])
    return without_camera_axis(Contributors(ids, weights), view.has_camera_axis)


@takes_any_data()
def view_statistics(
    gaussians: Gaussians,
    camera: Camera,
    *,
    sh_degree: int | None = None,
    config: Config | None = None,
) -> ViewStatistics:
    """Measure what each Gaussian adds to a view, the criteria by which models are pruned.

    ``N`` is the number of Gaussians, ``C`` of cameras. Not differentiable: the weights are
    constants. A Gaussian that is not drawn has zeros.

    Args:
        gaussians: As for ``render``; sh and colors may be missing.
        camera: OpenCV axes (x right, y down, z forward), pixels; with a leading axis ``C`` all
            results have it too.
        sh_degree: As for ``render``, which does not draw a Gaussian whose colour is not finite.
        config: Static settings, as for ``render``.

    Returns:
        ViewStatistics: largest and summed weight, and the number of pixels, ``[N]``.

    Raises:
        ValueError: A shape disagrees; raised while tracing.
        TypeError: A dtype disagrees; raised while tracing.
    """
    view = _view(gaussians, camera, sh_degree, config)
    of_splats = view.splats.depths.shape
    absent = _ffi.Absent(4)
    _, _, *statistics = view.call(0, [absent, absent, of_splats, of_splats, of_splats])
    return without_camera_axis(ViewStatistics(*statistics), view.has_camera_axis)


@dataclasses.dataclass(frozen=True)
class _View:
    """The splats of ``C`` cameras in their order, as constants."""

    splats: Splats
    order: Array
    width: int
    height: int
    config: Config
    has_camera_axis: bool

    def call(self, k: int, shapes: Sequence[Any]) -> list[Any]:
        """Call the target for results of these shapes: three of them of weights, two of int32."""
        splats = self.splats
        (c, n), dtype = splats.depths.shape, splats.depths.dtype
        dtypes = (jnp.int32, dtype, dtype, dtype, jnp.int32)
        capacity = list_capacity(self.config.capacity, n, self.width, self.height)
        return _ffi.call(
            "jgd_weights_fwd",
            [
                splats.means2d,
                splats.depths,
                splats.conics,
                splats.opacities,
                splats.radii,
                self.order,
            ],
            list(zip(shapes, dtypes, strict=True)),
            sizes=_ffi.Sizes(
                n_cameras=c, n=n, width=self.width, height=self.height, capacity=capacity
            ),
            width=self.width,
            height=self.height,
            three_sigma=self.config.footprint == "3sigma",
            capacity=capacity,
            k=k,
        )


def _view(
    gaussians: Gaussians, camera: Camera, sh_degree: int | None, config: Config | None
) -> _View:
    """Check the arguments and project the Gaussians, those that ``render`` draws."""
    config = _check.check_config(Config() if config is None else config)
    gaussians = _check.check_gaussians(gaussians, need=("geometry", "opacities"))
    camera = _check.check_camera(camera, gaussians.means.dtype)
    gaussians, camera = jax.lax.stop_gradient((gaussians, camera))
    splats = project_checked(gaussians, camera, config)
    if gaussians.sh is not None or gaussians.colors is not None:
        degree, _ = _check.check_appearance(gaussians, sh_degree, camera.viewmat.shape[:-2])
        colors = shade_checked(gaussians, camera, degree, config, radii=splats.radii)
        splats = dataclasses.replace(splats, radii=cull_by_color(splats.radii, colors))
    elif sh_degree is not None:
        raise ValueError("sh_degree is given but gaussians has no sh")
    has_camera_axis = camera.viewmat.ndim == 3
    splats = with_camera_axis(splats, has_camera_axis)
    order = depth_order(splats, camera.width, camera.height, config)
    return _View(splats, order, camera.width, camera.height, config, has_camera_axis)
