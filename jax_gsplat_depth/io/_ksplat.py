"""Reads ``.ksplat`` of the viewer GaussianSplats3D: sections of Gaussians sorted into buckets.

A header of 4096 bytes is followed by one of 1024 bytes for each section, and then by the sections:
the lengths of the buckets that are not full, the centres of all buckets, and the Gaussians. Level 0
holds float32 and no buckets; level 1 holds half floats, and positions in steps from the centre of
the bucket; level 2 also has the higher SH coefficients in one byte each. The axes are those of PLY.

The layout is that of ``SplatBuffer.js`` in https://github.com/mkkellogg/GaussianSplats3D.
"""

import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jax_gsplat_depth._common.regular_file import read_regular
from jax_gsplat_depth._types import Gaussians
from jax_gsplat_depth.io._record import N_BASES, SH_C0, Record, aligned, parts, to_file
from jax_gsplat_depth.io._tags import Tags

_HEADER = struct.Struct("<BBxxIIIIHxx3fff")
"""Layout: version, sections (room, used), Gaussians (room, used), level, centre, SH range."""

_HEADER_BYTES = 4096

_SECTION = struct.Struct("<IIIIfHxxIIIIH")
"""Layout: Gaussians (used, room), Gaussians of a full bucket, buckets, their edge, bytes of one,
steps in half an edge, bytes of the section, full buckets, other buckets, SH degree."""

_SECTION_BYTES = 1024
_BUCKET_BYTES = 12

_STEPS = 32767
"""Steps in half the edge of a bucket where a header says 0."""

_SH_RANGE = 1.5
"""Largest coefficient of level 2 where the header says 0."""

_MAX_SH_DEGREE = 2
_KINDS = (("<f4", "<f4", "<f4"), ("<u2", "<f2", "<f2"), ("<u2", "<f2", "u1"))
"""Types of positions, of scales and rotations, and of SH coefficients, by level."""


def read_ksplat(path: str | Path) -> Gaussians:
    """Read Gaussians from a ``.ksplat`` file.

    Returns:
        Float32 Gaussians with the quaternions of the file, whose length is nearly 1, and SH of
        degree 0 to 2.

    Raises:
        ValueError: The file is not ``.ksplat``, is damaged, or holds no Gaussian or one that cannot
            be drawn; the message is one sentence that names it.
        FileNotFoundError: There is no such file.
    """
    path = Path(path)
    return to_file(path, *ksplat_record(path), "error").gaussians


def ksplat_record(path: Path) -> tuple[Record, Tags]:
    """Return the Gaussians as they are stored, NaN included; such a file has no tags."""
    data = read_regular(path)
    if len(data) < _HEADER_BYTES:
        raise ValueError(
            f"{path} has {len(data)} bytes: a .ksplat file has {_HEADER_BYTES} or more"
        )
    major, minor, n_sections, _, _, n, level, *_, low, high = _HEADER.unpack_from(data)
    if (major, minor) != (0, 1):
        raise ValueError(f"{path} has version {major}.{minor} of .ksplat: expected 0.1")
    if level >= len(_KINDS):
        raise ValueError(f"{path} has compression level {level}: expected 0, 1 or 2")
    end = _HEADER_BYTES + n_sections * _SECTION_BYTES
    if end > len(data):
        raise ValueError(f"{path} is truncated: it has no room for {n_sections} section headers")
    sections = []
    for i in range(n_sections):
        section, end = _section(path, data, _HEADER_BYTES + i * _SECTION_BYTES, end, level)
        sections.append(section)
    if end != len(data):
        raise ValueError(f"{path} has {len(data) - end} bytes after its last section")
    found = sum(len(section.rows) for section in sections)
    if found != n:
        raise ValueError(f"{path} promises {n} Gaussians, but its sections hold {found}")
    if n == 0:
        raise ValueError(f"{path} holds no Gaussian")
    degree = max(section.degree for section in sections if len(section.rows))
    sh_range = (low or -_SH_RANGE, high or _SH_RANGE)
    with np.errstate(invalid="ignore", over="ignore"):  # The file may hold a signaling NaN.
        return _merged(sections, n, degree, sh_range), Tags()


class _Section(NamedTuple):
    """A part of the file.

    Attributes:
        rows: ``(N,)`` the Gaussians as they are stored.
        degree: That of their spherical harmonics.
        zeros: ``(B, 3)`` position of the code 0 of each bucket, in the world; None at level 0.
        ends: ``(B,)`` number of Gaussians up to the end of each bucket.
        step: World units of a step of the codes.
    """

    rows: np.ndarray
    degree: int
    zeros: np.ndarray | None
    ends: np.ndarray | None
    step: float

    def means(self, part: slice) -> np.ndarray:
        """Return the positions of some Gaussians."""
        codes = self.rows["means"][part]
        if self.zeros is None or self.ends is None:
            return codes
        places = np.arange(part.start, part.stop, dtype=np.uint64)
        return codes * self.step + self.zeros[np.searchsorted(self.ends, places, side="right")]


def _section(path: Path, data: bytes, header: int, start: int, level: int) -> tuple[_Section, int]:
    """Return a section and where it ends; nothing is read before it is known to be there."""
    n, room, bucket_size, n_buckets, edge, bucket_bytes, steps, _, n_full, n_partial, degree = (
        _SECTION.unpack_from(data, header)
    )
    if degree > _MAX_SH_DEGREE:
        raise ValueError(f"{path} has SH degree {degree}: expected 0 to {_MAX_SH_DEGREE}")
    position, other, coefficient = _KINDS[level]
    layout = np.dtype(
        [("means", position, 3), ("scales", other, 3), ("quats", other, 4), ("rgba", "u1", 4)]
        + [("sh", coefficient, (3 * (N_BASES[degree] - 1),))]
    )
    centers = start + 4 * n_partial
    first = centers + bucket_bytes * n_buckets
    end = first + layout.itemsize * room
    if n > room or end > len(data):
        raise ValueError(
            f"{path} is truncated: a section of {max(n, room)} Gaussians is not in the file"
        )
    rows = np.frombuffer(data, layout, n, first)
    if level == 0 or n == 0:
        return _Section(rows, degree, None, None, 1.0), end
    if bucket_bytes != _BUCKET_BYTES or n_full + n_partial > n_buckets:
        raise ValueError(
            f"{path} has {n_buckets} buckets of {bucket_bytes} bytes: expected "
            f"{n_full + n_partial} of {_BUCKET_BYTES}"
        )
    lengths = np.full(n_full + n_partial, bucket_size, np.uint64)
    lengths[n_full:] = np.frombuffer(data, "<u4", n_partial, start)
    ends = np.cumsum(lengths)
    if len(ends) == 0 or ends[-1] < n:
        raise ValueError(f"{path} has buckets for {int(lengths.sum())} of {n} Gaussians")
    steps = steps or _STEPS
    step = edge / 2 / steps
    with np.errstate(invalid="ignore", over="ignore"):
        middles = np.frombuffer(data, "<f4", 3 * n_buckets, centers).astype(np.float64)
        zeros = middles.reshape(-1, 3) - steps * step
    return _Section(rows, degree, zeros, ends, step), end


def _merged(sections: list[_Section], n: int, degree: int, sh_range: tuple[float, float]) -> Record:
    """Return all sections together, with zeros for the degrees that one of them lacks."""
    record = Record(
        means=aligned((n, 3)),
        quats=aligned((n, 4)),
        scales=aligned((n, 3)),
        opacities=aligned((n,)),
        sh=aligned((n, N_BASES[degree], 3)),
    )
    record.sh[:] = 0
    start = 0
    for section in sections:
        own = record[start : start + len(section.rows)]
        for part in parts(len(section.rows)):
            _fill(own[part], section, part, sh_range)
        start += len(section.rows)
    return record


def _fill(block: Record, section: _Section, part: slice, sh_range: tuple[float, float]) -> None:
    """Write a part of the section into a block of the result, a view."""
    rows = section.rows[part]
    block.means[:] = section.means(part)
    block.quats[:] = rows["quats"]
    block.scales[:] = rows["scales"]
    block.opacities[:] = rows["rgba"][:, 3] / 255
    block.sh[:, 0] = (rows["rgba"][:, :3] / 255 - 0.5) / SH_C0
    column = 0
    for band in range(1, section.degree + 1):
        # Band by band, and in each one colour after the other.
        bases, width = slice(band**2, N_BASES[band]), 2 * band + 1
        codes = rows["sh"][:, column : column + 3 * width].reshape(-1, 3, width)
        block.sh[:, bases] = _coefficients(codes, sh_range).swapaxes(1, 2)
        column += 3 * width


def _coefficients(codes: np.ndarray, sh_range: tuple[float, float]) -> np.ndarray:
    low, high = sh_range
    return codes / 255 * (high - low) + low if codes.dtype == np.uint8 else codes
