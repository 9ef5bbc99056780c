"""Tests the commands ``convert`` and ``info``."""

import sys

import numpy as np
import pytest
from helpers import ksplat
from helpers.commands import run
from helpers.splats import random_gaussians

pytest.importorskip("optax")

from jax_gsplat_depth import io


@pytest.fixture
def ply(tmp_path):
    path = tmp_path / "a.ply"
    io.save(path, random_gaussians(30, degree=2))
    return path


@pytest.mark.parametrize("suffix", [".ply", ".compressed.ply", ".splat", ".spz", ".sog"])
def test_convert(ply, tmp_path, suffix, capsys):
    out = tmp_path / f"b{suffix}"
    assert run("convert", ply, out) == 0
    printed = capsys.readouterr()
    assert printed.out == "" and f"30 Gaussians from {ply}" in printed.err
    means = [np.sort(io.load(path).means, axis=0) for path in (ply, out)]
    np.testing.assert_allclose(*means, atol=0.01)


def test_a_sog_folder_and_a_ksplat(ply, tmp_path, capsys):
    folder = tmp_path / "scene"
    assert run("convert", ply, folder / "meta.json", "--antialiased") == 0
    size = sum(file.stat().st_size for file in folder.iterdir())
    assert f"scene/meta.json ({size} bytes)" in capsys.readouterr().err
    assert run("convert", folder, tmp_path / "b.splat") == 2
    assert "b.splat has no place for the tag antialiased" in capsys.readouterr().err
    assert run("info", folder) == 0
    assert "SOG folder" in capsys.readouterr().out
    (tmp_path / "a.ksplat").write_bytes(ksplat.ksplat())
    assert run("convert", tmp_path / "a.ksplat", tmp_path / "c.sog") == 0
    assert len(io.load(tmp_path / "c.sog").means) == 3


def test_info(ply, capsys):
    assert run("info", ply) == 0
    lines = capsys.readouterr().out.splitlines()
    table = dict(line.split(":", 1) for line in lines)
    assert table["format"].strip() == "PLY" and table["Gaussians"].strip() == "30"
    assert table["SH degree"].strip() == "2 (9 coefficients per channel)"
    assert table["not finite"].strip() == "0 Gaussians with NaN or infinity"
    low, _, high = table["x"].split(",")[0].split()
    x = io.load(ply).means[:, 0]
    np.testing.assert_allclose([float(low), float(high)], [x.min(), x.max()], rtol=1e-3)
    assert {"y", "z", "scale", "opacity"} <= set(table)


def test_info_counts_nan(tmp_path, capsys):
    path = tmp_path / "a.splat"
    io.save(path, random_gaussians(3))
    content = path.read_bytes()
    path.write_bytes(np.float32([np.nan]).tobytes() + content[4:])
    assert run("info", path) == 0
    assert "1 Gaussians with NaN or infinity" in capsys.readouterr().out
    path.write_bytes(np.float32([np.nan]).tobytes() + content[4:32])
    assert run("info", path) == 0
    assert "opacity" not in capsys.readouterr().out  # Of which there is none.


@pytest.mark.parametrize(
    "arguments, text",
    [
        (["info", "none.ply"], "none.ply: No such file or directory"),
        (["info", "a.obj"], "a.obj has an unknown suffix"),
        (["info", "bad.spz"], "bad.spz is not an .spz file"),
        (["info", "."], "unknown suffix"),
        (["convert", "a.ply", "b.obj"], "b.obj has an unknown suffix"),
        (["convert", "none.ply", "b.ksplat"], "b.ksplat cannot be written: .ksplat is only"),
        (["convert", "bad.ply", "b.spz"], "bad.ply is not a PLY file"),
        (["convert", "a.ply", "none/b.spz"], "none/b.spz: No such file or directory"),
        (["convert", "none.ply", "b.spz"], "none.ply: No such file"),
        (["convert", "a.ply"], "OUT"),
    ],
)
def test_errors(ply, monkeypatch, capsys, arguments, text):
    monkeypatch.chdir(ply.parent)
    for name in ("bad.spz", "bad.ply"):
        (ply.parent / name).write_bytes(b"")
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert text in error and error.count("\n") == 1
    assert not (ply.parent / "b.spz").exists()


def test_missing_library(ply, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "plyfile", None)
    assert run("convert", ply, tmp_path / "b.splat") == 2
    assert "pip install 'jax-gsplat-depth[fit]'" in capsys.readouterr().err
