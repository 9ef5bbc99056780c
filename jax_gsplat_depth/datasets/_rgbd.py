"""Reads RGB-D recordings in the layout of 7-Scenes: one file per frame and kind.

``NAME.color.png`` or ``.jpg`` and ``NAME.depth.png`` (16 bits, millimetres of z, on the pixels of
the photo), ``NAME.pose.txt`` (camera to world, OpenCV axes, metres) and ``camera-intrinsics.txt``
for all of them (a 3x3 matrix in pixels, taken to have pixel centres at +0.5 as everywhere here).
"""

from pathlib import Path

import numpy as np

from jax_gsplat_depth._common.regular_file import open_regular
from jax_gsplat_depth.datasets._capture import CaptureError
from jax_gsplat_depth.datasets._geometry import inverted, pinhole, rigid
from jax_gsplat_depth.datasets._paths import is_there
from jax_gsplat_depth.datasets._pictures import picture_size
from jax_gsplat_depth.datasets._views import PosedPhoto

INTRINSICS = "camera-intrinsics.txt"
_COLORS = ("*.color.png", "*.color.jpg")
_MILLIMETRES = 0.001
"""Metres per step of the depth maps."""

_LARGEST_TEXT = 4096
"""Bytes that are read of a text file at most; a matrix takes a few hundred."""


def read_rgbd(root: Path) -> tuple[list[PosedPhoto], float]:
    """Read the cameras of a folder.

    Returns:
        The views in the order of their names, and the metres per step of their depth maps. A frame
        whose pose is not finite is left out: there the recorder had lost track.
    """
    path = root / INTRINSICS
    matrix = _read_matrix(path, 3)
    (fx, _, cx), (_, fy, cy), _ = matrix
    if not np.array_equal(matrix, [[fx, 0, cx], [0, fy, cy], [0, 0, 1]]):
        raise CaptureError(f"{path} holds no matrix fx 0 cx, 0 fy cy, 0 0 1")
    K = pinhole(fx, fy, cx, cy, where=str(path))
    views = []
    for photo in sorted(photo for pattern in _COLORS for photo in root.glob(pattern)):
        stem = photo.name.rpartition(".color.")[0]
        pose_path, depth = root / f"{stem}.pose.txt", root / f"{stem}.depth.png"
        pose = _read_matrix(pose_path, 4)
        if not np.isfinite(pose).all():
            continue
        camera_to_world = rigid(pose[:3, :3], pose[:3, 3], where=str(pose_path))
        views.append(
            PosedPhoto(
                photo=photo,
                size=picture_size(photo),
                viewmat=inverted(camera_to_world),
                K=K,
                depth=depth if is_there(depth) else None,
            )
        )
    return views, _MILLIMETRES


def _read_matrix(path: Path, side: int) -> np.ndarray:
    try:
        with open_regular(path) as stream:
            words = stream.read(_LARGEST_TEXT + 1).split()
        matrix = np.array([float(word) for word in words]).reshape(side, side)
    except FileNotFoundError:
        raise CaptureError(f"{path} is missing: expected a matrix as text") from None
    except OSError as error:
        raise CaptureError(f"{path} cannot be opened ({error.strerror})") from error
    except ValueError as error:
        raise CaptureError(f"{path} holds no {side}x{side} matrix of numbers") from error
    return matrix
