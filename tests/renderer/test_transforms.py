"""Tests reverse mode, control flow, checkpoints, donation, and errors of other derivatives."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import rasterizer_inputs, scenes
from helpers.asserts import SAME_BITS, Size, same_bits
from helpers.yardstick import (
    CAMERA,
    COTANGENTS,
    OUTPUTS,
    PER_CAMERA,
    REST,
    SCENE,
    at,
    close_tree,
    example,
    forward,
    forward_and_vjp,
    loss,
    nest,
    per_camera,
    same_tree,
    single,
    small,
    spread,
)

import jax_gsplat_depth as jgd

# --------------------------------------------------------------------------- reverse mode


def test_grad_and_value_and_grad():
    inputs, size = small()
    value, grads = jax.jit(jax.value_and_grad(lambda x: loss(x, size)))(inputs)
    expected = single(inputs, size)
    same_tree(
        {f"grad {k}": v for k, v in grads.items() if k not in COTANGENTS},
        {k: v for k, v in expected.items() if k.startswith("grad")},
    )
    same_tree(jax.jit(jax.grad(lambda x: loss(x, size)))(inputs), grads)
    by_hand = sum(
        (np.asarray(expected[k], np.float64) * np.asarray(inputs[f"v_{k}"])).sum() for k in OUTPUTS
    )
    np.testing.assert_allclose(value, by_hand, rtol=1e-4)


def test_grad_of_the_containers():
    inputs, size = small()

    def total(gaussians, camera):
        out = jgd.render(gaussians, camera, config=SAME_BITS)
        return (out.image * inputs["v_image"]).sum(), out.radii

    gaussians, camera = scenes.build(inputs, size)
    grads, radii = jax.grad(total, argnums=(0, 1), has_aux=True)(gaussians, camera)
    assert type(grads[0]) is jgd.Gaussians and grads[0].colors is grads[0].covars is None
    assert type(grads[1]) is jgd.Camera and grads[1].width == size.width
    assert radii.dtype == np.int32 and np.any(radii)
    zeros = {f"v_{k}": jnp.zeros_like(inputs[f"v_{k}"]) for k in ("depth", "weight")}
    black = {"background": jnp.zeros_like(inputs["background"])}
    expected = single(inputs | zeros | black, size)
    for name in SCENE:
        same_bits(getattr(grads[0], name), expected[f"grad {name}"], name)
    for name in CAMERA:
        same_bits(getattr(grads[1], name), expected[f"grad {name}"], name)


SUBSETS = [s for r in range(4) for s in itertools.combinations(OUTPUTS, r)]


@pytest.mark.quick(used=[(), ("depth",), ("image", "weight")], cameras=[None])
@pytest.mark.parametrize("cameras", [None, 2], ids=["one camera", "camera axis"])
@pytest.mark.parametrize("used", SUBSETS, ids=lambda s: "+".join(s) or "none")
def test_unused_cotangents_are_zeros(used, cameras):
    inputs, size = small(cameras=cameras)
    primals = {k: v for k, v in inputs.items() if k not in COTANGENTS}

    @jax.jit
    def grads_of_used(primals):
        def chosen(x):
            out = forward(x, size)
            return {k: out[k] for k in used}

        _, pullback = jax.vjp(chosen, primals)
        return pullback({k: inputs[f"v_{k}"] for k in used})[0]

    masked = {
        k: v if k[2:] in used else jnp.zeros_like(v) for k, v in inputs.items() if k in COTANGENTS
    }
    expected = single(primals | masked, size)
    for k, v in grads_of_used(primals).items():
        # Equal, not the same bits: 0 and -0 are both what nobody asked for.
        np.testing.assert_array_equal(v, expected[f"grad {k}"], err_msg=k)


@pytest.mark.quick(wrt=["sh", "viewmat", "background"])
@pytest.mark.parametrize("wrt", [*SCENE, *CAMERA, *REST])
def test_gradient_of_one_input_alone(wrt):
    inputs, size = small()
    alone = jax.jit(jax.grad(lambda x: loss(inputs | {wrt: x}, size)))(inputs[wrt])
    same_bits(alone, single(inputs, size)[f"grad {wrt}"], wrt)


def test_gradient_of_closed_over_numpy():
    inputs, size = small()
    constants = {k: np.asarray(v) for k, v in inputs.items()}
    grad = jax.grad(lambda m: loss(constants | {"means": m}, size))(inputs["means"])
    same_bits(grad, single(inputs, size)["grad means"], "means")


def test_jacrev():
    inputs, size = small(n=6)
    size = Size(5, 4)
    names = ("opacities", "viewmat", "sh")
    cotangents = {f"v_{k}": np.zeros((4, 5) + (3,) * (k == "image"), np.float32) for k in OUTPUTS}

    def f(x):
        return forward(inputs | x, size)

    rows = jax.jit(jax.jacrev(f))({k: inputs[k] for k in names})
    for output in OUTPUTS:
        for index in np.ndindex(cotangents[f"v_{output}"].shape):
            one_hot = {k: v.copy() for k, v in cotangents.items()}
            one_hot[f"v_{output}"][index] = 1
            expected = single(inputs | one_hot, size)
            for k in names:
                actual = rows[output][k][index]
                np.testing.assert_array_equal(actual, expected[f"grad {k}"], f"{output} {k}")


def test_vjp_with_integer_outputs():
    inputs, size = small()
    gaussians, camera = scenes.build(inputs, size)
    out, pullback = jax.vjp(lambda g: jgd.render(g, camera), gaussians)
    zero = np.zeros(out.radii.shape, jax.dtypes.float0)
    cotangent = dataclasses.replace(jax.tree.map(jnp.ones_like, out), radii=zero)
    (grads,) = pullback(cotangent)
    assert all(np.isfinite(x).all() and np.any(x) for x in jax.tree.leaves(grads))


FORWARD_MODE = {
    "jvp": lambda f, x: jax.jvp(f, (x,), (x,)),
    "jacfwd": lambda f, x: jax.jacfwd(f)(x),
    "jit of jvp": lambda f, x: jax.jit(lambda y: jax.jvp(f, (y,), (y,)))(x),
    "jvp of jit": lambda f, x: jax.jvp(jax.jit(f), (x,), (x,)),
    "jvp of checkpoint": lambda f, x: jax.jvp(jax.checkpoint(f), (x,), (x,)),
    "linearize": lambda f, x: jax.linearize(f, x)[1](x),
}


@pytest.mark.quick(wrt=["means"])
@pytest.mark.parametrize("wrt", ["means", "sh", "background", "means2d_offset"])
@pytest.mark.parametrize("name", FORWARD_MODE)
def test_forward_mode_is_refused(name, wrt):
    inputs, size = small(n=4)
    with pytest.raises(TypeError, match=r"jax_gsplat_depth\.render does not support forward-mode"):
        FORWARD_MODE[name](lambda x: loss(inputs | {wrt: x}, size), inputs[wrt])


@pytest.mark.parametrize("function", ["project", "shade", "blend", "GaussianRasterizer"])
def test_forward_mode_names_the_function(function):
    inputs, size = small(n=4)
    gaussians, camera = scenes.build(inputs, size)
    splats = jgd.project(gaussians, camera)
    order = jnp.arange(4, dtype=jnp.int32)

    def run(opacities, sh):
        if function == "project":
            return jgd.project(dataclasses.replace(gaussians, opacities=opacities), camera)
        if function == "shade":
            return jgd.shade(dataclasses.replace(gaussians, sh=sh), camera)
        if function == "blend":
            changed = dataclasses.replace(splats, opacities=opacities)
            return jgd.blend(changed, sh[:, 0], order, width=21, height=18)
        arguments = rasterizer_inputs.gaussians(4) | {"opacities": opacities}
        return rasterizer_inputs.render(rasterizer_inputs.settings(), arguments)

    primals = (inputs["opacities"], inputs["sh"])
    with pytest.raises(TypeError, match=rf"jax_gsplat_depth\.{function} does not support forward"):
        jax.jvp(run, primals, primals)


def test_forward_mode_of_what_a_stage_does_not_read():
    """An input that no kernel reads is no reason to refuse."""
    inputs, size = small(n=4)
    gaussians, camera = scenes.build(inputs, size)

    def depths(sh):
        return jgd.project(dataclasses.replace(gaussians, sh=sh), camera).depths

    assert not np.any(jax.jvp(depths, (inputs["sh"],), (inputs["sh"],))[1])


SECOND_ORDER = {
    "hessian": jax.hessian,
    "forward over reverse": lambda f: jax.jacfwd(jax.grad(f)),
    "reverse over reverse": lambda f: jax.jacrev(jax.grad(f)),
}


@pytest.mark.quick(wrt=["means"])
@pytest.mark.parametrize("wrt", ["means", "sh", "background"])
@pytest.mark.parametrize("name", SECOND_ORDER)
def test_second_order_is_refused(name, wrt):
    inputs, size = small(n=4)
    with pytest.raises(
        (TypeError, ValueError),
        match="render does not support forward-mode|gradient of .* cannot be",
    ):
        SECOND_ORDER[name](lambda x: loss(inputs | {wrt: x}, size))(inputs[wrt])


# --------------------------------------------------------------------------- control flow


def test_scan_over_cameras():
    inputs, size = small(cameras=3)
    over = {k: inputs[k] for k in PER_CAMERA}

    def body(count, x):
        return count + 1, forward_and_vjp(inputs | x, size)

    count, stacked = jax.jit(lambda xs: jax.lax.scan(body, 0, xs))(over)
    assert count == 3
    mapped = jax.jit(lambda xs: jax.lax.map(lambda x: forward(inputs | x, size), xs))(over)
    for c in range(3):
        expected = single(per_camera(inputs, c), size)
        same_tree(at(stacked, c), expected, f"scan {c}")
        same_tree(at(mapped, c), {k: expected[k] for k in OUTPUTS}, f"map {c}")


@pytest.mark.parametrize("checkpoint", [False, True])
def test_grad_of_scan(checkpoint, x64):
    inputs, size = small(np.float64, cameras=3)

    def total(inputs):
        def body(carry, x):
            return carry + loss(inputs | x, size), None

        if checkpoint:
            body = jax.checkpoint(body)
        return jax.lax.scan(body, jnp.zeros(()), {k: inputs[k] for k in PER_CAMERA})[0]

    grads = jax.jit(jax.grad(total))(inputs)
    together = single(inputs, size)
    names = [k for k in inputs if k not in COTANGENTS]
    close_tree({k: grads[k] for k in names}, {k: together[f"grad {k}"] for k in names}, 1e-13)


def test_training_loop_in_scan():
    inputs, size = small(cameras=3)
    cameras = {k: inputs[k] for k in PER_CAMERA}
    start = {k: inputs[k] for k in SCENE}

    def step(params, camera):
        value, grads = jax.value_and_grad(lambda p: loss(inputs | camera | p, size))(params)
        # A power of two: the product is exact, whether or not it is fused with the difference.
        return jax.tree.map(lambda p, g: p - 2.0**-20 * g, params, grads), value

    scanned, values = jax.jit(lambda p: jax.lax.scan(step, p, cameras))(start)
    params, looped = start, []
    for c in range(3):
        params, value = jax.jit(step)(params, at(cameras, c))
        looped.append(value)
    same_tree(scanned, params)
    np.testing.assert_allclose(values, looped, rtol=1e-5)
    assert any(np.any(scanned[k] != start[k]) for k in SCENE)


def test_loops_with_traced_length():
    inputs, size = small(cameras=3)

    def total(n):
        def body(c, image):
            return image + forward(per_camera(inputs, c), size)["image"]

        return jax.lax.fori_loop(0, n, body, jnp.zeros((size.height, size.width, 3)))

    images = [single(per_camera(inputs, c), size)["image"] for c in range(3)]
    for n in (0, 1, 3):
        expected = sum(images[:n], np.zeros_like(images[0]))
        np.testing.assert_allclose(jax.jit(total)(n), expected, rtol=1e-6, atol=1e-6)


POLICIES = {
    "default": {},
    "nothing": {"policy": jax.checkpoint_policies.nothing_saveable},
    "everything": {"policy": jax.checkpoint_policies.everything_saveable},
    "dots": {"policy": jax.checkpoint_policies.dots_saveable},
    "named": {"policy": jax.checkpoint_policies.save_any_names_but_these()},
    "no names": {"policy": jax.checkpoint_policies.save_only_these_names()},
    "prevent_cse off": {"prevent_cse": False},
}


@pytest.mark.quick(name=["default", "everything", "named"])
@pytest.mark.parametrize("name", POLICIES)
def test_checkpoint(name):
    inputs, size = small(cameras=2)
    f = jax.checkpoint(lambda x: loss(x, size), **POLICIES[name])
    grads = jax.jit(jax.grad(f))(inputs)
    expected = single(inputs, size)
    for k, v in grads.items():
        if k not in COTANGENTS:
            same_bits(v, expected[f"grad {k}"], k)


def test_checkpoint_with_vmap():
    inputs, size = small()
    inputs = spread(inputs, CAMERA, 2, 0)
    levels = [(CAMERA, 2)]
    for f in (
        nest(jax.grad(jax.checkpoint(lambda x: loss(x, size))), inputs, levels),
        nest(jax.checkpoint(jax.grad(lambda x: loss(x, size))), inputs, levels),
    ):
        grads = jax.jit(f)(inputs)
        for i in range(2):
            expected = single(example(inputs, levels, (i,)), size)
            for k in (*SCENE, *CAMERA, *REST):
                same_bits(grads[k][i], expected[f"grad {k}"], k)


def test_cond():
    inputs, size = small()
    shape = (size.height, size.width)

    def flat(x):
        zero = jnp.zeros(shape)
        return {
            "image": jnp.broadcast_to(x["background"], (*shape, 3)),
            "depth": zero,
            "weight": zero,
        }

    def f(inputs, draw):
        def chosen(x):
            return jax.lax.cond(draw, lambda y: forward(y, size), flat, x)

        primals = {k: v for k, v in inputs.items() if k not in COTANGENTS}
        out, pullback = jax.vjp(chosen, primals)
        (grads,) = pullback({name: inputs[f"v_{name}"] for name in OUTPUTS})
        return out | {f"grad {k}": v for k, v in grads.items()}

    expected = single(inputs, size)
    same_tree(jax.jit(f)(inputs, True), expected)
    skipped = jax.jit(f)(inputs, False)
    same_bits(skipped["image"], flat(inputs)["image"], "image")
    for name in (*SCENE, *CAMERA, "means2d_offset"):
        assert not np.any(skipped[f"grad {name}"])
    # Under vmap over the predicate both branches run.
    both = jax.jit(jax.vmap(f, in_axes=(None, 0)))(inputs, jnp.array([False, True]))
    same_tree({k: both[k][1] for k in OUTPUTS}, {k: expected[k] for k in OUTPUTS})
    same_bits(both["image"][0], skipped["image"], "image")
    for name in (*SCENE, *CAMERA):
        np.testing.assert_array_equal(both[f"grad {name}"][1], expected[f"grad {name}"], name)


def test_switch_over_cameras():
    inputs, size = small(cameras=3)
    branches = [
        functools.partial(lambda c: forward(per_camera(inputs, c), size), c) for c in range(3)
    ]
    chosen = jax.jit(lambda i: jax.lax.switch(i, branches))
    for c in range(3):
        expected = single(per_camera(inputs, c), size)
        same_tree(chosen(c), {k: expected[k] for k in OUTPUTS}, str(c))


# -------------------------------------------------------------------- memory and dispatch


def test_donation():
    inputs, size = small()
    params = {k: inputs[k] for k in SCENE}
    rest = {k: v for k, v in inputs.items() if k not in SCENE}

    def step(params, rest):
        out = forward(params | rest, size)
        grads = jax.grad(lambda p: loss(p | rest, size))(params)
        return jax.tree.map(lambda p, g: p - 2.0**-20 * g, params, grads), out

    expected, expected_out = jax.jit(step)(params, rest)
    donated = {k: jnp.array(v, copy=True) for k, v in params.items()}
    actual, out = jax.jit(step, donate_argnums=0)(donated, rest)
    assert all(v.is_deleted() for v in donated.values())
    same_tree(actual, expected)
    same_tree(out, expected_out)
