"""Reads COLMAP models, binary and text: cameras, poses and sparse points."""

import dataclasses
from pathlib import Path

import numpy as np

from jax_gsplat_depth.datasets import _colmap_binary, _colmap_text
from jax_gsplat_depth.datasets._capture import CaptureError
from jax_gsplat_depth.datasets._colmap_records import ColmapCamera, ColmapImage, is_unit
from jax_gsplat_depth.datasets._geometry import LARGEST, pinhole, rigid, rotation_matrix
from jax_gsplat_depth.datasets._paths import find_file, is_there
from jax_gsplat_depth.datasets._views import PosedPhoto


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
    cameras: dict[int, ColmapCamera]
    images: list[ColmapImage]
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

    def _camera(self, image: ColmapImage) -> ColmapCamera:
        if image.camera_id not in self.cameras:
            raise CaptureError(
                f"{self.folder}: photo {image.name} has camera {image.camera_id}, "
                "which the cameras file does not hold"
            )
        return self.cameras[image.camera_id]

    def _viewmat(self, image: ColmapImage) -> np.ndarray:
        where = f"{self.folder}: photo {image.name}"
        quat = np.array(image.quat)
        if not (np.abs(quat) < LARGEST).all():
            raise CaptureError(f"{where} has a pose that is not finite (NaN or infinity)")
        if not is_unit(image.quat):
            raise CaptureError(f"{where} has a pose that is not a rotation: expected |q| = 1")
        rotation = rotation_matrix(quat / np.linalg.norm(quat))
        return rigid(rotation, np.array(image.translation), where=where)

    def _intrinsics(self, image: ColmapImage) -> np.ndarray:
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
    form = _colmap_binary if suffix == "bin" else _colmap_text
    cameras, images = form.read_cameras(paths[0]), form.read_images(paths[1])
    points, colors = form.read_points(paths[2])
    finite = (np.abs(points) < LARGEST).all(axis=1)
    return Model(folder, cameras, images, points[finite], colors[finite])
