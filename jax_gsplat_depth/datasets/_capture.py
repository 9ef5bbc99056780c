"""Defines ``Capture``, the frozen record of posed views that every reader hands to training.

Readers check their files: the shapes of a ``Capture`` agree, all of its poses are rigid, and all of
its numbers are finite.
"""

import dataclasses

import numpy as np

from jax_gsplat_depth._common.by_shape import shown_by_shape
from jax_gsplat_depth._common.one_line import one_line

HOLD_OUT_EVERY = 8
"""Every 8th view in name order is held out for testing, as in the published results of 3DGS."""


class CaptureError(ValueError):
    """Photos or cameras cannot be used; the message is one sentence for the person at the keyboard.

    The message names the file at fault and says what was expected, so that no traceback is needed.
    """

    def __str__(self) -> str:
        """Return the message on one line, whatever the names in a file are made of."""
        return one_line(super().__str__())


class CaptureWarning(UserWarning):
    """Something in the files of a capture was not used; the message is one sentence that says what.

    The commands show it and go on.
    """

    def __str__(self) -> str:
        """Return the message on one line, whatever the names in a file are made of."""
        return one_line(super().__str__())


@shown_by_shape
@dataclasses.dataclass(frozen=True)
class Capture:
    """Posed photos, ready for training: ``V`` views of one size ``(H, W)``.

    The units and the origin are those of the files. Poses and points are float64, since map
    coordinates in float32 lose the detail: subtract an origin before you convert them.

    Attributes:
        names: ``V`` unique file stems, sorted.
        images: ``(V, H, W, 3)`` uint8, sRGB as stored; composited on ``background`` where the
            files had an alpha channel.
        viewmats: ``(V, 4, 4)`` float64, world to camera, OpenCV axes (x right, y down, z forward).
        Ks: ``(V, 3, 3)`` float32 pinhole matrices in pixels of ``images``; the centre of the top
            left pixel is ``(0.5, 0.5)``.
        points: ``(P, 3)`` float64 world positions of sparse points, or None.
        point_colors: ``(P, 3)`` uint8, or None exactly when ``points`` is None.
        depths: ``(V, H, W)`` float32, z along the optical axis in world units, 0 where unknown;
            None if there is no depth.
        alphas: ``(V, H, W)`` float32 in [0, 1], or None if the files had no alpha.
        test_indices: Sorted indices of the held-out views.
        background: ``(3,)`` float32 in [0, 1].
        depth_priors: ``(V, H, W)`` float32, depth up to an unknown scale and shift, which differ
            from view to view, as monocular estimators give it; positive, or 0 where unknown. None
            if there are no priors.
        masks: ``(V, H, W)`` bool, True where the pixel counts. The others are neither fitted nor
            measured, whatever their colour and depth: a passer-by, say. They are not transparent,
            which ``alphas`` says. None if all count.
        sizes: ``(V, 2)`` widths and heights of the parts of ``images`` that the photos fill, at the
            top left; None if all fill them.
        downscale: Pixels of the files per pixel of ``images``, per side.
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
    masks: np.ndarray | None = None
    sizes: np.ndarray | None = None
    downscale: int = 1

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

    def counted(self, depths: np.ndarray) -> np.ndarray:
        """Return ``(V, H, W)`` depths of the views with 0, unknown, where the pixel is masked."""
        return depths if self.masks is None else np.where(self.masks, depths, 0)

    @property
    def train_indices(self) -> np.ndarray:
        """Sorted indices of the views that are not held out."""
        return np.setdiff1d(np.arange(len(self.names)), self.test_indices)

    def holding_out(self, every: int) -> "Capture":
        """Return the capture with other views held out, whatever its files say.

        Args:
            every: Hold out every so many-th view in name order, the first one included; 0 holds
                out none, so that all are trained on and nothing is measured.

        Raises:
            ValueError: ``every`` is negative.
        """
        if every < 0:
            raise ValueError(f"every is {every}: expected a whole number of at least 0")
        return dataclasses.replace(self, test_indices=hold_out(len(self.names), every))


def hold_out(n_views: int, every: int = HOLD_OUT_EVERY) -> np.ndarray:
    """Return the indices of every so many-th view, or of none for 0, sorted."""
    return np.arange(0, n_views, every) if every else np.arange(0)
