"""Writes files whole or not at all."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def atomic_write(path: Path, write: Callable[[Any], object]) -> None:
    """Write a file beside ``path`` and rename it, so that ``path`` is never half-written."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with scratch.open("wb") as stream:
            write(stream)
        scratch.replace(path)
    finally:
        with contextlib.suppress(OSError):
            scratch.unlink()
