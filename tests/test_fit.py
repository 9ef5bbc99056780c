"""The fit: initialisation, evaluation, pictures and the output folder."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("optax")
pytest.importorskip("dm_pix")

from PIL import Image
from toy_capture import (
    HEIGHT,
    N_TRUE,
    WIDTH,
    arc_capture,
    assert_same_bits,
    spoiled_test_views,
    true_gaussians,
)

import jax_gsplat_depth as jgd
from jax_gsplat_depth import fit
from jax_gsplat_depth.fit import _init, _output, _report


@pytest.fixture(scope="module")
def capture():
    return arc_capture()


def without_points(capture):
    return dataclasses.replace(capture, points=None, point_colors=None)


def without_geometry(capture):
    return dataclasses.replace(without_points(capture), depths=None)


def one_point(capture):
    return dataclasses.replace(
        capture, points=capture.points[:1], point_colors=capture.point_colors[:1]
    )


def points_behind_all_cameras(capture):
    return dataclasses.replace(capture, points=capture.points + np.float32([0, 0, 100]))


SETTINGS = fit.FitSettings(steps=30, max_gaussians=100, densify="none")


# Initialisation


@pytest.mark.parametrize("n", [1, 2, 59, 60, 61, 300])
@pytest.mark.parametrize(
    "variant",
    [
        lambda capture: capture,
        one_point,
        points_behind_all_cameras,
        without_points,
        without_geometry,
    ],
)
def test_initial_gaussians(capture, variant, n):
    settings = fit.FitSettings(max_gaussians=n, densify="none")
    gaussians = fit.to_gaussians(fit.initial_params(variant(capture), settings))
    assert gaussians.means.shape == (n, 3)
    for leaf in jax.tree.leaves(gaussians):
        assert leaf.dtype == np.float32
        assert np.isfinite(leaf).all()
    assert (np.asarray(gaussians.scales) > 0).all()
    np.testing.assert_allclose(gaussians.opacities, settings.initial_opacity, rtol=1e-5)


def test_initial_gaussians_keep_points_and_their_colours(capture):
    params = fit.initial_params(
        capture, fit.FitSettings(max_gaussians=80, sh_degree=0, densify="none")
    )
    np.testing.assert_array_equal(params["means"][:60], capture.points)
    gaussians = fit.to_gaussians(params)
    camera = jgd.Camera(
        jnp.asarray(capture.viewmats[1]), jnp.asarray(capture.Ks[1]), width=WIDTH, height=HEIGHT
    )
    colors = jgd.shade(gaussians, camera)
    np.testing.assert_allclose(colors[:60], capture.point_colors / np.float32(255), atol=1e-6)


def test_initial_gaussians_from_depth_lie_on_the_surface(capture):
    params = fit.initial_params(without_points(capture), fit.FitSettings(max_gaussians=200))
    means = np.asarray(params["means"], np.float64)
    views = _init.Views.of(capture)
    depths = capture.depths[capture.train_indices]
    distances = []
    for view in range(len(views)):
        pixels, z, inside = views.project(view, means)
        columns, rows = np.where(inside[:, None], pixels, 0).astype(int).T
        distances.append(np.where(inside, np.abs(z - depths[view, rows, columns]), np.inf))
    assert np.quantile(np.min(distances, axis=0), 0.9) < 1e-4


def test_filled_in_points_are_seen_and_have_the_colour_of_their_pixel(capture):
    views = _init.Views.of(capture)
    rng = np.random.default_rng(0)
    means, colors = _init._fill_between(views, capture.points.astype(np.float64), 70, rng)
    assert len(means) == 70
    for i in range(70):
        pixels, _, inside = views.project(i // 10, means[i : i + 1])
        assert inside.all()
        np.testing.assert_allclose(views.colors(i // 10, pixels)[0], colors[i])


def test_initialisation_does_not_read_held_out_views(capture):
    for variant in (capture, without_points(capture), without_geometry(capture)):
        assert_same_bits(
            fit.initial_params(variant, SETTINGS),
            fit.initial_params(spoiled_test_views_of(variant), SETTINGS),
        )


def spoiled_test_views_of(capture):
    if capture.depths is None:
        filled = dataclasses.replace(capture, depths=np.zeros(capture.images.shape[:3]))
        return dataclasses.replace(spoiled_test_views(filled), depths=None)
    return spoiled_test_views(capture)


def test_look_at_point(capture):
    np.testing.assert_allclose(_init.look_at_point(_init.Views.of(capture)), 0, atol=0.02)
    # Parallel axes: some point in front of the middle of the cameras.
    parallel = _init.Views.of(capture)
    n = len(parallel)
    rotations = np.repeat(np.eye(3)[None], n, axis=0)
    translations = np.zeros((n, 3))
    translations[:, 0] = np.arange(n)
    parallel = dataclasses.replace(parallel, rotations=rotations, translations=translations)
    point = _init.look_at_point(parallel)
    np.testing.assert_allclose(point[:2], [-(n - 1) / 2, 0], atol=1e-6)
    assert point[2] > 1


def test_back_projection_inverts_projection(capture):
    views = _init.Views.of(capture)
    points = capture.points.astype(np.float64)
    pixels, depths, _ = views.project(3, points)
    np.testing.assert_allclose(views.back_project(3, pixels, depths), points, atol=1e-6)


def test_scene_extent_ignores_one_stray_camera(capture):
    means = np.zeros((10, 3))
    extent = _init.scene_extent(capture, means)
    assert 1 < extent < 6
    viewmats = np.repeat(capture.viewmats, 5, axis=0)
    many = dataclasses.replace(
        capture,
        images=np.repeat(capture.images, 5, axis=0),
        viewmats=viewmats,
        Ks=np.repeat(capture.Ks, 5, axis=0),
        names=[str(i) for i in range(len(viewmats))],
        test_indices=np.array([0]),
    )
    stray = viewmats.copy()
    stray[7, :3, 3] = 1000
    before = _init.scene_extent(many, means)
    after = _init.scene_extent(dataclasses.replace(many, viewmats=stray), means)
    assert after < 1.5 * before


# Evaluation and pictures


def read_picture(path):
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def test_the_true_scene_evaluates_as_true(capture):
    views = list(fit.evaluate(capture, true_gaussians()))
    assert [view.name for view in views] == ["view_0", "view_8"]
    for view in views:
        assert view.psnr > 50  # the photos are rounded to 8 bits
        assert view.ssim > 0.99
        np.testing.assert_array_equal(view.image, view.photo)
        assert np.median(view.depth_errors) < 1e-6
        assert len(view.depth_errors) == (view.true_depth > 0).sum()


def test_evaluation_without_depth(capture):
    for depths in (None, np.zeros_like(capture.depths)):
        data = dataclasses.replace(capture, depths=depths)
        assert all(view.depth_errors is None for view in fit.evaluate(data, true_gaussians()))


@pytest.mark.parametrize("known_depth", [True, False])
def test_held_out_picture_shows_the_pixels_of_the_photo(capture, tmp_path, known_depth):
    data = capture if known_depth else dataclasses.replace(capture, depths=None)
    view = next(fit.evaluate(data, true_gaussians()))
    path = tmp_path / "view.png"
    _report.write_held_out(view, path)
    picture = read_picture(path)
    factor = -(-_report._MIN_PANEL_HEIGHT // HEIGHT)
    assert picture.shape[0] == _report._TITLE + factor * HEIGHT + _report._MARGIN
    assert picture.shape[1] > (5 if known_depth else 4) * factor * WIDTH
    for column, image in ((0, view.photo), (1, view.image)):
        left = _report._MARGIN + column * (factor * WIDTH + _report._MARGIN)
        centers = np.arange(factor // 2, factor * HEIGHT, factor) + _report._TITLE
        across = np.arange(factor // 2, factor * WIDTH, factor) + left
        np.testing.assert_array_equal(picture[np.ix_(centers, across)], image)


def test_picture_of_a_view_where_nothing_was_hit(capture, tmp_path):
    nothing = dataclasses.replace(true_gaussians(), opacities=jnp.zeros(N_TRUE, jnp.float32))
    data = dataclasses.replace(capture, depths=None)
    _report.write_held_out(next(fit.evaluate(data, nothing)), tmp_path / "view.png")
    assert read_picture(tmp_path / "view.png").shape[1] > 4 * WIDTH


def test_loss_curve(tmp_path):
    for n in (1, 50):
        reports = [
            fit.StepReport(i + 1, loss=1 / (i + 1), psnr=10.0 + i, n_gaussians=5, parts={})
            for i in range(n)
        ]
        _report.write_loss_curve(reports, tmp_path / f"{n}.png")
        assert read_picture(tmp_path / f"{n}.png").shape == (450, 800, 3)


# The output folder


def build_result(*names):
    def build(folder):
        for name in names:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(f"new {name}")
        metrics = {"program": _output.PROGRAM, "files": [*names, _output.METRICS]}
        (folder / _output.METRICS).write_text(json.dumps(metrics))

    return build


def test_publish_makes_missing_parents_and_leaves_no_temporary_folder(tmp_path):
    target = tmp_path / "a" / "b"
    _output.publish(target, build_result("heldout/x.png", "loss.csv"))
    assert _output.list_files(tmp_path) == [
        "a/b/heldout/x.png",
        "a/b/loss.csv",
        "a/b/metrics.json",
    ]
    assert not list(tmp_path.glob(".*"))


def test_publish_replaces_its_own_files_only(tmp_path):
    target = tmp_path / "out"
    _output.publish(target, build_result("heldout/old.png", "splats.ply"))
    (target / "notes.txt").write_text("mine")
    _output.publish(target, build_result("heldout/new.png", "splats.ply"))
    assert _output.list_files(target) == [
        "heldout/new.png",
        "metrics.json",
        "notes.txt",
        "splats.ply",
    ]
    assert (target / "notes.txt").read_text() == "mine"


def test_a_doctored_list_cannot_delete_files_elsewhere(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("keep")
    target = tmp_path / "out"
    target.mkdir()
    metrics = {"program": _output.PROGRAM, "files": ["../victim", str(victim)]}
    (target / _output.METRICS).write_text(json.dumps(metrics))
    _output.publish(target, build_result("loss.csv"))
    assert victim.read_text() == "keep"


@pytest.mark.parametrize("existing", [False, True])
def test_a_failed_build_changes_nothing(tmp_path, existing):
    target = tmp_path / "out"
    if existing:
        _output.publish(target, build_result("loss.csv"))
    before = _output.list_files(tmp_path)

    def build(folder):
        (folder / "loss.csv").write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(fit.OutputError, match="No space left"):
        _output.publish(target, build)
    assert _output.list_files(tmp_path) == before
    assert target.exists() == existing


@pytest.mark.parametrize(
    "content",
    [{"thesis.txt": ""}, {"metrics.json": "[]"}, {"metrics.json": '{"program": "other"}'}],
)
def test_folders_of_others_are_refused(tmp_path, content):
    target = tmp_path / "out"
    target.mkdir()
    for name, text in content.items():
        (target / name).write_text(text)
    with pytest.raises(fit.OutputError, match="not empty"):
        fit.check_folder(target)


def test_targets_that_cannot_be_written(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(fit.OutputError, match="not a folder"):
        fit.check_folder(file)
    with pytest.raises(fit.OutputError, match="cannot be written"):
        fit.check_folder(file / "out")
    (tmp_path / "empty").mkdir()
    fit.check_folder(tmp_path / "empty")
    fit.check_folder(tmp_path / "missing" / "parents")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file"]
