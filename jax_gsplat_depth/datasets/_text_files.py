"""Reads the text files of captures as editors, shells and recorders of all systems write them."""

import codecs
import re
from pathlib import Path

import numpy as np

from jax_gsplat_depth._common.regular_file import open_regular
from jax_gsplat_depth.datasets._capture import CaptureError

_WINDOWS_NAN = re.compile(r"[+-]?\d\.#\w+")
"""How Windows prints what is no finite number: ``1.#QNAN``, ``-1.#IND00``, ``1.#INF``."""

_LARGEST_MATRIX = 8192
"""Bytes that are read of a file with one matrix at most; it takes a few hundred."""


def read_text(path: Path, most: int = -1) -> str:
    """Return the text of a regular file: UTF-8, or what its byte order mark says.

    Args:
        path: The file.
        most: Bytes that are read at most; -1 for all.

    Raises:
        OSError: There is no such file, or it cannot be opened.
        UnicodeDecodeError: It is no text.
    """
    with open_regular(path) as stream:
        content = stream.read(most)
    # PowerShell writes UTF-16; other editors of Windows put a mark before UTF-8.
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return content.decode("utf-16" if wide else "utf-8-sig")


def number_of(word: str) -> float:
    """Return a number as text; NaN for what Windows prints for those that are not finite.

    Raises:
        ValueError: It is no number.
    """
    return float("nan") if _WINDOWS_NAN.fullmatch(word) else float(word)


def read_matrix(path: Path, side: int) -> np.ndarray:
    """Read a ``(side, side)`` matrix as text; blanks or commas lie between its numbers.

    Raises:
        CaptureError: The file is missing, or holds something else.
    """
    try:
        words = read_text(path, _LARGEST_MATRIX).replace(",", " ").split()
        return np.array([number_of(word) for word in words]).reshape(side, side)
    except FileNotFoundError:
        raise CaptureError(f"{path} is missing: expected a matrix as text") from None
    except OSError as error:
        raise CaptureError(f"{path} cannot be opened ({error.strerror})") from error
    except ValueError as error:
        raise CaptureError(f"{path} holds no {side}x{side} matrix of numbers") from error
