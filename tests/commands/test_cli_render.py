"""Compares what ``render`` writes with what the renderer gives, along cameras that fit."""

import itertools
import json
import os
import pathlib
import re
import shlex
import sys

import numpy as np
import pytest
from helpers.commands import run
from helpers.kills import kill_before
from helpers.splats import box_of_gaussians

pytest.importorskip("optax")
pytest.importorskip("matplotlib")

import jax.numpy as jnp
from matplotlib import colormaps
from matplotlib.colors import Normalize
from PIL import Image

import jax_gsplat_depth as jgd
from jax_gsplat_depth import datasets, frames, io
from jax_gsplat_depth._common.file_names import file_name
from jax_gsplat_depth._common.scratch import PREFIX, scratch_folder, tag_of
from jax_gsplat_depth.cli import _main
from jax_gsplat_depth.frames import _render, _write

MIN_VIDEO_PSNR = 34.0
"""dB against the frames; measured 37.3 to 41.8."""


@pytest.fixture
def ply(tmp_path):
    path = tmp_path / "a.ply"
    io.save(path, box_of_gaussians())
    return path


@pytest.fixture
def small_capture(monkeypatch):
    capture = datasets.builtin_capture(n_views=9, width=40, height=30, n_points=100)
    monkeypatch.setattr("jax_gsplat_depth.cli._common.builtin_capture", lambda: capture)
    return capture


def reference(path, cameras, background=(0, 0, 0)):
    """Render each camera of a ``cameras.json`` with the public interface alone."""
    gaussians = io.load(path)
    data = json.loads(cameras.read_text())
    for entry in data["cameras"]:
        viewmat, K = (jnp.asarray(entry[key], jnp.float32) for key in ("viewmat", "K"))
        camera = jgd.Camera(viewmat, K, width=data["width"], height=data["height"])
        out = jgd.render(gaussians, camera, background=jnp.asarray(background, jnp.float32))
        yield (
            entry["name"],
            np.round(255 * np.clip(out.image, 0, 1)),
            np.asarray(out.depth),
            np.asarray(out.weight),
        )


def pixels(path):
    with Image.open(path) as picture:
        return np.asarray(picture).astype(float)


@pytest.mark.parametrize("depth_format", ["png", "npy"])
def test_names_may_be_longer_than_those_of_files(ply, tmp_path, depth_format):
    names = ["0" * 251, "0" * 252, "0" * 255, "é" * 126 + "a", "é" * 126 + "b", "n" * 400]
    camera = {"viewmat": np.eye(4).tolist(), "K": [[9, 0, 8], [0, 9, 6], [0, 0, 1]]}
    cameras = {"width": 16, "height": 12, "cameras": [camera | {"name": name} for name in names]}
    (tmp_path / "cameras.json").write_text(json.dumps(cameras))
    arguments = ("--cameras", tmp_path / "cameras.json", "--depth-format", depth_format)
    assert run("render", ply, *arguments, "--out", tmp_path / "out") == 0
    for folder in ("image", "depth", "depth_raw", "weight"):
        suffix = f".{depth_format}" if folder == "depth_raw" else ".png"
        files = {path.name for path in (tmp_path / "out" / folder).iterdir()}
        assert files == {file_name(name, suffix) for name in names} and len(files) == len(names)
    written = json.loads((tmp_path / "out" / "cameras.json").read_text())["cameras"]
    assert [entry["name"] for entry in written] == names


@pytest.mark.quick(before=["a result"])
@pytest.mark.parametrize("before", ["nothing", "a result"])
def test_after_a_kill_the_same_command_gives_the_same_bytes(ply, tmp_path, before, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)
    size = ("--width", 16, "--height", 12, "--outputs", "image")

    def arguments(out, frames=2):
        return ["render", ply, "--out", out, *size, "--frames", frames]

    assert run(*arguments(tmp_path / "straight")) == 0
    wanted = content(tmp_path / "straight")
    for number in itertools.count(1, 4):
        out = tmp_path / str(number)
        if before == "a result":
            assert run(*arguments(out, frames=3)) == 0
        killed = kill_before(number, run, *arguments(out))
        assert run(*arguments(out)) == 0
        assert content(out) == wanted and not list(tmp_path.rglob(".*"))
        if not killed:
            break


def content(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_half_a_video_of_a_killed_command_is_removed(ply, tmp_path):
    out = tmp_path / ("v" * 250 + ".mp4")
    pytest.importorskip("av")
    hidden = tmp_path / f"{PREFIX}{tag_of(out)}0"
    hidden.mkdir()
    (hidden / "file").write_bytes(b"half")
    with scratch_folder(tmp_path, tag_of(out)) as in_use:
        frames.check_output(out)
        assert not hidden.exists() and in_use.exists()


@pytest.mark.parametrize("depth_format", ["png", "npy"])
def test_folder_holds_what_the_renderer_gives(ply, tmp_path, depth_format, capsys):
    out = tmp_path / "out"
    size = ("--width", 37, "--height", 26, "--frames", 3, "--background", "#ff8000")
    assert run("render", ply, "--out", out, *size, "--depth-format", depth_format) == 0
    assert "3 frames of 37x26" in capsys.readouterr().err.splitlines()[-1]
    metrics = json.loads((out / "metrics.json").read_text())
    files = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    assert files == metrics["files"] and len(files) == 3 * 4 + 2
    assert metrics["n_gaussians"] == 60 and metrics["outputs"] == ["image", "depth", "weight"]

    low, high = metrics["depth_range"]
    assert 0 < low < high
    solid_depths = []
    frames = reference(ply, out / "cameras.json", (1, 128 / 255, 0))
    for name, image, depth, weight in frames:
        picture = pixels(out / f"image/{name}.png")
        assert picture.shape == (26, 37, 3)
        np.testing.assert_array_equal(picture, image)
        np.testing.assert_array_equal(pixels(out / f"weight/{name}.png"), np.round(255 * weight))
        if depth_format == "npy":
            np.testing.assert_array_equal(np.load(out / f"depth_raw/{name}.npy"), depth)
        else:
            raw = pixels(out / f"depth_raw/{name}.png") * metrics["depth_scale"]
            assert np.abs(raw - depth).max() <= 0.51 * metrics["depth_scale"]
            assert (raw[depth == 0] == 0).all()
        solid = (weight >= 0.5) & (depth > 0)
        assert 20 < solid.sum() < solid.size
        expected = colormaps["viridis"](Normalize(low, high)(depth), bytes=True)[..., :3]
        expected = np.where(solid[..., None], expected, 153).astype(float)
        # Where the depth is between two colours, float32 and float64 may choose differently.
        assert (np.abs(pixels(out / f"depth/{name}.png") - expected).max(axis=-1) > 3).mean() == 0
        solid_depths.append(depth[solid])
    assert [low, high] == pytest.approx(np.quantile(np.concatenate(solid_depths), (0.01, 0.99)))


def test_an_earlier_result_is_replaced_and_nothing_else(ply, tmp_path, capsys):
    out = tmp_path / "out"
    size = ("--width", 16, "--height", 12)
    assert run("render", ply, "--out", out, *size, "--frames", 4) == 0
    (out / "notes.txt").write_text("mine")
    assert run("render", ply, "--out", out, *size, "--frames", 2, "--outputs", "weight") == 0
    assert sorted(path.name for path in out.rglob("*.png")) == ["0000.png", "0001.png"]
    assert (out / "notes.txt").read_text() == "mine"
    (out / "metrics.json").write_text('{"program": "jax-gsplat-depth fit", "files": []}')
    assert run("render", ply, "--out", out, *size) == 2
    assert "no earlier result of jax-gsplat-depth render" in capsys.readouterr().err


def test_all_frames_compile_once(ply, monkeypatch):
    traced = []
    render = _render.render

    def counting(*arguments, **keywords):
        traced.append(1)
        return render(*arguments, **keywords)

    monkeypatch.setattr(_render, "render", counting)
    gaussians = io.load(ply)
    # A size that no other test has.
    path = frames.orbit(gaussians, up=np.eye(3)[2], n_frames=5, width=23, height=19, fov_x=1.0)
    assert len(list(frames.render_frames(gaussians, path, np.zeros(3)))) == 5
    frames.depth_range(gaussians, path, np.ones(3), 0.5)
    assert traced == [1]


@pytest.mark.slow
@pytest.mark.parametrize("outputs", ["image,depth,weight", "depth", "weight,image"])
def test_video(ply, tmp_path, outputs):
    iio = pytest.importorskip("imageio.v3")
    pytest.importorskip("av")
    out, folder = tmp_path / "out.mp4", tmp_path / "folder"
    out.write_text("an earlier one")
    # Odd sides are padded, since the codec needs even ones.
    common = ("--width", 61, "--height", 45, "--frames", 6, "--outputs", outputs)
    assert run("render", ply, "--out", out, *common, "--fps", 10) == 0
    assert run("render", ply, "--out", folder, *common) == 0
    names = outputs.split(",")
    video = iio.imread(out, plugin="pyav")
    assert video.shape == (6, 46, -(-61 * len(names) // 2) * 2, 3)
    assert iio.immeta(out, plugin="pyav")["fps"] == 10
    for i, frame in enumerate(video.astype(float)):
        panels = [pixels(folder / name / f"{i:04d}.png") for name in names]
        panels = [p if p.ndim == 3 else np.repeat(p[..., None], 3, axis=-1) for p in panels]
        expected = np.concatenate(panels, axis=1)
        error = frame[: expected.shape[0], : expected.shape[1]] - expected
        # Colours have half the resolution in a video: compare the brightness.
        error = error @ [0.299, 0.587, 0.114]
        assert 20 * np.log10(255 / np.sqrt(np.mean(error**2))) > MIN_VIDEO_PSNR
    assert sorted(os.listdir(tmp_path)) == ["a.ply", "folder", "out.mp4"]


@pytest.mark.slow
def test_interrupted_video_leaves_the_earlier_one(ply, tmp_path, monkeypatch):
    pytest.importorskip("av")

    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(_write, "weight_picture", interrupt)
    out = tmp_path / "out.mp4"
    out.write_text("an earlier one")
    assert run("render", ply, "--out", out, "--width", 16, "--height", 16) == 130
    assert run("render", ply, "--out", tmp_path / "folder", "--width", 16, "--height", 16) == 130
    assert sorted(os.listdir(tmp_path)) == ["a.ply", "out.mp4"]
    assert out.read_text() == "an earlier one"


def test_cameras_of_a_capture(ply, small_capture, tmp_path):
    for views, indices in (
        ("heldout", small_capture.test_indices),
        ("train", small_capture.train_indices),
        ("all", np.arange(9)),
    ):
        out = tmp_path / views
        assert run("render", ply, "--data", "builtin", "--views", views, "--out", out) == 0
        cameras = frames.read_cameras(out / "cameras.json")
        assert cameras.names == [small_capture.names[i] for i in indices]
        # The reader takes the nearest rotation, which rounds.
        np.testing.assert_allclose(cameras.viewmats, small_capture.viewmats[indices], atol=1e-6)
        np.testing.assert_array_equal(cameras.Ks, small_capture.Ks[indices])
        assert pixels(out / f"image/{cameras.names[0]}.png").shape == (30, 40, 3)
    out = tmp_path / "path"
    assert run("render", ply, "--data", "builtin", "--frames", 3, "--width", 20, "--out", out) == 0
    cameras = frames.read_cameras(out / "cameras.json")
    assert (cameras.width, cameras.height) == (20, 15)
    np.testing.assert_allclose(cameras.Ks[0][:2], small_capture.Ks[0][:2] / 2)


VIEWMAT = [[1.0, 0, 0, 0], [0, 0, -1.0, 0], [0, 1.0, 0, 5.0], [0, 0, 0, 1.0]]
K = [[50.0, 0, 20], [0, 51.0, 15], [0, 0, 1]]


def test_cameras_of_a_file(ply, tmp_path):
    path = tmp_path / "cameras.json"
    front = {"name": "front", "viewmat": VIEWMAT, "width": 40, "height": 30}
    path.write_text(json.dumps({"K": K, "cameras": [front, {**front, "name": "again"}]}))
    out = tmp_path / "out"
    assert run("render", ply, "--cameras", path, "--out", out) == 0
    cameras = frames.read_cameras(out / "cameras.json")
    assert cameras.names == ["front", "again"]
    np.testing.assert_array_equal(cameras.viewmats[0], VIEWMAT)
    np.testing.assert_array_equal(cameras.Ks[0], K)

    # The same camera as a NeRF-style file: camera to world, OpenGL axes; no photo is there.
    pose = np.linalg.inv(VIEWMAT) @ np.diag([1, -1, -1, 1])
    frame = {"file_path": "images/x.png", "transform_matrix": pose.tolist()}
    lens = {"fl_x": 50, "fl_y": 51, "cx": 20, "cy": 15, "k1": 0.1}
    path.write_text(json.dumps({**lens, "frames": [frame]}))
    size = ("--width", 40, "--height", 30)
    assert run("render", ply, "--cameras", path, "--out", out, *size) == 0
    cameras = frames.read_cameras(out / "cameras.json")
    assert cameras.names == ["x"] and (cameras.width, cameras.height) == (40, 30)
    np.testing.assert_allclose(cameras.viewmats[0], VIEWMAT, atol=1e-6)
    np.testing.assert_array_equal(cameras.Ks[0], K)


def documented(language):
    """The code blocks of a language in the page about the frames."""
    page = (pathlib.Path(__file__).parents[2] / "docs" / "tools.md").read_text()
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


def test_documented_camera_file(tmp_path):
    (block,) = documented("json")
    (tmp_path / "cameras.json").write_text(block)
    cameras = frames.read_cameras(tmp_path / "cameras.json")
    assert cameras.names == ["front"] and (cameras.width, cameras.height) == (640, 480)


def test_documented_commands():
    lines = [line for block in documented("sh") for line in block.splitlines()]
    names = []
    for line in lines:
        program, *arguments = shlex.split(line, comments=True)
        assert program == "jax-gsplat-depth"
        _main.parse(arguments)  # Raises if it does not like them.
        names.append(arguments[0])
    assert set(names) == {"render", "eval", "view", "convert", "info"}


CAMERA = {"viewmat": VIEWMAT, "K": K, "width": 40, "height": 30}
POSE = {"transform_matrix": VIEWMAT}
LENS = {"w": 40, "h": 30, "fl_x": 50}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "is not a valid JSON file"),
        ("[]", "holds no camera"),
        ("3", "holds no JSON object"),
        ({}, "neither a list 'cameras' nor a list 'frames'"),
        ({"cameras": 3}, "neither a list"),
        ({"cameras": []}, "holds no camera"),
        ({"frames": []}, "holds no camera"),
        ({"frames": [{"transform_matrix": VIEWMAT}]}, "no 'w' and 'h'"),
        ({"cameras": ["front"]}, "camera 0 is not an object"),
        ({"cameras": [{**CAMERA, "viewmat": None}]}, "no 'viewmat' of 4x4 numbers"),
        ({"cameras": [{**CAMERA, "viewmat": [[2] * 4] * 4}]}, "last row"),
        ({"cameras": [{**CAMERA, "viewmat": [[2] * 4] * 3 + [[0, 0, 0, 1]]}]}, "not a rotation"),
        ({"cameras": [{**CAMERA, "K": [[0.0] * 3] * 3}]}, "focal lengths 0, 0"),
        ({"cameras": [{**CAMERA, "K": [[float("nan")] * 3] * 3}]}, "finite numbers"),
        ({"cameras": [{**CAMERA, "K": [1, 2]}]}, "no 'K' of 3x3 numbers"),
        ({"cameras": [{**CAMERA, "K": [[50, 1, 20], [0, 50, 15], [0, 0, 1]]}]}, "is not fx 0 cx"),
        ({"cameras": [{**CAMERA, "K": [[50, 0, 20], [0, 50, 15], [0, 0, 7]]}]}, "is not fx 0 cx"),
        ({"cameras": [{**CAMERA, "width": 0}]}, "expected whole pixels"),
        ({"cameras": [{**CAMERA, "width": 40.5}]}, "expected whole pixels"),
        ({"cameras": [{**CAMERA, "width": 10**9}]}, "more than 16384 pixels"),
        ({"cameras": [CAMERA, {**CAMERA, "width": 41}]}, "several image sizes"),
        ({"cameras": [{**CAMERA, "name": "../x"}]}, "expected a file name"),
        ({"cameras": [{**CAMERA, "name": "x\0"}]}, "expected a file name"),
        ({"cameras": [{**CAMERA, "name": ".."}]}, "expected a file name"),
        ({"cameras": [{**CAMERA, "name": "..."}]}, "expected a file name"),
        ({"cameras": [{**CAMERA, "name": "\ud800"}]}, "expected a file name"),
        ({"cameras": [{**CAMERA, "name": "x"}] * 2}, "two cameras of one name"),
        ({**LENS, "frames": [{**POSE, "file_path": "a/x\0.png"}]}, "expected a file name"),
    ],
)
def test_bad_camera_files(ply, tmp_path, content, words, capsys):
    path = tmp_path / "cameras.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    assert run("render", ply, "--cameras", path, "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert words in error and str(path) in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["none.ply"], "none.ply: No such file"),
        (["a.obj"], "unknown suffix"),
        (["bad.ply"], "bad.ply is not a PLY file"),
        (["a.ply", "--out", "out.avi"], "expected a folder or a .mp4 file"),
        (["a.ply", "--out", "other"], "other is not empty and holds no earlier result"),
        (["a.ply", "--out", "bad.ply/out"], "cannot be written"),
        (["a.ply", "--out", "none/out.mp4"], "there is no folder none"),
        (["a.ply", "--outputs", "image,normals"], "expected some of image,depth,weight"),
        (["a.ply", "--outputs", "image,image"], "expected some of image,depth,weight"),
        (["a.ply", "--outputs", ""], "expected some of image,depth,weight"),
        (["a.ply", "--background", "mauvish"], "'mauvish' is no colour"),
        (["a.ply", "--frames", "1"], "--frames: expected a whole number"),
        (["a.ply", "--width", "0"], "--width: expected a whole number between 1 and 16384"),
        (["a.ply", "--fov", "180"], "--fov: expected a number above 0 and below 180"),
        (["a.ply", "--fov", "nan"], "--fov: expected a number"),
        (["a.ply", "--up", "w"], "invalid choice: 'w'"),
        (["a.ply", "--depth-range", "3", "2"], "--depth-range needs a second number"),
        (["a.ply", "--views", "all"], "--views needs --data"),
        (["a.ply", "--data", "none"], "none does not exist"),
        (["a.ply", "--data", "builtin", "--up", "x"], "--up is for an orbit"),
        (["a.ply", "--data", "x", "--views", "all", "--frames", "9"], "--frames is for an orbit"),
        (["a.ply", "--cameras", "none.json"], "none.json cannot be opened"),
        (["a.ply", "--cameras", "x.json", "--data", "x"], "not allowed with"),
        (["a.ply", "--colour", "red"], "unrecognized arguments"),
        ([], "SPLATS"),
    ],
)
def test_errors_of_the_user(ply, tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.ply").write_text("")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("")
    before = sorted(tmp_path.rglob("*"))
    assert run("render", *arguments) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("library", ["av", "imageio.v3"])
def test_missing_extra(tmp_path, monkeypatch, capsys, library):
    monkeypatch.setitem(sys.modules, library, None)
    # Before the work, to which the file belongs.
    assert run("render", tmp_path / "none.ply", "--out", tmp_path / "out.mp4") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "pip install 'jax-gsplat-depth[video]'" in error


def test_gaussians_that_cannot_be_drawn(tmp_path, capsys):
    gaussians = box_of_gaussians(3)
    invisible = jgd.Gaussians(
        gaussians.means, gaussians.quats, gaussians.scales, jnp.full(3, 1e-4), sh=gaussians.sh
    )
    io.save(tmp_path / "a.ply", invisible)
    assert run("render", tmp_path / "a.ply", "--out", tmp_path / "out") == 2
    assert "none of the Gaussians can be drawn" in capsys.readouterr().err
