"""Computes with pinhole cameras in NumPy: matrices, rigid poses, centres and projection.

Unless a name says otherwise, poses are world to camera with OpenCV axes (x right, y down, z
forward). Pixel centres lie at +0.5.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from jax_gsplat_depth._common.rotation import rotation_rows
from jax_gsplat_depth.datasets._capture import Capture, CaptureError

LARGEST = 1e30
"""Numbers beyond this count as infinite: their products leave the range of float32."""

_RIGID_TOLERANCE = 1e-2
"""Largest entry of R^T R - I that still counts as rounding in a text file."""

_LAST_ROW_TOLERANCE = 1e-3
"""Largest error of the last row of a pose, 0 0 0 1, that still counts as rounding."""


def pinhole_matrix(fx: float, fy: float, cx: float, cy: float) -> np.ndarray:
    """Return the ``(3, 3)`` matrix of a pinhole camera, in the unit of its arguments."""
    return np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])


def pinhole(fx: float, fy: float, cx: float, cy: float, *, where: str) -> np.ndarray:
    """Return the ``(3, 3)`` matrix of a pinhole camera that a file describes.

    Args:
        fx: Focal length in pixels, like the other three.
        fy: Focal length.
        cx: Principal point.
        cy: Principal point.
        where: Opens the error message: the place in the file.

    Raises:
        CaptureError: A number is not finite, or a focal length is not positive.
    """
    if not (np.abs([fx, fy, cx, cy]) < LARGEST).all() or min(fx, fy) < 1 / LARGEST:
        raise CaptureError(
            f"{where} has focal lengths {fx:g}, {fy:g} and principal point {cx:g}, {cy:g}: "
            "expected finite numbers and positive focal lengths"
        )
    return pinhole_matrix(fx, fy, cx, cy)


def scaled_pinhole(Ks: np.ndarray, x: float, y: float) -> np.ndarray:
    """Return ``(..., 3, 3)`` pinhole matrices for images with ``x`` and ``y`` times the pixels."""
    # Pixel centres lie at +0.5, so positions scale about the corner of the image.
    return Ks * np.array([[x], [y], [1.0]])


def rigid(rotation: np.ndarray, translation: np.ndarray, *, where: str) -> np.ndarray:
    """Return the ``(4, 4)`` pose that a file describes, with the nearest rotation.

    Args:
        rotation: ``(3, 3)``, orthonormal up to the rounding of a text file.
        translation: ``(3,)``.
        where: Opens the error message: the place in the file.

    Raises:
        CaptureError: A number is not finite, or the 3x3 part is no rotation.
    """
    if not ((np.abs(rotation) < LARGEST).all() and (np.abs(translation) < LARGEST).all()):
        raise CaptureError(f"{where} has a pose that is not finite (NaN or infinity)")
    off = np.abs(rotation.T @ rotation - np.eye(3)).max()
    if off > _RIGID_TOLERANCE or np.linalg.det(rotation) < 0:
        raise CaptureError(
            f"{where} has a pose whose 3x3 part is not a rotation "
            "(expected orthonormal columns and determinant +1)"
        )
    u, _, vt = np.linalg.svd(rotation)
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = u @ vt, translation
    return pose


def rigid_of(matrix: np.ndarray, *, where: str) -> np.ndarray:
    """Return the ``(4, 4)`` pose whose four rows a file has; see ``rigid``.

    Raises:
        CaptureError: As ``rigid``, or the last row is not 0 0 0 1 up to rounding.
    """
    pose = rigid(matrix[:3, :3], matrix[:3, 3], where=where)
    if not (np.abs(matrix[3] - [0, 0, 0, 1]) <= _LAST_ROW_TOLERANCE).all():
        raise CaptureError(f"{where} has a pose whose last row is not 0 0 0 1")
    return pose


def rotation_matrix(quat: np.ndarray) -> np.ndarray:
    """Return the ``(3, 3)`` rotation of a unit quaternion ``(4,)``, wxyz."""
    return np.array(rotation_rows(*quat))


def inverted(pose: np.ndarray) -> np.ndarray:
    """Return the inverse of a rigid ``(4, 4)`` pose: world to camera from camera to world."""
    inverse = np.eye(4)
    inverse[:3, :3] = pose[:3, :3].T
    inverse[:3, 3] = -pose[:3, :3].T @ pose[:3, 3]
    return inverse


def poses_at(centers: np.ndarray, rotations: np.ndarray) -> np.ndarray:
    """Return the poses ``(V, 4, 4)`` of cameras at world positions.

    Args:
        centers: ``(V, 3)`` world frame.
        rotations: ``(V, 3, 3)`` from world axes to camera axes.
    """
    viewmats = np.tile(np.eye(4), (len(centers), 1, 1))
    viewmats[:, :3, :3] = rotations
    viewmats[:, :3, 3] = -np.einsum("vij,vj->vi", rotations, centers)
    return viewmats


def camera_centers(viewmats: np.ndarray) -> np.ndarray:
    """Return the positions ``(V, 3)`` of cameras ``(V, 4, 4)``, world frame."""
    return -np.einsum("vji,vj->vi", viewmats[:, :3, :3], viewmats[:, :3, 3])


def project_points(
    points: np.ndarray, viewmat: np.ndarray, K: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Project ``(P, 3)`` world points into a camera.

    Args:
        points: World frame.
        viewmat: ``(4, 4)`` world to camera.
        K: ``(3, 3)`` pixels.
        size: Width and height of the image, pixels.

    Returns:
        Pixels ``(P, 2)``, depths ``(P,)``, and ``(P,)`` bool, True for points in front of the
        camera and inside of the image.
    """
    camera = points @ viewmat[:3, :3].T + viewmat[:3, 3]
    depths = camera[:, 2]
    # A depth of 1 keeps points behind the camera finite; they are not inside.
    safe = np.where(depths > 0, depths, 1.0)[:, None]
    pixels = camera[:, :2] / safe * [K[0, 0], K[1, 1]] + [K[0, 2], K[1, 2]]
    inside = (depths > 0) & (pixels >= 0).all(axis=1) & (pixels < size).all(axis=1)
    return pixels, depths, inside


@dataclasses.dataclass(frozen=True)
class PosedViews:
    """``T`` photos with the cameras that took them, as NumPy arrays.

    Attributes:
        images: ``(T, H, W, 3)`` uint8.
        viewmats: ``(T, 4, 4)`` float64, world to camera.
        Ks: ``(T, 3, 3)`` float64, pixels.
        masks: ``(T, H, W)`` bool, True where the pixel counts; None if all do.
    """

    images: np.ndarray
    viewmats: np.ndarray
    Ks: np.ndarray
    masks: np.ndarray | None = None

    @classmethod
    def training(cls, capture: Capture) -> PosedViews:
        """Select the training views of a capture."""
        train = capture.train_indices
        viewmats = capture.viewmats[train].astype(np.float64)
        Ks = capture.Ks[train].astype(np.float64)
        masks = None if capture.masks is None else capture.masks[train]
        return cls(capture.images[train], viewmats, Ks, masks)

    def __len__(self) -> int:
        """Return T."""
        return len(self.images)

    @property
    def centers(self) -> np.ndarray:
        """Camera positions ``(T, 3)``, world frame."""
        return camera_centers(self.viewmats)

    @property
    def axes(self) -> np.ndarray:
        """Unit vectors ``(T, 3)`` along which the cameras look, world frame."""
        return self.viewmats[:, 2, :3]

    @property
    def focal(self) -> float:
        """Median focal length in pixels."""
        return float(np.median(self.Ks[:, [0, 1], [0, 1]]))

    def project(self, view: int, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Project ``(P, 3)`` world points into a view; see ``project_points``."""
        height, width = self.images.shape[1:3]
        return project_points(points, self.viewmats[view], self.Ks[view], (width, height))

    def back_project(self, view: int, pixels: np.ndarray, depths: np.ndarray) -> np.ndarray:
        """Return the world points ``(P, 3)`` at pixels ``(P, 2)`` and depths ``(P,)`` of a view."""
        K, viewmat = self.Ks[view], self.viewmats[view]
        rays = (pixels - [K[0, 2], K[1, 2]]) / [K[0, 0], K[1, 1]]
        camera = np.concatenate([rays, np.ones((len(rays), 1))], axis=1) * depths[:, None]
        return (camera - viewmat[:3, 3]) @ viewmat[:3, :3]

    def colors(self, view: int, pixels: np.ndarray) -> np.ndarray:
        """Return RGB ``(P, 3)``, 0..1, of the pixels in which positions ``(P, 2)`` lie."""
        columns, rows = pixels.astype(np.int64).T
        return self.images[view, rows, columns] / 255.0
