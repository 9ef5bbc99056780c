"""Checks what the commands do with the tags of files, and with Gaussians that cannot be drawn."""

import dataclasses
import gzip
import importlib
import json
import struct

import jax.numpy as jnp
import numpy as np
import plyfile
import pytest
from helpers.commands import run
from helpers.splats import box_of_gaussians, random_gaussians

pytest.importorskip("optax")
pytest.importorskip("matplotlib")

from PIL import Image

import jax_gsplat_depth as jgd
from jax_gsplat_depth import datasets, fit, io, viewer
from jax_gsplat_depth.io import Tags

CHOICES = [("yes", [], True), ("yes", ["--no-antialiased"], False), ("no", ["--antialiased"], True)]
"""What the file says, what the command line says, and what holds."""


@pytest.fixture
def files(tmp_path):
    """Small Gaussians, with and without the tag."""
    gaussians = box_of_gaussians(scale=0.01)
    paths = {"yes": tmp_path / "yes.ply", "no": tmp_path / "no.ply"}
    io.save(paths["yes"], gaussians, Tags(antialiased=True))
    io.save(paths["no"], gaussians)
    return paths


@pytest.fixture
def small_capture(monkeypatch):
    capture = datasets.builtin_capture(n_views=9, width=40, height=30, n_points=100)
    for module in ("jax_gsplat_depth.cli._common", "jax_gsplat_depth.datasets"):
        monkeypatch.setattr(f"{module}.builtin_capture", lambda: capture)
    return capture


@pytest.fixture
def spoilt(tmp_path):
    """Of 20 Gaussians three cannot be drawn."""
    path = tmp_path / "spoilt.ply"
    io.save(path, random_gaussians(20, degree=0), Tags(antialiased=True))
    rows = np.array(plyfile.PlyData.read(path)["vertex"].data)
    rows["x"][3], rows["scale_1"][4] = np.nan, -np.inf
    for i in range(4):
        rows[f"rot_{i}"][17] = 0
    comments = ["SplatRenderMode: mip"]
    vertex = plyfile.PlyElement.describe(rows, "vertex")
    plyfile.PlyData([vertex], byte_order="<", comments=comments).write(path)
    return path


LEFT_OUT = (
    "spoilt.ply: 3 Gaussians left out that cannot be drawn (1 with NaN, 1 with a scale of zero or "
    "less, 1 with a zero rotation)\n"
)


@pytest.mark.parametrize("suffix", [".ply", ".compressed.ply", ".spz"])
def test_convert_keeps_the_tag_and_counts(spoilt, tmp_path, suffix, capsys):
    out = tmp_path / f"b{suffix}"
    assert run("convert", spoilt, out) == 0
    said = capsys.readouterr().err
    assert LEFT_OUT in said and f"17 Gaussians from {spoilt}" in said
    file = io.read(out)
    assert file.tags.antialiased is True and len(file.gaussians.means) == 17
    assert run("convert", out, tmp_path / "c.ply") == 0
    assert io.read(tmp_path / "c.ply").tags.antialiased is True


def test_convert_changes_the_tag(files, tmp_path, capsys):
    assert run("convert", files["no"], tmp_path / "a.spz", "--antialiased") == 0
    assert io.read(tmp_path / "a.spz").tags.antialiased is True
    assert run("convert", files["yes"], tmp_path / "a.splat") == 2
    assert "a.splat has no place for the tag antialiased" in capsys.readouterr().err
    assert run("convert", files["yes"], tmp_path / "a.splat", "--no-antialiased") == 0
    assert len(io.load(tmp_path / "a.splat").means) == 60


@pytest.mark.parametrize("suffix", [".spz", ".splat"])
def test_convert_of_a_map(tmp_path, suffix, capsys):
    gaussians = box_of_gaussians()
    io.save(tmp_path / "a.ply", gaussians, Tags(origin=(5e5, 5e6, 0.0)))
    assert run("convert", tmp_path / "a.ply", tmp_path / f"b{suffix}") == 2
    assert "has no place for the tag origin (500000.0 5000000.0 0.0)" in capsys.readouterr().err
    assert run("convert", tmp_path / "a.ply", tmp_path / f"b{suffix}", "--local") == 0
    np.testing.assert_allclose(io.load(tmp_path / f"b{suffix}").means, gaussians.means, atol=1e-5)


def test_convert_says_what_was_clipped(tmp_path, capsys):
    gaussians = box_of_gaussians(500)
    means = gaussians.means.at[7, 0].set(1e7)
    far = dataclasses.replace(gaussians, means=means)
    io.save(tmp_path / "a.ply", far)
    assert run("convert", tmp_path / "a.ply", tmp_path / "b.spz") == 0
    said = capsys.readouterr().err.splitlines()
    assert said[0].endswith("b.spz: 1 of 500 positions are stray, and were clipped to 128")
    assert said[0].startswith("jax-gsplat-depth: warning: ") and len(said) == 2


@pytest.mark.parametrize("suffix, degree", [(".splat", 0), (".compressed.ply", 3), (".spz", 4)])
def test_convert_says_which_degree_is_lost(tmp_path, suffix, degree, capsys):
    io.save(tmp_path / "a.ply", random_gaussians(5, degree=4))
    assert run("convert", tmp_path / "a.ply", tmp_path / f"b{suffix}") == 0
    lost = f"b{suffix} holds SH of degree {degree}, not 4" in capsys.readouterr().err
    assert lost == (degree < 4)


def test_convert_of_a_bomb(tmp_path, capsys):
    n = 400_000
    header = struct.pack("<4sII4B", b"NGSP", 3, n, 0, 12, 0, 0)
    (tmp_path / "a.spz").write_bytes(gzip.compress(header + bytes(20 * n)))
    assert run("convert", tmp_path / "a.spz", tmp_path / "b.splat") == 2
    said = capsys.readouterr().err
    assert "a.spz promises 400000 Gaussians in 8000000 bytes" in said and said.count("\n") == 1
    assert run("convert", tmp_path / "a.spz", tmp_path / "b.splat", "--max-expansion", 2000) == 0
    assert (tmp_path / "b.splat").stat().st_size == 32 * n
    assert run("info", tmp_path / "a.spz") == 2
    assert "only a max_expansion" in capsys.readouterr().err
    assert run("info", tmp_path / "a.spz", "--max-expansion", 2000) == 0
    assert "400000" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["render", "eval", "view"])
def test_commands_that_draw_take_the_limit_of_expansion(command, tmp_path, monkeypatch):
    module = importlib.import_module(f"jax_gsplat_depth.cli._{command}")
    asked = []

    def read(*arguments):
        asked.append(arguments)
        raise ValueError("seen")

    monkeypatch.setattr(module, "read_splats", read)
    monkeypatch.setattr(module, "require", lambda *_: None, raising=False)
    monkeypatch.chdir(tmp_path)
    assert run(command, "a.spz", "--max-expansion", 2000) == 2
    assert asked[0][-1] == 2000


def test_info(spoilt, tmp_path, capsys):
    assert run("info", spoilt) == 0
    table = dict(line.split(":", 1) for line in capsys.readouterr().out.splitlines())
    assert table["antialiased"].strip() == "yes (mip)"
    assert table["not finite"].strip() == "1 Gaussians with NaN or infinity"
    assert table["not drawable"].strip().startswith("3 Gaussians: 1 with NaN, 1 with a scale of")
    tags = Tags(origin=(0.5, 1e7, 0.0), comments=("made by hand",))
    io.save(tmp_path / "b.ply", random_gaussians(3), tags)
    assert run("info", tmp_path / "b.ply") == 0
    table = dict(line.split(":", 1) for line in capsys.readouterr().out.splitlines())
    assert table["antialiased"].strip() == "not said"
    assert table["origin"].strip() == "0.5 10000000.0 0.0"
    assert table["comments"].strip() == "made by hand"
    io.save(tmp_path / "c.spz", random_gaussians(3), Tags(fractional_bits=10))
    assert run("info", tmp_path / "c.spz") == 0
    table = dict(line.split(":", 1) for line in capsys.readouterr().out.splitlines())
    assert table["fractional bits"].strip() == "10" and table["antialiased"].strip() == "no"


@pytest.mark.parametrize("said, flags, antialiased", CHOICES)
def test_render(files, tmp_path, said, flags, antialiased):
    arguments = ["--width", 32, "--height", 24, "--frames", 2, "--outputs", "image,weight"]
    assert run("render", files[said], "--out", tmp_path / "out", *arguments, *flags) == 0
    data = json.loads((tmp_path / "out" / "cameras.json").read_text())
    viewmat, K = (jnp.asarray(data["cameras"][0][key], jnp.float32) for key in ("viewmat", "K"))
    camera = jgd.Camera(viewmat, K, width=32, height=24)
    config = jgd.Config(antialiased=antialiased)
    expected = jgd.render(
        io.read(files[said]).gaussians, camera, background=jnp.zeros(3), config=config
    )
    with Image.open(min((tmp_path / "out" / "weight").iterdir())) as picture:
        error = np.asarray(picture, float) - 255 * np.asarray(expected.weight)
    assert np.abs(error).max() <= 0.51


@pytest.mark.slow
def test_eval(files, small_capture, tmp_path):
    found = {}
    for said, flags, antialiased in [*CHOICES, ("no", [], False)]:
        out = tmp_path / f"{said}{len(found)}"
        assert run("eval", files[said], "--data", "builtin", "--out", out, *flags) == 0
        found[out] = antialiased, json.loads((out / "metrics.json").read_text())["psnr"]
    values = {psnr for _, psnr in found.values()}
    assert len(values) == 2 and len({*found.values()}) == 2


@pytest.mark.parametrize("said, flags, antialiased", CHOICES)
def test_view(files, monkeypatch, said, flags, antialiased):
    pytest.importorskip("viser")
    configs = []

    class Fake:
        def __init__(self, gaussians, *, config, **_):
            configs.append(config)
            raise ValueError("enough")

    monkeypatch.setattr(viewer, "Viewer", Fake)
    assert run("view", files[said], *flags) == 2
    assert configs[0].antialiased is antialiased


@pytest.mark.slow
@pytest.mark.parametrize("flags", [[], ["--antialiased"]])
def test_fit_writes_the_tag(small_capture, tmp_path, flags):
    out = tmp_path / "out"
    assert run("fit", "--out", out, "--steps", 3, "--max-gaussians", 60, *flags) == 0
    assert io.read(out / "splats.ply").tags == Tags(antialiased=bool(flags))
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["settings"]["antialiased"] is bool(flags)
    assert run("eval", out / "splats.ply", "--out", tmp_path / "eval") == 0
    again = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    assert again["psnr"] == pytest.approx(metrics["psnr"], rel=1e-5)


def test_fit_trains_as_it_says():
    assert fit.FitSettings(antialiased=True).config == jgd.Config(antialiased=True)
    assert fit.FitSettings().config == jgd.Config()


def test_commands_drop_what_cannot_be_drawn(spoilt, small_capture, tmp_path, capsys):
    assert run("render", spoilt, "--out", tmp_path / "a", "--frames", 2, "--width", 32) == 0
    assert LEFT_OUT in capsys.readouterr().err
    assert run("eval", spoilt, "--data", "builtin") == 0
    said = capsys.readouterr().err
    assert LEFT_OUT in said and "17 Gaussians, 2 held-out views" in said
