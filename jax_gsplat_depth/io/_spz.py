"""Reads and writes Niantic's ``.spz``: about 20 bytes a Gaussian, compressed as a whole.

Versions 1 to 3 are one gzip stream of a header and the columns; version 4 has an uncompressed
header, then a table, then one zstd stream per column. The columns are ``positions``, ``alphas``,
``colors``, ``scales``, ``rotations`` and ``sh``. The axes are right, up and back, so y and z have
the opposite sign of a PLY file; reader and writer convert.

The reader decompresses no more than the header promises, and refuses a header that promises more
than the file could hold at the best rate of gzip.
"""

import struct
import zlib
from pathlib import Path

import numpy as np

from jax_gsplat_depth._common.atomic import atomic_write
from jax_gsplat_depth._types import Gaussians
from jax_gsplat_depth.io import _spz_columns
from jax_gsplat_depth.io._record import N_BASES, Record, from_gaussians, require_some, to_gaussians
from jax_gsplat_depth.io._zstd import zstd_compress, zstd_decompress

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

_HAS_EXTENSIONS = 2
"""Bit of the flags."""

_BEST_RATE = 1032
"""Most bytes that one byte of a deflate stream decompresses to."""

_SLACK = 1 << 16
"""Bytes allowed beyond that rate: zstd compresses tiny files better than gzip."""

_DEFAULT_VERSION = 3
_MAX_FRACTIONAL_BITS = 16


def write_spz(
    path: str | Path,
    gaussians: Gaussians,
    *,
    version: int = _DEFAULT_VERSION,
    fractional_bits: int | None = None,
) -> None:
    """Write Gaussians as ``.spz``, whole or not at all.

    A value is off by at most half a step. A step is 2^-fractional_bits for positions; 1/16 for
    logarithms of scales, clipped to -10..5.94; 1/255 for opacities; 1/38.25 for the first SH
    coefficient, clipped to -3.33..3.33; 1/128 for the others, clipped to -1..0.992; sqrt(1/2)/511
    for the three smaller components of the unit quaternion, or in version 2 1/127.5 for its x, y
    and z. Gaussians that cannot be drawn are left out.

    Args:
        path: File to write; replaced if it exists.
        gaussians: As for ``write_ply``.
        version: 2 and 3 use gzip, 4 uses zstd. 2 has coarser rotations, but most readers know it.
        fractional_bits: Bits of a position after the binary point, 0 to 23. None takes as many as
            the farthest position leaves of 23, but at most 16.

    Raises:
        ValueError: A field is missing or has the wrong shape, no Gaussian can be drawn, the version
            is none of these, or a position does not fit into 24 bits.
        ImportError: The version is 4, and the extra ``spz`` is not installed.
    """
    path = Path(path)
    if version not in (2, 3, 4):
        raise ValueError(f"version is {version}: expected 2, 3 or 4")
    record = require_some(from_gaussians(gaussians), path)
    farthest = float(np.abs(record.means).max())
    if fractional_bits is None:
        # Not 2^23: the rounded position has to fit as well.
        room = (2**23 - 1) / max(farthest, 2.0**-_MAX_FRACTIONAL_BITS)
        fractional_bits = min(_MAX_FRACTIONAL_BITS, int(np.floor(np.log2(room))))
    if not 0 <= fractional_bits <= 23 or farthest * 2.0**fractional_bits > 2**23 - 1:
        raise ValueError(
            f"{path} cannot hold a position of {farthest:g} with {fractional_bits} fractional bits"
        )
    columns = _spz_columns.encode(record, version, fractional_bits)
    header = [_MAGIC, version, len(record.means), record.sh_degree, fractional_bits, 0]
    if version < 4:
        content = _HEADER.pack(*header, 0) + b"".join(columns)
        packer = zlib.compressobj(9, zlib.DEFLATED, _GZIP)
        data = packer.compress(content) + packer.flush()
    else:
        streams = [zstd_compress(column) for column in columns]
        start = _HEADER.pack(*header, len(streams)) + _TABLE_OFFSET.pack(_HEADER_4_BYTES)
        table = [
            _TABLE_ENTRY.pack(len(stream), len(column))
            for stream, column in zip(streams, columns, strict=True)
        ]
        data = b"".join([start.ljust(_HEADER_4_BYTES, b"\0"), *table, *streams])
    atomic_write(path, lambda stream: stream.write(data))


def read_spz(path: str | Path) -> Gaussians:
    """Read Gaussians from an ``.spz`` file of version 1 to 4.

    Returns:
        Float32 Gaussians with unit quaternions and SH of degree 0 to 4, with the axes of a PLY.

    Raises:
        ValueError: The file is not ``.spz``, is damaged, holds no Gaussian, a NaN or an extension;
            the message is one sentence that names it.
        FileNotFoundError: There is no such file.
        ImportError: The file is of version 4, and the extra ``spz`` is not installed.
    """
    path = Path(path)
    return to_gaussians(path, spz_record(path))


def spz_record(path: Path) -> Record:
    """Return the Gaussians as they are stored, NaN included."""
    data = path.read_bytes()
    if data[:4] == _MAGIC:
        return _read_4(path, data)
    unpacker = zlib.decompressobj(_GZIP)
    try:
        start = unpacker.decompress(data, _HEADER.size)
        header = _check_header(path, start, len(data), versions=(1, 2, 3))
        sizes = _spz_columns.sizes(*header[:3])
        content = unpacker.decompress(unpacker.unconsumed_tail, sum(sizes) + 1)
    except zlib.error as error:
        raise ValueError(f"{path} is not a readable .spz file ({error})") from error
    _check_length(path, len(content), sum(sizes))
    if not unpacker.eof:
        raise ValueError(f"{path} is truncated: its gzip stream has no end")
    if unpacker.unused_data:
        raise ValueError(f"{path} has {len(unpacker.unused_data)} bytes after its gzip stream")
    ends = np.cumsum([0, *sizes])
    columns = [content[a:b] for a, b in zip(ends[:-1], ends[1:], strict=True)]
    return _spz_columns.decode(columns, *header)


def _read_4(path: Path, data: bytes) -> Record:
    header = _check_header(path, data, len(data), versions=(4,))
    sizes = _spz_columns.sizes(*header[:3])
    offset = _TABLE_OFFSET.unpack_from(data.ljust(_HEADER_4_BYTES), _HEADER.size)[0]
    n_streams = data[_HEADER.size - 1]
    if n_streams != len(sizes):
        raise ValueError(f"{path} has {n_streams} streams: expected {len(sizes)}")
    end = offset + n_streams * _TABLE_ENTRY.size
    if offset < _HEADER_4_BYTES or end > len(data):
        raise ValueError(f"{path} is truncated: its table of streams is not in the file")
    columns = []
    for (packed, unpacked), size in zip(
        _TABLE_ENTRY.iter_unpack(data[offset:end]), sizes, strict=True
    ):
        if packed > len(data) - end:
            raise ValueError(f"{path} is truncated: a stream of {packed} bytes is not in the file")
        _check_length(path, unpacked, size)
        column = zstd_decompress(path, data[end : end + packed], size)
        _check_length(path, len(column), size)
        columns.append(column)
        end += packed
    if end != len(data):
        raise ValueError(f"{path} has {len(data) - end} bytes after its last stream")
    return _spz_columns.decode(columns, *header)


def _check_header(
    path: Path, start: bytes, file_size: int, versions: tuple[int, ...]
) -> tuple[int, int, int, int]:
    """Return version, number of Gaussians, SH degree and fractional bits."""
    if len(start) < _HEADER.size or start[:4] != _MAGIC:
        raise ValueError(f"{path} is not an .spz file: it has no complete header")
    _, version, n, degree, bits, flags, _ = _HEADER.unpack_from(start)
    if version not in versions:
        raise ValueError(f"{path} has version {version} of .spz: expected 1 to 4")
    if degree >= len(N_BASES) or bits > 23:
        raise ValueError(f"{path} has SH degree {degree} and {bits} fractional bits: too many")
    if flags & _HAS_EXTENSIONS:
        raise ValueError(f"{path} has extensions, which may change what its numbers mean")
    if n == 0:
        raise ValueError(f"{path} holds no Gaussian")
    size = sum(_spz_columns.sizes(version, n, degree))
    if size > _BEST_RATE * file_size + _SLACK:
        raise ValueError(
            f"{path} is truncated: its header promises {n} Gaussians, but {file_size} bytes are "
            "too few for that"
        )
    return version, n, degree, bits


def _check_length(path: Path, found: int, expected: int) -> None:
    if found != expected:
        problem = "is truncated" if found < expected else "holds more than its header says"
        raise ValueError(f"{path} {problem}: expected {expected} bytes of Gaussians")
