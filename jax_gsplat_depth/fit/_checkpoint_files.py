"""Says what a folder of checkpoints holds, and recognises damage in every file of it.

``fit.json`` says which fit the checkpoints belong to, and each one, a folder with the number of its
step as name, has a ``manifest.json`` with the hashes of all files in it. Both files hold a hash of
what they say themselves. Nothing else in a checkpoint is read before its hash is known to be right.
"""

import hashlib
import json
import os
import re
import stat
from pathlib import Path
from typing import Any, Literal

from jax_gsplat_depth._common.json_files import read_json
from jax_gsplat_depth._common.scratch import PREFIX

CHECKPOINT = "checkpoint"
"""Folder of the checkpoints in an output folder."""

IDENTITY = "fit.json"
"""File in the folder that says which fit the checkpoints belong to."""

_MANIFEST = "manifest.json"
_SEAL = "sha256"
_ORBAX_UNFINISHED = re.compile(r"\d+\.orbax-checkpoint-tmp")

_BLOCK = 1 << 20
"""Bytes that are read at once."""


def saved_options(out: Path) -> dict[str, Any] | None:
    """Return the options that a fit was started with, whose checkpoints lie in a folder.

    Args:
        out: Output folder of the fit.

    Returns:
        ``options`` of ``Checkpoints``; None if there is nothing to resume from, or no options.
    """
    folder = out / CHECKPOINT
    if state_of(folder) != "usable":
        return None
    options = read_sealed(folder / IDENTITY).get("options")
    return options if isinstance(options, dict) else None


def state_of(folder: Path) -> Literal["nothing", "unfinished", "usable", "other"]:
    """Return what is in the place of the checkpoints.

    Returns:
        ``nothing``; ``unfinished`` for what a kill before the end of the first one leaves, in which
        nothing is lost; ``usable`` for checkpoints, of which the newest may be damaged; ``other``
        for somebody else's files, or checkpoints of which nobody knows the fit.
    """
    try:
        mode = folder.lstat().st_mode
    except OSError:
        return "nothing"
    # A link to a folder is not ours.
    if not stat.S_ISDIR(mode):
        return "other"
    try:
        names = {path.name for path in folder.iterdir() if not path.name.startswith(PREFIX)}
        if not names:
            return "unfinished"
        read_sealed(folder / IDENTITY)
        if strangers_in(folder):
            return "other"
        return "usable" if steps_in(folder) else "unfinished"
    except (OSError, ValueError):
        return "other"


def strangers_in(folder: Path) -> list[str]:
    """Return the names of what is no part of the checkpoints in a folder."""
    ours = {IDENTITY, *map(str, steps_in(folder))}
    names = {path.name for path in folder.iterdir()}
    return sorted(
        name
        for name in names - ours
        if not name.startswith(PREFIX) and not _ORBAX_UNFINISHED.match(name)
    )


def steps_in(folder: Path) -> list[int]:
    """Return the steps of the checkpoints in a folder, in their order."""
    names = (path.name for path in folder.iterdir() if path.is_dir())
    return sorted(int(name) for name in names if name.isascii() and name.isdigit())


def write_sealed(path: Path, entries: dict[str, Any]) -> None:
    """Write a JSON file that notices damage."""
    text = json.dumps(entries | {_SEAL: _hash_of(entries)}, indent=2)
    path.write_text(text + "\n")


def read_sealed(path: Path) -> dict[str, Any]:
    """Return what ``write_sealed`` was given.

    Raises:
        OSError: There is no such file.
        ValueError: It is not what was written.
    """
    entries = read_json(path)
    if not isinstance(entries, dict) or entries.pop(_SEAL, None) != _hash_of(entries):
        raise ValueError(f"{path} is not what was written")
    return entries


def write_manifest(checkpoint: Path, identity: dict[str, Any]) -> None:
    """Write the hashes of all files of a checkpoint, which belongs to the fit ``identity``."""
    entries = {"fit": _hash_of(identity), "files": _hashes(checkpoint)}
    write_sealed(checkpoint / _MANIFEST, entries)


def check_manifest(checkpoint: Path, identity: dict[str, Any]) -> None:
    """Check that a checkpoint holds the files that were saved for a fit, and no others.

    Raises:
        OSError: A file cannot be read.
        ValueError: It does not.
    """
    entries = read_sealed(checkpoint / _MANIFEST)
    if entries["fit"] != _hash_of(identity):
        raise ValueError("the checkpoint is that of another fit")
    found = _hashes(checkpoint)
    del found[_MANIFEST]
    if entries["files"] != found:
        raise ValueError("the files are not those that were saved")


def _hash_of(entries: dict[str, Any]) -> str:
    try:
        text = json.dumps(entries, sort_keys=True)
    except RecursionError:
        # What the package wrote is not nested so deeply.
        return ""
    return hashlib.sha256(text.encode()).hexdigest()


def _hashes(folder: Path) -> dict[str, str]:
    """Return the hash of each file below a folder by its relative path; links are not followed."""
    hashes = {}
    for path, folders, names in os.walk(folder):
        for entry in (Path(path) / name for name in (*folders, *names)):
            mode = entry.lstat().st_mode
            if stat.S_ISREG(mode):
                hashes[entry.relative_to(folder).as_posix()] = _hash_of_file(entry)
            elif not stat.S_ISDIR(mode):
                raise ValueError(f"{entry} is neither a file nor a folder")
    return hashes


def _hash_of_file(path: Path) -> str:
    content = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            content.update(block)
    return content.hexdigest()
