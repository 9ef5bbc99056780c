"""Stage 2, shade: spherical harmonics to colours."""

from collections.abc import Sequence
from typing import Any

from jax import Array

from jax_gsplat_depth import _check, _ffi
from jax_gsplat_depth._camera import Camera
from jax_gsplat_depth._ffi import Absent
from jax_gsplat_depth._types import SH_CONVENTIONS, Config, Gaussians


def shade(
    gaussians: Gaussians,
    camera: Camera,
    *,
    sh_degree: int | None = None,
    config: Config | None = None,
) -> Array:
    """Evaluate the colour of each Gaussian as seen from a camera.

    Colour = max(SH(direction) + 0.5, 0) with the basis and signs of 3DGS (Kerbl et al. 2023), in
    the direction from the camera centre to the mean. ``N`` is the number of Gaussians, ``C`` that
    of cameras, ``B`` that of coefficients.

    Differentiable in sh, means and viewmat; zero where the colour is clamped at 0.

    Args:
        gaussians: Means with sh; if they have colors instead, those are returned as they are.
        camera: Only the camera centre is used.
        sh_degree: 0 to 4, at most what B allows (default). Higher coefficients are not read.
        config: Static settings; reads sh_convention.

    Returns:
        ``[N, 3]``, or ``[C, N, 3]`` if the camera has a leading axis; ``[N, D]`` for colors. NaN
        where a coefficient in use is not finite.

    Raises:
        ValueError: A shape disagrees, or sh_degree is out of range; raised while tracing.
        TypeError: A dtype disagrees; raised while tracing.
    """
    config = _check.check_config(Config() if config is None else config)
    gaussians = _check.check_gaussians(gaussians, need=("means", "appearance"))
    camera = _check.check_camera(camera, gaussians.means.dtype)
    return shade_checked(gaussians, camera, sh_degree, config, radii=None)


def shade_checked(
    gaussians: Gaussians,
    camera: Camera,
    sh_degree: int | None,
    config: Config,
    *,
    radii: Array | None,
) -> Array:
    """``shade`` without the checks of the arrays.

    With ``radii`` ``[N]`` or ``[C, N]`` the coefficients of what is culled are not even read: its
    colour is 0. Colours that are given are returned as they are all the same.
    """
    if gaussians.colors is not None:
        if sh_degree is not None:
            raise ValueError("sh_degree is given but gaussians has colors, expected sh")
        return gaussians.colors
    assert gaussians.sh is not None
    degree = _check.check_sh_degree(sh_degree, gaussians.sh.shape[1])
    has_camera_axis = camera.viewmat.ndim == 3
    viewmat = camera.viewmat if has_camera_axis else camera.viewmat[None]
    if radii is not None and not has_camera_axis:
        radii = radii[None]
    operands = _ffi.same_axes(gaussians.means, gaussians.sh, viewmat, radii)
    colors = _shade((degree, SH_CONVENTIONS.index(config.sh_convention)), *operands)
    return colors if has_camera_axis else colors[0]


Static = tuple[int, int]


@_ffi.custom_vjp
def _shade(static: Static, means: Array, sh: Array, viewmat: Array, radii: Array | None) -> Array:
    results = [((viewmat.shape[0], means.shape[0], 3), means.dtype)]
    return _call("jgd_shade_fwd", static, [means, sh, viewmat, _or_absent(radii)], results)[0]


def _shade_fwd(static: Static, *primals: Any) -> tuple[Array, Any]:
    operands, needed = _ffi.values_and_needed(primals)
    return _shade(static, *operands), (operands, needed)


def _shade_bwd(static: Static, residuals: Any, cotangent: Any) -> tuple[Array | None, ...]:
    operands, needed = residuals
    v_colors = _ffi.known(cotangent)
    if v_colors is None:
        return (None,) * len(operands)
    *arrays, radii = operands
    results = [
        (x.shape if wanted else Absent(x.ndim), x.dtype)
        for x, wanted in zip(arrays, needed.inputs[:-1], strict=True)
    ]
    v_arrays = _call("jgd_shade_bwd", static, [*arrays, _or_absent(radii), v_colors], results)
    return (*v_arrays, None)


_shade.defvjp(_shade_fwd, _shade_bwd, symbolic_zeros=True)


def _or_absent(radii: Array | None) -> Array | Absent:
    return Absent(2) if radii is None else radii


def _call(
    target: str,
    static: Static,
    operands: Sequence[Array | Absent],
    results: Sequence[tuple[Any, Any]],
) -> list[Any]:
    means, _, viewmat = operands[:3]
    assert not isinstance(means, Absent) and not isinstance(viewmat, Absent)
    degree, convention = static
    return _ffi.call(
        target,
        operands,
        results,
        sizes=_ffi.Sizes(n_cameras=viewmat.shape[0], n=means.shape[0]),
        degree=degree,
        convention=convention,
    )
