"""Tests static settings, dtypes, JAX's own switches, the stages by hand, and no Gaussians."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import scenes
from helpers.asserts import Size, same_bits
from helpers.yardstick import (
    CAMERA,
    COTANGENTS,
    OUTPUTS,
    SCENE,
    at,
    empty_checks,
    forward,
    forward_and_vjp,
    loss,
    nest,
    same_tree,
    single,
    small,
    spread,
)

import jax_gsplat_depth as jgd

# ------------------------------------------------------------------------------- settings


@pytest.mark.slow
def test_two_configs_in_one_process():
    inputs, size = small()
    configs = [
        jgd.Config(),
        jgd.Config(eps2d=0),
        jgd.Config(eps2d=1),
        jgd.Config(near_plane=4),
        jgd.Config(far_plane=4),
        jgd.Config(footprint="3sigma"),
        jgd.Config(antialiased=True),
        jgd.Config(sh_convention="e3nn"),
    ]
    first = [single(inputs, size, config) for config in configs]
    images = {np.asarray(x["image"]).tobytes() for x in first}
    # The 3-sigma footprint alone may leave a small picture as it is.
    assert len(images) >= len(configs) - 1
    for _ in range(2):
        for config, expected in zip(configs, first, strict=True):
            same_tree(forward_and_vjp(inputs, size, config), expected, str(config))
            as_numpy = dataclasses.replace(
                config, eps2d=np.float32(config.eps2d), near_plane=np.float64(config.near_plane)
            )
            if as_numpy == config:
                same_tree(forward_and_vjp(inputs, size, as_numpy), expected, str(config))


@pytest.mark.slow
def test_x64_on_and_off():
    inputs, size = small()
    before = single(inputs, size)
    with jax.enable_x64(True):
        same_tree(single(inputs, size), before, "float32 with x64")
        same_tree(forward_and_vjp(inputs, size), before, "eager float32 with x64")
        double = single({k: v.astype(np.float64) for k, v in inputs.items()}, size)
        assert all(v.dtype == np.float64 for v in double.values())
        radii = [
            jgd.render(*scenes.build({k: v.astype(d) for k, v in inputs.items()}, size)).radii
            for d in (np.float32, np.float64)
        ]
        assert radii[0].dtype == radii[1].dtype == np.int32
    for k, v in before.items():
        assert v.dtype == np.float32
        error = np.linalg.norm(np.asarray(v) - np.asarray(double[k]))
        assert error <= 1e-4 * np.linalg.norm(double[k]), k
    same_tree(single(inputs, size), before, "float32 again")
    same_tree(forward_and_vjp(inputs, size), before, "eager float32 again")


@pytest.mark.parametrize("promotion", ["standard", "strict"])
@pytest.mark.parametrize("rank", ["allow", "raise"])
def test_promotion_settings(promotion, rank):
    inputs, size = small(cameras=2)
    expected = single(inputs, size)
    with jax.numpy_dtype_promotion(promotion), jax.numpy_rank_promotion(rank):
        same_tree(jax.jit(lambda x: forward_and_vjp(x, size))(inputs), expected)


def test_debug_nans():
    scene = scenes.boundary()
    size = Size(scene.width, scene.height)
    inputs = {k: jnp.asarray(v) for k, v in scene.inputs(np.float32, color="sh").items()}
    shape = (size.height, size.width)
    ones = {
        "v_image": jnp.ones((*shape, 3)),
        "v_depth": jnp.ones(shape),
        "v_weight": jnp.ones(shape),
    }
    with jax.debug_nans(True):
        result = forward_and_vjp(inputs | ones, size)
    assert all(np.isfinite(v).all() for v in result.values())


# ----------------------------------------------------------------------------- the stages


def by_stages(inputs, size, config):
    """``render`` written out, without the offset."""
    gaussians, camera = scenes.build(inputs, size)
    shape = dataclasses.asdict(size)
    splats = jgd.project(gaussians, camera, config=config)
    colors = jgd.shade(gaussians, camera, config=config)
    order = jgd.bin(splats, **shape, config=config).order
    out = jgd.blend(splats, colors, order, **shape, background=inputs["background"], config=config)
    return {name: getattr(out, name) for name in OUTPUTS}


@pytest.mark.parametrize("cameras", [None, 2])
def test_stages_equal_render(cameras):
    inputs, size = small(cameras=cameras)
    del inputs["means2d_offset"]
    config = jgd.Config()
    expected = single(inputs, size, config)
    primals = {k: v for k, v in inputs.items() if k not in COTANGENTS}

    @jax.jit
    def run(primals):
        out, pullback = jax.vjp(lambda x: by_stages(x, size, config), primals)
        (grads,) = pullback({name: inputs[f"v_{name}"] for name in OUTPUTS})
        return out | {f"grad {k}": v for k, v in grads.items()}

    same_tree(run(primals), expected)


def test_vmap_of_blend_over_colors_alone():
    inputs, size = small()
    gaussians, camera = scenes.build(inputs, size)
    shape = dataclasses.asdict(size)
    splats = jgd.project(gaussians, camera)
    order = jgd.bin(splats, **shape).order
    colors = jnp.asarray(np.random.default_rng(0).uniform(size=(3, 30, 5)), np.float32)

    def image(colors):
        return jgd.blend(splats, colors, order, **shape).image

    images = jax.jit(jax.vmap(image))(colors)
    for i in range(3):
        same_bits(images[i], jax.jit(image)(colors[i]), str(i))


def test_bin_is_not_differentiated():
    inputs, size = small()
    gaussians, camera = scenes.build(inputs, size)

    def f(gaussians):
        splats = jgd.project(gaussians, camera)
        order = jgd.bin(splats, **dataclasses.asdict(size)).order
        return splats.depths[order[0]]

    grads = jax.grad(f)(gaussians)
    assert np.any(grads.means) and np.isfinite(grads.means).all()


# ------------------------------------------------------------------------- no Gaussians


@pytest.mark.parametrize("cameras", [None, 2])
def test_no_gaussians(cameras):
    inputs, size = small(cameras=cameras, n=0)
    axes = tuple(range(inputs["v_image"].ndim - 1))
    v_background = np.asarray(inputs["v_image"], np.float64).sum(axes)
    for result in (single(inputs, size), forward_and_vjp(inputs, size)):
        empty_checks(result, inputs)
        np.testing.assert_allclose(result["grad background"], v_background, rtol=1e-5)


def test_no_gaussians_transformed():
    inputs, size = small(n=0)
    levels = [(CAMERA, 2), (SCENE, 3)]
    mapped = spread(spread(inputs, SCENE, 3, 0), CAMERA, 2, 1)
    result = jax.jit(nest(lambda x: forward_and_vjp(x, size), mapped, levels))(mapped)
    for index in itertools.product(range(2), range(3)):
        empty_checks(at(result, index), inputs)
    grads = jax.jit(jax.grad(lambda x: nest(lambda y: loss(y, size), x, levels)(x).sum()))(mapped)
    assert grads["means"].shape == (3, 0, 3) and not np.any(grads["viewmat"])
    grads = jax.jit(jax.grad(jax.checkpoint(lambda x: loss(x, size))))(inputs)
    assert grads["sh"].shape == (0, 4, 3) and np.any(grads["background"])
    _, images = jax.lax.scan(
        lambda c, v: (c, forward(inputs | {"viewmat": v}, size)["image"]), 0, mapped["viewmat"]
    )
    np.testing.assert_array_equal(images, np.broadcast_to(inputs["background"], images.shape))


def test_all_culled_equals_no_gaussians():
    inputs, size = small()
    inputs["opacities"] = jnp.zeros_like(inputs["opacities"])
    empty_checks(single(inputs, size), inputs)
