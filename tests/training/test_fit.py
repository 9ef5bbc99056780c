"""Tests the ends of a fit: where the Gaussians start, and the picture of the loss."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("optax")
pytest.importorskip("dm_pix")

from helpers.pictures import read_rgb
from helpers.toy_capture import (
    HEIGHT,
    WIDTH,
    arc_capture,
    assert_same_bits,
    spoiled_test_views,
)

import jax_gsplat_depth as jgd
from jax_gsplat_depth import fit
from jax_gsplat_depth.datasets import PosedViews
from jax_gsplat_depth.fit import _init, _loss_curve


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


@pytest.mark.quick(n=[1, 60, 300])
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
    views = PosedViews.training(capture)
    depths = capture.depths[capture.train_indices]
    distances = []
    for view in range(len(views)):
        pixels, z, inside = views.project(view, means)
        columns, rows = np.where(inside[:, None], pixels, 0).astype(int).T
        distances.append(np.where(inside, np.abs(z - depths[view, rows, columns]), np.inf))
    assert np.quantile(np.min(distances, axis=0), 0.9) < 1e-4


def test_filled_in_points_are_seen_and_have_the_colour_of_their_pixel(capture):
    views = PosedViews.training(capture)
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
    np.testing.assert_allclose(_init.look_at_point(PosedViews.training(capture)), 0, atol=0.02)
    # Parallel axes: some point in front of the middle of the cameras.
    parallel = PosedViews.training(capture)
    n = len(parallel)
    viewmats = np.repeat(np.eye(4)[None], n, axis=0)
    viewmats[:, 0, 3] = np.arange(n)
    parallel = dataclasses.replace(parallel, viewmats=viewmats)
    point = _init.look_at_point(parallel)
    np.testing.assert_allclose(point[:2], [-(n - 1) / 2, 0], atol=1e-6)
    assert point[2] > 1


def test_back_projection_inverts_projection(capture):
    views = PosedViews.training(capture)
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


# The picture of the loss


def test_loss_curve(tmp_path):
    for n in (1, 50):
        reports = [
            fit.StepReport(i + 1, loss=1 / (i + 1), psnr=10.0 + i, n_gaussians=5, parts={})
            for i in range(n)
        ]
        _loss_curve.write_loss_curve(reports, tmp_path / f"{n}.png")
        assert read_rgb(tmp_path / f"{n}.png").shape == (450, 800, 3)
