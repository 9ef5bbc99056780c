"""Makes hidden folders that a later run removes if this one is killed.

What is not complete lies in them, under any name, so that no name gets longer on the way. A folder
is locked as long as its process uses it, and the system drops the locks of a process that ends,
however it ends: a folder that can be locked was left behind. On file systems without locks nothing
counts as left behind.
"""

import contextlib
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from jax_gsplat_depth._common.disk import FOLDER, lock, opened, sync

PREFIX = ".jax-gsplat-depth-"
"""Start of the names of our hidden folders."""


def tag_of(target: Path) -> str:
    """Return what the names of the hidden folders beside a target have in common."""
    name = os.path.basename(os.path.abspath(target))
    return hashlib.sha256(os.fsencode(name)).hexdigest()[:8] + "-"


@contextlib.contextmanager
def scratch_folder(parent: Path, tag: str = "") -> Iterator[Path]:
    """Make a hidden folder for this process; it is removed at the end, unless it was renamed.

    Args:
        parent: Where to make it.
        tag: Distinguishes it for ``clear_scratch``.

    Raises:
        OSError: It cannot be made.
    """
    path, descriptor = _locked_folder(parent, tag)
    try:
        yield path
    finally:
        os.close(descriptor)
        shutil.rmtree(path, ignore_errors=True)


def clear_scratch(parent: Path, tag: str = "") -> None:
    """Remove the hidden folders that killed processes have left, and no others."""
    for path in parent.glob(f"{PREFIX}{tag}*"):
        # What is no folder, or gone by now, is not ours.
        with contextlib.suppress(OSError), opened(path, FOLDER) as descriptor:
            if lock(descriptor, wait=False):
                shutil.rmtree(path, ignore_errors=True)


def in_use(folder: Path) -> bool:
    """Return whether a process uses a hidden folder in ``folder``, or might: without locks any."""
    for path in folder.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError), opened(path, FOLDER) as descriptor:
            if not lock(descriptor, wait=False):
                return True
    return False


def discard(folder: Path) -> None:
    """Remove a folder: after a kill on the way it is whole, or hidden and left behind.

    Raises:
        OSError: There is no such folder, or no permission.
    """
    hidden = folder.with_name(_new_name())
    os.rename(folder, hidden)
    sync(folder.parent)
    shutil.rmtree(hidden, ignore_errors=True)


def _locked_folder(parent: Path, tag: str) -> tuple[Path, int]:
    while True:
        path = parent / _new_name(tag)
        path.mkdir()
        # Before it is locked another process may take it for one that was left behind.
        with contextlib.suppress(FileNotFoundError):
            descriptor = os.open(path, FOLDER)
            lock(descriptor)
            if path.exists():
                return path, descriptor
            os.close(descriptor)


def _new_name(tag: str = "") -> str:
    return f"{PREFIX}{tag}{secrets.token_hex(6)}"
