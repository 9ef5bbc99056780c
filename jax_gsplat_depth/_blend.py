"""Blends splats in depth order into image, depth and weight: stage 4, blend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jax_gsplat_depth import _check, _depth, _ffi
from jax_gsplat_depth._camera_axis import with_camera_axis, without_camera_axis
from jax_gsplat_depth._debug import takes_any_data
from jax_gsplat_depth._ffi import Absent, Operand, Result, or_absent
from jax_gsplat_depth._reverse_mode import reverse_only
from jax_gsplat_depth._types import Config, RenderOutput, Splats
from jax_gsplat_depth._vjp import custom_vjp, none_if_zero, same_axes, values_and_needed


@takes_any_data()
def blend(
    splats: Splats,
    colors: ArrayLike,
    order: ArrayLike,
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
        colors: ``[N, D]`` for all cameras, or ``[C, N, D]``. With D = 0 there are depth and weight
            alone, and the image is ``[H, W, 0]``.
        order: ``Bins.order`` of these splats: ``[N]`` or ``[C, N]`` int32 indices from near to
            far. An index outside 0..N-1 is skipped, and so is a repeated one.
        width: Image width in pixels, static.
        height: Image height in pixels, static.
        background: ``[D]`` or ``[C, D]``, seen through the remaining transmittance; None is 0.
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
    order_array = _check.check_order(order, splats)
    camera_batch, n = splats.means2d.shape[:-2], splats.means2d.shape[-2]
    dtype, source = splats.means2d.dtype, "splats.means2d"
    background = _check.check_background(
        background, camera_batch, color_array.shape[-1], dtype, source=source
    )
    probe = _check.check_means2d_offset(
        absgrad_probe, camera_batch, n, dtype, name="absgrad_probe", source=source
    )
    splats, color_array, background, probe = reverse_only(
        "blend", (splats, color_array, background, probe)
    )
    return blend_checked(
        splats, color_array, order_array, (width, height), background, probe, config
    )


def blend_checked(
    splats: Splats,
    colors: Array,
    order: Array,
    size: tuple[int, int],
    background: Array,
    absgrad_probe: Array | None,
    config: Config,
) -> RenderOutput:
    """``blend`` without the checks; ``ray_depth`` is not read."""
    has_camera_axis = splats.means2d.ndim == 3
    own, order, probe = with_camera_axis((splats, order, absgrad_probe), has_camera_axis)
    inputs = _Inputs(
        means2d=own.means2d,
        depths=own.depths,
        conics=own.conics,
        opacities=own.opacities,
        radii=own.radii,
        order=order,
        colors=with_camera_axis(colors, colors.ndim == 3),
        background=with_camera_axis(background, background.ndim == 2),
        absgrad_probe=probe,
    )
    inputs = same_axes(inputs)
    static = _Static(
        *size,
        three_sigma=config.footprint == "3sigma",
        capacity=list_capacity(config.capacity, splats.means2d.shape[-2], *size),
        deterministic=config.deterministic,
        median=config.depth == "median",
    )
    depths, d = inputs.depths, colors.shape[-1]
    middle = None
    if config.depth_variance:
        middle = _depth.middle_depth(depths, inputs.order, _drawn(static, inputs))
    summands = _depth.summands(depths, inputs.radii, middle, config)
    if summands is not None:
        inputs = _with_summands(inputs, summands)
    out = _blend(static, inputs)
    image, depth, variance = out.image, out.depth, None
    if config.depth_variance:
        variance = _depth.variance_of(image[..., d:], out.weight)
        image = image[..., :d]
    if out.median is not None:
        depth = _depth.median_depth(depths, out.median, config.deterministic)
    out = out._replace(image=image, depth=depth, median=None)
    out, variance = without_camera_axis((out, variance), has_camera_axis)
    return RenderOutput(
        image=out.image,
        depth=out.depth,
        weight=out.weight,
        radii=splats.radii,
        n_isects=out.n_isects,
        n_isects_listed=out.n_isects_listed,
        depth_variance=variance,
    )


def _drawn(static: _Static, inputs: _Inputs) -> Array:
    """Return which splats can appear in the image, ``[C, N]`` bool.

    These are the rules of the handlers (``drawable`` and ``footprint`` in ``csrc``), but for the
    margins of rounding at the border of the image.
    """
    x = jax.lax.stop_gradient(inputs)
    drawn = (x.radii > 0) & jnp.isfinite(x.depths) & (x.opacities >= _ffi.ALPHA_MIN)
    for array in (x.means2d, x.conics, x.colors):
        drawn &= jnp.isfinite(array).all(axis=-1)
    xx, xy, yy = jnp.moveaxis(x.conics, -1, 0)
    drawn &= jnp.isfinite(x.opacities) & (xx > 0) & (yy > 0)
    if static.three_sigma:
        extent = (x.radii[..., None] + _ffi.TILE_SIZE).astype(x.means2d.dtype)
    else:
        det = xx * yy - jnp.square(xy)
        reach = 2 * jnp.log(jnp.maximum(x.opacities / _ffi.ALPHA_MIN, 1))
        squares = reach[..., None] * jnp.abs(jnp.stack([yy, xx], axis=-1))
        regular = (det > 0)[..., None]
        extent = jnp.sqrt(squares / jnp.where(regular, det[..., None], 1))
        extent = jnp.where(regular, extent, jnp.inf)
    size = jnp.array([[[static.width, static.height]]], x.means2d.dtype)
    return drawn & ((x.means2d + extent >= 0) & (x.means2d - extent <= size)).all(axis=-1)


def _with_summands(inputs: _Inputs, summands: _depth.Summands) -> _Inputs:
    """Replace the depths by the summands, and append their channels to those of the image."""
    colors, background, channels = inputs.colors, inputs.background, summands.channels
    if channels.shape[2]:
        colors = jnp.broadcast_to(colors, (*channels.shape[:2], colors.shape[2]))
        colors = jnp.concatenate([colors, channels], axis=2)
        background = jnp.pad(background, ((0, 0), (0, channels.shape[2])))
    return inputs._replace(
        depths=summands.values, radii=summands.radii, colors=colors, background=background
    )


def list_capacity(capacity: int | None, n: Any, width: int, height: int) -> int:
    """Return how many (Gaussian, tile) pairs the lists of one image hold on a GPU.

    The default is about twice what trained scenes need: there a Gaussian touches 2 to 4 tiles of a
    photo, and where few Gaussians fill an image, a pixel is opaque after a few tens of them. With
    fewer pairs than tiles the nearest Gaussian might not fit.
    """
    if not isinstance(n, int):  # symbolic in jax.export, which only the CPU accepts
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


class _Inputs(NamedTuple):
    """The operands of the forward pass in the order of the handler, and the probe; or gradients.

    The camera axis of colors and background may be 1 for all cameras.
    """

    means2d: Any  # [C, N, 2]
    depths: Any  # [C, N]
    conics: Any  # [C, N, 3]
    opacities: Any  # [C, N]
    radii: Any  # [C, N]; has no gradient
    order: Any  # [C, N]; has no gradient
    colors: Any  # [C, N, D] or [1, N, D]
    background: Any  # [C, D] or [1, D]
    absgrad_probe: Any  # [C, N, 2] or None; has a gradient only


class _Outputs(NamedTuple):
    image: Any  # [C, H, W, D]
    depth: Any  # [C, H, W]
    weight: Any  # [C, H, W]
    n_isects: Any  # [C]
    n_isects_listed: Any  # [C]
    median: Any  # [C, H, W] ids, or None


class _Saved(NamedTuple):
    """What the backward pass reads of the forward pass, in the order of the handler."""

    depth: Any  # [C, H, W]
    weight: Any  # [C, H, W]
    transmittance: Any  # [C, H, W]
    last: Any  # [C, H, W]


@custom_vjp
def _blend(static: _Static, inputs: _Inputs) -> _Outputs:
    return _forward(static, inputs, with_residuals=False)[0]


def _forward(static: _Static, inputs: _Inputs, *, with_residuals: bool) -> tuple[_Outputs, _Saved]:
    """Return the outputs, and what is saved; without residuals not all of that is there."""
    c, d, dtype = inputs.means2d.shape[0], inputs.colors.shape[2], inputs.means2d.dtype
    pixels = (c, static.height, static.width)
    residual = pixels if with_residuals else Absent(3)
    image, depth, weight, transmittance, last, median, n_isects, n_isects_listed = _call(
        "jgd_blend_fwd",
        static,
        inputs,
        [],
        [
            ((*pixels, d), dtype),  # image
            (pixels, dtype),  # depth
            (pixels, dtype),  # weight
            (residual, dtype),  # transmittance
            (residual, jnp.int32),  # last
            (pixels if static.median else Absent(3), jnp.int32),  # median
            ((c,), jnp.int32),  # n_isects
            ((c,), jnp.int32),  # n_isects_listed
        ],
    )
    outputs = _Outputs(image, depth, weight, n_isects, n_isects_listed, median)
    return outputs, _Saved(depth, weight, transmittance, last)


def _blend_fwd(static: _Static, primals: _Inputs) -> tuple[_Outputs, Any]:
    inputs, needed = values_and_needed(primals)
    outputs, saved = _forward(static, inputs, with_residuals=True)
    return outputs, (inputs, saved, needed)


def _blend_bwd(static: _Static, residuals: Any, cotangents: _Outputs) -> tuple[_Inputs | None]:
    inputs, saved, needed = residuals
    v_image = none_if_zero(cotangents.image)
    v_depth = none_if_zero(cotangents.depth)
    v_weight = none_if_zero(cotangents.weight)
    if v_image is None and v_depth is None and v_weight is None:
        return (None,)

    def like(x: Array, wanted: bool = True) -> Result:
        return x.shape if wanted else Absent(x.ndim), inputs.means2d.dtype

    with_image = v_image is not None
    v_means2d, v_probe, v_depths, v_conics, v_opacities, v_colors, v_background = _call(
        "jgd_blend_bwd",
        static,
        inputs,
        [*saved, or_absent(v_image, 4), or_absent(v_depth, 3), or_absent(v_weight, 3)],
        [
            like(inputs.means2d),
            like(inputs.means2d, wanted=bool(needed.inputs.absgrad_probe)),
            like(inputs.depths),
            like(inputs.conics),
            like(inputs.opacities),
            like(inputs.colors, wanted=needed.inputs.colors and with_image),
            like(inputs.background, wanted=needed.inputs.background and with_image),
        ],
    )
    gradients = _Inputs(
        means2d=v_means2d,
        depths=v_depths,
        conics=v_conics,
        opacities=v_opacities,
        radii=None,
        order=None,
        colors=v_colors,
        background=v_background,
        absgrad_probe=v_probe,
    )
    return (gradients,)


_blend.defvjp(_blend_fwd, _blend_bwd, symbolic_zeros=True)


def _call(
    target: str,
    static: _Static,
    inputs: _Inputs,
    others: Sequence[Operand],
    results: Sequence[Result],
) -> list[Any]:
    sizes = _ffi.Sizes(
        n_cameras=inputs.means2d.shape[0],
        n=inputs.means2d.shape[1],
        width=static.width,
        height=static.height,
        n_channels=inputs.colors.shape[2],
        capacity=static.capacity,
        deterministic=static.deterministic,
    )
    *operands, _ = inputs  # the probe has no value
    attributes = static._asdict()
    del attributes["median"]  # an absent result says it
    return _ffi.call(target, [*operands, *others], results, sizes=sizes, **attributes)
