"""Checks compressed PLY and .splat by round trips, the rules of all formats, and real files."""

import struct
import sys

import jax.numpy as jnp
import numpy as np
import plyfile
import pytest
from helpers.splats import HALF, angles, changed, difference, in_range, random_gaussians

import jax_gsplat_depth as jgd
from jax_gsplat_depth import io
from jax_gsplat_depth.io._arrange import morton_order

SH_C0 = 0.28209479177387814


# .splat


def test_splat_round_trip(tmp_path):
    before = in_range(degree=0)
    colors = jnp.asarray(np.random.default_rng(2).uniform(0, 1, (700, 3)), jnp.float32)
    before = jgd.Gaussians(
        before.means, before.quats, before.scales, before.opacities, colors=colors
    )
    io.save(tmp_path / "a.splat", before)
    after = io.load(str(tmp_path / "a.splat"))
    np.testing.assert_array_equal(after.means, before.means)
    np.testing.assert_array_equal(after.scales, before.scales)
    assert difference(before, after, "opacities").max() <= HALF / 255
    assert after.sh.shape == (700, 1, 3)
    assert np.abs(0.5 + SH_C0 * after.sh[:, 0] - colors).max() <= HALF / 255
    # Half a step in each of four components, doubled to an angle.
    assert angles(before.quats, after.quats).max() <= 2 * np.sqrt(4) * HALF / 128 * 1.01


def test_splat_layout(tmp_path):
    gaussians = random_gaussians(3, degree=2)
    io.save(tmp_path / "a.splat", gaussians)
    content = (tmp_path / "a.splat").read_bytes()
    assert len(content) == 96
    row = struct.unpack("<6f8B", content[32:64])
    np.testing.assert_array_equal(np.float32(row[:3]), gaussians.means[1])
    np.testing.assert_array_equal(np.float32(row[3:6]), gaussians.scales[1])
    colors = np.clip(255 * (0.5 + SH_C0 * gaussians.sh[1, 0]), 0, 255)
    np.testing.assert_allclose(row[6:9], colors, atol=0.5)
    assert abs(row[9] - 255 * gaussians.opacities[1]) <= 0.5
    quat = (np.array(row[10:]) - 128) / 128
    sign = np.sign(quat @ np.asarray(gaussians.quats[1]))
    np.testing.assert_allclose(sign * quat, gaussians.quats[1], atol=HALF / 128)


def test_splat_holds_the_identity_exactly(tmp_path):
    gaussians = random_gaussians(1, degree=0)
    io.save(tmp_path / "a.splat", changed(gaussians, quats=[[1.0, 0.0, 0.0, 0.0]]))
    assert np.abs(io.load(tmp_path / "a.splat").quats[0]).tolist() == [1, 0, 0, 0]


# Compressed PLY


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
@pytest.mark.parametrize("n", [1, 256, 700])
def test_compressed_ply_round_trip(tmp_path, degree, n):
    before = in_range(n, degree)
    path = tmp_path / "a.compressed.ply"
    io.save(path, before)
    after = io.load(path)
    assert after.sh.shape == before.sh.shape
    order = morton_order(np.asarray(before.means, np.float64))
    assert sorted(order.tolist()) == list(range(n))

    def extents(values):
        chunks = np.split(values[order], range(256, n, 256))
        return np.concatenate([np.broadcast_to(np.ptp(c, axis=0), c.shape) for c in chunks])

    steps = np.array([1 / 2047, 1 / 1023, 1 / 2047])
    for name, log in (("means", False), ("scales", True)):
        values = np.asarray(getattr(before, name), np.float64)
        step = extents(np.log(values) if log else values) * steps
        assert (difference(before, after, name, order, log) <= HALF * step + 2e-6).all(), name
    first = np.asarray(before.sh[:, 0], np.float64)
    error = difference(before, after, "sh", order)
    assert (error[:, 0] <= HALF * extents(first) / 255 + 1e-6).all()
    assert (error[:, 1:] <= HALF / 32).all()
    assert difference(before, after, "opacities", order).max() <= HALF / 255
    # Three components have half a step of error, the fourth up to three halves.
    bound = 2 * np.sqrt(12) * HALF * np.sqrt(2) / 1023
    assert angles(np.asarray(before.quats)[order], after.quats).max() <= bound


def test_compressed_ply_of_large_coefficients(tmp_path):
    """The first and the last of the 256 parts stand for the ends, as for other readers."""
    gaussians = in_range(256, 1)
    sh = np.asarray(gaussians.sh).copy()
    sh[:, 1, 0] = np.linspace(-4, 4, 256)
    sh[:2, 1, 1] = -9, 9
    io.save(tmp_path / "a.compressed.ply", changed(gaussians, sh=sh))
    after = np.asarray(io.load(tmp_path / "a.compressed.ply").sh)
    sh = sh[morton_order(np.asarray(gaussians.means, np.float64))]
    error = np.abs(after - np.clip(sh, -4, 4))[:, 1:]
    assert error.max() <= 3 / 128 + 1e-6
    assert np.abs(after).max() == 4


def test_compressed_ply_layout(tmp_path):
    """Bits by hand: one Gaussian in the middle of a chunk that others span."""
    path = tmp_path / "a.ply"
    bounds = [-1, -2, -3, 1, 2, 3, -5, -5, -5, -1, -1, -1, 0, 0, 0, 1, 1, 1]
    names = [f"{e}_{k}{a}" for k in ("", "scale_") for e in ("min", "max") for a in "xyz"]
    names += [f"{e}_{c}" for e in ("min", "max") for c in "rgb"]
    chunk = np.array([tuple(bounds)], [(name, "<f4") for name in names])
    position = 2047 << 21 | 0 << 11 | 2047
    rotation = 2 << 30 | 1023 << 20 | 512 << 10 | 512  # Largest y, w = sqrt(1/2), x and z about 0.
    scale = 0 << 21 | 1023 << 11 | 0
    color = 255 << 24 | 51 << 16 | 0 << 8 | 102
    kinds = [(f"packed_{n}", "<u4") for n in ("position", "rotation", "scale", "color")]
    vertex = np.array([(position, rotation, scale, color)], kinds)
    sh = np.array([tuple(range(0, 250, 28))], [(f"f_rest_{i}", "u1") for i in range(9)])
    elements = [("chunk", chunk), ("vertex", vertex), ("sh", sh)]
    for form in ({"byte_order": "<"}, {"byte_order": ">"}, {"text": True}):
        described = [plyfile.PlyElement.describe(rows, name) for name, rows in elements]
        plyfile.PlyData(described, **form).write(path)
        gaussians = io.load(path)
        np.testing.assert_allclose(gaussians.means, [[1, -2, 3]], rtol=1e-6)
        half = np.sqrt(0.5)
        np.testing.assert_allclose(gaussians.quats, [[half, 0, half, 0]], atol=1e-3)
        np.testing.assert_allclose(gaussians.scales, np.exp([[-5.0, -1, -5]]), rtol=1e-6)
        np.testing.assert_allclose(gaussians.opacities, [0.4], rtol=1e-6)
        colors = 0.5 + SH_C0 * np.asarray(gaussians.sh[:, 0])
        np.testing.assert_allclose(colors, [[1, 0.2, 0]], atol=1e-6)
        expected = 8 * ((np.arange(0, 250, 28) + 0.5) / 256) - 4
        expected[0] = -4
        np.testing.assert_allclose(np.asarray(gaussians.sh)[0, 1:].T.ravel(), expected, rtol=1e-6)


# All of them


@pytest.mark.parametrize("suffix", [".ply", ".compressed.ply", ".splat", ".spz", ".sog"])
def test_a_second_round_trip_changes_nothing_more(tmp_path, suffix):
    """What a format has rounded once it holds exactly, but for ranges that are rounded as well."""
    io.save(tmp_path / f"a{suffix}", in_range(300, 2))
    once = io.load(tmp_path / f"a{suffix}")
    io.save(tmp_path / f"b{suffix}", once)
    twice = io.load(tmp_path / f"b{suffix}")
    if suffix not in (".compressed.ply", ".sog"):  # Rounded positions may sort otherwise.
        for name in ("means", "opacities"):
            assert difference(once, twice, name).max() < 1e-6
    assert once.sh.shape == twice.sh.shape


@pytest.mark.parametrize("suffix", [".compressed.ply", ".splat", ".spz", ".sog"])
def test_gaussians_that_are_never_drawn_are_left_out(tmp_path, suffix):
    gaussians = in_range(4, 0)
    bad = changed(
        gaussians,
        means=gaussians.means.at[0, 1].set(jnp.nan),
        quats=gaussians.quats.at[1].set(0.0),
        scales=gaussians.scales.at[2, 0].set(0.0),
    )
    io.save(tmp_path / f"a{suffix}", bad)
    after = io.load(tmp_path / f"a{suffix}")
    np.testing.assert_allclose(after.means, gaussians.means[3:], atol=1e-5)
    with pytest.raises(ValueError, match="would hold no Gaussian"):
        io.save(tmp_path / f"b{suffix}", changed(bad, means=bad.means * jnp.nan))


def test_unknown_suffix(tmp_path):
    for act in (io.load, lambda path: io.save(path, in_range(3, 0))):
        with pytest.raises(ValueError, match=r"a.obj has an unknown suffix: expected .compressed"):
            act(tmp_path / "a.obj")


def test_missing_file(tmp_path):
    for suffix in (".ply", ".compressed.ply", ".splat", ".spz", ".sog", ".ksplat"):
        with pytest.raises(FileNotFoundError):
            io.load(tmp_path / f"a{suffix}")


# Real files


def real(shared, name):
    path = shared / "data" / "splats" / name
    if not path.is_file():
        pytest.skip(f"{path} is absent")
    return path


def picture(gaussians, eye, target):
    camera = jgd.Camera.look_at(eye, target, (0.0, -1.0, 0.0), fov_x=0.7, width=96, height=96)
    return np.clip(jgd.render(gaussians, camera, background=jnp.ones(3)).image, 0, 1)


def psnr(one, other):
    return -10 * np.log10(np.mean((one - other) ** 2))


def test_two_formats_of_one_scene_agree(shared):
    """Made by other tools from one scan, in one order: half steps apart, and the same picture."""
    if sys.version_info < (3, 14):
        pytest.importorskip("backports.zstd")
    one = io.load(real(shared, "biker/biker.compressed.ply"))
    other = io.load(real(shared, "biker/biker.spz"))
    assert one.means.shape == other.means.shape == (152746, 3)
    assert difference(one, other, "means").max() <= HALF / 2**12 + 1e-6
    np.testing.assert_array_equal(one.opacities, other.opacities)
    assert difference(one, other, "sh").max() <= HALF / (0.15 * 255)
    assert angles(one.quats, other.quats).max() <= np.radians(0.2)
    inside = np.asarray(one.scales).min(axis=1) > np.exp(-10)
    assert difference(one, other, "scales", log=True)[inside].max() <= HALF / 16 + 1e-6
    low, high = np.percentile(one.means, [1, 99], axis=0)
    np.testing.assert_allclose(low, [-0.52, -3.11, -0.49], atol=0.01)
    np.testing.assert_allclose(high, [0.31, -0.04, 0.55], atol=0.01)
    views = [picture(g, (0.4, -1.6, -5.5), (-0.1, -1.5, 0.0)) for g in (one, other)]
    assert psnr(*views) > 45 and views[0].std() > 0.2


@pytest.mark.parametrize(
    "suffix, bound", [(".compressed.ply", 45), (".splat", 26), (".spz", 45), (".sog", 45)]
)
def test_a_trained_scene_survives(shared, tmp_path, suffix, bound):
    before = io.load(real(shared, "playbot_lod3/playbot_lod3.ply"))
    io.save(tmp_path / f"a{suffix}", before)
    after = io.load(tmp_path / f"a{suffix}")
    views = [picture(g, (2.0, -1.2, -2.6), (0.0, -0.5, 0.0)) for g in (before, after)]
    assert psnr(*views) > bound
