"""Renders Gaussians in tiles in plain JAX: the baseline that the kernels are compared with.

It follows the same definition as the package (image, depth and weight, exact footprint, front to
back by depth) and shares no code with it. Only ``jax.numpy`` and ``lax`` are used; everything is
jitted. Projection, shading and compositing with the background are differentiated by JAX; the
blend has a hand-written derivative, which is several times faster than differentiating its loop.

What makes it fast on a CPU:

- One sort of a single uint32 key ``tile * N + depth rank`` builds all tile lists. XLA sorts one
  operand about six times faster than a key with a payload, and the payload is the key itself.
- Tiles are processed in groups of similar list length, a chunk of the list at a time. A group's
  state stays in cache, and XLA vectorises over its pixels and divides them over its threads.
- The chunk is unrolled, so the recurrence over depth lives in registers.
- The backward pass walks the same chunks front to back: what lies behind a Gaussian is the saved
  total minus the running prefix, so no per-chunk checkpoint is stored. Sums over pixels are
  matrix products with the six moments 1, x, y, x^2, xy, y^2.

The number of (tile, Gaussian) pairs is data while XLA's shapes are static: ``required_capacity``
counts it beforehand, outside the timed function.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

ALPHA_MIN = 1.0 / 255.0
ALPHA_MAX = 0.99
TRANSMITTANCE_STOP = 1e-4
EPS2D = 0.3
NEAR_PLANE = 0.01
FAR_PLANE = 1e10


@dataclass(frozen=True)
class Settings:
    """Static settings of the baseline; a new value recompiles.

    Attributes:
        width: Image width in pixels.
        height: Image height in pixels.
        capacity: Size of the buffer of (tile, Gaussian) pairs, from ``required_capacity``.
        tile_w: Tile width in pixels.
        tile_h: Tile height in pixels.
        chunk: List entries blended per loop step.
        group: Tiles processed together.
    """

    width: int
    height: int
    capacity: int = 0
    tile_w: int = 16
    tile_h: int = 16
    chunk: int = 8
    group: int = 32

    @property
    def n_tiles_x(self) -> int:
        """Number of tiles in a row."""
        return -(-self.width // self.tile_w)

    @property
    def n_tiles_y(self) -> int:
        """Number of tiles in a column."""
        return -(-self.height // self.tile_h)


class Scene(NamedTuple):
    """Inputs of a render; colours come from ``sh`` when it is given, else from ``colors``."""

    means: jax.Array  # [N, 3] world
    quats: jax.Array  # [N, 4] wxyz, any non-zero length
    scales: jax.Array  # [N, 3] linear
    opacities: jax.Array  # [N]
    viewmat: jax.Array  # [4, 4] world to camera, OpenCV axes
    K: jax.Array  # [3, 3] pixels
    background: jax.Array  # [D]
    colors: jax.Array | None = None  # [N, D]
    sh: jax.Array | None = None  # [N, 16, 3]


class Splats(NamedTuple):
    """Projected Gaussians, one array per quantity so that XLA vectorises over ``N``."""

    x: jax.Array  # [N] pixels
    y: jax.Array
    z: jax.Array  # [N] depth
    a: jax.Array  # [N] inverse covariance: xx, xy, yy
    b: jax.Array
    c: jax.Array
    opacity: jax.Array  # [N], 0 where culled
    half_w: jax.Array  # [N] half extents in pixels of the region alpha >= 1/255
    half_h: jax.Array
    visible: jax.Array  # [N] bool


class Lists(NamedTuple):
    """Depth-ordered tile lists, tiles sorted by decreasing list length and grouped."""

    order: jax.Array  # [N] Gaussian at each depth rank
    ranks: jax.Array  # [capacity] depth ranks, tile after tile
    tile: jax.Array  # [n_groups, group] tile index
    start: jax.Array  # [n_groups, group] first entry in ranks
    length: jax.Array  # [n_groups, group] entries


def project(scene: Scene, settings: Settings) -> Splats:
    """Project all Gaussians; differentiable, and with zero gradient for culled ones."""
    width, height = settings.width, settings.height
    r, t = scene.viewmat[:3, :3], scene.viewmat[:3, 3]
    fx, fy, cx, cy = scene.K[0, 0], scene.K[1, 1], scene.K[0, 2], scene.K[1, 2]
    mx, my, mz = (scene.means[:, i] for i in range(3))
    px, py, pz = (r[i, 0] * mx + r[i, 1] * my + r[i, 2] * mz + t[i] for i in range(3))
    parameters = [scene.means, scene.quats, scene.scales, scene.opacities[:, None]]
    finite = jnp.isfinite(jnp.concatenate(parameters, 1)).all(1)
    in_front = finite & (pz > NEAR_PLANE) & (pz < FAR_PLANE)
    sane = in_front & (scene.scales > 0).all(-1) & (scene.quats != 0).any(-1)

    def safe(value, fill):  # keeps inf and nan out of the derivative of culled Gaussians
        return jnp.where(sane, value, fill)

    px, py, pz = safe(px, 0.0), safe(py, 0.0), safe(pz, 1.0)
    qw, qx, qy, qz = (safe(scene.quats[:, i], float(i == 0)) for i in range(4))
    inv = lax.rsqrt(qw * qw + qx * qx + qy * qy + qz * qz)
    qw, qx, qy, qz = qw * inv, qx * inv, qy * inv, qz * inv
    rot = (
        (1 - 2 * (qy * qy + qz * qz), 2 * (qx * qy - qw * qz), 2 * (qx * qz + qw * qy)),
        (2 * (qx * qy + qw * qz), 1 - 2 * (qx * qx + qz * qz), 2 * (qy * qz - qw * qx)),
        (2 * (qx * qz - qw * qy), 2 * (qy * qz + qw * qx), 1 - 2 * (qx * qx + qy * qy)),
    )
    scale = [safe(scene.scales[:, i], 1.0) for i in range(3)]

    tan_x, tan_y = width / (2 * fx), height / (2 * fy)
    u = jnp.clip(px / pz, -(cx / fx + 0.3 * tan_x), (width - cx) / fx + 0.3 * tan_x)
    v = jnp.clip(py / pz, -(cy / fy + 0.3 * tan_y), (height - cy) / fy + 0.3 * tan_y)
    jx, jy = fx / pz, fy / pz
    # Rows of J R_view, then of J R_view R diag(s): the covariance is their Gram matrix.
    row_x = [jx * (r[0, i] - u * r[2, i]) for i in range(3)]
    row_y = [jy * (r[1, i] - v * r[2, i]) for i in range(3)]
    left_x = [sum(row_x[i] * rot[i][k] for i in range(3)) * scale[k] for k in range(3)]
    left_y = [sum(row_y[i] * rot[i][k] for i in range(3)) * scale[k] for k in range(3)]
    cov_xx = sum(e * e for e in left_x) + EPS2D
    cov_xy = sum(e * f for e, f in zip(left_x, left_y, strict=True))
    cov_yy = sum(f * f for f in left_y) + EPS2D
    det = cov_xx * cov_yy - cov_xy * cov_xy
    good = sane & (det > 0) & jnp.isfinite(det)
    inv_det = 1 / jnp.where(good, det, 1.0)

    x, y = fx * px / pz + cx, fy * py / pz + cy
    opacity = safe(scene.opacities, 0.0)
    extent2 = 2 * jnp.log(jnp.maximum(opacity, ALPHA_MIN) / ALPHA_MIN)
    half_w, half_h = jnp.sqrt(lax.stop_gradient(jnp.stack([extent2 * cov_xx, extent2 * cov_yy])))
    on_image = (x + half_w >= 0) & (x - half_w <= width) & (y + half_h >= 0)
    visible = good & (opacity > ALPHA_MIN) & on_image & (y - half_h <= height)
    a, b, c = cov_yy * inv_det, -cov_xy * inv_det, cov_xx * inv_det
    opacity = jnp.where(visible, opacity, 0.0)
    return Splats(x, y, pz, a, b, c, opacity, half_w, half_h, visible)


def shade(scene: Scene) -> jax.Array:
    """Return colours [N, D]: ``colors`` as they are, or degree-3 spherical harmonics."""
    if scene.sh is None:
        assert scene.colors is not None
        return scene.colors
    r, t = scene.viewmat[:3, :3], scene.viewmat[:3, 3]
    direction = scene.means + r.T @ t
    norm2 = (direction * direction).sum(-1, keepdims=True)
    x, y, z = jnp.moveaxis(direction * lax.rsqrt(jnp.where(norm2 > 0, norm2, 1.0)), -1, 0)
    xx, yy, zz = x * x, y * y, z * z

    def norm(numerator, denominator):  # sqrt(numerator / (denominator pi))
        return math.sqrt(numerator / (denominator * math.pi))

    basis = (
        norm(1, 4) * jnp.ones_like(x),
        -norm(3, 4) * y,
        norm(3, 4) * z,
        -norm(3, 4) * x,
        norm(15, 4) * x * y,
        -norm(15, 4) * y * z,
        norm(5, 16) * (2 * zz - xx - yy),
        -norm(15, 4) * x * z,
        norm(15, 16) * (xx - yy),
        -norm(35, 32) * y * (3 * xx - yy),
        norm(105, 4) * x * y * z,
        -norm(21, 32) * y * (4 * zz - xx - yy),
        norm(7, 16) * z * (2 * zz - 3 * xx - 3 * yy),
        -norm(21, 32) * x * (4 * zz - xx - yy),
        norm(105, 16) * z * (xx - yy),
        -norm(35, 32) * x * (xx - 3 * yy),
    )
    value = sum(basis[i][:, None] * scene.sh[:, i] for i in range(scene.sh.shape[1]))
    return jnp.maximum(value + 0.5, 0.0)


def _tile_box(splats: Splats, s: Settings) -> tuple[jax.Array, ...]:
    """Return first tile and number of tiles of the bounding box along each axis; 0 if culled."""

    def span(centre, half, tile, n):
        low = jnp.clip(jnp.floor((centre - half) / tile), 0, n - 1).astype(jnp.int32)
        high = jnp.clip(jnp.floor((centre + half) / tile), 0, n - 1).astype(jnp.int32)
        return low, high - low + 1

    x0, nx = span(splats.x, splats.half_w, s.tile_w, s.n_tiles_x)
    y0, ny = span(splats.y, splats.half_h, s.tile_h, s.n_tiles_y)
    return x0, y0, jnp.where(splats.visible, nx, 0), ny


def _min_sigma_in_tile(dx0, dx1, dy0, dy1, a, b, c):
    """Return the least exponent in a rectangle given relative to the Gaussian's centre."""
    inside = (dx0 <= 0) & (dx1 >= 0) & (dy0 <= 0) & (dy1 >= 0)
    near_x, near_y = jnp.clip(0.0, dx0, dx1), jnp.clip(0.0, dy0, dy1)

    def sigma(x, y):
        return 0.5 * (a * x * x + c * y * y) + b * x * y

    # The minimum lies on one of the two edges that face the centre.
    on_x = sigma(near_x, jnp.clip(-b * near_x / c, dy0, dy1))
    on_y = sigma(jnp.clip(-b * near_y / a, dx0, dx1), near_y)
    return jnp.where(inside, 0.0, jnp.minimum(on_x, on_y))


def bin_tiles(splats: Splats, s: Settings) -> Lists:
    """Build the depth-ordered list of every tile."""
    splats = lax.stop_gradient(splats)
    n, n_tiles = splats.x.shape[0], s.n_tiles_x * s.n_tiles_y
    if (n_tiles + 1) * n >= 2**32:
        raise ValueError(f"{n_tiles} tiles times {n} Gaussians exceed the 32-bit sort key")
    # Positive floats order like their bits; an integer key skips the comparison of NaNs.
    depth_key = lax.bitcast_convert_type(jnp.where(splats.visible, splats.z, jnp.inf), jnp.int32)
    order = jnp.argsort(depth_key)
    splats = jax.tree.map(lambda v: v[order], splats)
    x0, y0, nx, ny = _tile_box(splats, s)
    end = jnp.cumsum(nx * ny)
    rank = jnp.repeat(jnp.arange(n), nx * ny, total_repeat_length=s.capacity)
    slot = jnp.arange(s.capacity)
    row = jnp.stack([v.astype(jnp.float32) for v in splats[:-1]], 1)[rank]
    x, y, _, a, b, c, opacity, _, _ = jnp.moveaxis(row, 1, 0)
    box = jnp.stack([x0, y0, jnp.maximum(nx, 1), end - nx * ny], 1)[rank]
    local = slot - box[:, 3]
    tile_x, tile_y = box[:, 0] + local % box[:, 2], box[:, 1] + local // box[:, 2]
    dx = tile_x * s.tile_w + 0.5 - x
    dy = tile_y * s.tile_h + 0.5 - y
    nearest = _min_sigma_in_tile(dx, dx + (s.tile_w - 1), dy, dy + (s.tile_h - 1), a, b, c)
    # A little slack: a pair kept in vain costs time, one dropped by rounding changes the image.
    limit = jnp.log(jnp.maximum(opacity, ALPHA_MIN) / ALPHA_MIN) * 1.0001 + 1e-3
    keep = (slot < end[-1]) & (nearest <= limit)
    tile = tile_y * s.n_tiles_x + tile_x
    key = tile.astype(jnp.uint32) * np.uint32(n) + rank.astype(jnp.uint32)
    key = lax.sort(jnp.where(keep, key, np.uint32(2**32 - 1)))

    first = jnp.searchsorted(key, jnp.arange(n_tiles + 1, dtype=jnp.uint32) * np.uint32(n))
    count = jnp.diff(first).astype(jnp.int32)
    longest_first = jnp.argsort(-count)
    n_groups = -(-n_tiles // s.group)
    pad = n_groups * s.group - n_tiles

    def grouped(values, fill):
        return jnp.pad(values, (0, pad), constant_values=fill).reshape(n_groups, s.group)

    return Lists(
        order=order,
        ranks=(key % np.uint32(n)).astype(jnp.int32),
        tile=grouped(longest_first, n_tiles),
        start=grouped(first[:-1].astype(jnp.int32)[longest_first], 0),
        length=grouped(count[longest_first], 0),
    )


def _chunk_rows(table, ranks, start, length, step, s: Settings):
    """Return the rows [group, chunk, columns] of one chunk; past the end, the empty last row."""
    position = step * s.chunk + jnp.arange(s.chunk)
    index = jnp.where(
        position < length[:, None],
        ranks.at[start[:, None] + position].get(mode="clip"),
        table.shape[0] - 1,
    )
    return index, table.at[index].get(mode="promise_in_bounds")


def _local_pixels(s: Settings):
    """Return the pixel centres relative to the corner of their tile, [tile_h * tile_w] each."""
    y, x = np.divmod(np.arange(s.tile_w * s.tile_h), s.tile_w)
    return jnp.asarray(x + 0.5, jnp.float32), jnp.asarray(y + 0.5, jnp.float32)


def _alphas(rows, px, py):
    """Return the alpha [group, chunk, pixels] of a chunk, 0 where a pixel is not covered."""
    x, y, a, b, c, opacity = (rows[:, :, i, None] for i in range(6))
    dx, dy = px - x, py - y
    sigma = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
    raw = opacity * jnp.exp(-sigma)
    return jnp.where((sigma >= 0) & (raw >= ALPHA_MIN), jnp.minimum(raw, ALPHA_MAX), 0.0)


def _shift_to_tile(rows, tile, s: Settings):
    """Make the centres of the rows relative to the corner of their tile."""
    corner = jnp.stack([tile % s.n_tiles_x * s.tile_w, tile // s.n_tiles_x * s.tile_h], 1)
    return rows.at[:, :, :2].add(-corner[:, None].astype(rows.dtype))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def blend(table: jax.Array, lists: Lists, s: Settings) -> jax.Array:
    """Blend front to back.

    Args:
        table: [N + 1, 6 + F] by depth rank: x, y, conic (3), opacity, then F features; the last
            row is empty (opacity 0).
        lists: From ``bin_tiles``.
        s: Settings.

    Returns:
        [n_tiles + 1, F, pixels]: the sum of weight times feature; the last tile is padding.
    """
    px, py = _local_pixels(s)
    n_features = table.shape[1] - 6

    def group(image, tiles):
        tile, start, length = tiles
        n_steps = -(-length.max() // s.chunk)

        def more(state):
            step, running, _ = state
            return (step < n_steps) & (running >= TRANSMITTANCE_STOP).any()

        def body(state):
            step, running, total = state
            _, rows = _chunk_rows(table, lists.ranks, start, length, step, s)
            rows = _shift_to_tile(rows, tile, s)
            # The barrier keeps XLA from recomputing the exponentials for every feature.
            alpha = lax.optimization_barrier(_alphas(rows, px, py))
            for k in range(s.chunk):
                after = running * (1 - alpha[:, k])
                # The product only falls, so testing it also stops everything behind.
                weight = jnp.where(after >= TRANSMITTANCE_STOP, alpha[:, k] * running, 0.0)
                total = total + weight * rows[:, k, 6:].T[:, :, None]
                running = after
            return step + 1, running, total

        shape = (s.group, s.tile_w * s.tile_h)
        state = (0, jnp.ones(shape, table.dtype), jnp.zeros((n_features, *shape), table.dtype))
        total = jnp.swapaxes(lax.while_loop(more, body, state)[2], 0, 1)
        return image.at[tile].set(total, mode="promise_in_bounds"), None

    shape = (s.n_tiles_x * s.n_tiles_y + 1, n_features, s.tile_w * s.tile_h)
    image = jnp.zeros(shape, table.dtype)
    return lax.scan(group, image, (lists.tile, lists.start, lists.length))[0]


def _blend_fwd(table, lists, s):
    total = blend(table, lists, s)
    return total, (table, lists, total)


def _blend_bwd(s, residuals, v_total):
    """With S the sum of weight * (feature . v), dL/dalpha = T (feature . v) - S_behind/(1-alpha).

    Conic, centre and opacity gradients follow from the moments of dL/dsigma over the pixels.
    """
    table, lists, total = residuals
    barrier = lax.optimization_barrier
    px, py = _local_pixels(s)
    moments = jnp.stack([jnp.ones_like(px), px, py, px * px, px * py, py * py], 1)
    n_features = table.shape[1] - 6

    def group(v_table, tiles):
        tile, start, length = tiles
        v = v_total.at[tile].get(mode="promise_in_bounds")
        whole = total.at[tile].get(mode="promise_in_bounds")
        n_steps = -(-length.max() // s.chunk)

        def more(state):
            step, running, *_ = state
            return (step < n_steps) & (running >= TRANSMITTANCE_STOP).any()

        def body(state):
            step, running, behind, v_table = state
            index, rows = _chunk_rows(table, lists.ranks, start, length, step, s)
            rows = _shift_to_tile(rows, tile, s)
            features = rows[:, :, 6:]
            # Barriers mark what is to be stored: without them XLA recomputes whole chains.
            alpha = barrier(_alphas(rows, px, py))
            along = barrier(sum(features[:, :, f, None] * v[:, None, f] for f in range(n_features)))
            before = []
            for k in range(s.chunk):
                before.append(running)
                running = barrier(running * (1 - alpha[:, k]))
            before = barrier(jnp.stack(before, 1))
            drawn = before * (1 - alpha) >= TRANSMITTANCE_STOP
            weight = barrier(jnp.where(drawn, alpha * before, 0.0))
            behinds = []
            for k in range(s.chunk):
                behind = barrier(behind - weight[:, k] * along[:, k])
                behinds.append(behind)
            v_alpha = before * along - jnp.stack(behinds, 1) / (1 - alpha)
            v_sigma = jnp.where(drawn & (alpha < ALPHA_MAX), -alpha * v_alpha, 0.0)
            v_features = jnp.swapaxes(jnp.einsum("gkp,gfp->gfk", weight, v), 1, 2)
            v_rows = jnp.concatenate([_from_moments(v_sigma @ moments, rows), v_features], -1)
            v_table = v_table.at[index].add(v_rows, mode="promise_in_bounds")
            return step + 1, running, behind, v_table

        behind = (whole * v).sum(1)
        return lax.while_loop(more, body, (0, jnp.ones_like(behind), behind, v_table))[3], None

    xs = (lists.tile, lists.start, lists.length)
    return lax.scan(group, jnp.zeros_like(table), xs)[0], None


def _from_moments(m, rows):
    """Return the gradient [..., 6] of centre, conic and opacity from the moments of dL/dsigma."""
    x, y, a, b, c, opacity = jnp.moveaxis(rows[..., :6], -1, 0)
    m0, m1x, m1y, m2xx, m2xy, m2yy = jnp.moveaxis(m, -1, 0)
    sx, sy = m1x - x * m0, m1y - y * m0
    sxx = m2xx - 2 * x * m1x + x * x * m0
    sxy = m2xy - x * m1y - y * m1x + x * y * m0
    syy = m2yy - 2 * y * m1y + y * y * m0
    v_opacity = jnp.where(opacity > 0, -m0 / jnp.where(opacity > 0, opacity, 1.0), 0.0)
    return jnp.stack(
        [-(a * sx + b * sy), -(b * sx + c * sy), 0.5 * sxx, sxy, 0.5 * syy, v_opacity], -1
    )


blend.defvjp(_blend_fwd, _blend_bwd)


def _to_image(total, s: Settings) -> jax.Array:
    """Arrange tiles [n_tiles + 1, F, pixels] as an image [H, W, F]."""
    tiles = total[:-1].reshape(s.n_tiles_y, s.n_tiles_x, -1, s.tile_h, s.tile_w)
    image = tiles.transpose(0, 3, 1, 4, 2)
    image = image.reshape(s.n_tiles_y * s.tile_h, s.n_tiles_x * s.tile_w, -1)
    return image[: s.height, : s.width]


@functools.partial(jax.jit, static_argnums=1)
def render(scene: Scene, settings: Settings) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Render image [H, W, D], depth [H, W] and weight [H, W]; differentiable in the scene."""
    splats = project(scene, settings)
    colors = shade(scene)
    lists = bin_tiles(splats, settings)
    columns = [splats.x, splats.y, splats.a, splats.b, splats.c, splats.opacity]
    features = [*jnp.moveaxis(colors, 1, 0), splats.z, jnp.ones_like(splats.z)]
    table = jnp.stack([*columns, *features], 1)
    table = jnp.where(splats.visible[:, None], table, 0.0)[lists.order]
    table = jnp.concatenate([table, jnp.zeros_like(table[:1])])
    total = _to_image(blend(table, lists, settings), settings)
    color, depth, weight = total[..., :-2], total[..., -2], total[..., -1]
    hit = weight > 0
    image = color + (1 - weight)[..., None] * scene.background
    return image, jnp.where(hit, depth / jnp.where(hit, weight, 1.0), 0.0), weight


@functools.partial(jax.jit, static_argnums=1)
def _count(scene: Scene, settings: Settings) -> jax.Array:
    _, _, nx, ny = _tile_box(project(scene, settings), settings)
    return (nx * ny).sum()


def required_capacity(scene: Scene, settings: Settings) -> int:
    """Count the (tile, Gaussian) pairs of the bounding boxes, at least 1."""
    return max(1, int(_count(scene, settings)))
