"""The benchmark's baseline draws the same pictures, and the benchmark itself runs."""

import dataclasses
import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

import jax_gsplat_depth as jgd

FOLDER = pathlib.Path(__file__).resolve().parents[1] / "benchmarks"
OUTPUTS = ("image", "depth", "weight")


def load(name):
    """A module of the benchmarks folder, under a name that no test module has."""
    spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pure_jax():
    return load("pure_jax")


@pytest.mark.parametrize("color", ["colors", "sh"])
def test_baseline_agrees(pure_jax, color):
    """With the dense float64 reference and with the package, outputs and gradients."""
    scene, _ = load("scenes").load("blob_1k_tiny")
    width, height = int(scene["width"]), int(scene["height"])
    inputs = {k: scene[k][:200] for k in ("means", "quats", "scales", "opacities", color)}
    inputs |= {k: scene[k] for k in ("viewmat", "K", "background")}
    size = reference.Settings(width, height)
    expected = reference.evaluate(reference.render, inputs, size)
    keep = ~expected["band"]
    rng = np.random.default_rng(0)
    cotangents = {k: rng.standard_normal(expected[k].shape) for k in OUTPUTS}
    for v in cotangents.values():
        v[~keep] = 0  # where a branch may flip
    expected_gradients = reference.gradients(reference.render, inputs, cotangents, size)

    def package(p):
        gaussians = {k: v for k, v in p.items() if k not in ("viewmat", "K", "background")}
        camera = jgd.Camera(p["viewmat"], p["K"], width=width, height=height)
        out = jgd.render(jgd.Gaussians(**gaussians), camera, background=p["background"])
        return out.image, out.depth, out.weight

    settings = pure_jax.Settings(width, height, chunk=2, group=8)

    def baseline(p):
        return pure_jax.render(pure_jax.Scene(**p), settings)

    inputs = {k: jnp.asarray(v) for k, v in inputs.items()}
    v_outputs = tuple(jnp.asarray(cotangents[k], jnp.float32) for k in OUTPUTS)
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        capacity = pure_jax.required_capacity(pure_jax.Scene(**inputs), settings)
        settings = dataclasses.replace(settings, capacity=capacity)
        results = {}
        for name, render in (("baseline", baseline), ("package", package)):
            outputs, pull = jax.vjp(jax.jit(render), inputs)
            results[name] = outputs, pull(v_outputs)[0]
    for name, (outputs, gradients) in results.items():
        for k, value in zip(OUTPUTS, outputs, strict=True):
            error = np.abs(np.asarray(value) - expected[k])[keep].max()
            assert error < 1e-4, f"{name} {k}: {error}"
        for k, value in gradients.items():
            wanted = expected_gradients[k]
            error = np.linalg.norm(np.asarray(value) - wanted) / np.linalg.norm(wanted)
            assert error < 2e-4, f"{name} gradient of {k}: {error}"


def test_stand_in_scenes(monkeypatch):
    """Without the frozen scenes there are own ones of the same size, the same every time."""
    scenes = load("scenes")
    monkeypatch.setattr(scenes, "_FROZEN", pathlib.Path("absent"))
    for name, n, shape in (
        ("garden_half", 138_766, (210, 324, 3)),
        ("blob_10k_480p", 10_000, (480, 640, 3)),
    ):
        scene, source = scenes.load(name)
        again, _ = scenes.load(name)
        assert source == "stand-in"
        assert scene["means"].shape == (n, 3) and scene["cotangent"].shape == shape
        for k, value in scene.items():
            assert value.dtype in (np.float32, np.int32) and np.isfinite(value).all()
            np.testing.assert_array_equal(value, again[k])
    with pytest.raises(ValueError, match="no scene is called 'blob'"):
        scenes.load("blob")


def test_benchmark_runs(tmp_path):
    """One tiny scene: the table is printed and the results are complete."""
    path = tmp_path / "results" / "tiny.json"
    command = [sys.executable, str(FOLDER / "bench_cpu.py"), "--scenes", "blob_1k_tiny"]
    command += ["--repeats", "1", "--threads", "1", "--colors", "sh", "--json", str(path)]
    # The suite's fake devices would enlarge XLA's thread pool; a script finds its siblings through
    # its own folder, which the suite takes off the path.
    dropped = ("XLA_FLAGS", "PYTHONSAFEPATH")
    environment = {k: v for k, v in os.environ.items() if k not in dropped}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "| blob_1k_tiny" in done.stdout
    report = json.loads(path.read_text())
    assert report["hardware"]["cpu"] and report["versions"]["jax"] == jax.__version__
    (result,) = report["results"]
    assert result["threads"] == 1 and result["n_intersections"] > 0
    # A branch may flip in a pixel or two, so the largest difference says nothing.
    assert result["image_difference"]["mean"] < 1e-5
    times = [mode for modes in result["renderers"].values() for mode in modes.values()]
    times += result["stages"].values()
    assert len(times) == 4 + 7
    assert all(t["best_ms"] > 0 and len(t["times_ms"]) == 1 for t in times)

    command = [sys.executable, str(FOLDER / "bench_cpu.py"), "--compare", str(path), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "| package forward |" in done.stdout and "1.00x" in done.stdout
