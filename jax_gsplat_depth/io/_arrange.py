"""Arranges Gaussians for compressed PLY: those that share a chunk are neighbours, none is stray."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jax_gsplat_depth.io._record import Record, parts
from jax_gsplat_depth.io._stray import pulled_in, reach
from jax_gsplat_depth.io._tags import FileWarning

CHUNK = 256
"""Gaussians that share their ranges."""

_MORTON_BITS = 16
_STRAY = 8


class Arrangement(NamedTuple):
    """The order of the Gaussians in the file, and those that are not written as they are.

    Attributes:
        order: ``(N,)`` indices.
        start: Place in the file of the first Gaussian that is clipped.
        clipped: That one and those after it which are clipped, in float64.
    """

    order: np.ndarray
    start: int
    clipped: Record

    def blocks(self, record: Record) -> Iterator[Record]:
        """Yield all Gaussians in this order, whole chunks of them, as ``Record.blocks`` does."""
        changed = self.clipped.fields()
        end = self.start + len(self.clipped.means)
        for part, block in zip(parts(len(self.order)), record.blocks(self.order), strict=True):
            low, high = max(part.start, self.start), min(part.stop, end)
            for name, array in block.fields().items():
                if low < high:
                    new = changed[name][low - self.start : high - self.start]
                    array[low - part.start : high - part.start] = new
            yield block


def arranged(path: Path, record: Record) -> Arrangement:
    """Return an order in which no stray Gaussian spoils a chunk.

    Args:
        path: File to write, for the warning that some are clipped.
        record: At least one Gaussian.
    """
    fields = ((record.means, np.positive), (record.scales, np.log), (record.sh[:, 0], np.positive))
    how_stray, centers, limits = np.zeros(len(record.means)), [], []
    for values, change in fields:
        found = reach(values, _STRAY, change)
        centers.append(found.center)
        limits.append(found.limit)
        np.maximum(how_stray, found.distances / found.limit, out=how_stray)
        del found
    ordinary, stray = np.nonzero(how_stray <= 1)[0], np.nonzero(how_stray > 1)[0]
    stray = stray[np.argsort(how_stray[stray], kind="stable")]
    del how_stray
    # The mildest of them fill up the last chunk of the others.
    shared, own = np.split(stray, [-len(ordinary) % CHUNK])
    pieces = [part[morton_order(record.means[part])] for part in (ordinary, own)]
    order = np.concatenate([pieces[0], shared, pieces[1]])
    clipped = record[shared].as_float64()
    if len(shared) == 0:
        return Arrangement(order, 0, clipped)
    warnings.warn(
        f"{path}: {len(shared)} of {len(record.means)} Gaussians are stray, and were clipped to "
        f"{_STRAY} times the range of the others",
        FileWarning,
        stacklevel=3,
    )
    low, high = (
        [center + sign * limit for center, limit in zip(centers, limits, strict=True)]
        for sign in (-1, 1)
    )
    clipped, _ = pulled_in(clipped, centers[0], low[0], high[0])
    clipped.scales[:] = np.exp(np.clip(np.log(clipped.scales), low[1], high[1]))
    clipped.sh[:, 0] = np.clip(clipped.sh[:, 0], low[2], high[2])
    return Arrangement(order, len(ordinary), clipped)


def morton_order(means: np.ndarray) -> np.ndarray:
    """Return the indices that sort points along a Z-order curve, where neighbours are close.

    More points than fit into a chunk never stay unsorted because something far away makes the
    cells of the curve large.
    """
    if len(means) == 0:
        return np.zeros(0, int)
    cells = np.empty((len(means), 3), np.uint16)
    for axis in range(3):
        column = means[:, axis].astype(np.float64)
        low, high = column.min(), column.max()
        extent = high - low if high > low else 1.0
        cells[:, axis] = (2**_MORTON_BITS - 1) * ((column - low) / extent)
    code = np.zeros(len(means), np.uint64)
    for part in parts(len(means)):
        own = cells[part].astype(np.uint64)
        for bit in range(_MORTON_BITS):
            for axis in range(3):
                code[part] |= ((own[:, axis] >> np.uint64(bit)) & np.uint64(1)) << np.uint64(
                    3 * bit + axis
                )
    del cells
    order = np.argsort(code, kind="stable")
    code = code[order]
    ends = np.append(np.nonzero(code[1:] != code[:-1])[0] + 1, len(order))
    sizes = np.diff(ends, prepend=0)
    for run in np.nonzero(sizes > CHUNK)[0]:
        place = slice(ends[run] - sizes[run], ends[run])
        same = order[place]
        if np.ptp(means[same], axis=0).any():
            order[place] = same[morton_order(means[same])]
    return order
