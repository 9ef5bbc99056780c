"""Reads single values of a ``transforms.json``: numbers, sizes, intrinsics, lenses and poses."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from jax_gsplat_depth.datasets._capture import CaptureError
from jax_gsplat_depth.datasets._geometry import inverted, pinhole, rigid_of
from jax_gsplat_depth.datasets._keys import DISTORTION, MORE_DISTORTION, OTHER_LENSES

_KNOWN_MODELS = (
    "PINHOLE",
    "SIMPLE_PINHOLE",
    "SIMPLE_RADIAL",
    "RADIAL",
    "OPENCV",
    "FULL_OPENCV",
    "PERSPECTIVE",
)

_LARGEST_SCALE = 1e15
"""Its square times a depth is still within the range of float32."""


def number_of(data: dict[str, Any], key: str, where: str) -> float:
    """Return the finite number that a key has."""
    value = data[key]
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            value = float(value)
        except OverflowError:
            value = math.inf
        if math.isfinite(value):
            return value
    raise CaptureError(f"{where} has {key} {str(value)[:40]!r}: expected a finite number")


def scale_of(data: dict[str, Any], key: str, default: float, path: Path) -> float:
    """Return the positive factor that a key has, or its default."""
    if key not in data:
        return default
    value = number_of(data, key, str(path))
    if not 1 / _LARGEST_SCALE < value < _LARGEST_SCALE:
        raise CaptureError(f"{path} has {key} {value:g}: expected a positive number of usual size")
    return value


def size_of(camera: dict[str, Any], where: str) -> tuple[int, int]:
    """Return width and height in pixels."""
    width, height = (number_of(camera, key, where) for key in ("w", "h"))
    if not (width == int(width) > 0 and height == int(height) > 0):
        raise CaptureError(f"{where} has size {width:g}x{height:g}: expected whole pixels")
    return int(width), int(height)


def refuse_other_lenses(camera: dict[str, Any], where: str) -> None:
    """Refuse what is neither a pinhole camera nor an OPENCV lens of four terms."""
    lens = [key for key in MORE_DISTORTION if key in camera and number_of(camera, key, where) != 0]
    model = _other_model(camera)
    if lens:
        reason = f"is neither pinhole nor OPENCV ({', '.join(lens)} not zero)"
    elif model is not None:
        reason = f"{model} is neither pinhole nor OPENCV"
    else:
        return
    raise CaptureError(f"{where}: the lens model {reason}, so the photos must be undistorted first")


def _other_model(camera: dict[str, Any]) -> str | None:
    """Return the name of a lens model that is neither pinhole nor OPENCV, or None."""
    model = str(camera.get("camera_model") or "PINHOLE")[:40]
    if camera.get("is_fisheye"):
        return "fisheye"
    other = next((key for key in OTHER_LENSES if camera.get(key, False) is not False), None)
    return other or (None if model.upper() in _KNOWN_MODELS else model)


def has_other_lens(camera: dict[str, Any]) -> bool:
    """Return whether a camera has lens terms, or another model than a pinhole."""
    terms = any(camera.get(key) for key in DISTORTION + MORE_DISTORTION)
    return terms or _other_model(camera) is not None


def intrinsics_of(camera: dict[str, Any], size: tuple[int, int], where: str) -> np.ndarray:
    """Return the ``(3, 3)`` matrix of a camera for pictures of width and height ``size``."""
    width, height = size
    fx = _focal(camera, "x", width, where)
    if fx is None:
        raise CaptureError(
            f"{where} has neither 'fl_x' nor 'camera_angle_x' nor 'x_fov': expected one of them"
        )
    fy = None
    if "fl_y" in camera or "fl_x" not in camera:
        fy = _focal(camera, "y", height, where)
    cx = number_of(camera, "cx", where) if "cx" in camera else width / 2
    cy = number_of(camera, "cy", where) if "cy" in camera else height / 2
    return pinhole(fx, fx if fy is None else fy, cx, cy, where=where)


def _focal(camera: dict[str, Any], axis: str, side: int, where: str) -> float | None:
    """Return the focal length along an axis of the image, in pixels, or None if there is none."""
    if f"fl_{axis}" in camera:
        return number_of(camera, f"fl_{axis}", where)
    for key, unit, limits in (
        (f"camera_angle_{axis}", 1.0, "radians between 0 and pi"),
        (f"{axis}_fov", math.pi / 180, "degrees between 0 and 180"),
    ):
        if key in camera:
            angle = number_of(camera, key, where)
            if not 0 < angle * unit < math.pi:
                raise CaptureError(f"{where} has {key} {angle:g}: expected {limits}")
            return 0.5 * side / math.tan(0.5 * angle * unit)
    return None


def viewmat_of(frame: dict[str, Any], where: str) -> np.ndarray:
    """Return the ``(4, 4)`` world-to-camera pose of a frame, OpenCV axes."""
    try:
        matrix = np.array(frame["transform_matrix"], np.float64)
    except (KeyError, TypeError, ValueError, OverflowError):
        matrix = np.zeros(0)
    if matrix.shape == (3, 4):
        matrix = np.concatenate([matrix, [[0.0, 0.0, 0.0, 1.0]]])
    if matrix.shape != (4, 4):
        raise CaptureError(f"{where} has no 'transform_matrix' of 4x4 numbers")
    # From OpenGL's camera axes to OpenCV's.
    return inverted(rigid_of(matrix, where=where) * np.array([1.0, -1.0, -1.0, 1.0]))
