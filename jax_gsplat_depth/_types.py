"""The data that travels between the stages, and the static settings.

The containers are frozen dataclasses and pytrees: they pass through ``jax.jit``, ``jax.vmap``,
``jax.grad`` and ``jax.export`` unchanged. Their constructors neither check nor convert, because
JAX rebuilds them with tracers, ``None`` and other placeholders; ``_check.py`` checks them when a
stage is called. ``dataclasses.replace`` makes a changed copy.
"""

import dataclasses
import functools
import json
import math
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

Footprint = Literal["exact", "3sigma"]
ShConvention = Literal["3dgs", "e3nn", "e3nn-seed"]
# What the camera constructors take: nested sequences too.
Numbers = ArrayLike | Sequence[Any]

FOOTPRINTS = ("exact", "3sigma")
# Their positions are the values of the enum in csrc/math/sh.h.
SH_CONVENTIONS = ("3dgs", "e3nn", "e3nn-seed")

# Parameters of the COLMAP models that are a pinhole.
_COLMAP_PARAMS = {"SIMPLE_PINHOLE": ("f", "cx", "cy"), "PINHOLE": ("fx", "fy", "cx", "cy")}

# Squared sine of the angle (1e-5 rad) below which ``up`` no longer tells where the right side is:
# float32 rounding of the cross product is 1e-7.
_MIN_SIN2 = 1e-10


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
        quats: ``[N, 4]`` rotations from the own axes to the world, wxyz, of any length but zero.
        scales: ``[N, 3]`` standard deviations along the own axes, world units, positive.
        opacities: ``[N]`` opacity at the centre, 0..1.
        sh: ``[N, B, 3]`` spherical-harmonics coefficients of RGB, B = 1, 4, 9, 16 or 25.
        colors: ``[N, D]`` any number D of feature channels, the same from every direction.
        covars: ``[N, 6]`` world covariances in the order xx, xy, xz, yy, yz, zz, or ``[N, 3, 3]``,
            of which the symmetric part is used. World units squared.
    """

    means: Array
    quats: Array | None = None
    scales: Array | None = None
    opacities: Array | None = None
    _: dataclasses.KW_ONLY
    sh: Array | None = None
    colors: Array | None = None
    covars: Array | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Camera:
    """A pinhole camera, or ``C`` cameras of one image size along a leading axis.

    Axes are OpenCV's: x right, y down, z forward. Pixel (column j, row i) is sampled at
    (j + 0.5, i + 0.5). ``viewmat`` and ``K`` are traced and differentiable, ``width`` and
    ``height`` are static: a new size recompiles.

    The constructors ``look_at``, ``from_opengl``, ``from_fov`` and ``from_colmap`` can be traced
    and differentiated. Each of their arrays may have a leading camera axis ``C``; arrays without
    one are repeated. JAX arrays decide the dtype, else NumPy arrays, else JAX's default.

    Attributes:
        viewmat: ``[4, 4]`` or ``[C, 4, 4]`` rigid world-to-camera transform for column vectors,
            world units. Its last row is not read.
        K: ``[3, 3]`` or ``[C, 3, 3]`` intrinsics in pixels. Only fx = K[0, 0], fy = K[1, 1],
            cx = K[0, 2] and cy = K[1, 2] are read.
        width: Image width W in pixels.
        height: Image height H in pixels.
    """

    viewmat: Array
    K: Array
    _: dataclasses.KW_ONLY
    width: int = dataclasses.field(metadata={"static": True})
    height: int = dataclasses.field(metadata={"static": True})

    @property
    def center(self) -> Array:
        """Position of the camera in the world, ``[3]`` or ``[C, 3]``: -R^T t."""
        viewmat = jnp.asarray(self.viewmat)
        return -_matvec(viewmat[..., :3, :3].mT, viewmat[..., :3, 3])

    @classmethod
    def look_at(
        cls,
        eye: Numbers,
        target: Numbers,
        up: Numbers = (0.0, 0.0, 1.0),
        *,
        K: Numbers | None = None,
        fov_x: Numbers | None = None,
        fov_y: Numbers | None = None,
        width: int,
        height: int,
    ) -> "Camera":
        """Build the camera at ``eye`` that looks at ``target``.

        Args:
            eye: ``[3]`` or ``[C, 3]`` camera position, world frame.
            target: ``[3]`` or ``[C, 3]`` point on the optical axis, world frame, not ``eye``.
            up: ``[3]`` or ``[C, 3]`` world direction that is up in the image; the default is +z.
                Where it is parallel to the viewing direction or zero, the world axis furthest
                from the viewing direction takes its place.
            K: ``[3, 3]`` or ``[C, 3, 3]`` intrinsics in pixels. Give this or one of the angles.
            fov_x: ``[]`` or ``[C]`` horizontal field of view in radians, between 0 and pi.
            fov_y: ``[]`` or ``[C]`` vertical field of view in radians, between 0 and pi.
            width: Image width in pixels.
            height: Image height in pixels.

        Returns:
            The camera. From an angle: square pixels, principal point at the image centre.

        Raises:
            ValueError: A shape disagrees, or not exactly one of K, fov_x and fov_y is given.
        """
        arrays = _with_cameras(
            eye=(eye, (3,)),
            target=(target, (3,)),
            up=(up, (3,)),
            **_lens(K=K, fov_x=fov_x, fov_y=fov_y),
        )
        forward = _normalize(arrays["target"] - arrays["eye"])
        right = _normalize(jnp.cross(forward, _usable_up(arrays["up"], forward)))
        rotation = jnp.stack([right, jnp.cross(forward, right), forward], axis=-2)
        viewmat = _rigid(rotation, -_matvec(rotation, arrays["eye"]))
        return cls(viewmat, _intrinsics(arrays, width, height), width=width, height=height)

    @classmethod
    def from_opengl(
        cls,
        camera_to_world: Numbers,
        K: Numbers | None = None,
        *,
        fov_x: Numbers | None = None,
        fov_y: Numbers | None = None,
        width: int,
        height: int,
    ) -> "Camera":
        """Build the camera from an OpenGL pose, as in a NeRF-style ``transforms.json``.

        Args:
            camera_to_world: ``[4, 4]`` or ``[C, 4, 4]`` rigid camera-to-world transform, camera
                axes x right, y up, z backward. Its last row is not read.
            K: ``[3, 3]`` or ``[C, 3, 3]`` intrinsics in pixels. Give this or one of the angles.
            fov_x: ``[]`` or ``[C]`` horizontal field of view in radians, between 0 and pi.
            fov_y: ``[]`` or ``[C]`` vertical field of view in radians, between 0 and pi.
            width: Image width in pixels.
            height: Image height in pixels.

        Returns:
            The camera. From an angle: square pixels, principal point at the image centre.

        Raises:
            ValueError: A shape disagrees, or not exactly one of K, fov_x and fov_y is given.
        """
        arrays = _with_cameras(
            camera_to_world=(camera_to_world, (4, 4)), **_lens(K=K, fov_x=fov_x, fov_y=fov_y)
        )
        pose = arrays["camera_to_world"]
        right, up, backward = pose[..., :3, 0], pose[..., :3, 1], pose[..., :3, 2]
        rotation = jnp.stack([right, -up, -backward], axis=-2)
        viewmat = _rigid(rotation, -_matvec(rotation, pose[..., :3, 3]))
        return cls(viewmat, _intrinsics(arrays, width, height), width=width, height=height)

    @classmethod
    def from_fov(
        cls,
        viewmat: Numbers,
        *,
        fov_x: Numbers | None = None,
        fov_y: Numbers | None = None,
        width: int,
        height: int,
    ) -> "Camera":
        """Build the camera from a field of view: square pixels, principal point at the centre.

        Args:
            viewmat: ``[4, 4]`` or ``[C, 4, 4]`` world-to-camera transform, as in ``Camera``.
            fov_x: ``[]`` or ``[C]`` horizontal field of view in radians, between 0 and pi.
            fov_y: ``[]`` or ``[C]`` vertical field of view in radians, between 0 and pi.
            width: Image width in pixels.
            height: Image height in pixels.

        Returns:
            The camera, with fx = fy.

        Raises:
            ValueError: A shape disagrees, or not exactly one of fov_x and fov_y is given.
        """
        arrays = _with_cameras(viewmat=(viewmat, (4, 4)), **_lens(fov_x=fov_x, fov_y=fov_y))
        intrinsics = _intrinsics(arrays, width, height)
        return cls(arrays["viewmat"], intrinsics, width=width, height=height)

    @classmethod
    def from_colmap(
        cls,
        qvec: Numbers,
        tvec: Numbers,
        params: Numbers,
        *,
        model: str,
        width: int,
        height: int,
    ) -> "Camera":
        """Build the camera from the pose and parameters of a COLMAP reconstruction.

        Args:
            qvec: ``[4]`` or ``[C, 4]`` world-to-camera rotation, wxyz, of any length but zero.
            tvec: ``[3]`` or ``[C, 3]`` world-to-camera translation, world units.
            params: ``[4]`` or ``[C, 4]`` (fx, fy, cx, cy) for PINHOLE, ``[3]`` or ``[C, 3]``
                (f, cx, cy) for SIMPLE_PINHOLE, in pixels.
            model: COLMAP's name of the camera model, "PINHOLE" or "SIMPLE_PINHOLE".
            width: Image width in pixels.
            height: Image height in pixels.

        Returns:
            The camera. COLMAP's pixel centres and camera axes are those of this package.

        Raises:
            ValueError: Another camera model, or a shape disagrees.
        """
        if model not in _COLMAP_PARAMS:
            raise ValueError(
                f"the COLMAP camera model {model!r} is not a pinhole: expected PINHOLE or "
                "SIMPLE_PINHOLE (colmap image_undistorter makes such images)"
            )
        n_params = len(_COLMAP_PARAMS[model])
        arrays = _with_cameras(qvec=(qvec, (4,)), tvec=(tvec, (3,)), params=(params, (n_params,)))
        values = arrays["params"]
        # The one focal length of SIMPLE_PINHOLE serves both axes.
        fx, fy, cx, cy = values[..., 0], values[..., -3], values[..., -2], values[..., -1]
        viewmat = _rigid(_quat_to_rotation(arrays["qvec"]), arrays["tvec"])
        return cls(viewmat, _intrinsic_matrix(fx, fy, cx, cy), width=width, height=height)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Splats:
    """Gaussians projected to 2D, what ``project`` returns. Leading ``[C]`` if the camera has it.

    Attributes:
        means2d: ``[N, 2]`` centres (x, y) in pixels.
        depths: ``[N]`` camera z, world units.
        conics: ``[N, 3]`` inverse 2D covariance (xx, xy, yy), 1 / pixels squared.
        opacities: ``[N]`` opacities, after the antialiasing compensation where that is on.
        radii: ``[N]`` int32, three standard deviations in pixels, rounded up; 0 where culled.
    """

    means2d: Array
    depths: Array
    conics: Array
    opacities: Array
    radii: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Intersections:
    """Drawing order and tile load, what ``bin`` returns. Leading ``[C]`` if the camera has it.

    Attributes:
        order: ``[N]`` int32 indices of the Gaussians from near to far, the culled ones last.
        tile_counts: ``[n_tiles_y, n_tiles_x]`` int32 number of Gaussians in each 16x16 tile.
    """

    order: Array
    tile_counts: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class RenderOutput:
    """What ``render`` and ``blend`` return. Leading ``[C]`` if the camera has it.

    Attributes:
        image: ``[H, W, D]`` sum of w c plus the background times what is left of the light.
        depth: ``[H, W]`` sum of w z over sum of w in world units, 0 where nothing was hit.
        weight: ``[H, W]`` sum of w, 0..1: how much of the pixel the Gaussians cover.
        radii: ``[N]`` int32, as in ``Splats``.
        n_isects: ``[]`` int32, the (Gaussian, tile) pairs of the image; 2^31 - 1 if there are more.
        n_isects_listed: ``[]`` int32, those of them that were in the lists of the GPU, which
            ``Config.capacity`` limits; on the CPU all. If it is less than ``n_isects`` the result
            is the same, but took longer: the largest ``n_isects`` of a scene, and some 10 % on top,
            is a good capacity.
    """

    image: Array
    depth: Array
    weight: Array
    radii: Array
    n_isects: Array
    n_isects_listed: Array


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
            half-width ``radii`` around its centre, as the original 3DGS rasterizer has it; any
            opacity from 0 on then has a radius, although no pixel shows one below 1/255.
        antialiased: Default False. True scales opacities down by what eps2d adds to the area, so
            that small Gaussians do not get brighter as the image gets coarser.
        sh_convention: What the coefficients belong to. "3dgs" (default), or "e3nn": the same
            polynomials with the axes (x, y, z) replaced by (z, x, y). "e3nn-seed" is for models
            that were trained with the e3nn seed: "e3nn" with that rasterizer's wrong polynomial,
            z (z^2 - x^2) for y (z^2 - x^2), of coefficient 14.
        absgrad: Default False. True makes the gradient of ``means2d_offset`` the sum over pixels
            of absolute values, a densification criterion; no other gradient changes.
        deterministic: Default False. True gives gradients that are the same bits on every run on a
            GPU too, for a second backward pass. On the CPU they always are.
        capacity: How many (Gaussian, tile) pairs the lists of one image hold on a GPU: None
            (default) for 8 N + 64 times the number of tiles, or a positive number, raised to the
            number of tiles. Only time and memory depend on it, never the result; see
            ``RenderOutput.n_isects``. The CPU needs none.

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
    absgrad: bool = False
    deterministic: bool = False
    capacity: int | None = None

    def __post_init__(self) -> None:
        """Check every value and store it as a plain Python value, so that equal configs match."""
        for name in ("near_plane", "far_plane", "eps2d"):
            self._set(name, (int, float, np.integer, np.floating), float)
        for name in ("antialiased", "absgrad", "deterministic"):
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
        for name, choices in (("footprint", FOOTPRINTS), ("sh_convention", SH_CONVENTIONS)):
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
    jax.export.register_pytree_node_serialization(
        cls,
        serialized_name=f"jax_gsplat_depth.{cls.__name__}",
        serialize_auxdata=lambda aux: json.dumps([int(value) for value in aux]).encode(),
        deserialize_auxdata=lambda data: tuple(json.loads(data)),
    )


for _cls in (Gaussians, Camera, Splats, Intersections, RenderOutput):
    _register_for_export(_cls)


def _lens(**angles_or_K: Any) -> dict[str, tuple[Any, tuple[int, ...]]]:
    """Return the one given description of the lens with its shape without camera axis."""
    given = {name: value for name, value in angles_or_K.items() if value is not None}
    if len(given) != 1:
        *others, last = angles_or_K
        found = " and ".join(given) or "none of them"
        raise ValueError(f"expected exactly one of {', '.join(others)} and {last}, got {found}")
    return {name: (value, (3, 3) if name == "K" else ()) for name, value in given.items()}


def _with_cameras(**inputs: tuple[Any, tuple[int, ...]]) -> dict[str, Array]:
    """Convert to one float dtype and repeat along the camera axis if any input has one."""
    dtype = _common_dtype([value for value, _ in inputs.values()])
    arrays = {name: jnp.asarray(value, dtype=dtype) for name, (value, _) in inputs.items()}
    batch: tuple[int, ...] = ()
    source = ""
    for name, (_, shape) in inputs.items():
        found = arrays[name].shape
        lead = found[: len(found) - len(shape)]
        if lead + shape != found or len(lead) > 1:
            with_axis = _symbolic("C", *shape)
            raise ValueError(f"{name} has shape {found}, expected {shape} or {with_axis}")
        if lead and batch and lead != batch:
            raise ValueError(
                f"{name} has shape {found}, expected {shape} or {_symbolic('C', *shape)} with "
                f"C = {batch[0]} (from {source})"
            )
        if lead:
            batch, source = lead, name
    return {
        name: jnp.broadcast_to(arrays[name], batch + shape) for name, (_, shape) in inputs.items()
    }


def _symbolic(*dims: int | str) -> str:
    return f"({', '.join(map(str, dims))}{',' if len(dims) == 1 else ''})"


def _common_dtype(values: list[Any]) -> np.dtype:
    """Return the dtype of the JAX arrays, else of the NumPy arrays, else JAX's default float."""
    leaves = jax.tree.leaves(values)
    from_jax = [leaf.dtype for leaf in leaves if isinstance(leaf, Array)]
    from_numpy = [leaf.dtype for leaf in leaves if isinstance(leaf, np.ndarray) and leaf.ndim]
    default = jnp.result_type(float)
    for dtypes in (from_jax, from_numpy):
        floating = [dtype for dtype in dtypes if jnp.issubdtype(dtype, jnp.floating)]
        if floating:
            dtype = functools.reduce(np.promote_types, floating)
            # float64 is NumPy's default, and JAX's only with x64.
            return default if dtype == np.float64 else dtype
    return default


def _matvec(matrix: Array, vector: Array) -> Array:
    # Not a dot: those are rounded to bfloat16 or TF32 on accelerators.
    return jnp.sum(matrix * vector[..., None, :], axis=-1)


def _normalize(vector: Array) -> Array:
    return vector / jnp.sqrt(jnp.sum(vector * vector, axis=-1, keepdims=True))


def _usable_up(up: Array, forward: Array) -> Array:
    """Replace ``up`` by a world axis where it is zero or parallel to ``forward``."""
    cross = jnp.cross(forward, up)
    sin2 = jnp.sum(cross * cross, axis=-1, keepdims=True)
    usable = sin2 > _MIN_SIN2 * jnp.sum(up * up, axis=-1, keepdims=True)
    furthest = jnp.argmin(jnp.abs(forward), axis=-1)
    return jnp.where(usable, up, jax.nn.one_hot(furthest, 3, dtype=up.dtype))


def _rigid(rotation: Array, translation: Array) -> Array:
    upper = jnp.concatenate([rotation, translation[..., None]], axis=-1)
    last = jnp.broadcast_to(jnp.array([[0, 0, 0, 1]], dtype=upper.dtype), (*upper.shape[:-2], 1, 4))
    return jnp.concatenate([upper, last], axis=-2)


def _intrinsics(arrays: dict[str, Array], width: int, height: int) -> Array:
    """Return K, given or computed from the one angle in ``arrays``."""
    if "K" in arrays:
        return arrays["K"]
    name, side = ("fov_x", width) if "fov_x" in arrays else ("fov_y", height)
    focal = 0.5 * float(side) / jnp.tan(0.5 * arrays[name])
    cx, cy = (jnp.full_like(focal, 0.5 * float(size)) for size in (width, height))
    return _intrinsic_matrix(focal, focal, cx, cy)


def _intrinsic_matrix(fx: Array, fy: Array, cx: Array, cy: Array) -> Array:
    zero, one = jnp.zeros_like(fx), jnp.ones_like(fx)
    rows = [[fx, zero, cx], [zero, fy, cy], [zero, zero, one]]
    return jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)


def _quat_to_rotation(quat: Array) -> Array:
    quat = _normalize(quat)
    w, x, y, z = (quat[..., i] for i in range(4))
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)
