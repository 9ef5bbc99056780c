"""Averages images over the Gaussian window of SSIM, fast on a CPU.

The window is two passes of shifted sums. XLA's CPU backend would fuse them into one loop, which
computes each sum of the first pass once per tap of the second; and automatic differentiation would
make a padded image for every tap of a shifted sum. Hence unfused passes, and a primitive with its
own transpose. The primitive is linear, so it has every derivative, forward and reverse.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.interpreters import ad, batching, mlir

from jax_gsplat_depth._common.fusion import unfused

WINDOW = 11
"""Side of the window in pixels (Wang et al. 2004)."""

_SIGMA = 1.5
"""Standard deviation of the window in pixels (Wang et al. 2004)."""

_HALO = WINDOW - 1
"""Pixels by which blurring shortens each side."""


def blur(image: Array) -> Array:
    """Average ``[H, W, C]`` over the window wherever it lies inside, ``[H - 10, W - 10, C]``."""
    height, width, channels = image.shape
    # Pixels and channels of a row in one axis: long loops whatever the number of channels.
    rows = image.reshape(height, width * channels)
    blurred = _blur_p.bind(rows, step=channels)
    return blurred.reshape(height - _HALO, width - _HALO, channels)


_blur_p = jax.extend.core.Primitive("gaussian_window")
"""Maps ``[..., H, W]`` to ``[..., H - 10, W - 10 step]``; taps are ``step`` apart along a row."""


def _taps() -> list[float]:
    offsets = np.arange(WINDOW) - WINDOW // 2
    window = np.exp(-0.5 * (offsets / _SIGMA) ** 2)
    return (window / window.sum()).tolist()


def _shifted_sum(x: Array, *, axis: int, step: int) -> Array:
    size = x.shape[axis] - _HALO * step
    shifted = (
        tap * jax.lax.slice_in_dim(x, i * step, i * step + size, axis=axis)
        for i, tap in enumerate(_taps())
    )
    return functools.reduce(jnp.add, shifted)


def _passes(x: Array, *, step: int) -> Array:
    down = unfused(functools.partial(_shifted_sum, axis=x.ndim - 2, step=1))
    along = unfused(functools.partial(_shifted_sum, axis=x.ndim - 1, step=step))
    return along(down(x))


def _abstract_eval(x: Any, *, step: int) -> Any:
    *batch, height, width = x.shape
    return x.update(shape=(*batch, height - _HALO, width - _HALO * step), weak_type=False)


def _transpose(cotangent: Array | ad.Zero, x: Array, *, step: int) -> list[Array | ad.Zero]:
    """The window is symmetric: its transpose is itself, on a cotangent with a margin of zeros."""
    if isinstance(cotangent, ad.Zero):
        return [ad.Zero(x.aval)]
    margins = [(0, 0)] * (cotangent.ndim - 2) + [(_HALO, _HALO), (_HALO * step, _HALO * step)]
    return [_blur_p.bind(jnp.pad(cotangent, margins), step=step)]


def _batch(operands: Sequence[Array], axes: Sequence[int], *, step: int) -> tuple[Array, int]:
    return _blur_p.bind(jnp.moveaxis(operands[0], axes[0], 0), step=step), 0


_blur_p.def_impl(jax.jit(_passes, static_argnames="step"))
_blur_p.def_abstract_eval(_abstract_eval)
ad.deflinear2(_blur_p, _transpose)
batching.primitive_batchers[_blur_p] = _batch
mlir.register_lowering(_blur_p, mlir.lower_fun(_passes, multiple_results=False))
