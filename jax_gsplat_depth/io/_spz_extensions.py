"""Reads the extension records of ``.spz``: type, length and content of each, one after another.

They are described at https://github.com/nianticlabs/spz/blob/main/extensions/README.md. A reader
skips a type that it does not know with a warning, since its numbers may mean something else.
"""

import struct
import warnings
from pathlib import Path

from jax_gsplat_depth.io._tags import FileWarning

_RECORD = struct.Struct("<II")
"""Layout: type and bytes of content."""

_QUANTIZATION = 0xADBE0001
_ORBIT = 0xADBE0002
_COORDINATES = 0xADBE0003

_ORBIT_BYTES, _TYPE_BYTES = 12, 4
"""Content of the second; the first files that had it give no length after its type."""

_QUANTIZATION_BYTES = 2
"""Content of the first if it gives no range but the usual one."""

_NAMES = {
    _QUANTIZATION: "SPZ_ADOBE_sh_quantization",
    _ORBIT: "SPZ_ADOBE_safe_orbit_camera",
    _COORDINATES: "SPZ_ADOBE_coordinate_system",
    0x4E530001: "SPZ_NIANTIC_georeference",
}

_SYSTEMS = "LDB RDB LUB RUB LDF RDF LUF RUF LBD RBD LBU RBU LFD RFD LFU RFU".split()
"""Coordinate systems, from number 1 on: where x, y and z point (left, right, down, up, ...)."""

_MOST_NAMES = 8
"""How many extensions a warning names."""

_PLY = "RDF"

_USUAL = "RUB"


def turn_of(path: Path, data: bytes) -> tuple[int, int, int]:
    """Return the signs of x, y and z that convert the axes of a file to those of PLY.

    Args:
        path: The file, for messages.
        data: All of its extension records, empty if it has none.

    Raises:
        ValueError: The records are damaged, or one changes what the numbers mean in a way that is
            not known here; the message names it.
    """
    system, start = _USUAL, 0
    left_out: dict[str, None] = {}
    while len(data) - start >= _RECORD.size:
        kind, size = _RECORD.unpack_from(data, start)
        if kind == 0:  # Reserved; only padding has it.
            break
        begin = start + _RECORD.size
        if kind == _ORBIT and size != _ORBIT_BYTES:
            begin, size = start + _TYPE_BYTES, _ORBIT_BYTES
        content = data[begin : begin + size]
        name = _NAMES.get(kind, "unknown")
        if len(content) < size:
            raise ValueError(f"{path} is truncated: its extension {kind:#010x} ({name}) has no end")
        start = begin + size
        # Without the range of the coefficients, it only says how finely they were rounded.
        if kind == _QUANTIZATION and size != _QUANTIZATION_BYTES:
            raise ValueError(f"{path} has the extension {name}, which changes its SH coefficients")
        if kind == _COORDINATES:
            system = _system(path, content)
        else:
            left_out[f"{kind:#010x} ({name})"] = None
    if any(data[start:]):
        raise ValueError(f"{path} has {len(data) - start} bytes after its extensions")
    if left_out:
        names = ", ".join(list(left_out)[:_MOST_NAMES])
        _warn(f"{path} has the extensions {names}, which are left out")
    x, y, z = (1 if own == wanted else -1 for own, wanted in zip(system, _PLY, strict=True))
    return x, y, z


def _system(path: Path, content: bytes) -> str:
    number = int.from_bytes(content, "little")
    if len(content) != 4 or number > len(_SYSTEMS):
        raise ValueError(f"{path} has a damaged extension {_NAMES[_COORDINATES]}")
    if number == 0:
        _warn(f"{path} does not say in which coordinate system it is: taken as {_USUAL}")
        return _USUAL
    system = _SYSTEMS[number - 1]
    if system[1] not in "DU":
        raise ValueError(
            f"{path} is in the coordinate system {system} ({_NAMES[_COORDINATES]}): expected one "
            "whose y points up or down"
        )
    return system


def _warn(message: str) -> None:
    warnings.warn(message, FileWarning, stacklevel=2)
