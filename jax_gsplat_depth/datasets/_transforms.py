"""Reads NeRF-style ``transforms*.json``: camera-to-world poses with OpenGL axes.

There are two dialects. A single ``transforms.json`` gives intrinsics in pixels, for all frames or
per frame. The Blender pair ``transforms_train.json`` and ``transforms_test.json`` gives the
horizontal field of view ``camera_angle_x`` and leaves out the extension of the photos.
"""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from jax_gsplat_depth.datasets._capture import CaptureError
from jax_gsplat_depth.datasets._geometry import inverted, pinhole, rigid
from jax_gsplat_depth.datasets._lens import Lens, LensError
from jax_gsplat_depth.datasets._pictures import is_file, picture_size
from jax_gsplat_depth.datasets._views import PosedPhoto

_DISTORTION = ("k1", "k2", "p1", "p2")
"""Terms of the OPENCV lens model, which is removed on load."""

_MORE_DISTORTION = ("k3", "k4", "k5", "k6")
"""Terms of larger models, which have to be 0."""

_KNOWN_MODELS = (
    "PINHOLE",
    "SIMPLE_PINHOLE",
    "SIMPLE_RADIAL",
    "RADIAL",
    "OPENCV",
    "FULL_OPENCV",
    "PERSPECTIVE",
)
_SUFFIXES = (".png", ".jpg", ".jpeg", ".PNG", ".JPG", ".JPEG", ".webp")

_DEFAULT_DEPTH_SCALE = 0.001
"""World units per step where the file names no scale: nerfstudio's rule, millimetres in metres."""


def read_transforms(path: Path, *, held_out: bool | None = None) -> tuple[list[PosedPhoto], float]:
    """Read one file.

    Args:
        path: The JSON file; photos are found relative to its folder.
        held_out: ``held_out`` of every view.

    Returns:
        The views in the order of the file, and the world units per step of their depth maps.
    """
    data = load_json(path)
    frames = _frames(path, data)
    views = [_view(path, data, frame, i, held_out) for i, frame in enumerate(frames)]
    views = _cropped_alike(views)
    scale = _DEFAULT_DEPTH_SCALE
    for key in ("depth_unit_scale_factor", "integer_depth_scale"):
        if key in data:
            scale = _number(data, key, str(path))
            if not scale > 0:
                raise CaptureError(f"{path} has {key} {scale:g}: expected a positive number")
            break
    return views, scale


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
    for i, frame in enumerate(_frames(path, data)):
        where = f"{path}, frame {i}"
        camera = {**data, **frame}
        if "w" in camera and "h" in camera:
            pixels = _size(camera, where)
        elif size is not None:
            pixels = size
        else:
            raise CaptureError(f"{where} has no 'w' and 'h': expected the size of the image")
        name = frame.get("file_path")
        view = PosedPhoto(
            photo=Path(name if isinstance(name, str) and Path(name).name else f"{i:04d}"),
            size=pixels,
            viewmat=_viewmat(frame, where),
            K=_intrinsics(camera, pixels, where),
        )
        views.append(view)
    return views


def load_json(path: Path) -> dict[str, Any]:
    """Return the object that a JSON file holds.

    Raises:
        CaptureError: There is no such file, or it holds something else.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CaptureError(f"{path} cannot be opened ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise CaptureError(f"{path} is not a valid JSON file ({reason})") from error
    if not isinstance(data, dict):
        raise CaptureError(f"{path} holds no JSON object: expected one with the key 'frames'")
    return data


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


def _view(
    path: Path, data: dict[str, Any], frame: dict[str, Any], index: int, held_out: bool | None
) -> PosedPhoto:
    where = f"{path}, frame {index}"
    photo = _photo(path, frame, where)
    where = f"{path}, frame {index} ({photo.name})"
    camera = {**data, **frame}
    _refuse_other_lenses(camera, where)
    depth = frame.get("depth_file_path")
    if depth is not None and not isinstance(depth, str):
        raise CaptureError(f"{where} has a 'depth_file_path' that is not a string")
    if "w" in camera and "h" in camera:
        size = _size(camera, where)
    else:
        size = picture_size(photo)
    view = PosedPhoto(
        photo=photo,
        size=size,
        viewmat=_viewmat(frame, where),
        K=_intrinsics(camera, size, where),
        depth=None if depth is None else path.parent / depth,
        held_out=held_out,
    )
    terms = [_number(camera, key, where) if key in camera else 0.0 for key in _DISTORTION]
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
    photo = path.parent / name
    if is_file(photo):
        return photo
    # Not with_suffix: Blender's files leave the extension out, and a name may hold dots.
    candidates = [photo.with_name(photo.name + suffix) for suffix in _SUFFIXES]
    found = next((candidate for candidate in candidates if is_file(candidate)), None)
    if found is None:
        raise CaptureError(f"{photo} is missing: expected a photo, as {where} says")
    return found


def _size(camera: dict[str, Any], where: str) -> tuple[int, int]:
    width, height = (_number(camera, key, where) for key in ("w", "h"))
    if not (width == int(width) > 0 and height == int(height) > 0):
        raise CaptureError(f"{where} has size {width:g}x{height:g}: expected whole pixels")
    return int(width), int(height)


def _refuse_other_lenses(camera: dict[str, Any], where: str) -> None:
    lens = [key for key in _MORE_DISTORTION if key in camera and _number(camera, key, where) != 0]
    model = str(camera.get("camera_model", "PINHOLE"))[:40]
    if camera.get("is_fisheye"):
        model = "fisheye"
    if lens:
        reason = f"is neither pinhole nor OPENCV ({', '.join(lens)} not zero)"
    elif model.upper() not in _KNOWN_MODELS:
        reason = f"{model} is neither pinhole nor OPENCV"
    else:
        return
    raise CaptureError(f"{where}: the lens model {reason}, so the photos must be undistorted first")


def _intrinsics(camera: dict[str, Any], size: tuple[int, int], where: str) -> np.ndarray:
    width, height = size
    if "fl_x" in camera:
        fx = _number(camera, "fl_x", where)
    elif "camera_angle_x" in camera:
        fx = _focal(camera, "camera_angle_x", width, where)
    else:
        raise CaptureError(f"{where} has neither 'fl_x' nor 'camera_angle_x': expected one of them")
    if "fl_y" in camera:
        fy = _number(camera, "fl_y", where)
    elif "camera_angle_y" in camera and "fl_x" not in camera:
        fy = _focal(camera, "camera_angle_y", height, where)
    else:
        fy = fx
    cx = _number(camera, "cx", where) if "cx" in camera else width / 2
    cy = _number(camera, "cy", where) if "cy" in camera else height / 2
    return pinhole(fx, fy, cx, cy, where=where)


def _focal(camera: dict[str, Any], key: str, side: int, where: str) -> float:
    angle = _number(camera, key, where)
    if not 0 < angle < math.pi:
        raise CaptureError(f"{where} has {key} {angle:g}: expected radians between 0 and pi")
    return 0.5 * side / math.tan(0.5 * angle)


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
    if not np.array_equal(matrix[3], [0, 0, 0, 1]):
        raise CaptureError(f"{where} has a pose whose last row is not 0 0 0 1")
    # From OpenGL's camera axes to OpenCV's.
    return inverted(camera_to_world * np.array([1.0, -1.0, -1.0, 1.0]))
