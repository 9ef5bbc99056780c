"""Reads and writes cameras in JSON files: our own layout, ``transforms.json``, those of a fit.

Our own layout::

    {"width": 640, "height": 480,
     "K": [[500, 0, 320], [0, 500, 240], [0, 0, 1]],
     "cameras": [{"name": "front", "viewmat": [[...], [...], [...], [...]]}, ...]}

``viewmat`` is world to camera with OpenCV axes, ``K`` is in pixels. ``K``, ``width`` and ``height``
stand beside ``cameras`` for all of them, or in each camera; ``name`` is optional. A
``transforms.json`` is that of a capture; ``_scene_cameras`` has the list that a fit saves.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from jax_gsplat_depth.datasets import CaptureError
from jax_gsplat_depth.datasets._geometry import pinhole, rigid
from jax_gsplat_depth.datasets._keys import tell_unused
from jax_gsplat_depth.datasets._transforms import load_json, read_poses
from jax_gsplat_depth.datasets._views import unique_names
from jax_gsplat_depth.frames._paths import LARGEST_SIDE, CameraPath
from jax_gsplat_depth.frames._scene_cameras import read_camera_list, scene_cameras_from
from jax_gsplat_depth.frames._scene_path import views_path

_KEYS = ("cameras", "width", "height", "K", "name", "viewmat")
"""Those of our own layout."""


def read_cameras(path: str | Path, size: tuple[int, int] | None = None) -> CameraPath:
    """Read cameras from a JSON file.

    Args:
        path: A file in our own layout (see above); the ``cameras.json`` of a fit; or a
            ``transforms.json`` with camera-to-world poses and OpenGL axes, whose photos need not
            exist. Lens distortion is ignored; a ``CaptureWarning`` says so, and names keys that
            are unknown.
        size: Width and height in pixels for a file that states neither.

    Returns:
        The cameras in the order of the file.

    Raises:
        CaptureError: The file is missing, damaged, holds no camera, or cameras of several sizes.
    """
    path = Path(path)
    entries = read_camera_list(path)
    if entries is not None:
        cameras = scene_cameras_from(entries, path)
        return views_path(cameras, np.arange(len(cameras.names)))
    data = load_json(path)
    if "frames" in data:
        views = read_poses(path, data, size)
        names = [
            _file_name(name, f"{path}, frame {i}")
            for i, name in enumerate(unique_names([view.photo for view in views], path.parent))
        ]
        found = [(view.viewmat, view.K, view.size) for view in views]
    elif isinstance(data.get("cameras"), list):
        tell_unused(path, data, data["cameras"], used=_KEYS)
        names = []
        found = []
        for i, camera in enumerate(data["cameras"]):
            where = f"{path}, camera {i}"
            if not isinstance(camera, dict):
                raise CaptureError(f"{where} is not an object with a 'viewmat'")
            names.append(_file_name(camera.get("name", f"{i:04d}"), where))
            found.append(_camera({**data, **camera}, size, where))
    else:
        raise CaptureError(f"{path} has neither a list 'cameras' nor a list 'frames'")
    if not found:
        raise CaptureError(f"{path} holds no camera")
    if len(set(names)) < len(names):
        raise CaptureError(f"{path} has two cameras of one name")
    viewmats, Ks, sizes = zip(*found, strict=True)
    if len(set(sizes)) > 1:
        raise CaptureError(f"{path} has cameras of several image sizes: expected one")
    if not max(sizes[0]) <= LARGEST_SIDE:
        raise CaptureError(f"{path} has images of more than {LARGEST_SIDE} pixels on a side")
    return CameraPath(
        names=names,
        viewmats=np.stack(viewmats),
        Ks=np.stack(Ks).astype(np.float32),
        width=sizes[0][0],
        height=sizes[0][1],
    )


def write_cameras(path: str | Path, cameras: CameraPath) -> None:
    """Write cameras in our own layout, from which ``read_cameras`` restores every bit."""
    entries = [
        {"name": name, "viewmat": viewmat.tolist(), "K": K.tolist()}
        for name, viewmat, K in zip(cameras.names, cameras.viewmats, cameras.Ks, strict=True)
    ]
    data = {"width": cameras.width, "height": cameras.height, "cameras": entries}
    Path(path).write_text(json.dumps(data, indent=1) + "\n")


def _file_name(name: Any, where: str) -> str:
    """Return a name if it can be that of a file, as which it is used at the end of the work."""
    if (
        not isinstance(name, str)
        or not name
        or not name.strip(".")  # With a suffix, "..png" is a hidden file without one.
        or name != Path(name).name
        or any(c == "\0" or "\ud800" <= c <= "\udfff" for c in name)
    ):
        raise CaptureError(f"{where} has the name {str(name)[:40]!r}: expected a file name")
    return name


def _camera(
    camera: dict[str, Any], size: tuple[int, int] | None, where: str
) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    viewmat = _matrix(camera, "viewmat", (4, 4), where)
    if not np.array_equal(viewmat[3], [0, 0, 0, 1]):
        raise CaptureError(f"{where} has a viewmat whose last row is not 0 0 0 1")
    matrix = _matrix(camera, "K", (3, 3), where)
    K = pinhole(matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2], where=where)
    if not np.array_equal(matrix, K):
        raise CaptureError(f"{where} has a K that is not fx 0 cx, 0 fy cy, 0 0 1")
    if size is None or "width" in camera or "height" in camera:
        size = _side(camera, "width", where), _side(camera, "height", where)
    return rigid(viewmat[:3, :3], viewmat[:3, 3], where=where), K, size


def _matrix(camera: dict[str, Any], key: str, shape: tuple[int, int], where: str) -> np.ndarray:
    try:
        matrix = np.array(camera[key], np.float64)
    except (KeyError, TypeError, ValueError, OverflowError):
        matrix = np.zeros(0)
    if matrix.shape != shape:
        raise CaptureError(f"{where} has no {key!r} of {shape[0]}x{shape[1]} numbers")
    return matrix


def _side(camera: dict[str, Any], key: str, where: str) -> int:
    value = camera.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise CaptureError(f"{where} has {key} {str(value)[:40]!r}: expected whole pixels")
    return value
