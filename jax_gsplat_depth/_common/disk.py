"""Opens, locks and syncs files and folders, for what has to outlive a kill or a loss of power."""

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
"""How a folder is opened that must not be a link to one."""

_SYNCS = 8
"""Files that are synced at the same time."""

_NOT_SUPPORTED = (errno.EINVAL, errno.ENOTSUP)


@contextlib.contextmanager
def opened(path: str | Path, how: int = os.O_RDONLY, within: int | None = None) -> Iterator[int]:
    """Open a file or a folder and give its descriptor.

    Args:
        path: What to open.
        how: Flags of ``os.open``.
        within: Descriptor of the folder that a relative ``path`` starts from; None for the current
            one.
    """
    descriptor = os.open(path, how, dir_fd=within)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def sync(path: Path) -> None:
    """Wait until a file, or the list of the names in a folder, is on the disk."""
    with opened(path) as descriptor:
        sync_open(descriptor)


def sync_open(descriptor: int) -> None:
    """Wait as ``sync`` does, for what is open already."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot do it for folders.
        if error.errno not in _NOT_SUPPORTED:
            raise


def sync_tree(folder: Path) -> None:
    """Wait until a folder and everything below it is on the disk."""
    found = [(Path(path), names) for path, _, names in os.walk(folder, topdown=False)]
    # Disks do many at once in little more than the time of one.
    with ThreadPoolExecutor(_SYNCS) as pool:
        for _ in pool.map(sync, [path / name for path, names in found for name in names]):
            pass
    for path, _ in found:
        sync(path)


def lock(descriptor: int, *, wait: bool = True) -> bool:
    """Lock an open folder until it is closed, as far as its file system can.

    Args:
        descriptor: The folder.
        wait: Wait for other processes; else return False at once if one has the lock, or if there
            are no locks.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        return False
    return True
