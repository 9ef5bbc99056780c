"""What every reader of photos hands to training: one frozen record of posed views.

Readers check the files; whoever receives a ``Capture`` can trust its shapes, that all poses are
rigid, and that all numbers are finite.
"""

import dataclasses

import numpy as np

HOLD_OUT_EVERY = 8
"""Every 8th view in name order is kept for testing, as the published 3DGS results do."""


class CaptureError(ValueError):
    """Photos or cameras cannot be used; the message is one sentence for the person at the keyboard.

    It names the file at fault and what was expected, so that no traceback is needed.
    """


@dataclasses.dataclass(frozen=True)
class Capture:
    """Posed photos, ready for training: ``V`` views of one size ``(H, W)``.

    Attributes:
        names: ``V`` unique file stems, sorted.
        images: ``(V, H, W, 3)`` uint8, sRGB as stored; composited on ``background`` where the
            files had an alpha channel.
        viewmats: ``(V, 4, 4)`` float32, world to camera, OpenCV axes (x right, y down, z forward).
        Ks: ``(V, 3, 3)`` float32 pinhole matrices in pixels of ``images``; the centre of the top
            left pixel is ``(0.5, 0.5)``.
        points: ``(P, 3)`` float32 world positions of sparse points, or None.
        point_colors: ``(P, 3)`` uint8, or None exactly when ``points`` is.
        depths: ``(V, H, W)`` float32, z along the optical axis in world units, 0 where unknown;
            None if there is no depth.
        alphas: ``(V, H, W)`` float32 in [0, 1], or None if the files had no alpha.
        test_indices: Sorted indices of the held-out views.
        background: ``(3,)`` float32 in [0, 1].
        depth_priors: ``(V, H, W)`` float32, depth up to a scale and a shift that are unknown and
            differ from view to view, as monocular estimators give it; positive, 0 where there is
            none. None if there are no priors.
    """

    names: list[str]
    images: np.ndarray
    viewmats: np.ndarray
    Ks: np.ndarray
    points: np.ndarray | None
    point_colors: np.ndarray | None
    depths: np.ndarray | None
    alphas: np.ndarray | None
    test_indices: np.ndarray
    background: np.ndarray
    depth_priors: np.ndarray | None = None

    @property
    def width(self) -> int:
        """Width of every view in pixels."""
        return self.images.shape[2]

    @property
    def height(self) -> int:
        """Height of every view in pixels."""
        return self.images.shape[1]

    @property
    def depth_masks(self) -> np.ndarray | None:
        """``(V, H, W)`` bool, True where the depth is known; None if there is no depth."""
        return None if self.depths is None else self.depths > 0

    @property
    def train_indices(self) -> np.ndarray:
        """Sorted indices of the views that are not held out."""
        return np.setdiff1d(np.arange(len(self.names)), self.test_indices)


def hold_out(n_views: int) -> np.ndarray:
    """Return the indices of the views kept for testing when the files name no split."""
    return np.arange(0, n_views, HOLD_OUT_EVERY)
