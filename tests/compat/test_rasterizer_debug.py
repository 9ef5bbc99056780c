"""Tests what ``debug`` and ``prefiltered`` of the original interface save and report."""

import functools
import os
import pathlib
import subprocess
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import compilation
from helpers.asserts import same_bits
from helpers.rasterizer_inputs import OUTPUTS, gaussians, render, settings

from jax_gsplat_depth.compat import _rasterizer

# ------------------------------------------------------------------------------- debug, prefiltered


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty current folder for the files, and room for them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(_rasterizer._recorder, "_kept", [])
    yield tmp_path
    jax.effects_barrier()
    assert not _rasterizer._recorder._running


def saved(folder):
    """The one file."""
    (path,) = folder.iterdir()
    return path


def modes(f):
    """The function as it is, compiled, and mapped over one example."""
    mapped = jax.vmap(f)

    def squeezed(*args):
        added = jax.tree.map(lambda v: jnp.asarray(v)[None], args)
        return jax.tree.map(lambda v: v[0], mapped(*added))

    return {"eager": f, "jit": jax.jit(f), "vmap": squeezed}


@pytest.mark.parametrize("mode", ["eager", "jit", "vmap"])
@pytest.mark.quick(mode=["jit"])
def test_debug_of_a_result_that_is_not_finite(backend, folder, mode):
    x = gaussians()
    bg = np.array([0.1, np.inf, 0.2], np.float32)
    raster_settings = settings(debug=True, bg=bg, sh_degree=np.int64(1), image_width=np.int32(40))
    message = r"forward pass.*: rendered_image\[1, 0, 0\] and \d+ more of 2880.*bg\[1\] and 0 more"
    with pytest.warns(RuntimeWarning, match=message) as caught:
        out = modes(lambda x: render(raster_settings, x))[mode](x)
        jax.block_until_ready(out)
        jax.effects_barrier()
    path = saved(folder)
    assert str(path) in str(caught[0].message)
    rasterizer, arguments, cotangents = _rasterizer.load_snapshot(path)
    assert arguments.keys() == x.keys() and not cotangents
    assert not rasterizer.raster_settings.debug
    again = jax.jit(lambda x: rasterizer(**x))(arguments)
    expected = jax.jit(lambda x: render(raster_settings._replace(debug=False), x))(x)
    for name, a in zip(OUTPUTS, again, strict=True):
        same_bits(a, expected[name], name)
        np.testing.assert_allclose(out[name], a, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["eager", "jit", "vmap"])
def test_debug_of_a_gradient_that_is_not_finite(backend, folder, mode):
    x = gaussians()
    raster_settings = settings(debug=True)

    def loss(x):
        image = render(raster_settings, x)["rendered_image"]
        # The slope of the root is infinite where the image is black.
        return jnp.sum(jnp.sqrt(image))

    with pytest.warns(RuntimeWarning, match=r"backward pass.*cotangent of rendered_image\[0, "):
        grads = modes(jax.grad(loss))[mode](x)
        jax.block_until_ready(grads)
        jax.effects_barrier()
    rasterizer, arguments, cotangents = _rasterizer.load_snapshot(saved(folder))
    assert set(cotangents) == set(OUTPUTS) - {"radii"}

    def run(x):
        out = dict(zip(OUTPUTS, rasterizer(**x), strict=True))
        return {k: out[k] for k in cotangents}

    again = jax.vjp(run, arguments)[1](cotangents)[0]
    for k, v in grads.items():
        np.testing.assert_allclose(again[k], v, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mode", ["eager", "jit", "vmap"])
@pytest.mark.quick(mode=["jit"])
def test_debug_changes_nothing_and_leaves_nothing(backend, folder, mode):
    x = gaussians()

    def run(raster_settings, x):
        out = render(raster_settings, x)
        return sum(jnp.sum(jnp.square(out[k])) for k in OUTPUTS if k != "radii"), out

    with warnings.catch_warnings(action="error"):
        results = [
            modes(jax.value_and_grad(functools.partial(run, settings(debug=debug)), has_aux=True))[
                mode
            ](x)
            for debug in (False, True)
        ]
        jax.block_until_ready(results)
        jax.effects_barrier()
    for a, e in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-4, atol=1e-4)
    assert not list(folder.iterdir())


@pytest.mark.quick(mode=["jit"])
@pytest.mark.parametrize("watch_values", [True, False])
@pytest.mark.parametrize("mode", ["eager", "jit"])
def test_under_checkpoint(folder, mode, watch_values):
    """The file is written again when the forward pass is repeated, and removed."""

    def run(inputs):
        image = jnp.square(inputs["means3D"])
        return image, jnp.zeros(len(image), jnp.int32), image[:, 0], image[:, 1]

    @jax.checkpoint
    def total(means):
        hidden = None if watch_values else means[:, 0] < 0
        out = _rasterizer._recorder.recorded(
            run, {}, {"means3D": means}, hidden, watch_values=watch_values
        )
        return out[0].sum()

    means = jnp.arange(1.0, 7.0).reshape(2, 3)
    with warnings.catch_warnings(action="error"):
        grads = modes(jax.grad(total))[mode](means)
        jax.block_until_ready(grads)
        jax.effects_barrier()
    np.testing.assert_array_equal(grads, 2 * means)
    assert not list(folder.iterdir())
    with pytest.warns(RuntimeWarning, match="not finite" if watch_values else "prefiltered"):
        modes(jax.grad(total))[mode](means.at[0, 0].set(jnp.nan if watch_values else -1))
        jax.effects_barrier()
    assert list(folder.iterdir())


@pytest.mark.slow
def test_debug_of_a_bad_input_that_is_only_culled(backend, folder):
    x = gaussians()
    x["means3D"] = x["means3D"].at[5, 1].set(jnp.nan)
    with pytest.warns(RuntimeWarning, match=r"forward pass.*: means3D\[5, 1\] and 0 more of 36"):
        jax.block_until_ready(render(settings(debug=True), x))
        jax.effects_barrier()
    assert saved(folder)


@pytest.mark.quick(mode=["eager"])
@pytest.mark.parametrize("mode", ["eager", "jit"])
def test_debug_of_a_call_that_fails(folder, monkeypatch, capsys, mode):
    def fail(options, x):
        def raise_error(_):
            raise RuntimeError("the device is gone")

        out = original(options, x)
        image = jax.pure_callback(raise_error, out[0], out[0])
        return image, *out[1:]

    original = _rasterizer._rasterize
    monkeypatch.setattr(_rasterizer, "_rasterize", fail)
    x = gaussians()
    with pytest.raises(Exception, match="the device is gone") as caught:
        jax.block_until_ready(modes(lambda x: render(settings(debug=True), x))[mode](x))
    path = saved(folder)
    if mode == "eager":
        assert str(path) in " ".join(caught.value.__notes__)
    _rasterizer._recorder._report_unfinished()
    assert f"did not finish; its inputs are in {path}" in capsys.readouterr().err
    _rasterizer._recorder._running.clear()
    assert _rasterizer.load_snapshot(path).arguments.keys() == x.keys()


def test_debug_does_not_fill_the_disk(folder, monkeypatch):
    monkeypatch.setattr(_rasterizer._recorder, "MAX_KEPT", 2)
    raster_settings = settings(debug=True, bg=np.full(3, np.nan, np.float32))
    run = jax.jit(lambda x: render(raster_settings, x))
    for i in range(4):
        message = "the inputs are in" if i < 2 else "nothing saved, this process has saved 2 files"
        with pytest.warns(RuntimeWarning, match=message):
            jax.block_until_ready(run(gaussians()))
            jax.effects_barrier()
    assert len(list(folder.iterdir())) == 2


ONE_CORE = """
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import jax
from helpers.rasterizer_inputs import gaussians, render, settings

x = gaussians(5000)
grad = jax.grad(lambda x: render(settings(debug=True), x)["rendered_image"].sum())
for f in (grad, jax.jit(grad)):
    jax.block_until_ready(f(x))
jax.effects_barrier()
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cannot choose a core")
@pytest.mark.slow
def test_debug_does_not_hang_with_one_core(tmp_path):
    """A callback that waits for an array of more than 100 kB does."""
    environment = os.environ | {"XLA_FLAGS": compilation.as_flags()}
    environment |= {"PYTHONPATH": str(pathlib.Path(__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", ONE_CORE],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["eager", "jit", "vmap"])
@pytest.mark.quick(mode=["jit"])
def test_prefiltered(backend, folder, mode):
    x = gaussians()
    run = modes(lambda x: render(settings(prefiltered=True), x))[mode]
    with warnings.catch_warnings(action="error"):
        jax.block_until_ready(run(x))
        jax.effects_barrier()
    assert not list(folder.iterdir())
    x["means3D"] = x["means3D"].at[3, 2].set(-1.0).at[7, 2].set(0.2)
    message = r"prefiltered is True, but 2 of 12 points.*means3D\[3\].*the inputs are in"
    with pytest.warns(RuntimeWarning, match=message):
        out = jax.block_until_ready(run(x))
        jax.effects_barrier()
    rasterizer, arguments, _ = _rasterizer.load_snapshot(saved(folder))
    assert not rasterizer.raster_settings.prefiltered
    again = rasterizer(**arguments)
    np.testing.assert_allclose(again[0], out["rendered_image"], rtol=1e-5, atol=1e-6)
    grads = jax.grad(lambda x: run(x)["rendered_image"].sum())
    with pytest.warns(RuntimeWarning, match="prefiltered is True"):
        assert np.any(jax.block_until_ready(grads(x)["means3D"]))
        jax.effects_barrier()
    assert pathlib.Path.cwd() == folder
