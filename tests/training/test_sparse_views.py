"""Tests depth supervision with few views: the capture, the loss, the command, the example."""

import dataclasses
import importlib.util
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.commands import run
from PIL import Image

pytest.importorskip("optax")
pytest.importorskip("dm_pix")

import jax_gsplat_depth as jgd
from jax_gsplat_depth import datasets, evaluation, fit
from jax_gsplat_depth.fit import FitError, FitSettings, _depth, _loss, _views


@pytest.fixture(scope="module")
def capture():
    return datasets.builtin_capture(n_views=18, width=64, height=48, n_points=1500)


@pytest.fixture(scope="module")
def sparse(capture):
    return datasets.select_views(datasets.monocular_like(capture), 3)


@pytest.fixture(scope="module")
def example():
    path = Path(__file__).parents[2] / "examples" / "sparse_views.py"
    spec = importlib.util.spec_from_file_location("sparse_views", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def aligned(prior, depth):
    """Return the prior after the least-squares line to the depth."""
    known = depth > 0
    slope, intercept = np.polyfit(prior[known].astype(float), depth[known].astype(float), 1)
    return slope, slope * prior + intercept


@pytest.mark.slow
def test_priors_are_the_depth_up_to_a_line_and_noise(capture):
    priors = datasets.monocular_like(capture, seed=3).depth_priors
    assert priors.dtype == np.float32 and priors.shape == capture.depths.shape
    assert (priors > 0).all() and np.isfinite(priors).all()
    slopes, errors = [], []
    for prior, depth in zip(priors, capture.depths, strict=True):
        slope, back = aligned(prior, depth)
        slopes.append(slope)
        errors.append(back / depth - 1)
    # a in 0.3..3 is the inverse of the slope, which errors in the prior flatten by a few percent.
    assert 0.3 < min(slopes) < 0.7 and 1.5 < max(slopes) < 3.4
    # The line takes some of the smooth noise with it.
    assert 0.015 < np.std(errors) < 0.04
    # White noise of 1 %: what is left of a difference of neighbours, where the depth is smooth.
    differences = np.diff(np.stack(errors), axis=2) / np.sqrt(2)
    assert 0.008 < 1.4826 * np.median(np.abs(differences)) < 0.015


@pytest.mark.slow
def test_priors_depend_on_the_seed_and_respect_holes(capture):
    holes = capture.depths.copy()
    holes[:, :5] = 0
    holes[1] = 0
    with_holes = dataclasses.replace(capture, depths=holes)
    first, again, other = (
        datasets.monocular_like(with_holes, seed).depth_priors for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other)[holes > 0].mean() > 0.9
    np.testing.assert_array_equal(first > 0, holes > 0)
    with pytest.raises(datasets.CaptureError, match="no depth"):
        datasets.monocular_like(dataclasses.replace(capture, depths=None))


@pytest.mark.parametrize("n", [1, 2, 3, 15])
def test_selected_views_are_spread_and_complete(capture, n):
    selected = datasets.select_views(datasets.monocular_like(capture), n)
    kept = [capture.names.index(selected.names[i]) for i in selected.train_indices]
    assert len(kept) == n and set(kept) <= set(capture.train_indices)
    ranks = np.searchsorted(capture.train_indices, kept)
    gaps = np.diff(ranks)
    assert n == 1 or gaps.max() - gaps.min() <= 1
    assert [selected.names[i] for i in selected.test_indices] == [
        capture.names[i] for i in capture.test_indices
    ]
    assert selected.names == sorted(selected.names)
    for name, i in zip(selected.names, range(len(selected.names)), strict=True):
        j = capture.names.index(name)
        for field in ("images", "viewmats", "Ks", "depths"):
            np.testing.assert_array_equal(getattr(selected, field)[i], getattr(capture, field)[j])
    assert selected.depth_priors.shape == selected.depths.shape
    if n == 15:
        np.testing.assert_array_equal(selected.points, capture.points)


def test_selected_views_keep_only_points_that_two_of_them_see(capture):
    selected = datasets.select_views(capture, 3)
    n_seen = np.zeros(len(capture.points), int)
    for view in selected.train_indices:
        out = jgd.project(
            jgd.Gaussians(
                jnp.asarray(capture.points),
                jnp.ones((len(capture.points), 4)),
                jnp.full((len(capture.points), 3), 1e-3),
                jnp.ones(len(capture.points)),
                colors=jnp.ones((len(capture.points), 3)),
            ),
            jgd.Camera(
                jnp.asarray(selected.viewmats[view]),
                jnp.asarray(selected.Ks[view]),
                width=selected.width,
                height=selected.height,
            ),
        )
        centers, z = np.asarray(out.means2d), np.asarray(out.depths)
        inside = ((centers >= 0) & (centers < [selected.width, selected.height])).all(axis=1)
        inside &= z > 0
        column, row = np.where(inside[:, None], centers, 0).astype(int).T
        n_seen += inside & (z < 1.05 * selected.depths[view, row, column])
    expected = capture.points[n_seen >= 2]
    assert 0 < len(expected) < len(capture.points)
    assert selected.points is not None
    # A centre on the border of a pixel may fall on either side.
    assert abs(len(selected.points) - len(expected)) <= 3
    common = {tuple(p) for p in expected} & {tuple(p) for p in selected.points}
    assert len(common) >= len(expected) - 3
    assert len(selected.point_colors) == len(selected.points)


@pytest.mark.parametrize("n", [0, 16])
def test_impossible_numbers_of_views(capture, n):
    with pytest.raises(datasets.CaptureError, match="between 1 and 15"):
        datasets.select_views(capture, n)


def test_points_undo_scale_and_shift(sparse):
    """The priors come back to world units, although many of the points are hidden."""
    train = sparse.train_indices
    maps = _depth.align_to_points(sparse, sparse.depth_priors[train])
    assert maps is not None
    for depth, prior, found in zip(
        sparse.depths[train], sparse.depth_priors[train], maps, strict=True
    ):
        _, best = aligned(prior, depth)
        error = np.median(np.abs(found - depth) / depth)
        assert error < np.median(np.abs(best - depth) / depth) + 0.02


def test_points_do_not_align_what_they_cannot(sparse):
    priors = sparse.depth_priors[sparse.train_indices]
    few = dataclasses.replace(sparse, points=sparse.points[:5], point_colors=None)
    none = dataclasses.replace(sparse, points=None, point_colors=None)
    same = dataclasses.replace(sparse, points=np.repeat(sparse.points[:1], 50, axis=0))
    for without in (few, none, same):
        assert _depth.align_to_points(without, priors) is None
    # A prior that falls where the depth rises is not a depth.
    assert _depth.align_to_points(sparse, priors.max() + 1 - priors) is None
    targets = _depth.DepthTargets.of(none, FitSettings(depth_loss="ssi"))
    assert targets is not None and targets.loss == "ssi"
    np.testing.assert_array_equal(targets.maps, priors)


def test_line_through_half_wrong_points():
    rng = np.random.default_rng(0)
    x = rng.uniform(1, 5, 400)
    y = 2 * x + 7 + rng.normal(0, 0.02, 400)
    y[:180] -= rng.uniform(0.5, 6, 180)
    np.testing.assert_allclose(_depth._robust_line(x, y), (2, 7), atol=0.02)
    # So many that only some of them judge the lines, the wrong ones first.
    many = np.argsort(np.tile(np.arange(400) >= 180, 100), kind="stable")
    line = _depth._robust_line(np.tile(x, 100)[many], np.tile(y, 100)[many])
    np.testing.assert_allclose(line, (2, 7), atol=0.02)


@pytest.mark.parametrize("name", ["l1", "disparity", "ssi", "pearson"])
def test_loss_and_gradient_are_finite(sparse, name):
    """With holes in the target and pixels that no Gaussian reaches, or with nothing at all."""
    depths = sparse.depths.copy()
    depths[:, :20] = 0
    holes = dataclasses.replace(sparse, depths=depths, depth_priors=None)
    settings = FitSettings(depth_loss=name, depth_weight=0.5, max_gaussians=200)
    views = _views.TrainingViews.of(holes, settings)
    params = fit.initial_params(sparse, settings)

    def loss(params, offset):
        moved = {**params, "means": params["means"] + offset[None]}
        view = views[jnp.int32(1)]
        out = jgd.render(fit.to_gaussians(moved), view.camera)
        return _loss.loss_parts(settings, out, view)["depth"], out.weight

    value_and_grad = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (value, weight), gradient = value_and_grad(params, jnp.zeros(3))
    assert float(value) > 0 and bool((weight == 0).any())
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(gradient))
    assert float(jnp.abs(gradient["means"]).max()) > 0
    (value, weight), gradient = value_and_grad(params, jnp.full(3, 1e3))
    assert not bool(weight.any()) and float(value) == 0
    assert not any(bool(leaf.any()) for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("name", ["l1", "disparity", "ssi", "pearson"])
@pytest.mark.slow
def test_loss_does_not_depend_on_the_units(sparse, name):
    """Nor, where scale and shift are open, on those of each prior."""
    settings = FitSettings(depth_loss=name, max_gaussians=3000)
    # Without points nothing but the maps decides.
    metres = dataclasses.replace(sparse, depth_priors=None, points=None, point_colors=None)
    millimetres = dataclasses.replace(metres, depths=1000 * metres.depths)
    camera = _views.TrainingViews.of(metres, settings)[jnp.int32(0)].camera
    depth = jgd.render(fit.to_gaussians(fit.initial_params(sparse, settings)), camera).depth
    first = _depth.DepthTargets.of(metres, settings)[jnp.int32(0)].distance(depth)
    second = _depth.DepthTargets.of(millimetres, settings)[jnp.int32(0)].distance(1000 * depth)
    assert float(first) > 1e-3
    np.testing.assert_allclose(second, first, rtol=1e-4)


def test_priors_come_before_depth(sparse):
    settings = FitSettings(depth_loss="pearson")
    targets = _depth.DepthTargets.of(sparse, settings)
    np.testing.assert_array_equal(targets.maps, sparse.depth_priors[sparse.train_indices])
    targets = _depth.DepthTargets.of(dataclasses.replace(sparse, depth_priors=None), settings)
    np.testing.assert_array_equal(targets.maps, sparse.depths[sparse.train_indices])
    assert _depth.DepthTargets.of(sparse, FitSettings()) is None


@pytest.mark.parametrize("name", ["l1", "disparity"])
def test_priors_have_no_world_units(sparse, name):
    with pytest.raises(FitError, match="unknown scale and shift: use 'ssi' or 'pearson'"):
        fit.fit(sparse, FitSettings(steps=1, depth_loss=name))


def test_no_depth_to_supervise_with(sparse):
    depths = np.zeros_like(sparse.depths)
    depths[sparse.test_indices] = 1
    for nothing in (None, depths):
        without = dataclasses.replace(sparse, depths=nothing, depth_priors=None)
        with pytest.raises(FitError, match="the training views have no depth"):
            fit.fit(without, FitSettings(steps=1, depth_loss="ssi"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"depth_loss": "l2"}, "depth_loss must be one of none, l1, disparity, ssi, pearson"),
        ({"depth_weight": -1.0}, "depth_weight must be a number of at least 0, got -1.0"),
        ({"depth_weight": float("nan")}, "depth_weight must be a number of at least 0, got nan"),
    ],
)
def test_settings(changes, words):
    with pytest.raises(FitError, match=words):
        FitSettings(**changes)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--views", "0"], "--views: expected a whole number at least 1"),
        (["--views", "16"], "the capture has 15, expected a number between 1 and 15"),
        (["--depth-loss", "l2"], "invalid choice: 'l2'"),
        (["--depth-weight", "-0.1"], "--depth-weight: expected a number of at least 0"),
        (["--depth-weight", "inf"], "--depth-weight: expected a number of at least 0"),
        (["--lr-means", "0"], "--lr-means: expected a number above 0"),
        (["--depth-weight", "0.5"], "--depth-weight needs --depth-loss"),
        (["--depth-loss", "l1"], "unknown scale and shift: use 'ssi' or 'pearson'"),
    ],
)
def test_command_refuses(monkeypatch, capture, tmp_path, capsys, arguments, words):
    monkeypatch.setattr(datasets, "builtin_capture", lambda: capture)
    assert run("fit", "--out", tmp_path / "out", "--steps", 1, *arguments) == 2
    error = capsys.readouterr().err
    assert words in error and "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_command_refuses_photos_without_depth(monkeypatch, capture, tmp_path, capsys):
    without = dataclasses.replace(capture, depths=None)
    monkeypatch.setattr(datasets, "load_capture", lambda path, downscale: without)
    arguments = ["--data", tmp_path, "--out", tmp_path / "out", "--depth-loss", "ssi"]
    assert run("fit", *arguments) == 2
    assert "the training views have no depth" in capsys.readouterr().err


@pytest.mark.slow
def test_command_supervises_the_depth(monkeypatch, capture, tmp_path):
    monkeypatch.setattr(datasets, "builtin_capture", lambda: capture)
    arguments = ["--steps", 3, "--max-gaussians", 300, "--out", tmp_path / "out"]
    supervision = ["--views", 3, "--depth-loss", "ssi", "--depth-weight", 0.25]
    assert run("fit", *arguments, *supervision) == 0
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["settings"]["depth_loss"] == "ssi"
    assert metrics["settings"]["depth_weight"] == 0.25
    assert metrics["depth_loss_used"] == "l1"  # After the points have decided scale and shift.
    assert metrics["settings"]["lr_means"] == 6e-3 > fit.FitSettings.lr_means
    assert metrics["capture"]["views"] == 3 + len(capture.test_indices)
    header, *rows = (tmp_path / "out" / "loss.csv").read_text().splitlines()
    column = header.split(",").index("depth")
    assert all(float(row.split(",")[column]) > 0 for row in rows)


@pytest.mark.slow
def test_depth_supervision_lowers_the_depth_error(sparse):
    """End to end: three views, everything equal but the depth loss."""
    common = {"steps": 300, "max_gaussians": 3000, "sh_degree": 0, "lr_means": 1e-2}
    errors = []
    for name in ("none", "ssi"):
        settings = FitSettings(**common, depth_loss=name, depth_weight=1.0)
        views = list(evaluation.evaluate(sparse, fit.fit(sparse, settings).gaussians))
        errors.append(np.median(np.concatenate([view.depth_errors for view in views])))
    assert errors[1] < 0.7 * errors[0]


@pytest.mark.slow
def test_example(example, tmp_path):
    """The experiment from end to end, on a tiny copy of the built-in capture."""
    report = example.main(["--quick", "--out", str(tmp_path)])
    assert [result["depth"] for result in report["results"]] == list(example.VARIANTS)
    for result in report["results"]:
        assert all(np.isfinite(result[metric]) for metric in example.METRICS)
        # Scores of the same views: what is seen is a part of the whole, and neither empty nor all.
        assert result["psnr"] != result["psnr_seen"]
    assert json.loads((tmp_path / "sparse_views.json").read_text()) == report
    lines = (tmp_path / "sparse_views.md").read_text().splitlines()
    assert len(lines) == 5 and len({line.count("|") for line in lines}) == 1
    with Image.open(tmp_path / "sparse_builtin.png") as picture:
        assert picture.size == (6 * 48, 16 + 36)


@pytest.mark.parametrize(
    ("missing", "words"), [("depths", "has no depth"), ("points", "has no sparse points")]
)
def test_example_refuses_an_unfair_comparison(example, capture, missing, words):
    changes = {missing: None} | ({"point_colors": None} if missing == "points" else {})
    with pytest.raises(SystemExit, match=words):
        example.checked(dataclasses.replace(capture, **changes), "rgbd")


@pytest.mark.slow
def test_example_measures_a_capture_where_it_is(example, tmp_path, monkeypatch):
    """Far from the origin the Gaussians are relative to one of their own."""
    parts = {"n_views": 9, "width": 48, "height": 36, "n_points": 500}
    near = datasets.monocular_like(datasets.builtin_capture(**parts))
    away = np.array([4e6, -3e6, 2e6])
    viewmats = near.viewmats.copy()
    viewmats[:, :3, 3] -= viewmats[:, :3, :3] @ away
    far = dataclasses.replace(near, viewmats=viewmats, points=near.points + away)
    monkeypatch.setattr(example, "captures", lambda options: {"near": near, "far": far})
    results = example.main(["--quick", "--out", str(tmp_path)])["results"]
    psnr = np.array([result["psnr"] for result in results]).reshape(2, -1)
    np.testing.assert_allclose(psnr[1], psnr[0], atol=0.5)


def test_example_knows_what_is_seen(example, capture):
    """A view sees its own pixels, and nothing is seen where all others are hidden or outside."""
    one = dataclasses.replace(capture, test_indices=np.arange(1, 18))
    assert example.seen_pixels(one, 0).all()
    share = example.seen_pixels(one, 4).mean()
    assert 0.1 < share < 0.8
    # A wall right in front of the training view hides everything.
    depths = capture.depths.copy()
    depths[0] = 0.01
    assert not example.seen_pixels(dataclasses.replace(one, depths=depths), 4).any()


@pytest.mark.slow
def test_true_depth_behind_priors_does_not_place_gaussians(sparse):
    """Nor does anything else of it reach a fit."""
    without_points = dataclasses.replace(sparse, points=None, point_colors=None)
    other_depths = dataclasses.replace(without_points, depths=2 * sparse.depths)
    settings = FitSettings(steps=2, max_gaussians=100, depth_loss="pearson")
    first, second = (fit.fit(c, settings).gaussians for c in (without_points, other_depths))
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(a, b)
