"""Chooses colour map and range of depth pictures, the same for all commands."""

import numpy as np

DEPTH_COLORMAP = "viridis"
"""Name of a colour map of matplotlib, whose first colour is the nearest depth."""

_QUANTILES = (0.01, 0.99)
"""Quantiles of depth with the first and last colour: a few stray Gaussians must not take them."""


def color_range(depths: np.ndarray, otherwise: float = 1.0) -> tuple[float, float]:
    """Return the depths of the first and the last colour, the second larger than the first.

    Args:
        depths: ``[N]`` positive depths of solid pixels, world units.
        otherwise: The last colour if there are none, world units, positive; the first is then 0.
    """
    if len(depths) == 0:
        return 0.0, otherwise
    low, high = (float(q) for q in np.quantile(depths, _QUANTILES))
    return low, max(high, low * (1 + 1e-3))
