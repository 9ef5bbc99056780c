"""Finds the few values or vectors that stand for very many: the codebooks and palettes of SOG.

Both divide what they are given into cells, always the one whose division gains most, until there
are enough; so a few values far away cost a few cells, not the precision of all others. Time and
memory grow with the number of values and not with the product of values and cells, and what has
few enough different values is held exactly.
"""

import heapq

import numpy as np

from jax_gsplat_depth.io._record import parts

CODES = 256
"""Most values of a codebook: what a byte can name."""

PALETTE = 1 << 16
"""Most vectors of a palette: what two bytes can name."""

_WORST = 0.25
"""Cells with an error of at least that share of the largest one are divided together."""


def codebook(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return values that stand for others, each of which takes the nearest.

    Args:
        values: Finite numbers of any shape, at least one.

    Returns:
        ``(256,)`` float64 in ascending order, the last one repeated if fewer are needed, and the
        index of each value, uint8 of its shape.
    """
    ordered = np.sort(values, axis=None)

    def cell(start: int, end: int) -> tuple[float, int, int]:
        # With as many cells as there are codes, the squared error is least where the widths go
        # with the power -1/3 of the density (Panter and Dite, 1951): equal n^(1/3) times width.
        return -float(ordered[end - 1] - ordered[start]) * (end - start) ** (1 / 3), start, end

    cells = [cell(0, len(ordered))]
    while len(cells) < CODES and cells[0][0] < 0:
        _, start, end = cells[0]
        low, high = ordered[start], ordered[end - 1]
        cut = int(np.searchsorted(ordered[start:end], low + (high - low) / 2, side="right")) + start
        # The middle of two neighbours among all numbers can be the upper one.
        cut = min(cut, int(np.searchsorted(ordered[start:end], high)) + start)
        heapq.heapreplace(cells, cell(start, cut))
        heapq.heappush(cells, cell(cut, end))
    ends = sorted((start, end - 1) for _, start, end in cells)
    chosen = np.array([ordered[a] + (ordered[b] - ordered[a]) / 2 for a, b in ends])
    codes = np.searchsorted((chosen[1:] + chosen[:-1]) / 2, values).astype(np.uint8)
    return np.pad(chosen, (0, CODES - len(chosen)), mode="edge"), codes


def palette(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return vectors that stand for others: all of them if they are few, else means of cells.

    Args:
        vectors: ``(N, D)`` float32, finite, N > 0.

    Returns:
        ``(P, D)`` float32 with P at most 65536, and ``(N,)`` the index of each.
    """
    if len(vectors) <= PALETTE:
        entries, labels = np.unique(vectors, axis=0, return_inverse=True)
        return entries, labels.reshape(-1)
    cells = _Cells(vectors)
    while cells.n < PALETTE and cells.errors.max() > 0:
        cells.split(PALETTE)
    return cells.means[: cells.n], cells.labels


class _Cells:
    """Vectors divided into cells; those with the largest errors are divided at the same time.

    Attributes:
        n: Number of cells.
        labels: ``(N,)`` the cell of each vector.
        errors: ``(65536,)`` sum of the squared distances from the mean, by cell.
        means: ``(65536, D)`` by cell.
    """

    def __init__(self, vectors: np.ndarray) -> None:
        self.n, self.vectors = 1, vectors
        self.labels = np.zeros(len(vectors), np.intp)
        self.means = np.zeros((PALETTE, vectors.shape[1]), np.float32)
        self.errors, self.middles = np.zeros(PALETTE), np.zeros(PALETTE)
        self.axes = np.zeros(PALETTE, np.intp)
        self._measure(np.arange(len(vectors)))

    def split(self, most: int) -> None:
        """Divide the worst cells at the mean of the axis along which they are widest."""
        order = np.argsort(-self.errors[: self.n], kind="stable")[: most - self.n]
        chosen = order[self.errors[order] >= self.errors[order[0]] * _WORST]
        new = np.full(self.n, -1)
        new[chosen] = self.n + np.arange(len(chosen))
        members = np.nonzero(new[self.labels] >= 0)[0]
        own = self.labels[members]
        above = self.vectors[members, self.axes[own]] > self.middles[own]
        self.labels[members[above]] = new[own[above]]
        self.n += len(chosen)
        self._measure(members)

    def _measure(self, members: np.ndarray) -> None:
        """Set what is known of the cells of ``(M,)`` vectors, all of which are given."""
        members = members[np.argsort(self.labels[members], kind="stable")]
        own = self.labels[members]
        starts = np.nonzero(np.diff(own, prepend=-1))[0]
        cells, counts = own[starts], np.diff(starts, append=len(own))
        offsets = self.vectors[members]
        sums = np.add.reduceat(offsets, starts, axis=0, dtype=np.float64)
        self.means[cells] = sums / counts[:, None]
        for part in parts(len(own)):  # The vectors are most of the memory that writing takes.
            offsets[part] -= self.means[own[part]]
        offsets *= offsets
        errors = np.add.reduceat(offsets, starts, axis=0)
        self.axes[cells] = errors.argmax(axis=1)
        column = self.vectors[members, self.axes[own]].astype(np.float64)
        low, high = np.minimum.reduceat(column, starts), np.maximum.reduceat(column, starts)
        mean = self.means[cells, self.axes[cells]]
        # The mean is rounded, and of very small numbers the squares are zero.
        self.middles[cells] = np.where((low <= mean) & (mean < high), mean, (low + high) / 2)
        self.errors[cells] = np.maximum(errors.sum(axis=1), high - low)
