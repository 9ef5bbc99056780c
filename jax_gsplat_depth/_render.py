"""Runs the stages in order: project, shade, bin, blend."""

from __future__ import annotations

import dataclasses

from jax.typing import ArrayLike

from jax_gsplat_depth import _check
from jax_gsplat_depth._bin import depth_order
from jax_gsplat_depth._blend import blend_checked
from jax_gsplat_depth._camera import Camera, usable_ray_lengths
from jax_gsplat_depth._debug import takes_any_data
from jax_gsplat_depth._depth import along_rays
from jax_gsplat_depth._project import project_checked
from jax_gsplat_depth._reverse_mode import reverse_only
from jax_gsplat_depth._shade import cull_by_color, shade_checked
from jax_gsplat_depth._types import Config, Gaussians, RenderOutput


@takes_any_data()
def render(
    gaussians: Gaussians,
    camera: Camera,
    *,
    background: ArrayLike | None = None,
    sh_degree: int | None = None,
    means2d_offset: ArrayLike | None = None,
    absgrad_probe: ArrayLike | None = None,
    config: Config | None = None,
) -> RenderOutput:
    """Render image, depth and weight of 3D Gaussians.

    ``N`` is the number of Gaussians, ``C`` of cameras, ``D`` of channels, ``H`` and ``W`` the size
    of the image. Differentiable, from every image of the output, in every array of ``gaussians``,
    in viewmat and K of the camera, in background and in means2d_offset. The selections (which
    Gaussian is drawn at which pixel, and in which order) are held constant.

    Args:
        gaussians: Activated parameters, see ``Gaussians``. Colors may be another set for each
            camera, or have no channel, for depth and weight alone.
        camera: OpenCV axes (x right, y down, z forward), pixels. With a leading axis ``C`` all
            images are rendered in one call, and the gradients of the Gaussians are summed in it.
        background: ``[D]`` or ``[C, D]``, seen through the remaining transmittance; None is 0.
        sh_degree: 0 to 4, at most what ``gaussians.sh`` allows (default).
        means2d_offset: ``[N, 2]`` or ``[C, N, 2]``, pixels, added to the projected centres. Pass
            zeros to get their gradient, a densification criterion. Which Gaussians are culled
            (``radii``) is decided before it is added.
        absgrad_probe: ``[N, 2]`` or ``[C, N, 2]``; its value is not used. Its gradient is the sum
            over pixels of the absolute values of what each pixel adds to the gradient of
            means2d_offset, another densification criterion. No other gradient changes.
        config: Static settings; a new value recompiles. Default ``Config()``.

    Returns:
        RenderOutput: ``image [H, W, D]``, ``depth [H, W]``, ``weight [H, W]``, ``radii [N]``, each
        with a leading ``C`` if the camera has it.

    Raises:
        ValueError: A shape disagrees; raised while tracing. The data itself never raises: a
            Gaussian that is not finite or degenerate is not drawn.
        TypeError: A dtype disagrees; raised while tracing.
    """
    config = _check.check_config(Config() if config is None else config)
    gaussians = _check.check_gaussians(gaussians)
    n, dtype = gaussians.means.shape[0], gaussians.means.dtype
    camera = _check.check_camera(camera, dtype)
    camera_batch = camera.viewmat.shape[:-2]
    degree, n_channels = _check.check_appearance(gaussians, sh_degree, camera_batch)
    background = _check.check_background(background, camera_batch, n_channels, dtype)
    offset = _check.check_means2d_offset(means2d_offset, camera_batch, n, dtype)
    probe = _check.check_means2d_offset(absgrad_probe, camera_batch, n, dtype, name="absgrad_probe")
    gaussians, camera, background, offset, probe = reverse_only(
        "render", (gaussians, camera, background, offset, probe)
    )

    splats = project_checked(gaussians, camera, config)
    colors = shade_checked(gaussians, camera, degree, config, radii=splats.radii)
    if offset is not None:
        splats = dataclasses.replace(splats, means2d=splats.means2d + offset)
    size = (camera.width, camera.height)
    order = depth_order(splats, *size, config)
    output = blend_checked(splats, colors, order, size, background, probe, config)
    if config.ray_depth:
        output = along_rays(output, usable_ray_lengths(camera), config)
    return dataclasses.replace(output, radii=cull_by_color(output.radii, colors))
