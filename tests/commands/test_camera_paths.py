"""Tests camera paths: an orbit sees the scene, a smooth path goes through its cameras."""

import dataclasses

import numpy as np
import pytest
from helpers.splats import box_of_gaussians

pytest.importorskip("scipy")
pytest.importorskip("PIL")

import jax.numpy as jnp

import jax_gsplat_depth as jgd
from jax_gsplat_depth import frames
from jax_gsplat_depth.cli._common import AXES


def centers(path):
    rotations = path.viewmats[:, :3, :3].astype(float)
    return -np.einsum("vji,vj->vi", rotations, path.viewmats[:, :3, 3])


@pytest.mark.parametrize("up", ["x", "-y", "z"])
def test_orbit(up):
    axis = AXES[up]
    half = np.array([0.8, 0.4, 0.2])[{"x": [2, 0, 1], "-y": [0, 2, 1], "z": [0, 1, 2]}[up]]
    center = np.array([1.0, -2.0, 0.5])
    gaussians = box_of_gaussians(4000, center=center, half=half, scale=0.01)
    path = frames.orbit(
        gaussians, up=axis, n_frames=8, width=64, height=48, fov_x=1.0, elevation=0.4
    )
    eyes = centers(path)
    forward, down = path.viewmats[:, 2, :3], path.viewmats[:, 1, :3]
    toward = center - eyes
    distance = np.linalg.norm(toward, axis=1)
    # All look at the centre, in which the quantiles of a sample are a little off, and keep up.
    assert (np.einsum("vi,vi->v", forward, toward) / distance > 0.9995).all()
    assert (down @ axis < -0.8).all()
    np.testing.assert_allclose(path.viewmats[:, 0, :3] @ axis, 0, atol=1e-6)
    # An ellipse, flat at one height, longer where the scene is longer.
    heights = (eyes - center) @ axis
    assert np.ptp(heights) < 1e-4 and heights.min() > 0.3
    across = np.linalg.norm((eyes - center) - heights[:, None] * axis, axis=1)
    np.testing.assert_allclose(across[:4], across[4:], rtol=0.02)
    assert across.max() - across.min() == pytest.approx(0.4 * 0.96 * np.cos(0.4), rel=0.1)
    # The box fits into every image.
    corners = center + np.stack(np.meshgrid(*[[-h, h] for h in half]), -1).reshape(-1, 3)
    for viewmat, K in zip(path.viewmats, path.Ks, strict=True):
        seen = (corners @ viewmat[:3, :3].T + viewmat[:3, 3]) @ K.T
        xy = seen[:, :2] / seen[:, 2:]
        assert (seen[:, 2] > 0).all() and (xy > 0).all() and (xy < [64, 48]).all()


def test_outliers_and_backdrops_do_not_move_the_orbit():
    def orbit(gaussians):
        return frames.orbit(gaussians, up=np.eye(3)[2], n_frames=8, width=64, height=48, fov_x=1.0)

    clean = box_of_gaussians(2000, scale=0.01)
    floaters = box_of_gaussians(20, seed=1, center=(500, 0, 0), half=(1, 1, 1))
    wall = np.random.default_rng(0).normal(size=(2000, 3)) * [1, 1, 0.2]
    wall *= 3.0 / np.linalg.norm(wall[:, :2], axis=1, keepdims=True)
    backdrop = box_of_gaussians(2000, seed=2, scale=0.4)
    backdrop = jgd.Gaussians(
        jnp.asarray(wall + [1, -2, 0.5], jnp.float32),
        backdrop.quats,
        backdrop.scales,
        backdrop.opacities,
        sh=backdrop.sh,
    )

    def joined(*parts):
        fields = ("means", "quats", "scales", "opacities", "sh")
        return jgd.Gaussians(**{f: jnp.concatenate([getattr(p, f) for p in parts]) for f in fields})

    eyes = centers(orbit(clean))
    assert np.abs(centers(orbit(joined(clean, floaters))) - eyes).max() < 0.05
    center = np.array([1, -2, 0.5])
    inside = np.linalg.norm((centers(orbit(joined(clean, backdrop))) - center)[:, :2], axis=1)
    assert inside.max() < 2.2 < 2.4 < np.linalg.norm((eyes - center)[:, :2], axis=1).max()
    assert inside.min() > 0.4


def test_smooth_path_goes_through_the_cameras():
    around = frames.orbit(
        box_of_gaussians(), up=np.eye(3)[2], n_frames=13, width=40, height=30, fov_x=1.0
    )

    def some(*indices):
        return dataclasses.replace(
            around,
            names=[str(i) for i in range(len(indices))],
            viewmats=around.viewmats[list(indices)],
            Ks=around.Ks[list(indices)],
        )

    given = some(0, 1, 3, 4, 6)
    path = frames.smooth_path(given, 401)
    for end in (0, -1):
        np.testing.assert_allclose(path.viewmats[end], given.viewmats[end], atol=1e-5)
    eyes = centers(path)
    steps = np.linalg.norm(np.diff(eyes, axis=0), axis=1)
    for eye in centers(given):
        assert np.linalg.norm(eyes - eye, axis=1).min() < 0.51 * steps.max()
    rotations = path.viewmats[:, :3, :3].astype(float)
    np.testing.assert_allclose(
        rotations @ rotations.swapaxes(1, 2), np.broadcast_to(np.eye(3), (401, 3, 3)), atol=1e-5
    )
    assert steps.max() < 3 * steps.mean()
    assert np.linalg.norm(np.diff(eyes, 2, axis=0), axis=1).max() < 0.05 * steps.mean()
    # Cameras that stand still are no division by zero.
    still = some(0, 0, 1)
    assert np.isfinite(frames.smooth_path(still, 7).viewmats).all()
    with pytest.raises(ValueError, match="at least 2 views"):
        frames.smooth_path(some(0), 7)


def test_resized():
    K = np.float32([[40, 0, 20], [0, 50, 12], [0, 0, 1]])
    given = frames.CameraPath(["a"], np.eye(4, dtype=np.float32)[None], K[None], 40, 30)
    for size in ((20, None), (None, 15), (20, 15)):
        path = frames.resized(given, *size)
        assert (path.width, path.height) == (20, 15)
        np.testing.assert_allclose(path.Ks[0], [[20, 0, 10], [0, 25, 6], [0, 0, 1]])
    thin = frames.CameraPath(["a"], given.viewmats, given.Ks, 1, 16384)
    with pytest.raises(ValueError, match="16384x268435456 pixels are too large: .* 16384 on"):
        frames.resized(thin, 16384, None)
