"""Converts between ``Gaussians`` and ``Record``, the form that all readers and writers share.

A reader checks the layout of its file and returns a ``Record``, the numbers as they are stored;
``to_gaussians`` then refuses numbers that make no Gaussian. The command ``info`` describes the
record before that.
"""

import dataclasses
import math
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from jax_gsplat_depth._types import Gaussians
from jax_gsplat_depth.sh import SH_C0

MAX_SH_DEGREE = 4
"""Highest degree of spherical harmonics in any of the formats."""

N_BASES = tuple((degree + 1) ** 2 for degree in range(MAX_SH_DEGREE + 1))
"""Number of basis functions by degree."""


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

    def finite(self) -> np.ndarray:
        """Return ``(N,)`` bool, True where all numbers of a Gaussian are finite."""
        fields = self.fields().values()
        return np.logical_and.reduce([np.isfinite(a).all(tuple(range(1, a.ndim))) for a in fields])

    def drawable(self) -> np.ndarray:
        """Return ``(N,)`` bool, True where a Gaussian is finite and has a size and a rotation."""
        quats, scales = self.quats, self.scales
        return self.finite() & (quats != 0).any(axis=1) & (scales > 0).all(axis=1)

    def __getitem__(self, chosen: Any) -> "Record":
        """Return the chosen Gaussians; ``chosen`` indexes the first axis."""
        return Record(**{name: array[chosen] for name, array in self.fields().items()})


def to_gaussians(path: Path, record: Record) -> Gaussians:
    """Return float32 Gaussians with unit quaternions.

    Raises:
        ValueError: A number is not finite, or a rotation is zero; the message names file and place.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # Reported below.
        fields = {name: array.astype(np.float32) for name, array in record.fields().items()}
    for name, array in fields.items():
        bad = ~np.isfinite(array).all(axis=tuple(range(1, array.ndim)))
        if bad.any():
            raise ValueError(
                f"{path} has {name} that are not finite in Gaussian {bad.argmax()}: expected "
                "numbers in the range of float32"
            )
    quats = np.asarray(record.quats, np.float64)
    length = np.linalg.norm(quats, axis=1, keepdims=True)
    if (length == 0).any():
        raise ValueError(f"{path} has a zero rotation in Gaussian {length.argmin()}")
    fields["quats"] = (quats / length).astype(np.float32)
    arrays = {name: jnp.asarray(array) for name, array in fields.items()}
    sh = arrays.pop("sh")
    return Gaussians(**arrays, sh=sh)


def from_gaussians(gaussians: Gaussians) -> Record:
    """Return the Gaussians that can be drawn, in float64 with unit quaternions.

    The others (NaN or infinity anywhere, a scale <= 0, a zero quaternion) are left out of files.

    Raises:
        ValueError: A field is missing or has the wrong shape.
    """
    if gaussians.quats is None or gaussians.scales is None:
        raise ValueError("gaussians has no quats and scales: the file formats cannot hold covars")
    fields = {
        name: np.asarray(getattr(gaussians, name), np.float64)
        for name in ("means", "quats", "scales", "opacities", "sh", "colors")
        if getattr(gaussians, name) is not None
    }
    n = len(fields["means"])
    if "sh" not in fields:
        colors = fields.pop("colors", np.zeros(0))
        if colors.shape != (n, 3):
            raise ValueError(f"gaussians.colors has shape {colors.shape}, expected ({n}, 3) or sh")
        fields["sh"] = ((colors - 0.5) / SH_C0)[:, None]
    fields.pop("colors", None)
    n_bases = fields["sh"].shape[1] if fields["sh"].ndim == 3 else 0
    shapes = {"means": (n, 3), "quats": (n, 4), "scales": (n, 3), "opacities": (n,)}
    shapes["sh"] = (n, n_bases if n_bases in N_BASES else 1, 3)
    for name, shape in shapes.items():
        if name not in fields or fields[name].shape != shape:
            found = fields[name].shape if name in fields else None
            raise ValueError(f"gaussians.{name} has shape {found}, expected {shape}")
    record = Record(**fields)
    record = record[record.drawable()]
    length = np.linalg.norm(record.quats, axis=1, keepdims=True)
    return dataclasses.replace(record, quats=record.quats / length)


def require_some(record: Record, path: Path) -> Record:
    """Return the record; raise a ValueError that names the file if it is empty."""
    if len(record.means) == 0:
        raise ValueError(f"{path} would hold no Gaussian: none of those given can be drawn")
    return record


def quantise(values: np.ndarray, highest: int) -> np.ndarray:
    """Round to the nearest whole numbers from 0 to ``highest``, as uint32."""
    return np.clip(np.rint(values), 0, highest).astype(np.uint32)
