"""Reads RGB-D recordings in the layout of TUM: lists of files and poses by time stamps.

``rgb.txt`` and ``depth.txt`` have lines ``TIME FILE``, ``groundtruth.txt`` has lines
``TIME tx ty tz qx qy qz qw`` (camera to world, OpenCV axes, metres; seconds). The three were taken
at different times: what belongs together is nearest in time, as in the tools of the collection.
"""

import warnings
from pathlib import Path

import numpy as np

from jax_gsplat_depth.datasets._capture import CaptureError, CaptureWarning
from jax_gsplat_depth.datasets._colmap_records import is_unit
from jax_gsplat_depth.datasets._depth_maps import DepthUnits
from jax_gsplat_depth.datasets._geometry import inverted, rigid, rotation_matrix
from jax_gsplat_depth.datasets._paths import find_file, find_photo, is_there, tell_other_suffixes
from jax_gsplat_depth.datasets._pictures import picture_size
from jax_gsplat_depth.datasets._recorded import recorded_pinhole
from jax_gsplat_depth.datasets._text_files import number_of, read_text
from jax_gsplat_depth.datasets._views import PosedPhoto

_PHOTOS, _DEPTHS, _POSES = "rgb.txt", "depth.txt", "groundtruth.txt"

_STEPS = DepthUnits(step=1 / 5000)
"""Metres per step of the depth maps."""

_FOCAL = 525.0
"""Focal length, in pixels of 640x480, of the default camera.

The collection recommends it for all sequences, since the depth maps were made with it. Its
principal point, 319.5 and 239.5 with pixel centres at whole numbers, is the middle of the photo.
"""

_SAME_TIME = 0.02
"""Seconds by which what belongs together may differ."""


def is_tum(root: Path) -> bool:
    """Return whether a folder has the list of photos of this layout."""
    return is_there(root / _PHOTOS)


def read_tum(root: Path) -> tuple[list[PosedPhoto], DepthUnits]:
    """Read the cameras of a recording.

    Returns:
        The views in the order of the list, and the unit of their depth maps. Photos without a pose
        within 0.02 s, or with one that is not finite, are left out with a ``CaptureWarning``.
    """
    times, names = _files(root / _PHOTOS)
    pose_times, poses, lines = _poses(root / _POSES)
    depth_times, depths = np.zeros(0), []
    if is_there(root / _DEPTHS):
        depth_times, depths = _files(root / _DEPTHS)
    pose_of, depth_of = _associated(times, pose_times), _associated(times, depth_times)
    with_pose = [i for i in range(len(times)) if pose_of[i] >= 0]
    kept = [i for i in with_pose if np.isfinite(poses[pose_of[i]]).all()]
    _tell_left_out(root, len(times), len(with_pose), len(kept))
    photos = [find_photo(root, names[i]) for i in kept]
    tell_other_suffixes(root / _PHOTOS, [names[i] for i in kept], photos)
    sizes = [picture_size(photo) for photo in photos]
    K = recorded_pinhole([root], sizes[0], _FOCAL, "TUM") if kept else np.eye(3)
    views = [
        PosedPhoto(
            photo=photo,
            size=size,
            viewmat=_viewmat(poses[pose_of[i]], f"{root / _POSES}, line {lines[pose_of[i]]}"),
            K=K,
            depth=find_file(root, depths[depth_of[i]]) if depth_of[i] >= 0 else None,
        )
        for i, photo, size in zip(kept, photos, sizes, strict=True)
    ]
    return views, _STEPS


def _tell_left_out(root: Path, n_photos: int, n_with_pose: int, n_kept: int) -> None:
    parts = []
    if n_with_pose < n_photos:
        count = n_photos - n_with_pose
        parts.append(f"{count} photos without a pose of {_POSES} within {_SAME_TIME:g} s")
    if n_kept < n_with_pose:
        parts.append(f"{n_with_pose - n_kept} photos with a pose that is not finite")
    if parts:
        warnings.warn(
            f"{root} has {n_photos} photos; left out are {' and '.join(parts)}",
            CaptureWarning,
            stacklevel=2,
        )


def _rows(path: Path, expected: str) -> list[tuple[int, list[str]]]:
    """Return number and words of the lines that are not comments; a name may have blanks."""
    try:
        text = read_text(path)
    except FileNotFoundError:
        raise CaptureError(f"{path} is missing: expected lines {expected}") from None
    except OSError as error:
        raise CaptureError(f"{path} cannot be opened ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise CaptureError(f"{path} is not a text file: expected lines {expected}") from error
    lines = ((number, line.strip()) for number, line in enumerate(text.split("\n"), start=1))
    most = len(expected.split()) - 1
    return [
        # Tables of other programs have commas.
        (number, line.replace(",", " ").split(maxsplit=most))
        for number, line in lines
        if line and not line.startswith("#")
    ]


def _broken(path: Path, number: int, expected: str) -> CaptureError:
    return CaptureError(f"{path}, line {number} is broken: expected {expected}")


def _files(path: Path) -> tuple[np.ndarray, list[str]]:
    """Return the ``(F,)`` times of the files that a list names, and their names."""
    expected = "TIME FILE"
    times, names = [], []
    for number, words in _rows(path, expected):
        try:
            time, name = words
            times.append(float(time))
            names.append(name.strip())
        except ValueError:
            raise _broken(path, number, expected) from None
        if not np.isfinite(times[-1]):
            raise _broken(path, number, expected)
    return np.array(times), names


def _poses(path: Path) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Return ``(P,)`` times, ``(P, 7)`` positions and quaternions (xyzw), and numbers of lines."""
    expected = "TIME tx ty tz qx qy qz qw"
    rows, lines = [], []
    for number, words in _rows(path, expected):
        try:
            row = [number_of(word) for word in words]
        except ValueError:
            raise _broken(path, number, expected) from None
        if len(row) != 8 or not np.isfinite(row[0]):
            raise _broken(path, number, expected)
        rows.append(row)
        lines.append(number)
    table = np.array(rows).reshape(-1, 8)
    return table[:, 0], table[:, 1:], lines


def _associated(times: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return for each of ``(F,)`` times the index of the nearest other, each once, or -1."""
    found = np.full(len(times), -1)
    if len(others) == 0 or len(times) == 0:
        return found
    order = np.argsort(others, kind="stable")
    ordered = others[order]
    after = np.clip(np.searchsorted(ordered, times), 0, len(others) - 1)
    before = np.maximum(after - 1, 0)
    gap_before, gap_after = np.abs(times - ordered[before]), np.abs(times - ordered[after])
    nearest = np.where(gap_before < gap_after, before, after)
    gaps = np.minimum(gap_before, gap_after)
    taken = set()
    for i in np.argsort(gaps, kind="stable"):
        # The decimals of stamps are not exact in binary.
        if gaps[i] <= _SAME_TIME + 1e-6 and nearest[i] not in taken:
            taken.add(nearest[i])
            found[i] = order[nearest[i]]
    return found


def _viewmat(row: np.ndarray, where: str) -> np.ndarray:
    x, y, z, qx, qy, qz, qw = row
    quat = (qw, qx, qy, qz)
    if not is_unit(quat):
        raise CaptureError(f"{where} has a pose that is not a rotation: expected |q| = 1")
    rotation = rotation_matrix(np.array(quat) / np.linalg.norm(quat))
    return inverted(rigid(rotation, np.array([x, y, z]), where=where))
