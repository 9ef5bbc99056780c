"""Checks round trips through the versions of .spz within half a step, and conventions by hand."""

import contextlib
import gzip
import struct
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from helpers.splats import HALF, angles, changed, difference, in_range

import jax_gsplat_depth as jgd
from jax_gsplat_depth import io


@pytest.mark.parametrize("version", [2, 3, 4])
@pytest.mark.parametrize("degree", [0, 1, 2, 3, 4])
def test_spz_round_trip(tmp_path, version, degree):
    if version == 4 and sys.version_info < (3, 14):
        pytest.importorskip("backports.zstd")
    before = in_range(degree=degree)
    path = tmp_path / "a.spz"
    io.write_spz(path, before, version=version)
    after = io.load(path)
    assert after.sh.shape == before.sh.shape
    assert difference(before, after, "means").max() <= HALF / 2**16
    assert difference(before, after, "scales", log=True).max() <= HALF / 16
    assert difference(before, after, "opacities").max() <= HALF / 255
    error = difference(before, after, "sh")
    assert error[:, 0].max() <= HALF / (0.15 * 255)
    assert error[:, 1:].max(initial=0) <= HALF / 128
    if version > 2:
        bound = 2 * np.sqrt(12) * HALF * np.sqrt(0.5) / 511
        assert angles(before.quats, after.quats).max() <= bound
    else:
        quats, back = (np.asarray(g.quats, np.float64) for g in (before, after))
        sign = np.sign(quats[:, :1])
        # A small w is the rest of numbers that are rounded, and so are the lengths.
        sure = np.abs(quats[:, 0]) > 0.2
        assert np.abs(sign * quats - back)[sure, 1:].max() <= HALF / 127.5
        assert angles(quats, back)[sure].max() <= 0.05


def test_spz_header_and_axes(tmp_path):
    gaussians = in_range(2, 1)
    io.save(tmp_path / "a.spz", gaussians)
    content = gzip.decompress((tmp_path / "a.spz").read_bytes())
    assert struct.unpack_from("<4sIIBBBB", content) == (b"NGSP", 3, 2, 1, 16, 0, 0)
    assert len(content) == 16 + 2 * (9 + 1 + 3 + 3 + 4 + 9)
    y = int.from_bytes(content[19:22], "little", signed=True) / 2**16
    assert abs(y + float(gaussians.means[0, 1])) <= HALF / 2**16  # Up is the other way.
    sh = (np.frombuffer(content[-18:-9], np.uint8).reshape(3, 3) - 128.0) / 128
    signs = np.array([[-1], [-1], [1]])  # The bases y, z, x.
    np.testing.assert_allclose(sh * signs, gaussians.sh[0, 1:], atol=HALF / 128)


@pytest.mark.slow
def test_spz_of_a_rotated_scene_looks_the_same(tmp_path):
    """The signs of all SH bases: undone by hand, the stored scene is the one turned about x."""
    from jax_gsplat_depth.io._spz_columns import _sh_signs

    sh = jnp.asarray(np.random.default_rng(0).normal(size=(5, 25, 3)), jnp.float32)
    turned = jgd.rotate_sh(sh, jnp.diag(jnp.array([1.0, -1.0, -1.0])))
    np.testing.assert_allclose(
        turned, np.asarray(sh) * _sh_signs(25, (1, -1, -1))[:, None], atol=1e-5
    )


def test_spz_version_1(tmp_path):
    """Positions are half floats there; this version was never written by a released tool."""
    positions = np.array([0.5, -2.0, 3.25], "<f2").tobytes()
    content = struct.pack("<4sIIBBBB", b"NGSP", 1, 1, 0, 0, 0, 0) + positions
    content += bytes([51, 128, 255, 0, 160, 176, 96, 128, 128, 255])
    (tmp_path / "a.spz").write_bytes(gzip.compress(content))
    gaussians = io.load(tmp_path / "a.spz")
    np.testing.assert_allclose(gaussians.means, [[0.5, 2, -3.25]])
    np.testing.assert_allclose(gaussians.opacities, [0.2], rtol=1e-6)
    np.testing.assert_allclose(gaussians.scales, np.exp([[0.0, 1, -4]]), rtol=1e-6)
    np.testing.assert_allclose(gaussians.quats, [[0, 0, 0, -1]], atol=0.01)


@pytest.mark.parametrize("farthest, bits", [(1e-30, 16), (100.0, 16), (1000.0, 12), (8e6, 0)])
def test_spz_takes_the_finest_step_that_holds_the_scene(tmp_path, farthest, bits):
    gaussians = in_range(3, 0)
    means = gaussians.means.at[:2, 2].set(farthest)
    with pytest.warns(io.FileWarning) if bits == 0 else contextlib.nullcontext():
        io.save(tmp_path / "a.spz", changed(gaussians, means=means))
    content = gzip.decompress((tmp_path / "a.spz").read_bytes())
    found = content[13]
    assert found == bits or (farthest == 1000.0 and found == 13)
    after = io.load(tmp_path / "a.spz")
    assert np.abs(np.asarray(after.means) - means).max() <= HALF / 2.0**found + 1e-6 * farthest


def test_spz_warns_of_steps_that_spoil_the_positions(tmp_path):
    before = in_range(100, 0)
    # Float32 has steps of 2^-7 at this size, the file of 2^-6.
    far = changed(before, means=before.means + 1e5, scales=jnp.full((100, 3), 0.02))
    with pytest.warns(io.FileWarning, match=r"a.spz: .* up to 1e\+05 leave steps of 0.016"):
        io.save(tmp_path / "a.spz", far)
    file = io.read(tmp_path / "a.spz")
    io.save(tmp_path / "b.spz", file.gaussians, file.tags)  # Nothing is rounded any more.
    np.testing.assert_array_equal(io.load(tmp_path / "b.spz").means, file.gaussians.means)
    io.write_spz(tmp_path / "c.spz", far, fractional_bits=5)
    near = changed(far, means=before.means)
    io.save(tmp_path / "d.spz", near)
    with pytest.warns(io.FileWarning, match="leave steps of 0.062"):
        io.save(tmp_path / "e.spz", near, io.Tags(fractional_bits=4))


def test_spz_of_a_small_scene_has_finer_steps(tmp_path):
    gaussians = in_range(200, 0)
    io.save(tmp_path / "a.spz", changed(gaussians, means=0.001 * gaussians.means))
    after = io.load(tmp_path / "a.spz")
    assert np.abs(np.asarray(after.means) - 0.001 * np.asarray(gaussians.means)).max() < 1e-7


def test_spz_refuses_what_it_cannot_hold(tmp_path):
    gaussians = in_range(3, 0)
    far = changed(gaussians, means=gaussians.means.at[:2, 2].set(1e9))
    with pytest.raises(ValueError, match="cannot hold a position of 1e"):
        io.save(tmp_path / "a.spz", far)
    with pytest.raises(ValueError, match="24 fractional bits"):
        io.write_spz(tmp_path / "a.spz", gaussians, fractional_bits=24)
    with pytest.raises(ValueError, match="version is 1"):
        io.write_spz(tmp_path / "a.spz", gaussians, version=1)
    assert not list(tmp_path.iterdir())


def test_missing_zstd_names_the_extra(tmp_path, monkeypatch):
    module = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r"pip install 'jax-gsplat-depth\[spz\]'"):
        io.write_spz(tmp_path / "a.spz", in_range(3, 0), version=4)
    assert not list(tmp_path.iterdir())
