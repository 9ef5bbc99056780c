"""Follows photos that were resized after a program had found their cameras."""

import dataclasses
import warnings
from collections.abc import Sequence
from pathlib import Path

from jax_gsplat_depth.datasets._capture import CaptureWarning
from jax_gsplat_depth.datasets._geometry import scaled_pinhole
from jax_gsplat_depth.datasets._paths import is_there
from jax_gsplat_depth.datasets._pictures import picture_size
from jax_gsplat_depth.datasets._views import PosedPhoto

_LEAST = 1.1
"""Factor from which another size is taken for another resolution; what differs less was cut."""


def as_stored(source: Path, views: Sequence[PosedPhoto]) -> list[PosedPhoto]:
    """Return the views with the sizes of their photos and intrinsics for these.

    A photo of another shape than its camera is left as it is, to be refused when it is read.

    Args:
        source: Where the cameras come from, for the ``CaptureWarning`` about resized photos.
        views: Photos of pinhole cameras.
    """
    found = [_as_stored(view) for view in views]
    resized = [(old, new) for old, new in zip(views, found, strict=True) if old is not new]
    if resized:
        old, new = resized[0]
        sizes = (f"{width}x{height}" for width, height in (new.size, old.size))
        warnings.warn(
            f"{len(resized)} photos are of another resolution than their cameras in {source} "
            f"({new.photo.name} is {' and its camera for '.join(sizes)}): the intrinsics are "
            "scaled to the photos",
            CaptureWarning,
            stacklevel=2,
        )
    return found


def _as_stored(view: PosedPhoto) -> PosedPhoto:
    if not is_there(view.photo):
        return view
    width, height = picture_size(view.photo)
    x, y = width / max(view.size[0], 1), height / max(view.size[1], 1)
    # A size that was divided is off by less than a pixel.
    same_shape = abs(height - x * view.size[1]) < 1 or abs(width - y * view.size[0]) < 1
    if not same_shape or 1 / _LEAST < x < _LEAST:
        return view
    return dataclasses.replace(view, size=(width, height), K=scaled_pinhole(view.K, x, y))
