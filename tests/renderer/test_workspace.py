"""Tests the workspace of a call on a GPU, and the counts that size it.

Lowering for a GPU needs none, so these tests run everywhere.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import scenes
from helpers.yardstick import CAMERA, COTANGENTS, OUTPUTS, forward_and_vjp, loss, small, spread

import jax_gsplat_depth as jgd
from jax_gsplat_depth import _cpu, _ffi

# Those of ``render``.
TARGETS = sorted(_cpu.registrations().keys() - {"jgd_weights_fwd"})
N_TILES = 2 * 2  # of yardstick.small


def workspaces(f, *args, platforms=("cuda",)):
    """Bytes of the workspace by target: sets, with one element for each platform."""
    checks = [
        jax.export.DisabledSafetyCheck.custom_call(prefix + t)
        for prefix in ("", "other_")
        for t in TARGETS
    ]
    exported = jax.export.export(jax.jit(f), platforms=platforms, disabled_checks=checks)(*args)
    found = {}
    pattern = r"stablehlo\.custom_call @(\w+)\(.*-> \(?(.*)tensor<(\d+)xui8>\)?"
    for target, results, n_bytes in re.findall(pattern, exported.mlir_module()):
        assert "ui8" not in results
        found.setdefault(target, set()).add(int(n_bytes))
    return found


def expected(target, *, n_batch=1, n_cameras=1, n=30, capacity=8 * 30 + 64 * N_TILES, **options):
    sizes = {"width": 21, "height": 18, "n_channels": 3, "capacity": capacity}
    options = {"is_double": False, "deterministic": False} | options
    return _cpu.workspace_bytes(
        target=target, n_batch=n_batch, n_cameras=n_cameras, n=n, **sizes, **options
    )


@pytest.mark.parametrize("cameras", [None, 3])
def test_every_target_gets_its_workspace_on_a_gpu(cameras):
    inputs, size = small(cameras=cameras)
    found = workspaces(lambda x: forward_and_vjp(x, size, jgd.Config()), inputs)
    assert sorted(found) == TARGETS
    for target, n_bytes in found.items():
        assert n_bytes == {expected(target, n_cameras=cameras or 1)}, target
    for target in ("jgd_bin_fwd", "jgd_blend_fwd", "jgd_blend_bwd"):
        assert min(found[target]) > 30 * 4


def test_the_cpu_has_none():
    inputs, size = small()
    found = workspaces(lambda x: forward_and_vjp(x, size, jgd.Config()), inputs, platforms=("cpu",))
    assert found == {target: {0} for target in TARGETS}


def test_both_platforms_in_one_export():
    inputs, size = small()
    found = workspaces(
        lambda x: forward_and_vjp(x, size, jgd.Config()), inputs, platforms=("cpu", "cuda")
    )
    assert found == {target: {0, expected(target)} for target in TARGETS}


def test_float64(x64):
    inputs, size = small(np.float64)
    found = workspaces(lambda x: forward_and_vjp(x, size, jgd.Config()), inputs)
    assert found == {target: {expected(target, is_double=True)} for target in TARGETS}


def test_vmap_counts_the_whole_batch():
    inputs, size = small(cameras=2)
    inputs = spread(spread(inputs, CAMERA, 3, 0), ("background",), 5, 1)
    axes = {k: 0 if k in CAMERA else None for k in inputs}
    inner = jax.vmap(lambda x: forward_and_vjp(x, size, jgd.Config()), in_axes=(axes,))
    outer = jax.vmap(inner, in_axes=({k: 0 if k == "background" else None for k in inputs},))
    found = workspaces(outer, inputs)
    for target, n_bytes in found.items():
        # The background does not reach the other stages, but its gradients come back from there.
        n_batch = 3 if target in ("jgd_project_fwd", "jgd_shade_fwd", "jgd_bin_fwd") else 15
        assert n_bytes == {expected(target, n_batch=n_batch, n_cameras=2)}, target


@pytest.mark.parametrize(("given", "used"), [(None, 8 * 30 + 64 * N_TILES), (1, N_TILES), (77, 77)])
def test_capacity(given, used):
    inputs, size = small()
    config = jgd.Config(capacity=given)
    found = workspaces(lambda x: forward_and_vjp(x, size, config), inputs)
    assert found == {target: {expected(target, capacity=used)} for target in TARGETS}


def test_deterministic():
    inputs, size = small()
    config = jgd.Config(deterministic=True)
    found = workspaces(lambda x: forward_and_vjp(x, size, config), inputs)
    assert found == {target: {expected(target, deterministic=True)} for target in TARGETS}


def test_a_symbolic_size_is_refused_on_a_gpu():
    inputs, size = small()
    gaussians, camera = scenes.build(inputs, size)
    (n,) = jax.export.symbolic_shape("n")
    spec = jax.tree.map(lambda x: jax.ShapeDtypeStruct((n, *x.shape[1:]), x.dtype), gaussians)
    with pytest.raises(ValueError, match="n is n: on a GPU every size must be known"):
        workspaces(jgd.render, spec, camera)


def test_stand_in(monkeypatch):
    """The seam of the tests that run the CUDA sources on the host."""
    inputs, size = small()
    monkeypatch.setattr(_ffi, "cpu_stand_in", "other_")
    found = workspaces(lambda x: forward_and_vjp(x, size, jgd.Config()), inputs, platforms=("cpu",))
    assert found == {f"other_{target}": {expected(target)} for target in TARGETS}


# ---------------------------------------------------------------------------------- counts


@pytest.mark.parametrize("footprint", ["exact", "3sigma"])
@pytest.mark.parametrize("cameras", [None, 3])
def test_counts_are_those_of_bin(backend, cameras, footprint):
    inputs, size = small(cameras=cameras)
    gaussians, camera = scenes.build(inputs, size)
    config = jgd.Config(footprint=footprint)
    out = jax.jit(lambda g, c: jgd.render(g, c, config=config))(gaussians, camera)
    splats = jgd.project(gaussians, camera, config=config)
    tile_counts = jgd.bin(splats, width=size.width, height=size.height, config=config).tile_counts
    counts = np.asarray(tile_counts).sum(axis=(-2, -1))
    assert out.n_isects.dtype == out.n_isects_listed.dtype == jnp.int32
    np.testing.assert_array_equal(out.n_isects, counts)
    np.testing.assert_array_equal(out.n_isects_listed, counts)
    assert np.all(counts > 30)


def test_counts_of_a_vmap():
    inputs, size = small()
    inputs = spread(inputs, ("means",), 4, 0)

    def count(means):
        gaussians, camera = scenes.build(inputs | {"means": means}, size)
        return jgd.render(gaussians, camera).n_isects

    np.testing.assert_array_equal(
        jax.vmap(count)(inputs["means"]), [count(means) for means in inputs["means"]]
    )


def test_counts_of_an_empty_scene(backend):
    inputs, size = small(n=0)
    out = jgd.render(*scenes.build(inputs, size))
    assert out.n_isects == out.n_isects_listed == 0


def test_counts_have_no_gradient():
    inputs, size = small()

    def f(means):
        out = jgd.render(*scenes.build(inputs | {"means": means}, size))
        return loss(inputs | {"means": means}, size), out.n_isects

    (_, n_isects), gradient = jax.value_and_grad(f, has_aux=True)(inputs["means"])
    alone = jax.grad(lambda means: loss(inputs | {"means": means}, size))(inputs["means"])
    assert n_isects > 0 and np.array_equal(gradient, alone)


def test_capacity_does_not_change_a_result(backend):
    inputs, size = small()
    results = [
        forward_and_vjp(inputs, size, jgd.Config(capacity=c, deterministic=True))
        for c in (1, 50, 10**4)
    ]
    for name in (*OUTPUTS, *(f"grad {k}" for k in inputs if k not in COTANGENTS)):
        for result in results[1:]:
            np.testing.assert_array_equal(result[name], results[0][name], err_msg=name)
