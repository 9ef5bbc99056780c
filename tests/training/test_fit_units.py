"""Tests that a fit and its numbers do not depend on the units and the origin of the capture."""

import dataclasses
import functools

import numpy as np
import pytest

pytest.importorskip("optax")
pytest.importorskip("dm_pix")

from helpers.similarity import PLACE, TURN, moved_capture, moved_viewmats, scaled_gaussians
from helpers.toy_capture import arc_capture, assert_same_bits, true_gaussians

from jax_gsplat_depth import evaluation, fit
from jax_gsplat_depth.datasets import camera_centers
from jax_gsplat_depth.evaluation import LocalScene
from jax_gsplat_depth.fit._frame import local_capture

SETTINGS = fit.FitSettings(steps=25, max_gaussians=150, densify="none")


@pytest.fixture(scope="module")
def capture():
    """In float64 and exactly rigid, as the readers make captures."""
    capture = arc_capture()
    u, _, vt = np.linalg.svd(capture.viewmats[:, :3, :3].astype(np.float64))
    viewmats = capture.viewmats.astype(np.float64)
    viewmats[:, :3, :3] = u @ vt
    return dataclasses.replace(capture, viewmats=viewmats)


def numbers(capture, result):
    views = list(evaluation.evaluate(capture, result.scene))
    errors = np.concatenate([view.depth_errors for view in views])
    return np.mean([view.psnr for view in views]), np.median(errors)


def settings_of(densify):
    return dataclasses.replace(SETTINGS, densify=densify, densify_every=5)


@pytest.fixture(scope="module")
def expected(capture):
    """PSNR and depth error without a move, by density control."""
    return functools.cache(lambda densify: numbers(capture, fit.fit(capture, settings_of(densify))))


FAR = 1e8 * PLACE
PLACES = [("none", 1e-6, 0 * FAR, None), ("none", 1.0, FAR, None)]
PLACES += [("none", 1e-3, 1e3 * PLACE, TURN)]
PLACES += [("mcmc", 1e6, FAR, None), ("adc", 1e-3, 1e3 * PLACE, None)]


@pytest.mark.slow
@pytest.mark.parametrize(("densify", "scale", "origin", "turn"), PLACES)
def test_fit_does_not_depend_on_units_and_origin(capture, expected, densify, scale, origin, turn):
    moved = moved_capture(capture, scale, origin, turn)
    psnr, error = numbers(moved, fit.fit(moved, settings_of(densify)))
    expected_psnr, expected_error = expected(densify)
    # A turned world has other axes, along which Adam steps.
    assert psnr == pytest.approx(expected_psnr, abs=0.1 if turn is None else 0.3)
    assert error == pytest.approx(expected_error, rel=0.2)


def test_fit_in_small_units_far_away(capture, expected):
    moved = moved_capture(capture, 1e-3, 1e4 * PLACE)
    result = fit.fit(moved, settings_of("none"))
    np.testing.assert_allclose(numbers(moved, result), expected("none"), rtol=5e-3)
    # The result is in the units of the capture, relative to an origin that float64 holds.
    assert np.linalg.norm(result.origin - 1e4 * PLACE) < 1e-2
    assert np.abs(np.asarray(result.gaussians.means)).max() < 1e-2


@pytest.mark.slow
def test_resumed_fit_far_away_has_the_same_bits(capture, tmp_path):
    pytest.importorskip("orbax.checkpoint")
    moved, settings = moved_capture(capture, 1e-3, 1e4 * PLACE), settings_of("mcmc")
    straight, seen = fit.fit(moved, settings), []
    fit.fit(
        moved,
        settings,
        on_step=seen.append,
        should_stop=lambda: len(seen) > 8,
        checkpoints=fit.Checkpoints(tmp_path),
    )
    with pytest.raises(fit.FitError, match="another capture"):
        fit.fit(capture, settings, checkpoints=fit.Checkpoints(tmp_path, resume=True))
    resumed = fit.fit(moved, settings, checkpoints=fit.Checkpoints(tmp_path, resume=True))
    assert 0 < resumed.resumed_after < settings.steps
    assert_same_bits(resumed.gaussians, straight.gaussians)
    np.testing.assert_array_equal(resumed.origin, straight.origin)


def test_result_keeps_the_coordinates_of_the_capture(capture):
    near = moved_capture(capture, 1.0, 150 * PLACE)
    result = fit.fit(near, dataclasses.replace(SETTINGS, steps=1))
    assert not result.origin.any()
    means = np.asarray(result.gaussians.means)
    np.testing.assert_allclose(np.median(means, axis=0), 150 * PLACE, atol=0.2)


@pytest.mark.parametrize("scale", [2.0**-20, 2.0**20])
def test_powers_of_two_change_no_bit_of_the_local_capture(capture, scale):
    local, frame = local_capture(capture)
    moved, moved_frame = local_capture(moved_capture(capture, scale))
    assert moved_frame.unit == scale * frame.unit
    for name in ("viewmats", "points", "depths"):
        np.testing.assert_array_equal(getattr(moved, name), getattr(local, name))


def without(capture, *names):
    return dataclasses.replace(capture, **dict.fromkeys(names))


def one_place(capture):
    viewmats = capture.viewmats.copy()
    viewmats[:, :3, 3] = 0
    return dataclasses.replace(capture, viewmats=viewmats)


def one_view(capture):
    return dataclasses.replace(capture, test_indices=np.arange(1, len(capture.names)))


def stray_point(capture):
    points = np.concatenate([capture.points, [[1e9, -1e9, 0], [1e-9, 0, 1e7]]])
    colors = np.zeros((len(points), 3), np.uint8)
    return dataclasses.replace(capture, points=points, point_colors=colors)


@pytest.mark.parametrize(
    "variant",
    [
        lambda capture: capture,
        lambda capture: without(capture, "points"),
        lambda capture: without(capture, "points", "depths"),
        one_view,
        lambda capture: without(one_view(capture), "points", "depths"),
        one_place,
        stray_point,
    ],
)
@pytest.mark.parametrize(("scale", "origin"), [(1e-6, np.zeros(3)), (1e6, FAR)])
def test_frame_follows_the_capture(capture, variant, scale, origin):
    def seen(capture):
        local, _ = local_capture(capture)
        means = np.asarray(fit.initial_params(local, SETTINGS)["means"], np.float64)
        train = local.train_indices
        viewmat = local.viewmats[train[0]]
        centers = camera_centers(local.viewmats)[train]
        return means @ viewmat[2, :3] + viewmat[2, 3], np.linalg.norm(np.ptp(centers, axis=0))

    depths, spread = seen(variant(capture))
    moved_depths, moved_spread = seen(moved_capture(variant(capture), scale, origin))
    # The unit is a power of two, so it may be off by a factor.
    factor = np.median(moved_depths) / np.median(depths)
    assert 0.49 < factor < 2.05
    assert np.min(moved_depths) / np.min(depths) == pytest.approx(factor, rel=0.1)
    assert moved_spread == pytest.approx(factor * spread, rel=1e-5, abs=1e-9)


def test_one_stray_camera_does_not_decide_the_frame(capture):
    viewmats = capture.viewmats.copy()
    viewmats[3, :3, 3] = 1e7
    _, expected = local_capture(moved_capture(capture, 1e-3, 1e3 * PLACE))
    stray = dataclasses.replace(capture, viewmats=viewmats)
    _, frame = local_capture(moved_capture(stray, 1e-3, 1e3 * PLACE))
    assert frame.unit == expected.unit
    np.testing.assert_allclose(frame.origin, expected.origin, atol=4e-3)


def test_cameras_in_one_place_get_no_baseline_from_rounding(capture):
    """Without points and depth nothing says how large the scene is; their rounding must not."""
    panorama = without(one_place(capture), "points", "depths")
    _, expected = local_capture(panorama)
    for origin in (np.array([1.0, 2.0, 3.0]), FAR):
        local, frame = local_capture(moved_capture(panorama, 1.0, origin))
        assert frame.unit == expected.unit
        assert not camera_centers(local.viewmats)[capture.train_indices].any()


def test_evaluation_does_not_depend_on_units_and_origin(capture):
    def views(scale, origin):
        scene = LocalScene.of(scaled_gaussians(true_gaussians(), scale), origin)
        return list(evaluation.evaluate(moved_capture(capture, scale, origin), scene))

    known = views(1.0, np.zeros(3))
    assert min(view.psnr for view in known) > 50
    for scale, origin in ((1e-6, np.zeros(3)), (1e6, FAR), (1.0, FAR), (3e-3, 1e3 * PLACE)):
        for view, one in zip(views(scale, origin), known, strict=True):
            assert np.abs(view.image.astype(int) - one.image).max() <= 1
            np.testing.assert_allclose(view.depth, scale * one.depth, rtol=1e-4, atol=1e-4 * scale)
            np.testing.assert_allclose(np.median(view.depth_errors), 0, atol=1e-5)


def test_unscaled_scenes_stay_as_they_are(capture):
    gaussians = true_gaussians()
    assert LocalScene.of(gaussians).gaussians is gaussians
    viewmats = moved_viewmats(capture.viewmats)
    np.testing.assert_array_equal(LocalScene.of(gaussians).frame.local_viewmats(viewmats), viewmats)
    assert_same_bits(LocalScene.of(LocalScene.of(gaussians)).gaussians, gaussians)
