"""Renders through the interface of the two original rasterizers, with exact gradients.

``diff_gaussian_rasterization_depth`` and ``diff_gaussian_rasterization_e3nn_depth`` have the same
names, layouts and numbers of the forward pass: migration is a change of the import. New code is
shorter with ``render``. docs/migration.md lists everything that changes.

The stages are those of ``render``. What the originals do differently is done here in JAX: the
covariances (quaternions as given, scale_modifier) and the centres, which follow projmatrix whatever
the focal lengths are.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jax_gsplat_depth import _check
from jax_gsplat_depth._bin import depth_order
from jax_gsplat_depth._blend import blend_checked
from jax_gsplat_depth._camera import Camera
from jax_gsplat_depth._common import flax_states
from jax_gsplat_depth._common.by_shape import shown_by_shape
from jax_gsplat_depth._common.rotation import rotation_rows
from jax_gsplat_depth._compiled import TILE_SIZE
from jax_gsplat_depth._debug import takes_any_data
from jax_gsplat_depth._project import project_checked
from jax_gsplat_depth._reverse_mode import reverse_only
from jax_gsplat_depth._shade import cull_by_color, shade_checked
from jax_gsplat_depth._types import Config, Gaussians, ShConvention
from jax_gsplat_depth.compat import _recorder
from jax_gsplat_depth.compat._snapshot import read_snapshot

# World units: nearer points are not drawn, and not visible to markVisible.
NEAR_PLANE = 0.2
# Added to the clip coordinate w, and to the weight map.
_W_EPSILON = 1e-7
_WEIGHT_EPSILON = 1e-6


@shown_by_shape
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class GaussianRasterizationSettings:
    """Camera, background and options of one image, with the names of the original rasterizers.

    A pytree: the arrays and numbers among the fields may be traced and have gradients; image size,
    sh_degree, the flags and sh_convention are static, and a new value recompiles. Checked when the
    rasterizer is called.

    Attributes:
        image_height: H in pixels.
        image_width: W in pixels.
        tanfovx: ``[]`` tangent of half the horizontal field of view. The focal length is
            W / (2 tanfovx) pixels; it shapes the splats, but does not move their centres.
        tanfovy: ``[]`` the same for the height.
        bg: ``[3]`` background colour; ``[D]`` for colors_precomp with D channels.
        scale_modifier: ``[]`` factor of all scales; cov3D_precomp is not scaled.
        viewmatrix: ``[4, 4]`` world-to-camera transform for row vectors, hence transposed:
            [x y z 1] @ viewmatrix. Axes x right, y down, z forward.
        projmatrix: ``[4, 4]`` world to clip coordinates for row vectors: viewmatrix @ projection.
            Determines the centres only; the principal point may be anywhere.
        sh_degree: 0 to 4, at most what shs allows; higher coefficients are not read.
        campos: ``[3]`` camera centre in the world, from which the spherical harmonics are seen.
        prefiltered: True asserts that no point is nearer than the near plane. A point that is
            does not kill the process: the inputs are saved, and a RuntimeWarning says so. Slow.
        debug: True saves the inputs of a call that fails, or whose results or gradients are not
            finite, and reports it by a RuntimeWarning; see ``load_snapshot``. Slow.
        sh_convention: "3dgs" (default) for ``diff_gaussian_rasterization_depth``; "e3nn" for
            ``diff_gaussian_rasterization_e3nn_depth`` with the right polynomial of degree 3;
            "e3nn-legacy" with its wrong one.
    """

    image_height: int = dataclasses.field(metadata={"static": True})
    image_width: int = dataclasses.field(metadata={"static": True})
    tanfovx: ArrayLike
    tanfovy: ArrayLike
    bg: ArrayLike
    scale_modifier: ArrayLike
    viewmatrix: ArrayLike
    projmatrix: ArrayLike
    sh_degree: int = dataclasses.field(metadata={"static": True})
    campos: ArrayLike
    prefiltered: bool = dataclasses.field(metadata={"static": True})
    debug: bool = dataclasses.field(metadata={"static": True})
    sh_convention: ShConvention = dataclasses.field(default="3dgs", metadata={"static": True})

    def _replace(self, **changes: Any) -> GaussianRasterizationSettings:
        """Return a changed copy, as the named tuple of the original rasterizers does."""
        return dataclasses.replace(self, **changes)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class GaussianRasterizer:
    """The rasterizer of one image; call it with the Gaussians.

    Attributes:
        raster_settings: Camera, background and options.
    """

    raster_settings: GaussianRasterizationSettings

    @takes_any_data()
    def markVisible(self, positions: ArrayLike) -> Array:
        """Return which points are farther than the near plane, 0.2; they may miss the image.

        Args:
            positions: ``[N, 3]`` points, world frame.

        Returns:
            ``[N]`` bool. A point that is not finite is not visible.
        """
        values = {"positions": positions, "raster_settings.viewmatrix": _settings(self).viewmatrix}
        patterns = {"positions": [("N", 3)], "raster_settings.viewmatrix": [(4, 4)]}
        points, viewmatrix = _check.check_arrays(values, patterns).values()
        return _in_front(*map(jax.lax.stop_gradient, (points, viewmatrix)))

    @takes_any_data()
    def __call__(
        self,
        means3D: ArrayLike,
        means2D: ArrayLike | None,
        opacities: ArrayLike,
        shs: ArrayLike | None = None,
        colors_precomp: ArrayLike | None = None,
        scales: ArrayLike | None = None,
        rotations: ArrayLike | None = None,
        cov3D_precomp: ArrayLike | None = None,
    ) -> tuple[Array, Array, Array, Array]:
        """Render the Gaussians.

        ``N`` is the number of Gaussians, ``B`` of coefficients. Differentiable, from image, depth
        and weight, in every array here and in the settings.

        Args:
            means3D: ``[N, 3]`` centres, world frame.
            means2D: ``[N, 3]``, or None. Its value is not used; its gradient is that of the
                centres in normalised device coordinates (the gradient per pixel times W / 2 and
                H / 2, and 0), for which thresholds of densification are tuned.
            opacities: ``[N, 1]`` or ``[N]``, 0..1.
            shs: ``[N, B, 3]`` spherical-harmonics coefficients, B = 1, 4, 9, 16 or 25.
            colors_precomp: ``[N, 3]`` colours, instead of shs; any number of channels.
            scales: ``[N, 3]`` standard deviations along the local axes; linear.
            rotations: ``[N, 4]`` quaternions wxyz of length 1: they are not normalised.
            cov3D_precomp: ``[N, 6]`` covariances xx, xy, xz, yy, yz, zz, instead of scales and
                rotations.

        Returns:
            ``rendered_image [3, H, W]``; ``radii [N]`` int32 in pixels, 0 where not drawn;
            ``depth_map [H, W]``, sum of w z over weight_map; ``weight_map [H, W]``, sum of w, plus
            1e-6.

        Raises:
            ValueError: Not exactly one colour or one shape is given, or a shape disagrees; raised
                while tracing.
            TypeError: A dtype disagrees; raised while tracing.
        """
        if (shs is None) == (colors_precomp is None):
            found = "neither" if shs is None else "both"
            raise ValueError(f"expected either shs or colors_precomp, got {found}")
        pair = (scales is not None) + (rotations is not None)
        if pair != (2 if cov3D_precomp is None else 0):
            shapes = {"scales": scales, "rotations": rotations, "cov3D_precomp": cov3D_precomp}
            found = " and ".join(k for k, v in shapes.items() if v is not None) or "none of them"
            raise ValueError(f"expected either scales and rotations, or cov3D_precomp, got {found}")
        settings = _settings(self)
        arguments = {
            "means3D": means3D,
            "means2D": means2D,
            "opacities": opacities,
            "shs": shs,
            "colors_precomp": colors_precomp,
            "scales": scales,
            "rotations": rotations,
            "cov3D_precomp": cov3D_precomp,
        }
        for name in _OPTIONAL:
            if arguments[name] is None:
                del arguments[name]
        options, inputs = _checked(settings, arguments)
        inputs = reverse_only("GaussianRasterizer", inputs)
        debug = _check.check_bool("raster_settings.debug", settings.debug)
        prefiltered = _check.check_bool("raster_settings.prefiltered", settings.prefiltered)
        run = functools.partial(_rasterize, options)
        if not (debug or prefiltered):
            return run(inputs)
        header = {name: getattr(settings, name) for name in _STATIC}
        hidden = ~_in_front(inputs["means3D"], inputs["viewmatrix"]) if prefiltered else None
        return _recorder.recorded(run, header, inputs, hidden, watch_values=debug)


flax_states.register(GaussianRasterizationSettings, GaussianRasterizer)


@shown_by_shape
class Snapshot(NamedTuple):
    """A call that ``debug`` or ``prefiltered`` saved, see ``load_snapshot``.

    Attributes:
        rasterizer: With the settings of the call, ``debug`` and ``prefiltered`` off.
        arguments: By name: ``rasterizer(**arguments)`` is the call.
        cotangents: Of rendered_image, depth_map and weight_map by name, for a gradient; or empty.
    """

    rasterizer: GaussianRasterizer
    arguments: dict[str, Array]
    cotangents: dict[str, Array]


def load_snapshot(path: Any) -> Snapshot:
    """Read a file that ``debug`` or ``prefiltered`` saved.

    Args:
        path: The ``.npz`` file that the report names.

    Returns:
        What repeats the call.

    Raises:
        ValueError: The file is damaged, or not one of these; the message is one sentence that
            names it.
        OSError: It cannot be opened.
    """
    header, arrays = read_snapshot(path)
    missing = {*_STATIC, *_TRACED, "means3D", "opacities"} - {*header, *arrays}
    known = {*_TRACED, *_PATTERNS, *(_recorder.COTANGENT + name for name in _recorder.OUTPUTS)}
    for problem, names in (
        ("lacks", missing),
        ("holds", {*header} - {*_STATIC}),
        ("holds", {*arrays} - known),
    ):
        if names:
            raise ValueError(
                f"{path} is no snapshot of the rasterizer (it {problem} {min(names)[:40]!r})"
            )
    fields: dict[str, Any] = header | {"prefiltered": False, "debug": False}
    fields |= {name: jnp.asarray(arrays.pop(name)) for name in _TRACED}
    named = {name: jnp.asarray(value) for name, value in arrays.items()}
    prefix = _recorder.COTANGENT
    return Snapshot(
        GaussianRasterizer(GaussianRasterizationSettings(**fields)),
        {name: value for name, value in named.items() if not name.startswith(prefix)},
        {k.removeprefix(prefix): v for k, v in named.items() if k.startswith(prefix)},
    )


_FIELDS = dataclasses.fields(GaussianRasterizationSettings)
_STATIC = tuple(field.name for field in _FIELDS if field.metadata.get("static"))
_TRACED = tuple(field.name for field in _FIELDS if not field.metadata.get("static"))

_OPTIONAL = ("means2D", "shs", "colors_precomp", "scales", "rotations", "cov3D_precomp")

_PATTERNS: dict[str, list[tuple[int | str, ...]]] = {
    "means3D": [("N", 3)],
    "means2D": [("N", 3)],
    "opacities": [("N", 1), ("N",)],
    "shs": [("N", "B", 3)],
    "colors_precomp": [("N", "D")],
    "scales": [("N", 3)],
    "rotations": [("N", 4)],
    "cov3D_precomp": [("N", 6)],
    "bg": [("D",)],
    "tanfovx": [()],
    "tanfovy": [()],
    "scale_modifier": [()],
    "viewmatrix": [(4, 4)],
    "projmatrix": [(4, 4)],
    "campos": [(3,)],
}


@dataclasses.dataclass(frozen=True)
class _Options:
    """The static part of a call, checked."""

    width: int
    height: int
    sh_degree: int | None
    config: Config


def _settings(rasterizer: GaussianRasterizer) -> GaussianRasterizationSettings:
    settings = rasterizer.raster_settings
    if not isinstance(settings, GaussianRasterizationSettings):
        raise TypeError(
            f"raster_settings has type {type(settings).__name__}, expected "
            "GaussianRasterizationSettings"
        )
    return settings


def _checked(
    settings: GaussianRasterizationSettings, arguments: dict[str, Any]
) -> tuple[_Options, dict[str, Array]]:
    """Return the static options, and the arrays of arguments and settings by name."""
    prefix = "raster_settings."
    width, height = _check.check_image_size(
        settings.image_width, settings.image_height, (), owner=f"{prefix}image_"
    )
    config = Config(
        near_plane=NEAR_PLANE,
        far_plane=math.inf,
        footprint="3sigma",
        sh_convention=settings.sh_convention,
    )
    patterns = dict(_PATTERNS)
    if "shs" in arguments:
        patterns["bg"] = [(3,)]
    own = {name: getattr(settings, name) for name in _TRACED}
    arrays = _check.check_arrays(
        arguments | {prefix + name: value for name, value in own.items()},
        patterns | {prefix + name: patterns[name] for name in own},
    )
    arrays = {name.removeprefix(prefix): array for name, array in arrays.items()}
    degree = None
    if "shs" in arrays:
        degree = _check.check_sh_degree(
            settings.sh_degree, arrays["shs"].shape[1], name=f"{prefix}sh_degree", source="shs"
        )
    return _Options(width, height, degree, config), arrays


def _rasterize(options: _Options, x: dict[str, Array]) -> tuple[Array, Array, Array, Array]:
    """Render; ``x`` holds the checked arrays of arguments and settings."""
    size, config = (options.width, options.height), options.config
    means = x["means3D"]
    gaussians = Gaussians(
        means,
        opacities=x["opacities"].reshape(means.shape[0]),
        covars=x["cov3D_precomp"]
        if "cov3D_precomp" in x
        else _covariances(x["rotations"], x["scales"], x["scale_modifier"]),
    )
    camera = _camera(x["viewmatrix"].T, _intrinsics(x, *size), size)
    splats = project_checked(gaussians, camera, config, keep_outside=True)

    if "shs" in x:
        seen = Gaussians(means, sh=x["shs"])
        eye = _camera_at(x["campos"], size)
        colors = shade_checked(seen, eye, options.sh_degree, config, radii=splats.radii)
    else:
        colors = x["colors_precomp"]

    ndc, drawn = _device_coordinates(means, splats.radii > 0, x["projmatrix"])
    if "means2D" in x:
        ndc = _with_gradient_for(ndc, x["means2D"])
    # Their pixel, ((ndc + 1) size - 1) / 2, counts from the centre of the first one.
    means2d = (ndc + 1) * jnp.array([size], ndc.dtype) / 2
    drawn &= _meets_tiles(means2d, splats.radii, size)
    splats = dataclasses.replace(
        splats, means2d=means2d, radii=jnp.where(drawn, splats.radii, jnp.int32(0))
    )
    out = blend_checked(
        splats, colors, depth_order(splats, *size, config), size, x["bg"], None, config
    )
    weight = out.weight + _WEIGHT_EPSILON
    depth = out.depth * out.weight / weight
    return jnp.moveaxis(out.image, -1, 0), cull_by_color(out.radii, colors), depth, weight


def _covariances(rotations: Array, scales: Array, scale_modifier: Array) -> Array:
    """Return R S^2 R^T, ``[N, 6]``, with S = diag(scale_modifier scales).

    A covariance that is not finite becomes NaN, which culls; its inputs are replaced, so that no
    gradient becomes NaN.
    """
    covariances = _covariances_of_finite(rotations, scale_modifier * scales)
    usable = jnp.isfinite(covariances).all(axis=-1, keepdims=True)
    scale_modifier = jnp.where(jnp.isfinite(scale_modifier), scale_modifier, 1)
    rotations, scales = (jnp.where(usable, v, jnp.ones_like(v)) for v in (rotations, scales))
    covariances = _covariances_of_finite(rotations, scale_modifier * scales)
    return jnp.where(usable, covariances, jnp.nan)


def _covariances_of_finite(rotations: Array, scales: Array) -> Array:
    """Evaluate the polynomial of the quaternions as given."""
    a, b, c = (jnp.stack(row, axis=-1) * scales for row in rotation_rows(*rotations.T))
    pairs = ((a, a), (a, b), (a, c), (b, b), (b, c), (c, c))
    return jnp.stack([jnp.sum(p * q, axis=-1) for p, q in pairs], axis=-1)


def _intrinsics(x: dict[str, Array], width: int, height: int) -> Array:
    """Return K for the shape of the splats: principal point in the middle of the image."""
    K = jnp.array([[0, 0, width / 2], [0, 0, height / 2], [0, 0, 1]], x["tanfovx"].dtype)
    K = K.at[0, 0].set(width / (2 * x["tanfovx"]))
    return K.at[1, 1].set(height / (2 * x["tanfovy"]))


def _camera(viewmat: Array, K: Array, size: tuple[int, int]) -> Camera:
    return Camera(viewmat, K, width=size[0], height=size[1])


def _camera_at(center: Array, size: tuple[int, int]) -> Camera:
    """Return a camera at a point, for the directions of the spherical harmonics."""
    viewmat = jnp.eye(4, dtype=center.dtype).at[:3, 3].set(-center)
    return _camera(viewmat, jnp.eye(3, dtype=center.dtype), size)


def _in_front(points: Array, viewmatrix: Array) -> Array:
    return (_times(points, viewmatrix[:3, 2:3]) + viewmatrix[3:, 2:3])[:, 0] > NEAR_PLANE


def _device_coordinates(means: Array, drawn: Array, projmatrix: Array) -> tuple[Array, Array]:
    """Return centres in normalised device coordinates, ``[N, 2]``, and which of them to draw.

    The others are replaced before the division, so that their gradient is zero and not NaN.
    """
    is_finite = jnp.isfinite(projmatrix).all()
    projmatrix = jnp.where(is_finite, projmatrix, jnp.zeros_like(projmatrix))
    means = jnp.where(drawn[:, None], means, jnp.zeros_like(means))
    clip = _times(means, projmatrix[:3]) + projmatrix[3:]
    w = clip[:, 3:] + _W_EPSILON
    # The derivative divides by the square of w.
    usable = jnp.isfinite(clip / w / w).all(axis=-1)
    clip = jnp.where(usable[:, None], clip, jnp.ones_like(clip))
    return clip[:, :2] / (clip[:, 3:] + _W_EPSILON), drawn & usable & is_finite


def _times(a: Array, b: Array) -> Array:
    # Accelerators round the operands of a product to bfloat16 or TF32 by default.
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def _same_ndc(ndc: Array, means2D: Array) -> Array:
    return ndc


def _same_ndc_bwd(_: None, v_ndc: Array) -> tuple[Array, Array]:
    return v_ndc, jnp.pad(v_ndc, ((0, 0), (0, 1)))


# Returns its first argument, and gives its gradient to the second one as well.
_with_gradient_for = jax.custom_vjp(_same_ndc)
_with_gradient_for.defvjp(lambda ndc, means2D: (ndc, None), _same_ndc_bwd)


def _meets_tiles(means2d: Array, radii: Array, size: tuple[int, int]) -> Array:
    """Return whether the square of a splat touches a tile of the image, as in ``math/tile.h``."""
    n_tiles = np.array([[-(-side // TILE_SIZE) for side in size]])
    limit = jnp.array(n_tiles, means2d.dtype)
    centre, radius = means2d - 0.5, radii[:, None].astype(means2d.dtype)
    first = jnp.floor((centre - radius) / TILE_SIZE)
    last = jnp.floor((centre + radius + (TILE_SIZE - 1)) / TILE_SIZE)
    return (jnp.clip(first, 0, limit) < jnp.clip(last, 0, limit)).all(axis=-1)
