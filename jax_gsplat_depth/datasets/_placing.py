"""Moves pictures from their files to the capture: without a lens, on a common size, reduced.

A pixel of a picture reduced ``D`` times covers exactly ``D x D`` pixels of the file; at the right
and at the bottom, columns and rows that fill no whole pixel are cut off. The camera matrix then
scales by ``1 / D`` exactly, in both directions, for every size. Pictures are cut and padded at the
right and at the bottom as well, which leaves their cameras as they are.
"""

import dataclasses
from pathlib import Path

import numpy as np

from jax_gsplat_depth.datasets._capture import CaptureError
from jax_gsplat_depth.datasets._lens import Lens


@dataclasses.dataclass(frozen=True)
class Placing:
    """What becomes of the pictures of one photo.

    Attributes:
        stored: Width and height of the photo on disk, pixels.
        size: Width and height of all photos of the capture before they are reduced.
        downscale: Pixels of the file per pixel of the capture, per side.
        lens: Lens to remove first, or None.
    """

    stored: tuple[int, int]
    size: tuple[int, int]
    downscale: int = 1
    lens: Lens | None = None

    @property
    def pinhole_size(self) -> tuple[int, int]:
        """Width and height without the lens."""
        return self.lens.pinhole_size if self.lens else self.stored

    @property
    def filled(self) -> tuple[int, int]:
        """Width and height, in pixels of the capture, of what the photo fills."""
        width, height = np.minimum(self.pinhole_size, self.size) // self.downscale
        return int(width), int(height)

    def box(self, path: Path) -> tuple[int, int, int, int]:
        """Return left, top, right and bottom of the pixels of ``size`` that fill whole ones.

        Raises:
            CaptureError: There are none; the message names ``path``.
        """
        width, height = self.size
        if self.downscale > min(self.size):
            raise CaptureError(
                f"{path} is {width}x{height} pixels: nothing is left of it at downscale "
                f"{self.downscale}"
            )
        return 0, 0, width - width % self.downscale, height - height % self.downscale

    def blocks(self, picture: np.ndarray, path: Path, fill: float | bool) -> np.ndarray:
        """Return ``(H, D, W, D)``: the pixels of a picture that each pixel of the capture covers.

        Args:
            picture: ``(height, width)`` with ``pinhole_size``.
            path: The file, for the message.
            fill: Value of the pixels that the picture has not.
        """
        _, _, width, height = self.box(path)
        cut = picture[:height, :width]
        if cut.shape != (height, width):
            missing = [(0, height - cut.shape[0]), (0, width - cut.shape[1])]
            cut = np.pad(cut, missing, constant_values=fill)
        step = self.downscale
        return cut.reshape(height // step, step, width // step, step)
