"""Encodes and decodes the columns of ``.spz``: each holds one attribute of all Gaussians."""

from collections.abc import Sequence

import numpy as np

from jax_gsplat_depth.io._record import N_BASES, Record, aligned, parts, quantise

_COLOR_SCALE = 0.15 * 255
"""Steps per unit of the first SH coefficient; they leave room for colours beyond 0..1."""

_SCALE_STEPS = 16
"""Steps per unit of the logarithm of a scale."""

_LOWEST_LOG_SCALE = -10
"""Logarithm of a scale whose code is 0."""

_HIGHEST_SCALE = 255
"""Code of the largest scale."""

_SH_STEPS = 128
"""Steps per unit of the higher SH coefficients."""

_DC_OF = ((np.arange(256) - 127.5) / _COLOR_SCALE).astype(np.float32)
_SH_OF = ((np.arange(256) - 128) / _SH_STEPS).astype(np.float32)
"""SH coefficients by code."""

_ROUNDS = np.exp(0.5 / _SCALE_STEPS)
"""Factor by which a scale changes at most if it is not clipped."""

_THIN = 0.1
"""Thickness of a thin Gaussian relative to its largest scale."""

_ROTATION_STEPS = 511
"""Steps of a quaternion component between 0 and sqrt(1/2)."""

_MASK = np.uint32(_ROTATION_STEPS)

TURN = (1, -1, -1)
"""Half a turn about x, which converts between the usual axes of .spz and PLY."""


def sizes(version: int, n: int, degree: int) -> list[int]:
    """Return the number of bytes of each column; degree 0 has no SH column."""
    per_gaussian = [6 if version == 1 else 9, 1, 3, 3, 4 if version > 2 else 3]
    per_gaussian += [3 * (N_BASES[degree] - 1)] if degree else []
    return [n * size for size in per_gaussian]


def encode(block: Record, version: int, fractional_bits: int) -> list[np.ndarray]:
    """Return the columns of some Gaussians in the layout of version 2 or later, as uint8.

    Args:
        block: In float64, with unit quaternions.
        version: That of the file.
        fractional_bits: Those of the positions.
    """
    fixed = np.rint(block.means * TURN * 2.0**fractional_bits).astype("<i4")
    signs = _sh_signs(block.sh.shape[1], TURN)
    quats = block.quats * _quat_signs(TURN)
    columns = [
        fixed.view(np.uint8).reshape(-1, 4)[:, :3],
        quantise(255 * block.opacities, 255),
        quantise(_COLOR_SCALE * block.sh[:, 0] + 127.5, 255),
        quantise(_SCALE_STEPS * (np.log(block.scales) - _LOWEST_LOG_SCALE), _HIGHEST_SCALE),
        _smallest_three(quats) if version > 2 else _first_three(quats),
    ]
    if block.sh_degree:
        rest = block.sh[:, 1:] * signs[1:, None]
        columns.append(quantise(_SH_STEPS * rest + 128, 255))
    return [column.astype(np.uint8) for column in columns]


def spoilt_scales(scales: np.ndarray) -> int:
    """Return how many Gaussians change their look when the columns clip their ``(N, 3)`` scales.

    A thin one may become thicker as long as it stays thin.
    """
    smallest, largest = np.exp(_scale_logs()[[0, -1]])
    too_small = (scales < smallest / _ROUNDS).any(axis=1)
    too_small &= smallest > _THIN * scales.max(axis=1)
    return int((too_small | (scales > largest * _ROUNDS).any(axis=1)).sum())


def decode(
    columns: Sequence[bytes | memoryview],
    version: int,
    n: int,
    degree: int,
    bits: int,
    turn: tuple[int, ...] = TURN,
) -> Record:
    """Return the record that columns with the lengths of ``sizes`` hold.

    Args:
        columns: Bytes of the columns, one after another in a column as ``encode`` returns them.
        version: That of the file.
        n: Number of Gaussians.
        degree: That of their spherical harmonics.
        bits: Fractional bits of the positions.
        turn: Signs of x, y and z that convert the axes of the file to those of PLY.
    """
    rows = [np.frombuffer(column, np.uint8).reshape(n, -1) for column in columns]
    means, quats, scales = aligned((n, 3)), aligned((n, 4)), aligned((n, 3))
    opacities, sh = aligned((n,)), aligned((n, N_BASES[degree], 3))
    scale_of = np.exp(_scale_logs()).astype(np.float32)
    opacity_of = (np.arange(256) / 255).astype(np.float32)
    signs = _sh_signs(N_BASES[degree], turn)[:, None].astype(np.float32)
    from_codes = _from_smallest_three if version > 2 else _from_first_three
    for part in parts(n):
        positions, alphas, colors, scale_codes, rotations, *rest = (column[part] for column in rows)
        with np.errstate(invalid="ignore"):  # Half floats may hold a signaling NaN.
            means[part] = _positions(positions, version, bits) * np.array(turn, np.float32)
        opacities[part] = opacity_of[alphas[:, 0]]
        sh[part, 0] = _DC_OF[colors]
        if rest:
            sh[part, 1:] = _SH_OF[rest[0].reshape(len(colors), -1, 3)]
        sh[part] *= signs
        scales[part] = scale_of[scale_codes]
        quats[part] = from_codes(rotations) * _quat_signs(turn)
    return Record(means, quats, scales, opacities, sh)


def _positions(codes: np.ndarray, version: int, bits: int) -> np.ndarray:
    """Return ``(N, 3)`` float32 positions in the axes of the file."""
    if version == 1:
        return codes.view("<f2").astype(np.float32)
    # In the upper three bytes of a word the sign bit is in its place.
    words = np.zeros((3 * len(codes), 4), np.uint8)
    words[:, 1:] = codes.reshape(-1, 3)
    # A power of two and 24 bits: exact in float32.
    means = words.view("<i4").astype(np.float32).reshape(-1, 3)
    means *= np.float32(2.0 ** -(bits + 8))
    return means


def _scale_logs() -> np.ndarray:
    """Return the logarithm of the scale by code."""
    return np.arange(_HIGHEST_SCALE + 1) / _SCALE_STEPS + _LOWEST_LOG_SCALE


def _quat_signs(turn: tuple[int, ...]) -> np.ndarray:
    """Return the signs of w, x, y, z: F R F is a rotation even where F = diag(turn) is none."""
    x, y, z = turn
    return np.array([1, y * z, x * z, x * y])


def _sh_signs(n_bases: int, turn: tuple[int, ...]) -> np.ndarray:
    """Return the sign that ``turn`` gives to each basis function.

    The function (l, m) changes its sign with x if m < 0 and m is even or m > 0 and m is odd, with
    y if m < 0, and with z if l + m is odd.
    """
    x, y, z = turn
    signs = [
        x ** ((m < 0) + m) * y ** (m < 0) * z ** (degree + m)
        for degree in range(5)
        for m in range(-degree, degree + 1)
    ]
    return np.array(signs[:n_bases], np.float64)


def _first_three(quats: np.ndarray) -> np.ndarray:
    """Return x, y, z of the quaternion with w >= 0, in 8 bits each."""
    positive = np.where(quats[:, :1] < 0, -quats, quats)
    return quantise(127.5 * positive[:, 1:] + 127.5, 255)


def _from_first_three(codes: np.ndarray) -> np.ndarray:
    xyz = codes / 127.5 - 1
    w = np.sqrt(np.maximum(0, 1 - (xyz**2).sum(axis=1)))
    return np.concatenate([w[:, None], xyz], axis=1)


def _smallest_three(quats: np.ndarray) -> np.ndarray:
    """Return words: 2 bits index the largest of x, y, z, w; the others take 10 bits each."""
    xyzw = np.roll(quats, -1, axis=1)
    largest = np.abs(xyzw).argmax(axis=1)
    xyzw = xyzw * np.sign(xyzw[np.arange(len(xyzw)), largest])[:, None]
    others = xyzw[np.arange(4) != largest[:, None]].reshape(-1, 3)
    codes = quantise(_ROTATION_STEPS * np.sqrt(2) * np.abs(others), _ROTATION_STEPS)
    codes |= (others < 0).astype(np.uint32) << np.uint32(9)
    word = largest.astype(np.uint32)
    for code in codes.T:
        word = (word << np.uint32(10)) | code
    return word.astype("<u4").view(np.uint8)


def _from_smallest_three(codes: np.ndarray) -> np.ndarray:
    words = codes.view("<u4")[:, 0].astype(np.uint32)
    shifts = np.array([20, 10, 0], np.uint32)
    parts = words[:, None] >> shifts
    others = (parts & _MASK) / (_ROTATION_STEPS * np.sqrt(2))
    others = np.where(parts & np.uint32(512), -others, others)
    largest = (words >> np.uint32(30)).astype(int)
    rest = np.arange(4) != largest[:, None]
    xyzw = np.empty((len(words), 4))
    xyzw[rest] = others.ravel()
    xyzw[~rest] = np.sqrt(np.maximum(0, 1 - (others**2).sum(axis=1)))
    return np.roll(xyzw, 1, axis=1)
