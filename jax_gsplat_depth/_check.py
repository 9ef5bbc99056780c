"""Checks everything that a user passes to a stage, while it is traced.

Every check returns its input with JAX arrays of the right dtype, so that the stages and the FFI
handlers can rely on it. Only shapes and dtypes are looked at: the inputs may be tracers. Dimensions
are symbols (N Gaussians, B bases, D channels, C cameras) bound by the first array that has them, so
that the message can name both arrays that disagree. A wrong shape or value is a ValueError, a wrong
type or dtype a TypeError. Data is never looked at: bad data is culled by the kernels, not raised.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jax import Array

from jax_gsplat_depth._camera import Camera
from jax_gsplat_depth._check_arrays import (
    Dim,
    Dims,
    float_array,
    instance,
    int32_array,
    reference_array,
    static_int,
)
from jax_gsplat_depth._types import Bins, Config, Gaussians, Splats

# Bases of spherical harmonics of degree 0 to 4.
SH_BASES = (1, 4, 9, 16, 25)
# Together they keep the byte size of every buffer below 2**63.
MAX_IMAGE_SIDE = 2**20
MAX_PIXELS = 2**44
MAX_CHANNELS = 2**15
# ``Bins.order`` holds int32 indices.
MAX_GAUSSIANS = 2**31 - 1

Need = Literal["means", "geometry", "opacities", "appearance"]


def check_config(config: Config) -> Config:
    """Require a ``Config``; it has checked its own values."""
    return instance("config", config, Config)


def check_image_size(
    width: int, height: int, camera_batch: tuple[int, ...], *, owner: str = ""
) -> tuple[int, int]:
    """Return the static image size as Python integers, 1 to 2**20 pixels each.

    Args:
        width: Pixels.
        height: Pixels.
        camera_batch: ``()`` or ``(C,)``; limits the pixels of all images together.
        owner: The prefix of width and height in the message.
    """
    width, height = _image_side(f"{owner}width", width), _image_side(f"{owner}height", height)
    _check_pixels(owner, width, height, camera_batch)
    return width, height


def check_arrays(
    values: Mapping[str, Any], patterns: Mapping[str, Sequence[tuple[Dim, ...]]]
) -> dict[str, Array]:
    """Check arrays of one dtype, that of the first, against patterns of their shapes.

    Args:
        values: Arrays by the name that the user knows.
        patterns: The shapes that each value may have; their symbols are bound in order.

    Returns:
        JAX arrays by the same names.
    """
    first = next(iter(values))
    arrays = {first: reference_array(first, values[first])}
    dims = Dims()
    for name, value in values.items():
        if name != first:
            arrays[name] = float_array(name, value, arrays[first].dtype, first)
        dims.match(name, arrays[name].shape, *patterns[name])
        if ("N", "B", 3) in patterns[name]:
            _check_bases(name, arrays[name].shape)
    _check_counts(first, arrays[first].shape[0], ())
    return arrays


def check_sh_and_rotation(sh: Any, R: Any) -> tuple[Array, Array]:
    """Check coefficients ``[..., B, 3]`` and a rotation, one for all or one for each."""
    sh = reference_array("sh", sh, whole=False)
    if sh.ndim < 2 or sh.shape[-2] not in SH_BASES or sh.shape[-1] != 3:
        raise ValueError(
            f"sh has shape {sh.shape}, expected (..., B, 3) with B = 1, 4, 9, 16 or 25"
        )
    R = float_array("R", R, sh.dtype, "sh", whole=False)
    if R.shape not in ((3, 3), (*sh.shape[:-2], 3, 3)):
        raise ValueError(
            f"R has shape {R.shape}, expected (3, 3) or {(*sh.shape[:-2], 3, 3)} (from sh)"
        )
    return sh, R


def check_bool(name: str, value: Any) -> bool:
    """Return a static flag."""
    if isinstance(value, bool | np.bool_):
        return bool(value)
    raise TypeError(f"{name} has type {type(value).__name__}, expected bool: it is static")


def check_gaussians(
    gaussians: Gaussians, *, need: Iterable[Need] = ("geometry", "opacities", "appearance")
) -> Gaussians:
    """Check every array that is present, and that the needed ones are.

    ``means`` gives N and the dtype. JAX arrays must have that dtype; NumPy arrays and Python
    numbers are converted to it.

    Args:
        gaussians: As the user built them.
        need: Any of "means" (always needed), "geometry" (quats and scales, or covars),
            "opacities", and "appearance" (sh or colors). Arrays that are not needed may be
            missing, but not wrong.

    Returns:
        Gaussians with JAX arrays; ``covars`` as ``[N, 6]``, the average of both triangles. Whether
        colors ``[C, N, D]`` fit the cameras is left to ``check_appearance``.

    Raises:
        ValueError: A shape disagrees, an array is missing, or two exclude each other.
        TypeError: Not a ``Gaussians``, or a dtype that is not the one of the means.
    """
    instance("gaussians", gaussians, Gaussians)
    need = frozenset(need)
    means = reference_array("gaussians.means", gaussians.means)
    arrays: dict[str, Array] = {"means": means}
    for name in ("quats", "scales", "opacities", "sh", "colors", "covars"):
        value = getattr(gaussians, name)
        if value is not None:
            arrays[name] = float_array(f"gaussians.{name}", value, means.dtype, "gaussians.means")
    _check_gaussian_shapes(arrays)
    _check_alternatives(arrays, need)
    if "covars" in arrays:
        arrays["covars"] = _symmetric_6(arrays["covars"])
    return dataclasses.replace(gaussians, **arrays)


def check_camera(camera: Camera, dtype: Any) -> Camera:
    """Check the camera against the dtype of the Gaussians.

    Args:
        camera: As the user built it.
        dtype: The dtype of ``gaussians.means``.

    Returns:
        The camera with JAX arrays of that dtype and Python integers as its size.

    Raises:
        ValueError: A shape disagrees, or only one of viewmat and K has the camera axis.
        TypeError: Not a ``Camera``, another dtype, or a size that is not a static integer.
    """
    instance("camera", camera, Camera)
    viewmat = float_array("camera.viewmat", camera.viewmat, dtype, "gaussians.means")
    K = float_array("camera.K", camera.K, dtype, "gaussians.means")
    width = _image_side("camera.width", camera.width)
    height = _image_side("camera.height", camera.height)
    dims = Dims()
    dims.match(
        "camera.viewmat",
        viewmat.shape,
        (4, 4),
        ("C", 4, 4),
        hint="append the row 0, 0, 0, 1" if viewmat.shape[-2:] == (3, 4) else "",
    )
    dims.match(
        "camera.K",
        K.shape,
        (3, 3),
        ("C", 3, 3),
        hint="" if K.ndim > 1 else "K is [[fx, 0, cx], [0, fy, cy], [0, 0, 1]]",
    )
    if viewmat.ndim != K.ndim:
        raise ValueError(
            f"camera.viewmat has shape {viewmat.shape} but camera.K has shape {K.shape}: either "
            "both or neither have the leading camera axis C; repeat the other with "
            "jnp.broadcast_to"
        )
    n_cameras = viewmat.shape[0] if viewmat.ndim == 3 else 1
    if n_cameras == 0:
        raise ValueError("camera.viewmat and camera.K have C = 0 cameras, expected at least 1")
    _check_pixels("camera.", width, height, viewmat.shape[:-2])
    return dataclasses.replace(camera, viewmat=viewmat, K=K, width=width, height=height)


def check_sh_degree(
    sh_degree: int | None, n_bases: int, *, name: str = "sh_degree", source: str = "gaussians.sh"
) -> int:
    """Return the degree of the spherical harmonics to evaluate.

    Args:
        sh_degree: 0 to 4, static; None is the highest that the coefficients allow.
        n_bases: B of checked Gaussians.
        name: The user's name for the degree.
        source: The argument with the coefficients.

    Raises:
        ValueError: The degree is out of range or needs more coefficients than there are.
        TypeError: The degree is not an integer, for example a float or a traced array.
    """
    highest = SH_BASES.index(n_bases)
    if sh_degree is None:
        return highest
    degree = static_int(name, sh_degree)
    if not 0 <= degree < len(SH_BASES):
        raise ValueError(f"{name} is {degree}, expected 0 to {len(SH_BASES) - 1}")
    if degree > highest:
        raise ValueError(
            f"{name} is {degree} and needs B = {SH_BASES[degree]} coefficients, but "
            f"{source} has B = {n_bases}: expected at most {highest}"
        )
    return degree


def check_appearance(
    gaussians: Gaussians, sh_degree: int | None, camera_batch: tuple[int, ...]
) -> tuple[int | None, int]:
    """Return the degree to evaluate, None for colors, and the number of channels.

    Args:
        gaussians: Checked; with sh or colors.
        sh_degree: 0 to 4, static; None is the highest that sh allows.
        camera_batch: ``()`` or ``(C,)``.

    Raises:
        ValueError: As ``check_sh_degree``, there is a degree for colors, or colors are for other
            cameras.
        TypeError: As ``check_sh_degree``.
    """
    if gaussians.colors is not None:
        if sh_degree is not None:
            raise ValueError("sh_degree is given but gaussians has colors, expected sh")
        _check_color_sets(gaussians.colors.shape, camera_batch)
        return None, gaussians.colors.shape[-1]
    assert gaussians.sh is not None
    return check_sh_degree(sh_degree, gaussians.sh.shape[1]), gaussians.sh.shape[2]


def check_contributors(k: int) -> int:
    """Return how many Gaussians of each pixel are wanted, a static integer."""
    k = static_int("k", k)
    if not 1 <= k <= MAX_CHANNELS:
        raise ValueError(f"k is {k}, expected 1 to {MAX_CHANNELS}")
    return k


def check_background(
    background: Any,
    camera_batch: tuple[int, ...],
    n_channels: int,
    dtype: Any,
    *,
    source: str = "gaussians.means",
) -> Array:
    """Return the background as an array, ``[D]`` or ``[C, D]`` as given; None is zeros ``[D]``.

    Args:
        background: ``[D]``, or ``[C, D]`` if there is a camera axis, or None.
        camera_batch: ``()`` or ``(C,)``.
        n_channels: D, the number of channels of the image.
        dtype: The required dtype.
        source: The argument that determines the dtype.
    """
    if background is None:
        return jnp.zeros((n_channels,), dtype)
    array = float_array("background", background, dtype, source)
    dims = Dims()
    dims.bind("D", n_channels, "the image channels")
    patterns: list[tuple[Dim, ...]] = [("D",)]
    if camera_batch:
        dims.bind("C", camera_batch[0], "the camera")
        patterns.append(("C", "D"))
    dims.match("background", array.shape, *patterns)
    return array


def check_means2d_offset(
    offset: Any,
    camera_batch: tuple[int, ...],
    n: int,
    dtype: Any,
    *,
    name: str = "means2d_offset",
    source: str = "gaussians.means",
) -> Array | None:
    """Return an array shaped like the projected centres; None stays None.

    Args:
        offset: ``[N, 2]``, or ``[C, N, 2]`` if there is a camera axis, in pixels; or None.
        camera_batch: ``()`` or ``(C,)``.
        n: N, the number of Gaussians.
        dtype: The required dtype.
        name: The user's name for it.
        source: The argument that determines N and the dtype.
    """
    if offset is None:
        return None
    array = float_array(name, offset, dtype, source)
    dims = Dims()
    dims.bind("N", n, source)
    if camera_batch:
        dims.bind("C", camera_batch[0], "the camera")
        dims.match(name, array.shape, ("C", "N", 2))
    else:
        dims.match(name, array.shape, ("N", 2))
    return array


def check_splats(splats: Splats) -> Splats:
    """Check the splats; ``means2d`` gives N, C and the dtype."""
    instance("splats", splats, Splats)
    means2d = reference_array("splats.means2d", splats.means2d)
    arrays = {"means2d": means2d}
    for name in ("depths", "conics", "opacities"):
        arrays[name] = float_array(
            f"splats.{name}", getattr(splats, name), means2d.dtype, "splats.means2d"
        )
    arrays["radii"] = int32_array("splats.radii", splats.radii)
    dims = Dims()
    dims.match("splats.means2d", means2d.shape, ("N", 2), ("C", "N", 2))
    batch: tuple[Dim, ...] = ("C",) if means2d.ndim == 3 else ()
    for name, own in (("depths", ()), ("conics", (3,)), ("opacities", ()), ("radii", ())):
        dims.match(f"splats.{name}", arrays[name].shape, (*batch, "N", *own))
    _check_counts("splats.means2d", means2d.shape[-2], means2d.shape[:-2])
    return dataclasses.replace(splats, **arrays)


def check_colors(colors: Any, splats: Splats) -> Array:
    """Check colours, ``[N, D]`` or ``[C, N, D]``, against checked splats."""
    array = float_array("colors", colors, splats.means2d.dtype, "splats.means2d")
    dims = _splat_dims(splats)
    patterns: list[tuple[Dim, ...]] = [("N", "D")]
    if splats.means2d.ndim == 3:
        patterns.append(("C", "N", "D"))
    dims.match("colors", array.shape, *patterns, hint=_channel_hint(array.shape))
    _check_channels("colors", array.shape[-1])
    return array


def check_order(order: Any, splats: Splats) -> Array:
    """Check a drawing order, ``[N]`` or ``[C, N]`` like the checked splats."""
    if isinstance(order, Bins):
        raise TypeError("order has type Bins, expected its array: pass bins.order")
    array = int32_array("order", order)
    batch: tuple[Dim, ...] = ("C",) if splats.means2d.ndim == 3 else ()
    _splat_dims(splats).match("order", array.shape, (*batch, "N"))
    return array


def _check_gaussian_shapes(arrays: dict[str, Array]) -> None:
    """Match every array against N of the means, and check the range of B and D."""
    patterns: dict[str, tuple[tuple[Dim, ...], ...]] = {
        "means": (("N", 3),),
        "quats": (("N", 4),),
        "scales": (("N", 3),),
        "opacities": (("N",),),
        "sh": (("N", "B", 3),),
        "colors": (("N", "D"), ("C", "N", "D")),
        "covars": (("N", 6), ("N", 3, 3)),
    }
    hints = {"opacities": _opacity_hint, "sh": _sh_hint, "colors": _channel_hint}
    dims = Dims()
    for name, array in arrays.items():
        hint = hints[name](array.shape) if name in hints else ""
        dims.match(f"gaussians.{name}", array.shape, *patterns[name], hint=hint)
    _check_counts("gaussians.means", arrays["means"].shape[0], ())
    if "sh" in arrays:
        _check_bases("gaussians.sh", arrays["sh"].shape)
    if "colors" in arrays:
        _check_channels("gaussians.colors", arrays["colors"].shape[-1])


def _check_color_sets(shape: tuple[int, ...], camera_batch: tuple[int, ...]) -> None:
    """Require one set of colours, or one for each camera."""
    if len(shape) == 2:
        return
    if not camera_batch:
        raise ValueError(
            f"gaussians.colors has shape {shape}, expected (N, D): the camera has no leading axis C"
        )
    dims = Dims()
    dims.bind("C", camera_batch[0], "the camera")
    dims.match("gaussians.colors", shape, ("N", "D"), ("C", "N", "D"))


def _check_bases(name: str, shape: tuple[int, ...]) -> None:
    if shape[1] not in SH_BASES:
        hint = _sh_hint(shape)
        raise ValueError(
            f"{name} has shape {shape}, expected (N, B, 3) with "
            f"B = 1, 4, 9, 16 or 25{'; ' + hint if hint else ''}"
        )


def _check_alternatives(arrays: dict[str, Array], need: frozenset[str]) -> None:
    """Require one complete description of the shape and one of the appearance."""
    for name in ("quats", "scales"):
        if name in arrays and "covars" in arrays:
            raise ValueError(
                f"gaussians.{name} and gaussians.covars are both given: expected quats and "
                "scales, or covars"
            )
    if "sh" in arrays and "colors" in arrays:
        raise ValueError("gaussians.sh and gaussians.colors are both given: expected one of them")
    if "geometry" in need and "covars" not in arrays:
        for name in ("quats", "scales"):
            if name not in arrays:
                raise ValueError(
                    f"gaussians.{name} is missing: expected quats and scales, or covars"
                )
    if "opacities" in need and "opacities" not in arrays:
        raise ValueError("gaussians.opacities is missing")
    if "appearance" in need and "sh" not in arrays and "colors" not in arrays:
        raise ValueError("gaussians.sh and gaussians.colors are both missing: expected one of them")


def _check_counts(name: str, n: int, camera_batch: tuple[int, ...]) -> None:
    if _exceeds(n, MAX_GAUSSIANS):
        raise ValueError(f"{name} has N = {n} Gaussians, expected at most {MAX_GAUSSIANS}")
    if camera_batch == (0,):
        raise ValueError(f"{name} has C = 0 cameras, expected at least 1")


def _check_channels(name: str, n_channels: int) -> None:
    if _exceeds(n_channels, MAX_CHANNELS):
        raise ValueError(f"{name} has D = {n_channels} channels, expected 0 to {MAX_CHANNELS}")


def _exceeds(size: int, limit: int) -> bool:
    # A symbolic dimension of jax.export has no size yet, and comparing it would raise.
    return isinstance(size, int) and size > limit


def _splat_dims(splats: Splats) -> Dims:
    dims = Dims()
    dims.bind("N", splats.means2d.shape[-2], "splats.means2d")
    if splats.means2d.ndim == 3:
        dims.bind("C", splats.means2d.shape[0], "splats.means2d")
    return dims


def _opacity_hint(shape: tuple[int, ...]) -> str:
    return "drop the last axis" if len(shape) == 2 and shape[1] == 1 else ""


def _channel_hint(shape: tuple[int, ...]) -> str:
    return "a single channel is colors[:, None]" if len(shape) == 1 else ""


def _sh_hint(shape: tuple[int, ...]) -> str:
    if len(shape) == 3 and shape[1] == 3 and shape[2] in SH_BASES:
        return "swap the last two axes"
    if len(shape) == 2 and shape[1] % 3 == 0 and shape[1] // 3 in SH_BASES:
        return "reshape to (N, B, 3), the bases before the channels"
    return ""


def _symmetric_6(covars: Array) -> Array:
    """Return xx, xy, xz, yy, yz, zz; averaging gives both triangles the same gradient."""
    if covars.ndim == 2:
        return covars
    rows, columns = np.triu_indices(3)
    return 0.5 * (covars[:, rows, columns] + covars[:, columns, rows])


def _image_side(name: str, value: Any) -> int:
    side = static_int(name, value)
    if not 1 <= side <= MAX_IMAGE_SIDE:
        raise ValueError(f"{name} is {side} pixels, expected 1 to {MAX_IMAGE_SIDE}")
    return side


def _check_pixels(owner: str, width: int, height: int, camera_batch: tuple[int, ...]) -> None:
    n_cameras = camera_batch[0] if camera_batch else 1
    if _exceeds(n_cameras * width * height, MAX_PIXELS):
        raise ValueError(
            f"{owner}width * {owner}height * C = {width} * {height} * {n_cameras} pixels, "
            f"expected at most {MAX_PIXELS}"
        )
