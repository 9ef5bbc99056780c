"""Checks that the benchmark's baseline draws the same pictures, and that the benchmark runs."""

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
from helpers import reference

import jax_gsplat_depth as jgd

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "benchmarks"
OUTPUTS = ("image", "depth", "weight")


def load(name):
    """A module of the benchmarks folder, under a name that no test module has."""
    spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    sys.path.insert(0, str(FOLDER))  # where it finds its siblings
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(FOLDER))
    return module


@pytest.fixture(scope="module")
def pure_jax():
    return load("pure_jax")


@pytest.mark.parametrize("color", ["colors", "sh"])
@pytest.mark.slow
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


def test_stand_in_scenes():
    """Without the frozen scenes there are own ones of the same size, the same every time."""
    scenes = load("scenes")
    absent = pathlib.Path("absent")
    for name, n, shape in (
        ("garden_half", 138_766, (210, 324, 3)),
        ("garden", 138_766, (420, 648, 3)),
        ("blob_10k_480p", 10_000, (480, 640, 3)),
        ("blob_100k_gpu", 100_000, (1080, 1920, 3)),
    ):
        scene, source = scenes.load(name, absent)
        again, _ = scenes.load(name, absent)
        assert source == "stand-in"
        assert scene["means"].shape == (n, 3) and scene["cotangent"].shape == shape
        for k, value in scene.items():
            assert value.dtype in (np.float32, np.int32) and np.isfinite(value).all()
            np.testing.assert_array_equal(value, again[k])
    with pytest.raises(ValueError, match="no scene is called 'blob'"):
        scenes.load("blob")
    with pytest.raises(FileNotFoundError):
        scenes.load("trained", absent)


def test_frozen_gpu_scenes(shared):
    """The blobs of the GPU are the frozen ones but for their scales."""
    scenes = load("scenes")
    scene, source = scenes.load("blob_100k_gpu", shared)
    full, _ = scenes.load("blob_100k_1080p", shared)
    assert source == "frozen"
    for k, value in scene.items():
        factor = scenes.GPU_BLOBS["blob_100k_gpu"][1] if k == "scales" else 1
        np.testing.assert_allclose(value, full[k] * np.asarray(factor, value.dtype), rtol=1e-6)
    trained, source = scenes.load("trained", shared)
    assert source == "frozen" and trained["sh"].shape == (31_000, 16, 3)
    assert trained.keys() == scene.keys()


def run_script(name, *arguments, **variables):
    """A script of the benchmarks folder in a process of its own."""
    # The suite's fake devices would enlarge XLA's thread pool; a script finds its siblings through
    # its own folder, which the suite takes off the path.
    dropped = ("XLA_FLAGS", "PYTHONSAFEPATH")
    environment = {k: v for k, v in os.environ.items() if k not in dropped} | variables
    command = [sys.executable, str(FOLDER / name), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)


@pytest.mark.slow
def test_benchmark_runs(tmp_path):
    """One tiny scene: the table is printed and the results are complete."""
    path = tmp_path / "results" / "tiny.json"
    arguments = ("--scenes", "blob_1k_tiny", "--repeats", 1, "--threads", 1, "--colors", "sh")
    done = run_script("bench_cpu.py", *arguments, "--json", path)
    assert done.returncode == 0, done.stderr
    assert "| blob_1k_tiny" in done.stdout
    report = json.loads(path.read_text())
    assert report["hardware"]["cpu"] and report["versions"]["jax"] == jax.__version__
    assert [result["cotangents"] for result in report["results"]] == ["image", "all"]
    for result in report["results"]:
        assert result["threads"] == 1 and result["n_intersections"] > 0
        # A branch may flip in a pixel or two, so the largest difference says nothing.
        assert result["image_difference"]["mean"] < 1e-5
        times = [mode for modes in result["renderers"].values() for mode in modes.values()]
        times += result["stages"].values()
        assert len(times) == 4 + 7
        assert all(t["best_ms"] > 0 and len(t["times_ms"]) == 1 for t in times)
        pairs = result["pairs"]
        assert pairs["listed"] == 256 * result["n_intersections"]
        assert 0 < pairs["drawn"] < pairs["in_drawn_vectors"] < pairs["listed"]
    image, both = report["results"]
    for mode, same in (("forward", True), ("forward_backward", False)):
        times = [result["renderers"]["package"][mode] for result in (image, both)]
        assert (times[0] == times[1]) == same  # forward knows no loss
    assert image["stages"]["bin"] == both["stages"]["bin"]
    assert image["stages"]["blend_backward"] != both["stages"]["blend_backward"]
    (machine,) = report["machine"]
    assert machine["threads"] == 1 and len(machine["pairs_per_second"]) == 2
    assert machine["flops_per_second"] > machine["pairs_per_second"]["forward"]
    assert len(report["small_scene"]) == 1
    for heading in (
        "The package,",
        "Beside other",
        "What the machine",
        "Stages of",
        "Blend beside",
    ):
        assert heading in done.stdout
    assert "Cost of a call" in done.stdout and "model" not in done.stdout  # that needs two counts
    show = run_script("bench_cpu.py", "--show", path)
    assert show.stdout == done.stdout

    done = run_script("bench_cpu.py", "--compare", path, path)
    assert done.returncode == 0, done.stderr
    assert "| package forward |" in done.stdout and "1.00x" in done.stdout
    assert "Different machine" not in done.stdout


@pytest.mark.slow
def test_cost_of_a_call():
    """Without a compiler the empty FFI calls are missing, and the run says so."""
    arguments = ("--fixed-cost", "--threads", 1, "--repeats", 1)
    done = run_script("bench_cpu.py", *arguments, CXX="no-such-compiler")
    assert done.returncode == 0, done.stderr
    assert "left out what needs compile_empty_call" in done.stderr
    assert "| render no Gaussians |" in done.stdout and "| forward + backward |" in done.stdout
    assert "FFI call" not in done.stdout and "Stages" not in done.stdout


def test_mitsuba():
    """Where it is installed, it draws a like picture."""
    pytest.importorskip("mitsuba")
    options = {"scene": "blob_1k_256", "threads": 1, "repeats": 1, "max_seconds": 1}
    done = run_script("measure_mitsuba.py", json.dumps(options))
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["psnr"] > 25
    assert all(mode["best_ms"] > 0 for mode in result["modes"].values())


# A library with the arguments of splax that draws with the package under test. Its image is too
# bright by SHIFT.
FAKE_SPLAX = """
import jax.numpy as jnp
import jax_gsplat_depth as jgd

def render(means3d, log_scales, quats, sh_colors, logit_opacities, *, viewmat, background,
           img_shape, f, c, clip_thresh, render_depth):
    height, width = img_shape
    K = jnp.array([[f[0], 0, c[0]], [0, f[1], c[1]], [0, 0, 1]], jnp.float32)
    gaussians = jgd.Gaussians(
        means3d, quats, jnp.exp(log_scales), 1 / (1 + jnp.exp(-logit_opacities)), sh=sh_colors
    )
    camera = jgd.Camera(viewmat, K, width=width, height=height)
    out = jgd.render(gaussians, camera, background=background)
    image = out.image + SHIFT
    if render_depth:
        image = jnp.concatenate([image, out.depth[..., None]], -1)
    return image, out.weight
"""


def run_bench_gpu(tmp_path, *arguments, **variables):
    """On a tiny scene; returns the process and the result of the scene."""
    path = tmp_path / "results" / "tiny.json"
    done = run_script(
        "bench_gpu.py",
        *("--scenes", "blob_1k_tiny", "--repeat", 1, "--output", path, *arguments),
        **variables,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(path.read_text())
    assert report["versions"]["jax"] == jax.__version__ and "bench_gpu.py" in report["command"]
    (result,) = report["results"]
    return done, result


@pytest.mark.slow
def test_gpu_benchmark_runs(tmp_path):
    """Also without a GPU, where its numbers say nothing: all that the tables need is there."""
    arguments = ("--libraries", "jax_gsplat_depth", "gsplat", "--capacity", 50, "--deterministic")
    done, result = run_bench_gpu(tmp_path, *arguments)
    scene = result["reference"]
    assert scene["n_gaussians"] == 1000 and scene["n_tiles"] == 15 and scene["n_isects"] > 0
    assert scene["mean_list"] == scene["n_isects"] / 15 and 1 < scene["pairs_per_pixel"] < 50
    ours = result["libraries"]["jax_gsplat_depth"]
    assert ours["settings"] == {"capacity": 50, "deterministic": True}
    assert ours["accuracy"]["all"]["psnr"] > 60 and ours["accuracy"]["gradient"] < 1e-2
    assert ours["n_isects"] == scene["n_isects"]
    times = [mode for modes in ours["times"].values() for mode in modes.values()]
    assert len(times) == 4 and all(t["planned_bytes"] > 0 and t["queued_ms"] > 0 for t in times)
    times += ours["stages"].values()
    assert len(times) == 4 + 7
    assert all(0 < t["best_ms"] <= t["median_ms"] for t in times)
    for heading in ("Scenes.", "Times in ms", "Stages of the package"):
        assert heading in done.stdout
    assert "| blob_1k_tiny | jax_gsplat_depth" in done.stdout
    if importlib.util.find_spec("gsplat") is None:  # it does not hide the others
        assert "No module named 'gsplat'" in result["libraries"]["gsplat"]["error"]
        assert "- blob_1k_tiny, gsplat: ModuleNotFoundError" in done.stdout

    show = run_script("bench_gpu.py", "--show", tmp_path / "results" / "tiny.json")
    assert show.stdout == done.stdout


@pytest.mark.parametrize("shift", [0.0, 0.1])
@pytest.mark.slow
def test_gpu_benchmark_compares_pictures(tmp_path, shift):
    """A library gets its arguments in its own convention, and no time for a wrong picture."""
    (tmp_path / "splax.py").write_text(FAKE_SPLAX.replace("SHIFT", str(shift)))
    path = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    done, result = run_bench_gpu(
        tmp_path, "--no-stages", "--libraries", "jax_gsplat_depth", "splax", PYTHONPATH=path
    )
    assert "stages" not in result["libraries"]["jax_gsplat_depth"]
    other = result["libraries"]["splax"]
    if shift:
        assert "times" not in other
        assert "differs from the reference: psnr 20" in other["error"]
        assert "faster by" not in done.stdout
        return
    assert other["accuracy"]["all"]["psnr"] > 60 and other["accuracy"]["gradient"] < 1e-3
    assert set(other["accuracy"]["gradient_norms"]) == {"means", "quats", "sh"}
    assert other["times"]["all"]["forward_backward"]["median_ms"] > 0
    assert "| blob_1k_tiny | image, depth, weight |" in done.stdout
    assert "faster by" in done.stdout


def test_gpu_benchmark_has_a_time_limit(tmp_path):
    """What is not begun in time is reported; nothing is lost."""
    path = tmp_path / "tiny.json"
    done = run_script("bench_gpu.py", "--scenes", "blob_1k_tiny", "--seconds", 0, "--output", path)
    assert done.returncode == 1
    assert "- blob_1k_tiny, reference: not run: no time was left" in done.stdout
    assert set(json.loads(path.read_text())["results"][0]["libraries"]) == {
        "jax_gsplat_depth",
        "gsplat",
        "splax",
    }


def test_limits_of_the_stages():
    """By hand: 1e6 Gaussians and 1e7 pairs on an H200."""
    limit = load("report_gpu").stage_limit_ms
    assert limit("project_forward", 10**6, 10**7) == pytest.approx(76e6 / 4.3e12 * 1e3)
    assert limit("blend_forward", 10**6, 10**7) == pytest.approx(
        (2.56e9 / 1.8e12 + 44e7 / 4.3e12) * 1e3
    )


@pytest.mark.slow
def test_scene_for_the_sanitizer():
    """Its cases run, on whatever device there is."""
    done = run_script("sanitize_scene.py")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(": ok\n") == 7 and "not finite" not in done.stdout
