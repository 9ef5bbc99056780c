"""Reads and writes compressed PLY of PlayCanvas and SuperSplat: 16 bytes a Gaussian, and SH bytes.

Every 256 consecutive Gaussians share a chunk, which gives the range of their positions, logarithms
of scales, and colours; a Gaussian holds fractions of these ranges. An optional element ``sh`` holds
one byte per higher coefficient: all of red, then all of green, then all of blue.
"""

from pathlib import Path

import numpy as np

from jax_gsplat_depth._types import Gaussians
from jax_gsplat_depth.io._arrange import CHUNK, arranged
from jax_gsplat_depth.io._ply_file import Element, NewElement, open_ply, write_elements
from jax_gsplat_depth.io._ply_form import warn_unused
from jax_gsplat_depth.io._record import (
    N_BASES,
    SH_C0,
    Record,
    aligned,
    from_gaussians,
    parts,
    quantise,
    require_some,
    to_file,
    with_unit_quats,
)
from jax_gsplat_depth.io._tags import Saved, Tags, comments_of, tags_of_comments, without_tags

_RANGES = ("", "scale_"), ("x", "y", "z")
_CHUNK_NAMES = [
    *(
        f"{end}_{kind}{axis}"
        for kind in _RANGES[0]
        for end in ("min", "max")
        for axis in _RANGES[1]
    ),
    *(f"{end}_{channel}" for end in ("min", "max") for channel in "rgb"),
]
_VERTEX_NAMES = ["packed_position", "packed_rotation", "packed_scale", "packed_color"]
_XYZ_BITS = (11, 10, 11)
_RGBA_BITS = (8, 8, 8, 8)
_ROTATION_BITS = (2, 10, 10, 10)
_MAX_SH_DEGREE = 3

# The SH coefficient of each byte: the middles of 256 equal parts of -4..4, except that the first
# and the last byte stand for the ends themselves.
_SH_LEVELS = 8 * ((np.arange(256) + 0.5) / 256) - 4
_SH_LEVELS[[0, -1]] = -4, 4


def write_compressed_ply(path: str | Path, gaussians: Gaussians, tags: Tags | None = None) -> Saved:
    """Write Gaussians as compressed PLY, whole or not at all.

    A value is off by at most half a step. Relative to the range of the 256 neighbours in the file,
    a step is 1/2047 for x and z of positions and of logarithms of scales, 1/1023 for their y, and
    1/255 for colours (0.5 + 0.282 times the first SH coefficient). A step is 1/255 for opacities,
    sqrt(2)/1023 for the three smaller components of the unit quaternion, and 1/32 for the higher SH
    coefficients, which are clipped to -4..4 (3/64 next to these two ends). The Gaussians are sorted
    along a space-filling curve, which makes neighbours in the file neighbours in space. Gaussians
    whose position, logarithm of scales or colour is stray, 8 times as far from the median as those
    of 99 % of all, come last; those of them that share a chunk with others are clipped to that
    distance, with a ``FileWarning`` that counts them. Gaussians that cannot be drawn are left out.

    Args:
        path: File to write; replaced if it exists.
        gaussians: As for ``write_ply``; SH of degree 4 loses its last degree.
        tags: What the header says about all of them; None for nothing.

    Raises:
        ValueError: A field is missing or has the wrong shape, or no Gaussian can be drawn.
        ImportError: plyfile is not installed.
    """
    path = Path(path)
    record, dropped = from_gaussians(gaussians)
    arrangement = arranged(path, require_some(record, path))
    n, n_bases = len(record.means), min(record.sh.shape[1], N_BASES[_MAX_SH_DEGREE])
    chunks = np.empty((-(-n // CHUNK), len(_CHUNK_NAMES)), "<f4")
    vertices = np.empty((n, len(_VERTEX_NAMES)), "<u4")
    codes = np.empty((n, 3 * (n_bases - 1)), np.uint8)
    for part, block in zip(parts(n), arrangement.blocks(record), strict=True):
        own_chunks = slice(part.start // CHUNK, -(-part.stop // CHUNK))
        chunks[own_chunks], vertices[part] = _packed(with_unit_quats(block))
        codes[part] = _sh_codes(block.sh[:, 1:n_bases])
    elements = [
        NewElement("chunk", _CHUNK_NAMES, "<f4", len(chunks), [chunks]),
        NewElement("vertex", _VERTEX_NAMES, "<u4", n, [vertices]),
    ]
    if n_bases > 1:
        names = [f"f_rest_{i}" for i in range(codes.shape[1])]
        elements.append(NewElement("sh", names, "u1", n, [codes]))
    write_elements(path, elements, comments_of(tags or Tags()))
    return Saved(n, dropped, min(record.sh_degree, _MAX_SH_DEGREE))


def _packed(block: Record) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of some chunks, and those of their vertices."""
    positions, position_ends = _normalised(block.means)
    scales, scale_ends = _normalised(np.log(block.scales))
    colors, color_ends = _normalised(0.5 + SH_C0 * block.sh[:, 0])
    packed = [
        _pack(positions, _XYZ_BITS),
        _pack_rotation(block.quats),
        _pack(scales, _XYZ_BITS),
        _pack(np.concatenate([colors, block.opacities[:, None]], axis=1), _RGBA_BITS),
    ]
    ends = np.concatenate([position_ends, scale_ends, color_ends], axis=1)
    return ends, np.stack(packed, axis=1)


def _sh_codes(rest: np.ndarray) -> np.ndarray:
    """Return the bytes of ``(N, bases, 3)`` coefficients, in the order of the file."""
    middles = (_SH_LEVELS[1:] + _SH_LEVELS[:-1]) / 2
    return np.searchsorted(middles, rest.swapaxes(1, 2).reshape(len(rest), -1))


def read_compressed_ply(path: str | Path) -> Gaussians:
    """Read Gaussians from a compressed PLY file; bytes after the last record are ignored.

    Returns:
        Float32 Gaussians with unit quaternions and SH of degree 0 to 3, in the order of the file.

    Raises:
        ValueError: The file is not a compressed PLY, is damaged, or holds no Gaussian or one that
            cannot be drawn; the message is one sentence that names it.
        FileNotFoundError: There is no such file.
        ImportError: plyfile is not installed.
    """
    path = Path(path)
    return without_tags(path, to_file(path, *compressed_ply_record(path), "error"))


def compressed_ply_record(path: Path) -> tuple[Record, Tags]:
    """Return the Gaussians as they are stored, NaN included, and what the header says of them."""
    with open_ply(path) as (elements, comments):
        chunks = _chunks(path, elements)
        # Some writers name the element at degree 0 too, without properties.
        has_sh = "sh" in elements and bool(elements["sh"].names)
        n = len(elements["vertex"])
        n_rest = _n_rest(path, elements["sh"], n) if has_sh else 0
        sh_names = [f"f_rest_{i}" for i in range(n_rest)]
        if has_sh:
            _require(path, elements, "sh", sh_names, np.uint8)
        # In float64, where a number beyond float32 is not yet infinite.
        means, scales = np.empty((n, 3)), np.empty((n, 3))
        quats, opacities, sh = aligned((n, 4)), aligned((n,)), aligned((n, n_rest // 3 + 1, 3))
        for part in parts(n):
            words = _values(elements["vertex"].rows(part), _VERTEX_NAMES, np.uint32)
            chunk = np.arange(len(words)) // CHUNK
            ends = chunks[part.start // CHUNK :][: chunk[-1] + 1]
            rgba = _unpack(words[:, 3], _RGBA_BITS)
            fractions = [_unpack(words[:, i], _XYZ_BITS) for i in (0, 2)] + [rgba[:, :3]]
            with np.errstate(invalid="ignore", over="ignore"):  # The ranges may hold them.
                means[part], log_scales, colors = (
                    ends[chunk, i, 0] + fraction * (ends[:, i, 1] - ends[:, i, 0])[chunk]
                    for i, fraction in enumerate(fractions)
                )
                scales[part] = np.exp(log_scales)
                sh[part, 0] = (colors - 0.5) / SH_C0
            quats[part], opacities[part] = _unpack_rotation(words[:, 1]), rgba[:, 3]
            if has_sh:
                codes = _values(elements["sh"].rows(part), sh_names, np.uint8)
                rest = _SH_LEVELS.astype(np.float32)[codes].reshape(len(codes), 3, -1)
                sh[part, 1:] = rest.swapaxes(1, 2)
        warn_unused(path, "elements", {*elements} - {"chunk", "vertex", "sh"})
        unused = {*elements["vertex"].names} - {*_VERTEX_NAMES}
        warn_unused(path, "vertex properties", unused)
    return Record(means, quats, scales, opacities, sh), tags_of_comments(path, comments)


def _chunks(path: Path, elements: dict[str, Element]) -> np.ndarray:
    """Return the ``(chunks, 3, 2, 3)`` ends of positions, logarithms of scales, and colours."""
    _require(path, elements, "vertex", _VERTEX_NAMES, np.uint32)
    # Early files store no range of colours; theirs is 0..1.
    early = "chunk" in elements and "min_r" not in elements["chunk"].names
    names = _CHUNK_NAMES[:12] if early else _CHUNK_NAMES
    _require(path, elements, "chunk", names, np.float32)
    n, n_chunks = len(elements["vertex"]), len(elements["chunk"])
    if n == 0:
        raise ValueError(f"{path} holds no Gaussian")
    if n_chunks != -(-n // CHUNK):
        raise ValueError(
            f"{path} has {n_chunks} chunks for {n} vertices: expected one for each {CHUNK}"
        )
    with np.errstate(invalid="ignore"):  # The file may hold a signaling NaN.
        chunks = _values(elements["chunk"].rows(slice(0, n_chunks)), names, np.float64)
    if early:
        chunks = np.concatenate([chunks, np.tile([0.0] * 3 + [1.0] * 3, (n_chunks, 1))], axis=1)
    return chunks.reshape(n_chunks, 3, 2, 3)


def _normalised(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return ``(N, 3)`` fractions of the chunk's range, and the ``(chunks, 6)`` ranges."""
    starts = np.arange(0, len(values), CHUNK)
    low = np.minimum.reduceat(values, starts).astype("<f4")
    high = np.maximum.reduceat(values, starts).astype("<f4")
    chunk = np.arange(len(values)) // CHUNK
    # The file stores the ends in float32, so the fractions refer to the rounded ends.
    extent = (high.astype(np.float64) - low)[chunk]
    fractions = (values - low[chunk]) / np.where(extent > 0, extent, 1.0)
    return fractions, np.concatenate([low, high], axis=1)


def _pack(fractions: np.ndarray, bits: tuple[int, ...]) -> np.ndarray:
    """Pack fractions in 0..1 into ``(N,)`` words, the first column in the highest bits."""
    word = np.zeros(len(fractions), np.uint32)
    for column, width in enumerate(bits):
        word = (word << np.uint32(width)) | quantise(
            (2**width - 1) * fractions[:, column], 2**width - 1
        )
    return word


def _unpack(words: np.ndarray, bits: tuple[int, ...]) -> np.ndarray:
    fractions, shift = [], sum(bits)
    for width in bits:
        shift -= width
        highest = 2**width - 1
        fractions.append(((words >> np.uint32(shift)) & np.uint32(highest)) / highest)
    return np.stack(fractions, axis=1)


def _pack_rotation(quats: np.ndarray) -> np.ndarray:
    """Pack the index of the largest component and the others, which lie within +-sqrt(1/2)."""
    largest = np.abs(quats).argmax(axis=1)
    positive = quats * np.sign(quats[np.arange(len(quats)), largest])[:, None]
    others = positive[_others(largest)].reshape(-1, 3)
    fractions = np.concatenate([largest[:, None] / 3, others / np.sqrt(2) + 0.5], axis=1)
    return _pack(fractions, _ROTATION_BITS)


def _unpack_rotation(words: np.ndarray) -> np.ndarray:
    fractions = _unpack(words, _ROTATION_BITS)
    largest = np.rint(3 * fractions[:, 0]).astype(int)
    others = (fractions[:, 1:] - 0.5) * np.sqrt(2)
    quats = np.empty((len(words), 4))
    quats[_others(largest)] = others.ravel()
    # In a damaged file the three components together may be longer than 1.
    quats[~_others(largest)] = np.sqrt(np.maximum(0, 1 - (others**2).sum(axis=1)))
    return quats


def _others(largest: np.ndarray) -> np.ndarray:
    return np.arange(4) != largest[:, None]


def _require(
    path: Path, elements: dict[str, Element], element: str, names: list[str], kind: type
) -> None:
    """Raise a ValueError if an element lacks a property or has one of another type."""
    found = elements.get(element)
    for name in names:
        if found is None or name not in found.names:
            raise ValueError(f"{path} has no {element} property {name}: expected a compressed PLY")
        # The byte order of the file does not matter.
        if found.dtype[name].newbyteorder("=") != np.dtype(kind):
            raise ValueError(
                f"{path} has {name} of type {found.dtype[name]}: expected {np.dtype(kind)}"
            )


def _values(rows: np.ndarray, names: list[str], kind: type) -> np.ndarray:
    """Return ``(N, names)`` values of some rows."""
    return np.stack([rows[name].astype(kind) for name in names], axis=1)


def _n_rest(path: Path, sh: Element, n: int) -> int:
    """Return how many coefficients each of ``n`` Gaussians has in the element for them."""
    n_rest = len(sh.names)
    if n_rest not in (9, 24, 45) or len(sh) != n:
        raise ValueError(
            f"{path} has {len(sh)} SH records of {n_rest} properties: expected {n} of 9, 24 or 45"
        )
    return n_rest
