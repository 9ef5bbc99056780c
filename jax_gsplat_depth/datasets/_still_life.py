"""Casts rays into the built-in still life: colour and depth, with no code of the renderer.

Every surface has a closed-form intersection, so the depth is exact and can judge a fitted scene.
Textures are sums of a few smooth waves and soft steps, which keeps detail above the pixel size.
World axes: z up, the floor is z = 0, unit about one object. Colours are linear until the last step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jax_gsplat_depth.datasets._geometry import camera_centers

DOME_RADIUS = 6.5
"""Radius of the painted backdrop, on which every ray from inside ends at the latest."""

_SUPERSAMPLES = 3
"""Samples per pixel side, for colour and for the area light."""

_RAY_START = 1e-3
"""Hits closer than this fraction of the ray are the surface that the ray left."""

_LIGHT = (-2.6, -2.2, 5.2)
"""Centre of the lamp, a horizontal square."""

_LIGHT_SIZE = 1.1
"""Side of the lamp."""

_LIGHT_COLORS = ((0.86, 0.26), (0.80, 0.30), (0.70, 0.37))
"""Strength of the lamp and of the sky in red, green and blue."""


class Vec(NamedTuple):
    """One 3D vector per ray, each component an array of its own: contiguous for XLA."""

    x: jax.Array
    y: jax.Array
    z: jax.Array


class _Ball(NamedTuple):
    center: tuple[float, float, float]
    radius: float


class _Box(NamedTuple):
    center: tuple[float, float, float]
    half: tuple[float, float, float]
    turn: float


class _Drum(NamedTuple):
    center: tuple[float, float]
    radius: float
    height: float


_MARBLE = _Ball((0.0, 0.1, 0.62), 0.62)
_CRATE = _Box((0.98, -0.42, 0.36), (0.36, 0.36, 0.36), 0.5)
_ON_CRATE = _Ball((0.98, -0.42, 0.96), 0.24)
_DRUM = _Drum((-0.95, -0.40), 0.33, 0.92)
_EGG = _Ball((-0.28, -0.98, 0.28), 0.28)
_N_BEADS = 11
_BEADS = tuple(
    _Ball((1.62 * math.cos(a), 1.62 * math.sin(a), 0.14), 0.14)
    for a in (2 * math.pi * (i + 0.4) / _N_BEADS for i in range(_N_BEADS))
)
_BALLS = (_MARBLE, _ON_CRATE, _EGG, *_BEADS)
_CENTERS = np.array([ball.center for ball in _BALLS], np.float32)
_N_BALLS = len(_BALLS)
_SKY_BLOCKERS = (
    _MARBLE,
    _ON_CRATE,
    _EGG,
    _Ball(_CRATE.center, 0.46),
    _Ball((*_DRUM.center, 0.30), 0.40),
    _Ball((*_DRUM.center, 0.66), 0.36),
)


def _dot(a: Vec, b: Vec) -> jax.Array:
    return a.x * b.x + a.y * b.y + a.z * b.z


def _unit(a: Vec) -> Vec:
    scale = jax.lax.rsqrt(_dot(a, a))
    return Vec(a.x * scale, a.y * scale, a.z * scale)


def _minus(a: Vec, b: Sequence[ArrayLike]) -> Vec:
    return Vec(a.x - b[0], a.y - b[1], a.z - b[2])


def _scaled(a: Sequence[jax.Array], scale: ArrayLike) -> Vec:
    return Vec(*(c * scale for c in a))


def _along(origin: Vec, direction: Vec, t: jax.Array) -> Vec:
    return Vec(*(o + t * d for o, d in zip(origin, direction, strict=True)))


def _turned(a: Vec, angle: float) -> Vec:
    """Return ``a`` in axes that are turned by ``angle`` radians about z."""
    c, s = math.cos(angle), math.sin(angle)
    return Vec(c * a.x + s * a.y, c * a.y - s * a.x, a.z)


def _or_infinity(hit: jax.Array, t: jax.Array) -> jax.Array:
    return jnp.where(hit & (t > _RAY_START), t, jnp.inf)


def _hit_ball(origin: Vec, direction: Vec, ball: _Ball) -> jax.Array:
    to = _minus(origin, ball.center)
    inverse = 1.0 / _dot(direction, direction)
    nearest = -_dot(to, direction) * inverse
    # By the distance of the ray from the centre: the textbook formula cancels in float32.
    off = _along(to, direction, nearest)
    disc = ball.radius**2 - _dot(off, off)
    return _or_infinity(disc > 0, nearest - jnp.sqrt(jnp.maximum(disc, 0.0) * inverse))


def _hit_dome(origin: Vec, direction: Vec) -> jax.Array:
    a, b = _dot(direction, direction), _dot(origin, direction)
    disc = b * b - a * (_dot(origin, origin) - DOME_RADIUS**2)
    return (-b + jnp.sqrt(jnp.maximum(disc, 0.0))) / a


def _hit_floor(origin: Vec, direction: Vec) -> jax.Array:
    down = direction.z < 0
    return _or_infinity(down, -origin.z / jnp.where(down, direction.z, -1.0))


def _hit_box(origin: Vec, direction: Vec, box: _Box) -> jax.Array:
    o, d = _turned(_minus(origin, box.center), box.turn), _turned(direction, box.turn)
    near, far = jnp.full_like(o.x, -jnp.inf), jnp.full_like(o.x, jnp.inf)
    for oi, di, half in zip(o, d, box.half, strict=True):
        inverse = 1.0 / jnp.where(jnp.abs(di) < 1e-9, 1e-9, di)
        t0, t1 = (-half - oi) * inverse, (half - oi) * inverse
        near, far = jnp.maximum(near, jnp.minimum(t0, t1)), jnp.minimum(far, jnp.maximum(t0, t1))
    return _or_infinity(near < far, near)


def _hit_drum(origin: Vec, direction: Vec, drum: _Drum) -> jax.Array:
    x, y = origin.x - drum.center[0], origin.y - drum.center[1]
    a = direction.x**2 + direction.y**2 + 1e-12
    b = x * direction.x + y * direction.y
    disc = b * b - a * (x * x + y * y - drum.radius**2)
    side = (-b - jnp.sqrt(jnp.maximum(disc, 0.0))) / a
    z = origin.z + side * direction.z
    top = (drum.height - origin.z) / jnp.where(jnp.abs(direction.z) < 1e-9, 1e-9, direction.z)
    on_top = (x + top * direction.x) ** 2 + (y + top * direction.y) ** 2 < drum.radius**2
    return jnp.minimum(
        _or_infinity((disc > 0) & (z > 0) & (z < drum.height), side), _or_infinity(on_top, top)
    )


def _nearest_object(origin: Vec, direction: Vec) -> tuple[jax.Array, jax.Array]:
    """Return the first hit among the objects that cast shadows, and which object it is."""
    hits = [_hit_ball(origin, direction, ball) for ball in _BALLS]
    hits += [_hit_box(origin, direction, _CRATE), _hit_drum(origin, direction, _DRUM)]
    return _nearer(hits[0], jnp.zeros(hits[0].shape, jnp.int32), hits[1:], 1)


def _nearest(origin: Vec, direction: Vec) -> tuple[jax.Array, jax.Array]:
    """Return the first hit, and its surface: ball, crate, drum, floor or dome."""
    nearest, which = _nearest_object(origin, direction)
    rest = (_hit_floor(origin, direction), _hit_dome(origin, direction))
    return _nearer(nearest, which, rest, _N_BALLS + 2)


def _nearer(nearest, which, others: Sequence[jax.Array], first: int) -> tuple[jax.Array, jax.Array]:
    for i, t in enumerate(others):
        which = jnp.where(t < nearest, first + i, which)
        nearest = jnp.minimum(nearest, t)
    return nearest, which


def _mix(a: Sequence, b: Sequence, weight: jax.Array) -> Vec:
    return Vec(*(p + (q - p) * weight for p, q in zip(a, b, strict=True)))


def _soft_step(value: jax.Array, width: float) -> jax.Array:
    """Return a soft step from 0 to 1 at value 0, about ``width`` wide."""
    return jax.nn.sigmoid(value * (4.0 / width))


def _wave(turns: jax.Array) -> jax.Array:
    """Approximate ``sin(2 pi turns)`` by parabolas: the ray caster spends its time here."""
    f = turns - jnp.round(turns)
    return f * (8.0 - 16.0 * jnp.abs(f))


class _Waves(NamedTuple):
    """A smooth random field of about unit amplitude: ``n`` plane waves.

    Attributes:
        k: ``(n, 3)`` turns per unit.
        phases: ``(n,)`` turns.
    """

    k: jax.Array
    phases: jax.Array

    @classmethod
    def draw(cls, rng: np.random.Generator, per_unit: float, n: int = 5) -> _Waves:
        k = rng.normal(size=(n, 3))
        k *= per_unit * rng.uniform(0.6, 1.4, (n, 1)) / np.linalg.norm(k, axis=1, keepdims=True)
        phases = rng.uniform(0, 1, n)
        return cls(jnp.asarray(k, jnp.float32), jnp.asarray(phases, jnp.float32))

    def __call__(self, p: Vec) -> jax.Array:
        n = len(self.phases)
        terms = [_wave(_dot(p, Vec(*self.k[i])) + self.phases[i]) for i in range(n)]
        return sum(terms[1:], terms[0]) / math.sqrt(n / 2)


class _Random(NamedTuple):
    """All that the seed decides."""

    grain: _Waves
    coarse: _Waves
    cloud: _Waves
    swirl: _Waves
    fleck: _Waves
    hills: tuple[_Waves, ...]

    @classmethod
    def draw(cls, rng: np.random.Generator) -> _Random:
        fields = [_Waves.draw(rng, per_unit) for per_unit in (2.1, 0.27, 0.16, 0.54, 1.4)]
        hills = [_Waves.draw(rng, per_unit, n) for per_unit, n in ((2.2, 9), (3.0, 7), (4.0, 7))]
        return cls(*fields, hills=tuple(hills))


def _srgb(*values: int) -> tuple[float, float, float]:
    """Return the linear colour of 8-bit sRGB values."""
    s = np.asarray(values) / 255.0
    linear = np.where(s <= 0.04045, s / 12.92, ((s + 0.055) / 1.055) ** 2.4)
    red, green, blue = (float(v) for v in linear)
    return red, green, blue


def _textures(random: _Random) -> dict[str, Callable[[Vec], Vec]]:
    """Make the surface colours."""
    grain, coarse, cloud, swirl, fleck, hills = random

    def floor(p: Vec) -> Vec:
        tiles = _soft_step(_wave(1.1 * p.x) * _wave(1.1 * p.y), 0.3)
        tiles = _mix(_srgb(226, 205, 170), _srgb(120, 139, 140), tiles)
        r = jnp.sqrt(p.x**2 + p.y**2)
        rug = _mix(_srgb(160, 60, 56), _srgb(233, 190, 130), _soft_step(_wave(1.35 * r), 0.5))
        rug = _mix(rug, _srgb(52, 62, 92), _soft_step(r - 1.84, 0.04))
        color = _mix(rug, tiles, _soft_step(r - 2.0, 0.04))
        return _scaled(color, 1.0 + 0.13 * grain(p) + 0.12 * coarse(p))

    def marble(p: Vec) -> Vec:
        vein = _wave(1.35 * p.z + 0.28 * swirl(p) + 0.5 * p.x)
        color = _mix(_srgb(16, 104, 116), _srgb(238, 236, 220), _soft_step(vein, 0.9))
        gold = jnp.maximum(1.0 - 9.0 * (vein + 0.15) ** 2, 0.0)
        color = _mix(color, _srgb(222, 164, 60), 0.9 * gold * gold)
        return _scaled(color, 1.0 + 0.10 * fleck(p))

    def on_crate(p: Vec) -> Vec:
        q = _minus(p, _ON_CRATE.center)
        stripes = _soft_step(_wave(3.8 * (q.z + 0.5 * q.x)), 0.7)
        return _mix(_srgb(196, 62, 112), _srgb(250, 214, 200), stripes)

    def egg(p: Vec) -> Vec:
        return _mix(_srgb(78, 142, 74), _srgb(232, 232, 160), _soft_step(fleck(p) + 0.2, 0.9))

    def beads(p: Vec) -> Vec:
        r = jnp.sqrt(p.x**2 + p.y**2)
        hues = [(math.cos(a), math.sin(a)) for a in (0.3, 2.3, 4.5)]
        rainbow = [0.42 + 0.40 * (c * p.x + s * p.y) / r for c, s in hues]
        return _mix(rainbow, _srgb(250, 244, 230), 0.55 * _soft_step(_wave(6.0 * p.z + 0.32), 0.8))

    def crate(p: Vec) -> Vec:
        q = _turned(_minus(p, _CRATE.center), _CRATE.turn)
        stripes = [_soft_step(_wave(2.7 * c + 0.06) - 0.2, 0.5) for c in q]
        color = _mix(_srgb(232, 176, 52), _srgb(38, 58, 112), 0.5 * (stripes[0] + stripes[1]))
        color = _mix(color, _srgb(244, 234, 208), 0.55 * stripes[2])
        return _scaled(color, 1.0 + 0.12 * fleck(p))

    def drum(p: Vec) -> Vec:
        x, y = p.x - _DRUM.center[0], p.y - _DRUM.center[1]
        spiral = _wave((3.0 * jnp.arctan2(y, x) + 9.0 * p.z) / (2 * math.pi))
        rings = _wave(4.1 * jnp.sqrt(x * x + y * y))
        pattern = jnp.where(p.z > _DRUM.height - 1e-3, rings, spiral)
        color = _mix(_srgb(228, 96, 78), _srgb(250, 232, 206), _soft_step(pattern, 0.5))
        return _scaled(color, 1.0 + 0.1 * fleck(p))

    def dome(p: Vec) -> Vec:
        """Dusk: a graded sky with clouds above three ranges of hills."""
        up = p.z / DOME_RADIUS
        sky = _mix(_srgb(252, 190, 132), _srgb(92, 124, 176), jnp.clip(up * 2.2, 0.0, 1.0))
        clouds = 0.55 * _soft_step(cloud(Vec(p.x, p.y, 3.0 * p.z)) - 0.3, 1.2)
        sky = _mix(sky, _srgb(255, 232, 208), clouds)
        haze = 1.0 + 0.16 * swirl(p)
        for level, ridge, color in zip(
            (0.19, 0.12, 0.05),
            hills,
            ((150, 128, 160), (98, 108, 142), (62, 92, 96)),
            strict=True,
        ):
            r = jnp.sqrt(p.x**2 + p.y**2)
            crest = level + 0.035 * ridge(Vec(p.x / r, p.y / r, jnp.zeros_like(r)))
            sky = _mix(sky, [c * haze for c in _srgb(*color)], _soft_step(crest - up, 0.02))
        return sky

    return {
        "marble": marble,
        "on_crate": on_crate,
        "egg": egg,
        "beads": beads,
        "crate": crate,
        "drum": drum,
        "floor": floor,
        "dome": dome,
    }


def _select(masks: Sequence[jax.Array], values: Sequence[Vec], otherwise: Vec) -> Vec:
    """Return the value whose mask is set; of several, the first."""
    result = otherwise
    for mask, value in reversed(list(zip(masks, values, strict=True))):
        result = Vec(*(jnp.where(mask, v, r) for v, r in zip(value, result, strict=True)))
    return result


def _normal(p: Vec, which: jax.Array) -> Vec:
    """Return the outward normal of surface ``which`` at ``p``; up for floor and dome."""
    ball = jnp.clip(which, 0, _N_BALLS - 1)
    ball = _unit(_minus(p, [jnp.asarray(_CENTERS[:, i])[ball] for i in range(3)]))
    q = _turned(_minus(p, _CRATE.center), _CRATE.turn)
    top = jnp.maximum(jnp.abs(q.x), jnp.maximum(jnp.abs(q.y), jnp.abs(q.z)))
    face = _turned(Vec(*(jnp.where(jnp.abs(c) == top, jnp.sign(c), 0.0) for c in q)), -_CRATE.turn)
    up = Vec(jnp.zeros_like(p.x), jnp.zeros_like(p.x), jnp.ones_like(p.x))
    x, y = ((c - o) / _DRUM.radius for c, o in zip(p[:2], _DRUM.center, strict=True))
    drum = _select([p.z > _DRUM.height - 1e-3], [up], Vec(x, y, jnp.zeros_like(p.x)))
    masks = [which < _N_BALLS, which == _N_BALLS, which == _N_BALLS + 1]
    return _select(masks, [ball, face, drum], up)


@jax.jit
def _surface(origin: Vec, direction: Vec) -> tuple[Vec, Vec, jax.Array]:
    """Return where a ray ends, the normal there, and the surface."""
    t, which = _nearest(origin, direction)
    p = _along(origin, direction, t)
    return p, _normal(p, which), which


@jax.jit
def _lighting(p: Vec, n: Vec, light: Vec) -> Vec:
    """Return the light that arrives at a surface from one point of the lamp and from the sky."""
    start = _along(p, n, jnp.float32(2e-3))
    to_light = _minus(light, p)
    free = _nearest_object(start, to_light)[0] > 1.0
    sun = jnp.where(free, jnp.clip(_dot(n, _unit(to_light)), 0.0), 0.0)
    sky = 0.6 + 0.4 * n.z
    # The larger objects, taken as balls, hide a part of the sky, which grounds them on the floor.
    for ball in _SKY_BLOCKERS:
        to = Vec(*(c - x for c, x in zip(ball.center, p, strict=True)))
        far2 = jnp.maximum(_dot(to, to), ball.radius**2)
        sky *= 1.0 - 0.8 * jnp.clip(_dot(to, n), 0.0) * ball.radius**2 / (far2 * jnp.sqrt(far2))
    return Vec(*(a * sun + b * sky for a, b in _LIGHT_COLORS))


@jax.jit
def _albedo(p: Vec, which: jax.Array, random: _Random) -> Vec:
    """Return the colour of surface ``which`` at ``p``."""
    textures = _textures(random)
    names = ("marble", "on_crate", "egg", "beads", "crate", "drum", "floor")
    last = (0, 1, 2, _N_BALLS - 1, _N_BALLS, _N_BALLS + 1, _N_BALLS + 2)
    masks = [which <= i for i in last]
    return _select(masks, [textures[name](p) for name in names], textures["dome"](p))


@jax.jit
def _develop(albedo: Vec, light: Vec, which: jax.Array) -> jax.Array:
    """Average the samples of every pixel and return the picture; the dome shines by itself."""
    lit = Vec(*(a * b for a, b in zip(albedo, light, strict=True)))
    color = _select([which == _N_BALLS + 3], [albedo], lit)
    height, width = (n // _SUPERSAMPLES for n in which.shape)
    grid = (height, _SUPERSAMPLES, width, _SUPERSAMPLES)
    return _encode(jnp.stack([c.reshape(grid).mean(axis=(1, 3)) for c in color], axis=-1))


def _encode(linear: jax.Array) -> jax.Array:
    """Convert linear colour to 8-bit sRGB."""
    c = jnp.clip(linear, 0.0, 1.0)
    srgb = jnp.where(c <= 0.0031308, 12.92 * c, 1.055 * jnp.maximum(c, 1e-6) ** (1 / 2.4) - 0.055)
    return jnp.round(255.0 * srgb).astype(jnp.uint8)


def cast_views(
    viewmats: np.ndarray, K: np.ndarray, *, width: int, height: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Photograph the still life.

    Args:
        viewmats: ``(V, 4, 4)`` world to camera, OpenCV axes; eyes inside the dome, above the floor.
        K: ``(3, 3)`` pinhole matrix in pixels, shared by all views.
        width: Width of the pictures in pixels.
        height: Height of the pictures in pixels.
        seed: Decides grain, clouds and marbling.

    Returns:
        ``(V, H, W, 3)`` uint8 sRGB, supersampled, and ``(V, H, W)`` float32 z depth at the pixel
        centres.
    """
    random = _Random.draw(np.random.default_rng(seed))
    side = _SUPERSAMPLES
    fine = [(np.arange(n * side) + 0.5) / side for n in (width, height)]
    centers = [np.arange(n) + 0.5 for n in (width, height)]

    # Each sample of a pixel sees another part of the lamp: soft shadows at no extra cost.
    i, j = np.arange(side)[None, :], np.arange(side)[:, None]
    parts = [(k % side + 0.5) / side - 0.5 for k in (i + j, i + 2 * j)]
    spread = [_LIGHT_SIZE * np.tile(part, (height, width)) for part in (*parts, 0 * i * j)]
    light = Vec(*(jnp.asarray(c + s, jnp.float32) for c, s in zip(_LIGHT, spread, strict=True)))

    images, depths = [], []
    for viewmat in viewmats:
        # Compiled stage by stage: in one piece, XLA fuses them and computes most of it thrice.
        p, n, which = _surface(*_rays(viewmat, K, *fine))
        images.append(
            np.asarray(_develop(_albedo(p, which, random), _lighting(p, n, light), which))
        )
        depths.append(np.asarray(_nearest_depth(*_rays(viewmat, K, *centers))))
    return np.stack(images), np.stack(depths)


def _rays(
    viewmat: np.ndarray, K: np.ndarray, columns: np.ndarray, rows: np.ndarray
) -> tuple[Vec, Vec]:
    """Return the rays through image positions; the ray parameter is the depth itself."""
    x, y = np.meshgrid((columns - K[0, 2]) / K[0, 0], (rows - K[1, 2]) / K[1, 1])
    viewmat = viewmat.astype(np.float64)
    r = viewmat[:3, :3]
    (center,) = camera_centers(viewmat[None])
    direction = Vec(
        *(jnp.asarray(r[0, i] * x + r[1, i] * y + r[2, i], jnp.float32) for i in range(3))
    )
    origin = Vec(*(jnp.full(x.shape, c, jnp.float32) for c in center))
    return origin, direction


@jax.jit
def _nearest_depth(origin: Vec, direction: Vec) -> jax.Array:
    return _nearest(origin, direction)[0]
