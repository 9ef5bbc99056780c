"""Reads NeRF-style ``transforms*.json``: camera-to-world poses with OpenGL axes.

There are two dialects. A single ``transforms.json`` gives intrinsics in pixels, for all frames or
per frame. The Blender pair ``transforms_train.json`` and ``transforms_test.json`` gives the
horizontal field of view ``camera_angle_x`` and leaves out the extension of the photos.
"""

import dataclasses
import json
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from jax_gsplat_depth._common.regular_file import read_regular
from jax_gsplat_depth.datasets._capture import CaptureError, CaptureWarning
from jax_gsplat_depth.datasets._geometry import LARGEST, inverted, pinhole, rigid
from jax_gsplat_depth.datasets._keys import (
    CAMERA,
    CAPTURE,
    DISTORTION,
    MEANINGLESS,
    MORE_DISTORTION,
    OTHER_LENSES,
    SPLITS,
    tell_unused,
)
from jax_gsplat_depth.datasets._lens import Lens, LensError
from jax_gsplat_depth.datasets._paths import find_file, find_photo, is_there, with_slashes
from jax_gsplat_depth.datasets._pictures import picture_size
from jax_gsplat_depth.datasets._split import divided
from jax_gsplat_depth.datasets._views import PosedPhoto

_KNOWN_MODELS = (
    "PINHOLE",
    "SIMPLE_PINHOLE",
    "SIMPLE_RADIAL",
    "RADIAL",
    "OPENCV",
    "FULL_OPENCV",
    "PERSPECTIVE",
)

_DEFAULT_DEPTH_SCALE = 0.001
"""World units per step where the file names no scale: nerfstudio's rule, millimetres in metres."""

_LARGEST_SCALE = 1e15
"""Its square times a depth is still within the range of float32."""

_LAST_ROW_TOLERANCE = 1e-6
"""Largest error of the last row of a pose that still counts as rounding."""


@dataclasses.dataclass(frozen=True)
class Transforms:
    """What a ``transforms.json`` says.

    Attributes:
        views: The photos with their cameras, in the order of the file.
        depth_scale: World units per step of the depth maps.
        points: PLY file of sparse points, or None.
        points_scale: World units per unit of that file.
        from_source: ``(4, 4)`` similarity to the world of the views from that of the program that
            first found the poses, or None if the file names none.
    """

    views: list[PosedPhoto]
    depth_scale: float
    points: Path | None
    points_scale: float
    from_source: np.ndarray | None


def read_transforms(path: Path, *, held_out: bool | None = None) -> Transforms:
    """Read one file, with the keys of nerfstudio and instant-ngp.

    What nerfstudio has done to the world is in the poses already. ``applied_transform`` leads from
    the world of COLMAP, say, to that of the poses, and is in the points of ``ply_file_path`` as
    well. ``applied_scale`` is in the poses, but neither in these points nor in depth maps, which
    nerfstudio multiplies by it when it reads them.

    Args:
        path: The JSON file; what it names is found relative to its folder.
        held_out: ``held_out`` of every view; None leaves it to the lists of file names.
    """
    data = load_json(path)
    frames = _frames(path, data)
    used = set(CAMERA | CAPTURE)
    if "integer_depth_scale" not in data:
        used.remove("depth_path")
    if held_out is not None:
        used.difference_update(SPLITS)
    tell_unused(path, data, frames, used=used)
    views = [_view(path, data, frame, i, held_out) for i, frame in enumerate(frames)]
    if held_out is None:
        views = divided(path, data, views)
    applied_scale = _scale(data, "applied_scale", 1.0, path)
    depth_scale = _scale(data, "integer_depth_scale", _DEFAULT_DEPTH_SCALE, path)
    depth_scale = _scale(data, "depth_unit_scale_factor", depth_scale, path)
    return Transforms(
        views=_cropped_alike(views),
        depth_scale=depth_scale * applied_scale,
        points=_named_file(path, data, "ply_file_path", str(path)),
        points_scale=applied_scale,
        from_source=_from_source(path, data, applied_scale),
    )


def read_poses(
    path: Path, data: dict[str, Any], size: tuple[int, int] | None = None
) -> list[PosedPhoto]:
    """Read the cameras of a file whose photos need not exist, without lens distortion.

    Args:
        path: Where ``data`` comes from, for the messages.
        data: Content of the file.
        size: Width and height in pixels where the file has none.

    Returns:
        The views in the order of the file; ``photo`` is the name in the file, or a number.
    """
    views = []
    frames = _frames(path, data)
    # Nobody expects more than cameras of a file that is named as cameras.
    tell_unused(path, data, frames, used=CAMERA | CAPTURE | MEANINGLESS)
    if any(_has_other_lens({**data, **frame}) for frame in frames):
        warnings.warn(
            f"{path} has cameras with lens distortion, which is left out",
            CaptureWarning,
            stacklevel=2,
        )
    for i, frame in enumerate(frames):
        where = f"{path}, frame {i}"
        camera = {**data, **frame}
        if "w" in camera and "h" in camera:
            pixels = _size(camera, where)
        elif size is not None:
            pixels = size
        else:
            raise CaptureError(f"{where} has no 'w' and 'h': expected the size of the image")
        name = frame.get("file_path")
        name = with_slashes(name) if isinstance(name, str) else ""
        view = PosedPhoto(
            photo=Path(name if Path(name).name else f"{i:04d}"),
            size=pixels,
            viewmat=_viewmat(frame, where),
            K=_intrinsics(camera, pixels, where),
        )
        views.append(view)
    return views


def load_json(path: Path) -> dict[str, Any]:
    """Return the object that a JSON file holds, without the keys that are null: these are absent.

    Raises:
        CaptureError: There is no such file, or it holds something else.
    """
    try:
        # From bytes, whose encoding json finds out: editors write UTF-16 or a byte order mark.
        data = json.loads(read_regular(path), object_hook=_without_nulls)
    except OSError as error:
        raise CaptureError(f"{path} cannot be opened ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise CaptureError(f"{path} is not a valid JSON file ({reason})") from error
    if not isinstance(data, dict):
        raise CaptureError(f"{path} holds no JSON object: expected one with the key 'frames'")
    return data


def _without_nulls(data: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in data.items() if value is not None}


def _frames(path: Path, data: dict[str, Any]) -> list[dict[str, Any]]:
    frames = data.get("frames")
    if not isinstance(frames, list) or not all(isinstance(frame, dict) for frame in frames):
        raise CaptureError(f"{path} has no list 'frames': expected one entry per photo")
    return frames


def _number(data: dict[str, Any], key: str, where: str) -> float:
    value = data[key]
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            value = float(value)
        except OverflowError:
            value = math.inf
        if math.isfinite(value):
            return value
    raise CaptureError(f"{where} has {key} {str(value)[:40]!r}: expected a finite number")


def _scale(data: dict[str, Any], key: str, default: float, path: Path) -> float:
    if key not in data:
        return default
    value = _number(data, key, str(path))
    if not 1 / _LARGEST_SCALE < value < _LARGEST_SCALE:
        raise CaptureError(f"{path} has {key} {value:g}: expected a positive number of usual size")
    return value


def _named_file(path: Path, data: dict[str, Any], key: str, where: str) -> Path | None:
    """Return the path of the file that a key names, or None if there is no such key."""
    name = data.get(key)
    if name is None:
        return None
    if name == "":
        raise CaptureError(f"{where} has a {key!r} that is empty: expected a path")
    if not isinstance(name, str):
        raise CaptureError(f"{where} has a {key!r} that is not a string: expected a path")
    return find_file(path.parent, name)


def _from_source(path: Path, data: dict[str, Any], applied_scale: float) -> np.ndarray | None:
    if "applied_transform" not in data:
        return None
    try:
        matrix = np.array(data["applied_transform"], np.float64)
    except (TypeError, ValueError, OverflowError):
        matrix = np.zeros(0)
    if matrix.shape not in ((3, 4), (4, 4)) or not (np.abs(matrix) < LARGEST).all():
        raise CaptureError(f"{path} has no 'applied_transform' of 3x4 finite numbers")
    similarity = np.eye(4)
    similarity[:3] = applied_scale * matrix[:3]
    # What mirrors or flattens leads to no poses.
    return similarity if np.linalg.det(similarity) > 0 else None


def _view(
    path: Path, data: dict[str, Any], frame: dict[str, Any], index: int, held_out: bool | None
) -> PosedPhoto:
    where = f"{path}, frame {index}"
    photo = _photo(path, frame, where)
    where = f"{path}, frame {index} ({photo.name})"
    camera = {**data, **frame}
    _refuse_other_lenses(camera, where)
    depth = _named_file(path, frame, "depth_file_path", where)
    if depth is None and "integer_depth_scale" in data:
        depth = _named_file(path, frame, "depth_path", where)
    mask = _named_file(path, frame, "mask_path", where)
    # instant-ngp finds masks by name, and reads their black as what counts.
    dynamic = find_file(photo.parent, f"dynamic_mask_{photo.stem}.png")
    dynamic = dynamic if is_there(dynamic) else None
    if "w" in camera and "h" in camera:
        size = _size(camera, where)
    else:
        size = picture_size(photo)
    view = PosedPhoto(
        photo=photo,
        size=size,
        viewmat=_viewmat(frame, where),
        K=_intrinsics(camera, size, where),
        depth=depth,
        mask=dynamic if mask is None else mask,
        mask_hides=mask is None,
        held_out=held_out,
    )
    terms = [_number(camera, key, where) if key in camera else 0.0 for key in DISTORTION]
    # A size that differs from the photo's is reported when the photo is read; it may be absurd.
    if not any(terms) or picture_size(photo) != size:
        return view
    return _without_lens(view, terms, where)


def _without_lens(view: PosedPhoto, terms: list[float], where: str) -> PosedPhoto:
    """Return the view of the pinhole camera that remains when the lens is removed."""
    fx, fy, cx, cy = (float(view.K[i]) for i in ((0, 0), (1, 1), (0, 2), (1, 2)))
    k1, k2, p1, p2 = terms
    lens = Lens(*view.size, fx, fy, cx, cy, k1, k2, p1, p2)
    try:
        size, center = lens.pinhole_size, lens.pinhole_center
    except LensError as error:
        raise CaptureError(f"{where} cannot be used: {error}") from error
    return dataclasses.replace(view, size=size, K=pinhole(fx, fy, *center, where=where), lens=lens)


def _cropped_alike(views: list[PosedPhoto]) -> list[PosedPhoto]:
    """Crop undistorted photos to the size of the smallest, if the stored ones have one size."""
    stored = {view.lens.stored_size if view.lens else view.size for view in views}
    sizes = {view.size for view in views}
    if len(stored) != 1 or len(sizes) == 1:
        return views
    smallest = min(width for width, _ in sizes), min(height for _, height in sizes)
    cut = []
    for view in views:
        K = view.K
        lens = view.lens or Lens(*view.size, K[0, 0], K[1, 1], K[0, 2], K[1, 2], 0, 0, 0, 0)
        cut.append(
            dataclasses.replace(
                view, size=smallest, lens=dataclasses.replace(lens, largest=smallest)
            )
        )
    return cut


def _photo(path: Path, frame: dict[str, Any], where: str) -> Path:
    name = frame.get("file_path")
    if not isinstance(name, str) or not name:
        raise CaptureError(f"{where} has no 'file_path': expected the path of a photo")
    photo = find_photo(path.parent, name)
    if not is_there(photo):
        raise CaptureError(f"{photo} is missing: expected a photo, as {where} says")
    return photo


def _size(camera: dict[str, Any], where: str) -> tuple[int, int]:
    width, height = (_number(camera, key, where) for key in ("w", "h"))
    if not (width == int(width) > 0 and height == int(height) > 0):
        raise CaptureError(f"{where} has size {width:g}x{height:g}: expected whole pixels")
    return int(width), int(height)


def _refuse_other_lenses(camera: dict[str, Any], where: str) -> None:
    lens = [key for key in MORE_DISTORTION if key in camera and _number(camera, key, where) != 0]
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
    model = str(camera.get("camera_model", "PINHOLE"))[:40]
    if camera.get("is_fisheye"):
        return "fisheye"
    other = next((key for key in OTHER_LENSES if camera.get(key, False) is not False), None)
    return other or (None if model.upper() in _KNOWN_MODELS else model)


def _has_other_lens(camera: dict[str, Any]) -> bool:
    terms = any(camera.get(key) for key in DISTORTION + MORE_DISTORTION)
    return terms or _other_model(camera) is not None


def _intrinsics(camera: dict[str, Any], size: tuple[int, int], where: str) -> np.ndarray:
    width, height = size
    fx = _focal(camera, "x", width, where)
    if fx is None:
        raise CaptureError(
            f"{where} has neither 'fl_x' nor 'camera_angle_x' nor 'x_fov': expected one of them"
        )
    fy = None
    if "fl_y" in camera or "fl_x" not in camera:
        fy = _focal(camera, "y", height, where)
    cx = _number(camera, "cx", where) if "cx" in camera else width / 2
    cy = _number(camera, "cy", where) if "cy" in camera else height / 2
    return pinhole(fx, fx if fy is None else fy, cx, cy, where=where)


def _focal(camera: dict[str, Any], axis: str, side: int, where: str) -> float | None:
    """Return the focal length along an axis of the image, in pixels, or None if there is none."""
    if f"fl_{axis}" in camera:
        return _number(camera, f"fl_{axis}", where)
    for key, unit, limits in (
        (f"camera_angle_{axis}", 1.0, "radians between 0 and pi"),
        (f"{axis}_fov", math.pi / 180, "degrees between 0 and 180"),
    ):
        if key in camera:
            angle = _number(camera, key, where)
            if not 0 < angle * unit < math.pi:
                raise CaptureError(f"{where} has {key} {angle:g}: expected {limits}")
            return 0.5 * side / math.tan(0.5 * angle * unit)
    return None


def _viewmat(frame: dict[str, Any], where: str) -> np.ndarray:
    try:
        matrix = np.array(frame["transform_matrix"], np.float64)
    except (KeyError, TypeError, ValueError, OverflowError):
        matrix = np.zeros(0)
    if matrix.shape == (3, 4):
        matrix = np.concatenate([matrix, [[0.0, 0.0, 0.0, 1.0]]])
    if matrix.shape != (4, 4):
        raise CaptureError(f"{where} has no 'transform_matrix' of 4x4 numbers")
    camera_to_world = rigid(matrix[:3, :3], matrix[:3, 3], where=where)
    if not (np.abs(matrix[3] - [0, 0, 0, 1]) <= _LAST_ROW_TOLERANCE).all():
        raise CaptureError(f"{where} has a pose whose last row is not 0 0 0 1")
    # From OpenGL's camera axes to OpenCV's.
    return inverted(camera_to_world * np.array([1.0, -1.0, -1.0, 1.0]))
