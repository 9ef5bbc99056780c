"""Reads NeRF-style ``transforms*.json``: camera-to-world poses with OpenGL axes.

There are two dialects. A single ``transforms.json`` gives intrinsics in pixels, for all frames or
per frame. The Blender pair ``transforms_train.json`` and ``transforms_test.json`` gives the
horizontal field of view ``camera_angle_x`` and leaves out the extension of the photos.
"""

import dataclasses
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from jax_gsplat_depth._common.regular_file import read_regular
from jax_gsplat_depth.datasets._capture import CaptureError, CaptureWarning
from jax_gsplat_depth.datasets._depth_maps import DepthUnits
from jax_gsplat_depth.datasets._geometry import LARGEST, pinhole
from jax_gsplat_depth.datasets._keys import (
    CAMERA,
    CAPTURE,
    DISTORTION,
    MEANINGLESS,
    SPLITS,
    tell_unused,
)
from jax_gsplat_depth.datasets._lens import Lens, LensError
from jax_gsplat_depth.datasets._paths import (
    find_file,
    find_photo,
    is_there,
    tell_other_suffixes,
    with_slashes,
)
from jax_gsplat_depth.datasets._pictures import picture_size
from jax_gsplat_depth.datasets._split import divided
from jax_gsplat_depth.datasets._transforms_fields import (
    has_other_lens,
    intrinsics_of,
    number_of,
    refuse_other_lenses,
    scale_of,
    size_of,
    viewmat_of,
)
from jax_gsplat_depth.datasets._views import PosedPhoto

_DEFAULT_DEPTH_SCALE = 0.001
"""World units per step where the file names no scale: nerfstudio's rule, millimetres in metres."""


@dataclasses.dataclass(frozen=True)
class Transforms:
    """What a ``transforms.json`` says.

    Attributes:
        views: The photos with their cameras, in the order of the file.
        depth_units: What the numbers of the depth maps mean.
        points: PLY file of sparse points, or None.
        points_scale: World units per unit of that file.
        from_source: ``(4, 4)`` similarity to the world of the views from that of the program that
            first found the poses, or None if the file names none.
    """

    views: list[PosedPhoto]
    depth_units: DepthUnits
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
    applied_scale = scale_of(data, "applied_scale", 1.0, path)
    names = [frame["file_path"] for frame in frames]
    tell_other_suffixes(path, names, [view.photo for view in views])
    if held_out is None:
        views = divided(path, data, views)
    return Transforms(
        views=views,
        depth_units=_depth_units(path, data, applied_scale),
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
    if any(has_other_lens({**data, **frame}) for frame in frames):
        warnings.warn(
            f"{path} has cameras with lens distortion, which is left out",
            CaptureWarning,
            stacklevel=2,
        )
    for i, frame in enumerate(frames):
        where = f"{path}, frame {i}"
        camera = {**data, **frame}
        if "w" in camera and "h" in camera:
            pixels = size_of(camera, where)
        elif size is not None:
            pixels = size
        else:
            raise CaptureError(f"{where} has no 'w' and 'h': expected the size of the image")
        name = frame.get("file_path")
        name = with_slashes(name) if isinstance(name, str) else ""
        view = PosedPhoto(
            photo=Path(name if Path(name).name else f"{i:04d}"),
            size=pixels,
            viewmat=viewmat_of(frame, where),
            K=intrinsics_of(camera, pixels, where),
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


def _depth_units(path: Path, data: dict[str, Any], applied_scale: float) -> DepthUnits:
    step = scale_of(data, "integer_depth_scale", _DEFAULT_DEPTH_SCALE, path)
    step = scale_of(data, "depth_unit_scale_factor", step, path)
    named = "integer_depth_scale" in data or "depth_unit_scale_factor" in data
    return DepthUnits(step * applied_scale, (step if named else 1.0) * applied_scale)


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
    refuse_other_lenses(camera, where)
    depth = _named_file(path, frame, "depth_file_path", where)
    if depth is None and "integer_depth_scale" in data:
        depth = _named_file(path, frame, "depth_path", where)
    mask = _named_file(path, frame, "mask_path", where)
    # instant-ngp finds masks by name, and reads their black as what counts.
    dynamic = find_file(photo.parent, f"dynamic_mask_{photo.stem}.png")
    dynamic = dynamic if is_there(dynamic) else None
    if "w" in camera and "h" in camera:
        size = size_of(camera, where)
    else:
        size = picture_size(photo)
    view = PosedPhoto(
        photo=photo,
        size=size,
        viewmat=viewmat_of(frame, where),
        K=intrinsics_of(camera, size, where),
        depth=depth,
        mask=dynamic if mask is None else mask,
        mask_hides=mask is None,
        held_out=held_out,
    )
    terms = [number_of(camera, key, where) if key in camera else 0.0 for key in DISTORTION]
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


def _photo(path: Path, frame: dict[str, Any], where: str) -> Path:
    name = frame.get("file_path")
    if not isinstance(name, str) or not name:
        raise CaptureError(f"{where} has no 'file_path': expected the path of a photo")
    photo = find_photo(path.parent, name)
    if not is_there(photo):
        raise CaptureError(f"{photo} is missing: expected a photo, as {where} says")
    return photo
