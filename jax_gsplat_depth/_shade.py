"""Evaluates spherical harmonics to colours: stage 2, shade."""

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
from jax_gsplat_depth._types import SH_CONVENTIONS, Config, Gaussians
from jax_gsplat_depth._vjp import custom_vjp, none_if_zero, same_axes, values_and_needed


@takes_any_data(returns_any=True)
def shade(
    gaussians: Gaussians,
    camera: Camera,
    *,
    sh_degree: int | None = None,
    config: Config | None = None,
) -> Array:
    """Evaluate the colour of each Gaussian as seen from a camera.

    Colour = max(SH(direction) + 0.5, 0) with the basis and signs of 3DGS (Kerbl et al. 2023), in
    the direction from the camera centre to the mean. ``N`` is the number of Gaussians, ``C`` of
    cameras, ``B`` of coefficients.

    Differentiable in sh, means and viewmat; zero where the colour is clamped at 0.

    Args:
        gaussians: Means with sh; colors in their place are returned unchanged.
        camera: Only the camera centre is used.
        sh_degree: 0 to 4, at most what B allows (default). Higher coefficients are not read.
        config: Static settings; reads sh_convention.

    Returns:
        ``[N, 3]``, or ``[C, N, 3]`` if the camera has a leading axis; colors as they are. NaN
        where a coefficient in use is not finite.

    Raises:
        ValueError: A shape disagrees, or sh_degree is out of range; raised while tracing.
        TypeError: A dtype disagrees; raised while tracing.
    """
    config = _check.check_config(Config() if config is None else config)
    gaussians = _check.check_gaussians(gaussians, need=("means", "appearance"))
    camera = _check.check_camera(camera, gaussians.means.dtype)
    degree, _ = _check.check_appearance(gaussians, sh_degree, camera.viewmat.shape[:-2])
    if gaussians.sh is not None:
        read = (gaussians.means, gaussians.sh, camera.viewmat)
        means, sh, viewmat = reverse_only("shade", read)
        gaussians = Gaussians(means, sh=sh)
        camera = dataclasses.replace(camera, viewmat=viewmat)
    return shade_checked(gaussians, camera, degree, config, radii=None)


def shade_checked(
    gaussians: Gaussians,
    camera: Camera,
    degree: int | None,
    config: Config,
    *,
    radii: Array | None,
) -> Array:
    """``shade`` without the checks; the degree is None for colors.

    With ``radii`` ``[N]`` or ``[C, N]`` the coefficients of a culled Gaussian are not even read:
    its colour is 0. Colors are returned unchanged all the same.
    """
    if gaussians.colors is not None:
        return gaussians.colors
    assert degree is not None
    has_camera_axis = camera.viewmat.ndim == 3
    inputs = _Inputs(
        means=gaussians.means,
        sh=gaussians.sh,
        viewmat=with_camera_axis(camera.viewmat, has_camera_axis),
        radii=with_camera_axis(radii, has_camera_axis),
    )
    static = _Static(degree, SH_CONVENTIONS.index(config.sh_convention))
    return without_camera_axis(_shade(static, same_axes(inputs)), has_camera_axis)


def cull_by_color(radii: Array, colors: Array) -> Array:
    """Return the radii with 0 where a colour is not finite.

    Such a colour culls its Gaussian like any other parameter: blend has not drawn it.

    Args:
        radii: ``[N]`` or ``[C, N]`` int32.
        colors: ``[N, D]`` or ``[C, N, D]``.
    """
    finite = jnp.all(jnp.isfinite(colors), axis=-1)
    return jnp.where(jnp.broadcast_to(finite, radii.shape), radii, 0)


class _Static(NamedTuple):
    degree: int
    convention: int


class _Inputs(NamedTuple):
    """The operands of the forward pass in the order of the handler; or their gradients."""

    means: Any  # [N, 3]
    sh: Any  # [N, B, 3]
    viewmat: Any  # [C, 4, 4]
    radii: Any  # [C, N] or None; has no gradient


@custom_vjp
def _shade(static: _Static, inputs: _Inputs) -> Array:
    """Return the colours, ``[C, N, 3]``."""
    shape = (inputs.viewmat.shape[0], inputs.means.shape[0], 3)
    (colors,) = _call("jgd_shade_fwd", static, inputs, [], [(shape, inputs.means.dtype)])
    return colors


def _shade_fwd(static: _Static, primals: _Inputs) -> tuple[Array, Any]:
    inputs, needed = values_and_needed(primals)
    return _shade(static, inputs), (inputs, needed)


def _shade_bwd(static: _Static, residuals: Any, cotangent: Any) -> tuple[_Inputs | None]:
    inputs, needed = residuals
    v_colors = none_if_zero(cotangent)
    if v_colors is None:
        return (None,)
    arrays = (inputs.means, inputs.sh, inputs.viewmat)
    wanted = (needed.inputs.means, needed.inputs.sh, needed.inputs.viewmat)
    results = [
        (x.shape if w else Absent(x.ndim), x.dtype) for x, w in zip(arrays, wanted, strict=True)
    ]
    v_means, v_sh, v_viewmat = _call("jgd_shade_bwd", static, inputs, [v_colors], results)
    return (_Inputs(v_means, v_sh, v_viewmat, radii=None),)


_shade.defvjp(_shade_fwd, _shade_bwd, symbolic_zeros=True)


def _call(
    target: str,
    static: _Static,
    inputs: _Inputs,
    others: Sequence[Operand],
    results: Sequence[Result],
) -> list[Any]:
    return _ffi.call(
        target,
        [*inputs._replace(radii=or_absent(inputs.radii, 2)), *others],
        results,
        sizes=_ffi.Sizes(n_cameras=inputs.viewmat.shape[0], n=inputs.means.shape[0]),
        degree=static.degree,
        convention=static.convention,
    )
