"""Checks the capture that needs no files: exact depth, equal on every run, fit for training."""

from typing import Any

import jax
import numpy as np
import pytest

from jax_gsplat_depth.datasets import Capture, builtin_capture
from jax_gsplat_depth.datasets._capture import hold_out

DOME_RADIUS = 6.5


@pytest.fixture(scope="module")
def capture():
    return builtin_capture(n_views=18, width=120, height=90)


def world_points(capture, view):
    """Return ``(H, W, 3)``: where the depth of one view puts its pixels."""
    columns, rows = np.meshgrid(np.arange(capture.width) + 0.5, np.arange(capture.height) + 0.5)
    rays = (
        np.stack([columns, rows, np.ones_like(rows)], axis=-1) @ np.linalg.inv(capture.Ks[view]).T
    )
    viewmat = capture.viewmats[view].astype(np.float64)
    return (capture.depths[view][..., None] * rays - viewmat[:3, 3]) @ viewmat[:3, :3]


def project(capture, view, points):
    """Return columns, rows and depths of the points that fall into one view, and which do."""
    in_camera = points @ capture.viewmats[view, :3, :3].T + capture.viewmats[view, :3, 3]
    z = in_camera[:, 2]
    uv = (in_camera @ capture.Ks[view].T)[:, :2] / np.where(z > 0, z, 1)[:, None]
    inside = (z > 0) & (uv >= 0).all(axis=1) & (uv < [capture.width, capture.height]).all(axis=1)
    columns, rows = np.floor(uv[inside]).astype(int).T
    return columns, rows, z[inside], inside


def test_shapes_and_types(capture):
    v, h, w = capture.depths.shape
    assert (v, h, w) == (18, capture.height, capture.width)
    assert capture.images.shape == (v, h, w, 3) and capture.images.dtype == np.uint8
    assert capture.viewmats.shape == (v, 4, 4) and capture.viewmats.dtype == np.float64
    assert capture.Ks.shape == (v, 3, 3) and capture.Ks.dtype == np.float32
    assert capture.points.shape == capture.point_colors.shape == (len(capture.points), 3)
    assert capture.points.dtype == np.float64 and capture.point_colors.dtype == np.uint8
    assert capture.depths.dtype == np.float32 and capture.alphas is None
    assert capture.names == sorted(set(capture.names))
    assert capture.test_indices.tolist() == [0, 8, 16]


def test_ranges(capture):
    assert np.isfinite(capture.points).all()
    assert capture.depths.min() > 0.5 and capture.depths.max() < 2 * DOME_RADIUS
    assert capture.images.min() < 40 and capture.images.max() > 240
    assert 80 < capture.images.mean() < 180
    assert (capture.images.std(axis=(0, 1, 2)) > 30).all()
    rotations = capture.viewmats[:, :3, :3]
    identity = np.tile(np.eye(3), (18, 1, 1))
    # In float64: the capture can be moved far away from its origin.
    np.testing.assert_allclose(rotations @ rotations.swapaxes(1, 2), identity, atol=1e-15)
    np.testing.assert_allclose(np.linalg.det(rotations), 1, atol=1e-6)


def test_cameras_stand_upright_inside_the_dome(capture):
    for viewmat in capture.viewmats:
        eye = -viewmat[:3, :3].T @ viewmat[:3, 3]
        assert np.linalg.norm(eye) < DOME_RADIUS and eye[2] > 0.5
        # The image's y axis points down in the world, the optical axis at the scene.
        assert viewmat[1, 2] < -0.5
        assert viewmat[2, :3] @ -eye > 0.9 * np.linalg.norm(eye)


def test_depth_lies_on_floor_and_dome(capture):
    for view in range(0, 18, 5):
        points = world_points(capture, view)
        height, radius = points[..., 2], np.linalg.norm(points, axis=-1)
        assert height.min() > -1e-4 and radius.max() < DOME_RADIUS + 1e-4
        on_floor, on_dome = np.abs(height) < 1e-5, np.abs(radius - DOME_RADIUS) < 1e-4
        assert on_floor.mean() > 0.2
        assert (on_floor | on_dome).mean() > 0.5


def test_depth_and_colour_agree_between_views(capture):
    """Nothing lies in front of what another view sees, and most pixels are seen again."""
    colors = []
    for one, other in ((0, 1), (1, 10), (4, 5), (12, 13), (3, 12)):
        points = world_points(capture, one).reshape(-1, 3)
        columns, rows, z, inside = project(capture, other, points)
        seen = capture.depths[other][rows, columns]
        # Within a pixel the depth changes by a few per cent at grazing angles and at edges.
        assert (z < 0.94 * seen).mean() < 0.03
        same = np.abs(z / seen - 1) < 0.01
        assert same.mean() > 0.5
        ours = capture.images[one].reshape(-1, 3)[inside].astype(float)
        theirs = capture.images[other][rows, columns]
        colors.append(np.abs(ours - theirs)[same].mean(axis=1))
    assert np.median(np.concatenate(colors)) < 6


def test_sparse_points_are_near_the_surfaces_with_their_colour(capture):
    errors, colors = [], []
    for view in range(18):
        columns, rows, z, inside = project(capture, view, capture.points)
        seen = capture.depths[view][rows, columns]
        near = np.abs(z / seen - 1) < 0.02
        assert (z < 0.9 * seen).mean() < 0.06
        errors.append(np.abs(z / seen - 1)[near])
        difference = capture.images[view][rows, columns].astype(float)
        colors.append(np.abs(difference - capture.point_colors[inside]).mean(axis=1)[near])
    assert 0.001 < np.median(np.concatenate(errors)) < 0.008
    assert np.median(np.concatenate(colors)) < 15


def assert_equal(one: Capture, other: Capture):
    for name in ("images", "viewmats", "Ks", "points", "point_colors", "depths", "test_indices"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


@pytest.mark.slow
def test_seed_decides_everything():
    settings = dict(n_views=2, width=40, height=30, n_points=50)
    one = builtin_capture(seed=3, **settings)
    assert_equal(one, builtin_capture(seed=3, **settings))
    with jax.enable_x64(True):
        assert_equal(one, builtin_capture(seed=3, **settings))
    other = builtin_capture(seed=4, **settings)
    for name in ("images", "viewmats", "points", "depths"):
        assert (getattr(one, name) != getattr(other, name)).any(), name


def test_training_views_alone_give_the_points():
    """With one training view, all points project onto pixels of that view."""
    capture: Any = builtin_capture(n_views=2, width=40, height=30, n_points=200)
    assert capture.train_indices.tolist() == [1]
    columns, rows, z, inside = project(capture, 1, capture.points)
    assert inside.all()
    np.testing.assert_allclose(z, capture.depths[1][rows, columns], rtol=0.03)


def test_too_few_views():
    with pytest.raises(ValueError, match="n_views is 1"):
        builtin_capture(n_views=1)


@pytest.mark.parametrize("n, expected", [(2, [0]), (8, [0]), (9, [0, 8]), (17, [0, 8, 16])])
def test_hold_out(n, expected):
    assert hold_out(n).tolist() == expected
