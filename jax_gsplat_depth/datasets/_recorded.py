"""Knows the cameras of recorders: a file with their matrix, or the default of a collection."""

import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from jax_gsplat_depth.datasets._capture import CaptureError, CaptureWarning
from jax_gsplat_depth.datasets._geometry import pinhole, pinhole_matrix, scaled_pinhole
from jax_gsplat_depth.datasets._paths import is_there
from jax_gsplat_depth.datasets._text_files import read_matrix

INTRINSICS = "camera-intrinsics.txt"
"""A 3x3 matrix in pixels, taken to have pixel centres at +0.5 as everywhere here."""

_DEFAULT_SIZE = (640, 480)


def recorded_pinhole(
    folders: Iterable[Path], size: tuple[int, int], focal: float, collection: str
) -> np.ndarray:
    """Return the ``(3, 3)`` matrix of the camera of a recording, in pixels of its photos.

    Args:
        folders: Where ``camera-intrinsics.txt`` may be, the first one also for the messages.
        size: Width and height of the photos.
        focal: Focal length of the default camera, with 640x480 pixels and its principal point in
            the middle of them; it scales to other photos of this shape.
        collection: Whose default this is.

    Raises:
        CaptureError: The file is broken, or there is none and no default for this shape.
    """
    root, *_ = folders = list(folders)
    path = next((f / INTRINSICS for f in folders if is_there(f / INTRINSICS)), None)
    if path is not None:
        return _read_pinhole(path)
    width, height = _DEFAULT_SIZE
    if size[0] * height != size[1] * width:
        raise CaptureError(
            f"{root} has no {INTRINSICS}: expected one with the 3x3 matrix of the camera in "
            f"pixels, since nothing is known of photos with {size[0]}x{size[1]}"
        )
    K = pinhole_matrix(focal, focal, width / 2, height / 2)
    K = scaled_pinhole(K, size[0] / width, size[1] / height)
    warnings.warn(
        f"{root} has no {INTRINSICS}: the default camera of {collection} is taken, with a focal "
        f"length of {K[0, 0]:g} pixels and the principal point {K[0, 2]:g}, {K[1, 2]:g}",
        CaptureWarning,
        stacklevel=2,
    )
    return K


def _read_pinhole(path: Path) -> np.ndarray:
    matrix = read_matrix(path, 3)
    (fx, _, cx), (_, fy, cy), _ = matrix
    if not np.array_equal(matrix, [[fx, 0, cx], [0, fy, cy], [0, 0, 1]]):
        raise CaptureError(f"{path} holds no matrix fx 0 cx, 0 fy cy, 0 0 1")
    return pinhole(fx, fy, cx, cy, where=str(path))
