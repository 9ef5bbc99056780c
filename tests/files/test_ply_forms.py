"""Tests PLY files of relatives of 3DGS, in which something is missing or said otherwise."""

import warnings

import numpy as np
import plyfile
import pytest
from helpers.splats import random_gaussians, refusal

from jax_gsplat_depth import io

SH_C0 = 0.28209479177387814
N = 20


def ply(path, without="", text=False, **columns):
    """Write a file without the properties whose names begin so, and with others."""
    io.save(path, random_gaussians(N, degree=1))
    rows = plyfile.PlyData.read(path, mmap=False)["vertex"].data
    drop = tuple(without.split())
    fields = {
        name: rows[name] for name in rows.dtype.names if not drop or not name.startswith(drop)
    }
    fields |= columns
    kinds = [(name, values.dtype) for name, values in fields.items()]
    other = np.array(list(zip(*fields.values(), strict=True)), kinds)
    element = plyfile.PlyElement.describe(other, "vertex")
    plyfile.PlyData([element], text=text, byte_order="=" if text else ">").write(path)
    return path


def loaded(path, words):
    """Return the Gaussians of a file; the only warning has these words, and the file's name."""
    with pytest.warns(io.FileWarning) as caught:
        gaussians = io.load(path)
    assert len(caught) == 1 and path.name in str(caught[0].message)
    for word in words:
        assert word in str(caught[0].message)
    return gaussians


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize(
    "kind, white", [("u1", 255), ("u2", 65535), ("f4", 1), ("f8", 255)], ids=str
)
def test_colors_instead_of_sh(tmp_path, kind, white, text):
    colors = np.random.default_rng(0).uniform(0, 1, (N, 3))
    colors[0, 0] = 1
    stored = (white * colors).astype(kind)
    prefix = "diffuse_" if kind == "u2" else ""
    names = [f"{prefix}{channel}" for channel in ("red", "green", "blue")]
    path = ply(tmp_path / "a.ply", "f_", text, **dict(zip(names, stored.T, strict=True)))
    gaussians = loaded(path, ["f_dc_*", names[0]])
    assert gaussians.sh.shape == (N, 1, 3)
    np.testing.assert_allclose(0.5 + SH_C0 * gaussians.sh[:, 0], stored / white, atol=1e-6)
    np.testing.assert_allclose(gaussians.scales, random_gaussians(N).scales, rtol=2e-6)


def test_sh_has_precedence_over_colors(tmp_path):
    red = np.zeros(N, "u1")
    path = ply(tmp_path / "a.ply", red=red, green=red, blue=red)
    gaussians = loaded(path, ["blue, green, red, which are left out"])
    np.testing.assert_array_equal(gaussians.sh, random_gaussians(N, degree=1).sh)


def test_no_color_is_grey(tmp_path):
    assert not loaded(ply(tmp_path / "a.ply", "f_"), ["grey"]).sh.any()


def test_two_scales(tmp_path):
    """As 2DGS writes: flat, and still to be drawn."""
    scales = loaded(ply(tmp_path / "a.ply", "scale_2"), ["scale_2", "0.001"]).scales
    two = random_gaussians(N).scales[:, :2]
    np.testing.assert_allclose(scales[:, :2], two, rtol=2e-6)
    np.testing.assert_allclose(scales[:, 2], 1e-3 * two.min(axis=1), rtol=2e-6)


@pytest.mark.parametrize("rotated", [False, True])
def test_one_scale(tmp_path, rotated):
    without = "scale_1 scale_2" + (" rot_" if not rotated else "")
    path = ply(tmp_path / "a.ply", without)
    gaussians = loaded(path, ["scale_1 and scale_2"] + ["rot_*"] * (not rotated))
    one = random_gaussians(N).scales[:, :1]
    np.testing.assert_allclose(gaussians.scales, np.repeat(one, 3, axis=1), rtol=2e-6)
    if not rotated:
        np.testing.assert_array_equal(gaussians.quats, np.tile([1, 0, 0, 0], (N, 1)))
    io.save(tmp_path / "b.ply", gaussians)
    np.testing.assert_allclose(io.load(tmp_path / "b.ply").scales, gaussians.scales, rtol=2e-6)


def test_everything_at_once_and_one_bad(tmp_path):
    x = np.zeros(N, "f4")
    x[3] = np.nan
    path = ply(tmp_path / "a.ply", "f_ scale_1 scale_2 rot_ n", x=x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file = io.read(path, on_bad="drop")
    assert file.dropped == {"with NaN": 1} and file.gaussians.scales.shape == (N - 1, 3)


@pytest.mark.parametrize(
    "without, missing",
    [
        ("scale_0", "scale_0"),
        ("scale_1", "scale_1"),
        ("scale_", "scale_0"),
        ("rot_1", "rot_1"),
        ("f_dc_2", "f_dc_2"),
        ("opacity", "opacity"),
    ],
)
def test_what_has_no_default(tmp_path, without, missing):
    assert f"no vertex property {missing}" in refusal(ply(tmp_path / "a.ply", without))


@pytest.mark.parametrize("suffix", [".ply", ".compressed.ply"])
@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
def test_long_headers(tmp_path, suffix, newline):
    """Some programs write more than 64 KiB of comments, before the properties and behind them."""
    path = tmp_path / f"a{suffix}"
    io.save(path, random_gaussians(3, degree=0))
    before = io.load(path)
    header, end, data = path.read_bytes().partition(b"end_header\n")
    lines = header.split(b"\n")
    comments = [b"comment " + b"packed_position x end_header " * 40] * 300
    lines = [
        *lines[:2],
        *comments,
        *lines[2:-1],
        *comments,
        b"comment property uint packed_position",
    ]
    path.write_bytes(newline.join([*lines, b"end_header", data]))
    file = io.read(path.rename(tmp_path / "b.ply"))
    np.testing.assert_array_equal(file.gaussians.means, before.means)
    assert len(file.tags.comments) == 601
    assert "... (601 comments)" in io.describe(tmp_path / "b.ply")


def test_a_header_without_end(tmp_path):
    path = tmp_path / "a.ply"
    path.write_bytes(b"ply\nformat binary_little_endian 1.0\n" + b"comment x\n" * 100_000)
    assert "no complete PLY header" in refusal(path)
