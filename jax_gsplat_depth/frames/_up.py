"""Finds the upward direction of a world from the cameras in it."""

import numpy as np

_NO_MEAN = 0.1
"""Directions whose mean is shorter than this have none."""

_SPREAD = 0.2
"""Least spread of horizontal sides, relative to the largest, that determines their plane."""

_NEAR_MEAN = 0.5
"""Least cosine between the two estimates of the upward direction: they are to agree roughly."""


def up_of(viewmats: np.ndarray) -> np.ndarray:
    """Return the direction ``[3]`` away from the ground that cameras suggest, of length 1.

    It is the mean of the upward directions of the images, made perpendicular to their horizontal
    sides as far as these differ: people hold cameras level, but point them down. Cameras that have
    no such mean, as those of a drone that looks down in all headings, are above what they look at.

    Args:
        viewmats: ``[V, 4, 4]``, world to camera, OpenCV axes, at least one.
    """
    rotations = np.asarray(viewmats, np.float64)[:, :3, :3]
    mean = -rotations[:, 1].mean(axis=0)
    if np.linalg.norm(mean) < _NO_MEAN:
        mean = -rotations[:, 2].mean(axis=0)
    if np.linalg.norm(mean) < _NO_MEAN:
        mean = -rotations[0, 1]
    mean = mean / np.linalg.norm(mean)
    # The level side of a portrait photo that was not turned is the other one.
    sides = rotations[:, :2]
    level = np.abs(sides @ mean).argmin(axis=1)
    _, spread, axes = np.linalg.svd(sides[np.arange(len(sides)), level])
    if len(spread) < 3 or spread[1] < _SPREAD * spread[0]:
        return mean
    normal = axes[2] * np.sign(axes[2] @ mean)
    return normal if normal @ mean > _NEAR_MEAN else mean
