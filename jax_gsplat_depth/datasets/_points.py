"""Reads the sparse points of a capture from a PLY file."""

from pathlib import Path

import numpy as np

from jax_gsplat_depth.datasets._capture import CaptureError
from jax_gsplat_depth.datasets._geometry import LARGEST
from jax_gsplat_depth.datasets._paths import is_there
from jax_gsplat_depth.io._ply_file import COLORS, read_elements

_GREY = 128
"""Colour of points whose file has none."""


def read_points(path: Path, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Read the vertices of a PLY file; those that are not finite are left out.

    Args:
        path: With the vertex properties x, y and z; red, green and blue (whole numbers up to that
            of their type, or floats up to 1 or 255) if there is a colour.
        scale: World units per unit of the file.

    Returns:
        Positions ``(P, 3)`` float64 in world units, and colours ``(P, 3)`` uint8.

    Raises:
        CaptureError: The file is missing, damaged, or has no positions.
        ImportError: plyfile, part of the ``fit`` extra, is not installed.
    """
    if not is_there(path):
        raise CaptureError(f"{path} is missing: expected sparse points")
    try:
        # A mesh has faces as well, each a list.
        elements, _ = read_elements(path, expected="sparse points", after_vertices=False)
        vertex = elements["vertex"]
    except OSError as error:
        raise CaptureError(f"{path} cannot be opened ({error.strerror})") from error
    except ValueError as error:
        raise CaptureError(str(error)) from error
    names = vertex.dtype.names or ()
    if not {"x", "y", "z"} <= set(names):
        raise CaptureError(f"{path} has vertices without x, y and z: expected sparse points")
    with np.errstate(invalid="ignore"):  # The file may hold a signaling NaN.
        points = np.stack([np.asarray(vertex[axis], np.float64) for axis in "xyz"], axis=-1)
        points *= scale
    finite = (np.abs(points) < LARGEST).all(axis=1)
    channels = next((colors for colors in COLORS if set(colors) <= set(names)), None)
    if channels is None:
        return points[finite], np.full((int(finite.sum()), 3), _GREY, np.uint8)
    colors = np.stack([_to_8_bit(vertex[name]) for name in channels], axis=-1)
    return points[finite], colors[finite]


def _to_8_bit(values: np.ndarray) -> np.ndarray:
    if values.dtype == np.uint8:
        return values
    with np.errstate(invalid="ignore"):
        known = np.nan_to_num(np.asarray(values, np.float64))
    if values.dtype.kind == "f":
        white = 1.0 if known.max(initial=0) <= 1 else 255.0
    else:
        white = np.iinfo(values.dtype).max
    return np.rint(255 * np.clip(known / white, 0, 1)).astype(np.uint8)
