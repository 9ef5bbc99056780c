"""Tests median, inverse and ray depth and the variance under JAX's transformations."""

import dataclasses

import jax
import jax.export
import numpy as np
import pytest
from helpers import backends, compilation, scenes, yardstick
from helpers.asserts import close_l2, same_bits
from test_depth_outputs import TOGETHER

import jax_gsplat_depth as jgd

DETERMINISTIC = [
    pytest.param(jgd.Config(deterministic=True, **options), id=options["depth"])
    for options in TOGETHER
]
EVERYTHING = [
    *DETERMINISTIC,
    pytest.param(jgd.Config(depth="median", depth_variance=True), id="median, not deterministic"),
]


@pytest.mark.slow
@pytest.mark.parametrize("config", DETERMINISTIC)
def test_deterministic_gradients_are_the_same_sums(every_backend, dtype, config):
    inputs, size = yardstick.small(dtype, cameras=2)
    exact = yardstick.single(inputs, size, config)
    usual = yardstick.single(inputs, size, dataclasses.replace(config, deterministic=False))
    yardstick.close_tree(usual, exact, 1e-6 if dtype == np.float32 else 1e-14)
    yardstick.same_tree(yardstick.single(inputs, size, config), exact)


# The two below are the same sums where XLA optimises.
_optimized = backends.jit(
    yardstick.forward_and_vjp, static_argnums=(1, 2), compiler_options=compilation.OPTIMIZED
)


@pytest.mark.slow
@pytest.mark.parametrize("config", DETERMINISTIC)
def test_camera_axis_is_a_loop(backend, config):
    inputs, size = yardstick.small(cameras=3)
    together = _optimized(inputs, size, config)
    for c in range(3):
        alone = _optimized(yardstick.per_camera(inputs, c), size, config)
        for k, v in alone.items():
            if v.shape != together[k].shape:
                same_bits(together[k][c], v, k)


@pytest.mark.quick(config=[DETERMINISTIC[0]])
@pytest.mark.parametrize("config", EVERYTHING)
def test_nested_vmap(every_backend, config):
    levels = [(yardstick.SCENE, 2), (yardstick.CAMERA, 3)]
    inputs, size = yardstick.small()
    inputs = yardstick.spread_levels(inputs, levels)

    def one(x):
        return yardstick.forward_and_vjp(x, size, config)

    mapped = jax.jit(yardstick.nest(one, inputs, levels), compiler_options=compilation.OPTIMIZED)(
        inputs
    )
    for index in yardstick.indices(levels):
        expected = _optimized(yardstick.example(inputs, levels, index), size, config)
        yardstick.close_tree(yardstick.at(mapped, index), expected, 1e-6, str(index))


@pytest.mark.parametrize("check_vma", [True, False])
@pytest.mark.parametrize("config", EVERYTHING)
@pytest.mark.slow
def test_shard_map_over_cameras(config, check_vma):
    inputs, size = yardstick.small(cameras=4)
    mesh = jax.sharding.Mesh(np.array(jax.devices("cpu")[:4]), ("d",))
    P = jax.sharding.PartitionSpec
    specs = {k: P("d") if k in yardstick.PER_CAMERA else P() for k in inputs}
    grads = [*yardstick.CAMERA, "means2d_offset"]

    def own(x):
        out = yardstick.forward(x, size, config)
        g = jax.grad(lambda y: yardstick.loss(x | y, size, config))({k: x[k] for k in grads})
        return out | {f"grad {k}": v for k, v in g.items()}

    run = jax.shard_map(own, mesh=mesh, in_specs=(specs,), out_specs=P("d"), check_vma=check_vma)
    expected = yardstick.single(inputs, size, config)
    for k, v in jax.jit(run)(inputs).items():
        close_l2(v, expected[k], 1e-6, k)


@pytest.mark.quick(config=[DETERMINISTIC[2]])
@pytest.mark.parametrize("config", EVERYTHING)
def test_export_for_any_number_of_gaussians(config):
    inputs, size = yardstick.small(n=30)
    gaussians, camera = scenes.build(inputs, size)
    (n,) = jax.export.symbolic_shape("n")
    spec = jax.tree.map(lambda x: jax.ShapeDtypeStruct((n, *x.shape[1:]), x.dtype), gaussians)

    def run(gaussians, camera):
        def loss(g):
            out = jgd.render(g, camera, config=config)
            return out.depth.sum() + out.depth_variance.sum(), out

        return jax.grad(loss, has_aux=True)(gaussians)

    ops = ("project", "shade", "bin", "blend")
    names = [f"jgd_{op}_{way}" for op in ops for way in ("fwd", "bwd")]
    checks = [jax.export.DisabledSafetyCheck.custom_call(name) for name in names]
    exported = jax.export.export(jax.jit(run), disabled_checks=checks)(spec, camera)
    loaded = jax.export.deserialize(exported.serialize())
    grads, out = loaded.call(gaussians, camera)
    wanted, expected = jax.jit(run)(gaussians, camera)
    # Not the same bits: XLA fuses what is around the calls in another way.
    close_l2(out.depth, expected.depth, 1e-6, "depth")
    close_l2(out.depth_variance, expected.depth_variance, 1e-6, "variance")
    jax.tree.map(lambda a, b: close_l2(a, b, 1e-6, "gradient"), grads, wanted)
