"""Chooses what blending sums for each kind of depth, and makes depth and variance from the sums.

Blending returns sum w x / sum w of one number x of each splat, by default its depth, and sum w c of
any number of channels c. All that ``Config.depth`` and ``Config.depth_variance`` ask for follows
from another x, from two more channels, and from the id of the Gaussian at the median. Arrays have a
camera axis here, except where ``[C?, ...]`` says that they may.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array

from jax_gsplat_depth._types import Config, RenderOutput

# Its square and the reciprocal of that fit into float32: no splat is lost because of its depth.
_MAX_OFFSET = 1e18


@dataclasses.dataclass(frozen=True)
class Summands:
    """What blending sums instead of the depths and in addition to the colours.

    Attributes:
        values: ``[C, N]`` numbers whose weighted mean is the depth.
        channels: ``[C, N, k]`` numbers whose weighted sums are the two moments of the variance, or
            none.
        radii: ``[C, N]`` int32, 0 where culled.
    """

    values: Array
    channels: Array
    radii: Array


def summands(depths: Array, radii: Array, middle: Array | None, config: Config) -> Summands | None:
    """Return what blending sums, or None if it is the depths alone.

    The variance is that of z - z0, with z0 = ``middle``. For z itself the two terms of
    E[z^2] - E[z]^2 would cancel, and nothing would be left of it in a distant scene. Its rounding
    error is about eps times the squared distance of the splats from z0. The mean is not computed
    about z0: it would have the error of the splats farthest from z0.

    Args:
        depths: ``[C, N]`` of the splats; 0 for a culled one.
        radii: ``[C, N]`` int32, 0 where culled.
        middle: ``[C, 1]`` of ``middle_depth``, or None without a variance.
        config: Reads depth.
    """
    if config.depth != "inverse" and middle is None:
        return None
    # A splat that is not drawn because of its depth must not be drawn with another number.
    finite = jnp.isfinite(depths)
    radii = jnp.where(finite, radii, 0)
    depths = jnp.where(finite, depths, 0)
    channels = jnp.zeros((*depths.shape, 0), depths.dtype)
    if middle is not None:
        offset = depths - middle
        offset = jnp.clip(offset, -_MAX_OFFSET, _MAX_OFFSET)
        channels = jnp.stack([offset, jnp.square(offset)], axis=-1)
    values = _reciprocal(depths) if config.depth == "inverse" else depths
    return Summands(values, channels, radii)


def middle_depth(depths: Array, order: Array, drawn: Array) -> Array:
    """Return the depth of the middle one of the drawn splats, ``[C, 1]``, as a constant.

    Args:
        depths: ``[C, N]`` of the splats.
        order: ``[C, N]`` int32 of the bin stage, possibly changed: entries may name no splat, and
            splats that are not drawn may stand anywhere.
        drawn: ``[C, N]`` bool, whether a splat can appear in the image.
    """
    if depths.shape[1] == 0:
        return jnp.zeros((depths.shape[0], 1), depths.dtype)
    ids = jax.lax.broadcasted_iota(jnp.int32, order.shape, 1)
    listed = _take(drawn, order) & (_take(ids, order) == order)
    n_listed = jnp.cumsum(listed, axis=1, dtype=jnp.int32)
    before = n_listed <= n_listed[:, -1:] // 2
    index = _take(order, jnp.sum(before, axis=1, keepdims=True, dtype=jnp.int32))
    return jax.lax.stop_gradient(_take(jnp.where(drawn, depths, 0), index))


def variance_of(sums: Array, weight: Array) -> Array:
    """Return the variance of depth ``[C, H, W]``, 0 where nothing was hit.

    Args:
        sums: ``[C, H, W, 2]`` weighted sums of the channels of ``Summands``.
        weight: ``[C, H, W]`` sum of the weights.
    """
    means = sums / jnp.where(weight > 0, weight, 1)[..., None]
    variance = means[..., 1] - jnp.square(means[..., 0])
    # Negative only by rounding, so the clamp must not stop the derivative.
    return variance + jax.lax.stop_gradient(jnp.maximum(variance, 0) - variance)


def median_depth(depths: Array, ids: Array, deterministic: bool) -> Array:
    """Return the depth of one Gaussian for each pixel.

    Args:
        depths: ``[C, N]``.
        ids: ``[C, H, W]`` int32; -1 where the result is 0.
        deterministic: Whether the gradient is summed in a fixed order on every device.
    """
    if depths.shape[1] == 0:
        return jnp.zeros(ids.shape, depths.dtype)
    flat = ids.reshape(ids.shape[0], -1)
    taken = (_take_in_order if deterministic else _take)(depths, flat)
    return jnp.where(flat >= 0, taken, 0).reshape(ids.shape)


def along_rays(output: RenderOutput, lengths: Array, config: Config) -> RenderOutput:
    """Turn z into the distance from the camera centre.

    Args:
        output: ``[C?, H, W]`` depth and variance along z.
        lengths: ``[C?, H, W]`` distance to what each pixel sees at z = 1.
        config: Reads depth.
    """
    # Where nothing was hit the depth is 0 at any length: a cotangent there, even one that is not
    # finite, must not reach the camera.
    lengths = jnp.where(output.weight > 0, lengths, jax.lax.stop_gradient(lengths))
    depth = output.depth / lengths if config.depth == "inverse" else output.depth * lengths
    variance = output.depth_variance
    if variance is not None:
        variance = variance * jnp.square(lengths)
    return dataclasses.replace(output, depth=depth, depth_variance=variance)


def _reciprocal(depths: Array) -> Array:
    """Return 1 / z; 0 where the splat is culled or z too small for a finite derivative."""
    usable = jnp.abs(depths) >= 1 / _MAX_OFFSET
    return jnp.where(usable, 1 / jnp.where(usable, depths, 1), 0)


def _take(values: Array, indices: Array) -> Array:
    return jnp.take_along_axis(values, indices, axis=1, mode="clip")


@jax.custom_vjp
def _take_in_order(values: Array, indices: Array) -> Array:
    """Take with a gradient of the same bits on every run: a GPU scatters with atomics."""
    return _take(values, indices)


def _take_fwd(values: Array, indices: Array) -> tuple[Array, tuple[Array, Array]]:
    return _take(values, indices), (values, indices)


def _take_bwd(residuals: tuple[Array, Array], v: Array) -> tuple[Array, None]:
    values, indices = residuals
    keys, sums = jax.lax.sort((indices, v), dimension=1, num_keys=1, is_stable=True)
    before = jnp.pad(keys[:, :-1], ((0, 0), (1, 0)), constant_values=-2)  # not an id
    begins = keys != before

    def add(a: tuple[Array, Array], b: tuple[Array, Array]) -> tuple[Array, Array]:
        return jnp.where(b[1], b[0], a[0] + b[0]), a[1] | b[1]

    # Sums since the start of a run of equal keys: the last entry of the run has the total.
    sums, _ = jax.lax.associative_scan(add, (sums, begins), axis=1)
    wanted = jax.lax.broadcasted_iota(jnp.int32, values.shape, 1)
    last = jax.vmap(lambda k, w: jnp.searchsorted(k, w, side="right"))(keys, wanted) - 1
    return jnp.where(_take(keys, last) == wanted, _take(sums, last), 0), None


_take_in_order.defvjp(_take_fwd, _take_bwd)
