"""Reads and writes the PLY form of 3DGS, which viewers and other trainers share.

The file holds the variables of 3DGS's optimiser: the logarithm of the scales, the logit of the
opacity, the quaternion wxyz. ``f_dc_*`` are the first SH coefficients of red, green and blue,
``f_rest_*`` the others: all of red, then all of green, then all of blue.
"""

import contextlib
import io
import os
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jax_gsplat_depth._common.atomic import atomic_write
from jax_gsplat_depth._common.extras import require
from jax_gsplat_depth._common.one_line import one_line
from jax_gsplat_depth._common.regular_file import open_regular
from jax_gsplat_depth._types import Gaussians
from jax_gsplat_depth.io._record import N_BASES, Record, from_gaussians, to_file
from jax_gsplat_depth.io._tags import (
    FileWarning,
    Saved,
    Tags,
    comments_of,
    tags_of_comments,
    without_tags,
)

__all__ = [
    "ply_record",
    "read_elements",
    "read_ply",
    "warn_unused",
    "write_elements",
    "write_ply",
]

_LEAST_OPACITY, _GREATEST_OPACITY = 1e-7, 1 - 2.0**-24
"""Opacities are written within these: the logit stays finite, and float32 holds the opacity."""

_MEANS = ("x", "y", "z")
_NORMALS = ("nx", "ny", "nz")
_DC = ("f_dc_0", "f_dc_1", "f_dc_2")
_SCALES = ("scale_0", "scale_1", "scale_2")
_QUATS = ("rot_0", "rot_1", "rot_2", "rot_3")
_N_REST = tuple(3 * (n_bases - 1) for n_bases in N_BASES)
"""Number of properties ``f_rest_*`` of SH degree 0 to 4."""

_MAX_HEADER_BYTES = 1 << 16
"""Bytes within which the header has to end."""

_REMARK = re.compile(rb"^(?:comment|obj_info)\b.*$", re.MULTILINE)
_NOT_ASCII = re.compile(rb"[^\x00-\x7f]")

_TYPE_BYTES = {
    **dict.fromkeys(("char", "uchar", "int8", "uint8"), 1),
    **dict.fromkeys(("short", "ushort", "int16", "uint16"), 2),
    **dict.fromkeys(("int", "uint", "float", "int32", "uint32", "float32"), 4),
    **dict.fromkeys(("double", "float64"), 8),
}


def write_ply(path: str | Path, gaussians: Gaussians, tags: Tags | None = None) -> Saved:
    """Write Gaussians in the 3DGS form as float32, whole or not at all.

    A Gaussian that can never be drawn (NaN or infinity anywhere, a scale <= 0, a zero quaternion)
    is left out. Opacities stay 1e-7 away from 0, and 6e-8 from 1. A file that was read and is
    written again has the same bytes from then on.

    Args:
        path: File to write; replaced if it exists.
        gaussians: With ``quats`` and ``scales``, and with ``sh`` of the 3DGS convention or with
            ``colors`` of 3 channels, which become SH of degree 0.
        tags: What the header says about all of them; None for nothing.

    Raises:
        ValueError: A field is missing or has the wrong shape.
        ImportError: plyfile is not installed.
    """
    record, dropped = from_gaussians(gaussians)
    sh = record.sh
    rest = [f"f_rest_{i}" for i in range(3 * (sh.shape[1] - 1))]
    opacities = np.clip(record.opacities, _LEAST_OPACITY, _GREATEST_OPACITY)
    columns = np.concatenate(
        [
            record.means,
            np.zeros_like(record.means),
            sh[:, 0],
            sh[:, 1:].swapaxes(1, 2).reshape(len(sh), len(rest)),
            np.log(opacities / (1 - opacities))[:, None],
            np.log(record.scales),
            record.quats,
        ],
        axis=1,
    )
    names = [*_MEANS, *_NORMALS, *_DC, *rest, "opacity", *_SCALES, *_QUATS]
    elements = {"vertex": (names, columns.astype("<f4"))}
    write_elements(Path(path), elements, comments_of(tags or Tags()))
    return Saved(len(sh), dropped, record.sh_degree)


def read_ply(path: str | Path) -> Gaussians:
    """Read Gaussians from a PLY file in the 3DGS form; warns of tags as ``load``.

    Args:
        path: Binary or text PLY; bytes after the last record are ignored.

    Returns:
        Float32 Gaussians with the quaternions of the file, of any length, and SH of the 3DGS
        convention, degree 0 to 4.

    Raises:
        ValueError: The file is not a PLY, is damaged, lacks a property or holds a Gaussian that
            cannot be drawn; the message is one sentence that names it.
        FileNotFoundError: There is no such file.
        ImportError: plyfile is not installed.
    """
    path = Path(path)
    return without_tags(path, to_file(path, *ply_record(path), "error"))


def ply_record(path: Path) -> tuple[Record, Tags]:
    """Return the Gaussians as they are stored, NaN included, and what the header says of them."""
    elements, comments = read_elements(path)
    vertex = elements["vertex"]
    names = set(vertex.dtype.names or ())
    n_rest = sum(name.startswith("f_rest_") for name in names)
    rest = [f"f_rest_{i}" for i in range(n_rest)]
    wanted = [*_MEANS, *_DC, *rest, "opacity", *_SCALES, *_QUATS]
    missing = [name for name in wanted if name not in names]
    if missing:
        raise ValueError(
            f"{path} has no vertex property {missing[0]}: expected a PLY in the plain 3DGS form"
        )
    if n_rest not in _N_REST:
        raise ValueError(f"{path} has {n_rest} properties f_rest_*: expected 0, 9, 24, 45 or 72")
    for name in wanted:
        if vertex.dtype[name].kind != "f":
            raise ValueError(f"{path} has {name} of type {vertex.dtype[name]}: expected float")
    warn_unused(path, "elements", {*elements} - {"vertex"})
    warn_unused(path, "vertex properties", names - {*wanted, *_NORMALS})
    with np.errstate(over="ignore", invalid="ignore"):  # The file may hold a signaling NaN.
        scales = np.exp(_columns(vertex, _SCALES).astype(np.float64))
        # An infinite logit is an opacity of exactly 0 or 1, which some exporters write.
        opacities = 1 / (1 + np.exp(-_columns(vertex, ["opacity"])[:, 0].astype(np.float64)))
        # The file has the coefficients of red before those of green, the record side by side.
        by_base = [
            *_DC,
            *(rest[channel * n_rest // 3 + i] for i in range(n_rest // 3) for channel in range(3)),
        ]
        sh = _columns(vertex, by_base).reshape(len(vertex), n_rest // 3 + 1, 3)
        record = Record(_columns(vertex, _MEANS), _columns(vertex, _QUATS), scales, opacities, sh)
    return record, tags_of_comments(path, comments)


def _columns(vertex: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Return ``(N, names)`` values in the byte order of the machine."""
    values = np.empty(
        (len(vertex), len(names)), np.result_type(*(vertex.dtype[name] for name in names))
    )
    for column, name in enumerate(names):
        values[:, column] = vertex[name]
    return values


def warn_unused(path: Path, what: str, names: set[str]) -> None:
    """Name what a file has and a reader has no use for."""
    if names:
        listed = ", ".join(sorted(names)[:8]) + (", ..." if len(names) > 8 else "")
        warnings.warn(
            f"{path} has the {what} {listed}, which are left out", FileWarning, stacklevel=2
        )


def write_elements(
    path: Path, elements: dict[str, tuple[list[str], np.ndarray]], comments: list[str]
) -> None:
    """Write a little-endian PLY file, whole or not at all.

    Args:
        path: File to write.
        elements: Names of the properties and ``(N, properties)`` values by element; all properties
            of an element get the dtype of its values.
        comments: Lines of the header.
    """
    plyfile = require("plyfile")
    described = []
    for element, (names, values) in elements.items():
        kinds = [(name, values.dtype) for name in names]
        rows = np.ascontiguousarray(values).view(kinds).reshape(len(values))
        described.append(plyfile.PlyElement.describe(rows, element))
    data = plyfile.PlyData(described, byte_order="<", comments=comments)
    size = len(data.header) + 1
    if size > _MAX_HEADER_BYTES:
        raise ValueError(
            f"{path} would have a header of {size} bytes with these comments: expected at most "
            f"{_MAX_HEADER_BYTES}"
        )
    atomic_write(path, data.write)


def read_elements(
    path: Path, *, expected: str = "a PLY in the 3DGS form", after_vertices: bool = True
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return the rows of every element of a PLY file that has vertices, and its comments.

    Args:
        path: The file.
        expected: What it should be, for the messages.
        after_vertices: Whether to read the elements after the vertices too, such as the faces of a
            mesh.

    Raises:
        ValueError: The file is not a PLY or is damaged.
    """
    plyfile = require("plyfile")
    header = _check_header(path, expected, after_vertices)
    try:
        with contextlib.ExitStack() as stack:
            stream = stack.enter_context(open_regular(path))
            if not after_vertices:
                stream.seek(header.end)
                stream = io.BytesIO(header.until_vertices + stream.read())
            elif header.replacement is not None:
                raw = _Replaced(os.dup(stream.fileno()), header.replacement)
                stream = stack.enter_context(io.BufferedReader(raw))
            if header.is_text:
                stream = stack.enter_context(io.TextIOWrapper(stream, "ascii"))
            with np.errstate(over="ignore"):  # A number of a text file may be beyond float32.
                data = plyfile.PlyData.read(stream)
        rows = {element.name: element.data for element in data.elements}
    except (plyfile.PlyParseError, ValueError, KeyError, EOFError, OverflowError) as error:
        reason = one_line(str(error))[:120]
        raise ValueError(f"{path} is not a readable PLY file ({reason})") from error
    return rows, header.comments


class _Replaced(io.FileIO):
    """A file that has other bytes at its start, as many as it had."""

    def __init__(self, descriptor: int, start: bytes) -> None:
        """Take over the descriptor of the file."""
        super().__init__(descriptor)
        self.start = start

    def readinto(self, buffer: Any, /) -> int | None:
        """Read as any file; the buffered readers call nothing else."""
        place = self.tell()
        n = super().readinto(buffer)
        other = self.start[place : place + (n or 0)]
        memoryview(buffer)[: len(other)] = other
        return n


class _Header(NamedTuple):
    """What the header of a file says, and what plyfile reads in its place.

    Attributes:
        comments: Its lines, as they are.
        is_text: Whether the data are text.
        end: Position of the data.
        replacement: Bytes for the start of the file, as many as it has; None for its own.
        until_vertices: A header without the elements after the vertices.
    """

    comments: list[str]
    is_text: bool
    end: int
    replacement: bytes | None
    until_vertices: bytes


def _check_header(path: Path, expected: str, after_vertices: bool) -> _Header:
    """Return what the header says.

    Letters of comments that are not ASCII are replaced, since plyfile refuses them.
    A file that is too short for the counts it declares is refused before anything is allocated.
    """
    with open_regular(path) as stream:
        head = stream.read(_MAX_HEADER_BYTES)
        size = os.fstat(stream.fileno()).st_size
    end = re.search(rb"\nend_header\r?\n", head)
    if not re.match(rb"ply\r?\n", head) or end is None:
        raise ValueError(f"{path} is not a PLY file: it has no complete PLY header")
    head = head[: end.start()]
    plain = _REMARK.sub(lambda match: _NOT_ASCII.sub(b"?", match[0]), head)
    # Lines obj_info are left out anyway.
    if re.search(rb"^comment\b.*[^\x00-\x7f]", head, re.MULTILINE):
        warnings.warn(
            f"{path} has comments that are not ASCII, whose other bytes were replaced by '?'",
            FileWarning,
            stacklevel=2,
        )
    text = plain.decode("latin-1").split("\n")
    is_text = any(line.split()[:2] == ["format", "ascii"] for line in text)
    if not after_vertices:
        text = _until_vertices(text)
    needed, count, names, comments = 0, 0, [], []
    for line in text:
        words = line.split()
        if words[:1] == ["comment"]:
            comments.append(line.strip().removeprefix("comment").strip())
        elif words[:1] == ["element"]:
            if len(words) != 3 or not re.fullmatch(r"\d{1,18}", words[2]):
                raise ValueError(f"{path} has the header line {line[:80]!r}: expected a count")
            names, count = [*names, words[1]], int(words[2])
        elif words[:2] == ["property", "list"]:
            # Each list becomes an object, however short it is.
            raise ValueError(f"{path} has the lists {line.strip()[:80]!r}: expected {expected}")
        elif words[:1] == ["property"] and len(words) > 2:
            # A number in a text file takes at least a digit and a separator.
            needed += count * (2 if is_text else _TYPE_BYTES.get(words[1], 1))
    if "vertex" not in names:
        raise ValueError(f"{path} has no element 'vertex': expected {expected}")
    if needed > size - end.end() + 1:
        raise ValueError(
            f"{path} is truncated: its header promises at least {needed} bytes of data, but "
            f"{max(size - end.end(), 0)} follow"
        )
    return _Header(
        comments,
        is_text,
        end.end(),
        plain if plain != head else None,
        "\n".join(text).encode("latin-1") + end.group(),
    )


def _until_vertices(header: list[str]) -> list[str]:
    """Return the lines of a header up to the properties of the vertices."""
    elements = [i for i, line in enumerate(header) if line.split()[:1] == ["element"]]
    after = next((i for i in elements if header[i].split()[1:2] == ["vertex"]), len(header))
    return header[: next((i for i in elements if i > after), len(header))]
