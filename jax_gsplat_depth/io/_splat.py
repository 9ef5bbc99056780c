"""Reads and writes ``.splat`` of web viewers: 32 bytes a Gaussian, no header, one colour.

A record holds the position and the linear scales as float32, then red, green, blue and opacity in
steps of 1/255, then the quaternion wxyz in steps of 1/128 with 0 at 128. The axes are those of PLY.
"""

from pathlib import Path

import numpy as np

from jax_gsplat_depth._common.atomic import atomic_write
from jax_gsplat_depth._types import Gaussians
from jax_gsplat_depth.io._record import (
    SH_C0,
    Record,
    from_gaussians,
    quantise,
    require_some,
    to_gaussians,
)

_LAYOUT = np.dtype(
    [("means", "<f4", 3), ("scales", "<f4", 3), ("rgba", "u1", 4), ("quats", "u1", 4)]
)


def write_splat(path: str | Path, gaussians: Gaussians) -> None:
    """Write Gaussians as ``.splat``, whole or not at all.

    Means and scales are exact in float32. Colours (0.5 + 0.282 times the first SH coefficient,
    clipped to 0..1) and opacities have steps of 1/255, the components of the unit quaternion steps
    of 1/128. Higher SH coefficients are lost. Gaussians that cannot be drawn are left out, as in
    ``write_ply``.

    Args:
        path: File to write; replaced if it exists.
        gaussians: As for ``write_ply``.

    Raises:
        ValueError: A field is missing or has the wrong shape, or no Gaussian can be drawn.
    """
    path = Path(path)
    record = require_some(from_gaussians(gaussians), path)
    rows = np.zeros(len(record.means), _LAYOUT)
    rows["means"], rows["scales"] = record.means, record.scales
    rows["rgba"][:, :3] = quantise(255 * (0.5 + SH_C0 * record.sh[:, 0]), 255)
    rows["rgba"][:, 3] = quantise(255 * record.opacities, 255)
    # q and -q are one rotation; -1 has a code, but +1 has none.
    largest = np.abs(record.quats).argmax(axis=1)[:, None]
    sign = -np.sign(np.take_along_axis(record.quats, largest, axis=1))
    rows["quats"] = quantise(128 * sign * record.quats + 128, 255)
    atomic_write(path, lambda stream: stream.write(rows.tobytes()))


def read_splat(path: str | Path) -> Gaussians:
    """Read Gaussians from a ``.splat`` file.

    Returns:
        Float32 Gaussians with unit quaternions and SH of degree 0.

    Raises:
        ValueError: The file is empty, does not end with a whole record, or holds a NaN or a zero
            rotation; the message is one sentence that names it.
        FileNotFoundError: There is no such file.
    """
    path = Path(path)
    return to_gaussians(path, splat_record(path))


def splat_record(path: Path) -> Record:
    """Return the Gaussians as they are stored, NaN included."""
    size = path.stat().st_size
    if size == 0 or size % _LAYOUT.itemsize:
        raise ValueError(
            f"{path} has {size} bytes: expected a .splat file, one or more records of "
            f"{_LAYOUT.itemsize} bytes"
        )
    rows = np.frombuffer(path.read_bytes(), _LAYOUT)
    return Record(
        means=rows["means"],
        quats=(rows["quats"].astype(np.float64) - 128) / 128,
        scales=rows["scales"],
        opacities=rows["rgba"][:, 3] / 255,
        sh=(rows["rgba"][:, None, :3] / 255 - 0.5) / SH_C0,
    )
