"""Tests the blend stage against the reference: values, gradients, channels, cameras, absgrad."""

import numpy as np
import pytest
from helpers import reference, scenes
from helpers.asserts import (
    BLEND_FLOATS,
    OUTPUTS,
    SAME_BITS,
    Size,
    blend_call,
    blend_inputs,
    check_blend,
    check_gradients,
    check_images,
    close_l2,
    expect,
    image_cotangents,
    library,
    same_bits,
    settings,
)
from helpers.tolerances import bound

import jax_gsplat_depth as jgd


@pytest.mark.quick(scene=["boundary", "saturated"])
@pytest.mark.parametrize("scene", ["smooth", "dense", "boundary", "saturated", "big", "ties"])
def test_values_and_gradients(every_backend, dtype, scene):
    check_blend(getattr(scenes, scene)(), dtype, scene)


@pytest.mark.quick(output=["depth"])
@pytest.mark.parametrize("output", OUTPUTS)
def test_gradient_of_each_output_alone(every_backend, dtype, output):
    _, grads = check_blend(scenes.saturated(), dtype, output, outputs=(output,))
    assert grads["colors"].any() == (output == "image")
    assert grads["background"].any() == (output == "image")
    assert grads["depths"].any() == (output == "depth")


@pytest.mark.quick(channels=[1, 4])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7, 16, 33])
def test_channels(every_backend, dtype, channels):
    check_blend(scenes.dense(channels=channels), dtype, f"{channels} channels")


def test_channels_are_independent(backend, dtype):
    scene = scenes.dense(channels=16)
    inputs, size = blend_inputs(scene, dtype), Size(scene.width, scene.height)
    out, _ = library(blend_call, (size, jgd.Config()), inputs, {})
    for part in (slice(0, 1), slice(3, 6), slice(5, 12)):
        few = {k: inputs[k][..., part] for k in ("colors", "background")}
        some, _ = library(blend_call, (size, jgd.Config()), {**inputs, **few}, {})
        np.testing.assert_allclose(some["image"], out["image"][..., part], rtol=1e-5, atol=1e-6)
        same_bits(some["weight"], out["weight"], "weight")
        same_bits(some["depth"], out["depth"], "depth")


@pytest.mark.slow
def test_three_sigma_footprint(every_backend, dtype):
    config = jgd.Config(footprint="3sigma")
    check_blend(scenes.saturated(), dtype, "3sigma", config=config)
    # Its square ends in the first tile, where its alpha at the first pixel of the next is 0.011.
    size = Size(40, 20)
    cut = {
        "means2d": [[4.4, 9.1]],
        "depths": [2.0],
        "conics": [[1 / 16, 0, 1 / 16]],
        "splat_opacities": [1.0],
        "colors": [[0.5, 0.6]],
        "background": [0.1, 0.2],
    }
    cut = {k: np.asarray(v, np.float32).astype(dtype) for k, v in cut.items()}
    cut["radii"] = np.array([12], np.int32)
    out, _ = check_blend(size, dtype, "3sigma cut", config=config, inputs=cut)
    exact, _ = check_blend(size, dtype, "exact, not cut", inputs=cut)
    assert exact["weight"][9, 16] > 0.01 and out["weight"][9, 16] == 0
    same_bits(out["weight"][:, :16], exact["weight"][:, :16], "first tiles")


def test_tiles_do_not_show(backend, dtype):
    """Cropping by whole and by odd numbers of pixels moves the tile grid, not the image."""
    scene = scenes.random_scene(60, 80, 64, seed=9, sigma_px=(2.0, 25.0))
    inputs, config = blend_inputs(scene, dtype), jgd.Config()
    whole, _ = library(blend_call, (Size(80, 64), config), inputs, {})
    band = reference.evaluate(reference.blend_stage, inputs, settings(scene, config))["band"]
    limit = 1e-4 if dtype == np.float32 else 1e-12
    for dx, dy in ((16, 16), (7, 0), (5, 11), (33, 20)):
        moved = {**inputs, "means2d": inputs["means2d"] - np.array([dx, dy], dtype)}
        part, _ = library(blend_call, (Size(80 - dx, 64 - dy), config), moved, {})
        for k in OUTPUTS:
            difference = np.abs(part[k] - whole[k][dy:, dx:])[~band[dy:, dx:]]
            assert difference.max() < limit, k


@pytest.mark.slow
@pytest.mark.quick(per_camera=[("colors", "background")])
@pytest.mark.parametrize("per_camera", [(), ("colors",), ("background",), ("colors", "background")])
def test_camera_axis_is_a_loop(every_backend, dtype, per_camera):
    scene = scenes.dense(cameras=3)
    inputs = blend_inputs(scene, dtype)
    for k in per_camera:
        inputs[k] = np.stack([inputs[k], 0.75 * inputs[k], 1.25 * inputs[k]]).astype(dtype)
    out, grads = check_blend(scene, dtype, f"cameras {per_camera}", inputs=inputs, config=SAME_BITS)
    size, config = Size(scene.width, scene.height), SAME_BITS
    _, _, cotangents = expect(
        reference.blend_stage, inputs, image_cotangents(inputs, size), settings(scene, config)
    )
    total = {}
    for c in range(3):
        one = {
            k: v[c] if k in per_camera or k not in ("colors", "background") else v
            for k, v in inputs.items()
        }
        part = {k: v[c] for k, v in cotangents.items()}
        alone, grads_c = library(blend_call, (size, config), one, part)
        for k in OUTPUTS:
            same_bits(out[k][c], alone[k], k)
        for k, v in grads_c.items():
            if v.shape == grads[k].shape:
                total[k] = total[k] + v if c else v
            else:
                same_bits(grads[k][c], v, k)
    assert total.keys() == {"colors", "background"} - set(per_camera)
    for k, v in total.items():
        same_bits(grads[k], v, k)


def absgrad_call(inputs, size, config):
    fields = {k: inputs[k] for k in ("means2d", "depths", "conics", "radii")}
    splats = jgd.Splats(**fields, opacities=inputs["splat_opacities"])
    shape = {"width": size.width, "height": size.height, "config": config}
    order = jgd.bin(splats, **shape).order
    out = jgd.blend(
        splats,
        inputs["colors"],
        order,
        background=inputs["background"],
        absgrad_probe=inputs["probe"],
        **shape,
    )
    return vars(out)


@pytest.mark.quick(cameras=[2])
@pytest.mark.parametrize("cameras", [None, 2])
def test_absgrad_probe(every_backend, dtype, cameras):
    scene = scenes.boundary(cameras=cameras)
    config = jgd.Config()
    inputs, static = blend_inputs(scene, dtype), settings(scene, config)
    size = Size(scene.width, scene.height)
    expected, wanted, cotangents = expect(
        reference.blend_stage, inputs, image_cotangents(inputs, size), static
    )
    args = (size, config)
    probe = np.zeros_like(inputs["means2d"])
    out, grads = library(absgrad_call, args, {**inputs, "probe": probe}, cotangents)
    check_images("blend", out, expected, dtype, "absgrad")
    absolute = reference.absgrad(reference.blend_stage, inputs, cotangents, static)
    limit = bound("blend", "gradient", dtype)
    close_l2(grads.pop("probe"), absolute, limit, "absgrad probe")
    # The probe leaves every other gradient as it is.
    check_gradients("blend", grads, wanted, dtype, "absgrad")


def test_culled_entries_may_hold_anything(every_backend, dtype):
    scene = scenes.dense()
    inputs = blend_inputs(scene, dtype)
    culled = np.arange(120) % 3 == 0
    inputs["radii"] = np.where(culled, 0, inputs["radii"]).astype(np.int32)
    out, grads = check_blend(scene, dtype, "culled", inputs=inputs, config=SAME_BITS)
    garbage = {k: v.copy() for k, v in inputs.items()}
    for k in ("means2d", "depths", "conics", "splat_opacities", "colors"):
        garbage[k][culled] = np.nan
        assert not grads[k][culled].any()
    static = settings(scene, SAME_BITS)
    size = Size(scene.width, scene.height)
    _, _, cotangents = expect(reference.blend_stage, inputs, image_cotangents(inputs, size), static)
    args = (size, SAME_BITS)
    same, same_grads = library(blend_call, args, garbage, cotangents)
    for k in OUTPUTS:
        same_bits(same[k], out[k], k)
    for k in BLEND_FLOATS:
        same_bits(same_grads[k], grads[k], k)


@pytest.mark.slow
def test_list_much_longer_than_any_batch(every_backend, dtype):
    """Faint wide Gaussians, so that no pixel stops early and none is near the cutoff."""
    n = 1200
    rng = np.random.default_rng(0)
    inputs = {
        "means2d": rng.uniform(-2, 18, (n, 2)),
        "depths": 1 + rng.permutation(n) / n,
        "conics": np.tile([5e-4, 1e-4, 6e-4], (n, 1)),
        "splat_opacities": rng.uniform(0.006, 0.007, n),
        "colors": rng.uniform(0, 1, (n, 3)),
        "background": np.array([0.1, 0.2, 0.3]),
    }
    inputs = {k: np.asarray(v, np.float32).astype(dtype) for k, v in inputs.items()}
    inputs["radii"] = np.full(n, 150, np.int32)
    out, _ = check_blend(Size(15, 13), dtype, "one tile", inputs=inputs)
    assert out["weight"].min() > 0.99


def test_no_gaussians(every_backend, dtype):
    scene = scenes.empty()
    inputs, size = blend_inputs(scene, dtype), Size(scene.width, scene.height)
    cotangents = {
        "image": np.ones((18, 21, 3)),
        "depth": np.ones((18, 21)),
        "weight": np.ones((18, 21)),
    }
    out, grads = library(blend_call, (size, jgd.Config()), inputs, cotangents)
    assert (out["image"] == inputs["background"]).all()
    assert not out["depth"].any() and not out["weight"].any()
    assert (grads["background"] == 18 * 21).all()
    assert grads["colors"].shape == (0, 3)
