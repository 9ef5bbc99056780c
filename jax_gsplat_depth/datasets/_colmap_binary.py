"""Reads the binary form of COLMAP models.

Every count is checked against the size of the file before it is used, and every record against the
bytes that remain, so a damaged file ends in a sentence and never in a large allocation. The
observations of the points in the photos are skipped.
"""

import struct
from pathlib import Path

import numpy as np

from jax_gsplat_depth._common.regular_file import read_regular
from jax_gsplat_depth.datasets._capture import CaptureError
from jax_gsplat_depth.datasets._colmap_records import ColmapCamera, ColmapImage, refuse_second

# Name and number of parameters by model id of the binary form.
_MODELS = {
    0: ("SIMPLE_PINHOLE", 3),
    1: ("PINHOLE", 4),
    2: ("SIMPLE_RADIAL", 4),
    3: ("RADIAL", 5),
    4: ("OPENCV", 8),
    5: ("OPENCV_FISHEYE", 8),
    6: ("FULL_OPENCV", 12),
    7: ("FOV", 5),
    8: ("SIMPLE_RADIAL_FISHEYE", 4),
    9: ("RADIAL_FISHEYE", 5),
    10: ("THIN_PRISM_FISHEYE", 12),
    11: ("RAD_TAN_THIN_PRISM_FISHEYE", 16),
    12: ("SIMPLE_DIVISION", 4),
    13: ("DIVISION", 5),
    14: ("SIMPLE_FISHEYE", 3),
    15: ("FISHEYE", 4),
    16: ("EUCM", 6),
    17: ("EQUIRECTANGULAR", 2),
}
_POINT2D_BYTES = 24
"""Bytes of one observation of a point in the record of a photo."""

_TRACK_BYTES = 8
"""Bytes of one observation in the record of a point."""

_COUNT = struct.Struct("<Q")
_CAMERA = struct.Struct("<IiQQ")
_IMAGE = struct.Struct("<I4d3dI")
_POINT = struct.Struct("<Q3d3BdQ")


def read_cameras(path: Path) -> dict[int, ColmapCamera]:
    """Read ``cameras.bin``: cameras by id."""
    file = _Bytes(path)
    cameras = {}
    for _ in range(file.count("cameras", _CAMERA.size)):
        camera_id, model_id, width, height = file.take(_CAMERA)
        if model_id not in _MODELS:
            raise CaptureError(
                f"{path} has camera model {model_id}: expected PINHOLE (1) or SIMPLE_PINHOLE (0)"
            )
        model, n_params = _MODELS[model_id]
        params = file.take(struct.Struct(f"<{n_params}d"))
        refuse_second(path, camera_id, cameras)
        cameras[camera_id] = ColmapCamera(model, (width, height), params)
    file.finish()
    return cameras


def read_images(path: Path) -> list[ColmapImage]:
    """Read ``images.bin``."""
    file = _Bytes(path)
    images = []
    for _ in range(file.count("photos", _IMAGE.size + 1 + _COUNT.size)):
        _, *pose, camera_id = file.take(_IMAGE)
        images.append(ColmapImage(file.text(), camera_id, tuple(pose[:4]), tuple(pose[4:])))
        file.skip(_POINT2D_BYTES * file.count("points in one photo", _POINT2D_BYTES))
    file.finish()
    return images


def read_points(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read ``points3D.bin``: ``(P, 3)`` float64 world positions and ``(P, 3)`` uint8 colours."""
    file = _Bytes(path)
    count = file.count("points", _POINT.size)
    points, colors = np.empty((count, 3)), np.empty((count, 3), np.uint8)
    for i in range(count):
        _, x, y, z, red, green, blue, _, n_track = file.take(_POINT)
        points[i], colors[i] = (x, y, z), (red, green, blue)
        file.skip(_TRACK_BYTES * n_track)
    file.finish()
    return points, colors


class _Bytes:
    """A binary file that is read front to back."""

    def __init__(self, path: Path):
        self.path = path
        self.offset = 0
        try:
            self.data = read_regular(path)
        except OSError as error:
            raise CaptureError(f"{path} cannot be opened ({error.strerror})") from error

    def take(self, layout: struct.Struct) -> tuple:
        self.skip(layout.size)
        return layout.unpack_from(self.data, self.offset - layout.size)

    def skip(self, size: int) -> None:
        if size > len(self.data) - self.offset:
            raise CaptureError(
                f"{self.path} ends in the middle of a record: expected a complete COLMAP file"
            )
        self.offset += size

    def text(self) -> str:
        """Return the string up to the next zero byte."""
        start, end = self.offset, self.data.find(b"\0", self.offset)
        self.skip((len(self.data) + 1 if end < 0 else end + 1) - start)
        try:
            return self.data[start:end].decode()
        except UnicodeDecodeError as error:
            raise CaptureError(f"{self.path} holds a file name that is not UTF-8") from error

    def count(self, what: str, smallest_record: int) -> int:
        """Return the number of records that follow."""
        (count,) = self.take(_COUNT)
        if count * smallest_record > len(self.data) - self.offset:
            raise CaptureError(
                f"{self.path} says that it holds {count} {what}, but {len(self.data)} bytes are "
                "too few for that: expected a complete COLMAP file"
            )
        return count

    def finish(self) -> None:
        if self.offset != len(self.data):
            raise CaptureError(
                f"{self.path} has {len(self.data) - self.offset} bytes after its last record: "
                "expected a COLMAP binary file"
            )
