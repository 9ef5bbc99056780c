"""Stage 1, project: 3D Gaussians to 2D splats."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array

from jax_gsplat_depth import _check, _ffi
from jax_gsplat_depth._camera import Camera
from jax_gsplat_depth._ffi import Absent
from jax_gsplat_depth._types import Config, Gaussians, Splats


def project(gaussians: Gaussians, camera: Camera, *, config: Config | None = None) -> Splats:
    """Project 3D Gaussians to the 2D splats that a camera sees.

    The covariance is projected with the Jacobian of the pinhole at the centre (EWA splatting,
    Zwicker et al. 2001); x/z and y/z in it are limited to the image plus 15 % of its size on each
    side. ``N`` is the number of Gaussians, ``C`` that of cameras.

    Differentiable in means, quats, scales, covars, opacities, viewmat and K; the gradient of a
    culled Gaussian is zero.

    Args:
        gaussians: Means, opacities, and quats with scales or covars; the appearance is not read.
        camera: OpenCV axes (x right, y down, z forward), pixels; with a leading axis ``C`` all
            results have it too.
        config: Static settings; reads near_plane, far_plane, eps2d, footprint, antialiased.

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
    return project_checked(gaussians, camera, config)


def project_checked(
    gaussians: Gaussians, camera: Camera, config: Config, *, keep_outside: bool = False
) -> Splats:
    """``project`` without the checks.

    With ``keep_outside`` a footprint that misses the image does not cull, for those who then move
    the centres.
    """
    has_camera_axis = camera.viewmat.ndim == 3
    viewmat = camera.viewmat if has_camera_axis else camera.viewmat[None]
    K = camera.K if has_camera_axis else camera.K[None]
    operands = _ffi.same_axes(
        gaussians.means,
        gaussians.quats,
        gaussians.scales,
        gaussians.covars,
        gaussians.opacities,
        viewmat,
        K,
    )
    results = _project((config, camera.width, camera.height, keep_outside), *operands)
    return Splats(*(results if has_camera_axis else (x[0] for x in results)))


Static = tuple[Config, int, int, bool]


@_ffi.custom_vjp
def _project(static: Static, *operands: Array | None) -> tuple[Array, ...]:
    """Operands: means, quats, scales, covars, opacities, viewmat [C, 4, 4], K [C, 3, 3]."""
    means, viewmat = operands[0], operands[5]
    assert means is not None and viewmat is not None
    n, c, dtype = means.shape[0], viewmat.shape[0], means.dtype
    results = [
        ((c, n, 2), dtype),
        ((c, n), dtype),
        ((c, n, 3), dtype),
        ((c, n), dtype),
        ((c, n), jnp.int32),
    ]
    return tuple(_call("jgd_project_fwd", static, operands, [], results))


def _project_fwd(static: Static, *primals: Any) -> tuple[tuple[Array, ...], Any]:
    operands, needed = _ffi.values_and_needed(primals)
    results = _project(static, *operands)
    return results, (operands, results[4], needed)


def _project_bwd(static: Static, residuals: Any, cotangents: Any) -> tuple[Array | None, ...]:
    operands, radii, needed = residuals
    v_means2d, v_depths, v_conics, v_opacities = (_ffi.known(v) for v in cotangents[:4])
    if all(v is None for v in (v_means2d, v_depths, v_conics, v_opacities)):
        return (None,) * len(operands)
    cotangent_operands = [
        Absent(rank) if v is None else v
        for v, rank in ((v_means2d, 3), (v_depths, 2), (v_conics, 3), (v_opacities, 2))
    ]
    results = [
        (x.shape if wanted else Absent(rank), operands[0].dtype)
        for x, wanted, rank in zip(operands, needed.inputs, _RANKS, strict=True)
    ]
    others = [radii, *cotangent_operands]
    return tuple(_call("jgd_project_bwd", static, operands, others, results))


_project.defvjp(_project_fwd, _project_bwd, symbolic_zeros=True)

# Of means, quats, scales, covars, opacities, viewmat, K.
_RANKS = (2, 2, 2, 2, 1, 3, 3)


def _call(
    target: str,
    static: Static,
    operands: Sequence[Any],
    others: Sequence[Array | Absent],
    results: Sequence[tuple[Any, Any]],
) -> list[Any]:
    config, width, height, keep_outside = static
    present = [Absent(rank) if x is None else x for x, rank in zip(operands, _RANKS, strict=True)]
    return _ffi.call(
        target,
        [*present, *others],
        results,
        sizes=_ffi.Sizes(
            n_cameras=operands[5].shape[0], n=operands[0].shape[0], width=width, height=height
        ),
        near_plane=config.near_plane,
        far_plane=config.far_plane,
        eps2d=config.eps2d,
        width=width,
        height=height,
        antialiased=config.antialiased,
        three_sigma=config.footprint == "3sigma",
        keep_outside=keep_outside,
    )
