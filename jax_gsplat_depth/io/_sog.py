"""Reads and writes PlayCanvas' SOG: pictures whose pixels are Gaussians, and their ``meta.json``.

A scene is a ``.sog`` file, which is a zip file of these, or a folder with them. Positions have 16
bits on a logarithmic scale, scales and colours are numbers of a codebook, quaternions have 8 bits
for each of their three smaller components, and the higher SH coefficients are entries of a palette
(https://developer.playcanvas.com/user-manual/gaussian-splatting/formats/sog). The axes are those of
PLY, as in the tools that write both.

The reader knows the size of every picture before it is decoded, and refuses far more than a scene
shrinks by.
"""

from pathlib import Path

import numpy as np

from jax_gsplat_depth._types import Gaussians
from jax_gsplat_depth.io._record import N_BASES, Record, to_file
from jax_gsplat_depth.io._sog_meta import Meta, degree_of_width, read_meta
from jax_gsplat_depth.io._sog_pictures import decode, picture_size
from jax_gsplat_depth.io._sog_source import MAX_META, META, Source, opened
from jax_gsplat_depth.io._spz import MAX_EXPANSION
from jax_gsplat_depth.io._tags import Tags, without_tags

_BELIEVED = 1 << 22
"""Bytes of Gaussians that are believed of any scene, as of an ``.spz``."""

_PER_GAUSSIAN = 20
"""Bytes of the pixels of a Gaussian without higher SH coefficients."""

_ROW = 64
"""Entries of the palette in a row of its picture."""

_FIRST_MODE = 252
"""What the alpha of a quaternion is if w is the largest component; x, y and z follow."""


def read_sog(path: str | Path, *, max_expansion: float = MAX_EXPANSION) -> Gaussians:
    """Read Gaussians from SOG of version 1 or 2.

    Args:
        path: A ``.sog`` file, a folder with ``meta.json``, or that file.
        max_expansion: See ``load``.

    Returns:
        Float32 Gaussians with unit quaternions and SH of degree 0 to 3, in the order of the file.

    Raises:
        ValueError: It is no SOG, is damaged, expands too much, or holds no Gaussian or one that
            cannot be drawn; the message is one sentence that names it.
        FileNotFoundError: There is no such file.
        ImportError: Pillow is not installed.
    """
    path = Path(path)
    return without_tags(path, to_file(path, *sog_record(path, max_expansion), "error"))


def sog_record(path: Path, max_expansion: float = MAX_EXPANSION) -> tuple[Record, Tags]:
    """Return the Gaussians as they are stored, NaN included, and what ``meta.json`` says."""
    with opened(path) as source:
        meta = read_meta(path, source.read(META, MAX_META))
        return _Reader(source, meta, max_expansion).record(), meta.tags


class _Reader:
    """The pictures of a scene, within the memory that it may take."""

    def __init__(self, source: Source, meta: Meta, max_expansion: float) -> None:
        self.source, self.path, self.meta = source, source.path, meta
        self.file_size = source.size(meta.names)
        self.max_expansion = max_expansion
        self.size: tuple[int, int] | None = None
        self.believe(_PER_GAUSSIAN * meta.count)

    @property
    def limit(self) -> int:
        """Bytes that are believed."""
        return int(max(self.max_expansion * self.file_size, _BELIEVED))

    def believe(self, size: int) -> None:
        """Raise a ValueError if the scene takes so many bytes that they are not believed."""
        if size > self.limit:
            raise ValueError(
                f"{self.path} promises {self.meta.count} Gaussians in {size} bytes, "
                f"{size // max(self.file_size, 1)} times its own size: only a max_expansion of "
                f"more than {self.max_expansion:g} lets it take this much memory"
            )

    def pixels(self, key: str, channels: str = "RGB", index: int = 0) -> np.ndarray:
        """Return ``(N, C)`` uint8 from a picture with one pixel for each Gaussian."""
        name = self.meta.files[key][index]
        data = self.source.read(name, self.limit)
        size = picture_size(self.path, name, data)
        if size[0] * size[1] < self.meta.count or (self.size or size) != size:
            raise ValueError(
                f"{self.path} has a picture {name[:60]!r} of {size[0]} x {size[1]} pixels: "
                f"expected {'the size of others' if self.size else f'{self.meta.count} or more'}"
            )
        if self.size is None:
            self.believe(_PER_GAUSSIAN * size[0] * size[1])
        self.size = size
        return decode(self.path, name, data, channels)[: self.meta.count]

    def record(self) -> Record:
        """Return what the pictures hold."""
        meta = self.meta
        sh0 = self.pixels("sh0", "RGBA")
        return Record(
            means=self._means(),
            quats=self._quats(),
            scales=self._looked_up("scales", meta.scales, self.pixels("scales")),
            opacities=meta.opacities.astype(np.float32)[sh0[:, 3]],
            sh=self._coefficients(self._looked_up("sh0", meta.colors, sh0[:, :3])),
        )

    def _means(self) -> np.ndarray:
        codes = self.pixels("means", index=1).astype(np.uint16) << 8
        codes |= self.pixels("means", index=0)
        means = np.empty(codes.shape, np.float32)
        with np.errstate(over="ignore", invalid="ignore"):  # What is not finite is found later.
            for axis, (low, high) in enumerate(zip(self.meta.low, self.meta.high, strict=True)):
                # The logarithm is that of 1 + |x|, with the sign of x.
                logs = low + (high - low) * (codes[:, axis] / 65535)
                means[:, axis] = np.copysign(np.expm1(np.abs(logs)), logs)
        return means

    def _quats(self) -> np.ndarray:
        pixels = self.pixels("quats", "RGBA")
        if (wrong := pixels[:, 3] < _FIRST_MODE).any():
            index = int(wrong.argmax())
            raise ValueError(
                f"{self.path} has a rotation of the reserved mode {pixels[index, 3]} in Gaussian "
                f"{index}: expected {_FIRST_MODE} to 255"
            )
        others = ((pixels[:, :3] / 255 - 0.5) * np.sqrt(2)).astype(np.float32)
        quats = np.empty(pixels.shape, np.float32)
        place = np.arange(4) == pixels[:, 3:] - _FIRST_MODE
        quats[~place] = others.ravel()
        # In a damaged file the three components together may be longer than 1.
        quats[place] = np.sqrt(np.maximum(0, 1 - (others**2).sum(axis=1)))
        return quats

    def _looked_up(self, key: str, table: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """Return ``(N, 3)`` float32 values of a ``(codes, 3)`` table."""
        self._require_codes(key, codes, len(table))
        return table.astype(np.float32)[codes, np.arange(3)]

    def _require_codes(self, key: str, codes: np.ndarray, n: int) -> None:
        if (largest := int(codes.max())) >= n:
            raise ValueError(f"{self.path} uses code {largest} of {key}, which has only {n}")

    def _coefficients(self, first: np.ndarray) -> np.ndarray:
        """Return ``(N, B, 3)`` SH coefficients, of which the first are given."""
        if self.meta.rest is None:
            return first[:, None]
        entries = self._palette(self.meta.rest)
        n_bases = 1 + entries.shape[1]
        self.believe((_PER_GAUSSIAN + 3 * (n_bases - 1)) * self.meta.count)
        labels = self.pixels("shN", index=1)
        labels = labels[:, 0].astype(np.uint16) | labels[:, 1].astype(np.uint16) << 8
        self._require_codes("the palette", labels, len(entries))
        sh = np.empty((len(first), n_bases, 3), np.float32)
        sh[:, 0], sh[:, 1:] = first, entries[labels]
        return sh

    def _palette(self, table: np.ndarray) -> np.ndarray:
        """Return ``(entries, B - 1, 3)`` float32."""
        name = self.meta.files["shN"][0]
        data = self.source.read(name, self.limit)
        width, height = picture_size(self.path, name, data)
        degree = self.meta.degree or degree_of_width(self.path, width)
        n_rest = N_BASES[degree] - 1
        n_entries = self.meta.n_entries or _ROW * height
        if width != _ROW * n_rest or _ROW * height < n_entries:
            raise ValueError(
                f"{self.path} has a palette of {width} x {height} pixels: expected "
                f"{_ROW * n_rest} x {-(-n_entries // _ROW)}"
            )
        self.believe(4 * width * height)
        codes = decode(self.path, name, data, "RGB").reshape(-1, n_rest, 3)[:n_entries]
        self._require_codes("shN", codes, len(table))
        return table.astype(np.float32)[codes]
