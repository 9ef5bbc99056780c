"""Reads depth maps: pictures of one channel, and NumPy arrays.

Whole numbers and pictures count steps, whose length the layout says; arrays of floats are lengths.
"""

import contextlib
import dataclasses
import math
import zipfile
from pathlib import Path

import numpy as np

from jax_gsplat_depth._common.regular_file import open_regular
from jax_gsplat_depth.datasets._capture import CaptureError
from jax_gsplat_depth.datasets._paths import is_there
from jax_gsplat_depth.datasets._pictures import DEPTH_MODES, opened, reason_of
from jax_gsplat_depth.datasets._placing import Placing

DEPTH_SUFFIXES = (".png", ".tif", ".tiff", ".npy", ".npz")

_ARRAY_SUFFIXES = (".npy", ".npz")

_MOST_PIXELS = 10**8
"""A header may claim any size; that of no sensor is larger."""

_SAME_SHAPE = 0.02
"""Difference of the ratios of the sides up to which a map shows what its photo shows."""


@dataclasses.dataclass(frozen=True)
class DepthUnits:
    """What the numbers of depth maps mean.

    Attributes:
        step: World units per step of pictures, and of arrays of whole numbers.
        length: World units per unit of arrays of floats.
    """

    step: float
    length: float = 1.0


def read_depth(
    path: Path, units: DepthUnits, placing: Placing
) -> tuple[np.ndarray, tuple[int, int]]:
    """Read a depth map.

    Args:
        path: A picture with one channel of 16 or 32 bits, a ``.npy``, or a ``.npz`` of one array; 0
            and what is not finite are unknown, and so is 65535 in 16 bits.
        units: What its numbers mean.
        placing: What becomes of it. A pixel takes the median of its known pixels (the smaller of
            the middle two), a measured value: near an edge, a mean would lie on neither side. Of a
            map of another size than the photo, as sensors of phones write, a pixel takes the
            nearest one; so it does where a lens is removed.

    Returns:
        ``(H, W)`` float32 in world units, 0 where unknown, and width and height of the file's map.
    """
    if path.suffix.lower() in _ARRAY_SUFFIXES:
        stored = _array(path)
        unit = units.length if stored.dtype.kind == "f" else units.step
    else:
        stored, unit = _picture(path), units.step
    size = stored.shape[1], stored.shape[0]
    with np.errstate(over="ignore", invalid="ignore"):  # What becomes infinite is unknown.
        steps = stored.astype(np.float32)
        if stored.dtype.kind == "u" and stored.dtype.itemsize == 2:
            # Sensors write the largest number of 16 bits where they saw nothing.
            steps[stored == np.iinfo(stored.dtype).max] = 0
        steps = _of_size(path, steps, placing.stored)
        if placing.lens:
            steps = placing.lens.remove(steps, nearest=True)
        known = np.isfinite(steps) & (steps > 0)
        depth = np.where(known, steps * np.float32(unit), np.inf)
    blocks = placing.blocks(depth, path, fill=np.inf).swapaxes(1, 2)
    blocks = np.sort(blocks.reshape(*blocks.shape[:2], placing.downscale**2), axis=-1)
    middle = np.maximum(np.isfinite(blocks).sum(axis=-1) - 1, 0) // 2
    median = np.take_along_axis(blocks, middle[..., None], axis=-1)[..., 0]
    return np.where(np.isfinite(median), median, 0).astype(np.float32), size


def _of_size(path: Path, steps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the map with width and height ``size``; each pixel takes the nearest one."""
    height, width = steps.shape
    if (width, height) == size:
        return steps
    as_high = size[1] * width / size[0]
    # Half a pixel and the rounding of a size that was divided are no other shape.
    if min(height, width) < 1 or abs(height - as_high) > max(1.0, _SAME_SHAPE * height):
        raise CaptureError(
            f"{path} is a depth map of {width}x{height} pixels, but its photo has "
            f"{size[0]}x{size[1]}: expected the same shape, at any resolution"
        )
    # The pixel that holds the centre of the photo's pixel, without rounding.
    columns = (2 * np.arange(size[0]) + 1) * width // (2 * size[0])
    rows = (2 * np.arange(size[1]) + 1) * height // (2 * size[1])
    return steps[rows[:, None], columns]


def _picture(path: Path) -> np.ndarray:
    with opened(path, "a depth map") as picture:
        if picture.mode not in DEPTH_MODES:
            raise CaptureError(
                f"{path} is a {picture.mode} picture: expected a depth map with one channel of 16 "
                "or 32 bits"
            )
        try:
            return np.asarray(picture)
        except Exception as error:  # As in opened.
            raise CaptureError(
                f"{path} cannot be read as a depth map ({reason_of(error)})"
            ) from error


def _array(path: Path) -> np.ndarray:
    """Return the array of a ``.npy``, or of a ``.npz`` the only one or ``depth``, as rows."""
    if not is_there(path):
        raise CaptureError(f"{path} is missing: expected a depth map")
    try:
        with contextlib.ExitStack() as stack:
            stream = stack.enter_context(open_regular(path))
            if path.suffix.lower() == ".npz":
                archive = stack.enter_context(zipfile.ZipFile(stream))
                names = archive.namelist()
                if len(names) != 1 and names.count("depth.npy") != 1:
                    raise CaptureError(
                        f"{path} holds {len(names)} arrays: expected one, or one called depth"
                    )
                name = names[0] if len(names) == 1 else "depth.npy"
                stream = stack.enter_context(archive.open(name))
            return _array_of(path, stream)
    except CaptureError:
        raise
    except OSError as error:
        reason = error.strerror or reason_of(error)
        raise CaptureError(f"{path} cannot be read as a depth map ({reason})") from error
    except Exception as error:  # Headers are parsed by Python, archives fail in many ways.
        raise CaptureError(f"{path} cannot be read as a depth map ({reason_of(error)})") from error


def _array_of(path: Path, stream) -> np.ndarray:
    # The header comes first, because it decides how much memory the rest takes.
    form = np.lib.format
    readers = {(1, 0): form.read_array_header_1_0, (2, 0): form.read_array_header_2_0}
    version = form.read_magic(stream)
    if version not in readers:
        raise CaptureError(f"{path} is an array of version {version}: expected 1.0 or 2.0")
    shape, _, dtype = readers[version](stream)
    sides = [side for side in shape if side != 1] if len(shape) == 3 else shape
    if len(sides) != 2 or dtype.kind not in "fiu" or not 0 < math.prod(shape) <= _MOST_PIXELS:
        raise CaptureError(
            f"{path} is an array of shape {shape} and type {dtype}: expected a depth map "
            "(height, width) of real numbers"
        )
    stream.seek(0)
    return form.read_array(stream, allow_pickle=False).reshape(sides)
