"""Keeps the cameras of a fit beside its Gaussians, in a ``cameras.json`` that other programs read.

The file is a list with one object for each view, in the layout that graphdeco's trainer introduced
and viewers of Gaussians read::

    [{"id": 0, "img_name": "IMG_0001", "width": 640, "height": 480,
      "position": [x, y, z], "rotation": [[...], [...], [...]], "fx": 500.0, "fy": 500.0,
      "cx": 320.0, "cy": 240.0, "held_out": false,
      "jax_gsplat_depth": {"version": 1, "up": [0, 0, 1], "data": "/photos", ...}}, ...]

``position`` is the centre of the camera and ``rotation`` goes from camera to world, OpenCV axes;
both are in the coordinates of the PLY beside it, as are its means. What the layout lacks has keys
of its own, which its readers pass over: ``cx``, ``cy``, ``held_out``, and in the first object
``jax_gsplat_depth`` for what holds for all views.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from jax_gsplat_depth._common.atomic import atomic_write
from jax_gsplat_depth._common.by_shape import shown_by_shape
from jax_gsplat_depth._common.regular_file import read_regular
from jax_gsplat_depth.datasets import Capture, CaptureError, camera_centers
from jax_gsplat_depth.datasets._geometry import pinhole, poses_at, rigid
from jax_gsplat_depth.frames._paths import LARGEST_SIDE
from jax_gsplat_depth.frames._up import up_of

SCENE_CAMERAS = "cameras.json"
"""Name of the file beside a PLY."""

_VERSION = 1
_BLOCK = "jax_gsplat_depth"

_MODEL_FOLDER = "point_cloud"
"""Where graphdeco's trainer puts ``iteration_N/point_cloud.ply``, below its ``cameras.json``."""


@shown_by_shape
@dataclasses.dataclass(frozen=True, kw_only=True)
class SceneCameras:
    """The ``V`` views that a scene was fitted to or measured on.

    Attributes:
        names: ``V`` names of the photos, without suffix; those in a file may be equal.
        viewmats: ``[V, 4, 4]`` float64, world to camera, OpenCV axes.
        Ks: ``[V, 3, 3]`` float64, pixels.
        width: ``[V]`` widths of the images in pixels.
        height: ``[V]`` heights of the images in pixels.
        up: ``[3]`` unit vector, world frame: away from the ground, as far as the cameras tell.
        held_out: ``[V]`` bool, True for the views that were not trained on.
        data: Absolute path of the capture, ``builtin`` for the built-in one; None if not known.
        downscale: Pixels of the files per pixel of the views, per side; None if not known.
        background: ``[3]`` in 0..1, what the photos were put on; None if not known.
    """

    names: list[str]
    viewmats: np.ndarray
    Ks: np.ndarray
    width: np.ndarray
    height: np.ndarray
    up: np.ndarray
    held_out: np.ndarray
    data: str | None = None
    downscale: int | None = None
    background: np.ndarray | None = None

    @classmethod
    def of_capture(cls, capture: Capture, data: str | None = None) -> SceneCameras:
        """Return the cameras of a capture, the held-out ones included.

        Args:
            capture: Posed photos.
            data: See the attribute.
        """
        n_views = len(capture.names)
        whole = np.full((n_views, 2), (capture.width, capture.height))
        sizes = whole if capture.sizes is None else capture.sizes
        return cls(
            names=list(capture.names),
            viewmats=np.asarray(capture.viewmats, np.float64),
            Ks=np.asarray(capture.Ks, np.float64),
            width=sizes[:, 0],
            height=sizes[:, 1],
            up=up_of(capture.viewmats),
            held_out=np.isin(np.arange(n_views), capture.test_indices),
            data=data,
            downscale=capture.downscale,
            background=np.asarray(capture.background, np.float64),
        )

    @property
    def train_indices(self) -> np.ndarray:
        """Indices of the views that were trained on, or of all where none was."""
        trained = np.flatnonzero(~self.held_out)
        return trained if len(trained) else np.arange(len(self.names))


def save_scene_cameras(
    path: str | Path, cameras: SceneCameras, *, origin: ArrayLike = (0.0, 0.0, 0.0)
) -> None:
    """Write cameras for ``load_scene_cameras`` and for other programs.

    Args:
        path: The file, to be named ``cameras.json`` beside the PLY.
        cameras: At least one.
        origin: ``[3]`` world position of the zero of that PLY (``io.Tags``); the positions in the
            file are relative to it, as those of the Gaussians are.

    Raises:
        OSError: The file cannot be written.
    """
    zero = np.asarray(origin, np.float64)
    centers = camera_centers(cameras.viewmats) - zero
    common: dict[str, Any] = {"version": _VERSION, "up": cameras.up.tolist()}
    if zero.any():
        common["origin"] = zero.tolist()
    if cameras.data is not None:
        common["data"] = cameras.data
    if cameras.downscale is not None:
        common["downscale"] = int(cameras.downscale)
    if cameras.background is not None:
        common["background"] = cameras.background.tolist()
    entries = []
    for i, (name, viewmat, K) in enumerate(
        zip(cameras.names, cameras.viewmats, cameras.Ks, strict=True)
    ):
        entry = {
            "id": i,
            "img_name": name,
            "width": int(cameras.width[i]),
            "height": int(cameras.height[i]),
            "position": centers[i].tolist(),
            "rotation": viewmat[:3, :3].T.tolist(),
            "fx": float(K[0, 0]),
            "fy": float(K[1, 1]),
            "cx": float(K[0, 2]),
            "cy": float(K[1, 2]),
            "held_out": bool(cameras.held_out[i]),
        }
        entries.append(entry | {_BLOCK: common} if i == 0 else entry)
    text = "[\n" + ",\n".join(json.dumps(entry) for entry in entries) + "\n]\n"
    atomic_write(Path(path), lambda stream: stream.write(text.encode()))


def load_scene_cameras(ply_path: str | Path) -> SceneCameras | None:
    """Return the cameras that were saved beside a file of Gaussians, or None if there are none.

    The ``cameras.json`` may be one of ``fit`` or of another trainer in graphdeco's layout, whose
    principal points are the middles of the images and whose upward direction is ``up_of``. That of
    a model folder with ``point_cloud/iteration_N/point_cloud.ply`` is found from the PLY as well.

    Args:
        ply_path: The file of Gaussians.

    Raises:
        CaptureError: The file is damaged.
    """
    path = Path(ply_path).absolute()
    # The folder and its meta.json are two names of one SOG.
    folder = (path.parent if path.name.lower() == "meta.json" else path).parent
    folders = [folder]
    if folder.name.startswith("iteration_") and folder.parent.name == _MODEL_FOLDER:
        folders.append(folder.parent.parent)
    for place in folders:
        path = place / SCENE_CAMERAS
        if path.exists():
            entries = read_camera_list(path)
            return None if entries is None else scene_cameras_from(entries, path)
    return None


def read_camera_list(path: Path) -> list[Any] | None:
    """Return the list that a JSON file holds, or None if it holds something else than a list.

    Raises:
        CaptureError: It cannot be read, or is no JSON.
    """
    try:
        data = json.loads(read_regular(path))
    except OSError as error:
        raise CaptureError(f"{path} cannot be opened ({error.strerror or error})") from error
    except (ValueError, RecursionError) as error:
        reason = str(error).partition("\n")[0]
        raise CaptureError(f"{path} is not a valid JSON file ({reason})") from error
    return data if isinstance(data, list) else None


def scene_cameras_from(entries: list[Any], path: Path) -> SceneCameras:
    """Return the cameras of a list in the layout above.

    Args:
        entries: The list.
        path: Its file, for messages.

    Raises:
        CaptureError: It holds no camera, or one that is none.
    """
    if not entries:
        raise CaptureError(f"{path} holds no camera")
    wheres = [f"{path}, camera {i}" for i in range(len(entries))]
    for entry, where in zip(entries, wheres, strict=True):
        if not isinstance(entry, dict):
            raise CaptureError(f"{where} is not an object with 'position' and 'rotation'")
    common = _common(entries, path)
    pairs = list(zip(entries, wheres, strict=True))
    sizes = np.array([[_side(e, key, w) for key in ("width", "height")] for e, w in pairs])
    rotations = np.stack([_numbers(e, "rotation", (3, 3), w) for e, w in pairs])
    positions = np.stack([_numbers(e, "position", (3,), w) for e, w in pairs])
    positions = positions + common["origin"]
    to_world = [
        rigid(rotation, position, where=where)
        for rotation, position, where in zip(rotations, positions, wheres, strict=True)
    ]
    viewmats = poses_at(positions, np.stack(to_world)[:, :3, :3].swapaxes(1, 2))
    return SceneCameras(
        names=[_name(entry, i) for i, entry in enumerate(entries)],
        viewmats=viewmats,
        Ks=np.stack([_K(e, size, w) for (e, w), size in zip(pairs, sizes, strict=True)]),
        width=sizes[:, 0],
        height=sizes[:, 1],
        up=up_of(viewmats) if common["up"] is None else common["up"],
        held_out=np.array([entry.get("held_out") is True for entry in entries]),
        data=common["data"],
        downscale=common["downscale"],
        background=common["background"],
    )


def _common(entries: list[dict[str, Any]], path: Path) -> dict[str, Any]:
    """Return what holds for all views, None or 0 where the file does not say it."""
    block = next((entry[_BLOCK] for entry in entries if _BLOCK in entry), {"version": _VERSION})
    where = f"{path}, {_BLOCK!r}"
    if not isinstance(block, dict) or block.get("version") != _VERSION:
        version = block.get("version") if isinstance(block, dict) else block
        raise CaptureError(
            f"{where} has version {str(version)[:40]!r}: this version of the package reads "
            f"{_VERSION}"
        )
    vectors = {
        key: None if block.get(key) is None else _numbers(block, key, (3,), where)
        for key in ("up", "origin", "background")
    }
    if vectors["up"] is not None:
        length = np.linalg.norm(vectors["up"])
        if not length > 0:
            raise CaptureError(f"{where} has an 'up' of length 0: expected a direction")
        vectors["up"] = vectors["up"] / length
    data, downscale = block.get("data"), block.get("downscale")
    return vectors | {
        "origin": np.zeros(3) if vectors["origin"] is None else vectors["origin"],
        "data": data if isinstance(data, str) and data else None,
        "downscale": None if downscale is None else _side(block, "downscale", where),
    }


def _name(entry: dict[str, Any], i: int) -> str:
    """Return the name of the photo, fit for a file as which a picture of the view is written."""
    name = entry.get("img_name")
    if not isinstance(name, str) or not name.strip("."):
        return f"{i:04d}"
    return "".join("_" if c in "/\\\0" or "\ud800" <= c <= "\udfff" else c for c in name)


def _K(entry: dict[str, Any], size: np.ndarray, where: str) -> np.ndarray:
    defaults = {"cx": size[0] / 2, "cy": size[1] / 2}
    values = {**defaults, **{k: v for k, v in entry.items() if v is not None}}
    fx, fy, cx, cy = (float(_numbers(values, key, (), where)) for key in ("fx", "fy", "cx", "cy"))
    return pinhole(fx, fy, cx, cy, where=where)


def _numbers(entry: dict[str, Any], key: str, shape: tuple[int, ...], where: str) -> np.ndarray:
    try:
        values = np.array(entry[key])
        if values.dtype.kind not in "iuf":
            raise TypeError
        values = values.astype(np.float64)
    except (KeyError, TypeError, ValueError, OverflowError):
        values = np.full(shape, np.nan)
    if values.shape != shape or not np.isfinite(values).all():
        what = "x".join(map(str, shape)) + " finite numbers" if shape else "one finite number"
        raise CaptureError(f"{where} has no {key!r} of {what}")
    return values


def _side(entry: dict[str, Any], key: str, where: str) -> int:
    value = entry.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= LARGEST_SIDE:
        raise CaptureError(
            f"{where} has {key} {str(value)[:40]!r}: expected a whole number between 1 and "
            f"{LARGEST_SIDE}"
        )
    return value
