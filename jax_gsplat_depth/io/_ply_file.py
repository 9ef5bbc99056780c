"""Reads and writes PLY files of any content: the header, and the rows of each element in parts.

plyfile parses the headers, and files of text. The rows of a binary file are as long as each other,
since lists are refused, and stay in the file until they are asked for.
"""

import contextlib
import dataclasses
import io
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from jax_gsplat_depth._common.atomic import atomic_write
from jax_gsplat_depth._common.extras import require
from jax_gsplat_depth._common.one_line import one_line
from jax_gsplat_depth._common.regular_file import open_regular
from jax_gsplat_depth.io._tags import FileWarning

COLORS = (("red", "green", "blue"), ("diffuse_red", "diffuse_green", "diffuse_blue"))
"""Names that programs give the colour of a vertex."""

_MAX_HEADER_BYTES = 1 << 24
"""Bytes within which the header has to end; some programs write much into its comments."""

_FIRST_BYTES = 1 << 16
"""Bytes in which it nearly always does."""

_REMARKS = (["comment"], ["obj_info"])
_COUNT = re.compile(rb"^(element[ \t].*)[ \t][0-9]+$", re.MULTILINE)
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")

_TYPE_BYTES = {
    **dict.fromkeys(("char", "uchar", "int8", "uint8"), 1),
    **dict.fromkeys(("short", "ushort", "int16", "uint16"), 2),
    **dict.fromkeys(("int", "uint", "float", "int32", "uint32", "float32"), 4),
    **dict.fromkeys(("double", "float64"), 8),
}


@dataclasses.dataclass(frozen=True)
class Element:
    """The rows of an element; they can be read while the file is open.

    Attributes:
        dtype: A field for each property, in the byte order of the file.
        count: How many rows there are.
        fetch: Returns those from the first of two numbers to before the second.
    """

    dtype: np.dtype
    count: int
    fetch: Callable[[int, int], np.ndarray]

    def __len__(self) -> int:
        """Return how many rows there are."""
        return self.count

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the properties."""
        return self.dtype.names or ()

    def rows(self, part: slice) -> np.ndarray:
        """Return some rows, as a structured array."""
        return self.fetch(part.start, part.stop)


@dataclasses.dataclass(frozen=True)
class NewElement:
    """The rows of an element of a new file.

    Attributes:
        name: That of the element.
        properties: Their names.
        dtype: That of all properties.
        count: How many rows there are.
        blocks: ``(rows, properties)`` values, one block after another.
    """

    name: str
    properties: list[str]
    dtype: str
    count: int
    blocks: Iterable[np.ndarray]


def write_elements(path: Path, elements: list[NewElement], comments: list[str]) -> None:
    """Write a little-endian PLY file, whole or not at all.

    Args:
        path: File to write.
        elements: What it holds, in this order.
        comments: Lines of the header.

    Raises:
        ValueError: The comments are too long to be read again.
        ImportError: plyfile is not installed.
    """
    plyfile = require("plyfile")
    size = sum(len(comment) + len("comment \n") for comment in comments)
    header = b""
    if size <= _MAX_HEADER_BYTES:
        described = []
        for element in elements:
            kinds = [(name, element.dtype) for name in element.properties]
            # One row in memory stands for all.
            rows = np.broadcast_to(np.zeros(1, kinds), element.count)
            described.append(plyfile.PlyElement.describe(rows, element.name))
        data = plyfile.PlyData(described, byte_order="<", comments=comments)
        header = f"{data.header}\n".encode("ascii")
        size = len(header)
    if size > _MAX_HEADER_BYTES:
        raise ValueError(
            f"{path} would have a header of {size} bytes with these comments: expected at most "
            f"{_MAX_HEADER_BYTES}"
        )

    def write(stream: BinaryIO) -> None:
        stream.write(header)
        for element in elements:
            for block in element.blocks:
                stream.write(np.ascontiguousarray(block, element.dtype).data)

    atomic_write(path, write)


def read_elements(
    path: Path, *, expected: str = "a PLY in the 3DGS form", after_vertices: bool = True
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return all rows of every element, and the comments; the arguments are those of ``open_ply``.

    Raises:
        ValueError: The file is not a PLY or is damaged.
        ImportError: plyfile is not installed.
    """
    with open_ply(path, expected=expected, after_vertices=after_vertices) as (elements, comments):
        return {name: item.rows(slice(0, len(item))) for name, item in elements.items()}, comments


@contextlib.contextmanager
def open_ply(
    path: Path, *, expected: str = "a PLY in the 3DGS form", after_vertices: bool = True
) -> Iterator[tuple[dict[str, Element], list[str]]]:
    """Open a PLY file that has vertices, and yield its elements and its comments.

    Args:
        path: The file.
        expected: What it should be, for the messages.
        after_vertices: Whether the elements after the vertices are wanted too, such as the faces of
            a mesh.

    Raises:
        ValueError: The file is not a PLY or is damaged.
        ImportError: plyfile is not installed.
    """
    plyfile = require("plyfile")
    with open_regular(path) as stream:
        header = _checked_header(path, stream, expected, after_vertices)
        try:
            if header.is_text:
                stream.seek(header.end)
                raw: Any = io.BufferedReader(_Joined(header.text, stream))
                source = io.TextIOWrapper(raw, "ascii")
            else:
                # Without rows: only their layout is wanted.
                source = io.BytesIO(_COUNT.sub(rb"\1 0", header.text))
            with np.errstate(over="ignore"):  # A number of a text file may be beyond float32.
                data = plyfile.PlyData.read(source)
        except (plyfile.PlyParseError, ValueError, KeyError, EOFError, OverflowError) as error:
            reason = one_line(str(error))[:120]
            raise ValueError(f"{path} is not a readable PLY file ({reason})") from error
        elements, place = {}, header.end
        for element, count in zip(data.elements, header.counts, strict=True):
            dtype = element.dtype(data.byte_order)
            if header.is_text:
                elements[element.name] = Element(dtype, count, _rows_of(element.data))
                continue
            elements[element.name] = Element(dtype, count, _rows_in(path, stream, dtype, place))
            place += count * dtype.itemsize
        yield elements, header.comments


def _rows_of(data: np.ndarray) -> Callable[[int, int], np.ndarray]:
    return lambda start, stop: data[start:stop]


def _rows_in(
    path: Path, stream: BinaryIO, dtype: np.dtype, place: int
) -> Callable[[int, int], np.ndarray]:
    def fetch(start: int, stop: int) -> np.ndarray:
        if dtype.itemsize == 0:
            return np.zeros(stop - start, dtype)
        stream.seek(place + start * dtype.itemsize)
        rows = np.fromfile(stream, dtype, stop - start)
        # The file was long enough when it was opened.
        if len(rows) < stop - start:
            raise ValueError(f"{path} became shorter while it was read")
        return rows

    return fetch


class _Joined(io.RawIOBase):
    """Bytes, and then what follows in a file."""

    def __init__(self, start: bytes, rest: BinaryIO) -> None:
        """Begin at the first byte; the file stays the caller's to close."""
        self._start, self._rest = start, rest

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Read as any file; the buffered readers call nothing else."""
        data = self._start[: len(buffer)] or self._rest.read(len(buffer))
        self._start = self._start[len(data) :]
        buffer[: len(data)] = data
        return len(data)


class _Header(NamedTuple):
    """What the header of a file says.

    Attributes:
        text: Its lines without the comments, and as far as they are wanted.
        comments: Those, as they are.
        is_text: Whether the data are text.
        counts: Numbers of rows of the elements.
        end: Position of the data.
    """

    text: bytes
    comments: list[str]
    is_text: bool
    counts: list[int]
    end: int


def read_header(path: Path, stream: BinaryIO) -> tuple[bytes, int]:
    """Return the lines of the header before the last one, and the position of the data.

    Raises:
        ValueError: The file has no header of a PLY.
    """
    head, end = stream.read(_FIRST_BYTES), None
    if re.match(rb"ply\r?\n", head):
        while not (end := re.search(rb"\nend_header\r?\n", head)) and len(head) < _MAX_HEADER_BYTES:
            more = stream.read(len(head))
            if not more:
                break
            head += more
    if end is None:
        raise ValueError(f"{path} is not a PLY file: it has no complete PLY header")
    return head[: end.start()], end.end()


def _checked_header(path: Path, stream: BinaryIO, expected: str, after_vertices: bool) -> _Header:
    """Return what the header says.

    A file that is too short for the counts it declares is refused before anything is allocated.
    """
    head, end = read_header(path, stream)
    size = os.fstat(stream.fileno()).st_size
    lines = [line.strip() for line in head.decode("latin-1").split("\n")]
    remarks = [line for line in lines if line.split(None, 1)[:1] in _REMARKS]
    comments = [line.removeprefix("comment").strip() for line in remarks if line[0] == "c"]
    # Lines obj_info are left out anyway.
    if any(_NOT_ASCII.search(comment) for comment in comments):
        warnings.warn(
            f"{path} has comments that are not ASCII, whose other bytes were replaced by '?'",
            FileWarning,
            stacklevel=2,
        )
        comments = [_NOT_ASCII.sub("?", comment) for comment in comments]
    lines = [line for line in lines if line.split(None, 1)[:1] not in _REMARKS]
    is_text = any(line.split()[:2] == ["format", "ascii"] for line in lines)
    if not after_vertices:
        lines = _until_vertices(lines)
    needed, counts, names = 0, [], []
    for line in lines:
        words = line.split()
        if words[:1] == ["element"]:
            if len(words) != 3 or not re.fullmatch(r"[0-9]{1,18}", words[2]):
                raise ValueError(f"{path} has the header line {line[:80]!r}: expected a count")
            names, counts = [*names, words[1]], [*counts, int(words[2])]
        elif words[:2] == ["property", "list"]:
            # Each list becomes an object, however short it is.
            raise ValueError(f"{path} has the lists {line[:80]!r}: expected {expected}")
        elif words[:1] == ["property"] and len(words) > 2 and counts:
            # A number in a text file takes at least a digit and a separator.
            needed += counts[-1] * (2 if is_text else _TYPE_BYTES.get(words[1], 1))
    if "vertex" not in names:
        raise ValueError(f"{path} has no element 'vertex': expected {expected}")
    if needed > size - end + 1:
        raise ValueError(
            f"{path} is truncated: its header promises at least {needed} bytes of data, but "
            f"{max(size - end, 0)} follow"
        )
    text = "\n".join([*lines, "end_header", ""]).encode("latin-1")
    return _Header(text, comments, is_text, counts, end)


def _until_vertices(header: list[str]) -> list[str]:
    """Return the lines of a header up to the properties of the vertices."""
    elements = [i for i, line in enumerate(header) if line.split()[:1] == ["element"]]
    after = next((i for i in elements if header[i].split()[1:2] == ["vertex"]), len(header))
    return header[: next((i for i in elements if i > after), len(header))]
