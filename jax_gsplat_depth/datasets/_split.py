"""Divides the photos of a ``transforms.json`` by the lists of file names that it may have.

These are nerfstudio's ``train_filenames``, ``val_filenames`` and ``test_filenames``.
"""

import dataclasses
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jax_gsplat_depth.datasets._capture import CaptureError, CaptureWarning
from jax_gsplat_depth.datasets._keys import SPLITS
from jax_gsplat_depth.datasets._paths import find_photo
from jax_gsplat_depth.datasets._views import PosedPhoto


def divided(path: Path, data: Mapping[str, Any], views: Sequence[PosedPhoto]) -> list[PosedPhoto]:
    """Return the views that the lists name, held out or not.

    Held out are the photos of ``test_filenames``, or of ``val_filenames`` if there are none. Those
    of ``train_filenames`` are trained on; where the file has no such list, all that no other list
    names. Where it has only this list, the rest is held out. A file without lists leaves the views
    as they are.

    Args:
        path: The file.
        data: Its content.
        views: Its views.

    Raises:
        CaptureError: A list is none, or names a photo that no frame has.
    """
    by_photo = {os.path.normpath(view.photo): i for i, view in enumerate(views)}
    lists = {key: _views_of(path, data[key], key, by_photo) for key in SPLITS if key in data}
    if not lists:
        return list(views)
    everything = set(range(len(views)))
    train, val, test = (lists.get(key) for key in SPLITS)
    evaluated = (val or set()) | (test or set())
    if val is None and test is None:
        held_out = everything - (train or set())
    else:
        held_out = test or val or set()
    if train is None:
        train = everything - evaluated
    if both := train & held_out:
        warnings.warn(
            f"{path} lists {len(both)} photos as both for training and for evaluation: they are "
            "held out",
            CaptureWarning,
            stacklevel=2,
        )
    if left_out := everything - train - held_out:
        warnings.warn(
            f"{path} lists {len(left_out)} of its photos neither for training nor as those to hold "
            "out: they are left out",
            CaptureWarning,
            stacklevel=2,
        )
    return [
        dataclasses.replace(view, held_out=i in held_out)
        for i, view in enumerate(views)
        if i not in left_out
    ]


def _views_of(path: Path, names: Any, key: str, by_photo: Mapping[str, int]) -> set[int]:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise CaptureError(f"{path} has {key} that is no list of file names")
    found = set()
    for name in names:
        photo = os.path.normpath(find_photo(path.parent, name))
        if photo not in by_photo:
            raise CaptureError(f"{path} lists {name[:80]!r} in {key}: expected a photo of a frame")
        found.add(by_photo[photo])
    return found
