"""Defines the renderer densely in float64 and pure JAX, as every backend is tested against it.

No tiles (but for the rule of the "3sigma" footprint), no sorting tricks, no code shared with the
library. Selections (which pixel, which Gaussian, which order, which clamp) are comparisons, hence
constants of the derivative. A culled Gaussian has its inputs replaced by harmless constants before
the formulas and its outputs masked after them, so its gradient is zero and never NaN.

``project``, ``shade`` and ``blend`` work on one camera and on plain arrays, the functions named
``*_stage`` on a dict of arrays as made by ``scenes.Scene.inputs``. ``reference.py`` runs them.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

ALPHA_CUTOFF = 1 / 255
ALPHA_CAP = 0.99
T_STOP = 1e-4
COMPENSATION_FLOOR = 0.005
TILE = 16

# Relative distance to a branch inside which a float32 renderer may lawfully take the other side.
BAND_CUTOFF, BAND_CAP, BAND_STOP, BAND_MEDIAN = 2e-3, 1e-4, 2e-2, 1e-4


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("width", "height", "near_plane", "far_plane", "eps2d"),
    meta_fields=(
        *("footprint", "antialiased", "sh_convention", "sh_degree", "depth", "ray_depth"),
        "keep_outside",
    ),
)
@dataclasses.dataclass(frozen=True)
class Settings:
    """Image size and options of a render; new numbers compile nothing anew."""

    width: int
    height: int
    near_plane: float = 0.01
    far_plane: float = 1e10
    eps2d: float = 0.3
    footprint: str = "exact"
    antialiased: bool = False
    sh_convention: str = "3dgs"
    sh_degree: int | None = None
    depth: str = "expected"
    ray_depth: bool = False
    keep_outside: bool = False


def rotation_matrix(quats):
    """Quaternions wxyz ``(N, 4)`` of any non-zero length to ``(N, 3, 3)``."""
    # Scaled by the largest entry first: the squares of extreme quaternions leave the range.
    quats = quats / jax.lax.stop_gradient(jnp.max(jnp.abs(quats), axis=1, keepdims=True))
    w, x, y, z = (quats / jnp.sqrt(jnp.sum(quats**2, axis=1, keepdims=True))).T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return jnp.stack([jnp.stack(row, -1) for row in rows], -2)


def covariance(quats, scales):
    """``R diag(s)^2 R^T`` of every Gaussian, ``(N, 3, 3)``."""
    m = rotation_matrix(quats) * scales[:, None, :]
    return m @ m.transpose(0, 2, 1)


def masked(valid, x, default):
    """``x`` where valid, else a constant row; blocks the gradient of the other rows."""
    valid = valid.reshape(valid.shape + (1,) * (x.ndim - 1))
    default = jnp.broadcast_to(jnp.asarray(default, x.dtype), x.shape)
    return jnp.where(valid, x, default)


def world_covariance(inputs):
    """Covariances ``(N, 3, 3)`` and which Gaussians have only usable parameters ``(N,)``."""
    valid = inputs.get("usable", jnp.isfinite(inputs["opacities"]))
    for name in ("means", "quats", "scales", "covars", "opacities"):
        if name in inputs:
            finite = jnp.isfinite(inputs[name])
            valid &= jnp.all(finite, axis=tuple(range(1, finite.ndim)))
    if "covars" in inputs:
        covars = inputs["covars"]
        if covars.ndim == 2:
            covars = covars[:, jnp.array([[0, 1, 2], [1, 3, 4], [2, 4, 5]])]
        covars = masked(valid, covars, np.eye(3)[None])
        return 0.5 * (covars + covars.transpose(0, 2, 1)), valid
    valid &= jnp.any(inputs["quats"] != 0, axis=1) & jnp.all(inputs["scales"] > 0, axis=1)
    quats = masked(valid, inputs["quats"], np.array([[1.0, 0, 0, 0]]))
    return covariance(quats, masked(valid, inputs["scales"], 1.0)), valid


def project(means, covars, opacities, valid, viewmat, K, s):
    """One camera's splats: means2d, depths, conics, opacities, radii, and the 2D covariance.

    Fields of a culled Gaussian (radii 0) are constants without meaning.
    """
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    rot = viewmat[:3, :3]
    # The original rasterizers give a radius to a Gaussian that is too faint to be seen.
    exact = s.footprint == "exact"
    faint_too = s.keep_outside or not exact
    valid &= opacities >= 0 if faint_too else opacities > ALPHA_CUTOFF
    local = masked(valid, means, 0.0) @ rot.T + viewmat[None, :3, 3]
    drawn = valid & (local[:, 2] > s.near_plane) & (local[:, 2] < s.far_plane)
    local = masked(drawn, local, np.array([[0.0, 0, 1]]))
    x, y, z = local.T

    tx, ty = s.width / (2 * fx), s.height / (2 * fy)
    lx = z * jnp.clip(x / z, -(cx / fx + 0.3 * tx), (s.width - cx) / fx + 0.3 * tx)
    ly = z * jnp.clip(y / z, -(cy / fy + 0.3 * ty), (s.height - cy) / fy + 0.3 * ty)
    zero = jnp.zeros_like(z)
    jacobian = jnp.stack(
        [
            jnp.stack([fx / z, zero, -fx * lx / z**2], -1),
            jnp.stack([zero, fy / z, -fy * ly / z**2], -1),
        ],
        -2,
    )
    full = jacobian @ rot[None]
    cov = full @ masked(drawn, covars, np.eye(3)[None]) @ full.transpose(0, 2, 1)
    cov_xx, cov_xy, cov_yy = cov[:, 0, 0], cov[:, 0, 1], cov[:, 1, 1]
    det_sharp = cov_xx * cov_yy - cov_xy**2
    cov_xx, cov_yy = cov_xx + s.eps2d, cov_yy + s.eps2d
    det = cov_xx * cov_yy - cov_xy**2
    drawn &= (det > 0) & jnp.isfinite(det) & (cov_xx > 0)
    cov_xx, cov_yy, det = (masked(drawn, a, 1.0) for a in (cov_xx, cov_yy, det))
    cov_xy, det_sharp = masked(drawn, cov_xy, 0.0), masked(drawn, det_sharp, 1.0)

    opacities = masked(drawn, opacities, 1.0)
    if s.antialiased:
        opacities = opacities * jnp.sqrt(jnp.maximum(det_sharp / det, COMPENSATION_FLOOR**2))
    means2d = jnp.stack([fx * x / z + cx, fy * y / z + cy], -1)
    u, v = means2d.T
    mid = 0.5 * (cov_xx + cov_yy)
    if exact:
        reach = 2 * jnp.log(jnp.maximum(255 * opacities, 1))
        du, dv = jnp.sqrt(reach * cov_xx), jnp.sqrt(reach * cov_yy)
        shown = (u + du >= 0) & (u - du <= s.width) & (v + dv >= 0) & (v - dv <= s.height)
        shown &= opacities > ALPHA_CUTOFF
        radii = jnp.ceil(3 * jnp.sqrt(mid + jnp.sqrt(jnp.maximum(mid**2 - det, 0))))
    else:
        radii = jnp.ceil(3 * jnp.sqrt(mid + jnp.sqrt(jnp.maximum(mid**2 - det, 0.1))))
        first, last = tile_rectangle(means2d, radii, s)
        shown = jnp.all(first < last, axis=1)
    if not s.keep_outside:
        drawn &= shown
    radii = jnp.where(drawn, jnp.minimum(radii, 2.0**31 - 1), 0).astype(jnp.int32)
    return {
        "means2d": masked(drawn, means2d, 0.0),
        "depths": masked(drawn, z, 0.0),
        "conics": masked(drawn, jnp.stack([cov_yy / det, -cov_xy / det, cov_xx / det], -1), 1.0),
        "opacities": masked(drawn, opacities, 0.0),
        "radii": radii,
        "cov2d": jnp.stack([cov_xx, cov_xy, cov_yy], -1),
    }


def tile_rectangle(means2d, radii, s):
    """Tiles ``first <= (x, y) < last`` of the original footprint rule, each ``(N, 2)``.

    The original rasterizers count pixel centres at integers, hence the half pixel.
    """
    grid = jnp.array([-(-s.width // TILE), -(-s.height // TILE)], means2d.dtype)[None]
    centre, radii = jax.lax.stop_gradient(means2d) - 0.5, radii[:, None]
    first = jnp.clip(jnp.floor((centre - radii) / TILE), 0, grid)
    last = jnp.clip(jnp.floor((centre + radii + TILE - 1) / TILE), 0, grid)
    return first, last


def sh_basis(directions, degree, convention="3dgs"):
    """Real harmonics with the Condon-Shortley sign at unit ``(N, 3)``, ``(N, (degree + 1)^2)``.

    From the recursion of the associated Legendre functions, with no table of polynomials.
    """
    x, y, z = directions.T
    if convention != "3dgs":
        x, y, z = z, x, y
    basis = {}
    # (cos m phi, sin m phi) times sin^m theta, that is the real and imaginary part of (x + iy)^m.
    re, im = jnp.ones_like(x), jnp.zeros_like(x)
    for m in range(degree + 1):
        legendre = {m - 1: jnp.zeros_like(z)}
        legendre[m] = jnp.full_like(z, math.prod(range(1, 2 * m, 2)))
        for band in range(m + 1, degree + 1):
            a, b = legendre[band - 1], legendre[band - 2]
            legendre[band] = ((2 * band - 1) * z * a - (band + m - 1) * b) / (band - m)
        for band in range(m, degree + 1):
            ratio = math.factorial(band - m) / math.factorial(band + m)
            norm = math.sqrt((2 * band + 1) / (4 * math.pi) * ratio)
            if m == 0:
                basis[band, 0] = norm * legendre[band]
            else:
                norm *= (-1) ** m * math.sqrt(2)
                basis[band, m] = norm * re * legendre[band]
                basis[band, -m] = norm * im * legendre[band]
        re, im = re * x - im * y, re * y + im * x
    if convention == "e3nn-legacy" and degree >= 3:
        # This coefficient times z (z^2 - x^2) in the axes before the permutation.
        basis[3, 2] = math.sqrt(105 / (16 * math.pi)) * x * (x * x - y * y)
    order = [(band, m) for band in range(degree + 1) for m in range(-band, band + 1)]
    return jnp.stack([basis[key] for key in order], -1)


def shade(means, sh, valid, viewmat, s):
    """Colours ``(N, 3)`` of one camera from harmonics, clamped at 0 from below."""
    degree = math.isqrt(sh.shape[1]) - 1 if s.sh_degree is None else s.sh_degree
    centre = -viewmat[:3, :3].T @ viewmat[:3, 3]
    towards = masked(valid, means, 0.0) - centre[None]
    length2 = jnp.sum(towards**2, axis=1, keepdims=True)
    here = length2 > 0
    towards = jnp.where(here, towards, 1.0) / jnp.sqrt(jnp.where(here, length2, 3.0))
    basis = sh_basis(towards, degree, s.sh_convention)
    sh = masked(valid, sh, 0.0)[:, : basis.shape[1]]
    raw = jnp.sum(basis[:, :, None] * sh, axis=1) + 0.5
    return jnp.where(raw > 0, raw, 0.0)


def depth_order(depths, radii):
    """Indices by depth, ties by index, culled ones last."""
    return jnp.argsort(jnp.where(radii > 0, depths, jnp.inf), stable=True)


def pixel_grid(s):
    """Every pixel as (row, column), ``(H * W, 2)``."""
    return np.stack(np.mgrid[: s.height, : s.width], -1).reshape(-1, 2)


def blend(splats, colors, background, s, pixels, pixel_offset=None):
    """Blend one camera at ``pixels`` ``(P, 2)`` (row, column), front to back.

    Returns image ``(P, D)``, depth, depth_variance, weight and band ``(P,)``; ``band`` marks pixels
    next to a branch. ``pixel_offset`` ``(N, P, 2)`` moves each Gaussian separately in each pixel:
    its gradient holds the per-pixel terms that absgrad sums.
    """
    n, p, dtype = colors.shape[0], pixels.shape[0], colors.dtype
    row, col = pixels[:, 0].astype(dtype) + 0.5, pixels[:, 1].astype(dtype) + 0.5
    order = depth_order(splats["depths"], splats["radii"])
    drawn = splats["radii"] > 0
    xs = {k: splats[k][order] for k in ("means2d", "depths", "conics", "opacities")}
    xs |= {"drawn": drawn[order], "colors": masked(drawn, colors, 0.0)[order]}
    if pixel_offset is not None:
        xs["offset"] = pixel_offset[order]
    if s.footprint == "3sigma":
        first, last = tile_rectangle(splats["means2d"], splats["radii"].astype(dtype), s)
        xs |= {"first": first[order], "last": last[order]}

    def near(value, target, width):
        return jnp.abs(value - target) < width * target

    def step(carry, g):
        trans, alive, band, rgb, sums, median = carry
        dx, dy = col - g["means2d"][0], row - g["means2d"][1]
        if pixel_offset is not None:
            dx, dy = dx - g["offset"][:, 0], dy - g["offset"][:, 1]
        a, b, c = g["conics"]
        sigma = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
        raw = g["opacities"] * jnp.exp(-jnp.maximum(sigma, 0))
        alpha = jnp.where(raw < ALPHA_CAP, raw, ALPHA_CAP)
        considered = alive & g["drawn"]
        if s.footprint == "3sigma":
            tile = jnp.floor(jnp.stack([col, row], -1) / TILE)
            considered &= jnp.all((tile >= g["first"][None]) & (tile < g["last"][None]), axis=1)
        hit = considered & (sigma >= 0) & (alpha >= ALPHA_CUTOFF)
        rest = trans * (1 - alpha)
        stop = hit & (rest < T_STOP)
        band |= considered & near(raw, ALPHA_CUTOFF, BAND_CUTOFF)
        band |= hit & (near(raw, ALPHA_CAP, BAND_CAP) | near(rest, T_STOP, BAND_STOP))
        hit &= ~stop
        w = jnp.where(hit, alpha * trans, 0.0)
        z = jnp.where(g["drawn"], g["depths"], 1.0)
        median = jnp.where(hit & (trans > 0.5) & (rest <= 0.5), z, median)
        if s.depth == "median":
            band |= hit & near(rest, 0.5, BAND_MEDIAN)
        trans = jnp.where(hit, rest, trans)
        rgb = rgb + w[:, None] * g["colors"][None]
        sums = sums + w[:, None] * jnp.stack([jnp.ones_like(z), z, z**2, 1 / z])[None]
        return (trans, alive & ~stop, band, rgb, sums, median), None

    zeros, ones = jnp.zeros(p, dtype), jnp.ones(p, dtype)
    rgb, sums = jnp.zeros((p, colors.shape[1]), dtype), jnp.zeros((p, 4), dtype)
    start = (ones, ones > 0, ones < 0, rgb, sums, zeros)
    trans, _, band, rgb, sums, median = jax.lax.scan(step, start, xs)[0] if n else start
    weight = sums[:, 0]
    touched = weight > 0
    means = jnp.where(touched[:, None], sums, 0.0) / jnp.where(touched, weight, 1.0)[:, None]
    expected, square, inverse = means[:, 1:].T
    return {
        "image": rgb + trans[:, None] * background[None],
        "depth": {"expected": expected, "median": median, "inverse": inverse}[s.depth],
        "depth_variance": square - expected**2,
        "weight": weight,
        "band": band,
    }


def ray_lengths(K, pixels):
    """``|K^-1 (u, v, 1)|`` at the centres of ``pixels`` ``(P, 2)`` (row, column), ``(P,)``."""
    pinhole = jnp.eye(3, dtype=K.dtype)  # nothing but the focal lengths and the centre is read
    for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)):
        pinhole = pinhole.at[i, j].set(K[i, j])
    v, u = jnp.asarray(pixels).astype(K.dtype).T + 0.5
    rays = jnp.linalg.inv(pinhole) @ jnp.stack([u, v, jnp.ones_like(u)])
    return jnp.sqrt(jnp.sum(rays**2, axis=0))


def project_stage(x, s):
    """``project`` of one camera from a dict of inputs."""
    covars, valid = world_covariance(x)
    return project(x["means"], covars, x["opacities"], valid, x["viewmat"], x["K"], s)


def shade_stage(x, s):
    """``shade`` of one camera from a dict of inputs."""
    finite = jnp.isfinite(jnp.concatenate([x["means"][:, None], x["sh"]], 1))
    return {"colors": shade(x["means"], x["sh"], finite.all((1, 2)), x["viewmat"], s)}


def blend_stage(x, s):
    """``blend`` of one camera from a dict: splats (``splat_opacities``), colors, pixels.

    With ``s.ray_depth`` the camera's ``K`` too.
    """
    splats = {k: x[k] for k in ("means2d", "depths", "conics", "radii")}
    splats["opacities"] = x["splat_opacities"]
    out = blend(splats, x["colors"], x["background"], s, x["pixels"], x.get("pixel_offset"))
    if s.ray_depth:
        lengths = ray_lengths(x["K"], x["pixels"])
        out["depth"] *= lengths ** (-1 if s.depth == "inverse" else 1)
        out["depth_variance"] *= lengths**2
    return out
