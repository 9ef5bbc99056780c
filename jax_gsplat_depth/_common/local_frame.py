"""Moves cameras, points and Gaussians into a frame whose origin and unit suit them, and back.

Float32 has seven digits, and the near plane of the renderer is a number of units: a map with large
coordinates loses the digits, a scene in small units vanishes behind the plane. In a frame of its
own, it looks like every other scene.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from numpy.typing import ArrayLike

FAR = 64.0
"""Distance from the origin, relative to the size of a scene, where float32 loses too much."""

_HELD = 1024.0
"""Distance from the origin, in local units, up to which a file in float32 still holds a scene."""

_LARGEST_EXPONENT = 100
"""Of the power of two that a unit is, either way: the factors stay in the range of float32."""


@dataclasses.dataclass(frozen=True)
class LocalFrame:
    """A frame with the axes of the world: world = origin + unit * local.

    Attributes:
        origin: ``[3]`` float64, position of its zero in the world.
        unit: World units per local unit, a power of two, so that scaling by it rounds nothing.
    """

    origin: np.ndarray
    unit: float

    @classmethod
    def around(cls, center: ArrayLike, length: float, origin: ArrayLike = (0, 0, 0)) -> LocalFrame:
        """Return a frame in which a scene is near zero and of the order of 1.

        Args:
            center: ``[3]`` middle of the scene, relative to ``origin``.
            length: What is about 1 in the frame, world units, positive.
            origin: ``[3]`` of the numbers of the scene in the world; kept unless ``center`` is far
                from it.
        """
        unit = 2.0 ** np.clip(round(math.log2(length)), -_LARGEST_EXPONENT, _LARGEST_EXPONENT)
        center = np.asarray(center, np.float64)
        shift = center if np.linalg.norm(center) > FAR * unit else np.zeros(3)
        return cls(np.asarray(origin, np.float64) + shift, float(unit))

    @property
    def world_origin(self) -> np.ndarray:
        """``[3]`` float64 origin for numbers in world units: 0 where float32 holds them."""
        held = np.linalg.norm(self.origin) <= _HELD * self.unit
        return np.zeros(3) if held else self.origin

    def local_points(self, points: ArrayLike, origin: ArrayLike = (0, 0, 0)) -> np.ndarray:
        """Return ``[..., 3]`` float64 local positions of points that are relative to ``origin``."""
        shift = self.origin - np.asarray(origin, np.float64)
        return (np.asarray(points, np.float64) - shift) / self.unit

    def world_points(self, points: ArrayLike, origin: ArrayLike = (0, 0, 0)) -> np.ndarray:
        """Return ``[..., 3]`` float64 positions relative to ``origin`` of local points."""
        shift = self.origin - np.asarray(origin, np.float64)
        return np.asarray(points, np.float64) * self.unit + shift

    def local_viewmats(self, viewmats: np.ndarray) -> np.ndarray:
        """Return the ``[V, 4, 4]`` float64 local-to-camera poses of world-to-camera poses.

        The camera frame gets the local unit as well, so depths are in local units.
        """
        local = np.array(viewmats, np.float64)
        local[:, :3, 3] = (local[:, :3, 3] + local[:, :3, :3] @ self.origin) / self.unit
        return local

    def world_viewmats(self, viewmats: np.ndarray) -> np.ndarray:
        """Return ``[V, 4, 4]`` float64 world-to-camera poses, the inverse of ``local_viewmats``."""
        world = np.array(viewmats, np.float64)
        translations = world[:, :3, 3] * self.unit
        if self.origin.any():
            # Far from the origin, the rounding of a float32 rotation would move the camera.
            u, _, vt = np.linalg.svd(world[:, :3, :3])
            world[:, :3, :3] = u @ vt
        world[:, :3, 3] = translations - world[:, :3, :3] @ self.origin
        return world

    def world_lengths(self, lengths: np.ndarray) -> np.ndarray:
        """Return lengths, such as depths, in world units; the dtype stays."""
        return lengths * lengths.dtype.type(self.unit)
