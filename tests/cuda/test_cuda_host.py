"""Tests the CUDA kernels on the host: what only that backend has, and the emulation itself.

``cuda_host/`` compiles them as C++ and runs their threads in an order that depends on a seed. Tests
of all backends are in the other rooms, with the fixture ``every_backend``.
"""

import concurrent.futures
import ctypes
import re

import jax
import numpy as np
import pytest
from cuda_host import build
from helpers import asserts, scenes, yardstick
from helpers.asserts import (
    OUTPUTS,
    Size,
    close,
    close_l2,
    image_cotangents,
    library,
    render_call,
    same_bits,
)
from helpers.backends import load, stand_in

import jax_gsplat_depth as jgd
from jax_gsplat_depth import _primitive


def run(scene, dtype, *, config, absgrad=False, **form):
    """Outputs and gradients of a render."""
    inputs = scene.inputs(dtype, **form)
    if absgrad:
        inputs["absgrad_probe"] = inputs["means2d_offset"]
    size = Size(scene.width, scene.height)
    return library(render_call, (size, config, None), inputs, image_cotangents(inputs, size))


def same_trees(actual, expected, name):
    """Outputs and gradients have the same bits."""
    for a, e in zip(actual, expected, strict=True):
        assert a.keys() == e.keys()
        for k in e:
            same_bits(a[k], e[k], f"{name} {k}")


# ------------------------------------------------------------------------------------ list capacity

CROWDED = scenes.random_scene(300, 60, 45, seed=20, sigma_px=(0.7, 9.0), opacity=(0.02, 0.9))
CAMERAS = scenes.saturated(cameras=2)


def projected(scene, dtype):
    """Splats, and their order and tile counts."""
    splats = jgd.project(scene.gaussians(dtype), scene.camera(dtype))
    return splats, jgd.bin(splats, width=scene.width, height=scene.height)


def needed(scene, dtype):
    """The pairs of each image, and the number of tiles."""
    counts = np.asarray(projected(scene, dtype)[1].tile_counts)
    return counts.sum((-2, -1)), counts.shape[-2] * counts.shape[-1]


@pytest.mark.slow
@pytest.mark.parametrize("scene", [CROWDED, CAMERAS], ids=["one camera", "cameras"])
def test_capacity_changes_nothing(cuda_host, dtype, scene):
    need, n_tiles = needed(scene, dtype)
    most = need.max()
    capacities = [1, n_tiles, n_tiles + 1, most // 3, most - 1, most, 2 * most]
    expected = None
    for capacity in capacities:
        config = jgd.Config(capacity=int(capacity), deterministic=True)
        out, grads = run(scene, dtype, config=config)
        listed = out.pop("n_isects_listed")
        np.testing.assert_array_equal(out["n_isects"], need)
        capacity = max(capacity, n_tiles)
        np.testing.assert_array_equal(
            listed[..., None] == need[..., None], need[..., None] <= capacity
        )
        # A Gaussian is listed as a whole.
        assert (listed <= capacity).all()
        assert (listed > np.minimum(need, capacity) - n_tiles).all()
        expected = expected or (out, grads)
        same_trees((out, grads), expected, f"capacity {capacity}")


@pytest.mark.slow
@pytest.mark.quick(footprint=["3sigma"])
@pytest.mark.parametrize(
    ("scene", "capacity", "footprint"),
    [(CROWDED, 1, "exact"), (CROWDED, 1, "3sigma"), (CAMERAS, 50, "exact")],
    ids=["exact", "3sigma", "cameras"],
)
def test_small_capacity_against_the_reference(cuda_host, dtype, scene, capacity, footprint):
    config = jgd.Config(capacity=capacity, footprint=footprint)
    asserts.check_render(scene, dtype, name=f"capacity {capacity}", config=config)


@pytest.mark.quick(capacity=[1])
@pytest.mark.parametrize("capacity", [None, 1])
def test_many_channels_with_few_listed(cuda_host, dtype, capacity):
    scene = scenes.dense(channels=7)
    config = jgd.Config(capacity=capacity)
    asserts.check_render(scene, dtype, name="7 channels", config=config)


@pytest.mark.slow
def test_more_than_31_bits_of_pairs(cuda_host):
    """In a row of tiles that every Gaussian covers; the nearest three end every pixel."""
    width, n = 2**18, 132_000
    ones = np.ones(n, np.float32)
    order = np.arange(n, dtype=np.int32)
    splats = jgd.Splats(
        means2d=np.stack([width / 2 * ones, 0.5 * ones], 1),
        depths=1 + order.astype(np.float32),
        conics=np.stack([1e-16 * ones, 0 * ones, ones], 1),
        opacities=0.95 * ones,
        radii=np.full(n, width, np.int32),
    )
    colors = np.where(order[:, None] < 3, 1, 7).astype(np.float32)
    config = jgd.Config(capacity=1)
    out = jgd.blend(splats, colors, order, width=width, height=1, config=config)
    assert n * (width // 16) > 2**31 and out.n_isects == 2**31 - 1
    assert out.n_isects_listed == width // 16  # the nearest Gaussian; then every tile searches
    np.testing.assert_allclose(out.image, 1 - 0.05**3, rtol=1e-6)


# ------------------------------------------------------------------------------- order of execution


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "absgrad"),
    [(jgd.Config(), False), (jgd.Config(capacity=40), True)],
    ids=["listed", "few"],
)
def test_order_of_threads_does_not_matter(cuda_host, dtype, config, absgrad):
    """Images always, gradients if deterministic; otherwise sums of atomics differ by rounding."""
    scene = scenes.dense(cameras=2)
    sums = jgd.Config(**vars(config) | {"deterministic": True})

    def seeded(seed, config):
        cuda_host.jgd_cuda_host_set_seed(seed)
        return run(scene, dtype, config=config, absgrad=absgrad, color="sh")

    first, exact = seeded(0, config), seeded(0, sums)
    same_trees(exact[:1], first[:1], "deterministic")
    for seed in range(1, 6):
        other = seeded(seed, config)
        same_trees(other[:1], first[:1], f"seed {seed}")
        for k, v in first[1].items():
            close_l2(other[1][k], v, 2e-6 if dtype == np.float32 else 1e-14, f"seed {seed} {k}")
        other = seeded(seed, sums)
        same_trees(other, exact, f"deterministic, seed {seed}")


@pytest.mark.quick(capacity=[1], deterministic=[False])
@pytest.mark.parametrize("capacity", [None, 1], ids=["listed", "few"])
@pytest.mark.parametrize("deterministic", [False, True], ids=["atomics", "deterministic"])
def test_old_content_of_the_workspace_does_not_matter(cuda_host, capacity, deterministic):
    """NaN and -1, which kernels use as marks of their own, or 0, which is a rank and an id."""
    scene = scenes.dense(cameras=2)
    config = jgd.Config(capacity=capacity, deterministic=deterministic)
    try:
        for byte in (0, 0xFF):
            cuda_host.jgd_cuda_host_set_garbage(byte)
            asserts.check_render(scene, np.dtype("float32"), name=f"byte {byte}", config=config)
    finally:
        cuda_host.jgd_cuda_host_set_garbage(-1)


@pytest.mark.slow
@pytest.mark.quick(scene=["boundary"])
@pytest.mark.parametrize("scene", ["dense", "boundary", "saturated", "ties"])
def test_deterministic_gradients_against_the_reference(cuda_host, dtype, scene):
    config = jgd.Config(deterministic=True, antialiased=True)
    scene = getattr(scenes, scene)()
    asserts.check_render(scene, dtype, name="deterministic", config=config, color="sh")


@pytest.mark.quick(output=["weight"])
@pytest.mark.parametrize("output", OUTPUTS)
def test_deterministic_gradient_of_each_output_alone(cuda_host, dtype, output):
    config = asserts.SAME_BITS
    asserts.check_blend(scenes.saturated(), dtype, output, outputs=(output,), config=config)


@pytest.mark.slow
def test_calls_at_the_same_time(cuda_host):
    """XLA runs handlers on any of its threads; each has a machine of its own."""
    cases = [scenes.dense(), scenes.saturated(cameras=2), scenes.dense(seed=30), scenes.ties()]

    def one(scene):
        return run(scene, np.float32, config=asserts.SAME_BITS)

    alone = [one(scene) for scene in cases]
    with concurrent.futures.ThreadPoolExecutor(len(cases)) as pool:
        for _ in range(3):
            for together, expected in zip(pool.map(one, cases), alone, strict=True):
                same_trees(together, expected, "together")


# ---------------------------------------------------------------------------------- the CPU backend


@pytest.mark.parametrize("form", ["colors quats", "sh covars6"])
def test_agrees_with_the_cpu_to_rounding(cuda_host, dtype, form):
    color, shape = form.split()
    scene = scenes.boundary(cameras=3)
    config = asserts.SAME_BITS
    form = {"color": color, "shape": shape}
    out, grads = run(scene, dtype, config=config, **form)
    with stand_in(""):
        expected, expected_grads = run(scene, dtype, config=config, **form)
    for k in ("radii", "n_isects"):
        same_bits(out[k], expected[k], k)
    ulp = np.finfo(dtype).eps
    for k in OUTPUTS:
        close(out[k], expected[k], 8 * ulp, k)
    for k, v in expected_grads.items():
        close_l2(grads[k], v, 100 * ulp, k)


# --------------------------------------------------------------------------------- cameras and vmap


@pytest.mark.quick(per_camera=[("colors", "background")])
@pytest.mark.parametrize("per_camera", [(), ("colors",), ("background",), ("colors", "background")])
def test_colors_and_backgrounds_of_cameras_with_atomics(cuda_host, dtype, per_camera):
    scene = scenes.dense(cameras=3)
    inputs = asserts.blend_inputs(scene, dtype)
    for k in per_camera:
        inputs[k] = np.stack([inputs[k], 0.75 * inputs[k], 1.25 * inputs[k]]).astype(dtype)
    asserts.check_blend(scene, dtype, f"{per_camera}", inputs=inputs)


SCENE, CAMERA = yardstick.SCENE, yardstick.CAMERA
LEVELS = {
    "scenes": [(SCENE, 2)],
    "cameras": [(CAMERA, 2)],
    "scenes of cameras": [(SCENE, 2), (CAMERA, 3)],
    "different halves": [(("sh", "v_image"), 2), (("opacities", "v_weight"), 2)],
    "size one inside": [(("background", "means2d_offset"), 2), (CAMERA, 1)],
}


@pytest.mark.quick(name=["scenes of cameras"], cameras=[2])
@pytest.mark.parametrize("cameras", [None, 2], ids=["one camera", "camera axis"])
@pytest.mark.parametrize("name", LEVELS)
def test_vmap_equals_loop(cuda_host, name, cameras):
    levels, config = LEVELS[name], asserts.SAME_BITS
    inputs, size = yardstick.small(cameras=cameras)
    inputs = yardstick.spread_levels(inputs, levels)

    def one(x):
        return yardstick.forward_and_vjp(x, size, config)

    mapped = jax.jit(yardstick.nest(one, inputs, levels))(inputs)
    for index in yardstick.indices(levels):
        expected = yardstick.single(yardstick.example(inputs, levels, index), size, config)
        yardstick.same_tree(yardstick.at(mapped, index), expected, f"{name} {index}")


# ---------------------------------------------------------------------------------------- bad calls


@pytest.mark.quick(deterministic=[False])
@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("capacity", [1, None])
def test_garbage_order_stays_in_its_arrays(cuda_host, dtype, capacity, deterministic):
    scene = scenes.random_scene(40, 37, 35, bases=9, sigma_px=(0.6, 9.0))
    splats, isects = jax.tree.map(np.asarray, projected(scene, dtype))
    colors, order = scene.colors.astype(dtype), isects.order
    rng = np.random.default_rng(0)
    config = jgd.Config(capacity=capacity, deterministic=deterministic)
    shape = {"width": scene.width, "height": scene.height, "config": config}

    @jax.jit
    def total_and_grads(splats, colors, order):
        def total(means2d, colors):
            moved = jgd.Splats(**vars(splats) | {"means2d": means2d})
            out = jgd.blend(moved, colors, order, **shape)
            return out.image.sum() + out.depth.sum() + out.weight.sum()

        return jax.value_and_grad(total, (0, 1))(splats.means2d, colors)

    garbage = [np.full_like(order, v) for v in (-1, 40, 2**31 - 1, -(2**31), 0)]
    garbage += [rng.integers(-50, 50, order.shape, np.int32), rng.permutation(order)]
    for one in garbage:
        for radius in (None, -1, 2**31 - 1, 1):
            radii = splats.radii if radius is None else np.full_like(splats.radii, radius)
            bad = jgd.Splats(**vars(splats) | {"radii": radii})
            total, grads = total_and_grads(bad, colors, one)
            assert np.isfinite(total) and all(np.isfinite(g).all() for g in grads)


def test_too_small_workspace_is_an_error(cuda_host, monkeypatch):
    size = _primitive._workspace_bytes
    targets = ("project_bwd", "shade_bwd", "bin_fwd", "blend_fwd", "blend_bwd")
    for capacity, target in enumerate(targets, start=1234):  # traced for each target

        def one_less(name, *args, short=f"jgd_{target}"):
            return size(name, *args) - (name == short)

        monkeypatch.setattr(_primitive, "_workspace_bytes", one_less)
        config = jgd.Config(capacity=capacity)
        with pytest.raises(jax.errors.JaxRuntimeError, match="workspace is too small"):
            run(scenes.smooth(), np.float32, config=config, color="sh")


# ----------------------------------------------------------------------------- the emulation itself


@pytest.fixture(scope="module")
def toy(cache_folder):
    """Run a kernel of cuda_host/toy.cu: its input, result and error."""
    if build.COMPILER is None:
        pytest.skip("no C++ compiler found (CXX, g++, c++, clang++)")
    lib = load(build.build_toy(cache_folder / "cuda_host"))
    values = np.random.default_rng(0).integers(0, 1000, 1024).astype(np.int32)
    values[3] = 7

    def call(kernel, seed=0):
        lib.jgd_cuda_host_set_seed(seed)
        out, message = np.zeros(2048, np.int32), ctypes.create_string_buffer(1000)
        pointers = [x.ctypes.data_as(ctypes.c_void_p) for x in (values, out)]
        lib.run_toy(kernel.encode(), ctypes.c_int64(8), *pointers, message)
        return values, out, message.value.decode()

    return call


def results(toy, kernel):
    """The different results of ten seeds; each seed gives its own again."""
    runs = [toy(kernel, seed) for seed in range(10)]
    assert not any(message for _, _, message in runs)
    same_bits(toy(kernel, 4)[1], runs[4][1], kernel)
    return {out.tobytes() for _, out, _ in runs}


@pytest.mark.quick(kernel=["reverse"])
@pytest.mark.parametrize("kernel", ["reverse", "sum_parts", "broadcast"])
def test_missing_synchronisation_shows(toy, kernel):
    assert len(results(toy, kernel)) == 1
    assert len(results(toy, f"{kernel}, unsynchronised")) > 1


def test_words_of_a_warp(toy):
    assert len(results(toy, "words")) == 1
    values, out, _ = toy("words")
    warps = values.reshape(-1, 32)
    odd = warps % 2
    rank = odd.cumsum(1) - odd
    np.testing.assert_array_equal(out[:8], warps.reshape(8, -1).sum(1))
    expected = warps.cumsum(1) + 1000 * rank + warps[:, 3:4]
    np.testing.assert_array_equal(out[8 : 8 + 1024], expected.ravel())


@pytest.mark.parametrize(
    ("kernel", "words"),
    [
        ("divergent ballot", "divergent ballot, block .* wait in ballot of line"),
        ("two ballots", "two ballots, block .*are in ballot of line .* and in ballot of line"),
        ("divergent barrier", "divergent barrier, block 0: .*127 wait in sync_block of line"),
        ("overrun", "overrun, block .*: thread 127 accesses memory outside of its arrays"),
    ],
)
def test_threads_that_misbehave_are_an_error(toy, kernel, words):
    assert re.search(words, toy(kernel)[2])
    assert len(results(toy, "words")) == 1, "the next launch starts anew"
