"""Reads the files that the recorder writes, and refuses all others in one sentence.

They are ``.npz`` without compression, so that no more can come out of one than its own size.
"""

import io
import json
import math
import struct
import tokenize
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from jax_gsplat_depth._common.one_line import one_line
from jax_gsplat_depth._common.regular_file import open_regular

HEADER = "settings"
"""Name of the entry that holds JSON; all others are arrays."""

_SUFFIX = ".npy"

# What the libraries raise for damage somewhere in a file.
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    tokenize.TokenError,
    ValueError,
    SyntaxError,
    TypeError,
    EOFError,
    IndexError,
    KeyError,
    OSError,
    OverflowError,
    NotImplementedError,
    RuntimeError,
    MemoryError,
)


def read_snapshot(path: str | Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the header and the arrays of a file, by name.

    Args:
        path: The ``.npz`` file.

    Raises:
        ValueError: The file is damaged, or not one of the recorder; the message names it.
        OSError: It cannot be opened.
    """
    with open_regular(path) as stream, warnings.catch_warnings():
        # NumPy warns of headers that it would write otherwise today.
        warnings.simplefilter("ignore", UserWarning)
        try:
            with zipfile.ZipFile(stream) as archive:
                arrays = _arrays(archive, stream.seek(0, io.SEEK_END))
            header = json.loads(str(arrays.pop(HEADER)))
        except _DAMAGE as error:
            reason = one_line(str(error))[:120] or type(error).__name__
            raise ValueError(f"{path} is no snapshot of the rasterizer ({reason})") from error
    wrong = [name for name, array in arrays.items() if array.dtype not in (np.float32, np.float64)]
    if wrong or not isinstance(header, dict):
        what = f"{wrong[0][:40]!r} has no floats" if wrong else "its header is no object"
        raise ValueError(f"{path} is no snapshot of the rasterizer ({what})")
    return header, arrays


def _arrays(archive: zipfile.ZipFile, file_size: int) -> dict[str, np.ndarray]:
    entries = archive.infolist()
    if sum(entry.file_size for entry in entries) > file_size:
        raise ValueError("its entries are longer than the file")
    arrays = {}
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or not entry.filename.endswith(_SUFFIX):
            raise ValueError(f"unexpected entry {entry.filename[:40]!r}")
        arrays[entry.filename.removesuffix(_SUFFIX)] = _array(archive.read(entry))
    return arrays


def _array(data: bytes) -> np.ndarray:
    """Return an array of numbers or a text from the content of a ``.npy`` file."""
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    if version != (1, 0):
        raise ValueError(f"version {version} of an array")
    shape, by_columns, kind = np.lib.format.read_array_header_1_0(stream)
    if kind.kind not in "fU" or math.prod(shape) * kind.itemsize != len(data) - stream.tell():
        raise ValueError(f"an array of {len(data)} bytes, shape {shape} and type {kind}")
    array = np.frombuffer(data, kind, offset=stream.tell()).astype(kind.newbyteorder("="))
    return array.reshape(shape, order="F" if by_columns else "C")
