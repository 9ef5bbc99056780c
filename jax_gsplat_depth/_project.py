"""Projects 3D Gaussians to 2D splats: stage 1, project."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from jax_gsplat_depth import _check, _ffi
from jax_gsplat_depth._camera import Camera
from jax_gsplat_depth._camera_axis import with_camera_axis, without_camera_axis
from jax_gsplat_depth._debug import takes_any_data
from jax_gsplat_depth._ffi import Absent, Operand, Result, or_absent
from jax_gsplat_depth._reverse_mode import reverse_only
from jax_gsplat_depth._types import Config, Gaussians, Splats
from jax_gsplat_depth._vjp import custom_vjp, none_if_zero, same_axes, values_and_needed


@takes_any_data()
def project(
    gaussians: Gaussians,
    camera: Camera,
    *,
    config: Config | None = None,
    keep_outside: bool = False,
) -> Splats:
    """Project 3D Gaussians to the 2D splats that a camera sees.

    The covariance is projected with the Jacobian of the pinhole at the centre (EWA splatting,
    Zwicker et al. 2001); x/z and y/z in it are limited to the image plus 15 % of its size on each
    side. ``N`` is the number of Gaussians, ``C`` of cameras.

    Differentiable in means, quats, scales, covars, opacities, viewmat and K; the gradient of a
    culled Gaussian is zero.

    Args:
        gaussians: Means, opacities, and quats with scales or covars; the appearance is not read.
        camera: OpenCV axes (x right, y down, z forward), pixels; with a leading axis ``C`` all
            results have it too.
        config: Static settings; reads near_plane, far_plane, eps2d, footprint, antialiased.
        keep_outside: Static. True keeps the Gaussians that no pixel of the image shows as well:
            those whose footprint misses it, and those of an opacity from 0 to 1/255. Blending draws
            the same image with them.

    Returns:
        Splats, ``[N]`` or ``[C, N]`` leading. A Gaussian that is culled (see ``Gaussians`` and
        ``Config``), or whose footprint misses the image, has ``radii == 0`` and zeros.

    Raises:
        ValueError: A shape disagrees; raised while tracing.
        TypeError: A dtype disagrees; raised while tracing.
    """
    config = _check.check_config(Config() if config is None else config)
    gaussians = _check.check_gaussians(gaussians, need=("means", "geometry", "opacities"))
    camera = _check.check_camera(camera, gaussians.means.dtype)
    keep_outside = _check.check_bool("keep_outside", keep_outside)
    gaussians = dataclasses.replace(gaussians, sh=None, colors=None)  # not read
    gaussians, camera = reverse_only("project", (gaussians, camera))
    return project_checked(gaussians, camera, config, keep_outside=keep_outside)


@takes_any_data()
def opacity_compensation(
    gaussians: Gaussians, camera: Camera, *, config: Config | None = None
) -> Array:
    """Return the factor by which ``Config(antialiased=True)`` scales the opacities.

    It is sqrt(det S / det(S + eps2d I)) with the projected covariance S: the area of a Gaussian
    before eps2d is added, as a share of the area afterwards; at least 0.005. ``N`` is the number of
    Gaussians, ``C`` of cameras.

    Differentiable in means, quats, scales, covars, viewmat and K; the gradient is zero where the
    factor is 0.005.

    Args:
        gaussians: Means, and quats with scales or covars; opacities and appearance are not read.
        camera: OpenCV axes (x right, y down, z forward), pixels.
        config: Static settings; reads near_plane, far_plane and eps2d.

    Returns:
        ``[N]``, or ``[C, N]`` if the camera has a leading axis; 0.005 to 1 for every Gaussian
        between the planes, inside or outside of the image, and 0 for those that are culled.

    Raises:
        ValueError: A shape disagrees; raised while tracing.
        TypeError: A dtype disagrees; raised while tracing.
    """
    config = _check.check_config(Config() if config is None else config)
    gaussians = _check.check_gaussians(gaussians, need=("means", "geometry"))
    camera = _check.check_camera(camera, gaussians.means.dtype)
    gaussians = dataclasses.replace(gaussians, sh=None, colors=None)  # not read
    gaussians, camera = reverse_only("opacity_compensation", (gaussians, camera))
    # What is left of an opacity of 1.
    opaque = dataclasses.replace(gaussians, opacities=jnp.ones_like(gaussians.means[:, 0]))
    config = dataclasses.replace(config, antialiased=True)
    return project_checked(opaque, camera, config, keep_outside=True).opacities


def project_checked(
    gaussians: Gaussians, camera: Camera, config: Config, *, keep_outside: bool = False
) -> Splats:
    """``project`` without the checks.

    With ``keep_outside`` a footprint without a pixel of the image does not cull.
    """
    has_camera_axis = camera.viewmat.ndim == 3
    inputs = _Inputs(
        means=gaussians.means,
        quats=gaussians.quats,
        scales=gaussians.scales,
        covars=gaussians.covars,
        opacities=gaussians.opacities,
        viewmat=with_camera_axis(camera.viewmat, has_camera_axis),
        K=with_camera_axis(camera.K, has_camera_axis),
    )
    static = _Static(config, camera.width, camera.height, keep_outside)
    return without_camera_axis(_project(static, same_axes(inputs)), has_camera_axis)


class _Static(NamedTuple):
    config: Config
    width: int
    height: int
    keep_outside: bool


class _Inputs(NamedTuple):
    """The operands of the forward pass in the order of the handler; or their gradients."""

    means: Any  # [N, 3]
    quats: Any  # [N, 4] or None
    scales: Any  # [N, 3] or None
    covars: Any  # [N, 6] or None
    opacities: Any  # [N]
    viewmat: Any  # [C, 4, 4]
    K: Any  # [C, 3, 3]


_RANKS = _Inputs(means=2, quats=2, scales=2, covars=2, opacities=1, viewmat=3, K=3)


@custom_vjp
def _project(static: _Static, inputs: _Inputs) -> Splats:
    n, c, dtype = inputs.means.shape[0], inputs.viewmat.shape[0], inputs.means.dtype
    results = [
        ((c, n, 2), dtype),  # means2d
        ((c, n), dtype),  # depths
        ((c, n, 3), dtype),  # conics
        ((c, n), dtype),  # opacities
        ((c, n), jnp.int32),  # radii
    ]
    return Splats(*_call("jgd_project_fwd", static, inputs, [], results))


def _project_fwd(static: _Static, primals: _Inputs) -> tuple[Splats, Any]:
    inputs, needed = values_and_needed(primals)
    splats = _project(static, inputs)
    return splats, (inputs, splats.radii, needed)


def _project_bwd(static: _Static, residuals: Any, cotangents: Splats) -> tuple[_Inputs | None]:
    inputs, radii, needed = residuals
    v_means2d = none_if_zero(cotangents.means2d)
    v_depths = none_if_zero(cotangents.depths)
    v_conics = none_if_zero(cotangents.conics)
    v_opacities = none_if_zero(cotangents.opacities)
    if all(v is None for v in (v_means2d, v_depths, v_conics, v_opacities)):
        return (None,)
    others = [
        radii,
        or_absent(v_means2d, 3),
        or_absent(v_depths, 2),
        or_absent(v_conics, 3),
        or_absent(v_opacities, 2),
    ]
    results = [
        (x.shape if wanted else Absent(rank), inputs.means.dtype)
        for x, wanted, rank in zip(inputs, needed.inputs, _RANKS, strict=True)
    ]
    return (_Inputs(*_call("jgd_project_bwd", static, inputs, others, results)),)


_project.defvjp(_project_fwd, _project_bwd, symbolic_zeros=True)


def _call(
    target: str,
    static: _Static,
    inputs: _Inputs,
    others: Sequence[Operand],
    results: Sequence[Result],
) -> list[Any]:
    config = static.config
    return _ffi.call(
        target,
        [*map(or_absent, inputs, _RANKS), *others],
        results,
        sizes=_ffi.Sizes(
            n_cameras=inputs.viewmat.shape[0],
            n=inputs.means.shape[0],
            width=static.width,
            height=static.height,
        ),
        near_plane=config.near_plane,
        far_plane=config.far_plane,
        eps2d=config.eps2d,
        width=static.width,
        height=static.height,
        antialiased=config.antialiased,
        three_sigma=config.footprint == "3sigma",
        keep_outside=static.keep_outside,
    )
