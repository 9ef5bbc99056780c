"""Defines posed photos whose pictures are not read yet, and gives them unique names."""

import dataclasses
import itertools
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jax_gsplat_depth._common.by_shape import shown_by_shape
from jax_gsplat_depth.datasets._capture import CaptureError
from jax_gsplat_depth.datasets._lens import Lens


@shown_by_shape
@dataclasses.dataclass(frozen=True)
class PosedPhoto:
    """One photo with its camera.

    Attributes:
        photo: The file.
        size: Width and height in pixels for which ``K`` holds; if there is a lens, without it.
        viewmat: ``(4, 4)`` float64, world to camera, OpenCV axes.
        K: ``(3, 3)`` float64, pixels.
        depth: The depth map of the photo, or None.
        mask: Picture that is black where the photo does not count, or None.
        mask_hides: Whether it is black where the photo does count instead.
        lens: Lens that distorts photo and depth map, or None for a pinhole camera.
        held_out: Whether the files put the view into the test split; None if they name none.
    """

    photo: Path
    size: tuple[int, int]
    viewmat: np.ndarray
    K: np.ndarray
    depth: Path | None = None
    mask: Path | None = None
    mask_hides: bool = False
    held_out: bool | None = None
    lens: Lens | None = None

    @property
    def stored_size(self) -> tuple[int, int]:
        """Width and height of the photo, with the pixels that the removal of a lens takes away."""
        return self.lens.stored_size if self.lens else self.size


def unique_names(photos: Sequence[Path], root: Path) -> list[str]:
    """Return a distinct name for every photo: its stem, or with its folders if stems repeat."""
    stems = [photo.stem for photo in photos]
    if len(set(stems)) == len(stems):
        return stems
    uses = Counter(os.path.normpath(photo) for photo in photos)
    if repeated := [path for path, count in uses.items() if count > 1]:
        raise CaptureError(f"{repeated[0]} is listed twice: expected every photo once")
    paths = [photo.relative_to(root) if photo.is_relative_to(root) else photo for photo in photos]
    parts = [[part for part in path.parts if part not in ("..", path.anchor)] for path in paths]
    names = ["_".join([*part[:-1], Path(part[-1]).stem]) for part in parts]
    if len(set(names)) == len(names):
        return names
    # Suffixes may tell them apart, and where a folder has the _ of a name, only a number does.
    names = ["_".join(part).replace(".", "_") for part in parts]
    taken = set(names)
    for i, name in enumerate(names):
        if name in names[:i]:
            names[i] = next(n for k in itertools.count(2) if (n := f"{name}_{k}") not in taken)
            taken.add(names[i])
    return names
