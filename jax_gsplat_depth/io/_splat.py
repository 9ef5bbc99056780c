"""Reads and writes ``.splat`` of web viewers: 32 bytes a Gaussian, no header, one colour.

A record holds the position and the linear scales as float32, then red, green, blue and opacity in
steps of 1/255, then the quaternion wxyz in steps of 1/128 with 0 at 128. The axes are those of PLY.
"""

import os
from pathlib import Path
from typing import BinaryIO

import numpy as np

from jax_gsplat_depth._common.atomic import atomic_write
from jax_gsplat_depth._common.regular_file import open_regular
from jax_gsplat_depth._types import Gaussians
from jax_gsplat_depth.io._placing import in_world, refuse_antialiased
from jax_gsplat_depth.io._record import (
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
    record = in_world(path, require_some(record, path), tags, _step)

    def write(stream: BinaryIO) -> None:
        for block in record.blocks():
            stream.write(_rows(with_unit_quats(block)).data)

    atomic_write(path, write)
    return Saved(len(record.means), dropped, 0)


def _rows(block: Record) -> np.ndarray:
    rows = np.zeros(len(block.means), _LAYOUT)
    rows["means"], rows["scales"] = block.means, block.scales
    rows["rgba"][:, :3] = quantise(255 * (0.5 + SH_C0 * block.sh[:, 0]), 255)
    rows["rgba"][:, 3] = quantise(255 * block.opacities, 255)
    # q and -q are one rotation; -1 has a code, but +1 has none.
    largest = np.abs(block.quats).argmax(axis=1)[:, None]
    sign = -np.sign(np.take_along_axis(block.quats, largest, axis=1))
    rows["quats"] = quantise(128 * sign * block.quats + 128, 255)
    return rows


def _step(means: np.ndarray) -> float:
    return float(np.spacing(np.float32(max(means.max(), -means.min()))))


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
    with open_regular(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size == 0 or size % _LAYOUT.itemsize:
            raise ValueError(
                f"{path} has {size} bytes: expected a .splat file, one or more records of "
                f"{_LAYOUT.itemsize} bytes"
            )
        n = size // _LAYOUT.itemsize
        means, quats, scales = aligned((n, 3)), aligned((n, 4)), aligned((n, 3))
        opacities, sh = aligned((n,)), aligned((n, 1, 3))
        for part in parts(n):
            rows = np.fromfile(stream, _LAYOUT, part.stop - part.start)
            if len(rows) < part.stop - part.start:
                raise ValueError(f"{path} became shorter while it was read")
            means[part], scales[part] = rows["means"], rows["scales"]
            quats[part] = (rows["quats"].astype(np.float32) - 128) / 128
            opacities[part] = rows["rgba"][:, 3] / 255
            sh[part] = (rows["rgba"][:, None, :3] / 255 - 0.5) / SH_C0
    return Record(means, quats, scales, opacities, sh), Tags()
