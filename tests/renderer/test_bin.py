"""Tests the bin stage against brute force over every pixel: depth order and tile counts."""

import jax
import numpy as np
import pytest
from helpers import reference, scenes

import jax_gsplat_depth as jgd

TILE = 16


def project_and_bin(scene, dtype, **options):
    config = jgd.Config(**options)
    splats = jgd.project(scene.gaussians(dtype), scene.camera(dtype), config=config)
    bins = jgd.bin(splats, width=scene.width, height=scene.height, config=config)
    return jax.tree.map(np.asarray, (splats, bins))


def expected_order(depths, radii):
    return np.lexsort((np.arange(len(radii)), np.where(radii > 0, depths, 0), radii == 0))


def tiles_hit(splats, width, height):
    """``(N, n_tiles_y, n_tiles_x)``: some pixel of the tile has alpha >= 1/255, in float64."""
    row, col = np.mgrid[:height, :width] + 0.5
    u, v = np.moveaxis(splats.means2d.astype(np.float64)[:, None, None], -1, 0)
    a, b, c = np.moveaxis(splats.conics.astype(np.float64)[:, None, None], -1, 0)
    dx, dy = col - u, row - v
    sigma = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
    hit = splats.opacities[:, None, None] * np.exp(-sigma) >= 1 / 255
    hit &= (splats.radii > 0)[:, None, None]
    pad = [(0, 0), (0, -height % TILE), (0, -width % TILE)]
    hit = np.pad(hit, pad)
    return hit.reshape(len(hit), -1, TILE, hit.shape[2] // TILE, TILE).any(axis=(2, 4))


def tiles_boxed(splats, width, height):
    """As ``tiles_hit``, for the bounding box of the ellipse (and a hundredth of a pixel)."""
    drawn = splats.radii > 0
    conics = np.where(drawn[:, None], splats.conics.astype(np.float64), [1.0, 0, 1])
    a, b, c = conics.T
    det = a * c - b * b
    reach = 2 * np.log(np.maximum(255 * splats.opacities.astype(np.float64), 1))
    half = np.sqrt(reach[:, None] * np.stack([c, a], -1) / det[:, None]) + 0.01
    low, high = splats.means2d - half, splats.means2d + half
    columns, rows = (np.arange(-(-size // TILE)) * TILE for size in (width, height))
    in_x = (low[:, :1] <= columns + TILE) & (high[:, :1] >= columns)
    in_y = (low[:, 1:] <= rows + TILE) & (high[:, 1:] >= rows)
    return in_y[:, :, None] & in_x[:, None, :] & drawn[:, None, None]


SCENES = {
    "dense": lambda: scenes.dense(n=200, width=100, height=75),
    "boundary": scenes.boundary,
    "saturated": scenes.saturated,
    "big": lambda: scenes.big(200, 130),
    "ties": scenes.ties,
    "one pixel": lambda: scenes.random_scene(30, 1, 1, sigma_px=(0.5, 3.0)),
    "row": lambda: scenes.random_scene(30, 90, 1),
    "column": lambda: scenes.random_scene(30, 1, 90, focal=0.1),
}


@pytest.mark.parametrize("name", SCENES)
def test_tiles_cover_every_pixel_and_stay_in_the_box(every_backend, dtype, name):
    scene = SCENES[name]()
    splats, bins = project_and_bin(scene, dtype)
    counts = bins.tile_counts
    assert counts.dtype == np.int32
    assert counts.shape == (-(-scene.height // TILE), -(-scene.width // TILE))
    hit = tiles_hit(splats, scene.width, scene.height).sum(0)
    box = tiles_boxed(splats, scene.width, scene.height).sum(0)
    assert hit.any()
    assert (counts >= hit).all(), "a tile misses a Gaussian that has a pixel in it"
    assert (counts <= box).all(), "a tile lists a Gaussian whose bounding box misses it"


def test_slanted_gaussians_fill_fewer_tiles_than_their_box(backend, dtype):
    base = scenes.single(width=256, height=256, u=128.0, v=128.0)
    turn = [np.cos(np.pi / 8), 0, 0, np.sin(np.pi / 8)]
    thin = base.replace(quats=[turn], scales=[[4.0, 0.05, 0.05]])
    splats, bins = project_and_bin(thin, dtype)
    hit, box = (f(splats, 256, 256).sum() for f in (tiles_hit, tiles_boxed))
    assert hit <= bins.tile_counts.sum() <= 1.35 * hit < 0.5 * box


@pytest.mark.parametrize("name", SCENES)
def test_order_is_by_depth_then_index_with_the_culled_last(every_backend, dtype, name):
    splats, bins = project_and_bin(SCENES[name](), dtype)
    assert bins.order.dtype == np.int32
    np.testing.assert_array_equal(bins.order, expected_order(splats.depths, splats.radii))


def test_order_of_ties_and_extreme_depths(every_backend, dtype):
    depths = np.array([3, 1, 3, 1e9, 0.011, 1, 3, 0.0110001, 1, 2], dtype)
    radii = np.array([5, 5, 5, 5, 5, 0, 5, 5, 5, 0], np.int32)
    n = len(depths)
    splats = jgd.Splats(
        means2d=np.full((n, 2), 8, dtype),
        depths=depths,
        conics=np.tile(np.array([0.5, 0, 0.5], dtype), (n, 1)),
        opacities=np.full(n, 0.5, dtype),
        radii=radii,
    )
    bins = jgd.bin(splats, width=16, height=16)
    np.testing.assert_array_equal(bins.order, expected_order(depths, radii))
    assert np.asarray(bins.tile_counts).item() == 8


def test_large_count_is_sorted(backend, dtype):
    n = 30_000
    rng = np.random.default_rng(0)
    depths = rng.choice(np.geomspace(0.02, 1e6, 5000), n).astype(dtype)
    radii = (rng.uniform(size=n) < 0.9).astype(np.int32) * 4
    splats = jgd.Splats(
        means2d=rng.uniform(0, 64, (n, 2)).astype(dtype),
        depths=depths,
        conics=np.tile(np.array([0.5, 0, 0.5], dtype), (n, 1)),
        opacities=np.full(n, 0.5, dtype),
        radii=radii,
    )
    bins = jgd.bin(splats, width=64, height=64)
    np.testing.assert_array_equal(bins.order, expected_order(depths, radii))


def test_three_sigma_counts_are_the_tiles_of_the_rectangle(every_backend, dtype):
    scene = scenes.dense(n=200, width=100, height=75)
    splats, bins = project_and_bin(scene, dtype, footprint="3sigma")
    static = reference.Settings(100, 75, footprint="3sigma")
    with jax.enable_x64(True):
        first, last = reference.tile_rectangle(
            jax.numpy.asarray(splats.means2d.astype(np.float64)),
            jax.numpy.asarray(splats.radii.astype(np.float64)),
            static,
        )
    first, last = np.asarray(first).astype(int), np.asarray(last).astype(int)
    expected = np.zeros((5, 7), int)
    for (x0, y0), (x1, y1), radius in zip(first, last, splats.radii, strict=True):
        if radius > 0:
            expected[y0:y1, x0:x1] += 1
    np.testing.assert_array_equal(bins.tile_counts, expected)


def test_camera_axis_is_a_loop(every_backend, dtype):
    scene = scenes.boundary(cameras=3)
    _, bins = project_and_bin(scene, dtype)
    assert bins.order.shape == (3, 100) and bins.tile_counts.shape == (3, 3, 3)
    for c in range(3):
        _, one = project_and_bin(scene.camera_at(c), dtype)
        np.testing.assert_array_equal(bins.order[c], one.order)
        np.testing.assert_array_equal(bins.tile_counts[c], one.tile_counts)


def test_no_gaussians(every_backend, dtype):
    _, bins = project_and_bin(scenes.empty(), dtype)
    assert bins.order.shape == (0,) and bins.tile_counts.shape == (2, 2)
    assert not bins.tile_counts.any()
