"""Encodes and decodes the columns of ``.spz``: each holds one attribute of all Gaussians."""

import numpy as np

from jax_gsplat_depth.io._record import N_BASES, Record, quantise

_COLOR_SCALE = 0.15 * 255
"""Steps per unit of the first SH coefficient; they leave room for colours beyond 0..1."""

_SCALE_STEPS = 16
"""Steps per unit of the logarithm of a scale."""

_LOWEST_LOG_SCALE = -10
"""Logarithm of a scale whose code is 0."""

_SH_STEPS = 128
"""Steps per unit of the higher SH coefficients."""

_ROTATION_STEPS = 511
"""Steps of a quaternion component between 0 and sqrt(1/2)."""

_MASK = np.uint32(_ROTATION_STEPS)

_TURN = np.array([1.0, -1.0, -1.0])
"""Half a turn about x, which converts between the axes of .spz and PLY; it is its own inverse."""


def sizes(version: int, n: int, degree: int) -> list[int]:
    """Return the number of bytes of each column; degree 0 has no SH column."""
    per_gaussian = [6 if version == 1 else 9, 1, 3, 3, 4 if version > 2 else 3]
    per_gaussian += [3 * (N_BASES[degree] - 1)] if degree else []
    return [n * size for size in per_gaussian]


def encode(record: Record, version: int, fractional_bits: int) -> list[bytes]:
    """Return the columns of a record in the layout of version 2 or later."""
    fixed = np.rint(record.means * _TURN * 2.0**fractional_bits).astype("<i4")
    signs = _sh_signs(record.sh.shape[1])
    quats = record.quats * np.array([1.0, *_TURN])
    columns = [
        fixed.view(np.uint8).reshape(-1, 4)[:, :3],
        quantise(255 * record.opacities, 255),
        quantise(_COLOR_SCALE * record.sh[:, 0] + 127.5, 255),
        quantise(_SCALE_STEPS * (np.log(record.scales) - _LOWEST_LOG_SCALE), 255),
        _smallest_three(quats) if version > 2 else _first_three(quats),
    ]
    if record.sh_degree:
        rest = record.sh[:, 1:] * signs[1:, None]
        columns.append(quantise(_SH_STEPS * rest + 128, 255))
    return [column.astype(np.uint8).tobytes() for column in columns]


def decode(columns: list[bytes], version: int, n: int, degree: int, bits: int) -> Record:
    """Return the record that columns with the lengths of ``sizes`` hold."""
    positions, alphas, colors, scales, rotations, *sh = (
        np.frombuffer(column, np.uint8) for column in columns
    )
    if version == 1:
        means = positions.view("<f2").astype(np.float64).reshape(n, 3)
    else:
        # In the upper three bytes of a word the sign bit is in its place.
        words = np.zeros((3 * n, 4), np.uint8)
        words[:, 1:] = positions.reshape(-1, 3)
        means = (words.view("<i4") / 2.0 ** (bits + 8)).reshape(n, 3)
    first = (colors.reshape(n, 1, 3) - 127.5) / _COLOR_SCALE
    rest = [(column.reshape(n, -1, 3) - 128.0) / _SH_STEPS for column in sh]
    quats = _from_smallest_three(rotations) if version > 2 else _from_first_three(rotations)
    return Record(
        means=means * _TURN,
        quats=quats * np.array([1.0, *_TURN]),
        scales=np.exp(scales.reshape(n, 3) / _SCALE_STEPS + _LOWEST_LOG_SCALE),
        opacities=alphas / 255,
        sh=np.concatenate([first, *rest], axis=1) * _sh_signs(N_BASES[degree])[:, None],
    )


def _sh_signs(n_bases: int) -> np.ndarray:
    """Return the sign that half a turn about x gives to each basis function.

    The function (l, m) changes its sign with y if m < 0, and with z if l + m is odd.
    """
    signs = [
        (-1 if m < 0 else 1) * (-1) ** (degree + m)
        for degree in range(5)
        for m in range(-degree, degree + 1)
    ]
    return np.array(signs[:n_bases], np.float64)


def _first_three(quats: np.ndarray) -> np.ndarray:
    """Return x, y, z of the quaternion with w >= 0, in 8 bits each."""
    positive = np.where(quats[:, :1] < 0, -quats, quats)
    return quantise(127.5 * positive[:, 1:] + 127.5, 255)


def _from_first_three(codes: np.ndarray) -> np.ndarray:
    xyz = codes.reshape(-1, 3) / 127.5 - 1
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
    words = codes.view("<u4").astype(np.uint32)
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
