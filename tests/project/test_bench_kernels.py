"""Checks that the benchmark's own kernels and its model compute what their formulas say.

Their times are not tested.
"""

import json
import pathlib
import shutil
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_benchmarks import load

import jax_gsplat_depth as jgd
from jax_gsplat_depth import _cpu

LANES = {"baseline": 4, "avx2": 8, "avx512": 16}
# Those that this machine has, up to the one that the package chose.
ISAS = list(LANES)[: list(LANES).index(_cpu.isa()) + 1]
LOG2_ALPHA_MIN, ALPHA_MAX = np.log2(1 / 255), 0.99


@pytest.fixture(scope="module")
def native():
    return load("native")


@pytest.fixture(scope="module", params=ISAS)
def kernels(native, request, tmp_path_factory):
    if shutil.which("c++") is None:
        pytest.skip("no C++ compiler found (c++)")
    path = native.compile_kernels(request.param, tmp_path_factory.mktemp("kernels"))
    return native.Kernels(path), LANES[request.param]


def splats_of_all_kinds(n=40):
    """Splats of a tile: seen in a part of it, with a capped alpha, and not at all."""
    rng = np.random.default_rng(3)
    splats = np.empty((n, 10), np.float32)
    splats[:, :2] = rng.uniform(-4, 20, (n, 2))
    splats[:, 2], splats[:, 4] = rng.uniform(-0.1, -0.01, (2, n))
    splats[:, 3] = rng.uniform(-0.015, 0.015, n)
    splats[:, 5] = np.log2(rng.uniform(0.02, 0.6, n))
    splats[::10, 5] = 0  # opacity 1: capped in the middle
    splats[5::10, 5] = -9  # opacity 1/512
    splats[:, 6:] = rng.uniform(0.1, 1, (n, 4))
    return splats


def exponents(splats):
    """log2(alpha), float64 [n, 16, 16], and dx and dy."""
    x, y, xx, xy, yy, log2_opacity = splats[:, :6].astype(np.float64).T[:, :, None, None]
    centers = np.arange(16) + 0.5
    dx, dy = centers - x, centers[:, None] - y
    return log2_opacity + xx * dx**2 + xy * dx * dy + yy * dy**2, dx, dy


def blend(exponent, depths, colors):
    """Transmittance, weight, weighted depth and colours of a tile, in JAX."""
    alpha = jnp.where(exponent >= LOG2_ALPHA_MIN, jnp.minimum(2.0**exponent, ALPHA_MAX), 0.0)
    left = jnp.cumprod(1 - alpha, axis=0)
    w = alpha * jnp.concatenate([jnp.ones_like(left[:1]), left[:-1]])
    summands = jnp.concatenate([jnp.ones_like(colors[:, :1]), depths[:, None], colors], axis=1)
    return jnp.concatenate([left[-1:], jnp.einsum("kyx,kd->dyx", w, summands)])


@pytest.mark.slow
def test_bare_forward(kernels):
    library, _ = kernels
    splats = splats_of_all_kinds()
    exponent, _, _ = exponents(splats)
    # Every branch is taken, and none so narrowly that rounding decides.
    assert np.abs(exponent - LOG2_ALPHA_MIN).min() > 1e-4
    assert 0.2 < (exponent < LOG2_ALPHA_MIN).mean() < 0.8
    assert (2.0**exponent > ALPHA_MAX).any()
    with jax.enable_x64(True):
        depths, colors = (jnp.asarray(v, float) for v in (splats[:, 6], splats[:, 7:]))
        expected = blend(jnp.asarray(exponent), depths, colors)
    np.testing.assert_allclose(library.forward(splats, 2), expected, rtol=1e-4, atol=1e-7)


@pytest.mark.slow
def test_bare_backward(kernels):
    library, _ = kernels
    splats = splats_of_all_kinds()
    exponent, dx, dy = exponents(splats)
    v_image = np.random.default_rng(4).standard_normal((3, 16, 16), np.float32)
    with jax.enable_x64(True):
        depths, colors = (jnp.asarray(v, float) for v in (splats[:, 6], splats[:, 7:]))
        state, pull = jax.vjp(lambda e, c: blend(e, depths, c), jnp.asarray(exponent), colors)
        v_state = jnp.zeros_like(state).at[3:].set(jnp.asarray(v_image, float))
        v_exponent, v_colors = map(np.asarray, pull(v_state))
    # log2(alpha) is log2(opacity) - sigma / ln 2.
    v_sigma = -v_exponent / np.log(2)
    moments = [v_sigma * m for m in (1, dx, dy, dx * dx, dx * dy, dy * dy)]
    expected = np.concatenate([np.stack([m.sum((1, 2)) for m in moments], 1), v_colors], 1)
    transmittance = np.ascontiguousarray(state[0], np.float32)
    got = library.backward(splats, v_image, transmittance, 2)
    scale = np.abs(expected).max(0)
    assert (scale > 0.1).all()
    np.testing.assert_allclose(got / scale, expected / scale, atol=2e-5)


@pytest.mark.slow
def test_bare_kernel_is_timed_on_pairs_that_are_all_drawn(kernels):
    """Nothing is skipped, capped or ended in what peak.py times."""
    library, _ = kernels
    splats, v_image = load("peak").faint_splats(128)
    exponent, _, _ = exponents(splats)
    assert (exponent > LOG2_ALPHA_MIN).all() and (2.0**exponent < ALPHA_MAX).all()
    assert library.forward(splats)[0].min() > 1e-2
    assert v_image.shape == (3, 16, 16) and v_image.dtype == np.float32


@pytest.mark.slow
def test_drawn_pairs(kernels):
    """Against a dense count; in an image that is no multiple of a vector, with pixels that end."""
    library, lanes = kernels
    rng = np.random.default_rng(5)
    n, width, height = 400, 37, 21
    means2d = rng.uniform([-5, -5], [width + 5, height + 5], (n, 2)).astype(np.float32)
    xx, yy = rng.uniform(0.01, 0.3, (2, n))
    xy = rng.uniform(-0.9, 0.9, n) * np.sqrt(xx * yy)
    conics = np.stack([xx, xy, yy], 1).astype(np.float32)
    opacities = rng.uniform(0.001, 1, n).astype(np.float32)
    radii = np.where(np.arange(n) % 7, 9, 0).astype(np.int32)
    order = rng.permutation(n).astype(np.int32)

    pixels = np.stack(np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5), -1)
    left, ended = np.ones((height, width)), np.zeros((height, width), bool)
    drawn_pairs = in_vectors = 0
    for i in order[radii[order] > 0]:
        dx, dy = np.moveaxis(pixels - means2d[i], -1, 0)
        xx, xy, yy = conics[i].astype(float)
        alpha = opacities[i] * np.exp(-0.5 * (xx * dx**2 + yy * dy**2) - xy * dx * dy)
        seen = ~ended & (alpha >= 1 / 255)
        after = left * (1 - np.minimum(alpha, ALPHA_MAX))
        ended |= seen & (after < 1e-4)
        drawn = seen & ~ended
        left = np.where(drawn, after, left)
        drawn_pairs += drawn.sum()
        padded = np.pad(drawn, ((0, 0), (0, -width % lanes)))
        in_vectors += lanes * padded.reshape(height, -1, lanes).any(-1).sum()
    assert ended.mean() > 0.1
    got = library.drawn_pairs(means2d, conics, opacities, radii, order, width, height)
    # A pair in ten thousand may be so near a threshold that rounding decides.
    np.testing.assert_allclose(got, (drawn_pairs, in_vectors), rtol=1e-3)
    assert drawn_pairs < in_vectors


@pytest.mark.slow
def test_drawn_pairs_of_a_scene(kernels):
    """With what the stages return: as many as the sum of what changes the image's weight."""
    library, _ = kernels
    n, width, height = 50, 40, 30
    rng = np.random.default_rng(6)
    means = jnp.asarray(rng.uniform([-1, -1, 2], [1, 1, 4], (n, 3)), jnp.float32)
    quats = jnp.asarray(rng.standard_normal((n, 4)), jnp.float32)
    scales = jnp.asarray(rng.uniform(0.02, 0.2, (n, 3)), jnp.float32)
    opacities = jnp.full((n,), 0.3, jnp.float32)
    colors = jnp.ones((n, 1), jnp.float32)
    K = jnp.asarray([[40, 0, 20], [0, 40, 15], [0, 0, 1]], jnp.float32)
    camera = jgd.Camera(jnp.eye(4, dtype=jnp.float32), K, width=width, height=height)
    splats = jgd.project(jgd.Gaussians(means, quats, scales, opacities, colors=colors), camera)
    bins = jgd.bin(splats, width=width, height=height)
    fields = ("means2d", "conics", "opacities", "radii")
    arrays = [np.asarray(getattr(splats, name)) for name in fields]
    pairs, _ = library.drawn_pairs(*arrays, np.asarray(bins.order), width, height)

    def pixels_of(i):
        """Nothing ends here, so that each splat draws the same pixels as if it were alone."""
        alone = splats.opacities.at[:].set(0).at[i].set(splats.opacities[i])
        out = jgd.blend(
            jgd.Splats(splats.means2d, splats.depths, splats.conics, alone, splats.radii),
            *(colors, bins.order),
            width=width,
            height=height,
        )
        return int((np.asarray(out.weight) > 0).sum())

    everything = jgd.blend(splats, colors, bins.order, width=width, height=height)
    assert float(everything.weight.max()) < 0.999
    expected = sum(pixels_of(i) for i in range(n))
    assert expected > 1000 and abs(pairs - expected) <= 2


def test_limits_of_the_machine(kernels):
    library, lanes = kernels
    assert library.multiply_adds(7) == 7 * 10 * 2 * lanes
    b, c = np.arange(5.0), np.arange(5.0) + 2
    a = np.empty(5)
    library.triad(a, b, c, 3.0)
    np.testing.assert_array_equal(a, b + 3 * c)


def test_threads_run_at_the_same_time():
    """Each call waits for the others: one after the other they would not come back."""
    barrier = threading.Barrier(3)
    assert load("peak").best_seconds(lambda thread: barrier.wait(20), 3, repeats=2) > 0


def test_flags_of_the_build(native):
    assert native.isa_flags("baseline") == []
    assert {"-mavx2", "-mfma"} <= set(native.isa_flags("avx2"))
    with pytest.raises(ValueError, match="no instruction set 'mmx'"):
        native.isa_flags("mmx")


def test_amdahl():
    """By hand: 10 % serial takes 100 ms to 55 on two threads, to 15.625 on sixteen."""
    scaling = load("scaling")
    assert scaling.serial_fraction(100, 55, 2) == pytest.approx(0.1)
    assert scaling.serial_fraction(100, 32.5, 4) == pytest.approx(0.1)
    assert scaling.serial_fraction(100, 45, 2) == 0  # faster than by a factor of two: noise
    assert scaling.serial_fraction(100, 120, 2) == 1
    assert scaling.modelled(100, 0.1, 16, memory=3) == pytest.approx(15.625)
    assert scaling.modelled(100, 0.1, 16, memory=20) == 20


def scene_result(threads, blend_ms, forward_ms):
    result = {
        "scene": "s",
        "source": "frozen",
        "threads": threads,
        "colors": "rgb",
        "cotangents": "image",
        "n_gaussians": 1000,
        "width": 100,
        "height": 10,
        "n_intersections": 5000,
        "stages": {"project_forward": {"best_ms": 1.0}, "blend_forward": {"best_ms": blend_ms}},
    }
    times = {"best_ms": forward_ms, "median_ms": forward_ms, "peak_bytes": None}
    return result | {"renderers": {"package": {"forward": times, "forward_backward": times}}}


def test_scaling_table():
    """By hand, with a memory of 0.1 GB/s."""
    report = {
        "results": [scene_result(2, 6.0, 8.0), scene_result(1, 10.0, 12.0)],
        "machine": [{"threads": 2, "bytes_per_second": 1e8}, {"threads": 1, "bytes_per_second": 1}],
    }
    rows = {row["what"]: row for row in load("scaling").table(report)}
    assert list(rows) == ["project_forward", "blend_forward", "forward", "forward_backward"]
    project = rows["project_forward"]
    assert project["serial_fraction"] == 1 and project["model_ms"] == 1
    assert project["memory_ms"] == pytest.approx(1000 * 19 * 4 / 1e8 * 1e3)
    blend = rows["blend_forward"]
    n_bytes = 1000 * (2 * 64 + 12) + 5000 * 2 * 4 + 1000 * 7 * 4
    assert blend["memory_ms"] == pytest.approx(n_bytes / 1e5)
    assert blend["serial_fraction"] == pytest.approx(0.2)
    assert blend["model_ms"] == pytest.approx(10 * (0.2 + 0.8 / 16))
    assert rows["forward"]["memory_ms"] == project["memory_ms"] + blend["memory_ms"]
    report["results"].pop()
    assert load("scaling").table(report) == []


def test_compare(tmp_path):
    """Ratios of the whole, the stages, the calls and the bare kernel."""

    def report(factor):
        machine = {"pairs_per_second": {"forward": 1e9 / factor}, "threads": 2}
        calls = {"forward": {"best_us": 100.0 * factor}}
        return {
            "hardware": {"cpu": "c"},
            "versions": {"jax": "1"},
            "results": [scene_result(2, 6.0 * factor, 8.0)],
            "machine": [machine],
            "small_scene": [{"scene": "small", "threads": 2, "calls": calls}],
        }

    text = load("report").compare(report(2), report(1))
    assert "| s | 2 | rgb | image | stage blend_forward | 12.0 | 6.000 | 2.00x |" in text
    assert "| s | 2 | rgb | image | stage project_forward | 1.000 | 1.000 | 1.00x |" in text
    assert "| s | 2 | rgb | image | package forward | 8.000 | 8.000 | 1.00x |" in text
    assert "| small | 2 | rgb | image | call forward | 0.200 | 0.100 | 2.00x |" in text
    assert "| - | 2 | rgb | image | bare forward, 1e6 pairs | 2.000 | 1.000 | 2.00x |" in text
    assert "Different machine" not in text
    # A result of an earlier version has neither calls nor a machine.
    old = {k: v for k, v in report(4).items() if k not in ("machine", "small_scene")}
    text = load("report").compare(old, report(1))
    assert "stage blend_forward | 24.0 | 6.000 | 4.00x |" in text and "bare" not in text


def test_mitsuba_table():
    """By hand; without the option there is no table."""
    times = {mode: {"best_ms": ms} for mode, ms in (("forward", 800), ("forward_backward", 2000))}
    traced = {"scene": "s", "source": "frozen", "threads": 2, "version": "3", "psnr": 27.04}
    report = {
        "results": [scene_result(2, 6.0, 8.0)],
        "mitsuba": [traced | {"modes": times}, traced | {"threads": 1, "modes": times}],
    }
    lines = load("report")._mitsuba_table(report).splitlines()
    assert lines[-2] == "| s | 2 | 3 | 800 / 2000 | 100x / 250x | 27.0 |"
    assert lines[-1] == "| s | 1 | 3 | 800 / 2000 | - | 27.0 |"
    assert load("report")._mitsuba_table({"results": []}) == ""


def test_committed_results_are_readable():
    """The table beside them is what this version makes of them."""
    folder = pathlib.Path(__file__).resolve().parents[2] / "benchmarks" / "results"
    if not folder.exists():
        pytest.skip("no results here: they are left out of the source distribution")
    report = json.loads((folder / "cpu.json").read_text())
    assert load("report").markdown(report).strip() == (folder / "cpu.md").read_text().strip()
