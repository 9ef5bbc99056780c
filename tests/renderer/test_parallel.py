"""Tests several devices, threads and processes: ``shard_map``, threads, ``jax.export``."""

import concurrent.futures
import functools
import subprocess
import sys
import threading
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import scenes
from helpers.asserts import Size, same_bits
from helpers.yardstick import (
    CAMERA,
    COTANGENTS,
    OUTPUTS,
    PER_CAMERA,
    REST,
    SCENE,
    close_tree,
    empty_checks,
    forward,
    forward_and_vjp,
    loss,
    per_camera,
    same_tree,
    single,
    small,
    spread,
)
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import jax_gsplat_depth as jgd

# Every target that the package registers, for jax.export's allow list.
TARGETS = (
    "jgd_project_fwd",
    "jgd_project_bwd",
    "jgd_shade_fwd",
    "jgd_shade_bwd",
    "jgd_bin_fwd",
    "jgd_blend_fwd",
    "jgd_blend_bwd",
    "jgd_weights_fwd",
)
SHARED = (*SCENE, "background")


# ------------------------------------------------------------------------------ shard_map


@pytest.fixture
def mesh():
    """Four devices along one axis."""
    devices = jax.devices("cpu")[:4]
    assert len(devices) == 4, "conftest.py asks XLA for four"
    return jax.sharding.Mesh(np.array(devices), ("d",))


def on_mesh(mesh, f, out_specs, check_vma, sharded=PER_CAMERA):
    """Run ``f`` on each device: named inputs split along their first axis, the others repeated."""

    def run(inputs):
        specs = {k: P("d") if k in sharded else P() for k in inputs}
        return jax.shard_map(
            f, mesh=mesh, in_specs=(specs,), out_specs=out_specs, check_vma=check_vma
        )(inputs)

    return jax.jit(run)


@pytest.mark.quick(check_vma=[True])
@pytest.mark.parametrize("check_vma", [True, False])
@pytest.mark.parametrize("per_device", [1, 2])
def test_shard_map_over_cameras(mesh, check_vma, per_device):
    """Each device renders its cameras of the repeated Gaussians, and differentiates its own."""
    inputs, size = small(cameras=4 * per_device)
    spec = dict.fromkeys(OUTPUTS, P("d"))
    images = on_mesh(mesh, lambda x: forward(x, size), spec, check_vma)(inputs)
    expected = single(inputs, size)
    same_tree(images, {k: expected[k] for k in OUTPUTS})

    def own_gradients(x):
        grads = jax.grad(lambda y: loss(x | y, size))({k: x[k] for k in PER_CAMERA})
        return {k: grads[k] for k in (*CAMERA, "means2d_offset")}

    spec = dict.fromkeys((*CAMERA, "means2d_offset"), P("d"))
    grads = on_mesh(mesh, own_gradients, spec, check_vma)(inputs)
    same_tree(grads, {k: expected[f"grad {k}"] for k in grads})


@pytest.mark.quick(check_vma=[True])
@pytest.mark.parametrize("check_vma", [True, False])
def test_shard_map_sums_gradients_inside(mesh, check_vma, x64):
    """Gradients of the repeated Gaussians: summed by JAX with check_vma, by psum without."""
    inputs, size = small(np.float64, cameras=4)

    def shared_gradients(x):
        grads = jax.grad(lambda y: loss(x | y, size))({k: x[k] for k in SHARED})
        return grads if check_vma else jax.lax.psum(grads, "d")

    grads = on_mesh(mesh, shared_gradients, dict.fromkeys(SHARED, P()), check_vma)(inputs)
    expected = single(inputs, size)
    close_tree(grads, {k: expected[f"grad {k}"] for k in SHARED}, 1e-13)


@pytest.mark.quick(check_vma=[True], transform=["plain", "scan"])
@pytest.mark.parametrize("check_vma", [True, False])
@pytest.mark.parametrize("transform", ["plain", "vmap", "checkpoint", "scan"])
def test_grad_of_shard_map(mesh, check_vma, transform, x64):
    """Differentiate through the shard_map, with another transformation inside."""
    cameras = 8
    inputs, size = small(np.float64, cameras=cameras)

    def local(x):
        cameras = {k: x[k] for k in PER_CAMERA}
        if transform == "plain":
            value = loss(x, size)
        elif transform == "vmap":
            value = jax.vmap(lambda c: loss(x | c, size))(cameras).sum()
        elif transform == "checkpoint":
            value = jax.checkpoint(lambda y: loss(y, size))(x)
        else:
            values = jax.lax.map(lambda c: loss(x | c, size), cameras)
            value = values.sum()
        return jax.lax.psum(value, "d")

    grads = jax.jit(jax.grad(on_mesh(mesh, local, P(), check_vma)))(inputs)
    expected = single(inputs, size)
    names = [k for k in inputs if k not in COTANGENTS]
    close_tree({k: grads[k] for k in names}, {k: expected[f"grad {k}"] for k in names}, 1e-13)


@pytest.mark.quick(check_vma=[True])
@pytest.mark.parametrize("check_vma", [True, False])
def test_shard_map_over_scenes(mesh, check_vma):
    inputs, size = small()
    inputs = spread(inputs, SCENE, 4, 0)
    names = (*OUTPUTS, *(f"grad {k}" for k in SCENE))

    def local(x):
        mapped = {k: 0 if k in SCENE else None for k in x}

        def run(y):
            rest = {k: v for k, v in y.items() if k not in SCENE}
            grads = jax.grad(lambda g: loss(rest | g, size))({k: y[k] for k in SCENE})
            return forward(y, size) | {f"grad {k}": v for k, v in grads.items()}

        return jax.vmap(run, in_axes=(mapped,))(x)

    result = on_mesh(mesh, local, dict.fromkeys(names, P("d")), check_vma, SCENE)(inputs)
    for i in range(4):
        expected = single({k: v[i] if k in SCENE else v for k, v in inputs.items()}, size)
        same_tree({k: v[i] for k, v in result.items()}, {k: expected[k] for k in names}, str(i))


@pytest.mark.quick(check_vma=[True])
@pytest.mark.parametrize("check_vma", [True, False])
def test_shard_map_without_gaussians(mesh, check_vma):
    inputs, size = small(cameras=4, n=0)
    spec = dict.fromkeys(OUTPUTS, P("d"))
    images = on_mesh(mesh, lambda x: forward(x, size), spec, check_vma)(inputs)
    same_tree(images, {k: v for k, v in single(inputs, size).items() if k in OUTPUTS})


@pytest.mark.quick(check_vma=[True])
@pytest.mark.parametrize("check_vma", [True, False])
def test_shard_map_without_background(mesh, check_vma):
    """Arrays that the package makes itself do not vary over the mesh."""
    inputs, size = small(cameras=4)
    for name in REST:
        del inputs[name]
    spec = dict.fromkeys(OUTPUTS, P("d"))
    images = on_mesh(mesh, lambda x: forward(x, size), spec, check_vma)(inputs)
    same_tree(images, {k: v for k, v in single(inputs, size).items() if k in OUTPUTS})


def test_sharded_inputs_under_jit(mesh):
    inputs, size = small(cameras=4)
    expected = single(inputs, size)
    placed = {
        k: jax.device_put(v, NamedSharding(mesh, P("d") if k in PER_CAMERA else P()))
        for k, v in inputs.items()
    }
    result = jax.jit(lambda x: forward_and_vjp(x, size))(placed)
    same_tree({k: np.asarray(v) for k, v in result.items()}, expected)


def test_every_device():
    inputs, size = small()
    expected = single(inputs, size)
    for device in jax.devices("cpu"):
        placed = jax.device_put(inputs, device)
        result = single(placed, size)
        assert result["image"].devices() == {device}
        same_tree(result, expected, str(device))


# -------------------------------------------------------------------------------- threads


def in_threads(n_threads, work):
    """Run ``work(i)`` in threads that start together; raise what they raise."""
    barrier = threading.Barrier(n_threads)

    def run(i):
        barrier.wait()
        return work(i)

    with concurrent.futures.ThreadPoolExecutor(n_threads) as pool:
        return list(pool.map(run, range(n_threads), timeout=120))


@pytest.mark.parametrize("function", [single, forward_and_vjp], ids=["jit", "eager"])
def test_threads(function):
    """Eight threads, different scenes, the same executable: the bits of one thread."""
    base, size = small()
    inputs = [
        {k: v[0] if k in (*SCENE, *CAMERA) else v for k, v in x.items()}
        for x in (spread(base, (*SCENE, *CAMERA), 1, seed) for seed in range(8))
    ]
    expected = [single(x, size) for x in inputs]
    for rounds in in_threads(8, lambda i: [function(inputs[i], size) for _ in range(5)]):
        i = next(
            j for j, e in enumerate(expected) if np.array_equal(e["image"], rounds[0]["image"])
        )
        for result in rounds:
            same_tree(result, expected[i], f"thread {i}")


def test_threads_tracing_at_once():
    """Every thread traces and compiles programs of its own, with dtype and config of its own."""
    inputs, size = small()
    configs = [jgd.Config(eps2d=0.1 * (i + 1)) for i in range(3)]

    def work(i):
        dtype, config = (np.float32, np.float64)[i % 2], configs[i % 3]
        with jax.enable_x64(i % 2 == 1):
            typed = {k: jnp.asarray(np.asarray(v), dtype) for k, v in inputs.items()}
            return jax.jit(lambda x: forward_and_vjp(x, size, config))(typed)

    for i, result in enumerate(in_threads(6, work)):
        same_tree(result, work(i), f"thread {i}")


def test_threads_with_one_large_image_each():
    """Several handlers split their work over XLA's pool at the same time."""
    scene = scenes.dense(n=400, width=160, height=130)
    size = Size(scene.width, scene.height)
    inputs = {k: jnp.asarray(v) for k, v in scene.inputs(np.float32).items()}
    run = jax.jit(lambda x: forward(x, size))
    expected = run(inputs)
    for rounds in in_threads(6, lambda i: [run(inputs) for _ in range(4)]):
        for result in rounds:
            same_tree(result, expected)


@pytest.mark.slow
def test_many_calls_in_one_executable():
    """Independent calls, which XLA may run at once on the pool that the handlers use."""
    inputs, size = small(cameras=40)

    @jax.jit
    def run(inputs):
        return [forward(per_camera(inputs, c), size) for c in range(40)]

    expected = single(inputs, size)
    for c, result in enumerate(run(inputs)):
        same_tree(result, {k: expected[k][c] for k in OUTPUTS}, str(c))


# --------------------------------------------------------------------------------- export


def export(f, *args):
    """Serialize and deserialize ``f`` with its first derivative."""
    checks = [jax.export.DisabledSafetyCheck.custom_call(name) for name in TARGETS]
    exported = jax.export.export(jax.jit(f), disabled_checks=checks)(*args)
    return exported.serialize(vjp_order=1)


def test_targets_are_all_that_is_called():
    """Without the allow list the export names a target of ours, never somebody else's."""
    inputs, size = small()
    with pytest.raises(ValueError, match="jgd_"):
        jax.export.export(jax.jit(lambda x: forward(x, size)))(inputs)


@pytest.mark.parametrize("cameras", [None, 2])
def test_export_round_trip(cameras):
    inputs, size = small(cameras=cameras)
    primals = {k: v for k, v in inputs.items() if k not in COTANGENTS}
    loaded = jax.export.deserialize(export(lambda x: forward(x, size), primals))

    @jax.jit
    def run(primals):
        out, pullback = jax.vjp(loaded.call, primals)
        (grads,) = pullback({name: inputs[f"v_{name}"] for name in OUTPUTS})
        return dict(out) | {f"grad {k}": v for k, v in grads.items()}

    same_tree(run(primals), single(inputs, size))


def test_export_of_the_containers():
    inputs, size = small()
    gaussians, camera = scenes.build(inputs, size)
    loaded = jax.export.deserialize(export(jgd.render, gaussians, camera))
    out, expected = loaded.call(gaussians, camera), jax.jit(jgd.render)(gaussians, camera)
    assert type(out) is jgd.RenderOutput
    for name in (*OUTPUTS, "radii"):
        same_bits(getattr(out, name), getattr(expected, name), name)


def test_export_of_a_vmap():
    inputs, size = small()
    inputs = spread(inputs, CAMERA, 2, 0)
    axes = ({k: 0 if k in CAMERA else None for k in inputs},)
    f = jax.vmap(functools.partial(forward_and_vjp, size=size), in_axes=axes)
    checks = [jax.export.DisabledSafetyCheck.custom_call(name) for name in TARGETS]
    exported = jax.export.export(jax.jit(f), disabled_checks=checks)(inputs)
    loaded = jax.export.deserialize(exported.serialize())
    same_tree(loaded.call(inputs), jax.jit(f)(inputs))


def test_export_for_any_number_of_gaussians():
    inputs, size = small(n=30)
    gaussians, camera = scenes.build(inputs, size)
    (n,) = jax.export.symbolic_shape("n")
    spec = jax.tree.map(lambda x: jax.ShapeDtypeStruct((n, *x.shape[1:]), x.dtype), gaussians)
    loaded = jax.export.deserialize(export(jgd.render, spec, camera))
    for count in (30, 7, 1):
        part = jax.tree.map(lambda x, count=count: x[:count], gaussians)
        out, expected = loaded.call(part, camera), jax.jit(jgd.render)(part, camera)
        for name in (*OUTPUTS, "radii"):
            same_bits(getattr(out, name), getattr(expected, name), f"{name} of {count}")


def test_export_without_gaussians():
    inputs, size = small(n=0)
    primals = {k: v for k, v in inputs.items() if k not in COTANGENTS}
    loaded = jax.export.deserialize(export(lambda x: forward(x, size), primals))
    out, pullback = jax.vjp(loaded.call, primals)
    (grads,) = pullback({name: inputs[f"v_{name}"] for name in OUTPUTS})
    empty_checks(dict(out) | {f"grad {k}": v for k, v in grads.items()}, inputs)


LOAD = """
import sys
import jax, numpy as np
import jax_gsplat_depth
arrays = dict(np.load(sys.argv[1] + "/inputs.npz"))
loaded = jax.export.deserialize(open(sys.argv[1] + "/render.bin", "rb").read())
out, pullback = jax.vjp(loaded.call, arrays)
(grads,) = pullback({k: np.ones_like(v) for k, v in out.items()})
np.savez(sys.argv[1] + "/outputs.npz", **out, **{"grad " + k: v for k, v in grads.items()})
"""


def test_export_to_another_process(tmp_path):
    inputs, size = small()
    primals = {k: v for k, v in inputs.items() if k not in COTANGENTS}
    (tmp_path / "render.bin").write_bytes(export(lambda x: forward(x, size), primals))
    arrays: dict[str, Any] = {k: np.asarray(v) for k, v in primals.items()}
    np.savez(tmp_path / "inputs.npz", **arrays)
    subprocess.run([sys.executable, "-c", LOAD, str(tmp_path)], check=True, timeout=120)
    ones = {k: jnp.ones_like(inputs[k]) for k in COTANGENTS}
    expected = {k: np.asarray(v) for k, v in single(primals | ones, size).items()}
    with np.load(tmp_path / "outputs.npz") as found:
        same_tree(dict(found), expected)
