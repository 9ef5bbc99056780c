"""Makes the built-in capture: pictures of a still life, ray cast on the fly, with exact depth."""

import numpy as np

from jax_gsplat_depth.datasets._capture import Capture, hold_out
from jax_gsplat_depth.datasets._geometry import pinhole_matrix, poses_at
from jax_gsplat_depth.datasets._still_life import cast_views

_TARGET = (0.0, 0.0, 0.35)
"""Point that all cameras look at, world frame."""

_FIELD_OF_VIEW = 60.0
"""Horizontal field of view of all cameras, degrees."""

_POINT_NOISE = 0.004
"""Standard deviation of the depth of a sparse point, relative to the depth."""

_COLOR_NOISE = 4.0
"""Standard deviation of the colour of a sparse point, in 8-bit steps."""


def builtin_capture(
    *,
    seed: int = 0,
    n_views: int = 44,
    width: int = 240,
    height: int = 180,
    n_points: int = 8000,
) -> Capture:
    """Make the capture that needs no files: a still life seen from two rings of cameras.

    Args:
        seed: Decides the textures, the sparse points and the jitter of the cameras; the same seed
            gives the same capture.
        n_views: Number of pictures, at least 2; every 8th is held out.
        width: Width of the pictures in pixels.
        height: Height of the pictures in pixels.
        n_points: Number of sparse points. They imitate the points of structure from motion: they
            lie where the training pictures have texture, and carry a little noise.

    Returns:
        The capture, with exact z depth at every pixel.
    """
    if n_views < 2:
        raise ValueError(f"n_views is {n_views}, expected at least 2")
    rng = np.random.default_rng(seed)
    focal = 0.5 * width / np.tan(np.radians(_FIELD_OF_VIEW) / 2)
    K = pinhole_matrix(focal, focal, width / 2, height / 2).astype(np.float32)
    viewmats = _poses(n_views, rng)
    # Pictures and points do not depend on digits that a renderer in float32 does not see.
    rounded = viewmats.astype(np.float32)
    images, depths = cast_views(rounded, K, width=width, height=height, seed=seed)
    test_indices = hold_out(n_views)
    train = np.setdiff1d(np.arange(n_views), test_indices)
    points, colors = _sparse_points(images, depths, rounded, K, train, n_points, rng)
    return Capture(
        names=[f"view_{i:03d}" for i in range(n_views)],
        images=images,
        viewmats=viewmats,
        Ks=np.repeat(K[None], n_views, axis=0),
        points=points,
        point_colors=colors,
        depths=depths,
        alphas=None,
        test_indices=test_indices,
        background=np.zeros(3, np.float32),
    )


def _poses(n_views: int, rng: np.random.Generator) -> np.ndarray:
    """Return ``(V, 4, 4)`` world-to-camera poses on two turns around the scene, low, then high."""
    turn = 2 * np.arange(n_views) / n_views
    azimuth = 2 * np.pi * turn + rng.normal(0, 0.03, n_views)
    high = turn >= 1
    elevation = np.radians(np.where(high, 36.0, 15.0) + rng.uniform(-4, 4, n_views))
    distance = np.where(high, 3.3, 3.6) + rng.uniform(-0.2, 0.2, n_views)
    outward = np.stack(
        [
            np.cos(elevation) * np.cos(azimuth),
            np.cos(elevation) * np.sin(azimuth),
            np.sin(elevation),
        ],
        axis=-1,
    )
    eyes = np.asarray(_TARGET) + distance[:, None] * outward
    right = np.stack([-np.sin(azimuth), np.cos(azimuth), np.zeros(n_views)], axis=-1)
    rotations = np.stack([right, np.cross(-outward, right), -outward], axis=1)
    return poses_at(eyes, rotations)


def _sparse_points(
    images: np.ndarray,
    depths: np.ndarray,
    viewmats: np.ndarray,
    K: np.ndarray,
    train: np.ndarray,
    n_points: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw ``(P, 3)`` points and colours from the pixels of the training views."""
    gray = images[train].astype(np.float32).mean(axis=-1)
    across, down = np.gradient(gray, axis=2), np.gradient(gray, axis=1)
    contrast = np.hypot(across, down)
    # The constant keeps some points in flat areas: matchers find weak features there as well.
    weight = (contrast + 2.0).ravel().astype(np.float64)
    chosen = rng.choice(weight.size, n_points, replace=False, p=weight / weight.sum())
    view, row, column = np.unravel_index(chosen, gray.shape)
    view = train[view]
    z = depths[view, row, column] * (1 + rng.normal(0, _POINT_NOISE, n_points))
    pixels = np.stack([column + 0.5, row + 0.5, np.ones(n_points)], axis=-1)
    in_camera = z[:, None] * (pixels @ np.linalg.inv(K.astype(np.float64)).T)
    rotations, translations = viewmats[view, :3, :3], viewmats[view, :3, 3]
    points = np.einsum("pji,pj->pi", rotations, in_camera - translations)
    colors = images[view, row, column] + rng.normal(0, _COLOR_NOISE, (n_points, 3))
    return points, np.clip(np.round(colors), 0, 255).astype(np.uint8)
