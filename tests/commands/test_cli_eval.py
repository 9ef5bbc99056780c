"""Compares the numbers of ``eval`` with those of ``fit``."""

import dataclasses
import json
import sys

import numpy as np
import pytest

pytest.importorskip("optax")
pytest.importorskip("dm_pix")

from helpers.captures import Scene, nerf_folder
from helpers.commands import run
from PIL import Image

from jax_gsplat_depth import datasets
from jax_gsplat_depth._common.file_names import file_name

SAME = {"rel": 1e-5, "abs": 0}
"""The file of the fit is rounded to float32 logarithms and logits; measured 3e-7."""


@pytest.fixture(scope="module")
def capture():
    return datasets.builtin_capture(n_views=9, width=40, height=30, n_points=100)


@pytest.fixture(scope="module")
def fitted(capture, tmp_path_factory):
    """The folder of a short fit."""
    out = tmp_path_factory.mktemp("fit") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "builtin_capture", lambda: capture)
        assert run("fit", "--out", out, "--steps", 20, "--max-gaussians", 200) == 0
    return out


@pytest.fixture(autouse=True)
def small_capture(capture, monkeypatch):
    monkeypatch.setattr("jax_gsplat_depth.cli._common.builtin_capture", lambda: capture)


@pytest.mark.slow
def test_the_numbers_are_those_of_the_fit(fitted, capture, tmp_path, capsys):
    out = tmp_path / "out"
    assert run("eval", fitted / "splats.ply", "--out", out) == 0
    printed = capsys.readouterr()
    of_fit = json.loads((fitted / "metrics.json").read_text())
    metrics = json.loads((out / "metrics.json").read_text())
    for name in ("psnr", "ssim", "depth_error"):
        assert metrics[name] == pytest.approx(of_fit[name], **SAME)
        for view, of_fit_view in zip(metrics["heldout"], of_fit["heldout"], strict=True):
            assert view["name"] == of_fit_view["name"]
            assert view[name] == pytest.approx(of_fit_view[name], **SAME)
    assert metrics["program"] == "jax-gsplat-depth eval"
    assert metrics["n_gaussians"] == of_fit["n_gaussians"] == 200
    assert metrics["capture"] == of_fit["capture"]

    names = [capture.names[i] for i in capture.test_indices]
    assert metrics["files"] == sorted(["metrics.json", *(f"heldout/{n}.png" for n in names)])
    with Image.open(out / f"heldout/{names[0]}.png") as picture:
        picture.load()
        with Image.open(fitted / f"heldout/{names[0]}.png") as of_fit_picture:
            assert np.abs(np.asarray(picture) - np.asarray(of_fit_picture).astype(int)).max() <= 2
    table = [line.split() for line in printed.out.splitlines()]
    assert [row[0] for row in table] == ["view", *names, "all"]
    assert float(table[-1][1]) == pytest.approx(metrics["psnr"], abs=1e-3)
    assert float(table[-1][3]) == pytest.approx(100 * metrics["depth_error"], abs=1e-3)
    assert "2 held-out views; pictures" in printed.err.splitlines()[-1]


def test_names_may_be_longer_than_those_of_files(fitted, capture, tmp_path, monkeypatch):
    """Of a photo without suffix, or of one in many folders; fit draws with the same function."""
    names = list(capture.names)
    longest = ["0" * 252, "é" * 126 + "a"]
    for i, name in zip(capture.test_indices, longest, strict=True):
        names[i] = name
    changed = dataclasses.replace(capture, names=names)
    monkeypatch.setattr("jax_gsplat_depth.cli._common.builtin_capture", lambda: changed)
    alone = tmp_path / "splats.ply"  # without the names of the fit beside it
    alone.write_bytes((fitted / "splats.ply").read_bytes())
    assert run("eval", alone, "--data", "builtin", "--out", tmp_path / "out") == 0
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert [view["name"] for view in metrics["heldout"]] == longest
    pictures = [path.name for path in (tmp_path / "out" / "heldout").iterdir()]
    assert sorted(pictures) == sorted(file_name(name, ".png") for name in longest)


def test_nothing_is_written_without_out(fitted, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run("eval", fitted / "splats.ply") == 0
    assert len(capsys.readouterr().out.splitlines()) == 4
    assert not list(tmp_path.iterdir())


def test_capture_without_depth(fitted, tmp_path, capsys):
    data = tmp_path / "data"
    data.mkdir()
    nerf_folder(data, Scene())
    assert run("eval", fitted / "splats.ply", "--data", data) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert [row[0] for row in rows] == ["0000", "0008", "all"]
    assert all(row[3] == "-" and np.isfinite(float(row[1])) for row in rows)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["none.ply"], "none.ply: No such file"),
        (["a.obj"], "unknown suffix"),
        (["a.ply", "--data", "none"], "none does not exist"),
        (["a.ply", "--data", "other"], "other holds no cameras"),
        (["a.ply"], "--data is needed: no cameras.json of a fit beside a.ply names its capture"),
        (
            ["moved/a.ply"],
            "/no/photos, to which moved/a.ply was fitted, is no longer there: name the",
        ),
        (["moved"], "moved is a folder: expected a file of Gaussians"),
        (["all/a.ply"], "all/a.ply was fitted to all photos of builtin: none is left"),
        (["all/a.ply", "--data", "builtin"], "was fitted to all photos of builtin: none is left"),
        (["gone/a.ply"], "builtin no longer has the held-out photo lost of the fit"),
        (["a.ply", "--data", "builtin", "--downscale", "2"], "the built-in capture has one size"),
        (["a.ply", "--downscale", "0"], "--downscale: expected a whole number"),
        (["a.ply", "--data", "data", "--downscale", "2"], "SSIM needs at least 11 pixels"),
        (["a.ply", "--out", "other"], "no earlier result of jax-gsplat-depth eval"),
        (["a.ply", "--out", "a.ply"], "a.ply is not a folder"),
        ([], "SPLATS"),
    ],
)
def test_errors_of_the_user(fitted, tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.ply").write_bytes((fitted / "splats.ply").read_bytes())
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("")
    (tmp_path / "data").mkdir()
    nerf_folder(tmp_path / "data", Scene())
    record = json.loads((fitted / "cameras.json").read_text())
    all_seen = [view | {"held_out": False} for view in record]
    common = record[0]["jax_gsplat_depth"] | {"data": "/no/photos"}
    moved = [record[0] | {"jax_gsplat_depth": common}, *record[1:]]
    gone = [record[0] | {"img_name": "lost", "held_out": True}, *record[1:]]
    for name, views in (("all", all_seen), ("moved", moved), ("gone", gone)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.ply").write_bytes((fitted / "splats.ply").read_bytes())
        (tmp_path / name / "cameras.json").write_text(json.dumps(views))
    before = sorted(tmp_path.rglob("*"))
    assert run("eval", *arguments) == 2
    printed = capsys.readouterr()
    assert words in printed.err.splitlines()[-1] and "Traceback" not in printed.err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("library", ["dm_pix", "matplotlib"])
def test_missing_library(fitted, monkeypatch, capsys, library):
    monkeypatch.setitem(sys.modules, library, None)
    assert run("eval", fitted / "splats.ply") == 2
    assert "pip install 'jax-gsplat-depth[fit]'" in capsys.readouterr().err
