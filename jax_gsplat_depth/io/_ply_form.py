"""Decides what the vertices of a PLY file hold: the 3DGS form, or one of its relatives.

Some programs leave out what is the same for all of their Gaussians, or say it otherwise: 2DGS has
two scales, isotropic Gaussians have one and often no rotation, and point clouds have colours in
``red``, ``green`` and ``blue`` instead of SH. What is missing gets the value that is stated here,
and a ``FileWarning`` says so.
"""

import dataclasses
import warnings
from pathlib import Path

import numpy as np

from jax_gsplat_depth.io._ply_file import COLORS, Element
from jax_gsplat_depth.io._record import N_BASES, SH_C0, Record, aligned, parts
from jax_gsplat_depth.io._tags import FileWarning

MEANS = ("x", "y", "z")
NORMALS = ("nx", "ny", "nz")
DC = ("f_dc_0", "f_dc_1", "f_dc_2")
SCALES = ("scale_0", "scale_1", "scale_2")
QUATS = ("rot_0", "rot_1", "rot_2", "rot_3")
_N_REST = tuple(3 * (n_bases - 1) for n_bases in N_BASES)
"""Number of properties ``f_rest_*`` of SH degree 0 to 4."""

_FLATNESS = 1e-3
"""Third scale of a flat Gaussian relative to its smaller one: no picture shows it."""


@dataclasses.dataclass(frozen=True)
class Form:
    """Which properties of the vertices hold what.

    Attributes:
        dc: The first SH coefficients of red, green and blue; empty if there are none.
        colors: The colours that take their place; empty if there are none.
        rest: ``f_rest_*``, in the order of the file.
        scales: One to three logarithms of scales.
        quats: The rotations; empty if there are none.
    """

    dc: tuple[str, ...]
    colors: tuple[str, ...]
    rest: tuple[str, ...]
    scales: tuple[str, ...]
    quats: tuple[str, ...]

    @property
    def floats(self) -> tuple[str, ...]:
        """The properties that have to be floats."""
        return (*MEANS, *self.dc, *self.rest, "opacity", *self.scales, *self.quats)

    def defaults(self) -> list[str]:
        """Return what is missing, and what is taken in its place."""
        missing = []
        if not self.dc and self.colors:
            missing.append(f"f_dc_* (the colours are {', '.join(self.colors)})")
        elif not self.dc:
            missing.append("f_dc_* (the colours are grey, 0.5)")
        if len(self.scales) == 1:
            missing.append("scale_1 and scale_2 (all three scales are scale_0)")
        elif len(self.scales) == 2:
            missing.append(f"scale_2 (it is {_FLATNESS:g} times the smaller scale)")
        if not self.quats:
            missing.append("rot_* (nothing is rotated)")
        return missing


def form_of(path: Path, vertex: Element) -> Form:
    """Return the form of the vertices.

    Raises:
        ValueError: A property is missing that has no default, or one has the wrong type; the
            message names it.
    """
    names = set(vertex.names)
    n_rest = sum(name.startswith("f_rest_") for name in names)
    has_dc = not names.isdisjoint(DC)
    given = 3 if "scale_2" in names else 2 if "scale_1" in names else 1
    form = Form(
        dc=DC if has_dc else (),
        colors=() if has_dc else next((c for c in COLORS if names.issuperset(c)), ()),
        rest=tuple(f"f_rest_{i}" for i in range(n_rest)),
        scales=SCALES[:given],
        quats=() if names.isdisjoint(QUATS) else QUATS,
    )
    missing = [name for name in form.floats if name not in names]
    if missing:
        raise ValueError(
            f"{path} has no vertex property {missing[0]}: expected a PLY in the plain 3DGS form"
        )
    if n_rest not in _N_REST:
        raise ValueError(f"{path} has {n_rest} properties f_rest_*: expected 0, 9, 24, 45 or 72")
    for name in form.floats:
        if vertex.dtype[name].kind != "f":
            raise ValueError(f"{path} has {name} of type {vertex.dtype[name]}: expected float")
    return form


def record_of(vertex: Element, form: Form) -> Record:
    """Return the Gaussians as they are stored, NaN included."""
    n, n_rest = len(vertex), len(form.rest)
    # The file has the coefficients of red before those of green, the record side by side.
    by_base = tuple(
        form.rest[channel * n_rest // 3 + i] for i in range(n_rest // 3) for channel in range(3)
    )
    means = aligned((n, 3), _type(vertex, MEANS))
    quats = aligned((n, 4), _type(vertex, QUATS)) if form.quats else None
    sh = aligned((n, n_rest // 3 + 1, 3), _type(vertex, form.dc + form.rest))
    # In float64, where a scale beyond float32 is not yet infinite.
    scales = np.empty((n, 1 if len(form.scales) == 1 else 3))
    opacities = aligned((n,))
    white = _white(vertex, form.colors)
    for part in parts(n):
        rows = vertex.rows(part)
        with np.errstate(over="ignore", invalid="ignore"):  # There may be a signaling NaN.
            _fill(means[part], rows, MEANS)
            if quats is not None:
                _fill(quats[part], rows, QUATS)
            _fill(sh[part, 0], rows, form.dc)
            _fill(sh[part, 1:].reshape(len(rows), n_rest), rows, by_base)
            if not form.dc:
                sh[part, 0] = 0.0
            for channel, name in enumerate(form.colors):
                sh[part, 0, channel] = (rows[name].astype(np.float64) / white - 0.5) / SH_C0
            for i, name in enumerate(form.scales):
                scales[part, i] = np.exp(rows[name].astype(np.float64))
            if len(form.scales) == 2:
                scales[part, 2] = _FLATNESS * scales[part, :2].min(axis=1)
            # An infinite logit is an opacity of exactly 0 or 1, which some exporters write.
            opacities[part] = 1 / (1 + np.exp(-rows["opacity"].astype(np.float64)))
    if quats is None:
        quats = np.broadcast_to(np.array([1, 0, 0, 0], np.float32), (n, 4))
    return Record(means, quats, np.broadcast_to(scales, (n, 3)), opacities, sh)


def _type(vertex: Element, names: tuple[str, ...]) -> np.dtype:
    """Return the type that holds all of these properties, in the byte order of the machine."""
    return np.result_type(np.float32, *(vertex.dtype[name] for name in names))


def _fill(target: np.ndarray, rows: np.ndarray, names: tuple[str, ...]) -> None:
    for column, name in enumerate(names):
        target[:, column] = rows[name]


def _white(vertex: Element, colors: tuple[str, ...]) -> float:
    """Return the number for full colour: the largest of whole numbers; of floats 1 or 255."""
    if not colors:
        return 1.0
    kinds = [vertex.dtype[name] for name in colors]
    if all(kind.kind in "iu" for kind in kinds):
        return float(max(np.iinfo(kind).max for kind in kinds))
    largest = 0.0
    for part in parts(len(vertex)):
        rows = vertex.rows(part)
        for name in colors:
            values = rows[name]
            largest = max(largest, float(values[np.isfinite(values)].max(initial=0)))
    return 1.0 if largest <= 1 else 255.0


def warn_of_form(path: Path, vertex: Element, form: Form) -> None:
    """Say what the vertices lack, and what they have that is left out."""
    if defaults := form.defaults():
        _warn(f"{path} has no vertex properties {'; '.join(defaults)}")
    unused = {*vertex.names} - {*form.floats, *form.colors, *NORMALS}
    warn_unused(path, "vertex properties", unused)


def warn_unused(path: Path, what: str, names: set[str]) -> None:
    """Name what a file has and a reader has no use for."""
    if names:
        listed = ", ".join(sorted(names)[:8]) + (", ..." if len(names) > 8 else "")
        _warn(f"{path} has the {what} {listed}, which are left out")


def _warn(message: str) -> None:
    warnings.warn(message, FileWarning, stacklevel=2)
