"""Moves a finished result into a folder so that a kill at any time can be made good.

The order of the steps:

1. The result lies in a scratch folder on the disk of the target (``scratch``) and is synced. If the
   target exists, a list of the earlier files that go is added and synced.
2. The scratch folder is renamed: to the target, if that does not exist, and all is done; else to
   ``READY`` in the target. The folder that has the name is synced. From here on the result counts.
3. Its files are renamed into the target, over earlier ones, ``metrics.json`` excepted; every
   folder that got one is synced.
4. The earlier files that go are deleted, with the folders that this empties; every folder that
   lost something is synced, and the target.
5. ``metrics.json`` is renamed and the target synced.
6. ``READY`` is removed.

After a kill before step 2 the target is as it was, and the next run removes the scratch folder. If
there is a ``READY``, the next run does steps 3 to 6, each of which can be done again. Processes
that are at it at the same time wait for each other.

Below the target no link is followed. One in the place of a folder or a file is replaced if the
earlier result lists it; else it is the user's, and refused before anything changes.
"""

import contextlib
import errno
import json
import os
import shutil
import stat
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path, PurePosixPath

from jax_gsplat_depth._common.disk import FOLDER, lock, opened, sync, sync_open, sync_tree
from jax_gsplat_depth._common.json_files import read_json

READY = ".jax-gsplat-depth.ready"
"""Folder in the target with the files that are still to be moved."""

_STALE = ".stale.json"
"""File in it with the list of the earlier files that go."""

_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)


class OutputError(OSError):
    """The output folder cannot be used; the message is one sentence for the user."""


def commit(
    scratch: Path, target: Path, earlier: Collection[str], stale: Collection[str], marker: str
) -> None:
    """Make the files of a scratch folder the result in ``target``.

    Args:
        scratch: The folder, on the disk of the target.
        target: The folder for the files; it need not exist.
        earlier: Relative POSIX paths of the files of the earlier result in ``target``.
        stale: Those of them to delete.
        marker: Name of the file that is moved last.

    Raises:
        OutputError: Something else is where a file or a folder has to be; nothing has changed.
        OSError: The result cannot be written.
    """
    sync_tree(scratch)
    if not target.is_dir():
        os.rename(scratch, target)
        sync(target.parent)
        return
    with opened(target) as root:
        lock(root)
        # Of another process.
        _finish(root, target, marker)
        check_room(target, list_files(scratch), earlier)
        (scratch / _STALE).write_text(json.dumps(sorted(stale)))
        sync(scratch / _STALE)
        sync(scratch)
        os.rename(scratch, target / READY)
        sync_open(root)
        _finish(root, target, marker)


def finish(target: Path, marker: str) -> None:
    """Do what is left of a ``commit`` that was killed, if there is one.

    Args:
        target: An existing folder.
        marker: As in ``commit``.

    Raises:
        OutputError: Its files cannot be told from others any more.
        OSError: It cannot be done.
    """
    with opened(target) as root:
        lock(root)
        _finish(root, target, marker)


def list_files(folder: Path) -> list[str]:
    """Return the files below ``folder`` as sorted relative POSIX paths."""
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )


def is_inside(name: str) -> bool:
    """Return whether a path, as a file may list it, is that of a file below the folder."""
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return False
    path = PurePosixPath(name)
    return not (path.name == "" or path.is_absolute() or ".." in path.parts or "\0" in name)


def check_room(target: Path, names: Collection[str], earlier: Collection[str]) -> None:
    """Refuse before the first change what would stop in the middle, or harm what is the user's.

    Args:
        target: An existing folder.
        names: Relative POSIX paths of the files that it is to get.
        earlier: Those of the files of the earlier result.

    Raises:
        OutputError: Something else is where a file or a folder has to be.
        OSError: A folder cannot be read.
    """
    ours = {PurePosixPath(name).parts for name in earlier}
    for name in names:
        parts = PurePosixPath(name).parts
        for n in range(1, len(parts) + 1):
            path = target.joinpath(*parts[:n])
            kind = "file" if n == len(parts) else "folder"
            try:
                mode = path.lstat().st_mode
            except OSError as error:
                if error.errno not in _NOT_THERE:
                    raise
                break
            if stat.S_ISLNK(mode):
                if parts[:n] in ours:
                    break
                raise OutputError(f"{path} is in the way: expected a {kind} or nothing, not a link")
            if stat.S_ISDIR(mode) != (kind == "folder"):
                raise OutputError(f"{path} is in the way: expected a {kind} or nothing")


def _finish(root: int, target: Path, marker: str) -> None:
    ready = target / READY
    mode = _mode(READY, root)
    if mode is None:
        return
    if not stat.S_ISDIR(mode):
        raise OutputError(f"{ready} is in the way: expected a folder or nothing")
    names = list_files(ready)
    if _STALE in names:
        stale = _read_stale(ready)
        names.remove(_STALE)
        with opened(READY, FOLDER, root) as source:
            _move_files(source, root, [name for name in names if name != marker])
            _delete_files(root, stale)
            sync_open(root)
            if marker in names:
                os.replace(marker, marker, src_dir_fd=source, dst_dir_fd=root)
                sync_open(root)
    elif names:
        raise _damaged(ready)
    shutil.rmtree(ready)
    sync_open(root)


def _read_stale(ready: Path) -> list[str]:
    try:
        stale = read_json(ready / _STALE)
    except ValueError as error:
        raise _damaged(ready) from error
    if not isinstance(stale, list) or not all(isinstance(name, str) for name in stale):
        raise _damaged(ready)
    return [name for name in stale if is_inside(name)]


def _damaged(ready: Path) -> OutputError:
    return OutputError(
        f"{ready.parent} holds a result that a killed command did not move to its place, and "
        f"{ready / _STALE} is damaged: move its files yourself, or delete {ready}"
    )


def _move_files(source: int, target: int, names: Sequence[str]) -> None:
    for folder, files in _by_folder(names).items():
        with _below(source, folder) as old, _below(target, folder, make=True) as new:
            for name in files:
                os.replace(name, name, src_dir_fd=old, dst_dir_fd=new)
            sync_open(new)


def _delete_files(root: int, names: Sequence[str]) -> None:
    """Delete files that are there and reached without a link, and the folders that this empties."""
    by_folder = _by_folder(names)
    for parts, files in by_folder.items():
        with _if_there(), _below(root, parts) as folder:
            for name in files:
                with _if_there():
                    mode = _mode(name, folder)
                    if mode is not None and not stat.S_ISDIR(mode):
                        os.unlink(name, dir_fd=folder)
            sync_open(folder)
    emptied = {parts[:n] for parts in by_folder for n in range(1, len(parts) + 1)}
    for parts in sorted(emptied, key=len, reverse=True):
        # It stays if something else is in it.
        with contextlib.suppress(OSError), _below(root, parts[:-1]) as folder:
            os.rmdir(parts[-1], dir_fd=folder)
            sync_open(folder)


def _by_folder(names: Sequence[str]) -> dict[tuple[str, ...], list[str]]:
    by_folder: dict[tuple[str, ...], list[str]] = {}
    for name in names:
        *folder, last = PurePosixPath(name).parts
        by_folder.setdefault(tuple(folder), []).append(last)
    return by_folder


@contextlib.contextmanager
def _if_there() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _NOT_THERE:
            raise


@contextlib.contextmanager
def _below(root: int, parts: Sequence[str], *, make: bool = False) -> Iterator[int]:
    """Open a folder below an open one without following links; make it in their place if asked."""
    with contextlib.ExitStack() as stack:
        folder = root
        for part in parts:
            if make:
                _make_folder(part, folder)
            folder = stack.enter_context(opened(part, FOLDER, folder))
        yield folder


def _make_folder(name: str, folder: int) -> None:
    mode = _mode(name, folder)
    if mode is not None and stat.S_ISLNK(mode):
        os.unlink(name, dir_fd=folder)
        mode = None
    if mode is None:
        os.mkdir(name, dir_fd=folder)
        sync_open(folder)


def _mode(name: str, folder: int) -> int | None:
    """Return type and permissions of what has a name in a folder, or None if nothing has it."""
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return None
