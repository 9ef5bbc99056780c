"""Compares results, and runs one stage in the library and in the reference."""

import dataclasses
import functools
import os

import jax
import numpy as np

import jax_gsplat_depth as jgd
from helpers import backends, reference
from helpers.scenes import build
from helpers.tolerances import bound

OUTPUTS = ("image", "depth", "weight")
RENDER_OPTIONS = ("background", "means2d_offset", "absgrad_probe")
# For gradients of two calls that must have the same bits: on a GPU they do not otherwise.
SAME_BITS = jgd.Config(deterministic=True)
BLEND_FLOATS = ("means2d", "depths", "conics", "splat_opacities", "colors", "background")
SPLAT_FIELDS = ("means2d", "depths", "conics", "opacities")


def close(actual, expected, limit, name, mask=None):
    """Largest absolute difference, relative to the largest magnitude expected, within ``limit``."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, f"{name}: {actual.shape}, expected {expected.shape}"
    assert np.isfinite(actual).all(), f"{name}: not finite"
    if mask is not None:
        actual, expected = actual[mask], expected[mask]
    if actual.size:
        scale = np.abs(expected).max()
        within(np.abs(actual - expected).max(), limit, scale, name)


def close_l2(actual, expected, limit, name):
    """L2 norm of the difference within ``limit`` of the expected norm; zero stays exactly zero."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, f"{name}: {actual.shape}, expected {expected.shape}"
    assert np.isfinite(actual).all(), f"{name}: not finite"
    within(np.linalg.norm(actual - expected), limit, np.linalg.norm(expected), name)


def within(error, limit, scale, name):
    """An error is at most ``limit`` times ``scale``."""
    if "JGD_TEST_ERRORS" in os.environ:  # a file that collects the measured errors
        with open(os.environ["JGD_TEST_ERRORS"], "a") as file:
            file.write(f"{limit:.0e} {error / scale if scale else error:.2e} {name}\n")
    assert error <= limit * scale, (
        f"{name}: error {error:.3e}, scale {scale:.3e}, limit {limit:.0e}"
    )


def same_bits(actual, expected, name):
    """Equal dtype, shape and bits."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.dtype == expected.dtype and actual.shape == expected.shape, name
    if actual.tobytes() != expected.tobytes():
        raise AssertionError(f"{name}: {(actual != expected).sum()} of {actual.size} values differ")


def same_radii(actual, expected, cov2d):
    """Integers are equal, except where the exact radius is next to the rounding step."""
    actual = np.asarray(actual)
    assert actual.dtype == np.int32
    xx, xy, yy = np.moveaxis(cov2d, -1, 0)
    mid = 0.5 * (xx + yy)
    exact = 3 * np.sqrt(mid + np.sqrt(np.maximum(mid**2 - (xx * yy - xy**2), 0)))
    near_step = (np.abs(exact - np.round(exact)) < 1e-5 * exact) & (np.abs(actual - expected) == 1)
    wrong = (actual != expected) & ~(near_step & (actual > 0) & (expected > 0))
    assert not wrong.any(), f"radii: {actual[wrong]}, expected {np.asarray(expected)[wrong]}"


def settings(size, config, sh_degree=None):
    """The reference's settings for a scene's size and the library's config."""
    names = ("near_plane", "far_plane", "eps2d", "footprint", "antialiased", "sh_convention")
    names += ("depth", "ray_depth")
    options = {name: getattr(config, name) for name in names}
    return reference.Settings(size.width, size.height, sh_degree=sh_degree, **options)


@dataclasses.dataclass(frozen=True)
class Size:
    """Static image size of a jitted driver."""

    width: int
    height: int


def make_cotangents(shapes, seed):
    """Normal cotangents, exact in float32."""
    rng = np.random.default_rng(seed)
    return {
        k: rng.normal(size=shape).astype(np.float32).astype(np.float64)
        for k, shape in shapes.items()
    }


def image_cotangents(inputs, size, seed=0):
    """Cotangents of image, depth and weight for a dict of inputs to render or blend."""
    batch = inputs["viewmat"].shape[:-2] if "viewmat" in inputs else inputs["conics"].shape[:-2]
    channels = inputs["colors"].shape[-1] if "colors" in inputs else 3
    shape = (*batch, size.height, size.width)
    return make_cotangents({"image": (*shape, channels), "depth": shape, "weight": shape}, seed)


def expect(stage, inputs, cotangents, static, outputs=OUTPUTS):
    """Reference outputs and gradients, and the cotangents that a library run has to use.

    Those of ``outputs`` only, and zero at the pixels next to a branch.
    """
    every = {k: v if k in outputs else np.zeros_like(v) for k, v in cotangents.items()}
    expected, grads = reference.evaluate_with_gradients(stage, inputs, every, static)
    used = {k: cotangents[k].copy() for k in outputs}
    if "band" in expected:
        for v in used.values():
            v[expected["band"]] = 0
    return expected, grads, used


def _filled(output):
    """The fields of a ``RenderOutput`` that its config fills."""
    return {k: v for k, v in vars(output).items() if v is not None}


def render_call(inputs, size, config, sh_degree):
    """``jgd.render`` from a dict of inputs."""
    gaussians, camera = build(inputs, size)
    extra = {k: inputs[k] for k in RENDER_OPTIONS if k in inputs}
    return _filled(jgd.render(gaussians, camera, sh_degree=sh_degree, config=config, **extra))


def blend_call(inputs, size, config):
    """``jgd.bin`` and ``jgd.blend`` from a dict of inputs as ``reference.blend_stage`` takes it."""
    fields = {k: inputs[k] for k in ("means2d", "depths", "conics", "radii")}
    splats = jgd.Splats(**fields, opacities=inputs["splat_opacities"])
    shape = {"width": size.width, "height": size.height, "config": config}
    order = jgd.bin(jax.lax.stop_gradient(splats), **shape).order
    background = inputs.get("background")
    return _filled(jgd.blend(splats, inputs["colors"], order, background=background, **shape))


@functools.partial(backends.jit, static_argnums=(0, 1))
def _vjp(function, args, inputs, cotangents):
    fixed = {k: v for k, v in inputs.items() if v.dtype.kind != "f"}
    free = {k: v for k, v in inputs.items() if k not in fixed}

    def run(x):
        out = function({**x, **fixed}, *args)
        return {k: out[k] for k in cotangents}, out

    _, pullback, out = jax.vjp(run, free, has_aux=True)
    return out, pullback(cotangents)[0]


def library(function, args, inputs, cotangents):
    """Run a function from a dict to a dict: ``(outputs, gradients)``, both by name."""
    dtype = next(v.dtype for v in inputs.values() if v.dtype.kind == "f")
    inputs = {k: jax.numpy.asarray(v) for k, v in inputs.items()}
    cotangents = {k: jax.numpy.asarray(v, dtype) for k, v in cotangents.items()}
    return jax.tree.map(np.asarray, _vjp(function, args, inputs, cotangents))


def check_images(stage, out, expected, dtype, name):
    """Image, depth and weight agree outside the boundary band, and the band is small."""
    keep = ~expected["band"]
    assert keep.mean() > 0.85, f"{name}: the scene is mostly boundary band"
    for k in OUTPUTS:
        actual = out[k]
        assert actual.dtype == dtype
        close(actual, expected[k], bound(stage, "value", dtype), f"{name} {k}", keep)


def check_gradients(stage, grads, expected, dtype, name):
    """Every gradient agrees in relative L2 norm."""
    assert grads.keys() == expected.keys()
    for k, v in grads.items():
        assert v.dtype == dtype
        close_l2(v, expected[k], bound(stage, "gradient", dtype), f"{name} grad {k}")


def blend_inputs(scene, dtype, config=None):
    """The scene's splats, rounded to float32 so that both dtypes blend the same ones."""
    config = config or jgd.Config()
    splats = reference.evaluate(
        reference.project_stage, scene.inputs(np.float64), settings(scene, config)
    )
    splats["splat_opacities"] = splats.pop("opacities")
    splats |= {"colors": scene.colors, "background": scene.background}
    out = {k: np.asarray(splats[k], np.float32).astype(dtype) for k in BLEND_FLOATS}
    return {**out, "radii": splats["radii"]}


def check_blend(scene, dtype, name, *, config=None, outputs=OUTPUTS, inputs=None):
    """Values and gradients of ``jgd.blend`` against the reference; returns both."""
    config = config or jgd.Config()
    inputs = blend_inputs(scene, dtype, config) if inputs is None else inputs
    static, size = settings(scene, config), Size(scene.width, scene.height)
    cotangents = image_cotangents(inputs, size)
    expected, wanted, used = expect(reference.blend_stage, inputs, cotangents, static, outputs)
    out, grads = library(blend_call, (size, config), inputs, used)
    check_images("blend", out, expected, dtype, name)
    same_bits(out["radii"], inputs["radii"], "radii")
    check_gradients("blend", grads, wanted, dtype, name)
    return out, grads


def check_render(
    scene, dtype, *, name, config=None, sh_degree=None, outputs=OUTPUTS, inputs=None, **form
):
    """Values and gradients of ``jgd.render`` against the reference; returns both.

    ``outputs`` are those that have a cotangent; the others are unused. ``form`` goes to
    ``Scene.inputs`` unless ``inputs`` is given.
    """
    config = config or jgd.Config()
    inputs = scene.inputs(dtype, **form) if inputs is None else inputs
    size, static = Size(scene.width, scene.height), settings(scene, config, sh_degree)
    cotangents = image_cotangents(inputs, size)
    expected, wanted, used = expect(reference.render, inputs, cotangents, static, outputs)
    out, grads = library(render_call, (size, config, sh_degree), inputs, used)
    check_images("render", out, expected, dtype, name)
    same_radii(out["radii"], expected["radii"], expected["cov2d"])
    check_gradients("render", grads, wanted, dtype, name)
    return out, grads
