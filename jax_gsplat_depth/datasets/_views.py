"""Posed photos that have not been read yet, and the checks that every layout shares."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jax_gsplat_depth.datasets._capture import CaptureError
from jax_gsplat_depth.datasets._lens import Lens

LARGEST = 1e30
"""Numbers beyond this count as infinite: their products leave the range of float32."""

_RIGID_TOLERANCE = 1e-2
"""Largest entry of R^T R - I that still counts as rounding in a text file."""


@dataclasses.dataclass(frozen=True)
class View:
    """One photo with its camera.

    Attributes:
        photo: The file.
        size: Width and height in pixels for which ``K`` holds: without the lens, if there is one.
        viewmat: ``(4, 4)`` float64, world to camera, OpenCV axes.
        K: ``(3, 3)`` float64, pixels.
        depth: The depth map of the photo, or None.
        lens: What distorts photo and depth map, or None for a pinhole camera.
        held_out: Whether the files put the view into the test split; None if they name none.
    """

    photo: Path
    size: tuple[int, int]
    viewmat: np.ndarray
    K: np.ndarray
    depth: Path | None = None
    held_out: bool | None = None
    lens: Lens | None = None


def pinhole(fx: float, fy: float, cx: float, cy: float, *, where: str) -> np.ndarray:
    """Return the ``(3, 3)`` matrix of a pinhole camera; ``where`` opens the error message."""
    if not (np.abs([fx, fy, cx, cy]) < LARGEST).all() or min(fx, fy) < 1 / LARGEST:
        raise CaptureError(
            f"{where} has focal lengths {fx:g}, {fy:g} and principal point {cx:g}, {cy:g}: "
            "expected finite numbers and positive focal lengths"
        )
    return np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])


def rigid(rotation: np.ndarray, translation: np.ndarray, *, where: str) -> np.ndarray:
    """Return the ``(4, 4)`` pose with the nearest rotation; ``where`` opens the error message."""
    if not ((np.abs(rotation) < LARGEST).all() and (np.abs(translation) < LARGEST).all()):
        raise CaptureError(f"{where} has a pose that is not finite (NaN or infinity)")
    off = np.abs(rotation.T @ rotation - np.eye(3)).max()
    if off > _RIGID_TOLERANCE or np.linalg.det(rotation) < 0:
        raise CaptureError(
            f"{where} has a pose whose 3x3 part is not a rotation "
            "(expected orthonormal columns and determinant +1)"
        )
    u, _, vt = np.linalg.svd(rotation)
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = u @ vt, translation
    return pose


def unique_names(photos: Sequence[Path], root: Path) -> list[str]:
    """Return a distinct name for every photo: its stem, with the folders where stems repeat."""
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
