"""Takes sparse points from a COLMAP model beside a ``transforms.json``, if both mean one world."""

import os
import warnings
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from jax_gsplat_depth.datasets._capture import CaptureError, CaptureWarning
from jax_gsplat_depth.datasets._colmap import Model, read_model
from jax_gsplat_depth.datasets._geometry import camera_centers
from jax_gsplat_depth.datasets._paths import with_slashes
from jax_gsplat_depth.datasets._views import PosedPhoto

_SAME_WORLD_ANGLE = 0.02
_SAME_WORLD_DISTANCE = 0.01
"""Two poses are the same within this angle (radians) and distance (per spread of the cameras)."""


def points_of_same_world(
    folder: Path, root: Path, views: Sequence[PosedPhoto], from_model: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the points of a model if its poses are those of ``views``: they then fit as well.

    A damaged model, or one of another world, is no error, because nothing depends on it.

    Args:
        folder: Folder of the model.
        root: Folder of the ``transforms.json``.
        views: Photos of the ``transforms.json``.
        from_model: ``(4, 4)`` similarity from the world of the model to that of ``views``, if the
            file names one. The worlds may be the same all the same.

    Returns:
        Positions ``(P, 3)`` float64 in the world of ``views`` and colours ``(P, 3)`` uint8, or
        None, with a ``CaptureWarning`` that says why.
    """
    try:
        model = read_model(folder)
        found = _poses_of_both(model, root, views)
    except CaptureError as error:
        warnings.warn(f"the points of {folder} are not used: {error}", CaptureWarning, stacklevel=2)
        return None
    for similarity in (np.eye(4), from_model):
        if similarity is not None and _same(*found, similarity):
            points = model.points @ similarity[:3, :3].T + similarity[:3, 3]
            return points, model.colors
    warnings.warn(
        f"the points of {folder} are not used: its poses are not those of transforms.json",
        CaptureWarning,
        stacklevel=2,
    )
    return None


def _poses_of_both(
    model: Model, root: Path, views: Sequence[PosedPhoto]
) -> tuple[np.ndarray, np.ndarray]:
    """Return ``(M, 4, 4)`` world-to-camera poses of the photos that both know, from either."""
    poses = model.viewmats()
    # What is above the capture's folder differs from computer to computer.
    photos = [Path(os.path.relpath(view.photo, root)) for view in views]
    matched = match_paths(photos, list(poses))
    ours = [view.viewmat for view, name in zip(views, matched, strict=True) if name is not None]
    theirs = [poses[name] for name in matched if name is not None]
    return np.array(ours).reshape(-1, 4, 4), np.array(theirs).reshape(-1, 4, 4)


def _same(ours: np.ndarray, theirs: np.ndarray, similarity: np.ndarray) -> bool:
    """Return whether two cameras or more agree once the second world is moved to the first."""
    if len(ours) < 2:
        return False
    scale = np.cbrt(np.linalg.det(similarity[:3, :3]))
    turn = ours[:, :3, :3] @ (similarity[:3, :3] / scale) @ theirs[:, :3, :3].swapaxes(1, 2)
    cosine = (np.trace(turn, axis1=1, axis2=2) - 1) / 2
    eyes = camera_centers(ours)
    other_eyes = camera_centers(theirs) @ similarity[:3, :3].T + similarity[:3, 3]
    spread = np.linalg.norm(eyes - eyes.mean(axis=0), axis=1).max()
    distance = np.linalg.norm(eyes - other_eyes, axis=1).max()
    return bool(
        cosine.min() > np.cos(_SAME_WORLD_ANGLE) and distance <= _SAME_WORLD_DISTANCE * spread
    )


def match_paths(photos: Sequence[Path], names: Sequence[str]) -> list[str | None]:
    """Return for each photo the name that means it, or None.

    A name is a path in a folder that nobody states: it and the path of the photo agree from their
    ends to the beginning of the shorter one. Where several fit, the one that agrees longest means
    the photo; a name that several photos would get means none of them.
    """
    by_last = defaultdict(list)
    for name in names:
        parts = PurePosixPath(with_slashes(name)).parts
        by_last[parts[-1:]].append((parts, name))
    found = []
    for photo in photos:
        fitting = defaultdict(list)
        for parts, name in by_last[photo.parts[-1:]]:
            length = min(len(parts), len(photo.parts))
            if photo.parts[-length:] == parts[-length:]:
                fitting[length].append(name)
        longest = fitting[max(fitting)] if fitting else []
        found.append(longest[0] if len(longest) == 1 else None)
    uses = Counter(found)
    return [name if uses[name] == 1 else None for name in found]
