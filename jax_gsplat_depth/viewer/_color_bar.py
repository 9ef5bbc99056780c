"""Draws the bar that says which colour of a depth picture is which depth."""

import numpy as np

from jax_gsplat_depth._common.extras import require
from jax_gsplat_depth.frames import depth_picture

_WIDTH, _HEIGHT, _BAR = 640, 96, 40
"""Size in pixels of the picture, and height of the bar at its top; the panel shows it smaller."""

_MARGIN = 16
"""Pixels to the left and to the right of the bar."""

_OUTER = 0.1
"""Part of the bar at either end whose labels go inwards."""

_DPI, _FONT_SIZE = 100, 18
"""Pixels per inch, and size of the labels in points."""

_ROOM = 24
"""Letters that fit below the bar; where there are more, only the outer labels stay."""


def color_bar(low: float, high: float) -> np.ndarray:
    """Return the colours from one depth to another, with the depths below them.

    Args:
        low: Depth of the first colour.
        high: Depth of the last colour; where it is not larger, one colour is all there is.

    Returns:
        ``[96, 640, 4]`` uint8, opaque RGBA.
    """
    figure = require("matplotlib.figure").Figure((_WIDTH / _DPI, _HEIGHT / _DPI), dpi=_DPI)
    canvas = require("matplotlib.backends.backend_agg").FigureCanvasAgg(figure)
    n_columns = _WIDTH - 2 * _MARGIN
    axes = figure.add_axes(
        (_MARGIN / _WIDTH, 1 - _BAR / _HEIGHT, n_columns / _WIDTH, _BAR / _HEIGHT)
    )
    axes.set(xlim=(0, 1), yticks=[])
    axes.spines[:].set_visible(False)
    ticks = _ticks(low, high)
    labels = [f"{tick:.10g}" for tick in ticks]
    if len("".join(labels)) > _ROOM:
        ticks, labels = ticks[:: len(ticks) - 1], labels[:: len(labels) - 1]
    places = [0.0 if high <= low else (tick - low) / (high - low) for tick in ticks]
    axes.set_xticks(places)
    for text, place in zip(axes.set_xticklabels(labels, size=_FONT_SIZE), places, strict=True):
        # Long labels must not end outside of the picture.
        text.set_horizontalalignment(
            "left" if place < _OUTER else "right" if place > 1 - _OUTER else "center"
        )
    canvas.draw()
    picture = np.array(canvas.buffer_rgba())
    # Of the function that colours the pictures, and without any resampling.
    fractions = (np.arange(n_columns) + 0.5) / n_columns
    ramp = np.repeat(1 + fractions[None], _BAR - 2, axis=0)
    colors = depth_picture(ramp, np.ones_like(ramp), 1.0, 2.0, 0.0)
    picture[: _BAR - 2, _MARGIN : _MARGIN + n_columns, :3] = colors
    return picture


def _ticks(low: float, high: float) -> list[float]:
    """Return few round depths from the first to the last."""
    if high <= low:
        return [low]
    found = require("matplotlib.ticker").MaxNLocator(4).tick_values(low, high)
    room = 1e-9 * (high - low)
    return [float(tick) for tick in found if low - room <= tick <= high + room]
