"""Defines the containers that travel between the stages, and the static settings.

The containers are frozen dataclasses and pytrees: they pass through ``jax.jit``, ``jax.vmap``,
``jax.grad`` and ``jax.export`` unchanged. Their constructors neither check nor convert, because
JAX rebuilds them with tracers, ``None`` and other placeholders; ``_check.py`` checks them when a
stage is called. ``dataclasses.replace`` makes a changed copy.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.export
import numpy as np
from jax import Array

from jax_gsplat_depth._camera import Camera
from jax_gsplat_depth._common import flax_states
from jax_gsplat_depth._common.by_shape import shown_by_shape

Footprint = Literal["exact", "3sigma"]
Depth = Literal["expected", "median", "inverse"]
ShConvention = Literal["3dgs", "e3nn", "e3nn-legacy"]

FOOTPRINTS = ("exact", "3sigma")
DEPTHS = ("expected", "median", "inverse")
# Their positions are the values of the enum in csrc/math/sh.h.
SH_CONVENTIONS = ("3dgs", "e3nn", "e3nn-legacy")


@shown_by_shape
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Gaussians:
    """``N`` anisotropic 3D Gaussians, with activated parameters.

    Nothing is activated inside: scales are linear (no exp) and opacities are in 0..1 (no sigmoid).
    The shape is given by ``quats`` and ``scales`` or by ``covars``, the appearance by ``sh`` or by
    ``colors``. All arrays share one dtype, float32 or float64. A Gaussian with a NaN or Inf
    anywhere, a zero quaternion, a scale <= 0 or an opacity <= 1/255 is not drawn.

    Attributes:
        means: ``[N, 3]`` centres, world frame, world units.
        quats: ``[N, 4]`` rotations from the local axes to the world, wxyz, of any length but zero.
        scales: ``[N, 3]`` standard deviations along the local axes, world units, positive.
        opacities: ``[N]`` opacity at the centre, 0..1.
        sh: ``[N, B, 3]`` spherical-harmonics coefficients of RGB, B = 1, 4, 9, 16 or 25.
        colors: ``[N, D]`` any number D of feature channels, the same from every direction; or
            ``[C, N, D]``, another set for each camera. D = 0 is for depth and weight alone.
        covars: ``[N, 6]`` world covariances in the order xx, xy, xz, yy, yz, zz, or ``[N, 3, 3]``,
            whose symmetric part is used. World units squared.
    """

    means: Array
    quats: Array | None = None
    scales: Array | None = None
    opacities: Array | None = None
    _: dataclasses.KW_ONLY
    sh: Array | None = None
    colors: Array | None = None
    covars: Array | None = None


@shown_by_shape
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Splats:
    """Gaussians projected to 2D, what ``project`` returns. Leading ``[C]`` if the camera has it.

    Attributes:
        means2d: ``[N, 2]`` centres (x, y) in pixels.
        depths: ``[N]`` camera z, world units.
        conics: ``[N, 3]`` inverse 2D covariance (xx, xy, yy), 1 / pixels squared.
        opacities: ``[N]`` opacities, with the antialiasing compensation if it is on.
        radii: ``[N]`` int32, three standard deviations in pixels, rounded up; 0 where culled.
    """

    means2d: Array
    depths: Array
    conics: Array
    opacities: Array
    radii: Array


@shown_by_shape
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Bins:
    """Drawing order and tile load, what ``bin`` returns. Leading ``[C]`` if the camera has it.

    Attributes:
        order: ``[N]`` int32 indices of the Gaussians from near to far, the culled ones last.
        tile_counts: ``[n_tiles_y, n_tiles_x]`` int32 number of Gaussians in each 16x16 tile.
    """

    order: Array
    tile_counts: Array


@shown_by_shape
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class RenderOutput:
    """What ``render`` and ``blend`` return. Leading ``[C]`` if the camera has it.

    Attributes:
        image: ``[H, W, D]`` sum of w c plus the background times the remaining transmittance.
        depth: ``[H, W]`` sum of w z over sum of w in world units, 0 where nothing was hit; or
            another, by ``Config.depth`` and ``Config.ray_depth``.
        weight: ``[H, W]`` sum of w, 0..1: how much of the pixel the Gaussians cover.
        radii: ``[N]`` int32, as in ``Splats``.
        n_isects: ``[]`` int32, the (Gaussian, tile) pairs of the image; 2^31 - 1 if there are more.
        n_isects_listed: ``[]`` int32, how many of them fitted into the lists of the GPU, which
            ``Config.capacity`` limits; on the CPU all. If it is less than ``n_isects``, the result
            is the same but took longer. The largest ``n_isects`` of a scene plus some 10 % is a
            good capacity.
        depth_variance: ``[H, W]`` variance of the depths that make up the pixel: sum of w z^2 over
            sum of w minus the square of the expected depth, world units squared; 0 or more, and 0
            where nothing was hit. None without ``Config.depth_variance``.
    """

    image: Array
    depth: Array
    weight: Array
    radii: Array
    n_isects: Array
    n_isects_listed: Array
    depth_variance: Array | None = None


@shown_by_shape
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Contributors:
    """What ``contributors`` returns. Leading ``[C]`` if the camera has it.

    Attributes:
        ids: ``[H, W, k]`` int32 indices of the Gaussians with the largest weights, by weight; -1
            where a pixel has fewer.
        weights: ``[H, W, k]`` their weights w = alpha T, 0..1, constants; 0 where there are fewer.
    """

    ids: Array
    weights: Array


@shown_by_shape
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class ViewStatistics:
    """What ``view_statistics`` returns. Leading ``[C]`` if the camera has it.

    Attributes:
        largest_weight: ``[N]`` largest weight w = alpha T of each Gaussian in any pixel, 0..1.
        summed_weight: ``[N]`` sum of its weights over the pixels, in pixels.
        n_pixels: ``[N]`` int32 number of pixels in which it is drawn.
    """

    largest_weight: Array
    summed_weight: Array
    n_pixels: Array


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Static settings of the renderer. Hashable; a new value recompiles.

    Attributes:
        near_plane: World units, default 0.01. Gaussians with camera z <= near_plane are culled.
        far_plane: World units, default 1e10. Gaussians with camera z >= far_plane are culled.
        eps2d: Pixels squared, default 0.3. Added to both diagonal entries of the 2D covariance,
            so that no Gaussian gets thinner than about a pixel.
        footprint: Which pixels a Gaussian may reach. "exact" (default): all where its alpha is at
            least 1/255. "3sigma": the pixels of the 16x16 tiles touched by the square of
            half-width ``radii`` around its centre, as in the original 3DGS rasterizer; every
            opacity of at least 0 then has a radius, although no pixel shows an alpha below 1/255.
        antialiased: Default False. True scales opacities down by what eps2d adds to the area, so
            that small Gaussians do not become brighter in a coarser image.
        sh_convention: The basis of the coefficients. "3dgs" (default), or "e3nn": the same
            polynomials with the axes (x, y, z) replaced by (z, x, y). "e3nn-legacy" is for
            models that were trained with ``diff_gaussian_rasterization_e3nn_depth``: "e3nn" with
            that rasterizer's wrong polynomial of coefficient 14, z (z^2 - x^2) for y (z^2 - x^2).
        deterministic: Default False. True gives gradients of the same bits on every run on a GPU
            too, at the cost of a second backward pass. On the CPU they always have.
        capacity: How many (Gaussian, tile) pairs the lists of one image hold on a GPU: None
            (default) for 8 N + 64 times the number of tiles, or a positive number, raised to the
            number of tiles. Only time and memory depend on it, never the result; see
            ``RenderOutput.n_isects``. The CPU needs none.
        depth: What ``RenderOutput.depth`` is. "expected" (default): sum of w z over sum of w.
            "inverse": sum of w / z over sum of w, in 1 / world units, 0 where nothing was hit.
            "median": z of the Gaussian at which the transmittance first falls to 1/2 or below, so
            that an edge does not mix near and far; 0 where it never does. Its gradient reaches the
            depth of that Gaussian alone.
        ray_depth: Default False. True gives the distance from the camera centre along the ray of
            the pixel instead of z: a depth times ``Camera.ray_lengths``, an inverse depth divided
            by it, the variance times its square; differentiable in K as well.
        depth_variance: Default False. True fills ``RenderOutput.depth_variance``.

    Raises:
        ValueError: A value is outside its range.
        TypeError: A value is of the wrong type, for example a traced array.
    """

    near_plane: float = 0.01
    far_plane: float = 1e10
    eps2d: float = 0.3
    footprint: Footprint = "exact"
    antialiased: bool = False
    sh_convention: ShConvention = "3dgs"
    deterministic: bool = False
    capacity: int | None = None
    depth: Depth = "expected"
    ray_depth: bool = False
    depth_variance: bool = False

    def __post_init__(self) -> None:
        """Check every value and store it as a plain Python value, so that equal configs match."""
        for name in ("near_plane", "far_plane", "eps2d"):
            self._set(name, (int, float, np.integer, np.floating), float)
        for name in ("antialiased", "deterministic", "ray_depth", "depth_variance"):
            self._set(name, (bool, np.bool_), bool)
        if self.capacity is not None:
            self._set("capacity", (int, np.integer), int)
        if not 0 < self.near_plane < math.inf:
            raise ValueError(f"near_plane must be positive and finite, got {self.near_plane}")
        if not self.far_plane > self.near_plane:
            raise ValueError(
                f"far_plane must be larger than near_plane = {self.near_plane}, "
                f"got {self.far_plane}"
            )
        if not 0 <= self.eps2d < math.inf:
            raise ValueError(f"eps2d must be finite and not negative, got {self.eps2d}")
        for name, choices in (
            ("footprint", FOOTPRINTS),
            ("sh_convention", SH_CONVENTIONS),
            ("depth", DEPTHS),
        ):
            value = getattr(self, name)
            if not isinstance(value, str) or value not in choices:
                expected = ", ".join(map(repr, choices[:-1])) + f" or {choices[-1]!r}"
                raise ValueError(f"{name} must be {expected}, got {value!r}")
        if self.capacity is not None and self.capacity <= 0:
            raise ValueError(f"capacity must be positive or None, got {self.capacity}")

    def _set(self, name: str, types: tuple[type, ...], convert: type) -> None:
        value = getattr(self, name)
        # bool is a subclass of int: True would pass for 1 pixel.
        wrong_bool = isinstance(value, bool) and bool not in types
        if wrong_bool or not isinstance(value, types):
            raise TypeError(
                f"{name} has type {type(value).__name__}, expected {convert.__name__}: it is static"
            )
        object.__setattr__(self, name, convert(value))


def _register_for_export(cls: type) -> None:
    """Let functions that take or return ``cls`` be serialized by ``jax.export``."""
    name = f"jax_gsplat_depth.{cls.__name__}"
    is_static = {f.name: f.metadata.get("static", False) for f in dataclasses.fields(cls)}

    def serialize(aux: Any) -> bytes:
        return json.dumps([int(value) for value in aux]).encode()

    def rebuild(aux_data: Any, children: Sequence[Any]) -> Any:
        static, data = iter(aux_data), iter(children)
        # The package may have been imported again.
        current = getattr(sys.modules.get("jax_gsplat_depth"), cls.__name__, cls)
        return current(**{k: next(static if is_static[k] else data) for k in is_static})

    register = jax.export.register_pytree_node_serialization
    try:
        register(
            cls,
            serialized_name=name,
            serialize_auxdata=serialize,
            deserialize_auxdata=lambda data: tuple(json.loads(data)),
            from_children=rebuild,
        )
    except ValueError:
        # The name belongs to the class of an earlier import in this process, for good. JAX has no
        # public way to give it to a second class.
        known = getattr(register, "__globals__", {}).get("serialization_registry", {})
        known[cls] = name, serialize


_CONTAINERS = (Gaussians, Camera, Splats, Bins, RenderOutput, Contributors, ViewStatistics)
for _cls in _CONTAINERS:
    _register_for_export(_cls)
flax_states.register(*_CONTAINERS, Config)
