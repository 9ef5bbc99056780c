"""Reads the text form of COLMAP models.

Every line is parsed as what its content says it is, or refused.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from jax_gsplat_depth.datasets._capture import CaptureError
from jax_gsplat_depth.datasets._colmap_records import (
    ColmapCamera,
    ColmapImage,
    is_unit,
    refuse_second,
)
from jax_gsplat_depth.datasets._text_files import read_text


def read_cameras(path: Path) -> dict[int, ColmapCamera]:
    """Read ``cameras.txt``: cameras by id."""
    cameras = {}
    for number, line in _lines(path):
        if not line:
            continue
        try:
            camera_id, model, width, height, *params = line.split()
            size = int(width), int(height)
            camera = ColmapCamera(model, size, tuple(map(float, params)))
            key = int(camera_id)
        except ValueError:
            expected = "CAMERA_ID MODEL WIDTH HEIGHT PARAMS"
            raise _broken(path, number, expected) from None
        refuse_second(path, key, cameras)
        cameras[key] = camera
    return cameras


def read_images(path: Path) -> list[ColmapImage]:
    """Read ``images.txt``: a line for each photo, and a line for the points seen in it.

    Programs leave the second line empty, or out; what a line is, its content says.
    """
    images = []
    after_photo = False
    for number, line in _lines(path):
        image = _image_of(line)
        is_points = after_photo and _is_points(line.split())
        if image is not None and is_points:
            # The name has nothing but numbers, or the first point has a whole number as its X.
            if is_unit(image.quat):
                raise _broken(path, number, "either a photo or points, but it can be read as both")
            image = None
        if image is not None and image.name:
            images.append(image)
        elif image is not None or (line and not after_photo):
            raise _broken(path, number, "IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME")
        elif not is_points and after_photo:
            expected = "X Y POINT3D_ID for every point seen in the photo, or the next photo"
            raise _broken(path, number, expected)
        after_photo = image is not None
    return images


def _image_of(line: str) -> ColmapImage | None:
    """Return the photo that a line describes, perhaps without a name, or None for other lines."""
    words = line.split(maxsplit=9)
    try:
        image_id, *pose, camera_id, name = words if len(words) == 10 else [*words, ""]
        qw, qx, qy, qz, tx, ty, tz = map(float, pose)
        int(image_id)
        return ColmapImage(name, int(camera_id), (qw, qx, qy, qz), (tx, ty, tz))
    except ValueError:
        return None


def _is_points(words: Sequence[str]) -> bool:
    """Return whether words are X Y POINT3D_ID any number of times.

    There are thousands, and nobody uses them: the first and the last ones tell what the line is.
    """
    try:
        numbers = np.array([*words[:3], *words[-3:]], np.float64)
    except ValueError:
        return False
    return len(words) % 3 == 0 and bool((numbers[2::3] == np.floor(numbers[2::3])).all())


def read_points(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read ``points3D.txt``: ``(P, 3)`` float64 world positions and ``(P, 3)`` uint8 colours."""
    points, colors = [], []
    for number, line in _lines(path):
        if not line:
            continue
        try:
            point_id, x, y, z, *color = line.split(maxsplit=8)[:7]
            int(point_id)
            points.append((float(x), float(y), float(z)))
            colors.append(tuple(map(int, color)))
            if len(color) != 3 or not all(0 <= c <= 255 for c in colors[-1]):
                raise ValueError
        except ValueError:
            expected = "POINT3D_ID X Y Z R G B ERROR TRACK"
            raise _broken(path, number, expected) from None
    return np.array(points).reshape(-1, 3), np.array(colors, np.uint8).reshape(-1, 3)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield number and text of every line that is not a comment; a line may be empty."""
    try:
        text = read_text(path)
    except OSError as error:
        raise CaptureError(f"{path} cannot be opened ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise CaptureError(f"{path} is not a text file: expected COLMAP's text form") from error
    for number, line in enumerate(text.split("\n"), start=1):
        stripped = line.strip()
        if not stripped.startswith("#"):
            yield number, stripped


def _broken(path: Path, number: int, expected: str) -> CaptureError:
    return CaptureError(f"{path}, line {number} is broken: expected {expected}")
