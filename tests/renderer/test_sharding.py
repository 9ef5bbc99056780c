"""Tests arrays split over a mesh: explicit axes, and ``shard_map`` without an outer ``jit``."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.yardstick import (
    CAMERA,
    COTANGENTS,
    OUTPUTS,
    PER_CAMERA,
    SCENE,
    close_tree,
    forward_and_vjp,
    loss,
    same_tree,
    single,
    small,
)
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jax_gsplat_depth as jgd
from jax_gsplat_depth import losses


def make_mesh(kind, n=4):
    return jax.make_mesh((n,), ("d",), axis_types=(kind,), devices=jax.devices("cpu")[:n])


@pytest.mark.quick(split=["cameras"], kind=[AxisType.Explicit])
@pytest.mark.parametrize("split", ["cameras", "gaussians", "both"])
@pytest.mark.parametrize("kind", [AxisType.Explicit, AxisType.Auto])
def test_gradients_of_split_inputs(kind, split):
    """The bits of one device. Explicit axes: whole images, and gradients split like the inputs."""
    inputs, size = small(cameras=4, n=32)
    cameras = (*CAMERA, "means2d_offset")
    names = {"cameras": cameras, "gaussians": SCENE, "both": cameras + SCENE}[split]
    mesh = make_mesh(kind)
    with jax.set_mesh(mesh):
        placed = {
            k: jax.device_put(v, NamedSharding(mesh, P("d") if k in names else P()))
            for k, v in inputs.items()
        }
        result = jax.jit(lambda x: forward_and_vjp(x, size))(placed)
    for name in {*inputs} - {*COTANGENTS}:
        expected, found = (jax.typeof(x).sharding for x in (placed[name], result[f"grad {name}"]))
        assert found.spec == expected.spec, name
    same_tree({k: np.asarray(v) for k, v in result.items()}, single(inputs, size))


@pytest.mark.slow
def test_vmap_over_split_cameras():
    inputs, size = small(cameras=4)
    mesh = make_mesh(AxisType.Explicit)

    def one(x):
        return forward_and_vjp(inputs | x, size)

    with jax.set_mesh(mesh):
        inputs = jax.device_put(inputs, NamedSharding(mesh, P()))
        over = {k: jax.device_put(inputs[k], NamedSharding(mesh, P("d"))) for k in PER_CAMERA}
        result = jax.jit(jax.vmap(one))(over)
    assert jax.typeof(result["image"]).sharding.spec[0] == "d"
    expected = single(inputs, size)
    names = (*OUTPUTS, *(f"grad {k}" for k in CAMERA))
    same_tree({k: np.asarray(result[k]) for k in names}, {k: expected[k] for k in names})


@pytest.mark.slow
def test_losses_and_cameras_of_split_arrays():
    """A loss of whole images and split photos, and a camera from split positions."""
    rng = np.random.default_rng(0)
    images, photos = rng.uniform(size=(2, 4, 12, 13, 1)).astype(np.float32)
    eyes = rng.normal((0, -5, 0), size=(4, 3)).astype(np.float32)

    @jax.jit
    def run(images, photos, eyes):
        camera = jgd.Camera.look_at(eyes, (0.0, 0.0, 0.0), fov_x=0.8, width=4, height=4)
        return jax.grad(losses.ssim)(images, photos), camera.viewmat

    expected = run(images, photos, eyes)
    mesh = make_mesh(AxisType.Explicit)
    with jax.set_mesh(mesh):
        split = [jax.device_put(x, NamedSharding(mesh, P("d"))) for x in (photos, eyes)]
        result = run(jax.device_put(images, NamedSharding(mesh, P())), *split)
    for a, e in zip(result, expected, strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_eager_gradient_of_shard_map_of_a_stage():
    """JAX evaluates the ``shard_map`` op by op."""
    inputs, _ = small(n=4)
    gaussians = jgd.Gaussians(*(inputs[k] for k in ("means", "quats", "scales", "opacities")))
    cameras = jgd.Camera(*(jnp.stack([inputs[k]] * 2) for k in CAMERA), width=21, height=18)

    def total(means, cameras):
        splats = jgd.project(jgd.Gaussians(means, *jax.tree.leaves(gaussians)[1:]), cameras)
        return splats.depths.sum()

    def summed(means):
        run = jax.shard_map(
            lambda m, c: jax.lax.psum(total(m, c), "d"),
            mesh=make_mesh(AxisType.Auto, 2),
            in_specs=(P(), P("d")),
            out_specs=P(),
        )
        return run(means, cameras)

    grads = jax.grad(summed)(gaussians.means)
    np.testing.assert_allclose(grads, jax.grad(total)(gaussians.means, cameras), rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("check_vma", [True, False])
@pytest.mark.parametrize("transform", ["inside", "outside", "checkpoint"])
def test_eager_shard_map(transform, check_vma, x64):
    inputs, size = small(np.float64, cameras=2)
    mesh = make_mesh(AxisType.Auto, 2)
    specs = {k: P("d") if k in PER_CAMERA else P() for k in inputs}

    def on_mesh(f, out_specs):
        return jax.shard_map(
            f, mesh=mesh, in_specs=(specs,), out_specs=out_specs, check_vma=check_vma
        )

    def total(x):
        run = jax.checkpoint(loss, static_argnums=1) if transform == "checkpoint" else loss
        return jax.lax.psum(run(x, size), "d")

    expected = single(inputs, size)
    if transform == "inside":

        def own(x):
            return jax.grad(lambda c: loss(x | c, size))({k: x[k] for k in CAMERA})

        grads = on_mesh(own, dict.fromkeys(CAMERA, P("d")))(inputs)
    else:
        grads = jax.grad(on_mesh(total, P()))(inputs)
    names = CAMERA if transform == "inside" else [k for k in inputs if k not in COTANGENTS]
    close_tree({k: grads[k] for k in names}, {k: expected[f"grad {k}"] for k in names}, 1e-13)
