"""Sorts splats by depth and counts them for each tile: stage 3, bin."""

import jax
import jax.numpy as jnp
from jax import Array

from jax_gsplat_depth import _check, _ffi
from jax_gsplat_depth._camera_axis import with_camera_axis, without_camera_axis
from jax_gsplat_depth._debug import takes_any_data
from jax_gsplat_depth._types import Bins, Config, Splats


@takes_any_data()
def bin(splats: Splats, *, width: int, height: int, config: Config | None = None) -> Bins:
    """Sort splats by depth and count those that touch each 16x16 tile.

    Not differentiable: order and counts are integers. ``N`` is the number of Gaussians, ``C`` of
    cameras.

    Args:
        splats: What ``project`` returned, possibly changed.
        width: Image width in pixels, static.
        height: Image height in pixels, static.
        config: Static settings; reads footprint.

    Returns:
        Bins. Equal depths keep index order. The sum of ``tile_counts`` (take it in 64 bits) is the
        number of (Gaussian, tile) pairs that blending visits.

    Raises:
        ValueError: A shape disagrees; raised while tracing.
        TypeError: A dtype disagrees; raised while tracing.
    """
    config = _check.check_config(Config() if config is None else config)
    splats = _check.check_splats(splats)
    width, height = _check.check_image_size(width, height, splats.means2d.shape[:-2])
    return _bin(splats, width, height, config, count_tiles=True)


def depth_order(splats: Splats, width: int, height: int, config: Config) -> Array:
    """Return only the order of ``bin``, without checks: all that ``render`` needs."""
    return _bin(splats, width, height, config, count_tiles=False).order


def _bin(splats: Splats, width: int, height: int, config: Config, *, count_tiles: bool) -> Bins:
    """Return the bins; ``tile_counts`` is None if they are not wanted."""
    has_camera_axis = splats.means2d.ndim == 3
    splats = with_camera_axis(jax.lax.stop_gradient(splats), has_camera_axis)
    c, n = splats.depths.shape
    n_tiles = (-(-height // _ffi.TILE_SIZE), -(-width // _ffi.TILE_SIZE))
    order, tile_counts = _ffi.call(
        "jgd_bin_fwd",
        [splats.means2d, splats.depths, splats.conics, splats.opacities, splats.radii],
        [((c, n), jnp.int32), ((c, *n_tiles) if count_tiles else _ffi.Absent(3), jnp.int32)],
        sizes=_ffi.Sizes(n_cameras=c, n=n, width=width, height=height),
        width=width,
        height=height,
        three_sigma=config.footprint == "3sigma",
    )
    return without_camera_axis(Bins(order, tile_counts), has_camera_axis)
