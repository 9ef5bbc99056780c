"""Reads and writes the PLY form of 3DGS, which viewers and other trainers share.

The file holds the variables of 3DGS's optimiser: the logarithm of the scales, the logit of the
opacity, the quaternion wxyz. ``f_dc_*`` are the first SH coefficients of red, green and blue,
``f_rest_*`` the others: all of red, then all of green, then all of blue.
"""

from pathlib import Path

import numpy as np

from jax_gsplat_depth._types import Gaussians
from jax_gsplat_depth.io._ply_file import NewElement, open_ply, write_elements
from jax_gsplat_depth.io._ply_form import (
    DC,
    MEANS,
    NORMALS,
    QUATS,
    SCALES,
    form_of,
    record_of,
    warn_of_form,
    warn_unused,
)
from jax_gsplat_depth.io._record import Record, from_gaussians, to_file
from jax_gsplat_depth.io._tags import Saved, Tags, comments_of, tags_of_comments, without_tags

_LEAST_OPACITY, _GREATEST_OPACITY = 1e-7, 1 - 2.0**-24
"""Opacities are written within these: the logit stays finite, and float32 holds the opacity."""


def write_ply(path: str | Path, gaussians: Gaussians, tags: Tags | None = None) -> Saved:
    """Write Gaussians in the 3DGS form as float32, whole or not at all.

    A Gaussian that can never be drawn (NaN or infinity anywhere, a scale <= 0, a zero quaternion)
    is left out. Opacities stay 1e-7 away from 0, and 6e-8 from 1. A file that was read and is
    written again has the same bytes from then on.

    Args:
        path: File to write; replaced if it exists.
        gaussians: With ``quats`` and ``scales``, and with ``sh`` of the 3DGS convention or with
            ``colors`` of 3 channels, which become SH of degree 0.
        tags: What the header says about all of them; None for nothing.

    Raises:
        ValueError: A field is missing or has the wrong shape.
        ImportError: plyfile is not installed.
    """
    record, dropped = from_gaussians(gaussians)
    rest = [f"f_rest_{i}" for i in range(3 * (record.sh.shape[1] - 1))]
    names = [*MEANS, *NORMALS, *DC, *rest, "opacity", *SCALES, *QUATS]
    blocks = map(_columns, record.blocks())
    vertex = NewElement("vertex", names, "<f4", len(record.means), blocks)
    write_elements(Path(path), [vertex], comments_of(tags or Tags()))
    return Saved(len(record.means), dropped, record.sh_degree)


def _columns(block: Record) -> np.ndarray:
    """Return ``(N, properties)`` values in the order of the file."""
    sh = block.sh
    opacities = np.clip(block.opacities, _LEAST_OPACITY, _GREATEST_OPACITY)
    return np.concatenate(
        [
            block.means,
            np.zeros_like(block.means),
            sh[:, 0],
            sh[:, 1:].swapaxes(1, 2).reshape(len(sh), 3 * (sh.shape[1] - 1)),
            np.log(opacities / (1 - opacities))[:, None],
            np.log(block.scales),
            block.quats,
        ],
        axis=1,
    )


def read_ply(path: str | Path) -> Gaussians:
    """Read Gaussians from a PLY file in the 3DGS form; warns of tags as ``load``.

    Properties that are missing get these values, and a ``FileWarning`` says so: without ``f_dc_*``
    the colours are those of ``red``, ``green`` and ``blue`` (of a whole type up to its largest
    number, or floats up to 1 or 255), else grey; without ``scale_2``, as 2DGS writes, it is 0.001
    times the smaller scale; without ``scale_1`` and ``scale_2`` all three scales are ``scale_0``;
    without ``rot_*`` nothing is rotated.

    Args:
        path: Binary or text PLY; bytes after the last record are ignored.

    Returns:
        Float32 Gaussians with the quaternions of the file, of any length, and SH of the 3DGS
        convention, degree 0 to 4.

    Raises:
        ValueError: The file is not a PLY, is damaged, lacks a property or holds a Gaussian that
            cannot be drawn; the message is one sentence that names it.
        FileNotFoundError: There is no such file.
        ImportError: plyfile is not installed.
    """
    path = Path(path)
    return without_tags(path, to_file(path, *ply_record(path), "error"))


def ply_record(path: Path) -> tuple[Record, Tags]:
    """Return the Gaussians as they are stored, NaN included, and what the header says of them."""
    with open_ply(path) as (elements, comments):
        form = form_of(path, elements["vertex"])
        warn_unused(path, "elements", {*elements} - {"vertex"})
        warn_of_form(path, elements["vertex"], form)
        record = record_of(elements["vertex"], form)
    return record, tags_of_comments(path, comments)
