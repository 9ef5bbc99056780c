"""Sets up one small problem, and its yardstick for transformations: one jitted call per example.

What a transformation returns has the same bits. Where JAX adds up gradients in an order of its own,
float64 agreement to 1e-13 stands in. Whether a single call is right is the business of the tests of
the stages and of ``render``.
"""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jax_gsplat_depth as jgd
from helpers import backends, scenes
from helpers.asserts import RENDER_OPTIONS, SAME_BITS, Size, same_bits

OUTPUTS = ("image", "depth", "weight")
SCENE = ("means", "quats", "scales", "opacities", "sh")
CAMERA = ("viewmat", "K")
REST = ("background", "means2d_offset")
COTANGENTS = tuple(f"v_{name}" for name in OUTPUTS)
EVERYTHING = SCENE + CAMERA + REST + COTANGENTS
# What has a camera axis if the camera has one; the background may have it too.
PER_CAMERA = (*CAMERA, "means2d_offset", *COTANGENTS)


def small(dtype: Any = np.float32, cameras=None, n=30, **options):
    """Inputs and cotangents of one small scene by name, and its size: 2x2 tiles, some stops."""
    scene = scenes.random_scene(
        n, 21, 18, seed=11, cameras=cameras, bases=4, sigma_px=(0.5, 6.0), **options
    )
    inputs = scene.inputs(dtype, color="sh")
    rng = np.random.default_rng(5)
    shape = (*scene.batch, scene.height, scene.width)
    inputs |= {
        name: rng.normal(size=shape + ((3,) if name == "v_image" else ())).astype(dtype)
        for name in COTANGENTS
    }
    return {k: jnp.asarray(v) for k, v in inputs.items()}, Size(scene.width, scene.height)


def forward(inputs, size, config=None):
    """The float outputs by name: three, and depth_variance if ``config`` asks for it."""
    gaussians, camera = scenes.build(inputs, size)
    extra = {k: inputs[k] for k in RENDER_OPTIONS if k in inputs}
    out = jgd.render(gaussians, camera, config=config or SAME_BITS, **extra)
    variance = {} if out.depth_variance is None else {"depth_variance": out.depth_variance}
    return {name: getattr(out, name) for name in OUTPUTS} | variance


def forward_and_vjp(inputs, size, config=None):
    """Outputs, and gradients of every input for the cotangents among ``inputs``."""
    primals = {k: v for k, v in inputs.items() if k not in COTANGENTS}
    out, pullback = jax.vjp(lambda x: forward(x, size, config), primals)
    (grads,) = pullback({name: inputs[_cotangent(name)] for name in out})
    return out | {f"grad {k}": v for k, v in grads.items()}


@functools.partial(backends.jit, static_argnums=(1, 2))
def single(inputs, size, config=None):
    """The yardstick: one example, jitted."""
    return forward_and_vjp(inputs, size, config)


def loss(inputs, size, config=None) -> Any:
    """A scalar that depends on every output."""
    out = forward(inputs, size, config)
    return sum((out[name] * inputs[_cotangent(name)]).sum() for name in out)


def _cotangent(name):
    return "v_weight" if name == "depth_variance" else f"v_{name}"


def spread(inputs, names, n, seed):
    """Repeat the named inputs along a new leading axis, each copy a little different."""
    rng = np.random.default_rng(seed)
    out = dict(inputs)
    for name in names:
        value = np.asarray(inputs[name])
        factor = 1 + 0.03 * rng.normal(size=(n, *value.shape))
        shift = 0.3 * rng.normal(size=factor.shape) if name == "means2d_offset" else 0
        out[name] = jnp.asarray((value * factor + shift).astype(value.dtype))
    return out


def spread_levels(inputs, levels):
    """``spread`` once per level; axes come in the order of the levels, outermost first."""
    for seed, (names, n) in reversed(list(enumerate(levels))):
        inputs = spread(inputs, names, n, seed)
    return inputs


def indices(levels):
    """Every tuple of one index per level."""
    return itertools.product(*(range(n) for _, n in levels))


def example(inputs, levels, index):
    """Undo ``spread``: the inputs at one index per level, outermost first."""
    out = dict(inputs)
    for name in inputs:
        for (names, _), i in zip(levels, index, strict=True):
            if name in names:
                out[name] = out[name][i]
    return out


def nest(f, inputs, levels):
    """``vmap`` once per level, outermost first."""
    for names, _ in reversed(levels):
        f = jax.vmap(f, in_axes=({k: 0 if k in names else None for k in inputs},))
    return f


def same_tree(actual, expected, name=""):
    """Two dicts of arrays with the same keys and the same bits."""
    assert actual.keys() == expected.keys()
    for key in expected:
        same_bits(actual[key], expected[key], f"{name} {key}")


def close_tree(actual, expected, limit, name=""):
    """Two dicts of arrays that agree in L2 norm."""
    assert actual.keys() == expected.keys()
    for key in expected:
        a, e = np.asarray(actual[key]), np.asarray(expected[key])
        assert a.dtype == e.dtype and a.shape == e.shape, f"{name} {key}"
        error, scale = np.linalg.norm(a - e), np.linalg.norm(e)
        assert error <= limit * scale, f"{name} {key}: {error} of {scale}"


def at(tree, index):
    """The entries of every array at ``index``."""
    return {k: v[index] for k, v in tree.items()}


def assert_not_trivial(result):
    """Something is drawn, something is not, and every gradient has a non-zero entry."""
    weight = np.asarray(result["weight"])
    assert weight.max() > 0.5 and weight.min() < 0.3
    for name, value in result.items():
        assert np.isfinite(value).all() and np.any(value), name


def per_camera(inputs, c):
    """The inputs of one camera of a camera axis."""
    return {k: v[c] if k in PER_CAMERA else v for k, v in inputs.items()}


def empty_checks(result, inputs):
    """The picture is the background, and only the background has a gradient."""
    np.testing.assert_array_equal(result["weight"], 0)
    np.testing.assert_array_equal(result["depth"], 0)
    image = np.broadcast_to(inputs["background"], result["image"].shape)
    np.testing.assert_array_equal(result["image"], image)
    for name in (*SCENE, *CAMERA, "means2d_offset"):
        grad = result[f"grad {name}"]
        assert grad.shape[-inputs[name].ndim :] == inputs[name].shape
        np.testing.assert_array_equal(grad, 0)
