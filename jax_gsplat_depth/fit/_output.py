"""Publishing a folder of results all at once.

Files are built in a hidden folder on the disk of the target and moved at the end, ``metrics.json``
last. A new folder appears whole. An earlier result of ours is replaced file by file, so that only
a kill in that moment leaves files of both; files that are not ours are never touched.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

METRICS = "metrics.json"
"""Its presence with our name in it marks a folder as one of ours."""

PROGRAM = "jax-gsplat-depth fit"


class OutputError(OSError):
    """The output folder cannot be used; the message is one sentence for the user."""


def check_folder(target: Path) -> None:
    """Find out before hours of work whether a result can be written to ``target``.

    Raises:
        OutputError: It is a file, a folder with someone else's files, or not writable.
    """
    try:
        is_folder = target.is_dir()
        if not is_folder and target.exists():
            raise OutputError(f"{target} is not a folder")
        if is_folder and any(target.iterdir()) and _earlier_files(target) is None:
            raise OutputError(
                f"{target} is not empty and holds no earlier result of {PROGRAM}: choose another "
                "folder"
            )
        with tempfile.TemporaryDirectory(prefix=".fit-", dir=_workplace(target)):
            pass
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"{target} cannot be written: {error.strerror}") from error


def publish(target: Path, build: Callable[[Path], None]) -> None:
    """Let ``build`` write files into an empty folder, then move them to ``target``.

    If ``build`` fails, nothing changes. ``build`` has to write ``metrics.json`` with the keys
    ``program`` and ``files``; files that an earlier result lists there and the new one does not
    have are deleted.

    Raises:
        OutputError: As in ``check_folder``, or the disk is full.
    """
    check_folder(target)
    temporary = Path(tempfile.mkdtemp(prefix=".fit-", dir=_workplace(target)))
    try:
        # mkdtemp makes folders that only the owner can read.
        temporary.chmod(0o777 & ~_umask())
        build(temporary)
        if target.is_dir():
            _replace(temporary, target)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary.rename(target)
    except OSError as error:
        raise OutputError(f"{target} cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def list_files(folder: Path) -> list[str]:
    """Return the files below ``folder`` as sorted relative POSIX paths."""
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )


def _replace(source: Path, target: Path) -> None:
    """Move the files of ``source`` over those of ``target``, the marker last."""
    new = list_files(source)
    stale = set(_earlier_files(target) or []) - set(new)
    for name in sorted(new, key=lambda name: (name == METRICS, name)):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(source / name, target / name)
    for name in stale:
        (target / name).unlink(missing_ok=True)


def _earlier_files(target: Path) -> list[str] | None:
    """Return the files of an earlier result, or None if ``target`` does not hold one of ours."""
    try:
        metrics = json.loads((target / METRICS).read_text())
        if metrics["program"] != PROGRAM:
            return None
        files = [str(name) for name in metrics["files"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    # An edited list must not reach files outside the folder.
    return [name for name in files if not Path(name).is_absolute() and ".." not in Path(name).parts]


def _workplace(target: Path) -> Path:
    """Return the folder itself, or the nearest one above it: on its disk, so moving is atomic."""
    folder = target.absolute()
    while not folder.exists():
        folder = folder.parent
    return folder


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
