"""Reads JSON files that the package wrote, whatever may have become of them."""

import json
import os
import stat
from pathlib import Path
from typing import Any


def read_json(path: Path) -> Any:
    """Return what a JSON file holds.

    Args:
        path: A regular file: nothing else is waited for.

    Raises:
        OSError: It cannot be opened.
        ValueError: It is no regular file, no JSON, or nested deeper than can be read.
    """
    with open(path, encoding="utf-8", opener=_open_without_waiting) as stream:
        if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            raise ValueError(f"{path} is not a regular file")
        text = stream.read()
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError(f"{path} is nested too deeply") from error


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)
