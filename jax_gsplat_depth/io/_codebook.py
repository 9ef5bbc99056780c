"""Finds the few values or vectors that stand for very many: the codebooks and palettes of SOG.

Both divide what they are given into cells, always the one whose division gains most, until there
are enough; so a few values far away cost a few cells, not the precision of all others. Time and
memory grow with the number of values and not with the product of values and cells, and what has
few enough different values is held exactly.
"""

import heapq

import numpy as np

CODES = 256
"""Most values of a codebook: what a byte can name."""

PALETTE = 1 << 16
"""Most vectors of a palette: what two bytes can name."""


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
    order = np.arange(len(vectors))
    cells = [_cell(vectors, order, 0, len(order))]
    while len(cells) < PALETTE and cells[0][0] < 0:
        _, start, end, axis, middle, _ = cells[0]
        members = order[start:end].copy()
        above = vectors[members, axis] > middle
        cut = end - int(above.sum())
        order[start:cut], order[cut:end] = members[~above], members[above]
        heapq.heapreplace(cells, _cell(vectors, order, start, cut))
        heapq.heappush(cells, _cell(vectors, order, cut, end))
    labels = np.empty(len(order), np.intp)
    for label, (_, start, end, *_) in enumerate(cells):
        labels[order[start:end]] = label
    return np.stack([mean for *_, mean in cells]), labels


def _cell(
    vectors: np.ndarray, order: np.ndarray, start: int, end: int
) -> tuple[float, int, int, int, float, np.ndarray]:
    """Return the squared error of a cell, negative for a heap, where to cut it, and its mean."""
    members = vectors[order[start:end]]
    mean = members.mean(axis=0, dtype=np.float64).astype(np.float32)
    members -= mean
    errors = np.einsum("ij,ij->j", members, members)
    axis = int(errors.argmax())
    column = vectors[order[start:end], axis].astype(np.float64)
    middle = float(mean[axis])
    low, high = float(column.min()), float(column.max())
    if not low <= middle < high:  # The mean is rounded.
        middle = low + (high - low) / 2
    # Different vectors are never taken for equal because their squares are too small.
    error = max(float(errors.sum()), high - low)
    return -error, start, end, axis, middle, mean
