"""Stage 4, blend: splats in depth order to image, depth and weight."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jax_gsplat_depth import _check, _depth, _ffi
from jax_gsplat_depth._ffi import Absent
from jax_gsplat_depth._types import Config, Intersections, RenderOutput, Splats


def blend(
    splats: Splats,
    colors: ArrayLike,
    intersections: Intersections,
    *,
    width: int,
    height: int,
    background: ArrayLike | None = None,
    absgrad_probe: ArrayLike | None = None,
    config: Config | None = None,
) -> RenderOutput:
    """Blend splats front to back into image, depth and weight.

    At a pixel, alpha = min(0.99, opacity exp(-sigma)) with sigma half the squared Mahalanobis
    distance from the centre; alpha < 1/255 is skipped. w = alpha T, then T *= 1 - alpha; a splat
    that would bring T below 1e-4 ends the pixel and is not drawn (Kerbl et al. 2023, section 4).
    ``N`` is the number of Gaussians, ``C`` of cameras, ``D`` of channels.

    Differentiable in means2d, depths, conics, opacities, colors and background, from every output.

    Args:
        splats: What ``project`` returned, possibly changed.
        colors: ``[N, D]`` for all cameras, or ``[C, N, D]``.
        intersections: What ``bin`` returned for these splats. An index outside 0..N-1 is
            skipped, and so is one that was there before.
        width: Of the image, pixels, static.
        height: Of the image, pixels, static.
        background: ``[D]`` or ``[C, D]``, seen where light is left; None is 0.
        absgrad_probe: Shaped like ``splats.means2d``; its value is not used. Its gradient is the
            sum over pixels of the absolute gradient of means2d.
        config: Static settings; reads footprint, capacity, deterministic, depth and
            depth_variance. ray_depth must be False, since splats do not know their camera:
            multiply by ``Camera.ray_lengths``.

    Returns:
        RenderOutput; ``radii`` are those of the splats. A splat with a value that is not finite
        is not drawn.

    Raises:
        ValueError: A shape disagrees, or config has ray_depth; raised while tracing.
        TypeError: A dtype disagrees; raised while tracing.
    """
    config = _check.check_config(Config() if config is None else config)
    if config.ray_depth:
        raise ValueError(
            "config.ray_depth is True, but blend does not know the camera: expected False, and "
            "the depth times camera.ray_lengths() (an inverse depth divided by it)"
        )
    splats = _check.check_splats(splats)
    width, height = _check.check_image_size(width, height, splats.means2d.shape[:-2])
    color_array = _check.check_colors(colors, splats)
    intersections = _check.check_intersections(intersections, splats, width, height)
    camera_batch, n = splats.means2d.shape[:-2], splats.means2d.shape[-2]
    dtype, source = splats.means2d.dtype, "splats.means2d"
    background = _check.check_background(
        background, camera_batch, color_array.shape[-1], dtype, source=source
    )
    probe = _check.check_means2d_offset(
        absgrad_probe, camera_batch, n, dtype, name="absgrad_probe", source=source
    )
    return blend_checked(
        splats, color_array, intersections.order, (width, height), background, probe, config
    )


def blend_checked(
    splats: Splats,
    colors: Array,
    order: Array,
    size: tuple[int, int],
    background: Array,
    absgrad_probe: Array | None,
    config: Config,
    ray_lengths: Array | None = None,
) -> RenderOutput:
    """``blend`` without the checks; with ``ray_lengths`` ``[C?, H, W]`` depth is along the rays."""
    has_camera_axis = splats.means2d.ndim == 3

    def with_camera_axis(x: Array | None) -> Array | None:
        return x if x is None or has_camera_axis else x[None]

    operands = _ffi.same_axes(
        with_camera_axis(splats.means2d),
        with_camera_axis(splats.depths),
        with_camera_axis(splats.conics),
        with_camera_axis(splats.opacities),
        with_camera_axis(splats.radii),
        with_camera_axis(order),
        colors if colors.ndim == 3 else colors[None],
        background if background.ndim == 2 else background[None],
        with_camera_axis(absgrad_probe),
    )
    static = _Static(
        *size,
        three_sigma=config.footprint == "3sigma",
        capacity=_list_capacity(config.capacity, splats.means2d.shape[-2], *size),
        deterministic=config.deterministic,
        median=config.depth == "median",
    )
    depths, d = operands[1], colors.shape[-1]
    summands = _depth.summands(depths, operands[4], operands[5], config)
    if summands is not None:
        operands = _with_summands(operands, summands)
    image, depth, weight, n_isects, n_isects_listed, median = _blend(static, *operands)
    variance = None
    if config.depth_variance:
        variance = _depth.variance_of(image[..., d:], weight)
        image = image[..., :d]
    if median is not None:
        depth = _depth.median_depth(depths, median, config.deterministic)
    if ray_lengths is not None:
        lengths = ray_lengths if has_camera_axis else ray_lengths[None]
        depth, variance = _depth.along_rays(depth, variance, lengths, config)
    image, depth, weight, n_isects, n_isects_listed, variance = (
        x if has_camera_axis or x is None else x[0]
        for x in (image, depth, weight, n_isects, n_isects_listed, variance)
    )
    return RenderOutput(image, depth, weight, splats.radii, n_isects, n_isects_listed, variance)


def _with_summands(operands: Sequence[Any], summands: _depth.Summands) -> list[Any]:
    """Put the summands in the place of the depths and behind the channels of the image."""
    means2d, _, conics, opacities, _, order, colors, background, probe = operands
    channels = summands.channels
    if channels.shape[2]:
        colors = jnp.broadcast_to(colors, (*channels.shape[:2], colors.shape[2]))
        colors = jnp.concatenate([colors, channels], axis=2)
        background = jnp.pad(background, ((0, 0), (0, channels.shape[2])))
    return [
        *(means2d, summands.values, conics, opacities, summands.radii),
        *(order, colors, background, probe),
    ]


def _list_capacity(capacity: int | None, n: Any, width: int, height: int) -> int:
    """Return how many (Gaussian, tile) pairs the lists of one image hold on a GPU.

    The default is about twice the need of trained scenes: a Gaussian in them meets 2 to 4 tiles of
    a photo, and where few Gaussians fill an image, a pixel is opaque behind a few tens. Below one
    pair for each tile the nearest Gaussian might not fit.
    """
    if not isinstance(n, int):  # a symbol of jax.export, which only the CPU can take
        return 0
    n_tiles = -(-width // _ffi.TILE_SIZE) * -(-height // _ffi.TILE_SIZE)
    return max(n_tiles, 8 * n + 64 * n_tiles if capacity is None else capacity)


class _Static(NamedTuple):
    width: int
    height: int
    three_sigma: bool
    capacity: int
    deterministic: bool
    median: bool


@_ffi.custom_vjp
def _blend(static: _Static, *operands: Any) -> tuple[Any, ...]:
    """Operands: means2d, depths, conics, opacities, radii, order, colors, background, probe.

    All with camera axis; that of colors and background may be 1 for all cameras. Results: image,
    depth, weight, n_isects, n_isects_listed, and the ids at the median or None.
    """
    return _forward(static, operands, with_residuals=False)[0]


def _forward(static: _Static, operands: Any, *, with_residuals: bool) -> tuple[Any, Any]:
    """Return the outputs, and what only the backward pass reads: transmittance and last."""
    means2d, colors = operands[0], operands[6]
    c, d, dtype = means2d.shape[0], colors.shape[2], means2d.dtype
    pixels = (c, static.height, static.width)
    residual = pixels if with_residuals else Absent(3)
    median = pixels if static.median else Absent(3)
    results = [
        ((*pixels, d), dtype),
        (pixels, dtype),
        (pixels, dtype),
        (residual, dtype),
        (residual, jnp.int32),
        (median, jnp.int32),
        ((c,), jnp.int32),
        ((c,), jnp.int32),
    ]
    image, depth, weight, transmittance, last, median, *counts = _call(
        "jgd_blend_fwd", static, operands[:8], results
    )
    return (image, depth, weight, *counts, median), (transmittance, last)


def _blend_fwd(static: _Static, *primals: Any) -> tuple[tuple[Any, ...], Any]:
    operands, needed = _ffi.values_and_needed(primals)
    outputs, residuals = _forward(static, operands, with_residuals=True)
    _, depth, weight, *_ = outputs
    return outputs, (operands, (depth, weight, *residuals), needed)


def _blend_bwd(static: _Static, residuals: Any, cotangents: Any) -> tuple[Array | None, ...]:
    operands, forward, needed = residuals
    v_image, v_depth, v_weight = (_ffi.known(v) for v in cotangents[:3])
    if v_image is None and v_depth is None and v_weight is None:
        return (None,) * len(operands)
    means2d, depths, conics, opacities, _, _, colors, background, _ = operands
    dtype = means2d.dtype
    wants_colors = needed.inputs[6] and v_image is not None
    wants_background = needed.inputs[7] and v_image is not None
    results = [
        (means2d.shape, dtype),
        (means2d.shape if needed.inputs[8] else Absent(3), dtype),
        (depths.shape, dtype),
        (conics.shape, dtype),
        (opacities.shape, dtype),
        (colors.shape if wants_colors else Absent(3), dtype),
        (background.shape if wants_background else Absent(2), dtype),
    ]
    v_means2d, v_probe, v_depths, v_conics, v_opacities, v_colors, v_background = _call(
        "jgd_blend_bwd",
        static,
        [
            *operands[:8],
            *forward,
            Absent(4) if v_image is None else v_image,
            Absent(3) if v_depth is None else v_depth,
            Absent(3) if v_weight is None else v_weight,
        ],
        results,
    )
    return (
        v_means2d,
        v_depths,
        v_conics,
        v_opacities,
        None,
        None,
        v_colors,
        v_background,
        v_probe,
    )


_blend.defvjp(_blend_fwd, _blend_bwd, symbolic_zeros=True)


def _call(
    target: str,
    static: _Static,
    operands: Sequence[Array | Absent],
    results: Sequence[tuple[Any, Any]],
) -> list[Any]:
    means2d, colors = operands[0], operands[6]
    assert not isinstance(means2d, Absent) and not isinstance(colors, Absent)
    sizes = _ffi.Sizes(
        n_cameras=means2d.shape[0],
        n=means2d.shape[1],
        width=static.width,
        height=static.height,
        n_channels=colors.shape[2],
        capacity=static.capacity,
        deterministic=static.deterministic,
    )
    attributes = static._asdict()
    del attributes["median"]  # which its result says
    return _ffi.call(target, operands, results, sizes=sizes, **attributes)
