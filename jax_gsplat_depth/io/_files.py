"""Reads, writes and describes files of Gaussians in any of the formats."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jax_gsplat_depth._common.one_line import one_line
from jax_gsplat_depth._common.regular_file import open_regular
from jax_gsplat_depth._types import Gaussians
from jax_gsplat_depth.io._compressed_ply import compressed_ply_record, write_compressed_ply
from jax_gsplat_depth.io._ksplat import ksplat_record
from jax_gsplat_depth.io._ply import ply_record, write_ply
from jax_gsplat_depth.io._ply_file import read_header
from jax_gsplat_depth.io._record import NOT_FINITE, Record, to_file
from jax_gsplat_depth.io._sog import sog_record
from jax_gsplat_depth.io._sog_source import META
from jax_gsplat_depth.io._sog_write import write_sog
from jax_gsplat_depth.io._splat import splat_record, write_splat
from jax_gsplat_depth.io._spz import MAX_EXPANSION, spz_record, write_spz
from jax_gsplat_depth.io._tags import OnBad, Saved, SplatFile, Tags, without_tags


@dataclasses.dataclass(frozen=True)
class _Format:
    """What is done with files of one kind; ``write`` is None where they are only read."""

    name: str
    read: Callable[..., tuple[Record, Tags]]
    write: Callable[[Path, Gaussians, Tags | None], Saved] | None


FORMATS = {
    ".compressed.ply": _Format("compressed PLY", compressed_ply_record, write_compressed_ply),
    ".ply": _Format("PLY", ply_record, write_ply),
    ".splat": _Format("splat", splat_record, write_splat),
    ".spz": _Format("spz", spz_record, write_spz),
    ".sog": _Format("SOG", sog_record, write_sog),
    META: _Format("SOG folder", sog_record, write_sog),
    ".ksplat": _Format("ksplat", ksplat_record, None),
}
"""The formats by suffix or name; where one suffix ends with another, the longer comes first."""

_COMPRESSED = (".spz", ".sog", META)
"""The formats in which a few bytes can stand for many."""

_MOST_COMMENTS = 2000
"""Letters of the comments of a PLY that are described; some programs write very many."""


def read(
    path: str | Path, *, on_bad: OnBad = "error", max_expansion: float = MAX_EXPANSION
) -> SplatFile:
    """Read a file of Gaussians in any of the formats, with what it says about all of them.

    What a file holds beyond that, such as other elements and properties of a PLY or unknown
    extensions of ``.spz``, is left out with a ``FileWarning`` that names it; lines ``obj_info`` of
    a PLY are left out without one. ``read_ply`` has the values for what a PLY may lack.

    Args:
        path: ``.ply`` (plain or compressed: the header decides), ``.splat``, ``.spz``, ``.sog``,
            ``.ksplat``, or a SOG folder or its ``meta.json``.
        on_bad: What is done if a Gaussian cannot be drawn, because of a NaN, an infinity, a number
            beyond float32, a scale of zero or less, or a zero rotation: "error" refuses the file,
            "drop" leaves these Gaussians out.
        max_expansion: How many bytes of Gaussians an ``.spz`` or a SOG may hold for each of its
            own; more than 4 MiB are refused beyond that, since a file of zeros could fill the
            memory.

    Returns:
        The Gaussians, as ``load`` returns them, the tags, and how many were dropped for what.

    Raises:
        ValueError: The suffix is unknown, the file is damaged or expands too much, or it holds no
            Gaussian or, unless they are dropped, one that cannot be drawn; the message is one
            sentence that names the file and the reason.
        FileNotFoundError: There is no such file.
        ImportError: A library of an extra is not installed.
    """
    path = Path(path)
    _, record, tags = _read(path, max_expansion)
    if len(record.means) == 0:
        raise ValueError(f"{path} holds no Gaussian")
    return to_file(path, record, tags, on_bad)


def load(
    path: str | Path, *, on_bad: OnBad = "error", max_expansion: float = MAX_EXPANSION
) -> Gaussians:
    """Read Gaussians from a file in any of the formats; ``read`` returns its tags as well.

    A ``FileWarning`` names the tags ``origin`` and ``antialiased`` where the file has them.

    Args:
        path: As for ``read``.
        on_bad: As for ``read``.
        max_expansion: As for ``read``.

    Returns:
        Float32 Gaussians with linear scales, opacities in [0, 1] and SH of the 3DGS convention,
        with the axes of 3DGS files. Their quaternions have the length that the file gives them:
        ``render`` normalises them, the ``compat`` rasterizers take unit quaternions.

    Raises:
        ValueError: As ``read``.
        FileNotFoundError: There is no such file.
        ImportError: A library of an extra is not installed.
    """
    return without_tags(Path(path), read(path, on_bad=on_bad, max_expansion=max_expansion))


def save(path: str | Path, gaussians: Gaussians, tags: Tags | None = None) -> Saved:
    """Write Gaussians to a file in the format of its suffix, whole or not at all.

    ``.ply`` is exact in float32, except for opacities within 1e-7 of 0 and 6e-8 of 1. The other
    formats round; see ``write_compressed_ply``, ``write_splat``, ``write_spz`` and ``write_sog``
    for their steps and their limits. Gaussians that cannot be drawn are left out.

    Args:
        path: ``.ply``, ``.compressed.ply``, ``.splat``, ``.spz`` or ``.sog``; replaced if it
            exists. ``meta.json`` in a folder makes that a SOG folder, see ``write_sog``.
        gaussians: With ``quats`` and ``scales``, and with ``sh`` of the 3DGS convention or with
            ``colors`` of 3 channels, which become SH of degree 0.
        tags: What to say about all of them, for example that of ``read``. The forms of PLY hold
            all but ``fractional_bits``, which they do not need, in comments of the header;
            ``.spz`` holds ``antialiased`` and ``fractional_bits``, SOG ``antialiased``, ``.splat``
            none. Where there is no place, an origin is added to the means if that does not make
            them coarse, comments are left out, and ``antialiased`` is refused.

    Returns:
        How many Gaussians were written, how many left out for what reason, and the SH degree of the
        file.

    Raises:
        ValueError: The suffix is unknown or that of a format that is only read, or the Gaussians
            or a tag cannot be written.
        ImportError: A library of an extra is not installed.
    """
    path = Path(path)
    return _writer(path)(path, gaussians, tags)


def check_suffix(path: Path) -> None:
    """Raise a ValueError if no format that can be written has the suffix of the path."""
    _writer(path)


def _writer(path: Path) -> Callable[[Path, Gaussians, Tags | None], Saved]:
    suffix = _suffix(path)
    if (write := FORMATS[suffix].write) is None:
        known = ", ".join(key for key, form in FORMATS.items() if form.write is not None)
        raise ValueError(f"{path} cannot be written: {suffix} is only read, choose one of {known}")
    return write


def size_on_disk(path: str | Path) -> int:
    """Return the bytes of a file of Gaussians, or of all files of a SOG folder."""
    path = Path(path)
    if _suffix(path) != META:
        return path.stat().st_size
    files = (path if path.is_dir() else path.parent).iterdir()
    return sum(file.stat().st_size for file in files if file.is_file())


def describe(path: str | Path, *, max_expansion: float = MAX_EXPANSION) -> str:
    """Return a few lines of text about a file: counts, tags, bounds, and what cannot be drawn.

    Args:
        path: As for ``read``.
        max_expansion: As for ``read``.

    Raises:
        ValueError: The suffix is unknown, or the file is damaged; Gaussians that cannot be drawn do
            not count as damage.
        FileNotFoundError: There is no such file.
    """
    path = Path(path)
    name, record, tags = _read(path, max_expansion)
    good, counts = record.drawable()
    shown = slice(None) if good is None else good
    not_finite = sum(counts.get(reason, 0) for reason in NOT_FINITE)
    reasons = ", ".join(f"{count} {reason}" for reason, count in counts.items())
    lines = {
        "file": f"{path} ({size_on_disk(path)} bytes)",
        "format": name,
        "Gaussians": str(len(record.means)),
        "SH degree": f"{record.sh_degree} ({record.sh.shape[1]} coefficients per channel)",
        "not finite": f"{not_finite} Gaussians with NaN or infinity",
        "not drawable": f"{sum(counts.values())} Gaussians" + (f": {reasons}" if reasons else ""),
        **_lines_of(tags),
    }
    if len(record.means) > sum(counts.values()):
        for i, axis in enumerate("xyz"):
            lines[axis] = _range(record.means[shown, i])
        lines["scale"] = _range(record.scales[shown])
        lines["opacity"] = _range(record.opacities[shown])
    return "\n".join(f"{key + ':':<17}{value}" for key, value in lines.items())


def _lines_of(tags: Tags) -> dict[str, Any]:
    lines = {"antialiased": {True: "yes (mip)", False: "no", None: "not said"}[tags.antialiased]}
    if any(tags.origin):
        lines["origin"] = " ".join(map(repr, tags.origin))
    if tags.fractional_bits is not None:
        lines["fractional bits"] = str(tags.fractional_bits)
    if tags.comments:
        text = one_line("; ".join(tags.comments))
        cut = f"... ({len(tags.comments)} comments)" if len(text) > _MOST_COMMENTS else ""
        lines["comments"] = text[:_MOST_COMMENTS] + cut
    return lines


def _read(path: Path, max_expansion: float) -> tuple[str, Record, Tags]:
    """Return the name of the format, the Gaussians as they are stored, and the tags."""
    suffix = _suffix_of_content(path)
    form = FORMATS[suffix]
    options = {"max_expansion": max_expansion} if suffix in _COMPRESSED else {}
    return form.name, *form.read(path, **options)


def _range(values: np.ndarray) -> str:
    low, first, median, last, high = np.percentile(values, [0, 1, 50, 99, 100])
    return f"{low:.4g} to {high:.4g}, median {median:.4g}, 98 % in {first:.4g} to {last:.4g}"


def _suffix(path: Path) -> str:
    name = path.name.lower()
    if name == META or (path / META).is_file():
        return META
    found = [suffix for suffix in FORMATS if name.endswith(suffix) and suffix != META]
    if not found:
        known = ", ".join(FORMATS)
        raise ValueError(f"{path} has an unknown suffix: expected {known}")
    return found[0]


def _suffix_of_content(path: Path) -> str:
    """Return the suffix that fits the content: both forms of PLY may go by ``.ply``."""
    suffix = _suffix(path)
    if not suffix.endswith(".ply"):
        return suffix
    with open_regular(path) as stream:
        header, _ = read_header(path, stream)
    # A comment may name it as well.
    packed = re.search(rb"^property[ \t].*[ \t]packed_position\s*$", header, re.MULTILINE)
    return ".compressed.ply" if packed else ".ply"
