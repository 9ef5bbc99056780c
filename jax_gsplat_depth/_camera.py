"""Defines the pinhole camera and its constructors.

A frozen dataclass and a pytree like those of ``_types.py``: the constructor neither checks nor
converts. The class methods do both.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jax_gsplat_depth._check_camera import check_camera_values
from jax_gsplat_depth._common.by_shape import shown_by_shape
from jax_gsplat_depth._common.rotation import rotation_rows
from jax_gsplat_depth._explicit import gathered

# What the constructors accept: nested sequences as well.
Numbers = ArrayLike | Sequence[Any]

# The parameters of COLMAP's pinhole models.
_COLMAP_PARAMS = {"SIMPLE_PINHOLE": ("f", "cx", "cy"), "PINHOLE": ("fx", "fy", "cx", "cy")}

# Squared sine of the angle (1e-5 rad) to the viewing direction below which ``up`` no longer
# determines the right axis: the cross product has a rounding error of 1e-7 in float32.
_MIN_SIN2 = 1e-10

# Length, for z = 1, of a ray whose square and derivatives are far from the limits of float32.
_LONGEST_RAY = 1e9


@shown_by_shape
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Camera:
    """A pinhole camera, or ``C`` cameras of one image size along a leading axis.

    Axes are OpenCV's: x right, y down, z forward. Pixel (column j, row i) is sampled at
    (j + 0.5, i + 0.5). ``viewmat`` and ``K`` are traced and differentiable, ``width`` and
    ``height`` are static: a new size recompiles.

    The constructors ``look_at``, ``from_opengl``, ``from_fov`` and ``from_colmap`` can be traced
    and differentiated. Each of their arrays may have a leading camera axis ``C``; arrays without
    one are repeated. JAX arrays decide the dtype, else NumPy arrays, else JAX's default. Values
    that are known while tracing are checked: they have to be finite, focal lengths positive, angles
    between 0 and pi, ``eye`` and ``target`` apart. Of traced values the same is required and cannot
    be checked: others give NaN or a mirrored picture.

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

    def ray_lengths(self) -> Array:
        """Distance from the camera centre to what each pixel sees at z = 1, ``[H, W]``.

        |K^-1 (u, v, 1)| at (u, v) = (j + 0.5, i + 0.5), at least 1: a depth times this is the
        distance along the ray. ``[C, H, W]`` with a camera axis; differentiable in K.
        """
        K = jnp.asarray(self.K)
        fx, fy, cx, cy = (K[..., i, j, None] for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))
        x = (_pixel_centers(self.width, K.dtype, K.ndim - 1) - cx) / fx
        y = (_pixel_centers(self.height, K.dtype, K.ndim - 1) - cy) / fy
        return jnp.sqrt(1 + jnp.square(x)[..., None, :] + jnp.square(y)[..., :, None])

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
    ) -> Camera:
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
            ValueError: A shape disagrees, not exactly one of K, fov_x and fov_y is given, or known
                values make no camera.
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
    ) -> Camera:
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
            ValueError: A shape disagrees, not exactly one of K, fov_x and fov_y is given, or known
                values make no camera.
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
    ) -> Camera:
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
            ValueError: A shape disagrees, not exactly one of fov_x and fov_y is given, or known
                values make no camera.
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
    ) -> Camera:
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
            ValueError: Another camera model, a shape disagrees, or known values make no camera.
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


def _lens(**angles_or_K: Any) -> dict[str, tuple[Any, tuple[int, ...]]]:
    """Return the one lens description that is given, and its shape without camera axis."""
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
    check_camera_values({name: value for name, (value, _) in inputs.items()}, dtype)
    return {
        name: jnp.broadcast_to(gathered(arrays[name]), batch + shape)
        for name, (_, shape) in inputs.items()
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


def usable_ray_lengths(camera: Camera) -> Array:
    """``Camera.ray_lengths``, finite and with finite gradients for any K.

    Where K has no inverse, or nearly so, the lengths are those of another camera: a depth of 0
    stays 0, and any other is meaningless.
    """
    K = camera.K
    focal = jnp.stack([K[..., 0, 0], K[..., 1, 1]], axis=-1)
    reach = max(camera.width, camera.height) + jnp.abs(K[..., :2, 2])
    # Farther out float32 does not hold the square of a length. False for NaN.
    usable = ((reach < _LONGEST_RAY * jnp.abs(focal)) & jnp.isfinite(focal)).all(-1)
    one = jnp.eye(3, dtype=K.dtype)
    return dataclasses.replace(camera, K=jnp.where(usable[..., None, None], K, one)).ray_lengths()


def _pixel_centers(size: int, dtype: Any, ndim: int) -> Array:
    return (jnp.arange(size, dtype=dtype) + 0.5).reshape((1,) * (ndim - 1) + (size,))


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
    rows = rotation_rows(*(quat[..., i] for i in range(4)))
    return jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)
