"""Defines the records of COLMAP models, which their binary and their text form share."""

import dataclasses
from pathlib import Path

import numpy as np

from jax_gsplat_depth.datasets._capture import CaptureError


@dataclasses.dataclass(frozen=True)
class ColmapCamera:
    """A camera: the name of its model, its width and height, and the parameters of the model."""

    model: str
    size: tuple[int, int]
    params: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class ColmapImage:
    """A registered photo: its name, the camera, and the pose from world to camera (wxyz)."""

    name: str
    camera_id: int
    quat: tuple[float, ...]
    translation: tuple[float, ...]


def is_unit(quat: tuple[float, ...]) -> bool:
    """Return whether a quaternion has the length 1, up to the rounding of a text file."""
    return bool(abs(np.linalg.norm(quat) - 1.0) <= 0.01)


def refuse_second(path: Path, camera_id: int, cameras: dict[int, ColmapCamera]) -> None:
    """Raise a CaptureError if a file has two cameras of one id."""
    if camera_id in cameras:
        raise CaptureError(f"{path} lists camera {camera_id} twice: expected every camera once")
