"""Publishes a folder of results all at once.

Files are built in a hidden folder on the disk of the target and moved at the end, ``metrics.json``
last. A new folder appears whole. An earlier result of ours is replaced file by file, so that only
a kill in that moment leaves files of both; files that are not ours are never touched.
"""

import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

METRICS = "metrics.json"
"""Name of the file that marks a folder as one of ours by the name of our command in it."""

_TEMPORARY = ".jax-gsplat-depth-"
"""Start of the names of our hidden folders; a kill while writing leaves one behind."""


class OutputError(OSError):
    """The output folder cannot be used; the message is one sentence for the user."""


def check_folder(target: Path, program: str, *, may_hold: Collection[str] = ()) -> None:
    """Check, before hours of work, that a result can be written to ``target``.

    Args:
        target: The folder; it may exist if it is empty or holds an earlier result of ``program``.
        program: The command that writes there, as ``metrics.json`` names it.
        may_hold: Names of other files of the program, which make the folder nobody else's.

    Raises:
        OutputError: It is a file, a folder with someone else's files, or not writable.
    """
    try:
        is_folder = target.is_dir()
        if not is_folder and target.exists():
            raise OutputError(f"{target} is not a folder")
        names = {path.name for path in target.iterdir()} if is_folder else set()
        own = {name for name in names if name.startswith(_TEMPORARY)}
        if not names <= own.union(may_hold) and _earlier_files(target, program) is None:
            raise OutputError(
                f"{target} is not empty and holds no earlier result of {program}: choose another "
                "folder"
            )
        with tempfile.TemporaryDirectory(prefix=_TEMPORARY, dir=_existing_folder(target)):
            pass
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"{target} cannot be written: {error.strerror}") from error


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
    temporary = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=_existing_folder(target)))
    try:
        # mkdtemp makes folders that only the owner can read.
        temporary.chmod(0o777 & ~_umask())
        build(temporary)
        if target.is_dir():
            _move_files(temporary, target, program)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary.rename(target)
    except OSError as error:
        raise OutputError(f"{target} cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


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


def list_files(folder: Path) -> list[str]:
    """Return the files below ``folder`` as sorted relative POSIX paths."""
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )


def _move_files(source: Path, target: Path, program: str) -> None:
    """Move the files of ``source`` over those of ``target``, the marker last."""
    new = list_files(source)
    stale = set(_earlier_files(target, program) or []) - set(new)
    for name in sorted(new, key=lambda name: (name == METRICS, name)):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(source / name, target / name)
    for name in stale:
        (target / name).unlink(missing_ok=True)


def _earlier_files(target: Path, program: str) -> list[str] | None:
    """Return the files of an earlier result, or None if ``target`` holds none of ``program``."""
    try:
        metrics = json.loads((target / METRICS).read_text())
        if metrics["program"] != program:
            return None
        files = [str(name) for name in metrics["files"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    # An edited list must not reach files outside the folder.
    return [name for name in files if not Path(name).is_absolute() and ".." not in Path(name).parts]


def _existing_folder(target: Path) -> Path:
    """Return the folder, or the nearest one above it: on the same disk, where moving is atomic."""
    folder = target.absolute()
    while not folder.exists():
        folder = folder.parent
    return folder


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _without_nonfinite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nonfinite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nonfinite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
