"""Decodes and encodes the pictures of SOG, whose bytes are numbers: lossless WebP, or PNG.

The size of a picture is read from its header before a decoder gets memory for it.
"""

import io
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jax_gsplat_depth._common.extras import require
from jax_gsplat_depth.io._tags import FileWarning

MAX_SIDE = 16383
"""Most pixels of a side that WebP can hold."""

_PNG = b"\x89PNG\r\n\x1a\n"
_MODES = ("RGB", "RGBA", "RGBX")


class _Form(NamedTuple):
    """What the header of a picture says."""

    name: str
    size: tuple[int, int]
    lossless: bool


def picture_size(path: Path, name: str, data: bytes) -> tuple[int, int]:
    """Return width and height of a picture, without decoding it.

    Raises:
        ValueError: It is neither WebP nor PNG.
    """
    return _form(path, name, data).size


def decode(path: Path, name: str, data: bytes, channels: str) -> np.ndarray:
    """Return ``(H W, C)`` uint8, row by row.

    Args:
        path: The scene, for messages.
        name: The picture in it.
        data: Its bytes; ``picture_size`` is one that there is memory for.
        channels: "RGB" or "RGBA"; where there is no A it is 255.

    Raises:
        ValueError: The picture is damaged, or has not 8 bits per channel.
        ImportError: Pillow is not installed.
    """
    image_module = require("PIL.Image")
    form = _form(path, name, data)
    if not form.lossless:
        warnings.warn(
            f"{path} has lossy pictures ({name[:60]!r}), which spoil its numbers",
            FileWarning,
            stacklevel=2,
        )
    try:
        with warnings.catch_warnings():
            # The size was checked against the number of Gaussians.
            warnings.simplefilter("ignore", image_module.DecompressionBombWarning)
            picture = image_module.open(io.BytesIO(data), formats=[form.name])
            if picture.size != form.size or picture.mode not in _MODES:
                raise ValueError(f"{picture.size[0]} x {picture.size[1]} pixels {picture.mode}")
            pixels = np.asarray(picture.convert(channels))
    except MemoryError:
        raise
    except Exception as error:  # The decoders raise errors of many types on broken files.
        reason = " ".join(str(error).replace("\0", "").split())[:120] or type(error).__name__
        raise ValueError(f"{path} has a damaged picture {name[:60]!r} ({reason})") from error
    return pixels.reshape(-1, len(channels))


def encode(codes: np.ndarray, width: int) -> bytes:
    """Return a lossless WebP of ``(N, C)`` uint8 codes in rows of ``width``, C = 3 or 4."""
    height = -(-len(codes) // width)
    pixels = np.zeros((height * width, codes.shape[1]), np.uint8)
    pixels[: len(codes)] = codes
    stream = io.BytesIO()
    picture = require("PIL.Image").fromarray(pixels.reshape(height, width, -1))
    # Colours under a transparent pixel are numbers as well: exact.
    picture.save(stream, "WEBP", lossless=True, exact=True, quality=75, method=4)
    return stream.getvalue()


def _form(path: Path, name: str, data: bytes) -> _Form:
    if data.startswith(_PNG) and len(data) >= 24:
        width, height = (int.from_bytes(data[i : i + 4], "big") for i in (16, 20))
        return _Form("PNG", (width, height), True)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP" and len(data) >= 30:
        return _webp_form(data)
    raise ValueError(f"{path} has a picture {name[:60]!r} that is neither WebP nor PNG")


def _webp_form(data: bytes) -> _Form:
    """Return what the first chunk says (https://developers.google.com/speed/webp/docs)."""
    kind = data[12:16]
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return _Form("WEBP", ((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1), True)
    if kind == b"VP8X":
        width, height = (int.from_bytes(data[i : i + 3], "little") + 1 for i in (24, 27))
        return _Form("WEBP", (width, height), b"VP8L" in data)
    width, height = (int.from_bytes(data[i : i + 2], "little") & 0x3FFF for i in (26, 28))
    return _Form("WEBP", (width, height), False)
