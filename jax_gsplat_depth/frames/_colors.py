"""Turns depth and weight into colours, the same in files and in the viewer."""

import functools

import numpy as np

from jax_gsplat_depth._common.depth_colors import DEPTH_COLORMAP
from jax_gsplat_depth._common.extras import require

UNKNOWN = (153, 153, 153)
"""Colour of the pixels of a depth picture that have no depth."""

_N_COLORS = 256
"""Number of colours between the nearest and the farthest depth."""


def depth_picture(
    depth: np.ndarray, weight: np.ndarray, low: float, high: float, min_weight: float
) -> np.ndarray:
    """Return depth as colours from ``low`` (dark) to ``high`` (bright).

    Args:
        depth: ``[H, W]`` world units, 0 where nothing was hit.
        weight: ``[H, W]`` in 0..1.
        low: Depth of the first colour, which nearer depths have as well.
        high: Depth of the last colour, at least ``low``, which farther depths have as well.
        min_weight: Pixels with less weight are grey: so little was hit that it is no surface.

    Returns:
        ``[H, W, 3]`` uint8.
    """
    span = max(high - low, np.finfo(np.float32).tiny)
    # Like matplotlib: equal parts of the range, the upper end in the last of them.
    index = np.clip((depth - low) / span, 0, 1) * _N_COLORS
    picture = _color_table(DEPTH_COLORMAP)[np.minimum(index, _N_COLORS - 1).astype(np.uint8)]
    picture[(depth <= 0) | (weight < min_weight)] = UNKNOWN
    return picture


def weight_picture(weight: np.ndarray) -> np.ndarray:
    """Return ``[H, W]`` weights in 0..1 as ``[H, W]`` uint8, 0 black and 1 white."""
    return np.round(255 * np.clip(weight, 0, 1)).astype(np.uint8)


def color_of(text: str) -> np.ndarray:
    """Return the ``[3]`` float32 RGB colour in 0..1 that a text names.

    Args:
        text: A name of matplotlib such as ``white``, ``#rrggbb``, or a grey in 0..1.

    Raises:
        ValueError: The text names no colour.
        ImportError: matplotlib is not installed.
    """
    try:
        return np.asarray(require("matplotlib.colors").to_rgb(text), np.float32)
    except ValueError as error:
        raise ValueError(
            f"{text!r} is no colour: expected a name such as white, #rrggbb, or a grey in 0..1"
        ) from error


@functools.cache
def _color_table(name: str) -> np.ndarray:
    colormap = require("matplotlib").colormaps[name]
    return colormap(np.arange(_N_COLORS), bytes=True)[:, :3].copy()
