"""Reads and writes the PLY form of 3DGS, which viewers and other trainers share.

The file holds the variables of 3DGS's optimiser: the logarithm of the scales, the logit of the
opacity, the quaternion wxyz. ``f_dc_*`` are the first SH coefficients of red, green and blue,
``f_rest_*`` the others: all of red, then all of green, then all of blue.
"""

import re
from pathlib import Path

import numpy as np

from jax_gsplat_depth._common.atomic import atomic_write
from jax_gsplat_depth._common.extras import require
from jax_gsplat_depth._types import Gaussians
from jax_gsplat_depth.io._record import N_BASES, Record, from_gaussians, to_gaussians

__all__ = ["ply_record", "read_elements", "read_ply", "write_elements", "write_ply"]

_OPACITY_MARGIN = 1e-7
"""Opacities are written at least this far from 0 and 1: the logit stays finite in float32."""

_MEANS = ("x", "y", "z")
_NORMALS = ("nx", "ny", "nz")
_DC = ("f_dc_0", "f_dc_1", "f_dc_2")
_SCALES = ("scale_0", "scale_1", "scale_2")
_QUATS = ("rot_0", "rot_1", "rot_2", "rot_3")
_N_REST = tuple(3 * (n_bases - 1) for n_bases in N_BASES)
"""Number of properties ``f_rest_*`` of SH degree 0 to 4."""

_MAX_HEADER_BYTES = 1 << 16
"""Bytes within which the header has to end."""

_TYPE_BYTES = {
    **dict.fromkeys(("char", "uchar", "int8", "uint8"), 1),
    **dict.fromkeys(("short", "ushort", "int16", "uint16"), 2),
    **dict.fromkeys(("int", "uint", "float", "int32", "uint32", "float32"), 4),
    **dict.fromkeys(("double", "float64"), 8),
}


def write_ply(path: str | Path, gaussians: Gaussians) -> None:
    """Write Gaussians in the 3DGS form as float32, whole or not at all.

    A Gaussian that can never be drawn (NaN or infinity anywhere, a scale <= 0, a zero quaternion)
    is left out. Opacities stay 1e-7 away from 0 and 1.

    Args:
        path: File to write; replaced if it exists.
        gaussians: With ``quats`` and ``scales``, and with ``sh`` of the 3DGS convention or with
            ``colors`` of 3 channels, which become SH of degree 0.

    Raises:
        ValueError: A field is missing or has the wrong shape.
        ImportError: plyfile is not installed.
    """
    record = from_gaussians(gaussians)
    sh = record.sh
    rest = [f"f_rest_{i}" for i in range(3 * (sh.shape[1] - 1))]
    opacities = np.clip(record.opacities, _OPACITY_MARGIN, 1 - _OPACITY_MARGIN)
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
    write_elements(Path(path), {"vertex": (names, columns.astype("<f4"))})


def read_ply(path: str | Path) -> Gaussians:
    """Read Gaussians from a PLY file in the 3DGS form.

    Args:
        path: Binary or text PLY; bytes after the last record are ignored.

    Returns:
        Float32 Gaussians with unit quaternions and SH of the 3DGS convention, degree 0 to 4.

    Raises:
        ValueError: The file is not a PLY, is damaged, lacks a property or holds a NaN; the message
            is one sentence that names it.
        FileNotFoundError: There is no such file.
        ImportError: plyfile is not installed.
    """
    path = Path(path)
    vertex, wanted = _read_vertices(path)
    for name in wanted:
        # An infinite logit is an opacity of exactly 0 or 1, which some exporters write.
        bad = np.isnan(vertex[name]) if name == "opacity" else ~np.isfinite(vertex[name])
        if bad.any():
            raise ValueError(
                f"{path} has {name} {vertex[name][bad.argmax()]} in vertex {bad.argmax()}: "
                "expected a finite number"
            )
    record = _record(vertex, wanted)
    if not np.isfinite(record.scales).all():
        raise ValueError(f"{path} has a scale above the range of float32: expected its logarithm")
    if (zero := ~record.quats.any(axis=1)).any():
        raise ValueError(f"{path} has a zero rotation in vertex {zero.argmax()}")
    return to_gaussians(path, record)


def ply_record(path: Path) -> Record:
    """Return the Gaussians as they are stored, NaN included."""
    return _record(*_read_vertices(path))


def _read_vertices(path: Path) -> tuple[np.ndarray, list[str]]:
    """Return the vertices, and the names of the properties to read, which are all floats."""
    vertex = read_elements(path)["vertex"]
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
    return vertex, wanted


def _record(vertex: np.ndarray, wanted: list[str]) -> Record:
    def columns(names) -> np.ndarray:
        with np.errstate(invalid="ignore"):  # The file may hold a signaling NaN.
            stacked = [np.asarray(vertex[name], np.float64) for name in names]
        return np.stack(stacked, axis=-1) if stacked else np.zeros((len(vertex), 0))

    rest = [name for name in wanted if name.startswith("f_rest_")]
    coefficients = columns(rest).reshape(len(vertex), 3, len(rest) // 3).swapaxes(1, 2)
    with np.errstate(over="ignore"):
        scales = np.exp(columns(_SCALES)).astype(np.float32)
        opacities = 1 / (1 + np.exp(-columns(["opacity"])[:, 0]))
    return Record(
        means=columns(_MEANS),
        quats=columns(_QUATS),
        scales=scales,
        opacities=opacities,
        sh=np.concatenate([columns(_DC)[:, None], coefficients], axis=1),
    )


def write_elements(path: Path, elements: dict[str, tuple[list[str], np.ndarray]]) -> None:
    """Write a little-endian PLY file, whole or not at all.

    Args:
        path: File to write.
        elements: Names of the properties and ``(N, properties)`` values by element; all properties
            of an element get the dtype of its values.
    """
    plyfile = require("plyfile")
    described = []
    for element, (names, values) in elements.items():
        kinds = [(name, values.dtype) for name in names]
        rows = np.ascontiguousarray(values).view(kinds).reshape(len(values))
        described.append(plyfile.PlyElement.describe(rows, element))
    atomic_write(path, plyfile.PlyData(described, byte_order="<").write)


def read_elements(path: Path) -> dict[str, np.ndarray]:
    """Return the rows of every element of a PLY file that has vertices, by element.

    Raises:
        ValueError: The file is not a PLY or is damaged.
    """
    plyfile = require("plyfile")
    _check_header(path)
    try:
        data = plyfile.PlyData.read(str(path))
        rows = {element.name: element.data for element in data.elements}
    except (plyfile.PlyParseError, ValueError, KeyError, EOFError, OverflowError) as error:
        reason = " ".join(str(error).split())[:120]
        raise ValueError(f"{path} is not a readable PLY file ({reason})") from error
    if any(rows["vertex"].dtype[name].kind == "O" for name in rows["vertex"].dtype.names or ()):
        raise ValueError(f"{path} has lists in its vertices: expected a PLY in the 3DGS form")
    return rows


def _check_header(path: Path) -> None:
    """Refuse a file that is too short for the counts it declares, before anything is allocated."""
    with path.open("rb") as stream:
        head = stream.read(_MAX_HEADER_BYTES)
    size = path.stat().st_size
    end = re.search(rb"\nend_header\r?\n", head)
    if not re.match(rb"ply\r?\n", head) or end is None:
        raise ValueError(f"{path} is not a PLY file: it has no complete PLY header")
    text = head[: end.start()].decode("latin-1").split("\n")
    is_text = any(line.split()[:2] == ["format", "ascii"] for line in text)
    needed, count, names = 0, 0, []
    for line in text:
        words = line.split()
        if words[:1] == ["element"]:
            if len(words) != 3 or not re.fullmatch(r"\d{1,18}", words[2]):
                raise ValueError(f"{path} has the header line {line[:80]!r}: expected a count")
            names, count = [*names, words[1]], int(words[2])
        elif words[:1] == ["property"] and len(words) > 2:
            kind = words[2] if words[1] == "list" else words[1]
            # A number in a text file takes at least a digit and a separator.
            needed += count * (2 if is_text else _TYPE_BYTES.get(kind, 1))
    if "vertex" not in names:
        raise ValueError(f"{path} has no element 'vertex': expected a PLY in the 3DGS form")
    if needed > size - end.end() + 1:
        raise ValueError(
            f"{path} is truncated: its header promises at least {needed} bytes of data, but "
            f"{max(size - end.end(), 0)} follow"
        )
