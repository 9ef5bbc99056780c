"""Reads RGB-D recordings in the layout of 7-Scenes: one file per frame and kind.

``NAME.color.png`` or ``.jpg`` and ``NAME.depth.png`` (16 bits, millimetres of z, on the pixels of
the photo), ``NAME.pose.txt`` (camera to world, OpenCV axes, metres), in the folder or in one folder
for each sequence, and ``camera-intrinsics.txt`` for all of them.
"""

import os
import warnings
from pathlib import Path

import numpy as np

from jax_gsplat_depth.datasets._capture import CaptureWarning
from jax_gsplat_depth.datasets._depth_maps import DEPTH_SUFFIXES, DepthUnits
from jax_gsplat_depth.datasets._geometry import inverted, rigid_of
from jax_gsplat_depth.datasets._paths import is_photo_suffix, is_there
from jax_gsplat_depth.datasets._pictures import picture_size
from jax_gsplat_depth.datasets._recorded import INTRINSICS, recorded_pinhole
from jax_gsplat_depth.datasets._text_files import read_matrix
from jax_gsplat_depth.datasets._views import PosedPhoto

_MILLIMETRES = DepthUnits(step=0.001)
"""Metres per step of the depth maps."""

_FOCAL = 585.0
"""Focal length, in pixels of 640x480, that 7-Scenes gives for the Kinect of all its sequences."""

_MOST_NAMES = 8


def is_recording(root: Path) -> bool:
    """Return whether a folder, or a folder in it, holds frames, or the matrix of their camera."""
    return is_there(root / INTRINSICS) or any(_photos(folder) for folder in _folders(root))


def read_rgbd(root: Path) -> tuple[list[PosedPhoto], DepthUnits]:
    """Read the cameras of a folder and of the folders in it, one for each sequence.

    Returns:
        The views in the order of their names, and the unit of their depth maps. A frame whose pose
        is not finite is left out with a ``CaptureWarning``: there the recorder had lost track.
    """
    views, lost, twice = [], [], []
    K_of: dict[Path, np.ndarray] = {}
    for folder in _folders(root):
        # Whoever opens a single sequence has its camera one folder above.
        above = [folder] if folder == root else [folder, root]
        above.append(Path(os.path.abspath(root)).parent)
        for stem, (photo, *others) in _photos(folder).items():
            twice += others
            pose_path = folder / f"{stem}.pose.txt"
            pose = read_matrix(pose_path, 4)
            if not np.isfinite(pose).all():
                lost.append(stem)
                continue
            size = picture_size(photo)
            if folder not in K_of:
                K_of[folder] = recorded_pinhole(above, size, _FOCAL, "7-Scenes")
            depths = (folder / f"{stem}.depth{suffix}" for suffix in DEPTH_SUFFIXES)
            views.append(
                PosedPhoto(
                    photo=photo,
                    size=size,
                    viewmat=inverted(rigid_of(pose, where=str(pose_path))),
                    K=K_of[folder],
                    depth=next(filter(is_there, depths), None),
                )
            )
    for names, why in (
        (lost, "frames whose pose is not finite, where the recorder had lost track"),
        ([path.name for path in twice], "second photos of a frame"),
    ):
        if names:
            listed = ", ".join(names[:_MOST_NAMES])
            more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
            warnings.warn(
                f"{root} has {len(names)} {why} ({listed}{more}), which are left out",
                CaptureWarning,
                stacklevel=2,
            )
    return views, _MILLIMETRES


def _folders(root: Path) -> list[Path]:
    return [root, *sorted(path for path in root.iterdir() if path.is_dir())]


def _photos(folder: Path) -> dict[str, list[Path]]:
    """Return the photos by the names of their frames; of a frame with several, PNG comes first."""
    photos: dict[str, list[Path]] = {}
    for photo in sorted(folder.glob("*.color.*"), key=lambda path: (path.suffix != ".png", path)):
        stem, _, suffix = photo.name.rpartition(".color.")
        if is_photo_suffix(f".{suffix}"):
            photos.setdefault(stem, []).append(photo)
    return dict(sorted(photos.items()))
