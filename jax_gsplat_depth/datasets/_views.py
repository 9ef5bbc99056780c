"""Defines posed photos whose pictures are not read yet, and gives them unique names."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jax_gsplat_depth.datasets._capture import CaptureError
from jax_gsplat_depth.datasets._lens import Lens


@dataclasses.dataclass(frozen=True)
class PosedPhoto:
    """One photo with its camera.

    Attributes:
        photo: The file.
        size: Width and height in pixels for which ``K`` holds; if there is a lens, without it.
        viewmat: ``(4, 4)`` float64, world to camera, OpenCV axes.
        K: ``(3, 3)`` float64, pixels.
        depth: The depth map of the photo, or None.
        lens: Lens that distorts photo and depth map, or None for a pinhole camera.
        held_out: Whether the files put the view into the test split; None if they name none.
    """

    photo: Path
    size: tuple[int, int]
    viewmat: np.ndarray
    K: np.ndarray
    depth: Path | None = None
    held_out: bool | None = None
    lens: Lens | None = None


def unique_names(photos: Sequence[Path], root: Path) -> list[str]:
    """Return a distinct name for every photo: its stem, or with its folders if stems repeat."""
    stems = [photo.stem for photo in photos]
    if len(set(stems)) == len(stems):
        return stems
    paths = [photo.relative_to(root) if photo.is_relative_to(root) else photo for photo in photos]
    parts = [[p for p in path.parts if p not in ("..", path.anchor)] for path in paths]
    names = ["_".join([*p[:-1], Path(p[-1]).stem]) for p in parts]
    if len(set(names)) == len(names):
        return names
    names = ["_".join(p).replace(".", "_") for p in parts]
    repeated = [name for i, name in enumerate(names) if name in names[:i]]
    if repeated:
        photo = photos[names.index(repeated[0])]
        raise CaptureError(f"{photo} is listed twice: expected every photo once")
    return names
