"""Reads and writes ``.splat`` of web viewers: 32 bytes a Gaussian, no header, one colour.

A record holds the position and the linear scales as float32, then red, green, blue and opacity in
steps of 1/255, then the quaternion wxyz in steps of 1/128 with 0 at 128. The axes are those of PLY.
"""

from pathlib import Path

import numpy as np

from jax_gsplat_depth._common.atomic import atomic_write
from jax_gsplat_depth._common.regular_file import read_regular
from jax_gsplat_depth._types import Gaussians
from jax_gsplat_depth.io._placing import in_world, refuse_antialiased
from jax_gsplat_depth.io._record import (
    SH_C0,
    Record,
    from_gaussians,
    quantise,
    require_some,
    to_file,
    with_unit_quats,
)
from jax_gsplat_depth.io._tags import Saved, Tags

_LAYOUT = np.dtype(
    [("means", "<f4", 3), ("scales", "<f4", 3), ("rgba", "u1", 4), ("quats", "u1", 4)]
)


def write_splat(path: str | Path, gaussians: Gaussians, tags: Tags | None = None) -> Saved:
    """Write Gaussians as ``.splat``, whole or not at all.

    Means and scales are exact in float32. Colours (0.5 + 0.282 times the first SH coefficient,
    clipped to 0..1) and opacities have steps of 1/255, the components of the unit quaternion steps
    of 1/128. Higher SH coefficients are lost. Gaussians that cannot be drawn are left out, as in
    ``write_ply``.

    Args:
        path: File to write; replaced if it exists.
        gaussians: As for ``write_ply``.
        tags: The origin is added to the means.

    Raises:
        ValueError: A field is missing or has the wrong shape, no Gaussian can be drawn, float32 is
            too coarse for the means with the origin, or the tags say that the Gaussians are
            antialiased, for which there is no place.
    """
    path, tags = Path(path), tags or Tags()
    refuse_antialiased(path, tags)
    record, dropped = from_gaussians(gaussians)
    record = with_unit_quats(in_world(path, require_some(record, path), tags, _step))
    rows = np.zeros(len(record.means), _LAYOUT)
    rows["means"], rows["scales"] = record.means, record.scales
    rows["rgba"][:, :3] = quantise(255 * (0.5 + SH_C0 * record.sh[:, 0]), 255)
    rows["rgba"][:, 3] = quantise(255 * record.opacities, 255)
    # q and -q are one rotation; -1 has a code, but +1 has none.
    largest = np.abs(record.quats).argmax(axis=1)[:, None]
    sign = -np.sign(np.take_along_axis(record.quats, largest, axis=1))
    rows["quats"] = quantise(128 * sign * record.quats + 128, 255)
    atomic_write(path, lambda stream: stream.write(rows.tobytes()))
    return Saved(len(rows), dropped, 0)


def _step(means: np.ndarray) -> float:
    return float(np.spacing(np.abs(means).max().astype(np.float32)))


def read_splat(path: str | Path) -> Gaussians:
    """Read Gaussians from a ``.splat`` file.

    Returns:
        Float32 Gaussians with the quaternions of the file, whose length is nearly 1, and SH of
        degree 0.

    Raises:
        ValueError: The file is empty, does not end with a whole record, or holds a Gaussian that
            cannot be drawn; the message is one sentence that names it.
        FileNotFoundError: There is no such file.
    """
    path = Path(path)
    return to_file(path, *splat_record(path), "error").gaussians


def splat_record(path: Path) -> tuple[Record, Tags]:
    """Return the Gaussians as they are stored, NaN included; such a file has no tags."""
    data = read_regular(path)
    size = len(data)
    if size == 0 or size % _LAYOUT.itemsize:
        raise ValueError(
            f"{path} has {size} bytes: expected a .splat file, one or more records of "
            f"{_LAYOUT.itemsize} bytes"
        )
    rows = np.frombuffer(data, _LAYOUT)
    record = Record(
        means=rows["means"],
        quats=(rows["quats"].astype(np.float32) - 128) / 128,
        scales=rows["scales"],
        opacities=rows["rgba"][:, 3] / 255,
        sh=(rows["rgba"][:, None, :3] / 255 - 0.5) / SH_C0,
    )
    return record, Tags()
