"""Finds COLMAP models below a folder, and takes the one with the most photos where there are many.

COLMAP starts a new model in ``sparse/1``, ``sparse/2`` whenever photos do not fit to the first one,
which may remain a small one.
"""

import warnings
from pathlib import Path

from jax_gsplat_depth.datasets import _colmap_binary, _colmap_text
from jax_gsplat_depth.datasets._capture import CaptureError, CaptureWarning
from jax_gsplat_depth.datasets._paths import is_there

_PLACES = ("sparse", "colmap/sparse", "colmap", ".", "colmap_sparse", "colmap_text")
"""Where programs put models: COLMAP and 3DGS, nerfstudio, COLMAP's own, instant-ngp."""

_FILES = ("cameras", "images", "points3D")
_FORMS = {"bin": _colmap_binary, "txt": _colmap_text}
_UNREADABLE = -1


def find_model(root: Path) -> Path | None:
    """Return the folder of the COLMAP model below ``root``, or None if there is none.

    In the first place that has models, it is the one with the most photos, the first of these. A
    ``CaptureWarning`` names the others.
    """
    for place in _PLACES:
        models = [folder for folder in _numbered(root / place) if _has_cameras(folder)]
        if models:
            return _largest(root / place, models)
    return None


def form_of(folder: Path) -> str:
    """Return which form of the model in a folder is read, ``bin`` or ``txt``.

    It is the one that is complete; of two, the one with more photos, with a ``CaptureWarning``.
    """
    complete = [form for form in _FORMS if all(is_there(folder / f"{n}.{form}") for n in _FILES)]
    if len(complete) < 2:
        return next(iter(complete), "bin" if is_there(folder / "cameras.bin") else "txt")
    counts = {form: _count(folder, form) for form in complete}
    if len(set(counts.values())) == 1:
        return "bin"
    taken, other = sorted(counts, key=lambda form: -counts[form])
    warnings.warn(
        f"{folder} holds two models: that of {_described(f'.{taken}', counts[taken])} is taken, "
        f"not that of {_described(f'.{other}', counts[other])}",
        CaptureWarning,
        stacklevel=2,
    )
    return taken


def _numbered(place: Path) -> list[Path]:
    """Return the folders 0, 1, ... of a place in their order, and then the place itself."""
    if not place.is_dir():
        return []
    folders = [path for path in place.iterdir() if path.name.isdecimal() and path.is_dir()]
    return [*sorted(folders, key=lambda path: (int(path.name), path.name)), place]


def _has_cameras(folder: Path) -> bool:
    return any(is_there(folder / f"cameras.{form}") for form in _FORMS)


def _largest(place: Path, models: list[Path]) -> Path:
    if len(models) == 1:
        return models[0]
    counts = [max(_count(folder, form) for form in _FORMS) for folder in models]
    best = counts.index(max(counts))
    names = [
        _described("itself" if folder == place else folder.name, count)
        for folder, count in zip(models, counts, strict=True)
    ]
    warnings.warn(
        f"{place} holds {len(models)} models: {names[best]} is taken, not "
        f"{', '.join(names[:best] + names[best + 1 :])}",
        CaptureWarning,
        stacklevel=2,
    )
    return models[best]


def _count(folder: Path, form: str) -> int:
    """Return how many photos a model has; a damaged or an incomplete one has fewer than none."""
    if not all(is_there(folder / f"{name}.{form}") for name in _FILES):
        return _UNREADABLE
    try:
        return len(_FORMS[form].read_images(folder / f"images.{form}"))
    except CaptureError:
        return _UNREADABLE


def _described(name: str, count: int) -> str:
    return f"{name} ({'unreadable' if count == _UNREADABLE else f'{count} photos'})"
