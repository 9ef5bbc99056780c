"""Checks NumPy camera geometry: projection by hand and back, rotations, and refusals."""

import numpy as np
import pytest

from jax_gsplat_depth.datasets import CaptureError, PosedViews, builtin_capture, camera_centers
from jax_gsplat_depth.datasets._geometry import (
    inverted,
    pinhole,
    pinhole_matrix,
    poses_at,
    project_points,
    rigid,
    rotation_matrix,
    scaled_pinhole,
)

transform = pytest.importorskip("scipy.spatial.transform")

K = pinhole_matrix(100.0, 80.0, 32.0, 24.0)
SIZE = (64, 48)


def random_poses(n, seed=0):
    """World-to-camera poses, with the positions and the rotations that they are made of."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(n, 3))
    rotations = transform.Rotation.random(n, random_state=seed).as_matrix()
    return poses_at(centers, rotations), centers, rotations


def test_pinhole_matrices():
    expected = np.array([[100, 0, 32], [0, 80, 24], [0, 0, 1]])
    np.testing.assert_array_equal(K, expected)
    np.testing.assert_array_equal(pinhole(100, 80, 32, 24, where="here"), expected)
    # Half as many columns and a third of the rows; a stack of matrices as well.
    halved = scaled_pinhole(np.stack([K, 2 * K]), 0.5, 1 / 3)
    np.testing.assert_allclose(halved[0], [[50, 0, 16], [0, 80 / 3, 8], [0, 0, 1]], rtol=1e-15)
    assert halved.shape == (2, 3, 3)


def test_projection_by_hand():
    # A quarter turn about z: the camera's x is the world's y, its y the world's -x.
    viewmat = np.array([[0, 1, 0, 0.5], [-1, 0, 0, -0.25], [0, 0, 1, 2], [0, 0, 0, 1]])
    # In the camera (0.2 + 0.5, -0.1 - 0.25, 3 + 2).
    pixels, depths, inside = project_points(np.array([[0.1, 0.2, 3.0]]), viewmat, K, SIZE)
    np.testing.assert_allclose(depths, [5.0], rtol=1e-15)
    np.testing.assert_allclose(pixels, [[100 * 0.7 / 5 + 32, 80 * -0.35 / 5 + 24]], rtol=1e-14)
    assert inside.tolist() == [True]


def test_points_that_are_not_inside():
    points = np.array(
        [
            [0.0, 0.0, 2.0],
            [0.0, 0.0, -2.0],  # Behind the camera, on the axis.
            [0.0, 0.0, 0.0],  # In its centre.
            [-0.32, -0.3, 1.0],  # On the corner of the top left pixel, which belongs to it.
            [0.32, 0.0, 1.0],  # On the right edge, which belongs to the next pixel.
            [0.0, 0.3, 1.0],
            [-0.33, 0.0, 1.0],
        ]
    )
    pixels, depths, inside = project_points(points, np.eye(4), K, SIZE)
    assert inside.tolist() == [True, False, False, True, False, False, False]
    assert np.isfinite(pixels).all()
    np.testing.assert_array_equal(depths, points[:, 2])


def test_rotation_matrix_is_scipys():
    quats = np.random.default_rng(1).normal(size=(50, 4))
    quats /= np.linalg.norm(quats, axis=1, keepdims=True)
    expected = transform.Rotation.from_quat(np.roll(quats, -1, axis=1)).as_matrix()
    found = np.stack([rotation_matrix(quat) for quat in quats])
    np.testing.assert_allclose(found, expected, atol=1e-15)
    np.testing.assert_array_equal(rotation_matrix(np.array([1.0, 0, 0, 0])), np.eye(3))


def test_centers_and_poses():
    viewmats, centers, rotations = random_poses(20)
    np.testing.assert_allclose(camera_centers(viewmats), centers, atol=1e-14)
    np.testing.assert_array_equal(viewmats[:, :3, :3], rotations)
    np.testing.assert_array_equal(viewmats[:, 3], np.tile([0, 0, 0, 1], (20, 1)))
    for viewmat, center in zip(viewmats, centers, strict=True):
        camera_to_world = inverted(viewmat)
        np.testing.assert_allclose(camera_to_world, np.linalg.inv(viewmat), atol=1e-14)
        np.testing.assert_allclose(camera_to_world[:3, 3], center, atol=1e-14)


def test_back_projection_is_the_inverse():
    viewmats, centers, rotations = random_poses(3, seed=2)
    images = np.random.default_rng(3).integers(0, 256, (3, SIZE[1], SIZE[0], 3), np.uint8)
    views = PosedViews(images, viewmats, np.stack([K, K, 2 * K]))
    assert len(views) == 3
    rng = np.random.default_rng(4)
    pixels = rng.uniform(0, SIZE, (200, 2))
    depths = rng.uniform(0.1, 50, 200)
    for view in range(3):
        points = views.back_project(view, pixels, depths)
        again, z, inside = views.project(view, points)
        np.testing.assert_allclose(again, pixels, atol=1e-10)
        np.testing.assert_allclose(z, depths, rtol=1e-12)
        assert inside.all()
        # Along the optical axis, one unit ahead of the camera.
        ahead = views.back_project(view, views.Ks[view][None, :2, 2], np.ones(1))
        np.testing.assert_allclose(ahead[0], centers[view] + rotations[view, 2], atol=1e-13)
        np.testing.assert_array_equal(views.axes[view], rotations[view, 2])
    np.testing.assert_allclose(views.centers, centers, atol=1e-14)
    assert views.focal == np.median([100, 80, 100, 80, 200, 160])
    column, row = pixels[0].astype(int)
    np.testing.assert_array_equal(views.colors(1, pixels)[0], images[1, row, column] / 255)


@pytest.mark.slow
def test_training_views_of_a_capture():
    capture = builtin_capture(n_views=4, width=16, height=12, n_points=10)
    views = PosedViews.training(capture)
    assert len(views) == 3
    assert views.viewmats.dtype == views.Ks.dtype == np.float64
    np.testing.assert_array_equal(views.images, capture.images[capture.train_indices])
    np.testing.assert_array_equal(views.viewmats, capture.viewmats[capture.train_indices])


@pytest.mark.parametrize(
    "numbers",
    [(0, 80, 32, 24), (100, -80, 32, 24), (np.inf, 80, 32, 24), (100, 80, np.nan, 24)]
    + [(1e31, 80, 32, 24), (100, 80, 32, -1e31), (1e-31, 80, 32, 24)],
)
def test_no_pinhole(numbers):
    with pytest.raises(CaptureError) as error:
        pinhole(*numbers, where="cameras.json, camera 3")
    fx, fy, cx, cy = numbers
    assert str(error.value) == (
        f"cameras.json, camera 3 has focal lengths {fx:g}, {fy:g} and principal point {cx:g}, "
        f"{cy:g}: expected finite numbers and positive focal lengths"
    )


def test_rigid_poses_are_cleaned():
    (viewmat, *_), _, (rotation, *_) = random_poses(1, seed=5)
    noise = np.random.default_rng(6).normal(size=(3, 3))
    pose = rigid(rotation + 1e-3 * noise, viewmat[:3, 3], where="here")
    np.testing.assert_allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-14)
    assert np.linalg.det(pose[:3, :3]) == pytest.approx(1)
    np.testing.assert_allclose(pose[:3, :3], rotation, atol=4e-3)
    np.testing.assert_array_equal(pose[:, 3], viewmat[:, 3])
    np.testing.assert_array_equal(pose[3], [0, 0, 0, 1])


@pytest.mark.parametrize(
    ("rotation", "translation", "problem"),
    [
        (np.diag([1.0, 1.0, -1.0]), np.zeros(3), "not a rotation"),
        (1.1 * np.eye(3), np.zeros(3), "not a rotation"),
        (np.zeros((3, 3)), np.zeros(3), "not a rotation"),
        (np.full((3, 3), np.nan), np.zeros(3), "not finite"),
        (np.eye(3), np.array([0, np.inf, 0]), "not finite"),
        (np.eye(3), np.array([0, 0, 1e31]), "not finite"),
    ],
)
def test_no_rigid_pose(rotation, translation, problem):
    messages = {
        "not a rotation": "photo 7 has a pose whose 3x3 part is not a rotation (expected "
        "orthonormal columns and determinant +1)",
        "not finite": "photo 7 has a pose that is not finite (NaN or infinity)",
    }
    with pytest.raises(CaptureError) as error:
        rigid(rotation, translation, where="photo 7")
    assert str(error.value) == messages[problem]
