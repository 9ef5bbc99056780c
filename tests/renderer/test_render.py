"""Tests the whole renderer against the reference, finite differences and its own invariants."""

import hashlib
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from helpers import reference, scenes
from helpers.asserts import (
    OUTPUTS,
    SAME_BITS,
    Size,
    check_gradients,
    check_images,
    check_render,
    close_l2,
    expect,
    image_cotangents,
    library,
    render_call,
    same_bits,
    settings,
)
from helpers.tolerances import bound

import jax_gsplat_depth as jgd

COMBINATIONS = [(k,) for k in OUTPUTS] + [("image", "depth"), ("depth", "weight")]


@pytest.mark.quick(shape=["covars6"], color=["sh"])
@pytest.mark.parametrize("color", ["colors", "sh"])
@pytest.mark.parametrize("shape", ["quats", "covars6", "covars33"])
def test_forms_of_the_input(every_backend, dtype, color, shape):
    check_render(scenes.dense(), dtype, name=f"{color} {shape}", color=color, shape=shape)


@pytest.mark.quick(scene=["boundary", "ties"])
@pytest.mark.parametrize("scene", ["smooth", "boundary", "saturated", "big", "ties", "single"])
def test_scenes(backend, dtype, scene):
    check_render(getattr(scenes, scene)(), dtype, name=scene)


@pytest.mark.quick(outputs=[("depth", "weight")], color=["sh"])
@pytest.mark.parametrize("outputs", COMBINATIONS, ids="-".join)
@pytest.mark.parametrize("color", ["colors", "sh"])
def test_gradient_of_some_outputs(backend, dtype, color, outputs):
    scene = scenes.boundary()
    name = f"{color} {outputs}"
    _, grads = check_render(scene, dtype, name=name, color=color, outputs=outputs)
    assert grads["means"].any() and grads["viewmat"].any()
    assert grads[color].any() == grads["background"].any() == ("image" in outputs)


@pytest.mark.quick(channels=[7])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7, 16])
def test_channels(backend, dtype, channels):
    check_render(scenes.dense(channels=channels), dtype, name=f"{channels} channels")


@pytest.mark.quick(form=["no channels"], dtype=["float32"])
@pytest.mark.parametrize("form", ["no channels", "each camera"])
def test_forms_of_colors(every_backend, dtype, form):
    """Depth and weight alone, and another set of colours for each camera."""
    scene = scenes.dense(n=60, cameras=2, channels=0 if form == "no channels" else 3)
    inputs = scene.inputs(dtype)
    if form == "each camera":
        colors = inputs["colors"]
        colors[3, 1] = np.nan  # of one camera: the other one draws the Gaussian
        inputs["colors"] = np.stack([colors, scene.colors[::-1].astype(dtype)])
    out, _ = check_render(scene, dtype, name=form, inputs=inputs)
    assert out["image"].shape == (2, scene.height, scene.width, inputs["colors"].shape[-1])
    if form == "no channels":
        wanted = jgd.render(scenes.dense(n=60, cameras=2).gaussians(dtype), scene.camera(dtype))
        same_bits(out["depth"], wanted.depth, "depth")
        same_bits(out["weight"], wanted.weight, "weight")


@pytest.mark.quick(bases=[9])
@pytest.mark.parametrize("bases", [1, 4, 9, 16, 25])
def test_degrees(backend, dtype, bases):
    check_render(scenes.dense(bases=bases), dtype, name=f"{bases} bases", color="sh")


@pytest.mark.quick(degree=[1])
@pytest.mark.parametrize("degree", range(4))
def test_lower_degree(backend, dtype, degree):
    scene, used = scenes.dense(bases=25), (degree + 1) ** 2
    _, grads = check_render(scene, dtype, name=f"degree {degree}", color="sh", sh_degree=degree)
    assert grads["sh"][:, :used].any() and not grads["sh"][:, used:].any()


@pytest.mark.quick(options=[{"sh_convention": "e3nn"}, {"footprint": "3sigma"}], dtype=["float32"])
@pytest.mark.parametrize(
    "options",
    [
        {"near_plane": 3.0, "far_plane": 5.0},
        {"eps2d": 0.0},
        {"antialiased": True},
        {"sh_convention": "e3nn"},
        {"footprint": "3sigma"},
        {"footprint": "3sigma", "antialiased": True, "eps2d": 0.1},
    ],
    ids=str,
)
def test_options(backend, dtype, options):
    name, config = str(options), jgd.Config(**options)
    check_render(scenes.dense(), dtype, name=name, color="sh", config=config)


def test_jacobian_limit_is_active_in_the_boundary_scene():
    """Guards the scene: its gradients mean little if nothing is beyond the limit or near it."""
    scene = scenes.boundary()
    local = scene.means @ scene.viewmat[:3, :3].T + scene.viewmat[:3, 3]
    out = reference.evaluate(
        reference.render, scene.inputs(np.float64), reference.Settings(scene.width, scene.height)
    )
    (fx, _, cx), width = scene.K[0], scene.width
    slope = local[:, 0] / local[:, 2]
    high, low = (width - cx + 0.15 * width) / fx, -(cx + 0.15 * width) / fx
    drawn = out["radii"] > 0
    assert (drawn & (slope > high)).any() and (drawn & (slope < low)).any()
    assert not drawn[::7].any()
    assert np.abs(local[::7, 2] - 0.009).min() < 1e-3


@pytest.mark.quick(scale=[9.0], cameras=[2])
@pytest.mark.parametrize("scale", [0.3, 9.0])
@pytest.mark.parametrize("cameras", [None, 2])
def test_offset_moves_the_splats(backend, dtype, scale, cameras):
    scene = scenes.boundary(cameras=cameras)
    inputs = scene.inputs(dtype)
    offset = np.random.default_rng(0).normal(0, scale, inputs["means2d_offset"].shape)
    inputs["means2d_offset"] = offset.astype(np.float32).astype(dtype)
    out, _ = check_render(scene, dtype, name=f"offset {scale}", inputs=inputs)
    # Culling ignores it.
    radii = jgd.render(scene.gaussians(dtype), scene.camera(dtype)).radii
    np.testing.assert_array_equal(out["radii"], radii)


@pytest.mark.quick(color=["sh"], cameras=[2])
@pytest.mark.parametrize("cameras", [None, 2])
@pytest.mark.parametrize("color", ["colors", "sh"])
def test_absgrad_probe(backend, dtype, color, cameras):
    """It has its gradient beside that of the offset, whatever its value is."""
    scene = scenes.boundary(cameras=cameras)
    inputs = scene.inputs(dtype, color=color)
    config = jgd.Config()
    static = settings(scene, config)
    size = Size(scene.width, scene.height)
    _, wanted, cotangents = expect(reference.render, inputs, image_cotangents(inputs, size), static)
    args = (size, config, None)
    probe = np.full_like(inputs["means2d_offset"], np.nan)
    out, grads = library(render_call, args, inputs | {"absgrad_probe": probe}, cotangents)
    absolute = reference.absgrad(reference.render, inputs, cotangents, static)
    limit = bound("render", "gradient", dtype)
    close_l2(grads.pop("absgrad_probe"), absolute, limit, f"{color} absgrad")
    check_gradients("render", grads, wanted, dtype, f"{color} beside absgrad")
    # Nothing else depends on it.
    alone, expected = library(render_call, args, inputs, cotangents)
    for actual, without in ((out, alone), (grads, expected)):
        assert actual.keys() == without.keys()
        for k in without:
            same_bits(actual[k], without[k], f"{color} {k}")


@pytest.mark.quick(size=[(1, 1), (17, 15)])
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (16, 16), (17, 15), (33, 31)])
def test_image_sizes(every_backend, dtype, size):
    scene = scenes.random_scene(40, *size, seed=8, focal=20 / size[1])
    out, _ = check_render(scene, dtype, name=f"size {size}")
    assert out["image"].shape == (size[1], size[0], 3)


@pytest.mark.quick(u=[20.0, -2.5])
@pytest.mark.parametrize("u", [0.0, 20.0, -2.5, 22.5, 16.0])
def test_gaussian_on_a_border(backend, dtype, u):
    out, _ = check_render(scenes.single(u=u, v=16.0), dtype, name=f"border {u}")
    assert out["weight"].any()


def test_one_intersection(every_backend, dtype):
    scene = scenes.single(width=16, height=16, u=8.5, v=8.5, sigma_px=0.1, opacity=0.01)
    out, _ = check_render(scene, dtype, name="one pixel")
    assert (out["weight"] > 0).sum() == 1 and out["weight"][8, 8] > 0


@pytest.mark.quick(what=["no Gaussians", "all behind"], color=["sh"])
@pytest.mark.parametrize("color", ["colors", "sh"])
@pytest.mark.parametrize("what", ["no Gaussians", "all behind", "all outside", "all transparent"])
def test_nothing_visible(every_backend, dtype, what, color):
    scene = scenes.empty() if what == "no Gaussians" else scenes.smooth()
    if what == "all behind":
        view = scene.viewmat.copy()
        view[2, 3] -= 20
        scene = scene.replace(viewmat=view)
    elif what == "all outside":
        view = scene.viewmat.copy()
        view[0, 3] -= 90
        scene = scene.replace(viewmat=view)
    elif what == "all transparent":
        scene = scene.replace(opacities=np.full(8, 0.0039))
    out, grads = check_render(scene, dtype, name=what, color=color)
    assert (out["image"] == scene.background.astype(dtype)).all()
    assert not out["depth"].any() and not out["weight"].any() and not out["radii"].any()
    assert not any(g.any() for k, g in grads.items() if k != "background")


@pytest.mark.slow
@pytest.mark.parametrize("color", ["colors", "sh"])
def test_background_forms(backend, dtype, color):
    scene = scenes.dense(cameras=3)
    size, config = Size(scene.width, scene.height), jgd.Config()
    inputs = scene.inputs(dtype, color=color)
    args = (size, config, None)
    shared, _ = library(render_call, args, inputs, {})
    repeated = {**inputs, "background": np.repeat(inputs["background"][None], 3, 0)}
    same_bits(library(render_call, args, repeated, {})[0]["image"], shared["image"], "repeated")
    none = {k: v for k, v in inputs.items() if k != "background"}
    zero = {**inputs, "background": np.zeros_like(inputs["background"])}
    a, b = (library(render_call, args, x, {})[0]["image"] for x in (none, zero))
    same_bits(a, b, "none")
    different = {**inputs, "background": np.linspace(0, 1, 9).reshape(3, 3).astype(dtype)}
    check_render(scene, dtype, name=f"{color} backgrounds", inputs=different)


def per_camera(inputs, c):
    batched = {"viewmat", "K", "means2d_offset"}
    return {k: v[c] if k in batched else v for k, v in inputs.items()}


@pytest.mark.quick(form=["sh quats"])
@pytest.mark.parametrize("form", ["colors quats", "colors covars6", "sh quats"])
def test_camera_axis_is_a_loop(backend, dtype, form):
    scene = scenes.boundary(cameras=3)
    color, shape = form.split()
    out, grads = check_render(
        scene, dtype, name=f"cameras {form}", color=color, shape=shape, config=SAME_BITS
    )
    inputs = scene.inputs(dtype, color=color, shape=shape)
    static = settings(scene, SAME_BITS)
    size = Size(scene.width, scene.height)
    _, _, cotangents = expect(reference.render, inputs, image_cotangents(inputs, size), static)
    args = (size, SAME_BITS, None)
    total = {}
    for c in range(3):
        part = {k: v[c] for k, v in cotangents.items()}
        alone, grads_c = library(render_call, args, per_camera(inputs, c), part)
        for k in (*OUTPUTS, "radii"):
            same_bits(out[k][c], alone[k], k)
        for k, v in grads_c.items():
            if v.shape == grads[k].shape:
                total[k] = total[k] + v if c else v
            else:
                same_bits(grads[k][c], v, k)
    for k, v in total.items():
        if color == "sh" and k == "means":
            # Two stages contribute to it and each sums over its cameras: not the same bits.
            limit = 1e-6 if dtype == np.float32 else 1e-14
            close_l2(grads[k], v, limit, k)
        else:
            same_bits(grads[k], v, k)


@pytest.mark.quick(scene=["boundary"], form=["sh quats"])
@pytest.mark.parametrize("form", ["sh quats", "colors covars6"])
@pytest.mark.parametrize("scene", ["smooth", "boundary"])
def test_gradients_are_finite_differences(backend, x64, scene, form):
    scene = getattr(scenes, scene)()
    color, shape = form.split()
    inputs = scene.inputs(np.float64, color=color, shape=shape)
    config = jgd.Config(antialiased=True)
    static = settings(scene, config)
    size = Size(scene.width, scene.height)
    _, _, cotangents = expect(reference.render, inputs, image_cotangents(inputs, size), static)
    args = (size, config, None)
    _, grads = library(render_call, args, inputs, cotangents)

    def loss(x):
        out, _ = library(render_call, args, x, {})
        return sum((out[k] * v).sum() for k, v in cotangents.items())

    rng = np.random.default_rng(0)
    h = 1e-6
    for name, g in grads.items():
        for _ in range(2):
            direction = rng.normal(size=g.shape) * (np.abs(inputs[name]).mean() or 1)
            plus, minus = (loss({**inputs, name: inputs[name] + s * direction}) for s in (h, -h))
            expected = (plus - minus) / (2 * h)
            np.testing.assert_allclose(
                (g * direction).sum(), expected, rtol=2e-6, atol=2e-6, err_msg=name
            )


def test_order_of_the_list_does_not_matter(every_backend, dtype):
    scene = scenes.saturated()
    shuffle = np.random.default_rng(0).permutation(scene.n)
    size = Size(scene.width, scene.height)
    args = (size, SAME_BITS, None)
    cotangents = image_cotangents(scene.inputs(dtype), size)
    a, grad_a = library(render_call, args, scene.inputs(dtype), cotangents)
    b, grad_b = library(render_call, args, scene.take(shuffle).inputs(dtype), cotangents)
    for k in OUTPUTS:
        same_bits(b[k], a[k], k)
    same_bits(b["radii"], a["radii"][shuffle], "radii")
    for k in ("means", "quats", "scales", "opacities", "colors"):
        same_bits(grad_b[k], grad_a[k][shuffle], k)


def test_depth_ties_are_drawn_in_index_order(every_backend, dtype):
    scene = scenes.ties()
    reverse = scene.take(np.arange(scene.n)[::-1])
    a, _ = check_render(scene, dtype, name="ties")
    b, _ = check_render(reverse, dtype, name="ties reversed")
    assert np.abs(a["image"] - b["image"]).max() > 0.05


def test_weight_is_what_the_background_lacks(backend, dtype):
    scene = scenes.dense()
    args = (Size(scene.width, scene.height), jgd.Config(), None)
    inputs = scene.inputs(dtype)
    black, white = (
        library(render_call, args, {**inputs, "background": np.full(3, v, dtype)}, {})[0]
        for v in (0, 1)
    )
    seen = white["image"] - black["image"]
    np.testing.assert_allclose(seen, np.repeat(1 - black["weight"][..., None], 3, -1), atol=1e-6)


@pytest.mark.quick(dtype=["float32"])
@pytest.mark.slow
def test_twenty_thousand_wide_gaussians(backend, dtype):
    """Against the reference at some pixels; every tile list holds thousands."""
    scene = scenes.random_scene(
        20_000, 256, 256, seed=10, sigma_px=(30.0, 120.0), opacity=(0.006, 0.02)
    )
    inputs = scene.inputs(dtype, offset=False)
    args = (Size(256, 256), jgd.Config(), None)
    out, _ = library(render_call, args, inputs, {})
    pixels = np.random.default_rng(0).integers(0, 256, (200, 2))
    static = settings(scene, jgd.Config())
    expected = reference.evaluate(reference.render, inputs, static, pixels)
    bins = jgd.bin(jgd.project(scene.gaussians(dtype), scene.camera(dtype)), width=256, height=256)
    assert np.asarray(bins.tile_counts).sum() > 1_000_000
    assert np.asarray(bins.tile_counts).max() > 5_000
    at = {k: out[k][tuple(pixels.T)] for k in OUTPUTS}
    # So many Gaussians put nearly every pixel in the band; a flip at the cutoff is worth at most
    # 1/255 of the light that is left, and only float32 flips.
    limit = 5e-5 if dtype == np.float32 else 1e-10
    for k in OUTPUTS:
        assert np.abs(at[k] - expected[k]).max() < limit * max(1, np.abs(expected[k]).max()), k


SCRIPT = """
import hashlib, sys
import numpy as np
import jax
from helpers import scenes
from helpers.asserts import Size, library, render_call
import jax_gsplat_depth as jgd

scene = scenes.random_scene(3000, 160, 120, seed=12, cameras=2, sigma_px=(0.5, 10.0))
inputs = scene.inputs(np.float32, color="sh")
rng = np.random.default_rng(0)
cotangents = {"image": rng.normal(size=(2, 120, 160, 3)), "depth": rng.normal(size=(2, 120, 160))}
args = (Size(160, 120), jgd.Config(), None)
digest = hashlib.sha256()
for leaf in jax.tree.leaves(library(render_call, args, inputs, cotangents)):
    digest.update(leaf.tobytes())
print(digest.hexdigest())
"""


def run_script(**environment):
    tests = pathlib.Path(__file__).parents[1]
    variables = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=variables | {"PYTHONPATH": str(tests), "JAX_PLATFORMS": "cpu"} | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.slow
def test_same_bits_whatever_the_number_of_threads():
    digests = {n: run_script(NPROC=n) for n in ("1", "2", "5")}
    assert len(set(digests.values())) == 1, digests
    assert len(digests["1"]) == hashlib.sha256().digest_size * 2


def test_same_bits_on_every_call(backend, dtype):
    scene = scenes.dense(n=400, width=90, height=70, cameras=2)
    inputs = scene.inputs(dtype, color="sh")
    rng = np.random.default_rng(0)
    cotangents = {"image": rng.normal(size=(2, 70, 90, 3)), "weight": rng.normal(size=(2, 70, 90))}
    args = (Size(90, 70), jgd.Config(deterministic=True), None)
    first = library(render_call, args, inputs, cotangents)
    for _ in range(5):
        jax.tree.map(
            lambda a, b: same_bits(b, a, "repeat"),
            first,
            library(render_call, args, inputs, cotangents),
        )


def test_stages_compose_to_render(backend, dtype):
    scene = scenes.boundary(cameras=2)
    gaussians, camera = scene.gaussians(dtype, color="sh"), scene.camera(dtype)
    config = jgd.Config(antialiased=True)
    size = {"width": scene.width, "height": scene.height, "config": config}
    whole = jgd.render(gaussians, camera, sh_degree=2, config=config)
    splats = jgd.project(gaussians, camera, config=config)
    colors = jgd.shade(gaussians, camera, sh_degree=2, config=config)
    parts = jgd.blend(splats, colors, jgd.bin(splats, **size).order, **size)
    for k in (*OUTPUTS, "radii"):
        same_bits(getattr(parts, k), getattr(whole, k), k)


def test_images_agree_between_dtypes(backend, x64):
    """The float32 image is the float64 image up to rounding: no systematic difference."""
    scene = scenes.dense()
    expected = reference.evaluate(
        reference.render, scene.inputs(np.float64), settings(scene, jgd.Config())
    )
    args = (Size(scene.width, scene.height), jgd.Config(), None)
    out, _ = library(render_call, args, scene.inputs(np.float32), {})
    check_images("render", out, expected, np.dtype(np.float32), "dtypes")
    keep = ~expected["band"]
    assert abs((out["image"] - expected["image"])[keep].mean()) < 1e-7
