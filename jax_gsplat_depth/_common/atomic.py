"""Writes files whole or not at all."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from jax_gsplat_depth._common.disk import sync
from jax_gsplat_depth._common.scratch import clear_scratch, scratch_folder, tag_of


def atomic_write(path: Path, write: Callable[[Any], object]) -> None:
    """Write a file in a hidden folder and rename it, so that ``path`` is never half-written.

    Hidden folders that killed calls for this file have left are removed.

    Args:
        path: The file; its name may be as long as names can be.
        write: Writes to the binary stream that it is given.

    Raises:
        OSError: The file cannot be written.
    """
    try:
        clear_scratch(path.parent, tag_of(path))
        with scratch_folder(path.parent, tag_of(path)) as folder:
            scratch = folder / "file"
            with scratch.open("xb") as stream:
                write(stream)
            sync(scratch)
            scratch.replace(path)
        sync(path.parent)
    except OSError as error:
        if error.errno is None:
            raise
        # Nobody else knows of the hidden folder.
        raise OSError(error.errno, error.strerror, str(path)) from error
