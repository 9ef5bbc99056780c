"""Reads and writes Niantic's ``.spz``: about 20 bytes a Gaussian, compressed as a whole.

Versions 1 to 3 are one gzip stream of a header and the columns; version 4 has an uncompressed
header, then a table, then one zstd stream per column. The columns are ``positions``, ``alphas``,
``colors``, ``scales``, ``rotations`` and ``sh``. The axes are right, up and back, so y and z have
the opposite sign of a PLY file; reader and writer convert.

The reader decompresses no more than the header promises, and refuses a header that promises more
than the file could hold at the best rate of gzip, or far more than a scene shrinks by.
"""

import struct
import warnings
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from jax_gsplat_depth._common.atomic import atomic_write
from jax_gsplat_depth._common.regular_file import read_regular
from jax_gsplat_depth._types import Gaussians
from jax_gsplat_depth.io import _spz_columns
from jax_gsplat_depth.io._placing import in_world, is_coarse
from jax_gsplat_depth.io._record import (
    N_BASES,
    Record,
    from_gaussians,
    parts,
    require_some,
    to_file,
    with_unit_quats,
)
from jax_gsplat_depth.io._spz_extensions import turn_of
from jax_gsplat_depth.io._stray import pulled_in, reach
from jax_gsplat_depth.io._tags import MOST_BITS, FileWarning, Saved, Tags, without_tags
from jax_gsplat_depth.io._zstd import zstd_compress, zstd_decompress

Columns = list[tuple[np.ndarray, ...]]
"""Each the parts of a column, uint8."""

_MAGIC = b"NGSP"
_HEADER = struct.Struct("<4sII4B")
"""Layout: magic, version, number of Gaussians, SH degree, fractional bits, flags, streams."""

_HEADER_4_BYTES = 32
"""Bytes of the header of version 4, with the offset of the table and padding."""

_TABLE_OFFSET = struct.Struct("<I")
_TABLE_ENTRY = struct.Struct("<QQ")
"""Layout: compressed and decompressed bytes of a stream."""

_GZIP = 16 + zlib.MAX_WBITS
"""The argument ``wbits`` that makes zlib use the format of gzip."""

_ANTIALIASED, _HAS_EXTENSIONS = 1, 2
"""Bits of the flags."""

_MAX_EXTENSIONS = 1 << 16
"""Bytes of all extensions of a file."""

MAX_EXPANSION = 100.0
"""Bytes of Gaussians for each byte of the file that are believed; scenes have about 2."""

_BELIEVED = 1 << 22
"""Bytes of Gaussians that are believed of any file."""

_BEST_RATE = 1032
"""Most bytes that one byte of a deflate stream decompresses to."""

_SLACK = 1 << 16
"""Bytes allowed beyond that rate: zstd compresses tiny files better than gzip."""

_DEFAULT_VERSION = 3
_FINE_BITS = 16
"""Fractional bits that are enough for a scene of a size around 1."""

_LARGEST = 2**23 - 1
"""Largest position in steps; not 2^23, since the rounded position has to fit as well."""

_STRAY = 128
"""Positions this many times as far from the median as 99 % of them do not decide the step."""


def write_spz(
    path: str | Path,
    gaussians: Gaussians,
    tags: Tags | None = None,
    *,
    version: int = _DEFAULT_VERSION,
    fractional_bits: int | None = None,
) -> Saved:
    """Write Gaussians as ``.spz``, whole or not at all.

    A value is off by at most half a step. A step is 2^-fractional_bits for positions; 1/16 for
    logarithms of scales, clipped to -10..5.94; 1/255 for opacities; 1/38.25 for the first SH
    coefficient, clipped to -3.33..3.33; 1/128 for the others, clipped to -1..0.992; sqrt(1/2)/511
    for the three smaller components of the unit quaternion, or in version 2 1/127.5 for its x, y
    and z. Gaussians that cannot be drawn are left out.

    Stray positions, 128 times as far from the median as 99 % of all, do not decide the step: those
    that do not fit are moved towards the median, and their scales shrink with the distance. A
    ``FileWarning`` counts them, and the Gaussians that look different because of clipped scales.
    Another says that positions were rounded coarsely, to steps of more than 0.02 times the median
    scale, unless ``fractional_bits`` is given.

    Args:
        path: File to write; replaced if it exists.
        gaussians: As for ``write_ply``.
        tags: ``antialiased`` is written, ``origin`` added to the means, and ``fractional_bits``
            used if all positions but stray ones fit.
        version: 2 and 3 use gzip, 4 uses zstd. 2 has coarser rotations, but most readers know it.
        fractional_bits: Bits of a position after the binary point, 0 to 23. None takes those of the
            tags, else as many as the farthest position leaves of 23, but at most 16, or more in a
            scene smaller than 1.

    Raises:
        ValueError: A field is missing or has the wrong shape, no Gaussian can be drawn, the version
            is none of these, a position does not fit into 24 bits, or the positions would become
            coarse with the origin.
        ImportError: The version is 4, and the extra ``spz`` is not installed.
    """
    path, tags = Path(path), tags or Tags()
    if version not in (2, 3, 4):
        raise ValueError(f"version is {version}: expected 2, 3 or 4")
    record, dropped = from_gaussians(gaussians)
    record = in_world(path, require_some(record, path), tags, _step)
    n = len(record.means)
    if spoilt := sum(_spz_columns.spoilt_scales(record.scales[part]) for part in parts(n)):
        _warn(
            f"{path}: {spoilt} of {n} Gaussians have scales that .spz cannot hold; "
            "they were clipped to 4.5e-05..380"
        )
    record, fractional_bits = _placed(path, record, fractional_bits, tags.fractional_bits)
    encoded = (
        _spz_columns.encode(with_unit_quats(block), version, fractional_bits)
        for block in record.blocks()
    )
    columns = list(zip(*encoded, strict=True))  # Of each the parts, one after another.
    flags = _ANTIALIASED if tags.antialiased else 0
    header = [_MAGIC, version, n, record.sh_degree, fractional_bits, flags]
    write = _write_gzip if version < 4 else _write_zstd
    atomic_write(path, lambda stream: write(stream, header, columns))
    return Saved(n, dropped, record.sh_degree)


def _write_gzip(stream: BinaryIO, header: list[Any], columns: Columns) -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, _GZIP)
    stream.write(packer.compress(_HEADER.pack(*header, 0)))
    for column in columns:
        for part in column:
            stream.write(packer.compress(part.data))
    stream.write(packer.flush())


def _write_zstd(stream: BinaryIO, header: list[Any], columns: Columns) -> None:
    streams = [zstd_compress(b"".join(part.data for part in column)) for column in columns]
    start = _HEADER.pack(*header, len(streams)) + _TABLE_OFFSET.pack(_HEADER_4_BYTES)
    stream.write(start.ljust(_HEADER_4_BYTES, b"\0"))
    for packed, column in zip(streams, columns, strict=True):
        stream.write(_TABLE_ENTRY.pack(len(packed), sum(part.nbytes for part in column)))
    for packed in streams:
        stream.write(packed)


def _placed(
    path: Path, record: Record, wanted: int | None, tagged: int | None
) -> tuple[Record, int]:
    """Return the Gaussians where the file can hold them, and the fractional bits."""
    found = reach(record.means, _STRAY)
    ordinary = record.means[~found.stray]
    farthest = _farthest(ordinary)
    bits = _most_bits(farthest)
    if wanted is not None:
        bits = wanted
    elif tagged is not None and _fits(farthest, tagged):
        bits = tagged
    if not (0 <= bits <= MOST_BITS and _fits(farthest, bits)):
        raise ValueError(
            f"{path} cannot hold a position of {farthest:g} with {bits} fractional bits"
        )
    if wanted is None and is_coarse(record, 2.0**-bits) and _rounds(ordinary, bits):
        _warn(
            f"{path}: positions of up to {farthest:.3g} leave steps of {2.0**-bits:.2g}, which is "
            f"coarse for scales of {float(np.median(record.scales)):.2g}: choose .ply to keep them"
        )
    wall = _LARGEST / 2.0**bits
    record, moved = pulled_in(record, found.center, -wall, wall)
    if moved.any():
        _warn(
            f"{path}: {int(moved.sum())} of {len(moved)} positions are stray, and were clipped to "
            f"{wall:g}"
        )
    return record, bits


def _rounds(means: np.ndarray, bits: int) -> bool:
    """Return whether positions move; those of a file with the same steps do not."""
    for part in parts(len(means)):
        steps = means[part].astype(np.float64) * 2.0**bits
        if np.any(np.abs(steps - np.rint(steps)) > 0.1):
            return True
    return False


def _fits(farthest: float, bits: int) -> bool:
    return farthest * 2.0**bits <= _LARGEST


def _most_bits(farthest: float) -> int:
    """Return how many fractional bits to use, negative if a position does not fit."""
    size = max(farthest, 2.0**-MOST_BITS)
    fine = _FINE_BITS + max(0, -int(np.floor(np.log2(size))))
    return min(fine, MOST_BITS, int(np.floor(np.log2(_LARGEST / size))))


def _step(means: np.ndarray) -> float:
    return 2.0 ** -_most_bits(_farthest(means[~reach(means, _STRAY).stray]))


def _farthest(means: np.ndarray) -> float:
    return float(max(means.max(), -means.min()))


def read_spz(path: str | Path, *, max_expansion: float = MAX_EXPANSION) -> Gaussians:
    """Read Gaussians from an ``.spz`` file of version 1 to 4.

    Args:
        path: The file.
        max_expansion: See ``load``.

    Returns:
        Float32 Gaussians with unit quaternions and SH of degree 0 to 4, with the axes of a PLY.

    Raises:
        ValueError: The file is not ``.spz``, is damaged, expands too much, has an extension that
            changes its numbers, or holds no Gaussian or one that cannot be drawn; the message is
            one sentence that names it.
        FileNotFoundError: There is no such file.
        ImportError: The file is of version 4, and the extra ``spz`` is not installed.
    """
    path = Path(path)
    return without_tags(path, to_file(path, *spz_record(path, max_expansion), "error"))


def spz_record(path: Path, max_expansion: float = MAX_EXPANSION) -> tuple[Record, Tags]:
    """Return the Gaussians as they are stored, NaN included, and what the header says of them."""
    header, columns, extensions = _unpacked(path, read_regular(path), max_expansion)
    return header.decode(columns, extensions)


def _unpacked(
    path: Path, data: bytes, max_expansion: float
) -> tuple["_Header", list[memoryview], bytes]:
    """Return the header, the columns, and the extension records."""
    if data[:4] == _MAGIC:
        return _unpacked_4(path, data, max_expansion)
    unpacker = zlib.decompressobj(_GZIP)
    try:
        start = unpacker.decompress(data, _HEADER.size)
        header = _Header(path, start, len(data), (1, 2, 3), max_expansion)
        size = sum(header.sizes)
        more = _MAX_EXTENSIONS if header.has_extensions else 0
        content = unpacker.decompress(unpacker.unconsumed_tail, size + more + 1)
    except zlib.error as error:
        raise ValueError(f"{path} is not a readable .spz file ({error})") from error
    _check_length(path, min(len(content), size) if more else len(content), size)
    if len(content) > size + more:
        raise ValueError(f"{path} has extensions of more than {_MAX_EXTENSIONS} bytes")
    if not unpacker.eof:
        raise ValueError(f"{path} is truncated: its gzip stream has no end")
    if unpacker.unused_data:
        raise ValueError(f"{path} has {len(unpacker.unused_data)} bytes after its gzip stream")
    ends = np.cumsum([0, *header.sizes])
    columns = [memoryview(content)[a:b] for a, b in zip(ends[:-1], ends[1:], strict=True)]
    return header, columns, content[size:]


def _unpacked_4(
    path: Path, data: bytes, max_expansion: float
) -> tuple["_Header", list[memoryview], bytes]:
    header = _Header(path, data, len(data), (4,), max_expansion)
    start = data[:_HEADER_4_BYTES].ljust(_HEADER_4_BYTES)
    offset = _TABLE_OFFSET.unpack_from(start, _HEADER.size)[0]
    n_streams = data[_HEADER.size - 1]
    if n_streams != len(header.sizes):
        raise ValueError(f"{path} has {n_streams} streams: expected {len(header.sizes)}")
    end = offset + n_streams * _TABLE_ENTRY.size
    if offset < _HEADER_4_BYTES or end > len(data):
        raise ValueError(f"{path} is truncated: its table of streams is not in the file")
    if header.has_extensions and offset > _HEADER_4_BYTES + _MAX_EXTENSIONS:
        raise ValueError(f"{path} has extensions of more than {_MAX_EXTENSIONS} bytes")
    columns = []
    for (packed, unpacked), size in zip(
        _TABLE_ENTRY.iter_unpack(data[offset:end]), header.sizes, strict=True
    ):
        if packed > len(data) - end:
            raise ValueError(f"{path} is truncated: a stream of {packed} bytes is not in the file")
        _check_length(path, unpacked, size)
        column = zstd_decompress(path, data[end : end + packed], size)
        _check_length(path, len(column), size)
        columns.append(memoryview(column))
        end += packed
    if end != len(data):
        raise ValueError(f"{path} has {len(data) - end} bytes after its last stream")
    return header, columns, data[_HEADER_4_BYTES:offset]


class _Header:
    """The header of a file, checked."""

    def __init__(
        self,
        path: Path,
        start: bytes,
        file_size: int,
        versions: tuple[int, ...],
        max_expansion: float,
    ) -> None:
        """Read it from the first bytes."""
        if len(start) < _HEADER.size or start[:4] != _MAGIC:
            raise ValueError(f"{path} is not an .spz file: it has no complete header")
        _, version, n, degree, bits, flags, _ = _HEADER.unpack_from(start)
        if version not in versions:
            raise ValueError(f"{path} has version {version} of .spz: expected 1 to 4")
        if degree >= len(N_BASES) or bits > 23:
            raise ValueError(f"{path} has SH degree {degree} and {bits} fractional bits: too many")
        if n == 0:
            raise ValueError(f"{path} holds no Gaussian")
        self.path = path
        self.shape = version, n, degree, bits
        self.sizes = _spz_columns.sizes(version, n, degree)
        self.flags = flags
        self.has_extensions = bool(flags & _HAS_EXTENSIONS)
        size = sum(self.sizes)
        if size > _BEST_RATE * file_size + _SLACK:
            raise ValueError(
                f"{path} is truncated: its header promises {n} Gaussians, but {file_size} bytes "
                "are too few for that"
            )
        if size > max(max_expansion * file_size, _BELIEVED):
            raise ValueError(
                f"{path} promises {n} Gaussians in {size} bytes, {size // file_size} times its own "
                f"size: only a max_expansion of more than {max_expansion:g} lets it take this much "
                "memory"
            )

    def decode(self, columns: list[memoryview], extensions: bytes) -> tuple[Record, Tags]:
        """Return what the columns hold, and the tags."""
        if unknown := self.flags & ~(_ANTIALIASED | _HAS_EXTENSIONS):
            _warn(f"{self.path} has unknown flags {unknown:#04x}, which are left out")
        turn = turn_of(self.path, extensions if self.has_extensions else b"")
        version, *_, bits = self.shape
        tags = Tags(
            antialiased=bool(self.flags & _ANTIALIASED),
            # Version 1 holds half floats.
            fractional_bits=None if version == 1 else bits,
        )
        return _spz_columns.decode(columns, *self.shape, turn), tags


def _warn(message: str) -> None:
    warnings.warn(message, FileWarning, stacklevel=2)


def _check_length(path: Path, found: int, expected: int) -> None:
    if found != expected:
        problem = "is truncated" if found < expected else "holds more than its header says"
        raise ValueError(f"{path} {problem}: expected {expected} bytes of Gaussians")
