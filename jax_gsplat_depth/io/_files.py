"""Reads, writes and describes files of Gaussians in any of the formats."""

from pathlib import Path

import numpy as np

from jax_gsplat_depth._types import Gaussians
from jax_gsplat_depth.io._compressed_ply import compressed_ply_record, write_compressed_ply
from jax_gsplat_depth.io._ply import ply_record, read_ply, write_ply
from jax_gsplat_depth.io._record import to_gaussians
from jax_gsplat_depth.io._splat import splat_record, write_splat
from jax_gsplat_depth.io._spz import spz_record, write_spz
from jax_gsplat_depth.io._tags import OnBad, SplatFile, Tags

FORMATS = {
    ".compressed.ply": ("compressed PLY", compressed_ply_record, write_compressed_ply),
    ".ply": ("PLY", ply_record, write_ply),
    ".splat": ("splat", splat_record, write_splat),
    ".spz": ("spz", spz_record, write_spz),
}
"""Name, reader and writer by suffix; where one suffix ends with another, the longer comes first."""

_MAX_PLY_HEADER = 1 << 16
"""Bytes of a PLY file in which its form is looked for."""


def read(path: str | Path, *, on_bad: OnBad = "error") -> SplatFile:
    """Read Gaussians from a file in any of the formats, with what it says about all of them."""
    return SplatFile(load(path, on_bad=on_bad))


def load(path: str | Path, *, on_bad: OnBad = "error") -> Gaussians:
    """Read Gaussians from a file in any of the formats.

    Args:
        path: ``.ply`` (plain or compressed: the header decides), ``.splat`` or ``.spz``.

    Returns:
        Float32 Gaussians with unit quaternions, linear scales, opacities in [0, 1] and SH of the
        3DGS convention, with the axes of 3DGS files.

    Raises:
        ValueError: The suffix is unknown, or the file is damaged, holds no Gaussian or a NaN; the
            message is one sentence that names the file and the reason.
        FileNotFoundError: There is no such file.
        ImportError: A library of an extra is not installed.
    """
    path = Path(path)
    suffix = _suffix_of_content(path)
    # Only the reader of plain PLY names the property at fault.
    plain = suffix == ".ply"
    gaussians = read_ply(path) if plain else to_gaussians(path, FORMATS[suffix][1](path))
    if len(gaussians.means) == 0:
        raise ValueError(f"{path} holds no Gaussian")
    return gaussians


def save(path: str | Path, gaussians: Gaussians, tags: Tags | None = None) -> None:
    """Write Gaussians to a file in the format of its suffix, whole or not at all.

    ``.ply`` is exact in float32, except for opacities within 1e-7 of 0 and 1. The other formats
    round; see ``write_compressed_ply``, ``write_splat`` and ``write_spz`` for their steps and their
    limits. Gaussians that cannot be drawn are left out.

    Args:
        path: ``.ply``, ``.compressed.ply``, ``.splat`` or ``.spz``; replaced if it exists.
        gaussians: With ``quats`` and ``scales``, and with ``sh`` of the 3DGS convention or with
            ``colors`` of 3 channels, which become SH of degree 0.

    Raises:
        ValueError: The suffix is unknown, or the Gaussians cannot be written.
        ImportError: A library of an extra is not installed.
    """
    FORMATS[_suffix(Path(path))][2](path, gaussians)


def check_suffix(path: Path) -> None:
    """Raise a ValueError if no format has the suffix of the path."""
    _suffix(path)


def describe(path: str | Path) -> str:
    """Return a few lines of text about a file: counts, SH degree, bounds, opacities, NaN.

    Raises:
        ValueError: The suffix is unknown, or the file is damaged; NaN does not count as damage.
        FileNotFoundError: There is no such file.
    """
    path = Path(path)
    name, read, _ = FORMATS[_suffix_of_content(path)]
    record = read(path)
    n, finite = len(record.means), record.finite()
    lines = {
        "file": f"{path} ({path.stat().st_size} bytes)",
        "format": name,
        "Gaussians": str(n),
        "SH degree": f"{record.sh_degree} ({record.sh.shape[1]} coefficients per channel)",
        "not finite": f"{n - int(finite.sum())} Gaussians with NaN or infinity",
    }
    shown = record[finite]
    if len(shown.means) > 0:
        for i, axis in enumerate("xyz"):
            lines[axis] = _range(shown.means[:, i])
        lines["scale"] = _range(shown.scales)
        lines["opacity"] = _range(shown.opacities)
    return "\n".join(f"{key + ':':<12}{value}" for key, value in lines.items())


def _range(values: np.ndarray) -> str:
    low, first, median, last, high = np.percentile(values, [0, 1, 50, 99, 100])
    return f"{low:.4g} to {high:.4g}, median {median:.4g}, 98 % in {first:.4g} to {last:.4g}"


def _suffix(path: Path) -> str:
    found = [suffix for suffix in FORMATS if path.name.lower().endswith(suffix)]
    if not found:
        known = ", ".join(FORMATS)
        raise ValueError(f"{path} has an unknown suffix: expected {known}")
    return found[0]


def _suffix_of_content(path: Path) -> str:
    """Return the suffix that fits the content: both forms of PLY may go by ``.ply``."""
    suffix = _suffix(path)
    if not suffix.endswith(".ply"):
        return suffix
    with path.open("rb") as stream:
        header = stream.read(_MAX_PLY_HEADER).partition(b"end_header")[0]
    return ".compressed.ply" if b" packed_position" in header else ".ply"
