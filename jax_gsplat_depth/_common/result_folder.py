"""Publishes a folder of results all at once, and recovers what a killed command has left of one.

Files are built in a hidden folder on the disk of the target and moved at the end, ``metrics.json``
last (``journal`` has the steps). A new folder appears whole. An earlier result of ours is replaced
file by file; files that are not ours are never touched, and links below the folder not followed.
"""

import contextlib
import json
import math
import os
from collections.abc import Callable, Collection, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from jax_gsplat_depth._common.journal import (
    OutputError,
    check_room,
    commit,
    finish,
    is_inside,
    list_files,
)
from jax_gsplat_depth._common.json_files import read_json
from jax_gsplat_depth._common.scratch import PREFIX, clear_scratch, scratch_folder, tag_of

METRICS = "metrics.json"
"""Name of the file that marks a folder as one of ours by the name of our command in it."""


def check_folder(target: Path, program: str, *, may_hold: Collection[str] = ()) -> None:
    """Check, before hours of work, that a result can be written to ``target``.

    What a killed command has left there is brought to its end first: a result that was being moved
    is moved, hidden folders are removed.

    Args:
        target: The folder; it may exist if it is empty or holds an earlier result of ``program``.
        program: The command that writes there, as ``metrics.json`` names it.
        may_hold: Names of other files of the program, which make the folder nobody else's.

    Raises:
        OutputError: It is a file, a folder with someone else's files, or not writable.
    """
    try:
        _check_and_recover(target, program, may_hold)
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"{target} cannot be written: {error.strerror or error}") from error


def publish(
    target: Path,
    build: Callable[[Path], None],
    program: str,
    *,
    may_hold: Collection[str] = (),
) -> None:
    """Let ``build`` write files into an empty folder, then move them to ``target``.

    If ``build`` fails, nothing changes. ``build`` has to call ``write_metrics`` at its end; files
    that an earlier result lists in ``metrics.json`` and the new one does not have are deleted.

    Args:
        target: As in ``check_folder``.
        build: Writes the files into the folder that it is given.
        program: As in ``check_folder``.
        may_hold: As in ``check_folder``.

    Raises:
        OutputError: As in ``check_folder``, or the disk is full.
    """
    check_folder(target, program, may_hold=may_hold)
    try:
        with _place_beside(target) as (parent, tag), scratch_folder(parent, tag) as folder:
            build(folder)
            new = set(list_files(folder))
            earlier = _earlier_files(target, program) or []
            stale = [name for name in earlier if name not in new and _first(name) not in may_hold]
            commit(folder, target, earlier, stale, METRICS)
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"{target} cannot be written: {error.strerror or error}") from error


def write_metrics(folder: Path, program: str, metrics: dict[str, Any]) -> dict[str, Any]:
    """Write ``metrics.json`` with the name of the program and the list of the files beside it.

    Args:
        folder: Holds the other files already.
        program: As in ``check_folder``.
        metrics: All other entries of the file; infinity and NaN, which JSON does not have, become
            null.

    Returns:
        ``metrics`` with ``program`` first and ``files`` last.
    """
    files = sorted([*list_files(folder), METRICS])
    metrics = {"program": program, **metrics, "files": files}
    text = json.dumps(_without_nonfinite(metrics), indent=2, allow_nan=False)
    (folder / METRICS).write_text(text + "\n")
    return metrics


def _check_and_recover(target: Path, program: str, may_hold: Collection[str]) -> None:
    if not target.is_dir():
        if os.path.lexists(target):
            raise OutputError(f"{target} is not a folder")
        parent = _existing_folder(target)
        clear_scratch(parent, tag_of(target))
        with scratch_folder(parent, tag_of(target)):
            return
    finish(target, METRICS)
    names = {path.name for path in target.iterdir()}
    own = {name for name in names if name.startswith(PREFIX)}
    earlier = _earlier_files(target, program)
    if not names <= own.union(may_hold) and earlier is None:
        raise OutputError(
            f"{target} is not empty and holds no earlier result of {program}: choose another folder"
        )
    # The new files are not known yet, but most will be where the earlier ones are.
    behind_links = [
        name
        for name in earlier or []
        if any(os.path.islink(target / folder) for folder in PurePosixPath(name).parents[:-1])
    ]
    check_room(target, behind_links, earlier or [])
    clear_scratch(target)
    clear_scratch(target.absolute().parent, tag_of(target))
    with scratch_folder(target):
        pass


def _earlier_files(target: Path, program: str) -> list[str] | None:
    """Return the files of an earlier result, or None if ``target`` holds none of ``program``."""
    try:
        metrics = read_json(target / METRICS)
        if metrics["program"] != program:
            return None
        files = metrics["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not isinstance(files, list):
        return None
    # An edited list must not reach files outside the folder, or hidden ones.
    return [
        name
        for name in files
        if isinstance(name, str) and is_inside(name) and not name.startswith(PREFIX)
    ]


def _first(name: str) -> str:
    return PurePosixPath(name).parts[0]


@contextlib.contextmanager
def _place_beside(target: Path) -> Iterator[tuple[Path, str]]:
    """Give folder and tag for a scratch folder; folders that are made for it go if all fails."""
    if target.is_dir():
        yield target, ""
        return
    missing = [folder for folder in target.absolute().parents if not folder.exists()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield target.absolute().parent, tag_of(target)
    except BaseException:
        for folder in missing:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


def _existing_folder(target: Path) -> Path:
    """Return the folder, or the nearest one above it: on the same disk, where moving is atomic."""
    folder = target.absolute()
    while not folder.exists():
        folder = folder.parent
    return folder


def _without_nonfinite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nonfinite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nonfinite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
