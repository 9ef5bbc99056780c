"""Writes SOG of version 2, as a ``.sog`` file or as a folder; ``_sog`` reads it."""

import dataclasses
import json
import math
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from jax_gsplat_depth._common.atomic import atomic_write
from jax_gsplat_depth._types import Gaussians
from jax_gsplat_depth.io._arrange import morton_order
from jax_gsplat_depth.io._codebook import codebook, palette
from jax_gsplat_depth.io._placing import in_world, is_coarse
from jax_gsplat_depth.io._record import (
    N_BASES,
    Record,
    from_gaussians,
    quantise,
    require_some,
    with_unit_quats,
)
from jax_gsplat_depth.io._sog_pictures import MAX_SIDE, encode
from jax_gsplat_depth.io._sog_source import META
from jax_gsplat_depth.io._tags import FileWarning, Saved, Tags

_MAX_SH_DEGREE = 3
_CODES_OF_MEANS = 65535
_FLOAT = np.finfo(np.float32)

# Rounded, the largest and the smallest of float32 must not leave its range.
_SCALE_LOGS = np.log([1.00001 * float(_FLOAT.tiny), 0.99999 * float(_FLOAT.max)])
_LARGEST_LOG = math.log(0.99999 * float(_FLOAT.max))

_EPOCH = (1980, 1, 1, 0, 0, 0)
"""Time of the members of a zip file, which would otherwise differ from run to run."""


def write_sog(path: str | Path, gaussians: Gaussians, tags: Tags | None = None) -> Saved:
    """Write Gaussians as SOG of version 2; a ``.sog`` file appears whole or not at all.

    A value is off by at most half a step. A step is 1/65535 of the range of sign(x) log(1 + |x|)
    for positions, along each axis; 1/255 for opacities; sqrt(2)/255 for the three smaller
    components of the unit quaternion. Logarithms of scales, first SH coefficients and higher ones
    are rounded to the nearest of 256 numbers each, which are chosen for them: 1/256 of their range
    apart where values are spread evenly, closer where there are more, exact if there are no more.
    Of more than 65536 Gaussians, means over those with similar higher SH coefficients stand for
    these. The Gaussians are sorted along a space-filling curve; those that cannot be drawn are left
    out.

    A ``FileWarning`` says that positions were rounded coarsely, to steps of more than 0.02 times
    the median scale.

    Args:
        path: A ``.sog`` file, replaced if it exists; or a folder, or ``meta.json`` in it: there the
            pictures replace those of the same name, and ``meta.json`` is removed before that and
            written last, so that it never names pictures of another scene.
        gaussians: As for ``write_ply``; SH of degree 4 loses its last degree.
        tags: ``antialiased`` is written, ``origin`` added to the means.

    Raises:
        ValueError: A field is missing or has the wrong shape, no Gaussian can be drawn, there are
            more than 268 million, or the positions would become coarse with the origin.
        ImportError: Pillow is not installed.
    """
    path, tags = Path(path), tags or Tags()
    record, dropped = from_gaussians(gaussians)
    record = in_world(path, _precise(require_some(record, path)), tags, _median_step)
    if len(record.means) > _width(MAX_SIDE**2) * MAX_SIDE:
        raise ValueError(f"{path} cannot hold {len(record.means)} Gaussians: choose .ply")
    record = with_unit_quats(record)[morton_order(record.means)]
    meta, pictures = _content(path, record, tags)
    text = json.dumps(meta, separators=(",", ":")).encode()
    if path.suffix.lower() == ".sog":
        atomic_write(path, lambda stream: _write_zip(stream, {META: text, **pictures}))
    else:
        _write_folder(path.parent if path.name.lower() == META else path, text, pictures)
    return Saved(len(record.means), dropped, min(record.sh_degree, _MAX_SH_DEGREE))


def _precise(record: Record) -> Record:
    """Return the Gaussians in float64, but for the coefficients, which are most of them."""
    fields = {name: array for name, array in record.fields().items() if name != "sh"}
    return dataclasses.replace(record, **{k: v.astype(np.float64) for k, v in fields.items()})


def _content(path: Path, record: Record, tags: Tags) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return what ``meta.json`` says, and the pictures by name."""
    means, low, high = _mean_codes(path, record)
    scales, scale_codes = codebook(np.clip(np.log(record.scales), *_SCALE_LOGS))
    colors, color_codes = codebook(record.sh[:, 0].astype(np.float64))
    opacities = quantise(255 * record.opacities, 255).astype(np.uint8)
    codes = {
        "means_l": (means & 255).astype(np.uint8),
        "means_u": (means >> 8).astype(np.uint8),
        "scales": scale_codes,
        "quats": _quat_codes(record.quats),
        "sh0": np.concatenate([color_codes, opacities[:, None]], axis=1),
    }
    meta: dict[str, Any] = {
        "version": 2,
        "asset": {"generator": "jax-gsplat-depth"},
        "count": len(means),
        "means": {"mins": low.tolist(), "maxs": high.tolist()},
        "scales": {"codebook": scales.tolist()},
        "quats": {},
        "sh0": {"codebook": colors.tolist()},
    }
    if tags.antialiased is not None:
        # The key of the specification, and that of SplatTransform since version 3.
        meta |= {
            "antialias": tags.antialiased,
            "model": "antialiased" if tags.antialiased else "default",
        }
    width = _width(len(means))
    pictures = {f"{name}.webp": encode(pixels, width) for name, pixels in codes.items()}
    if degree := min(record.sh_degree, _MAX_SH_DEGREE):
        rest = record.sh[:, 1 : N_BASES[degree]]
        entries, labels = palette(rest.reshape(len(rest), -1).astype(np.float32))
        values, value_codes = codebook(entries)
        meta["shN"] = {"count": len(entries), "bands": degree, "codebook": values.tolist()}
        bytes_of = np.stack([labels & 255, labels >> 8, 0 * labels], axis=1).astype(np.uint8)
        pictures["shN_centroids.webp"] = encode(value_codes.reshape(-1, 3), 64 * rest.shape[1])
        pictures["shN_labels.webp"] = encode(bytes_of, width)
    for name in pictures:
        part = meta[name.removesuffix(".webp").partition("_")[0]]
        part.setdefault("files", []).append(name)
    return meta, pictures


def _width(n: int) -> int:
    """Return the width of a picture of ``n`` pixels, nearly square, in multiples of 4."""
    return min(4 * math.ceil(math.sqrt(n) / 4), MAX_SIDE // 4 * 4)


def _logs(means: np.ndarray) -> np.ndarray:
    return np.copysign(np.minimum(np.log1p(np.abs(means)), _LARGEST_LOG), means)


def _steps(means: np.ndarray) -> np.ndarray:
    """Return ``(N,)`` the largest step of each position, in world units."""
    sizes = np.abs(means)
    steps = (1 + sizes) * (np.ptp(_logs(means), axis=0) / _CODES_OF_MEANS)
    # Finer ones are lost in float32, in which readers have positions.
    in_float32 = np.minimum(sizes, float(_FLOAT.max) / 2).astype(np.float32)
    return np.maximum(steps, np.spacing(in_float32)).max(axis=1)


def _median_step(means: np.ndarray) -> float:
    return float(np.median(_steps(means)))


def _mean_codes(path: Path, record: Record) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return ``(N, 3)`` codes of the positions, and the ends of their range."""
    logs = _logs(record.means)
    low, high = logs.min(axis=0), logs.max(axis=0)
    extent = np.where(high > low, high - low, 1.0)
    exact = _CODES_OF_MEANS * ((logs - low) / extent)
    codes = quantise(exact, _CODES_OF_MEANS)
    step = _median_step(record.means)
    # Those of a file with the same steps do not move.
    if is_coarse(record, step) and np.abs(exact - codes).max() > 0.1:
        farthest = float(np.abs(record.means).max())
        warnings.warn(
            f"{path}: positions of up to {farthest:.3g} leave steps of {step:.2g}, which is coarse "
            f"for scales of {float(np.median(record.scales)):.2g}: choose .ply to keep them",
            FileWarning,
            stacklevel=4,
        )
    return codes, low, high


def _quat_codes(quats: np.ndarray) -> np.ndarray:
    """Return ``(N, 4)``: the three smaller components in 0..255, and which one is missing."""
    largest = np.abs(quats).argmax(axis=1)[:, None]
    positive = quats * np.sign(np.take_along_axis(quats, largest, axis=1))
    others = positive[np.arange(4) != largest].reshape(-1, 3)
    codes = quantise(255 * (others / np.sqrt(2) + 0.5), 255)
    return np.concatenate([codes, 252 + largest], axis=1).astype(np.uint8)


def _write_zip(stream: Any, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), data)  # WebP does not shrink.


def _write_folder(folder: Path, text: bytes, pictures: dict[str, bytes]) -> None:
    folder.mkdir(exist_ok=True)
    (folder / META).unlink(missing_ok=True)
    for name, data in {**pictures, META: text}.items():
        atomic_write(folder / name, lambda stream, data=data: stream.write(data))
