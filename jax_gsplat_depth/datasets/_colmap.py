"""Reads COLMAP models, binary and text: cameras, poses and sparse points.

Every count is checked against the size of the file before it is used, and every record against the
bytes that remain, so a damaged file ends in a sentence and never in a large allocation. The
observations of the points in the photos are skipped.
"""

import dataclasses
import io
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from jax_gsplat_depth._common.regular_file import open_regular, read_regular
from jax_gsplat_depth.datasets._capture import CaptureError
from jax_gsplat_depth.datasets._geometry import LARGEST, pinhole, rigid, rotation_matrix
from jax_gsplat_depth.datasets._paths import find_file, is_there
from jax_gsplat_depth.datasets._views import PosedPhoto

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
}
_POINT2D_BYTES = 24
"""Bytes of one observation of a point in the record of a photo."""

_TRACK_BYTES = 8
"""Bytes of one observation in the record of a point."""


@dataclasses.dataclass(frozen=True)
class _Camera:
    model: str
    size: tuple[int, int]
    params: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class _Image:
    name: str
    camera_id: int
    quat: tuple[float, ...]
    translation: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Model:
    """A COLMAP model.

    Attributes:
        folder: Folder of the three files.
        cameras: Cameras by id.
        images: Registered photos.
        points: ``(P, 3)`` float64, world frame, finite.
        colors: ``(P, 3)`` uint8.
    """

    folder: Path
    cameras: dict[int, _Camera]
    images: list[_Image]
    points: np.ndarray
    colors: np.ndarray

    def viewmats(self) -> dict[str, np.ndarray]:
        """Return the ``(4, 4)`` world-to-camera pose of every photo, OpenCV axes, by name."""
        return {image.name: self._viewmat(image) for image in self.images}

    def views(self, photos: Path, masks: Path) -> list[PosedPhoto]:
        """Return the photos with their cameras.

        Args:
            photos: Folder to which the names of the photos are relative.
            masks: Folder of the masks, which need not exist.
        """
        return [
            PosedPhoto(
                photo=find_file(photos, image.name),
                mask=_mask(masks, image.name) if masks.is_dir() else None,
                size=self._camera(image).size,
                viewmat=self._viewmat(image),
                K=self._intrinsics(image),
            )
            for image in self.images
        ]

    def _camera(self, image: _Image) -> _Camera:
        if image.camera_id not in self.cameras:
            raise CaptureError(
                f"{self.folder}: photo {image.name} has camera {image.camera_id}, "
                "which the cameras file does not hold"
            )
        return self.cameras[image.camera_id]

    def _viewmat(self, image: _Image) -> np.ndarray:
        where = f"{self.folder}: photo {image.name}"
        quat = np.array(image.quat)
        if not (np.abs(quat) < LARGEST).all():
            raise CaptureError(f"{where} has a pose that is not finite (NaN or infinity)")
        if not _is_unit(image.quat):
            raise CaptureError(f"{where} has a pose that is not a rotation: expected |q| = 1")
        rotation = rotation_matrix(quat / np.linalg.norm(quat))
        return rigid(rotation, np.array(image.translation), where=where)

    def _intrinsics(self, image: _Image) -> np.ndarray:
        camera = self._camera(image)
        where = f"{self.folder}: camera {image.camera_id}"
        if camera.model == "SIMPLE_PINHOLE":
            names: tuple[int, ...] = (0, 0, 1, 2)
        elif camera.model == "PINHOLE":
            names = (0, 1, 2, 3)
        else:
            raise CaptureError(
                f"{where} is {camera.model}, which is not a pinhole model (PINHOLE or "
                "SIMPLE_PINHOLE), so the photos must be undistorted first"
            )
        if len(camera.params) != max(names) + 1:
            raise CaptureError(
                f"{where} has {len(camera.params)} parameters: {camera.model} has {max(names) + 1}"
            )
        return pinhole(*(camera.params[i] for i in names), where=where)


def _is_unit(quat: tuple[float, ...]) -> bool:
    """Return whether a quaternion has the length 1, up to the rounding of a text file."""
    return bool(abs(np.linalg.norm(quat) - 1.0) <= 0.01)


def _mask(masks: Path, name: str) -> Path | None:
    """Return the mask of a photo: COLMAP adds ``.png`` to its name, others replace its suffix."""
    names = (f"{name}.png", f"{name.rpartition('.')[0] or name}.png")
    return next(filter(is_there, (find_file(masks, each) for each in names)), None)


def find_model(root: Path) -> Path | None:
    """Return the folder of the COLMAP model below ``root``, or None if there is none."""
    for folder in (root / "sparse" / "0", root / "sparse", root / "colmap" / "sparse" / "0"):
        if any(is_there(folder / f"cameras.{suffix}") for suffix in ("bin", "txt")):
            return folder
    return None


def read_model(folder: Path) -> Model:
    """Read ``cameras``, ``images`` and ``points3D``, all ``.bin`` or all ``.txt``."""
    by_suffix = {
        suffix: [folder / f"{name}.{suffix}" for name in ("cameras", "images", "points3D")]
        for suffix in ("bin", "txt")
    }
    complete = [suffix for suffix, paths in by_suffix.items() if all(map(is_there, paths))]
    suffix = next(iter(complete), "bin" if is_there(folder / "cameras.bin") else "txt")
    paths = by_suffix[suffix]
    for path in paths:
        if not is_there(path):
            raise CaptureError(f"{path} is missing: expected a complete COLMAP model")
    readers = _BINARY if suffix == "bin" else _TEXT
    cameras, images = readers[0](paths[0]), readers[1](paths[1])
    points, colors = readers[2](paths[2])
    finite = (np.abs(points) < LARGEST).all(axis=1)
    return Model(folder, cameras, images, points[finite], colors[finite])


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


_COUNT = struct.Struct("<Q")
_CAMERA = struct.Struct("<IiQQ")
_IMAGE = struct.Struct("<I4d3dI")
_POINT = struct.Struct("<Q3d3BdQ")


def _cameras_bin(path: Path) -> dict[int, _Camera]:
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
        _refuse_second(path, camera_id, cameras)
        cameras[camera_id] = _Camera(model, (width, height), params)
    file.finish()
    return cameras


def _images_bin(path: Path) -> list[_Image]:
    file = _Bytes(path)
    images = []
    for _ in range(file.count("photos", _IMAGE.size + 1 + _COUNT.size)):
        _, *pose, camera_id = file.take(_IMAGE)
        images.append(_Image(file.text(), camera_id, tuple(pose[:4]), tuple(pose[4:])))
        file.skip(_POINT2D_BYTES * file.count("points in one photo", _POINT2D_BYTES))
    file.finish()
    return images


def _points_bin(path: Path) -> tuple[np.ndarray, np.ndarray]:
    file = _Bytes(path)
    count = file.count("points", _POINT.size)
    points, colors = np.empty((count, 3)), np.empty((count, 3), np.uint8)
    for i in range(count):
        _, x, y, z, red, green, blue, _, n_track = file.take(_POINT)
        points[i], colors[i] = (x, y, z), (red, green, blue)
        file.skip(_TRACK_BYTES * n_track)
    file.finish()
    return points, colors


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield number and text of every line that is not a comment; a line may be empty."""
    try:
        # Editors on Windows begin a file with a byte order mark.
        with io.TextIOWrapper(open_regular(path), encoding="utf-8-sig") as stream:
            text = stream.read()
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


def _refuse_second(path: Path, camera_id: int, cameras: dict[int, _Camera]) -> None:
    if camera_id in cameras:
        raise CaptureError(f"{path} lists camera {camera_id} twice: expected every camera once")


def _cameras_txt(path: Path) -> dict[int, _Camera]:
    cameras = {}
    for number, line in _lines(path):
        if not line:
            continue
        try:
            camera_id, model, width, height, *params = line.split()
            size = int(width), int(height)
            camera = _Camera(model, size, tuple(map(float, params)))
            key = int(camera_id)
        except ValueError:
            expected = "CAMERA_ID MODEL WIDTH HEIGHT PARAMS"
            raise _broken(path, number, expected) from None
        _refuse_second(path, key, cameras)
        cameras[key] = camera
    return cameras


def _images_txt(path: Path) -> list[_Image]:
    """Read photos: a line for each, and a line for the points seen in it.

    Programs leave the second line empty, or out; what a line is, its content says.
    """
    images = []
    after_photo = False
    for number, line in _lines(path):
        image = _image_of(line)
        is_points = after_photo and _is_points(line.split())
        if image is not None and is_points:
            # The name has nothing but numbers, or the first point has a whole number as its X.
            if _is_unit(image.quat):
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


def _image_of(line: str) -> _Image | None:
    """Return the photo that a line describes, perhaps without a name, or None for other lines."""
    words = line.split(maxsplit=9)
    try:
        image_id, *pose, camera_id, name = words if len(words) == 10 else [*words, ""]
        qw, qx, qy, qz, tx, ty, tz = map(float, pose)
        int(image_id)
        return _Image(name, int(camera_id), (qw, qx, qy, qz), (tx, ty, tz))
    except ValueError:
        return None


def _is_points(words: Sequence[str]) -> bool:
    """Return whether words are X Y POINT3D_ID any number of times."""
    try:
        numbers = np.array(words, np.float64)
    except ValueError:
        return False
    return len(numbers) % 3 == 0 and bool((numbers[2::3] == np.floor(numbers[2::3])).all())


def _points_txt(path: Path) -> tuple[np.ndarray, np.ndarray]:
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


_BINARY = (_cameras_bin, _images_bin, _points_bin)
_TEXT = (_cameras_txt, _images_txt, _points_txt)
