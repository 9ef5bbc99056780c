"""Reduces a capture to few training views: the sparse-view setting."""

import dataclasses

import numpy as np

from jax_gsplat_depth.datasets._capture import Capture, CaptureError
from jax_gsplat_depth.datasets._geometry import project_points

_VIEWS_OF_A_POINT = 2
"""Number of views that triangulation needs."""

_HIDDEN = 0.05
"""A point is hidden if it lies behind the surface by this fraction of the surface's depth."""


def select_views(capture: Capture, n: int) -> Capture:
    """Return the capture with ``n`` of its training views and all of its held-out views.

    The training views, in name order, are divided into ``n`` equal runs, and the middle one of each
    is kept. Of the sparse points only those remain that a triangulation of these views could find:
    they project into two or more of them (into the one, if ``n`` is 1) and are not hidden there, as
    far as the depth of the views tells. The others would leak what only the removed views saw.

    Args:
        capture: Posed photos.
        n: How many training views to keep.

    Raises:
        CaptureError: ``n`` is less than 1, or more than there are training views.
    """
    train = capture.train_indices
    if not 1 <= n <= len(train):
        raise CaptureError(
            f"{n} training views cannot be chosen: the capture has {len(train)}, expected a number "
            f"between 1 and {len(train)}"
        )
    kept = train[((np.arange(n) + 0.5) * len(train) / n).astype(int)]
    views = np.sort(np.concatenate([kept, capture.test_indices]))
    points, colors = capture.points, capture.point_colors
    if points is not None and n < len(train):
        seen = sum(_sees(capture, view, points).astype(int) for view in kept)
        known = seen >= min(_VIEWS_OF_A_POINT, n)
        points = points[known]
        colors = None if colors is None else colors[known]
    return dataclasses.replace(
        capture,
        names=[capture.names[view] for view in views],
        images=capture.images[views],
        viewmats=capture.viewmats[views],
        Ks=capture.Ks[views],
        points=points,
        point_colors=colors,
        depths=_rows(capture.depths, views),
        depth_priors=_rows(capture.depth_priors, views),
        alphas=_rows(capture.alphas, views),
        masks=_rows(capture.masks, views),
        sizes=_rows(capture.sizes, views),
        test_indices=np.searchsorted(views, capture.test_indices),
    )


def _rows(array: np.ndarray | None, views: np.ndarray) -> np.ndarray | None:
    return None if array is None else array[views]


def _sees(capture: Capture, view: int, points: np.ndarray) -> np.ndarray:
    """Return which of ``(P, 3)`` world points a view sees, ``(P,)`` bool."""
    viewmat, K = capture.viewmats[view].astype(np.float64), capture.Ks[view].astype(np.float64)
    size = (capture.width, capture.height)
    pixels, depth, inside = project_points(points, viewmat, K, size)
    if capture.depths is None:
        return inside
    surface = np.zeros_like(depth)
    columns, rows = pixels[inside].astype(int).T
    surface[inside] = capture.depths[view, rows, columns]
    if capture.masks is not None:
        surface[inside] *= capture.masks[view, rows, columns]
    return inside & ((surface == 0) | (depth < (1 + _HIDDEN) * surface))
