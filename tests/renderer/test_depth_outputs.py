"""Tests median, inverse and ray depth and the variance against the reference and closed forms."""

import dataclasses

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import reference, scenes
from helpers.asserts import (
    OUTPUTS,
    Size,
    blend_call,
    blend_inputs,
    close,
    close_l2,
    expect,
    image_cotangents,
    library,
    make_cotangents,
    render_call,
    same_bits,
    settings,
    within,
)
from helpers.tolerances import bound
from test_poisoned import assert_finite

import jax_gsplat_depth as jgd

# float64 is slow to compile: by default other files cover it.
pytestmark = pytest.mark.quick(dtype=["float32"])

ALONE = [
    {"depth": "inverse"},
    {"depth": "median"},
    {"ray_depth": True},
    {"depth_variance": True},
]
TOGETHER = [
    {"depth": kind, "ray_depth": True, "depth_variance": True}
    for kind in ("expected", "median", "inverse")
]


def outputs_of(config):
    """The float outputs that a config fills."""
    return (*OUTPUTS, "depth_variance") if config.depth_variance else OUTPUTS


def cotangents_of(inputs, size, config):
    """Cotangents of all outputs."""
    cotangents = image_cotangents(inputs, size)
    if config.depth_variance:
        shape = {"depth_variance": cotangents["depth"].shape}
        cotangents |= make_cotangents(shape, seed=1)
    return cotangents


def check(scene, dtype, options, *, outputs=None, inputs=None, function=render_call, **form):
    """Values and gradients against the reference; returns the library's."""
    config = jgd.Config(**options)
    names = outputs_of(config)
    inputs = scene.inputs(dtype, **form) if inputs is None else inputs
    size, static = Size(scene.width, scene.height), settings(scene, config)
    stage = reference.render if function is render_call else reference.blend_stage
    args = (size, config, None) if function is render_call else (size, config)
    cotangents = cotangents_of(inputs, size, config)
    expected, wanted, used = expect(stage, inputs, cotangents, static, outputs or names)
    out, grads = library(function, args, inputs, used)
    keep = ~expected["band"]
    assert keep.mean() > 0.8
    kind = "depth variance" if config.depth_variance else "render"
    for k in names:
        assert out[k].dtype == dtype
        if k != "depth_variance":
            close(out[k], expected[k], bound("render", "value", dtype), f"{options} {k}", keep)
        elif keep.any():
            assert np.isfinite(out[k]).all()
            error = np.abs(out[k] - expected[k])[keep].max()
            scale = max(expected[k][keep].max(), squared_extent(inputs, expected))
            within(error, bound(kind, "value", dtype), scale, f"{options} {k}")
    assert ("depth_variance" in out) == config.depth_variance
    if config.depth_variance:
        assert (out["depth_variance"] >= 0).all()
    assert grads.keys() == wanted.keys()
    for k, v in grads.items():
        assert v.dtype == dtype
        close_l2(v, wanted[k], bound(kind, "gradient", dtype), f"{options} grad {k}")
    return out, grads


def squared_extent(inputs, expected):
    """The square of half the range of depths that are drawn."""
    z, radii = inputs.get("depths"), expected.get("radii", inputs.get("radii"))
    if z is None:
        view = inputs["viewmat"].astype(np.float64)
        z = view[..., 2, :3] @ inputs["means"].T + view[..., 2, 3:]
    z = z[radii > 0]
    return np.square(np.ptp(z) / 2) if z.size else 0


@pytest.mark.quick(options=[TOGETHER[2]])
@pytest.mark.parametrize("options", ALONE + TOGETHER, ids=str)
def test_values_and_gradients(every_backend, dtype, options):
    out, grads = check(scenes.dense(), dtype, options)
    assert grads["K"].any() and grads["means"].any() and grads["background"].any()
    assert out["depth"].any()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scene", "options"),
    [
        ("smooth", ALONE[1]),
        ("boundary", TOGETHER[0]),
        ("boundary", TOGETHER[2]),
        ("saturated", TOGETHER[2]),
    ],
    ids=str,
)
def test_scenes_with_cameras(every_backend, dtype, scene, options):
    scene = getattr(scenes, scene)(cameras=2)
    out, _ = check(scene, dtype, options, color="sh")
    assert out["depth"].shape == (2, scene.height, scene.width)


@pytest.mark.quick(output=["depth_variance"])
@pytest.mark.parametrize(
    ("options", "output"),
    [
        ({"depth": "median"}, "depth"),
        ({"depth": "inverse"}, "depth"),
        ({"depth_variance": True}, "depth_variance"),
        ({"depth_variance": True}, "depth"),
    ],
    ids=str,
)
def test_gradient_of_one_output(backend, dtype, options, output):
    _, grads = check(scenes.dense(), dtype, options, outputs=(output,))
    assert not grads["colors"].any() and not grads["background"].any()
    assert grads["opacities"].any() == (options != {"depth": "median"})


@pytest.mark.slow
@pytest.mark.quick(options=[TOGETHER[1]])
@pytest.mark.parametrize("options", [TOGETHER[1], TOGETHER[2]], ids=str)
def test_three_sigma_footprint(every_backend, dtype, options):
    check(scenes.dense(), dtype, options | {"footprint": "3sigma"})


@pytest.mark.slow
@pytest.mark.parametrize("options", [TOGETHER[1], TOGETHER[2]], ids=str)
@pytest.mark.parametrize("size", [(1, 1), (17, 15), (40, 1)])
def test_image_sizes(every_backend, dtype, size, options):
    check(scenes.random_scene(40, *size, seed=8, focal=20 / size[1]), dtype, options)


@pytest.mark.quick(channels=[7])
@pytest.mark.parametrize("channels", [1, 2, 7])
def test_channels(every_backend, dtype, channels):
    check(scenes.dense(channels=channels), dtype, TOGETHER[2])


@pytest.mark.slow
@pytest.mark.parametrize("capacity", [1, None])
def test_lists_that_are_too_short(every_backend, dtype, capacity):
    check(scenes.dense(), dtype, TOGETHER[1] | {"capacity": capacity, "deterministic": True})


@pytest.mark.quick(options=[TOGETHER[1]], what=["no Gaussians"])
@pytest.mark.parametrize("options", ALONE + TOGETHER, ids=str)
@pytest.mark.parametrize("what", ["no Gaussians", "all behind"])
def test_nothing_visible(every_backend, dtype, what, options):
    scene = scenes.empty() if what == "no Gaussians" else scenes.smooth()
    if what == "all behind":
        view = scene.viewmat.copy()
        view[2, 3] -= 20
        scene = scene.replace(viewmat=view)
    out, grads = check(scene, dtype, options)
    for k in outputs_of(jgd.Config(**options))[1:]:
        assert not out[k].any()
    assert not any(g.any() for k, g in grads.items() if k != "background")


@pytest.mark.slow
@pytest.mark.parametrize("options", ALONE + TOGETHER, ids=str)
def test_the_rest_stays_as_it_is(every_backend, dtype, options):
    scene = scenes.saturated(cameras=2)
    gaussians, camera = scene.gaussians(dtype), scene.camera(dtype)
    usual = jgd.render(gaussians, camera)
    other = jgd.render(gaussians, camera, config=jgd.Config(**options))
    assert usual.depth_variance is None
    same = ["image", "weight", "radii", "n_isects", "n_isects_listed"]
    if options.keys() == {"depth_variance"}:
        same.append("depth")
    for k in same:
        same_bits(getattr(other, k), getattr(usual, k), k)


# ------------------------------------------------------------------------------------- closed forms

DEPTHS, ALPHAS = np.array([2.0, 3.0, 5.0, 9.0]), np.array([0.3, 0.4, 0.5, 0.2])


def on_the_axis(alphas, dtype, u=0.5):
    """Gaussians whose centres the pixel at ``u`` sees behind each other; focal length 2."""
    n = len(alphas)
    direction = np.array([(u - 0.5) / 2, 0, 1])
    gaussians = jgd.Gaussians(
        jnp.asarray(DEPTHS[:n, None] * direction, dtype),
        covars=jnp.asarray(np.tile([1.0, 0, 0, 1, 0, 1], (n, 1)), dtype),
        opacities=jnp.asarray(alphas, dtype),
        colors=jnp.ones((n, 1), dtype),
    )
    K = jnp.asarray([[2, 0, 0.5], [0, 2, 0.5], [0, 0, 1]], dtype)
    viewmat = jnp.eye(4, dtype=dtype)
    return gaussians, jgd.Camera(viewmat, K, width=int(u + 0.5), height=1)


@pytest.mark.slow
@pytest.mark.parametrize("u", [0.5, 3.5])
@pytest.mark.parametrize("ray", [False, True])
def test_closed_forms(every_backend, dtype, ray, u):
    gaussians, camera = on_the_axis(ALPHAS, dtype, u)
    w = ALPHAS * np.cumprod(np.append(1, 1 - ALPHAS))[:-1]
    length = np.hypot((u - 0.5) / 2, 1) if ray else 1
    z = DEPTHS * length
    mean = (w * z).sum() / w.sum()
    expected = {
        "expected": mean,
        "inverse": (w / z).sum() / w.sum(),
        "median": z[1],  # 0.7, then 0.42
    }
    for kind, value in expected.items():
        config = jgd.Config(depth=kind, ray_depth=ray, depth_variance=True)
        out = jgd.render(gaussians, camera, config=config)
        np.testing.assert_allclose(out.depth[0, -1], value, rtol=2e-6)
        variance = (w * (z - mean) ** 2).sum() / w.sum()
        np.testing.assert_allclose(out.depth_variance[0, -1], variance, rtol=2e-6)


@pytest.mark.parametrize(
    ("alphas", "expected"),
    [([0.5], 2.0), ([0.49], 0.0), ([0.3, 0.2], 0.0), ([0.99, 0.5], 2.0), ([0.4, 0.99], 3.0)],
)
def test_median_of_few(every_backend, dtype, alphas, expected):
    """Exactly half counts; and the last Gaussian before the pixel ends may be the one."""
    out = jgd.render(*on_the_axis(alphas, dtype), config=jgd.Config(depth="median"))
    np.testing.assert_array_equal(out.depth, [[expected]])


def test_gradient_of_the_median(backend, dtype):
    gaussians, camera = on_the_axis(ALPHAS, dtype)
    config = jgd.Config(depth="median")
    grads = jax.grad(lambda g: jgd.render(g, camera, config=config).depth.sum())(gaussians)
    np.testing.assert_array_equal(grads.means, [[0, 0, 0], [0, 0, 1], [0, 0, 0], [0, 0, 0]])
    assert not grads.opacities.any() and not grads.covars.any()


@pytest.mark.parametrize("depth", ["expected", "inverse"])
def test_variance_of_a_distant_scene(backend, depth):
    """Metres at a kilometre: E[z^2] - E[z]^2 in float32 would be off by 100 %."""
    scene = scenes.dense()
    view = scene.viewmat.copy()
    view[2, 3] += 1000
    K = scene.K.copy()
    K[[0, 1], [0, 1]] *= 200
    out, _ = check_variance(scene.replace(viewmat=view, K=K), depth)
    assert 0 < out["depth_variance"].max() < 30


def check_variance(scene, depth):
    config = jgd.Config(depth=depth, depth_variance=True)
    size, inputs = Size(scene.width, scene.height), scene.inputs(np.float32)
    expected = reference.evaluate(reference.render, inputs, settings(scene, config))
    out, grads = library(render_call, (size, config, None), inputs, {})
    keep = ~expected["band"]
    # The depths of the splats themselves are rounded: 6e-5 at 1000.
    close(out["depth_variance"], expected["depth_variance"], 2e-4, f"distant {depth}", keep)
    return out, grads


def beside_each_other(depths, dtype):
    """Splats for ``blend``, each of which only one pixel of a row sees: pixel 3 i the i-th."""
    n = len(depths)
    splats = jgd.Splats(
        means2d=jnp.stack([3 * jnp.arange(n, dtype=dtype) + 0.5, jnp.full(n, 0.5, dtype)], -1),
        depths=jnp.asarray(depths, dtype),
        conics=jnp.tile(jnp.asarray([[20, 0, 20]], dtype), (n, 1)),
        opacities=jnp.full(n, 0.7, dtype),
        radii=jnp.ones(n, jnp.int32),
    )
    return splats, {"width": 3 * n, "height": 1}


def blended(splats, size, **options):
    config = jgd.Config(**options)
    order = jgd.bin(splats, **size).order
    return jgd.blend(
        splats, jnp.ones((len(splats.depths), 1), splats.depths.dtype), order, **size, config=config
    )


@pytest.mark.quick(far=[1e5])
@pytest.mark.parametrize("far", [1e3, 1e5, 1e7])
def test_far_gaussians_do_not_spoil_the_depth_of_near_ones(backend, far):
    splats, size = beside_each_other([1.2345, far, far, far, far], np.float32)
    out = blended(splats, size, depth_variance=True)
    same_bits(out.depth, blended(splats, size).depth, "depth")
    np.testing.assert_allclose(out.depth[0, 0], 1.2345, rtol=2e-7)


@pytest.mark.slow
def test_variance_of_one_gaussian_is_zero(backend, dtype):
    """It is not the one in the middle that the sums are about."""
    splats, size = beside_each_other([2.0, 3.5, 5.0], dtype)
    variance = blended(splats, size, depth_variance=True).depth_variance
    np.testing.assert_allclose(variance, 0, atol=2e-6 if dtype == np.float32 else 1e-14)

    def sum_of_variance(depths):
        moved = dataclasses.replace(splats, depths=depths)
        return blended(moved, size, depth_variance=True).depth_variance.sum()

    v = jax.grad(sum_of_variance)(splats.depths)
    np.testing.assert_allclose(v, 0, atol=1e-5 if dtype == np.float32 else 1e-13)


@pytest.mark.parametrize("depth", ["expected", "inverse", "median"])
@pytest.mark.slow
def test_absgrad_of_one_pixel_is_the_absolute_gradient(backend, depth):
    scene = scenes.smooth()
    camera, gaussians = scene.camera(np.float32), scene.gaussians(np.float32)
    config = jgd.Config(depth=depth, depth_variance=True, ray_depth=True)

    def loss(watched):
        out = jgd.render(gaussians, camera, **watched, config=config)
        at = (scene.height // 2, scene.width // 2)
        return out.depth[at] + 2 * out.depth_variance[at] + out.image[at].sum()

    zeros = jnp.zeros((scene.n, 2), jnp.float32)
    grads = jax.grad(loss)({"means2d_offset": zeros, "absgrad_probe": zeros})
    signed, absolute = grads["means2d_offset"], grads["absgrad_probe"]
    assert (signed < 0).any()
    np.testing.assert_allclose(absolute, jnp.abs(signed), rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("cameras", [None, 3])
def test_ray_lengths(dtype, cameras):
    scene = scenes.dense(cameras=cameras, width=23, height=11)
    camera = scene.camera(dtype)
    lengths = camera.ray_lengths()
    assert lengths.dtype == dtype and lengths.shape == (*scene.batch, 11, 23)
    rows, columns = np.mgrid[:11, :23] + 0.5
    points = np.stack([columns, rows, np.ones_like(rows)], -1)
    for K, one in zip(
        np.reshape(scene.K, (-1, 3, 3)), np.reshape(lengths, (-1, 11, 23)), strict=True
    ):
        expected = np.linalg.norm(points @ np.linalg.inv(K).T, axis=-1)
        np.testing.assert_allclose(one, expected, rtol=1e-6 if dtype == np.float32 else 1e-14)


@pytest.mark.quick(options=[TOGETHER[2]])
@pytest.mark.parametrize("options", TOGETHER, ids=str)
def test_gradients_are_finite_differences(backend, x64, options):
    scene = scenes.smooth()
    inputs = scene.inputs(np.float64)
    config, size = jgd.Config(**options), Size(scene.width, scene.height)
    cotangents = cotangents_of(inputs, size, config)
    static = settings(scene, config)
    _, _, used = expect(reference.render, inputs, cotangents, static, outputs_of(config))
    args = (size, config, None)
    _, grads = library(render_call, args, inputs, used)

    def loss(x):
        out, _ = library(render_call, args, x, {})
        return sum((out[k] * v).sum() for k, v in used.items())

    rng, h = np.random.default_rng(0), 1e-6
    for name, g in grads.items():
        direction = rng.normal(size=g.shape) * (np.abs(inputs[name]).mean() or 1)
        plus, minus = (loss({**inputs, name: inputs[name] + s * direction}) for s in (h, -h))
        expected = (plus - minus) / (2 * h)
        np.testing.assert_allclose(
            (g * direction).sum(), expected, rtol=5e-6, atol=5e-6, err_msg=name
        )


# ---------------------------------------------------------------------------------- blend, bad data


@pytest.mark.quick(options=[ALONE[1]], cameras=[2])
@pytest.mark.parametrize("options", [ALONE[0], ALONE[1], ALONE[3]], ids=str)
@pytest.mark.parametrize("cameras", [None, 2])
def test_blend(every_backend, dtype, options, cameras):
    scene = scenes.dense(cameras=cameras)
    inputs = blend_inputs(scene, dtype)
    _, grads = check(scene, dtype, options, inputs=inputs, function=blend_call)
    assert grads["depths"].any()


def test_blend_has_no_rays():
    scene = scenes.dense()
    inputs = blend_inputs(scene, np.float32)
    with pytest.raises(ValueError, match="config.ray_depth is True, but blend does not know"):
        blend_call(inputs, Size(scene.width, scene.height), jgd.Config(ray_depth=True))


@pytest.mark.quick(options=[TOGETHER[1]])
@pytest.mark.parametrize("options", TOGETHER[1:], ids=str)
@pytest.mark.parametrize("bad", [np.nan, -np.inf, 1e30])
def test_bad_gaussians_are_not_drawn(backend, dtype, options, bad):
    scene = scenes.dense()
    rows = np.arange(0, scene.n, 5)
    config = jgd.Config(deterministic=True, far_plane=1e25, **options)
    size = Size(scene.width, scene.height)
    results = []
    for value in (bad, None):
        inputs = scene.inputs(dtype)
        if value is None:
            inputs["opacities"][rows] = 0
        else:
            inputs["means"][rows, 2] = value
        cotangents = cotangents_of(inputs, size, config)
        results.append(library(render_call, (size, config, None), inputs, cotangents))
    (out, grads), (expected, _) = results
    assert_finite({k: out[k] for k in outputs_of(config)}, grads)
    for k in outputs_of(config):
        same_bits(out[k], expected[k], k)
    assert not grads["means"][rows].any()


@pytest.mark.quick(options=[TOGETHER[2]])
@pytest.mark.parametrize("options", [TOGETHER[1], TOGETHER[2]], ids=str)
def test_splats_with_bad_depths(every_backend, dtype, options):
    """As far as blending is concerned, any depth may come; also to what is culled."""
    scene = scenes.dense()
    inputs = blend_inputs(scene, dtype)
    bad = [np.nan, np.inf, -np.inf, 0, -3, 1e-42, 1e-25, 1e-19, 1e37]
    for row, value in enumerate(bad):
        inputs["depths"][3 * row] = value
        inputs["depths"][60 + row] = value
    inputs["radii"] = inputs["radii"].copy()
    inputs["radii"][60 : 60 + len(bad)] = 0
    config = jgd.Config(deterministic=True, **{**options, "ray_depth": False})
    size = Size(scene.width, scene.height)
    cotangents = cotangents_of(inputs, size, config)
    out, grads = library(blend_call, (size, config), inputs, cotangents)
    usual, _ = library(blend_call, (size, jgd.Config()), inputs, {})
    same_bits(out["image"], usual["image"], "image")
    same_bits(out["weight"], usual["weight"], "weight")
    # The exact gradients of a splat's shape at a depth of 1e37 do not fit into float32.
    finite = {k: v for k, v in grads.items() if k == "depths" or dtype == np.float64}
    assert_finite({"depth_variance": out["depth_variance"]}, finite)
    assert not grads["depths"][[0, 3, 6]].any()
    assert not grads["depths"][60 : 60 + len(bad)].any()


def with_K(entry, value, dtype, options):
    """Outputs and gradients of a scene with one entry of K changed."""
    scene = scenes.dense()
    inputs = scene.inputs(dtype)
    inputs["K"][entry] = value
    config, size = jgd.Config(**options), Size(scene.width, scene.height)
    cotangents = cotangents_of(inputs, size, config)
    out, grads = library(render_call, (size, config, None), inputs, cotangents)
    return {k: out[k] for k in outputs_of(config)}, grads


@pytest.mark.quick(options=[TOGETHER[1]])
@pytest.mark.parametrize(
    ("entry", "bad"), [((0, 0), np.nan), ((1, 1), np.inf), ((0, 2), 1e25), ((1, 2), -np.inf)]
)
@pytest.mark.parametrize("options", TOGETHER[1:], ids=str)
def test_camera_that_sees_nothing(backend, dtype, options, entry, bad):
    out, grads = with_K(entry, bad, dtype, options)
    assert not out["weight"].any()
    assert not out["depth"].any() and not out["depth_variance"].any()
    assert_finite(out, grads)


@pytest.mark.quick(options=[TOGETHER[2]])
@pytest.mark.parametrize("focal", [0.0, 1e-19])
@pytest.mark.parametrize("options", TOGETHER[1:], ids=str)
def test_camera_without_an_inverse(backend, dtype, options, focal):
    assert_finite(*with_K((0, 0), focal, dtype, options))


def test_unread_entries_of_K_do_not_matter(backend, dtype):
    out, _ = with_K((0, 1), np.nan, dtype, TOGETHER[1])
    usual, _ = with_K((0, 1), 0, dtype, TOGETHER[1])
    for k, v in usual.items():
        same_bits(out[k], v, k)
