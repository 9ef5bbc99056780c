"""Reads a COLMAP model, binary or text: cameras, poses and sparse points."""

import dataclasses
from pathlib import Path

import numpy as np

from jax_gsplat_depth.datasets import _colmap_binary, _colmap_text
from jax_gsplat_depth.datasets._capture import CaptureError
from jax_gsplat_depth.datasets._colmap_models import form_of
from jax_gsplat_depth.datasets._colmap_records import ColmapCamera, ColmapImage, is_unit
from jax_gsplat_depth.datasets._geometry import LARGEST, pinhole, rigid, rotation_matrix
from jax_gsplat_depth.datasets._paths import find_file, find_photo, is_there, tell_other_suffixes
from jax_gsplat_depth.datasets._resized import as_stored
from jax_gsplat_depth.datasets._views import PosedPhoto

_PINHOLE_PARAMS: dict[str, tuple[tuple[int, ...], int, int]] = {
    "SIMPLE_PINHOLE": ((0, 0, 1, 2), 0, 0),
    "PINHOLE": ((0, 1, 2, 3), 0, 0),
    "SIMPLE_RADIAL": ((0, 0, 1, 2), 1, 0),
    "RADIAL": ((0, 0, 1, 2), 2, 0),
    "OPENCV": ((0, 1, 2, 3), 4, 0),
    "FULL_OPENCV": ((0, 1, 2, 3), 8, 0),
    "FOV": ((0, 1, 2, 3), 1, 0),
    "SIMPLE_DIVISION": ((0, 0, 1, 2), 1, 0),
    "DIVISION": ((0, 1, 2, 3), 1, 0),
    "EUCM": ((0, 1, 2, 3), 1, 1),
}
"""Parameters that are fx, fy, cx and cy, number of lens terms after them, and of parameters after
these that mean nothing where the terms are 0, by camera model.

These are the models that are a pinhole camera where all terms are 0, which fisheye models are not.
The term of EUCM is alpha; its beta only counts with it.
"""


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
        views = [
            PosedPhoto(
                photo=find_photo(photos, image.name),
                mask=_mask(masks, image.name) if masks.is_dir() else None,
                size=self._camera(image).size,
                viewmat=self._viewmat(image),
                K=self._intrinsics(image),
            )
            for image in self.images
        ]
        names = [image.name for image in self.images]
        tell_other_suffixes(self.folder, names, [view.photo for view in views])
        return as_stored(self.folder, views)

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
        if camera.model not in _PINHOLE_PARAMS:
            raise CaptureError(
                f"{where} is {camera.model}, which is not a pinhole model (PINHOLE or "
                "SIMPLE_PINHOLE), so the photos must be undistorted first"
            )
        names, n_terms, n_more = _PINHOLE_PARAMS[camera.model]
        n_pinhole = max(names) + 1
        n_params = n_pinhole + n_terms + n_more
        if len(camera.params) != n_params:
            raise CaptureError(
                f"{where} has {len(camera.params)} parameters: {camera.model} has {n_params}"
            )
        if any(camera.params[n_pinhole : n_pinhole + n_terms]):
            raise CaptureError(
                f"{where} is {camera.model} with lens terms that are not 0, so the photos must be "
                "undistorted first"
            )
        return pinhole(*(camera.params[i] for i in names), where=where)


def _mask(masks: Path, name: str) -> Path | None:
    """Return the mask of a photo: COLMAP adds ``.png`` to its name, others replace its suffix."""
    names = (f"{name}.png", f"{name.rpartition('.')[0] or name}.png")
    return next(filter(is_there, (find_file(masks, each) for each in names)), None)


def read_model(folder: Path) -> Model:
    """Read ``cameras``, ``images`` and ``points3D``, all ``.bin`` or all ``.txt``."""
    suffix = form_of(folder)
    paths = [folder / f"{name}.{suffix}" for name in ("cameras", "images", "points3D")]
    for path in paths:
        if not is_there(path):
            raise CaptureError(f"{path} is missing: expected a complete COLMAP model")
    form = _colmap_binary if suffix == "bin" else _colmap_text
    cameras, images = form.read_cameras(paths[0]), form.read_images(paths[1])
    points, colors = form.read_points(paths[2])
    finite = (np.abs(points) < LARGEST).all(axis=1)
    return Model(folder, cameras, images, points[finite], colors[finite])
