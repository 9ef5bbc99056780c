"""Checks that a stray Gaussian does not cost the precision of the others in formats that round."""

import jax.numpy as jnp
import numpy as np
import pytest
from helpers.splats import changed, in_range

import jax_gsplat_depth as jgd
from jax_gsplat_depth import io

N = 1000


def errors(tmp_path, gaussians, name, suffix):
    """Save and load; return the distance of each ordinary Gaussian to its nearest after it."""
    io.save(tmp_path / f"a{suffix}", gaussians)
    after = io.load(tmp_path / f"a{suffix}")
    assert len(after.means) == len(gaussians.means)
    before = np.asarray(getattr(in_range(N, 0), name), np.float64)[1:]
    after = np.asarray(getattr(after, name), np.float64)
    if name == "scales":
        before, after = np.log(before), np.log(after)
    if name == "sh":
        before, after = before[:, 0], after[:, 0]
    return np.array([np.abs(row - after).max(axis=1).min() for row in before])


@pytest.mark.parametrize("suffix", [".compressed.ply", ".spz"])
@pytest.mark.parametrize("distance", [1e4, 1e6, 1e30])
def test_a_stray_position(tmp_path, suffix, distance):
    gaussians = in_range(N, 0)
    far = changed(gaussians, means=gaussians.means.at[0, 1].set(distance))
    usual = errors(tmp_path, gaussians, "means", suffix)
    with pytest.warns(io.FileWarning, match=rf"a{suffix}: 1 of 1000"):
        found = errors(tmp_path, far, "means", suffix)
    assert np.median(found) < 1.5 * np.median(usual)
    assert found.max() < (0.05 if suffix == ".compressed.ply" else 1e-4)


@pytest.mark.parametrize("name, value", [("scales", 1e-30), ("scales", 1e30), ("sh", 1e6)])
def test_another_stray_value_in_a_chunk(tmp_path, name, value):
    gaussians = in_range(N, 0)
    index = (0, 1) if name == "scales" else (0, 0, 1)
    stray = changed(gaussians, **{name: getattr(gaussians, name).at[index].set(value)})
    with pytest.warns(io.FileWarning, match="1 of 1000 Gaussians are stray"):
        found = errors(tmp_path, stray, name, ".compressed.ply")
    assert found.max() < 0.1


def test_many_far_gaussians_are_no_strays(tmp_path):
    """A backdrop of 2 % keeps its place, and nothing is said."""
    gaussians = in_range(N, 0)
    rng = np.random.default_rng(0)
    around = rng.normal(size=(20, 3))
    around *= 500 / np.linalg.norm(around, axis=1, keepdims=True)
    means = gaussians.means.at[:20].set(jnp.asarray(around, jnp.float32))
    io.save(tmp_path / "a.spz", changed(gaussians, means=means))
    np.testing.assert_allclose(io.load(tmp_path / "a.spz").means[:20], around, atol=1e-3)


def test_a_chunk_of_strays_is_not_clipped(tmp_path):
    """They do not share it with others: 1024 ordinary Gaussians fill four chunks."""
    gaussians = in_range(1034, 0)
    means = gaussians.means.at[:10, 2].set(jnp.arange(10, dtype=jnp.float32) + 1e5)
    io.save(tmp_path / "a.compressed.ply", changed(gaussians, means=means))
    after = np.asarray(io.load(tmp_path / "a.compressed.ply").means)
    np.testing.assert_allclose(np.sort(after[:, 2])[-10:], np.arange(10) + 1e5, atol=0.01)


def test_what_is_pulled_in_looks_the_same(tmp_path):
    """From the middle of the scene: direction and size over distance are kept."""
    gaussians = in_range(N, 0)
    means = gaussians.means.at[0].set(jnp.array([3e4, -2e4, 1e4]))
    scales = gaussians.scales.at[0].set(jnp.array([5e2, 3e2, 1e2]))
    with pytest.warns(io.FileWarning):
        io.save(tmp_path / "a.spz", changed(gaussians, means=means, scales=scales))
    after = io.load(tmp_path / "a.spz")
    center = np.median(np.asarray(means), axis=0)
    before, moved = np.asarray(means[0]) - center, np.asarray(after.means[0]) - center
    assert np.abs(moved).max() < 200
    factor = np.linalg.norm(moved) / np.linalg.norm(before)
    np.testing.assert_allclose(moved, factor * before, rtol=1e-4)
    np.testing.assert_allclose(after.scales[0], factor * np.asarray(scales[0]), rtol=0.04)


def test_scales_that_spz_cannot_hold_are_counted(tmp_path):
    """Thin Gaussians may become a little thicker; a scene in small units is another scene."""
    gaussians = in_range(N, 0)
    thin = changed(gaussians, scales=jnp.full((N, 3), 0.1).at[:, 2].set(1e-7))
    io.save(tmp_path / "a.spz", thin)
    small = changed(gaussians, scales=jnp.full((N, 3), 1e-6).at[0].set(1.0))
    with pytest.warns(io.FileWarning) as caught:
        io.save(tmp_path / "a.spz", small)
    words = [str(entry.message) for entry in caught]
    assert "a.spz: 999 of 1000 Gaussians have scales that" in words[0]
    assert len(words) == 2 and "coarse for scales of 1e-06" in words[1]


def test_morton_order_far_from_a_stray_point():
    from jax_gsplat_depth.io._arrange import morton_order

    rng = np.random.default_rng(0)
    points = rng.normal(size=(4096, 3))
    order = morton_order(np.concatenate([points, [[1e12, 0, 0]]]))
    assert sorted(order) == list(range(4097))
    chunks = points[order[order < 4096]].reshape(16, 256, 3)
    assert np.ptp(chunks, axis=1).max(axis=1).mean() < 0.8 * np.ptp(points, axis=0).max()
    assert len(morton_order(np.zeros((1000, 3)))) == 1000


def test_the_rendering_of_the_others_is_unchanged(tmp_path):
    gaussians = in_range(N, 0)
    small = changed(gaussians, scales=jnp.full((N, 3), 0.02))
    camera = jgd.Camera.look_at((0.0, -6.0, 0.5), (0.0, 0.0, 0.0), fov_x=0.8, width=48, height=32)
    far = changed(small, means=small.means.at[0].set(jnp.array([0.0, -1e6, 0.0])))
    without = np.asarray(jgd.render(far, camera).image)
    for suffix, bound in ((".spz", 0.02), (".compressed.ply", 0.05)):
        with pytest.warns(io.FileWarning):
            io.save(tmp_path / f"a{suffix}", far)
        image = jgd.render(io.load(tmp_path / f"a{suffix}"), camera).image
        assert np.sqrt(np.mean((np.asarray(image) - without) ** 2)) < bound
