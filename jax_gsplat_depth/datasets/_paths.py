"""Finds the files that the files of a capture name; a name is a path, never only its last part."""

import unicodedata
from collections.abc import Iterator
from pathlib import Path

_PHOTO_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".PNG", ".JPG", ".JPEG"),
    *(".webp", ".tif", ".tiff", ".TIF", ".bmp", ".ppm", ".heic", ".HEIC"),
)
"""What Blender's files leave out of the names of photos."""


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
    """Return the path of a photo that a file in ``folder`` names, perhaps without its suffix."""
    exact = find_file(folder, name)
    if is_there(exact):
        return exact
    candidates = (find_file(folder, name + suffix) for suffix in _PHOTO_SUFFIXES)
    return next(filter(is_there, candidates), exact)


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
