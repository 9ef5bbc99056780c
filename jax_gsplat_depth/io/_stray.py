"""Finds values that lie far from all others, and moves them closer.

Formats whose steps depend on a range must not lose their precision to a few stray Gaussians.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jax_gsplat_depth.io._record import Record, parts

_USUAL = 0.99
"""Share of the Gaussians from whose distances those of all are judged."""


class Reach(NamedTuple):
    """How far from their median values are expected.

    Attributes:
        center: ``(3,)`` median.
        distances: ``(N,)`` largest distance from it along an axis.
        limit: Distance beyond which a value is stray; infinity if nearly all are equal.
    """

    center: np.ndarray
    distances: np.ndarray
    limit: float

    @property
    def stray(self) -> np.ndarray:
        """``(N,)`` bool, which values are farther away than that."""
        return self.distances > self.limit


def reach(
    values: np.ndarray,
    factor: float,
    change: Callable[[np.ndarray], np.ndarray] = np.positive,
) -> Reach:
    """Return how far the values should reach.

    Args:
        values: ``(N, 3)``, N > 0.
        factor: Ratio of the limit to the distance within which 99 % of the values lie, and of few
            values all but one.
        change: Is applied to the values in float64 first.
    """
    center, distances = np.zeros(3), np.zeros(len(values))
    # One axis at a time, which takes less memory.
    for axis in range(3):
        column = change(values[:, axis].astype(np.float64))
        center[axis] = np.median(column)
        column -= center[axis]
        np.maximum(distances, np.abs(column, out=column), out=distances)
    usual = float(np.quantile(distances, _USUAL, method="lower"))
    return Reach(center, distances, factor * usual if usual > 0 else np.inf)


def pulled_in(
    record: Record, center: np.ndarray, low: np.ndarray | float, high: np.ndarray | float
) -> tuple[Record, np.ndarray]:
    """Move Gaussians outside of a box towards a point inside until they are in it.

    Their scales shrink with the distance, so that they look the same from that point.

    Args:
        record: The Gaussians.
        center: ``(3,)`` the point.
        low: Lower ends of the box, one or ``(3,)``.
        high: Upper ends of the box, likewise.

    Returns:
        The Gaussians, and ``(N,)`` bool, which of them were moved.
    """
    factors = np.empty(len(record.means))
    for part in parts(len(factors)):
        offsets = record.means[part] - center
        room = np.where(offsets > 0, high - center, center - low)
        with np.errstate(divide="ignore"):
            ratios = np.where(offsets == 0, np.inf, room / np.abs(offsets))
        factors[part] = ratios.min(axis=1)
    moved = factors < 1
    if not moved.any():
        return record, moved
    means, scales = record.means.astype(np.float64), record.scales.astype(np.float64)
    closer = factors[moved, None]
    means[moved] = center + closer * (means[moved] - center)
    scales[moved] *= closer
    return dataclasses.replace(record, means=means, scales=scales), moved
