"""Finds values that lie far from all others, and moves them closer.

Formats whose steps depend on a range must not lose their precision to a few stray Gaussians.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from jax_gsplat_depth.io._record import Record

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


def reach(values: np.ndarray, factor: float) -> Reach:
    """Return how far the values should reach.

    Args:
        values: ``(N, 3)``, N > 0.
        factor: Ratio of the limit to the distance within which 99 % of the values lie, and of few
            values all but one.
    """
    center = np.median(values, axis=0)
    distances = np.abs(values - center).max(axis=1)
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
    offsets = record.means - center
    room = np.where(offsets > 0, high - center, center - low)
    with np.errstate(divide="ignore"):
        factors = np.where(offsets == 0, np.inf, room / np.abs(offsets)).min(axis=1)
    moved = factors < 1
    factors = np.where(moved, factors, 1.0)[:, None]
    means = np.where(moved[:, None], center + factors * offsets, record.means)
    return dataclasses.replace(record, means=means, scales=factors * record.scales), moved
