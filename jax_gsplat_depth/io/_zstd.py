"""Compresses with Zstandard: the standard library of Python 3.14, or the extra ``spz`` before."""

import sys
from pathlib import Path
from typing import Any

from jax_gsplat_depth._common.extras import require

_WINDOW_LOGS = 23, 27
"""The window of a stream is limited to its content, but not below 8 MiB nor above 128 MiB.

Encoders of unknown lengths use up to 8 MiB; 128 MiB is what every decoder has to offer.
"""


def _zstd() -> Any:
    if sys.version_info >= (3, 14):
        return require("compression.zstd", "spz")
    return require("backports.zstd", "spz")


def zstd_compress(data: bytes) -> bytes:
    """Return one zstd frame, which states the length of its content."""
    return _zstd().compress(data)


def zstd_decompress(path: Path, data: bytes, size: int) -> bytes:
    """Return the content of one zstd frame, at most ``size + 1`` bytes of it.

    Raises:
        ValueError: ``data`` is not one complete frame; the message names ``path``.
        ImportError: There is no zstd library.
    """
    zstd = _zstd()
    low, high = _WINDOW_LOGS
    window_log = min(max(size.bit_length(), low), high)
    unpacker = zstd.ZstdDecompressor(
        options={zstd.DecompressionParameter.window_log_max: window_log}
    )
    try:
        content = unpacker.decompress(data, size + 1)
    except (zstd.ZstdError, EOFError) as error:
        reason = " ".join(str(error).split())[:120]
        raise ValueError(f"{path} has a stream that is no zstd frame ({reason})") from error
    if len(content) <= size and (not unpacker.eof or unpacker.unused_data):
        raise ValueError(f"{path} has a stream that is not one complete zstd frame")
    return content
