"""Finds the files that the files of a capture name; a name is a path, never only its last part."""

import unicodedata
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from jax_gsplat_depth.datasets._capture import CaptureWarning

_PHOTO_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".PNG", ".JPG", ".JPEG"),
    *(".webp", ".tif", ".tiff", ".TIF", ".bmp", ".ppm", ".heic", ".HEIC"),
    *(".WEBP", ".TIFF", ".BMP", ".PPM", ".heif", ".hif"),
)
"""What Blender's files leave out of the names of photos, and programs that convert them change."""


def is_there(path: Path) -> bool:
    """Return whether something other than a folder has this path; False if nothing can have it.

    A FIFO is there: opening it says what is wrong with it, not that it is missing.
    """
    try:
        return path.exists() and not path.is_dir()
    except (OSError, ValueError):
        return False


def find_file(folder: Path, name: str) -> Path:
    """Return the path of a file that a file in ``folder`` names, whether it exists or not.

    Where there is no file of exactly this name, that of another spelling is taken: with the folders
    separated as on Windows, or with accents as other systems store them.
    """
    return next(filter(is_there, _spellings(folder, name)), folder / name)


def find_photo(folder: Path, name: str) -> Path:
    """Return the path of a photo that a file in ``folder`` names.

    The name may lack its suffix. Where it has one and there is no such file, the photo with another
    suffix is taken if there is exactly one: photos are often converted.
    """
    exact = find_file(folder, name)
    if is_there(exact):
        return exact
    candidates = (find_file(folder, name + suffix) for suffix in _PHOTO_SUFFIXES)
    if (found := next(filter(is_there, candidates), None)) is not None:
        return found
    stem, dot, suffix = name.rpartition(".")
    if not is_photo_suffix(dot + suffix):
        return exact
    others = filter(is_there, (find_file(folder, stem + other) for other in _PHOTO_SUFFIXES))
    # Some file systems find one file by names in capitals and in small letters.
    distinct = {(path.stat().st_dev, path.stat().st_ino): path for path in others}
    return next(iter(distinct.values())) if len(distinct) == 1 else exact


def is_photo_suffix(suffix: str) -> bool:
    """Return whether photos have this suffix, which begins with a dot."""
    return suffix.lower() in _PHOTO_SUFFIXES


def tell_other_suffixes(source: Path, names: Iterable[str], photos: Iterable[Path]) -> None:
    """Warn, in one sentence, of photos that have other suffixes than ``source`` names."""
    other = [
        (name, photo)
        for name, photo in zip(names, photos, strict=True)
        if is_photo_suffix(suffix := PurePosixPath(with_slashes(name)).suffix)
        and suffix.lower() != photo.suffix.lower()
    ]
    if other:
        name, photo = other[0]
        more = f" and {len(other) - 1} more" if len(other) > 1 else ""
        warnings.warn(
            f"{source} names {name[:80]}{more}, which is missing: {photo.name} is taken in its "
            "place",
            CaptureWarning,
            stacklevel=2,
        )


def with_slashes(name: str) -> str:
    """Return a path with the separators of every system but Windows."""
    return name.replace("\\", "/")


def _spellings(folder: Path, name: str) -> Iterator[Path]:
    yield folder / name
    if name.isascii() and "\\" not in name:
        return
    for spelled in (name, with_slashes(name)):
        for form in ("NFC", "NFD"):
            yield folder / unicodedata.normalize(form, spelled)
