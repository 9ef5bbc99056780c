"""Converts between ``Gaussians`` and ``Record``, the form that all readers and writers share.

A reader checks the layout of its file and returns a ``Record``, the numbers as they are stored;
``to_file`` then refuses or drops what makes no Gaussian. The command ``info`` describes the record
before that. Readers and writers convert ``BLOCK`` Gaussians at a time, so that a large file takes
little more memory than its Gaussians.
"""

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jax_gsplat_depth._common.by_shape import shown_by_shape
from jax_gsplat_depth._types import Gaussians
from jax_gsplat_depth.io._tags import OnBad, SplatFile, Tags
from jax_gsplat_depth.sh import SH_C0

MAX_SH_DEGREE = 4
"""Highest degree of spherical harmonics in any of the formats."""

N_BASES = tuple((degree + 1) ** 2 for degree in range(MAX_SH_DEGREE + 1))
"""Number of basis functions by degree."""

BLOCK = 1 << 13
"""Gaussians that are converted at a time; a multiple of what shares anything in a format."""

_ALIGNMENT = 64
"""Bytes; JAX uses an array at such an address in place instead of copying it."""

_LARGEST, _SMALLEST = float(np.finfo(np.float32).max), float(np.finfo(np.float32).tiny)

_NAN, _INFINITE = "with NaN", "with infinity"
_BEYOND = "with a number beyond float32"
_FLAT = "with a scale of zero or less"
_NO_ROTATION = "with a zero rotation"
_REASONS = (_NAN, _INFINITE, _BEYOND, _FLAT, _NO_ROTATION)
NOT_FINITE = (_NAN, _INFINITE, _BEYOND)
"""The reasons that are about numbers alone."""


@shown_by_shape
@dataclasses.dataclass(frozen=True)
class Record:
    """The Gaussians of a file, any of them possibly NaN; ``N`` is their number, B the SH bases.

    Attributes:
        means: ``(N, 3)`` world frame.
        quats: ``(N, 4)`` wxyz, of any length.
        scales: ``(N, 3)`` standard deviations, linear.
        opacities: ``(N,)`` in [0, 1].
        sh: ``(N, B, 3)`` coefficients of the 3DGS convention.
    """

    means: np.ndarray
    quats: np.ndarray
    scales: np.ndarray
    opacities: np.ndarray
    sh: np.ndarray

    def fields(self) -> dict[str, np.ndarray]:
        """Return the arrays by name."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @property
    def sh_degree(self) -> int:
        """Degree of the spherical harmonics."""
        return math.isqrt(self.sh.shape[1]) - 1

    def bad(self) -> dict[str, np.ndarray]:
        """Return ``(N,)`` bool by reason: which Gaussians cannot be drawn in float32.

        Each Gaussian has one reason at most; there is an entry for each reason.
        """
        n = len(self.means)
        found = {reason: np.zeros(n, bool) for reason in _REASONS}
        for part in parts(n):
            for reason, mask in self[part]._bad().items():
                found[reason][part] = mask
        return found

    def _bad(self) -> dict[str, np.ndarray]:
        with np.errstate(invalid="ignore", over="ignore"):  # The numbers are what is asked about.
            largest = np.stack([_largest(array) for array in self.fields().values()]).max(axis=0)
            found = {
                _NAN: np.isnan(largest),
                _INFINITE: np.isinf(largest),
                _BEYOND: largest > _LARGEST,
                _FLAT: ~(self.scales.astype(np.float32) >= _SMALLEST).all(axis=1),
                _NO_ROTATION: ~self.quats.astype(np.float32).any(axis=1),
            }
        seen = np.zeros(len(self.means), bool)
        for reason, mask in found.items():
            found[reason] = mask & ~seen
            seen |= mask
        return found

    def drawable(self) -> tuple[np.ndarray | None, dict[str, int]]:
        """Return ``(N,)`` bool, which can be drawn, and how many others there are by reason.

        Where there are no others, None stands for the mask.
        """
        bad = self.bad()
        counts = {reason: int(mask.sum()) for reason, mask in bad.items() if mask.any()}
        return (~np.logical_or.reduce(list(bad.values())) if counts else None), counts

    def __getitem__(self, chosen: Any) -> "Record":
        """Return the chosen Gaussians; ``chosen`` indexes the first axis."""
        return Record(**{name: array[chosen] for name, array in self.fields().items()})

    def blocks(self, order: np.ndarray | None = None) -> Iterator["Record"]:
        """Yield all Gaussians as copies in float64, ``BLOCK`` at a time.

        Args:
            order: ``(N,)`` indices; None keeps the order.
        """
        for part in parts(len(self.means)):
            block = self[part if order is None else order[part]]
            yield block.as_float64()

    def as_float64(self) -> "Record":
        """Return a copy in float64."""
        return Record(**{name: array.astype(np.float64) for name, array in self.fields().items()})

    def take(self, name: str) -> np.ndarray:
        """Return an array and forget it: its memory is free when the caller has done with it."""
        return vars(self).pop(name)


def parts(n: int) -> Iterator[slice]:
    """Yield the places of ``n`` Gaussians, ``BLOCK`` at a time."""
    for start in range(0, n, BLOCK):
        yield slice(start, min(start + BLOCK, n))


def aligned(shape: tuple[int, ...], dtype: Any = np.float32) -> np.ndarray:
    """Return an array without values which JAX uses in place on the CPU, for readers to fill."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)


def _largest(values: np.ndarray) -> np.ndarray:
    """Return ``(N,)`` the largest magnitude of each Gaussian, NaN if it has one."""
    axes = tuple(range(1, values.ndim))
    return np.maximum(values.max(axis=axes), -values.min(axis=axes))


def to_file(path: Path, record: Record, tags: Tags, on_bad: OnBad) -> SplatFile:
    """Return float32 Gaussians, with their quaternions as they are stored.

    Args:
        path: The file, for messages.
        record: Its Gaussians; the arrays are taken out of it one by one, so that no more than one
            of them is in memory twice.
        tags: Its tags.
        on_bad: As for ``io.read``.

    Raises:
        ValueError: A Gaussian cannot be drawn and ``on_bad`` is "error", or none can be drawn; the
            message names the file and the place or the reasons.
    """
    if on_bad not in ("error", "drop"):
        raise ValueError(f"on_bad is {on_bad!r}: expected 'error' or 'drop'")
    good, dropped = record.drawable()
    if dropped and on_bad == "error":
        raise ValueError(_first_bad(path, record))
    if good is not None and not good.any():
        reasons = ", ".join(f"{count} {reason}" for reason, count in dropped.items())
        raise ValueError(f"{path} holds no Gaussian that can be drawn ({reasons})")
    names = list(record.fields())
    arrays = {name: _to_jax(record, name, good) for name in names}
    sh = arrays.pop("sh")
    return SplatFile(Gaussians(**arrays, sh=sh), tags, dropped)


def _to_jax(record: Record, name: str, good: np.ndarray | None) -> jax.Array:
    array = record.take(name)
    if good is not None or array.dtype != np.float32 or not array.flags.c_contiguous:
        n = len(array) if good is None else int(good.sum())
        kept, start = aligned((n, *array.shape[1:])), 0
        for part in parts(len(array)):
            rows = array[part] if good is None else array[part][good[part]]
            kept[start : start + len(rows)] = rows
            start += len(rows)
        array = kept
    return jax.device_put(array)


def _first_bad(path: Path, record: Record) -> str:
    """Return what is wrong with the first Gaussian that cannot be drawn."""
    masks = record.bad()
    index = int(np.logical_or.reduce(list(masks.values())).argmax())
    reason = next(reason for reason, mask in masks.items() if mask[index])
    remedy = "on_bad='drop' leaves such Gaussians out"
    if reason in NOT_FINITE:
        names = (
            name
            for name, array in record.fields().items()
            if not (np.abs(array[index]) <= _LARGEST).all()
        )
        return f"{path} has {next(names)} that are not finite in Gaussian {index}: {remedy}"
    return f"{path} has a {reason.removeprefix('with a ')} in Gaussian {index}: {remedy}"


def from_gaussians(gaussians: Gaussians) -> tuple[Record, dict[str, int]]:
    """Return the Gaussians that can be drawn, and how many others there are by reason.

    The others are left out of files. The arrays are float32 or float64, as they are, and those of
    the caller where all can be drawn: ``Record.blocks`` returns copies in float64, in which writers
    compute.

    Raises:
        ValueError: A field is missing or has the wrong shape.
    """
    if gaussians.quats is None or gaussians.scales is None:
        raise ValueError("gaussians has no quats and scales: the file formats cannot hold covars")
    fields = {
        name: _floats(getattr(gaussians, name))
        for name in ("means", "quats", "scales", "opacities", "sh", "colors")
        if getattr(gaussians, name) is not None
    }
    n = len(fields["means"])
    if "sh" not in fields:
        colors = fields.pop("colors", np.zeros(0))
        if colors.shape != (n, 3):
            raise ValueError(f"gaussians.colors has shape {colors.shape}, expected ({n}, 3) or sh")
        fields["sh"] = ((colors.astype(np.float64) - 0.5) / SH_C0)[:, None]
    fields.pop("colors", None)
    n_bases = fields["sh"].shape[1] if fields["sh"].ndim == 3 else 0
    shapes = {"means": (n, 3), "quats": (n, 4), "scales": (n, 3), "opacities": (n,)}
    shapes["sh"] = (n, n_bases if n_bases in N_BASES else 1, 3)
    for name, shape in shapes.items():
        if name not in fields or fields[name].shape != shape:
            found = fields[name].shape if name in fields else None
            raise ValueError(f"gaussians.{name} has shape {found}, expected {shape}")
    record = Record(**fields)
    good, dropped = record.drawable()
    return (record if good is None else record[good]), dropped


def _floats(values: Any) -> np.ndarray:
    array = np.asarray(values)
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float64)


def with_unit_quats(record: Record) -> Record:
    """Return the record with quaternions of length 1, for formats that hold no others."""
    # The first division keeps the square of the length within range.
    quats = record.quats / np.abs(record.quats).max(axis=1, keepdims=True)
    return dataclasses.replace(record, quats=quats / np.linalg.norm(quats, axis=1, keepdims=True))


def require_some(record: Record, path: Path) -> Record:
    """Return the record; raise a ValueError that names the file if it is empty."""
    if len(record.means) == 0:
        raise ValueError(f"{path} would hold no Gaussian: none of those given can be drawn")
    return record


def quantise(values: np.ndarray, highest: int) -> np.ndarray:
    """Round to the nearest whole numbers from 0 to ``highest``, as uint32."""
    return np.clip(np.rint(values), 0, highest).astype(np.uint32)
