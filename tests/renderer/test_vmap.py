"""Tests that ``jax.vmap`` and the camera axis give the bits of a loop and copy nothing shared."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import scenes
from helpers.asserts import same_bits
from helpers.yardstick import (
    CAMERA,
    COTANGENTS,
    EVERYTHING,
    OUTPUTS,
    REST,
    SCENE,
    assert_not_trivial,
    at,
    close_tree,
    example,
    forward,
    forward_and_vjp,
    indices,
    loss,
    nest,
    per_camera,
    same_tree,
    single,
    small,
    spread,
    spread_levels,
)

import jax_gsplat_depth as jgd

# ------------------------------------------------------------------------------ jit, vmap


@pytest.mark.parametrize("cameras", [None, 2])
def test_jit_equals_eager(cameras):
    inputs, size = small(cameras=cameras)
    expected = single(inputs, size)
    assert_not_trivial(expected)
    same_tree(forward_and_vjp(inputs, size), expected)
    with jax.disable_jit():
        same_tree(forward_and_vjp(inputs, size), expected)


# Names mapped at each level, outermost first, with the size of the axis. A size of 1 must not be
# taken for "not mapped", nor the other way round.
LEVELS = {
    "everything": [(EVERYTHING, 3)],
    "scenes": [(SCENE, 3)],
    "cameras": [(CAMERA, 3)],
    "size one": [(SCENE, 1)],
    "viewmat": [(("viewmat",), 2)],
    "means": [(("means",), 2)],
    "opacities": [(("opacities",), 2)],
    "sh": [(("sh",), 2)],
    "background": [(("background",), 2)],
    "offset": [(("means2d_offset",), 2)],
    "all cotangents": [(COTANGENTS, 3)],
    "one cotangent": [(("v_depth",), 2)],
    "scenes of cameras": [(SCENE, 2), (CAMERA, 3)],
    "cameras of scenes": [(CAMERA, 2), (SCENE, 3)],
    "both in both": [(SCENE + CAMERA, 2), (EVERYTHING, 2)],
    "cameras twice": [(CAMERA, 2), (CAMERA, 2)],
    "size one inside": [(SCENE, 2), (CAMERA, 1)],
    "size one outside": [(CAMERA, 1), (SCENE + COTANGENTS, 2)],
    "different halves": [(("sh", "v_image"), 2), (("opacities", "v_weight"), 2)],
    "three levels": [(("means", "K"), 2), (("background",), 2), (("sh", "viewmat"), 2)],
}


@pytest.mark.quick(name=["everything", "viewmat", "background", "scenes of cameras"], cameras=[2])
@pytest.mark.parametrize("cameras", [None, 2], ids=["one camera", "camera axis"])
@pytest.mark.parametrize("name", LEVELS)
def test_vmap_equals_loop(name, cameras):
    levels = LEVELS[name]
    inputs, size = small(cameras=cameras)
    inputs = spread_levels(inputs, levels)
    mapped = jax.jit(nest(lambda x: forward_and_vjp(x, size), inputs, levels))(inputs)
    values = jax.jit(nest(lambda x: forward(x, size), inputs, levels))(inputs)
    seen = []
    for index in indices(levels):
        expected = single(example(inputs, levels, index), size)
        same_tree(at(mapped, index), expected, f"{name} {index}")
        same_tree(at(values, index), {k: expected[k] for k in OUTPUTS}, f"values {name} {index}")
        seen.append(np.concatenate([np.ravel(v) for v in expected.values()]))
    assert len({x.tobytes() for x in seen}) == len(seen), "the examples do not differ"


@pytest.mark.parametrize(
    ("config", "absgrad"),
    [
        (jgd.Config(deterministic=True), True),
        (jgd.Config(antialiased=True, footprint="3sigma", sh_convention="e3nn"), False),
    ],
    ids=["absgrad", "original"],
)
def test_vmap_equals_loop_in_other_configs(config, absgrad):
    levels = [(SCENE, 2), (CAMERA + COTANGENTS, 2)]
    inputs, size = small()
    if absgrad:
        inputs["absgrad_probe"] = inputs.pop("means2d_offset")
    inputs = spread_levels(inputs, levels)
    mapped = jax.jit(nest(lambda x: forward_and_vjp(x, size, config), inputs, levels))(inputs)
    for index in indices(levels):
        expected = single(example(inputs, levels, index), size, config)
        same_tree(at(mapped, index), expected, str(index))


@pytest.mark.slow
def test_vmap_eager():
    inputs, size = small()
    levels = [(CAMERA, 2)]
    inputs = spread(inputs, CAMERA, 2, 0)
    mapped = nest(lambda x: forward_and_vjp(x, size), inputs, levels)(inputs)
    for i in range(2):
        same_tree(at(mapped, i), single(example(inputs, levels, (i,)), size), str(i))


@pytest.mark.slow
def test_depth_of_nesting():
    inputs, size = small(n=5)
    levels = [(CAMERA, 1)] * 7 + [(CAMERA, 2)]
    deep = spread_levels(inputs, levels)
    mapped = jax.jit(nest(lambda x: forward_and_vjp(x, size), deep, levels))(deep)
    for index in indices(levels):
        same_tree(at(mapped, index), single(example(deep, levels, index), size), str(index))
    levels = [(CAMERA, 1)] * 9
    deeper = spread_levels(inputs, levels)
    with pytest.raises(jax.errors.JaxRuntimeError, match="more than 8 nested vmap axes"):
        jax.block_until_ready(nest(lambda x: forward(x, size), deeper, levels)(deeper))


def test_vmap_along_other_axes():
    inputs, size = small()
    inputs = spread(inputs, ("means", "viewmat", "sh"), 3, 0)
    moved = dict(inputs)
    for name, axis in (("means", 1), ("viewmat", 2), ("sh", 3)):
        moved[name] = jnp.moveaxis(inputs[name], 0, axis)
    axes = {k: {"means": 1, "viewmat": -1, "sh": 3}.get(k) for k in inputs}
    out = jax.jit(jax.vmap(lambda x: forward(x, size), in_axes=(axes,), out_axes=1))(moved)
    levels = [(("means", "viewmat", "sh"), 3)]
    for i in range(3):
        expected = single(example(inputs, levels, (i,)), size)
        same_tree({k: v[:, i] for k, v in out.items()}, {k: expected[k] for k in OUTPUTS}, str(i))


def test_vmap_of_the_containers():
    inputs, size = small(cameras=3)
    gaussians, cameras = scenes.build(inputs, size)
    out = jax.jit(jax.vmap(jgd.render, in_axes=(None, 0)))(gaussians, cameras)
    axis = jax.jit(jgd.render)(gaussians, cameras)
    for field in ("image", "depth", "weight", "radii"):
        same_bits(getattr(out, field), getattr(axis, field), field)


def test_camera_axis_equals_loop():
    inputs, size = small(cameras=3)
    inputs["background"] = jnp.stack([inputs["background"] * f for f in (1, 0.5, 0.25)])
    together = single(inputs, size)
    for c in range(3):
        one = per_camera(inputs, c)
        alone = single(one | {"background": inputs["background"][c]}, size)
        for name in (*OUTPUTS, *(f"grad {k}" for k in (*CAMERA, *REST))):
            same_bits(together[name][c], alone[name], f"{name} of camera {c}")


def test_camera_axis_adds_up_gradients(x64):
    inputs, size = small(np.float64, cameras=3)
    together = single(inputs, size)
    alone = [single(per_camera(inputs, c), size) for c in range(3)]
    shared = [f"grad {k}" for k in (*SCENE, "background")]
    expected = {k: sum(x[k] for x in alone) for k in shared}
    close_tree({k: together[k] for k in shared}, expected, 1e-13)


@pytest.mark.quick(name=["scenes of cameras"])
@pytest.mark.parametrize("cameras", [None, 2], ids=["one camera", "camera axis"])
@pytest.mark.parametrize(
    "name", ["cameras", "scenes", "scenes of cameras", "cameras twice", "different halves"]
)
def test_grad_of_vmap(name, cameras, x64):
    levels = LEVELS[name]
    inputs, size = small(np.float64, cameras=cameras)
    inputs = spread_levels(inputs, levels)

    def total(inputs):
        return nest(lambda x: loss(x, size), inputs, levels)(inputs).sum()

    grads = jax.jit(jax.grad(total))(inputs)
    expected = {k: np.zeros(v.shape) for k, v in inputs.items() if k not in COTANGENTS}
    for index in indices(levels):
        found = single(example(inputs, levels, index), size)
        for k, total_k in expected.items():
            where = tuple(i for (names, _), i in zip(levels, index, strict=True) if k in names)
            total_k[where] += found[f"grad {k}"]
    close_tree({k: grads[k] for k in expected}, expected, 1e-13, name)


# --------------------------------------------------------------------------------- memory


def kernel_calls(f, *args):
    """Compile; for each of our targets the shapes of its operands and of its results.

    Without the last result, the workspace.
    """
    text = jax.jit(f).lower(*args).compile().as_text()
    assert text is not None
    array = r"\w+\[([\d,]*)\]"

    def shape(digits):
        return tuple(map(int, digits.split(","))) if digits else ()

    shapes = {name: shape(digits) for name, digits in re.findall(rf"%(\S+) = {array}", text)}
    calls = {}
    pattern = r"= (.*?) custom-call\((.*?)\), custom_call_target=\"(jgd_\w+)\""
    for results, operands, target in re.findall(pattern, text):
        assert target not in calls
        *shapes_of_results, workspace = [shape(digits) for digits in re.findall(array, results)]
        assert len(workspace) == 1
        calls[target] = (
            [shapes[name] for name in re.findall(r"%([\w.-]+)", operands)],
            shapes_of_results,
        )
    return calls


def test_vmap_does_not_copy_shared_inputs():
    n, b = 1000, 7
    inputs, size = small(n=n)
    inputs = spread(inputs, CAMERA, b, 0)
    calls = kernel_calls(nest(lambda x: forward(x, size), inputs, [(CAMERA, b)]), inputs)
    assert calls.keys() == {f"jgd_{stage}_fwd" for stage in ("project", "shade", "bin", "blend")}
    means, quats, scales, _, opacities, viewmat, K = calls["jgd_project_fwd"][0]
    assert [means, quats, scales, opacities] == [(1, n, 3), (1, n, 4), (1, n, 3), (1, n)]
    assert [viewmat, K] == [(b, 1, 4, 4), (b, 1, 3, 3)]
    assert calls["jgd_shade_fwd"][0] == [(1, n, 3), (1, n, 4, 3), (b, 1, 4, 4), (b, 1, n)]
    assert (1, 1, 3) in calls["jgd_blend_fwd"][0], "the background is shared"


def test_vmap_over_scenes_does_not_copy_the_cameras():
    n, b = 20, 3
    inputs, size = small(n=n)
    inputs = spread(inputs, SCENE, b, 0)
    calls = kernel_calls(nest(lambda x: forward(x, size), inputs, [(SCENE, b)]), inputs)
    assert calls["jgd_project_fwd"][0][-2:] == [(1, 1, 4, 4), (1, 1, 3, 3)]


def test_camera_axis_keeps_one_gradient_of_shared_inputs():
    n, c = 1000, 7
    inputs, size = small(n=n, cameras=c)
    calls = kernel_calls(lambda x: forward_and_vjp(x, size), inputs)
    v_means, v_quats, v_scales, _, v_opacities, v_viewmat, v_K = calls["jgd_project_bwd"][1]
    assert [v_means, v_quats, v_scales, v_opacities] == [(n, 3), (n, 4), (n, 3), (n,)]
    assert [v_viewmat, v_K] == [(c, 4, 4), (c, 3, 3)]
    assert calls["jgd_shade_bwd"][1] == [(n, 3), (n, 4, 3), (c, 4, 4)]
    assert (1, 3) in calls["jgd_blend_bwd"][1], "the background's gradient is summed too"


def test_what_is_not_asked_for_is_not_computed():
    inputs, size = small()

    def calls(wrt, outputs):
        def f(x):
            out = forward(inputs | {wrt: x}, size)
            return sum((out[k] * inputs[f"v_{k}"]).sum() for k in outputs)

        return kernel_calls(jax.grad(f), inputs[wrt])

    def computed(call):
        return sum(np.prod(shape) > 0 for shape in call[1])

    # The weight does not depend on colours: no gradient reaches the shade stage.
    assert "jgd_shade_bwd" not in calls("means", ["weight"])
    assert "jgd_project_bwd" not in calls("background", ["image"])
    assert "jgd_project_bwd" not in calls("sh", ["image"])
    only_opacities = calls("opacities", OUTPUTS)
    assert "jgd_shade_bwd" not in only_opacities
    assert computed(only_opacities["jgd_project_bwd"]) == 1
