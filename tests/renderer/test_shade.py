"""Tests the shade stage against the reference: degrees, conventions, clamp, camera axis."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import reference, scenes
from helpers.asserts import (
    Size,
    check_gradients,
    close,
    expect,
    library,
    make_cotangents,
    same_bits,
    settings,
)
from helpers.tolerances import bound

import jax_gsplat_depth as jgd
from jax_gsplat_depth._shade import shade_checked


def shade_call(inputs, size, config, sh_degree):
    gaussians = jgd.Gaussians(inputs["means"], sh=inputs["sh"])
    K = jnp.broadcast_to(
        jnp.eye(3, dtype=inputs["means"].dtype), (*inputs["viewmat"].shape[:-2], 3, 3)
    )
    camera = jgd.Camera(inputs["viewmat"], K, width=size.width, height=size.height)
    return {"colors": jgd.shade(gaussians, camera, sh_degree=sh_degree, config=config)}


def stage_inputs(scene, dtype):
    inputs = scene.inputs(dtype, color="sh")
    return {k: inputs[k] for k in ("means", "sh", "viewmat")}


def check_shade(scene, dtype, name, *, config=None, sh_degree=None):
    config = config or jgd.Config()
    inputs, static = stage_inputs(scene, dtype), settings(scene, config, sh_degree)
    cotangents = make_cotangents({"colors": (*scene.batch, scene.n, 3)}, seed=21)
    expected, wanted, used = expect(
        reference.shade_stage, inputs, cotangents, static, outputs=("colors",)
    )
    args = (Size(scene.width, scene.height), config, sh_degree)
    out, grads = library(shade_call, args, inputs, used)
    assert out["colors"].dtype == dtype
    close(out["colors"], expected["colors"], bound("shade", "value", dtype), name)
    check_gradients("shade", grads, wanted, dtype, name)
    return out["colors"], grads


@pytest.mark.quick(degree=[0, 4])
@pytest.mark.parametrize("convention", ["3dgs", "e3nn", "e3nn-legacy"])
@pytest.mark.parametrize("degree", range(5))
def test_values_and_gradients(every_backend, dtype, degree, convention):
    scene = scenes.dense(bases=(degree + 1) ** 2)
    config = jgd.Config(sh_convention=convention)
    colors, _ = check_shade(scene, dtype, f"degree {degree} {convention}", config=config)
    assert colors.shape == (120, 3) and (colors > 0).mean() > 0.5


@pytest.mark.quick(degree=[2])
@pytest.mark.parametrize("degree", range(4))
def test_lower_degree_ignores_the_higher_coefficients(backend, dtype, degree):
    scene = scenes.dense(bases=25)
    used = (degree + 1) ** 2
    colors, grads = check_shade(scene, dtype, f"degree {degree} of 4", sh_degree=degree)
    assert grads["sh"][:, :used].any(axis=(0, 2)).all() and not grads["sh"][:, used:].any()
    fewer = dataclasses.replace(scene, sh=scene.sh[:, :used])
    same_bits(colors, check_shade(fewer, dtype, f"degree {degree}")[0], "colors")


def test_degree_0_does_not_depend_on_the_direction(backend, dtype):
    scene = scenes.dense(bases=1)
    colors, grads = check_shade(scene, dtype, "degree 0")
    expected = np.maximum(0.28209479177387814 * scene.sh[:, 0] + 0.5, 0)
    np.testing.assert_allclose(colors, expected, rtol=1e-6)
    assert not grads["means"].any() and not grads["viewmat"].any()


def test_no_gradient_through_the_clamp(backend, dtype):
    scene = scenes.dense()
    sh = scene.sh.copy()
    sh[:60, 0] = -9
    colors, grads = check_shade(scene.replace(sh=sh), dtype, "clamp")
    assert not colors[:60].any()
    assert not grads["sh"][:60].any() and not grads["means"][:60].any()
    assert grads["sh"][60:].any()


def test_gaussian_at_the_camera_centre_is_finite(backend, dtype):
    scene = scenes.single()
    scene = scene.replace(means=np.zeros((1, 3)))
    inputs = stage_inputs(scene, dtype)
    args = (Size(20, 20), jgd.Config(), None)
    out, grads = library(shade_call, args, inputs, {"colors": np.ones((1, 3))})
    assert np.isfinite(out["colors"]).all()
    assert all(np.isfinite(g).all() for g in grads.values())


def test_camera_axis_is_a_loop(every_backend, dtype):
    scene = scenes.dense(cameras=3)
    colors, grads = check_shade(scene, dtype, "cameras")
    assert colors.shape == (3, 120, 3)
    cotangents = make_cotangents({"colors": colors.shape}, seed=21)
    args = (Size(scene.width, scene.height), jgd.Config(), None)
    total = {}
    for c in range(3):
        one = stage_inputs(scene.camera_at(c), dtype)
        part = {"colors": cotangents["colors"][c]}
        alone, grads_c = library(shade_call, args, one, part)
        same_bits(colors[c], alone["colors"], "colors")
        same_bits(grads["viewmat"][c], grads_c["viewmat"], "viewmat")
        for k in ("means", "sh"):
            total[k] = total[k] + grads_c[k] if c else grads_c[k]
    for k, v in total.items():
        same_bits(grads[k], v, k)


def test_what_is_culled_is_not_shaded(every_backend, dtype):
    """Neither its coefficients nor its cotangent are read: both hold NaN here.

    The first 256 are culled by every camera: blocks of a GPU in which nobody is drawn.
    """
    scene = scenes.dense(cameras=2)
    config = jgd.Config()
    gaussians, camera = scene.gaussians(dtype, color="sh"), scene.camera(dtype)
    means, sh = (jnp.concatenate([x] * 4) for x in (gaussians.means, gaussians.sh))
    n, degree = len(means), math.isqrt(sh.shape[1]) - 1
    drawn = np.random.default_rng(4).random((2, n)) < 0.5
    drawn[:, :256] = False
    drawn[:, 256:260] = True
    radii = jnp.asarray(drawn, jnp.int32)
    cotangent = jnp.asarray(np.random.default_rng(5).normal(size=(2, n, 3)), dtype)

    def shade(means, sh, viewmat):
        seen = dataclasses.replace(camera, viewmat=viewmat)
        given = jgd.Gaussians(means, sh=sh)
        return shade_checked(given, seen, degree, config, radii=radii)

    def shade_all(means, sh, viewmat):
        seen = dataclasses.replace(camera, viewmat=viewmat)
        return jgd.shade(jgd.Gaussians(means, sh=sh), seen, config=config)

    mask = jnp.asarray(drawn[..., None])
    never = ~drawn.any(axis=0)
    poisoned = jnp.where(never[:, None, None], jnp.nan, sh)
    colors, pull = jax.vjp(shade, means, poisoned, camera.viewmat)
    expected, pull_all = jax.vjp(shade_all, means, sh, camera.viewmat)
    same_bits(colors, jnp.where(mask, expected, 0), "colors")
    grads = pull(jnp.where(mask, cotangent, jnp.nan))
    wanted = pull_all(jnp.where(mask, cotangent, 0))
    for name, grad, want in zip(("means", "sh", "viewmat"), grads, wanted, strict=True):
        same_bits(grad, want, name)
    assert np.asarray(grads[1]).any(axis=(1, 2)).sum() > 50


def test_given_colors_pass_through(backend, dtype):
    scene = scenes.dense(channels=5, cameras=2)
    gaussians, camera = scene.gaussians(dtype), scene.camera(dtype)
    same_bits(jgd.shade(gaussians, camera), gaussians.colors, "colors")
    grad = jax.grad(lambda g: jgd.shade(g, camera).sum())(gaussians)
    assert (np.asarray(grad.colors) == 1).all()


@pytest.mark.calls_nothing
def test_no_gaussians(every_backend, dtype):
    scene = scenes.empty()
    assert jgd.shade(scene.gaussians(dtype, color="sh"), scene.camera(dtype)).shape == (0, 3)


def test_one_bad_coefficient_silences_its_gaussian():
    """Forward gives NaN in all channels; backward gives no gradient in any."""
    sh = jnp.ones((2, 4, 3), jnp.float32).at[0, 1, 0].set(jnp.nan)
    means = jnp.asarray([[0.0, 0.0, 1.0], [0.1, 0.0, 1.0]], jnp.float32)
    camera = jgd.Camera(jnp.eye(4), jnp.eye(3), width=4, height=4)

    def shade(sh):
        return jgd.shade(jgd.Gaussians(means, sh=sh), camera)

    colors, vjp = jax.vjp(shade, sh)
    assert np.isnan(colors[0]).all() and np.isfinite(colors[1]).all()
    (v_sh,) = vjp(jnp.ones_like(colors))
    np.testing.assert_array_equal(v_sh[0], 0)
    assert np.abs(v_sh[1]).max() > 0
