"""Tests that what a Gaussian does not draw is not touched: neither by its data nor by cotangents.

A Gaussian that is not drawn changes no statistic over the others, and a cotangent that is not
finite reaches the gradients of exactly those Gaussians that its pixel shows.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import backends, scenes
from helpers.asserts import Size, library, make_cotangents, render_call, same_bits

import jax_gsplat_depth as jgd

SIZE = Size(37, 35)
VARIANCE = jgd.Config(depth_variance=True, deterministic=True)

# ------------------------------------------------------------------------- the reference depth

N, N_FAR = 10, 21
FAR = slice(N, None)


def with_far_ones(seed=0):
    """Inputs with a few near Gaussians, and more that are far away in the same direction."""
    rng = np.random.default_rng(seed)
    x = {
        "means": rng.normal(0, 0.3, (N + N_FAR, 3)) + [0, 0, 3],
        "quats": np.tile([1.0, 0, 0, 0], (N + N_FAR, 1)),
        "scales": np.full((N + N_FAR, 3), 0.2),
        "opacities": np.full(N + N_FAR, 0.6),
        "colors": np.full((N + N_FAR, 3), 0.5),
        "means2d_offset": np.zeros((N + N_FAR, 2)),
        "viewmat": np.eye(4),
        "K": np.array([[40.0, 0, SIZE.width / 2], [0, 40, SIZE.height / 2], [0, 0, 1]]),
    }
    x["means"][FAR] = [0, 0, 1e6]
    x["scales"][FAR] = 1e5
    return {k: v.astype(np.float32) for k, v in x.items()}


def hide(x, why):
    """Change the far Gaussians in a way for which they are not drawn."""
    if why == "sh":
        sh = np.zeros((N + N_FAR, 4, 3), np.float32)
        x = {k: v for k, v in x.items() if k != "colors"} | {"sh": sh}
    name, index, value = {
        "color": ("colors", (FAR, 1), np.nan),
        "sh": ("sh", (FAR, 2, 0), np.inf),
        "faint": ("opacities", FAR, 0.001),
        "opacity": ("opacities", FAR, np.nan),
        "beside the image": ("means2d_offset", (FAR, 0), 1e5),
        "nowhere": ("means2d_offset", (FAR, 1), np.nan),
        "depth": ("means", (FAR, 2), np.inf),
    }[why]
    x[name][index] = value
    return x


def near_ones(x):
    return {k: v[:N] if len(v) == N + N_FAR else v for k, v in x.items()}


def render_variance(x, config):
    return library(render_call, (SIZE, config, None), x, {})[0]["depth_variance"]


@pytest.mark.quick(why=["color"], footprint=["exact"])
@pytest.mark.parametrize("footprint", ["exact", "3sigma"])
@pytest.mark.parametrize(
    "why", ["color", "sh", "faint", "opacity", "beside the image", "nowhere", "depth"]
)
def test_variance_without_the_undrawn(every_backend, why, footprint):
    config = dataclasses.replace(VARIANCE, footprint=footprint)
    x = hide(with_far_ones(), why)
    expected = render_variance(near_ones(x), config)
    assert 0.01 < expected.max() < 1
    same_bits(render_variance(x, config), expected, why)


@pytest.mark.slow
def test_variance_of_cameras_and_scenes(every_backend):
    """The reference depth is that of each image alone, with a camera axis and under vmap."""
    scene_of = [hide(with_far_ones(seed), "color") for seed in range(3)]
    expected = [render_variance(near_ones(x), VARIANCE) for x in scene_of]
    stacked = {k: np.stack([x[k] for x in scene_of]) for k in scene_of[0]}
    run = jax.vmap(lambda x: render_call(x, SIZE, VARIANCE, None)["depth_variance"])
    for got, want in zip(jax.jit(run)(stacked), expected, strict=True):
        same_bits(got, want, "vmap")
    cameras = scene_of[0] | {k: np.stack([scene_of[0][k]] * 2) for k in ("viewmat", "K")}
    cameras["viewmat"][1, 2, 3] = 0.5
    cameras["means2d_offset"] = np.stack([cameras["means2d_offset"]] * 2)
    both = render_variance(cameras, VARIANCE)
    same_bits(both[0], expected[0], "first camera")
    same_bits(both[1], render_variance(near_ones(cameras_of(cameras, 1)), VARIANCE), "second")


def cameras_of(x, c):
    return {k: v[c] if k in ("viewmat", "K", "means2d_offset") else v for k, v in x.items()}


@functools.partial(backends.jit, static_argnums=1)
def blend_variance(x, change):
    """Of splats or an order that leave the far Gaussians out, or of the near ones alone."""
    size = {"width": SIZE.width, "height": SIZE.height}
    gaussians, camera = scenes.build(x, SIZE)
    splats, colors = jgd.project(gaussians, camera), x["colors"]
    if change is None:
        splats, colors = jax.tree.map(lambda v: v[:N], (splats, colors))
    order = jgd.bin(splats, **size).order
    if change == "radii":
        splats = dataclasses.replace(splats, radii=splats.radii.at[FAR].set(0))
    elif change == "conics":
        splats = dataclasses.replace(splats, conics=splats.conics.at[FAR, 1].set(jnp.inf))
    elif change is not None:
        order = jnp.where(order < N, order, {"too large": N + N_FAR, "negative": -1}[change])
    return jgd.blend(splats, colors, order, config=VARIANCE, **size).depth_variance


@pytest.mark.quick(change=["negative"])
@pytest.mark.parametrize("change", ["too large", "negative", "radii", "conics"])
def test_variance_of_changed_splats(every_backend, change):
    """``blend`` takes any splats and any order; what these leave out counts for nothing."""
    x = with_far_ones()
    same_bits(blend_variance(x, change), blend_variance(x, None), change)


# ------------------------------------------------------------------------------- the cotangents

PER_GAUSSIAN = ("means", "quats", "scales", "covars", "opacities", "sh", "colors")
ALL_DEPTHS = jgd.Config(depth="inverse", ray_depth=True, depth_variance=True, deterministic=True)
MEDIAN = jgd.Config(depth="median", ray_depth=True, deterministic=True)
EXPECTED = jgd.Config(deterministic=True)


@functools.cache
def scene_of(channels, cameras):
    """Gaussians smaller than a row of a tile, no alpha at its cap."""
    return scenes.random_scene(
        40, *(SIZE.width, SIZE.height), seed=3, bases=4, channels=channels, cameras=cameras,
        sigma_px=(0.6, 3.0), opacity=(0.2, 0.9),
    )  # fmt: skip


def cotangents_of(scene, config, channels):
    shape = (*scene.batch, SIZE.height, SIZE.width)
    shapes = {"image": (*shape, channels), "depth": shape, "weight": shape}
    if config.depth_variance:
        shapes["depth_variance"] = shape
    return make_cotangents(shapes, seed=5)


def first_camera(pixel, scene):
    return (0, *pixel) if scene.batch else pixel


def drawn_in(scene, config, pixel):
    """Which Gaussians have a weight in a pixel, of the first camera: the gradient of colours."""
    inputs = scene.inputs(np.float32)
    cotangent = np.zeros((*scene.batch, SIZE.height, SIZE.width, scene.colors.shape[1]))
    cotangent[(*first_camera(pixel, scene), 0)] = 1
    _, grads = library(render_call, (SIZE, config, None), inputs, {"image": cotangent})
    return grads["colors"][:, 0] > 0


FORMS = {
    "rgb": {"color": "colors", "channels": 3},
    "one channel": {"color": "colors", "channels": 1},
    "four channels": {"color": "colors", "channels": 4},
    "six channels": {"color": "colors", "channels": 6, "shape": "covars6"},
    "sh": {"color": "sh", "channels": 3, "cameras": 2},
}


DEPTHS = {"z": EXPECTED, "inverse": ALL_DEPTHS, "median": MEDIAN}
CASES = [("rgb", "z"), ("rgb", "inverse"), ("rgb", "median"), ("one channel", "inverse")]
CASES += [("four channels", "median"), ("six channels", "inverse"), ("sh", "inverse")]


@pytest.mark.quick(case=[("rgb", "z")], dtype=["float32"])
@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_cotangents_reach_what_is_drawn(every_backend, dtype, case):
    form, config = dict(FORMS[case[0]]), DEPTHS[case[1]]
    channels = form.pop("channels")
    scene = scene_of(channels, form.pop("cameras", None))
    inputs = scene.inputs(dtype, **form)
    inputs["absgrad_probe"] = np.zeros_like(inputs["means2d_offset"])
    cotangents = cotangents_of(scene, config, channels)

    def gradients(changed):
        return library(render_call, (SIZE, config, None), inputs, changed)

    out, good = gradients(cotangents)
    weight = out["weight"][0] if scene.batch else out["weight"]
    hit = np.unravel_index(np.argmax(weight), weight.shape)
    missed = np.unravel_index(np.argmin(weight), weight.shape)
    assert weight[missed] == 0
    drawn = drawn_in(scene, config, hit)
    assert 1 < drawn.sum() < scene.n / 2
    for name in cotangents:
        for value in (np.nan, -np.inf):
            for pixel, reached in (hit, drawn), (missed, np.zeros(scene.n, bool)):
                at = first_camera(pixel, scene) + ((0,) if name == "image" else ())
                changed = {k: v.copy() for k, v in cotangents.items()}
                changed[name][at] = value
                _, grads = gradients(changed)
                what = f"{value} in {name} at {pixel}"
                check_per_gaussian(grads, good, reached, name, config, what)
                check_sums(grads, good, reached.any(), name, scene, what)


def check_per_gaussian(grads, good, reached, name, config, what):
    """Not finite where it is reached, and as with the finite cotangent elsewhere."""
    for k, v in grads.items():
        if k in PER_GAUSSIAN:
            same_bits(v[~reached], good[k][~reached], f"{k}, {what}")
        elif k.startswith(("means2d", "absgrad")):
            same_bits(v[..., ~reached, :], good[k][..., ~reached, :], f"{k}, {what}")
    if name == "depth" and config.depth == "median":
        assert np.isfinite(grads["means"]).all(axis=1).sum() == len(reached) - reached.any()
        return
    for k in ("means", "opacities", "quats", "scales", "covars"):
        if k in grads:
            finite = np.isfinite(grads[k]).reshape(len(reached), -1).any(axis=1)
            assert not (finite & reached).any(), f"{k}, {what}"
    if name == "image" and "colors" in grads:
        assert not np.isfinite(grads["colors"][reached, 0]).any(), what
        same_bits(grads["colors"][:, 1:], good["colors"][:, 1:], f"other channels, {what}")


def check_sums(grads, good, any_reached, name, scene, what):
    """The gradients that are sums over pixels or Gaussians."""
    if name == "image":
        assert not np.isfinite(grads["background"][..., 0]).any(), what
        same_bits(grads["background"][..., 1:], good["background"][..., 1:], what)
    else:
        same_bits(grads["background"], good["background"], what)
    for k in ("viewmat", "K"):
        first, others = (grads[k][0], slice(1, None)) if scene.batch else (grads[k], None)
        assert np.isfinite(first).all() != any_reached, f"{k}, {what}"
        if others is not None:
            same_bits(grads[k][others], good[k][others], f"{k} of other cameras, {what}")
        if not any_reached:
            same_bits(grads[k], good[k], f"{k}, {what}")
