"""Reads and writes compressed PLY of PlayCanvas and SuperSplat: 16 bytes a Gaussian, and SH bytes.

Every 256 consecutive Gaussians share a chunk, which gives the range of their positions, logarithms
of scales, and colours; a Gaussian holds fractions of these ranges. An optional element ``sh`` holds
one byte per higher coefficient: all of red, then all of green, then all of blue.
"""

import warnings
from pathlib import Path

import numpy as np

from jax_gsplat_depth._types import Gaussians
from jax_gsplat_depth.io._ply import read_elements, warn_unused, write_elements
from jax_gsplat_depth.io._record import (
    N_BASES,
    SH_C0,
    Record,
    from_gaussians,
    quantise,
    require_some,
    to_file,
    with_unit_quats,
)
from jax_gsplat_depth.io._stray import Reach, pulled_in, reach
from jax_gsplat_depth.io._tags import (
    FileWarning,
    Saved,
    Tags,
    comments_of,
    tags_of_comments,
    without_tags,
)

_CHUNK = 256
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
_MORTON_BITS = 16
_MAX_SH_DEGREE = 3
_STRAY = 8

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
    record = _arranged(path, with_unit_quats(require_some(record, path)))
    positions, position_ends = _normalised(record.means)
    scales, scale_ends = _normalised(np.log(record.scales))
    colors, color_ends = _normalised(0.5 + SH_C0 * record.sh[:, 0])
    packed = [
        _pack(positions, _XYZ_BITS),
        _pack_rotation(record.quats),
        _pack(scales, _XYZ_BITS),
        _pack(np.concatenate([colors, record.opacities[:, None]], axis=1), _RGBA_BITS),
    ]
    elements = {
        "chunk": (_CHUNK_NAMES, np.concatenate([position_ends, scale_ends, color_ends], axis=1)),
        "vertex": (_VERTEX_NAMES, np.stack(packed, axis=1).astype("<u4")),
    }
    if record.sh.shape[1] > 1:
        rest = record.sh[:, 1 : N_BASES[_MAX_SH_DEGREE]].swapaxes(1, 2).reshape(len(record.sh), -1)
        middles = (_SH_LEVELS[1:] + _SH_LEVELS[:-1]) / 2
        names = [f"f_rest_{i}" for i in range(rest.shape[1])]
        elements["sh"] = (names, np.searchsorted(middles, rest).astype("u1"))
    write_elements(path, elements, comments_of(tags or Tags()))
    return Saved(len(record.means), dropped, min(record.sh_degree, _MAX_SH_DEGREE))


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
    elements, comments = read_elements(path)
    vertex = _columns(path, elements, "vertex", _VERTEX_NAMES, np.uint32)
    # Early files store no range of colours; theirs is 0..1.
    early = "chunk" in elements and "min_r" not in (elements["chunk"].dtype.names or ())
    names = _CHUNK_NAMES[:12] if early else _CHUNK_NAMES
    chunks = _columns(path, elements, "chunk", names, np.float32)
    with np.errstate(invalid="ignore"):  # The file may hold a signaling NaN.
        chunks = chunks.astype(np.float64)
    n = len(vertex)
    if n == 0:
        raise ValueError(f"{path} holds no Gaussian")
    if len(chunks) != -(-n // _CHUNK):
        raise ValueError(
            f"{path} has {len(chunks)} chunks for {n} vertices: expected one for each {_CHUNK}"
        )
    if early:
        chunks = np.concatenate([chunks, np.tile([0.0] * 3 + [1.0] * 3, (len(chunks), 1))], axis=1)
    chunks, chunk = chunks.reshape(-1, 3, 2, 3), np.arange(n) // _CHUNK
    rgba = _unpack(vertex[:, 3], _RGBA_BITS)
    with np.errstate(invalid="ignore", over="ignore"):  # The ranges may hold them.
        means, log_scales, colors = (
            chunks[chunk, i, 0] + fraction * (chunks[:, i, 1] - chunks[:, i, 0])[chunk]
            for i, fraction in enumerate(
                [_unpack(vertex[:, 0], _XYZ_BITS), _unpack(vertex[:, 2], _XYZ_BITS), rgba[:, :3]]
            )
        )
        scales = np.exp(log_scales)
        sh = ((colors - 0.5) / SH_C0).astype(np.float32)[:, None]
    # Some writers name the element at degree 0 too, without properties.
    if "sh" in elements and elements["sh"].dtype.names:
        sh = np.concatenate([sh, _sh_rest(path, elements, n)], axis=1)
    warn_unused(path, "elements", {*elements} - {"chunk", "vertex", "sh"})
    unused = {*(elements["vertex"].dtype.names or ())} - {*_VERTEX_NAMES}
    warn_unused(path, "vertex properties", unused)
    record = Record(means, _unpack_rotation(vertex[:, 1]), scales, rgba[:, 3], sh)
    return record, tags_of_comments(path, comments)


def _arranged(path: Path, record: Record) -> Record:
    """Return the Gaussians in the order of the file, so that no stray one spoils a chunk."""
    log_scales, colors = np.log(record.scales), record.sh[:, 0]
    reaches = [reach(values, _STRAY) for values in (record.means, log_scales, colors)]
    how_stray = np.max([found.distances / found.limit for found in reaches], axis=0)
    ordinary, stray = np.nonzero(how_stray <= 1)[0], np.nonzero(how_stray > 1)[0]
    stray = stray[np.argsort(how_stray[stray], kind="stable")]
    # The mildest of them fill up the last chunk of the others.
    shared, own = np.split(stray, [-len(ordinary) % _CHUNK])
    order = [part[morton_order(record.means[part])] for part in (ordinary, own)]
    record = record[np.concatenate([order[0], shared, order[1]])]
    if len(shared) == 0:
        return record
    place = slice(len(ordinary), len(ordinary) + len(shared))
    warnings.warn(
        f"{path}: {len(shared)} of {len(record.means)} Gaussians are stray, and were clipped to "
        f"{_STRAY} times the range of the others",
        FileWarning,
        stacklevel=3,
    )
    (center, _, limit), scale_reach, color_reach = reaches
    # The arrays are copies of those of the caller.
    clipped, _ = pulled_in(record[place], center, center - limit, center + limit)
    record.means[place] = clipped.means
    record.scales[place] = np.exp(_clipped(np.log(clipped.scales), scale_reach))
    record.sh[place, 0] = _clipped(record.sh[place, 0], color_reach)
    return record


def _clipped(values: np.ndarray, within: Reach) -> np.ndarray:
    return np.clip(values, within.center - within.limit, within.center + within.limit)


def morton_order(means: np.ndarray) -> np.ndarray:
    """Return the indices that sort points along a Z-order curve, where neighbours are close.

    More points than fit into a chunk never stay unsorted because something far away makes the
    cells of the curve large.
    """
    if len(means) == 0:
        return np.zeros(0, int)
    low, high = means.min(axis=0), means.max(axis=0)
    extent = np.where(high > low, high - low, 1.0)
    cells = ((2**_MORTON_BITS - 1) * ((means - low) / extent)).astype(np.uint64)
    code = np.zeros(len(means), np.uint64)
    for bit in range(_MORTON_BITS):
        for axis in range(3):
            code |= ((cells[:, axis] >> np.uint64(bit)) & np.uint64(1)) << np.uint64(3 * bit + axis)
    order = np.argsort(code, kind="stable")
    ends = np.append(np.nonzero(np.diff(code[order]))[0] + 1, len(order))
    starts = np.append(0, ends[:-1])
    for run in np.nonzero(ends - starts > _CHUNK)[0]:
        same = order[starts[run] : ends[run]]
        if np.ptp(means[same], axis=0).any():
            order[starts[run] : ends[run]] = same[morton_order(means[same])]
    return order


def _normalised(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return ``(N, 3)`` fractions of the chunk's range, and the ``(chunks, 6)`` ranges."""
    starts = np.arange(0, len(values), _CHUNK)
    low = np.minimum.reduceat(values, starts).astype("<f4")
    high = np.maximum.reduceat(values, starts).astype("<f4")
    chunk = np.arange(len(values)) // _CHUNK
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


def _columns(
    path: Path, elements: dict[str, np.ndarray], element: str, names: list[str], kind: type
) -> np.ndarray:
    """Return ``(N, names)`` values of an element; the file's byte order does not matter."""
    rows = elements.get(element)
    for name in names:
        if rows is None or name not in (rows.dtype.names or ()):
            raise ValueError(f"{path} has no {element} property {name}: expected a compressed PLY")
        if rows.dtype[name].newbyteorder("=") != np.dtype(kind):
            raise ValueError(
                f"{path} has {name} of type {rows.dtype[name]}: expected {np.dtype(kind)}"
            )
    assert rows is not None
    with np.errstate(invalid="ignore"):
        return np.stack([rows[name].astype(kind) for name in names], axis=1)


def _sh_rest(path: Path, elements: dict[str, np.ndarray], n: int) -> np.ndarray:
    n_rest = len(elements["sh"].dtype.names or ())
    if n_rest not in (9, 24, 45) or len(elements["sh"]) != n:
        raise ValueError(
            f"{path} has {len(elements['sh'])} SH records of {n_rest} properties: expected {n} of "
            "9, 24 or 45"
        )
    names = [f"f_rest_{i}" for i in range(n_rest)]
    codes = _columns(path, elements, "sh", names, np.uint8)
    return _SH_LEVELS.astype(np.float32)[codes].reshape(n, 3, n_rest // 3).swapaxes(1, 2)
