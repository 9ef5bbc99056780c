"""Finds out which layout a folder of posed photos has, and reads its cameras."""

import dataclasses
from pathlib import Path

import numpy as np

from jax_gsplat_depth.datasets._capture import CaptureError
from jax_gsplat_depth.datasets._colmap import read_model
from jax_gsplat_depth.datasets._colmap_models import find_model
from jax_gsplat_depth.datasets._depth_maps import DepthUnits
from jax_gsplat_depth.datasets._paths import is_there
from jax_gsplat_depth.datasets._points import read_points
from jax_gsplat_depth.datasets._recorded import INTRINSICS
from jax_gsplat_depth.datasets._rgbd import is_recording, read_rgbd
from jax_gsplat_depth.datasets._same_world import points_of_same_world
from jax_gsplat_depth.datasets._transforms import Transforms, read_transforms
from jax_gsplat_depth.datasets._tum import is_tum, read_tum
from jax_gsplat_depth.datasets._views import PosedPhoto

Points = tuple[np.ndarray, np.ndarray] | None
"""Positions ``(P, 3)`` float64, world frame, and colours ``(P, 3)`` uint8, if there are some."""

_PHOTOS = ("images", "input", "images_2", "images_4", "images_8")
"""Folders of photos beside a COLMAP model: its own, 3DGS's, and smaller copies."""

_NO_UNITS = DepthUnits(step=1.0)
"""Of layouts without depth maps."""


@dataclasses.dataclass(frozen=True)
class Posed:
    """What the files of a folder say before any picture is read.

    Attributes:
        views: The photos with their cameras, in any order.
        depth_units: What the numbers of the depth maps mean.
        points: Sparse points, or None.
    """

    views: list[PosedPhoto]
    depth_units: DepthUnits = _NO_UNITS
    points: Points = None


def read_posed(root: Path) -> Posed:
    """Read the cameras of a folder; ``load_capture`` names the layouts.

    Raises:
        CaptureError: It has none of them, or something is missing or broken.
    """
    if is_there(root / "transforms.json"):
        transforms = read_transforms(root / "transforms.json")
        points = _points_of(transforms, root, beside=True)
        return Posed(transforms.views, transforms.depth_units, points)
    if is_there(root / "transforms_train.json"):
        return _read_blender_pair(root)
    if (folder := find_model(root)) is not None:
        photos = _photos_of(root, folder)
        model = read_model(folder)
        return Posed(model.views(photos, root / "masks"), points=(model.points, model.colors))
    if is_tum(root):
        return Posed(*read_tum(root))
    if is_recording(root):
        return Posed(*read_rgbd(root))
    raise CaptureError(
        f"{root} holds no cameras: expected transforms.json, transforms_train.json with "
        f"transforms_test.json, images with sparse/0 from COLMAP, {INTRINSICS} with *.color.png, "
        "or rgb.txt with groundtruth.txt"
    )


def _photos_of(root: Path, model: Path) -> Path:
    """Return the folder of the photos of a COLMAP model, the first that is not empty."""
    # A project of COLMAP may lie in a folder of its own, with its photos.
    projects = dict.fromkeys([root, *(p for p in model.parents if root in p.parents)])
    for folder in (project / name for project in projects for name in _PHOTOS):
        if folder.is_dir() and any(folder.iterdir()):
            return folder
    raise CaptureError(f"{root / 'images'} is missing: expected the photos of {model}")


def _read_blender_pair(root: Path) -> Posed:
    train, test = root / "transforms_train.json", root / "transforms_test.json"
    if not is_there(test):
        raise CaptureError(f"{test} is missing: expected it beside {train.name}")
    seen = read_transforms(train, held_out=False)
    held_out = read_transforms(test, held_out=True)
    for file, part in ((train, seen), (test, held_out)):
        if not part.views:
            raise CaptureError(f"{file} lists no photos: expected at least one")
    if seen.depth_units != held_out.depth_units:
        raise CaptureError(f"{test} has another depth scale than {train.name}")
    points = _points_of(seen, root, beside=False)
    return Posed(seen.views + held_out.views, seen.depth_units, points)


def _points_of(transforms: Transforms, root: Path, *, beside: bool) -> Points:
    """Return the points that a file names, or those of the COLMAP model beside it."""
    if transforms.points is not None:
        return read_points(transforms.points, transforms.points_scale)
    model = find_model(root) if beside else None
    if model is None:
        return None
    return points_of_same_world(model, root, transforms.views, transforms.from_source)
