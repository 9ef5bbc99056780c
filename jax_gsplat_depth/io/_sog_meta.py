"""Reads ``meta.json`` of SOG and turns both of its versions into tables of values by code.

Version 2 has codebooks; version 1, which its writers did not number, has the ends of ranges that
256 equal steps divide (https://developer.playcanvas.com/user-manual/gaussian-splatting/formats/sog,
https://github.com/playcanvas/sogs).
"""

import dataclasses
import json
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from jax_gsplat_depth.io._record import N_BASES
from jax_gsplat_depth.io._tags import FileWarning, Tags

_CODES = 256
_KNOWN = (
    "version",
    "asset",
    "count",
    "antialias",
    "model",
    "means",
    "scales",
    "quats",
    "sh0",
    "shN",
)
_MODELS = ["default", "antialiased", "2dgs"]
"""What the key ``model`` can say."""

_MAX_DEGREE = 3


@dataclasses.dataclass(frozen=True)
class Meta:
    """What ``meta.json`` says.

    Attributes:
        count: Number of Gaussians.
        tags: Tags of the file.
        low: ``(3,)`` smallest of the logarithms of the positions.
        high: ``(3,)`` largest of them.
        scales: ``(codes, 3)`` linear scales by code and axis.
        colors: ``(codes, 3)`` first SH coefficient by code and channel.
        opacities: ``(256,)`` by code.
        rest: ``(codes,)`` higher SH coefficients by code; None if there are none.
        degree: SH degree; None in version 1, where the width of a picture says it.
        n_entries: Entries of the palette; None in version 1.
        files: Names of the pictures by key.
    """

    count: int
    tags: Tags
    low: np.ndarray
    high: np.ndarray
    scales: np.ndarray
    colors: np.ndarray
    opacities: np.ndarray
    rest: np.ndarray | None
    degree: int | None
    n_entries: int | None
    files: dict[str, list[str]]

    @property
    def names(self) -> list[str]:
        """Names of all pictures."""
        return [name for names in self.files.values() for name in names]


def read_meta(path: Path, data: bytes) -> Meta:
    """Return what ``meta.json`` says, checked.

    Raises:
        ValueError: It is damaged, or no SOG; the message names ``path``.
    """
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:80]
        raise ValueError(f"{path} has a damaged meta.json ({reason})") from error
    root = _Object(path, "meta.json", content)
    version = root.values.get("version", 1)
    if version not in (1, 2) or isinstance(version, (bool, float)):
        raise ValueError(f"{path} has version {str(version)[:20]} of SOG: expected 1 or 2")
    parts = {key: root.part(key) for key in ("means", "scales", "quats", "sh0")}
    if root.values.get("shN") is not None:
        parts["shN"] = root.part("shN")
    lengths = {"means": 2, "shN": 2}
    files = {key: part.files(lengths.get(key, 1)) for key, part in parts.items()}
    if unknown := [str(key)[:40] for key in root.values if key not in _KNOWN]:
        warnings.warn(
            f"{path} has unknown keys in meta.json, which are left out: {', '.join(unknown[:10])}",
            FileWarning,
            stacklevel=2,
        )
    tables = _tables_1(parts) if version == 1 else _tables_2(root, parts)
    means = parts["means"]
    meta = Meta(
        **tables,
        tags=_tags(path, root.values),
        low=means.numbers("mins", 3),
        high=means.numbers("maxs", 3),
        files=files,
    )
    if meta.count == 0:
        raise ValueError(f"{path} holds no Gaussian")
    return meta


def _tables_2(root: "_Object", parts: dict[str, "_Object"]) -> dict[str, Any]:
    rest = parts.get("shN")
    return {
        "count": root.whole("count", 0, 2**32),
        "scales": _exp(parts["scales"].codebook()[:, None].repeat(3, axis=1)),
        "colors": parts["sh0"].codebook()[:, None].repeat(3, axis=1),
        "opacities": np.arange(_CODES) / (_CODES - 1),
        "rest": rest.codebook() if rest else None,
        "degree": rest.whole("bands", 1, _MAX_DEGREE) if rest else 0,
        "n_entries": rest.whole("count", 1, 1 << 16) if rest else 0,
    }


def _tables_1(parts: dict[str, "_Object"]) -> dict[str, Any]:
    means, quats, rest = parts["means"], parts["quats"], parts.get("shN")
    if quats.values.get("encoding") != "quaternion_packed":
        raise ValueError(
            f"{means.path} has quats of an unknown encoding: expected quaternion_packed"
        )
    shape = means.values.get("shape")
    if not isinstance(shape, list) or not shape:
        raise ValueError(f"{means.path} has no count and no shape of the means in meta.json")
    steps = np.arange(_CODES)[:, None] / (_CODES - 1)

    def table(part: "_Object", n: int) -> np.ndarray:
        low, high = part.numbers("mins", n), part.numbers("maxs", n)
        return low + (high - low) * steps

    colors = table(parts["sh0"], 4)
    with np.errstate(over="ignore"):
        opacities = 1 / (1 + np.exp(-colors[:, 3]))
    return {
        "count": _Object(means.path, "means", {"shape": shape[0]}).whole("shape", 0, 2**32),
        "scales": _exp(table(parts["scales"], 3)),
        "colors": colors[:, :3],
        "opacities": opacities,
        "rest": table(rest, 1)[:, 0] if rest else None,
        "degree": None if rest else 0,
        "n_entries": None if rest else 0,
    }


def _exp(logs: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # A scale that is not finite is found later.
        return np.exp(logs)


def _tags(path: Path, values: dict[str, Any]) -> Tags:
    """Return the tags: the specification has ``antialias``, SplatTransform writes ``model``."""
    said, model = values.get("antialias"), values.get("model")
    if said is not None and not isinstance(said, bool):
        raise ValueError(f"{path} has antialias {str(said)[:20]!r} in meta.json: expected a bool")
    if model is None:
        return Tags(antialiased=said)
    if model not in _MODELS:
        raise ValueError(
            f"{path} has model {str(model)[:20]!r} in meta.json: expected {', '.join(_MODELS)}"
        )
    if said is not None and said != (model == "antialiased"):
        raise ValueError(f"{path} has antialias and model in meta.json that contradict each other")
    if model == "2dgs":
        warnings.warn(
            f"{path} has the model 2dgs: its flat Gaussians are drawn as very thin ones",
            FileWarning,
            stacklevel=2,
        )
    return Tags(antialiased=model == "antialiased")


@dataclasses.dataclass(frozen=True)
class _Object:
    """An object of the JSON, with the path of the file and its name for messages."""

    path: Path
    name: str
    values: Any

    def __post_init__(self) -> None:
        if not isinstance(self.values, dict):
            raise ValueError(f"{self.path} has no object {self.name} in meta.json: expected SOG")

    def part(self, key: str) -> "_Object":
        return _Object(self.path, key, self.values.get(key))

    def whole(self, key: str, low: int, high: int) -> int:
        value = self.values.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise ValueError(
                f"{self.path} has {key} {str(value)[:20]} in meta.json: expected a whole number "
                f"from {low} to {high}"
            )
        return value

    def numbers(self, key: str, n: int) -> np.ndarray:
        values = self.values.get(key)
        return self._numbers(key, [values] if n == 1 else values, (n,))

    def codebook(self) -> np.ndarray:
        values = self.values.get("codebook")
        if isinstance(values, list) and len(values) > 1 and values[0] is None:
            # Early files have no number there; this is how PlayCanvas reads them.
            ends = self._numbers("codebook", [values[1], values[-1]], (2,))
            values = [float(ends[0] + (ends[0] - ends[1]) / (_CODES - 1)), *values[1:]]
        return self._numbers("codebook", values, range(1, _CODES + 1))

    def files(self, n: int) -> list[str]:
        names = self.values.get("files")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            names = []
        if len(names) != n:
            raise ValueError(f"{self.path} names {len(names)} files of {self.name}: expected {n}")
        return names

    def _numbers(self, key: str, values: Any, lengths: Any) -> np.ndarray:
        good = isinstance(values, list) and len(values) in lengths
        try:
            numbers = [float(x) for x in values if type(x) in (int, float)] if good else []
        except OverflowError:
            numbers = []
        if not good or len(numbers) != len(values) or not all(map(math.isfinite, numbers)):
            raise ValueError(
                f"{self.path} has no {key} of {self.name} in meta.json: expected "
                f"{lengths[-1]} finite numbers"
            )
        return np.array(numbers)


def degree_of_width(path: Path, width: int) -> int:
    """Return the SH degree of a palette whose picture is that wide: 64 entries in a row."""
    for degree in range(1, _MAX_DEGREE + 1):
        if width == 64 * (N_BASES[degree] - 1):
            return degree
    raise ValueError(f"{path} has a palette {width} pixels wide: expected 192, 512 or 960")
