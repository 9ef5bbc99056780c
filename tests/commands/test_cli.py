"""Tests the command line and ``fit``: errors in one sentence, short runs that write everything."""

import dataclasses
import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

pytest.importorskip("optax")
pytest.importorskip("dm_pix")

from helpers.captures import Scene, nerf_folder, write_json
from helpers.commands import refusal_without, run
from PIL import Image

from jax_gsplat_depth import datasets, io
from jax_gsplat_depth.cli._interrupt import stop_on_interrupt
from jax_gsplat_depth.evaluation import _metrics
from jax_gsplat_depth.fit import FitSettings


@pytest.fixture
def small_capture(monkeypatch):
    """Make the built-in capture small enough for a test."""
    capture = datasets.builtin_capture(n_views=9, width=40, height=30, n_points=100)
    monkeypatch.setattr(datasets, "builtin_capture", lambda: capture)
    return capture


@pytest.mark.parametrize("arguments", [["--help"], ["fit", "--help"], ["--version"]])
def test_help_and_version(arguments, capsys):
    assert run(*arguments) == 0
    out = capsys.readouterr().out
    assert "jax-gsplat-depth" in out
    if arguments[0] == "fit":
        for option in ("data", "out", "steps", "max-gaussians", "densify", "downscale", "seed"):
            assert f"--{option} " in out
        assert "--checkpoint-every N" in out and "--resume" in out
        assert f"(default: {FitSettings().steps})" in " ".join(out.split())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "COMMAND"),
        (["paint"], "invalid choice: 'paint'"),
        (["fit", "--steps", "-1"], "--steps: expected a whole number at least 1, got '-1'"),
        (["fit", "--steps", "many"], "--steps: expected a whole number"),
        (["fit", "--max-gaussians", "0"], "--max-gaussians: expected"),
        (["fit", "--downscale", "0.5"], "--downscale: expected"),
        (["fit", "--densify", "magic"], "--densify: invalid choice: 'magic'"),
        (["fit", "--checkpoint-every", "0"], "--checkpoint-every: expected"),
        (["fit", "--resume"], "fit_out holds no checkpoint to resume from"),
        (["fit", "--seed", "-3"], "--seed: expected a whole number between 0"),
        (["fit", "--colour", "red"], "unrecognized arguments"),
        (["fit", "--downscale", "2"], "--downscale needs --data"),
        (["fit", "--data", "missing"], "missing"),
        (["fit", "--data", "empty"], "empty"),
        (["fit", "--data", "a_file"], "a_file"),
        (["fit", "--out", "a_file"], "a_file is not a folder"),
        (["fit", "--out", "a_file/out"], "cannot be written"),
        (["fit", "--out", "other"], "not empty"),
        (["fit", "--data", "n" * 300], "cannot be read: File name too long"),
        (["fit", "--out", "n" * 300], "cannot be written: File name too long"),
    ],
)
def test_errors_of_the_user(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "a_file").write_text("")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("")
    before = sorted(tmp_path.rglob("*"))
    assert run(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    message = err.splitlines()[-1]
    assert words in message
    assert "Traceback" not in err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.slow
def test_missing_extra_is_one_sentence(tmp_path):
    message = refusal_without("optax", ["fit"], tmp_path)
    assert "pip install 'jax-gsplat-depth[fit]'" in message


def assert_complete(out, n_gaussians, names):
    metrics = json.loads((out / "metrics.json").read_text())
    found = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    assert found == metrics["files"]
    assert found == sorted(
        ["cameras.json", "loss.csv", "loss.png", "metrics.json", "splats.ply"]
        + [f"heldout/{name}.png" for name in names]
    )
    for path in [*out.glob("heldout/*.png"), out / "loss.png"]:
        with Image.open(path) as picture:
            picture.load()
            assert picture.size[0] > 100
    assert len(io.read(out / "splats.ply").gaussians.means) == n_gaussians == metrics["n_gaussians"]
    assert [view["name"] for view in metrics["heldout"]] == names
    for view in [metrics, *metrics["heldout"]]:
        assert view["psnr"] > 3
        assert -1 < view["ssim"] < 1
        assert view["depth_error"] > 0
    assert len((out / "loss.csv").read_text().splitlines()) == 1 + metrics["steps_done"]
    return metrics


def test_short_run_writes_everything(small_capture, tmp_path, capsys):
    out = tmp_path / "result"
    assert run("fit", "--out", out, "--steps", 4, "--max-gaussians", 120, "--seed", 7) == 0
    names = [small_capture.names[i] for i in small_capture.test_indices]
    metrics = assert_complete(out, 120, names)
    assert metrics["steps_done"] == 4
    assert not metrics["interrupted"]
    assert metrics["settings"]["seed"] == 7
    assert metrics["capture"]["width"] == 40
    assert metrics["options"]["data"] == "builtin"
    assert metrics["versions"]["optax"]
    assert metrics["seconds"]["total"] >= metrics["seconds"]["of_that_in_steps"] > 0
    err = capsys.readouterr().err
    following = f"next: jax-gsplat-depth view {out}/splats.ply"
    for words in ("loss ", "PSNR ", "120 Gaussians", "step/s", "held-out PSNR", following):
        assert words in err

    # The same seed gives the same splats to the bit, over the earlier result.
    splats = (out / "splats.ply").read_bytes()
    assert run("fit", "--out", out, "--steps", 4, "--max-gaussians", 120, "--seed", 7) == 0
    assert (out / "splats.ply").read_bytes() == splats
    assert run("fit", "--out", out, "--steps", 4, "--max-gaussians", 120, "--seed", 8) == 0
    assert (out / "splats.ply").read_bytes() != splats


@pytest.mark.slow
def test_out_on_another_disk(small_capture, tmp_path, monkeypatch):
    """A rename cannot leave the folder that stands for a mounted disk."""
    out = tmp_path / "mounted"
    out.mkdir()
    rename = os.replace

    def replace_on_one_disk(source, target, **folders):
        # Files are moved between open folders, which lie below the disk if they can be there.
        folder = folders.get("src_dir_fd")
        place = Path(source) if folder is None else Path(os.readlink(f"/proc/self/fd/{folder}"))
        if not place.is_relative_to(out):
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        rename(source, target, **folders)

    monkeypatch.setattr(os, "replace", replace_on_one_disk)
    assert run("fit", "--out", out, "--steps", 2, "--max-gaussians", 50) == 0
    assert_complete(out, 50, [small_capture.names[i] for i in small_capture.test_indices])


@pytest.mark.slow
def test_photo_names_are_not_formulas(small_capture, tmp_path, monkeypatch):
    odd = dataclasses.replace(small_capture, names=[f"$\\frac${i}" for i in range(9)])
    monkeypatch.setattr(datasets, "load_capture", lambda path, downscale: odd)
    assert run("fit", "--data", "x", "--out", tmp_path / "o", "--steps", 1) == 0
    assert len(list((tmp_path / "o" / "heldout").iterdir())) == 2


@pytest.mark.slow
def test_interrupt_after_the_last_step_keeps_the_result(small_capture, tmp_path, monkeypatch):
    evaluate = _metrics.evaluate

    def interrupted_evaluate(*arguments, **options):
        signal.raise_signal(signal.SIGINT)
        return evaluate(*arguments, **options)

    monkeypatch.setattr(_metrics, "evaluate", interrupted_evaluate)
    assert run("fit", "--out", tmp_path / "o", "--steps", 2, "--max-gaussians", 50) == 0
    names = [small_capture.names[i] for i in small_capture.test_indices]
    assert not assert_complete(tmp_path / "o", 50, names)["interrupted"]


@pytest.mark.slow
def test_run_without_points_and_depth(small_capture, tmp_path, monkeypatch):
    bare = dataclasses.replace(small_capture, points=None, point_colors=None, depths=None)
    monkeypatch.setattr(datasets, "load_capture", lambda path, downscale: bare)
    assert run("fit", "--data", "x", "--out", tmp_path / "o", "--steps", 2) == 0
    metrics = json.loads((tmp_path / "o" / "metrics.json").read_text())
    assert metrics["depth_error"] is None
    assert metrics["n_gaussians"] == FitSettings().max_gaussians


def test_capture_errors_become_sentences(tmp_path, monkeypatch, capsys):
    def load_capture(path, downscale):
        raise datasets.CaptureError(f"{path}: no photos")

    monkeypatch.setattr(datasets, "load_capture", load_capture)
    assert run("fit", "--data", "x", "--out", tmp_path / "o") == 2
    assert capsys.readouterr().err.splitlines()[-1] == "jax-gsplat-depth: error: x: no photos"
    assert not list(tmp_path.iterdir())


def test_what_is_not_used_of_a_capture_is_said(tmp_path, capsys):
    data = nerf_folder(tmp_path, Scene())
    data["colour_of_mood"] = "blue"
    write_json(tmp_path / "transforms.json", data)
    assert run("fit", "--data", tmp_path, "--out", tmp_path / "out", "--views", "100") == 2
    _, warning, error = capsys.readouterr().err.splitlines()
    path = tmp_path / "transforms.json"
    wanted = f"warning: {path} has unknown keys (colour_of_mood), which are left out"
    assert warning == f"jax-gsplat-depth: {wanted}"
    assert error.startswith("jax-gsplat-depth: error: 100 training views cannot be chosen")


def test_lack_of_memory_is_a_sentence_and_a_bug_is_not(tmp_path, monkeypatch, capsys):
    errors = [MemoryError(), ValueError("a bug")]
    monkeypatch.setattr(datasets, "load_capture", lambda path, downscale: fail(errors.pop(0)))

    def fail(error):
        raise error

    assert run("fit", "--data", "x", "--out", tmp_path / "o") == 2
    assert "not enough memory: try --downscale" in capsys.readouterr().err.splitlines()[-1]
    with pytest.raises(ValueError, match="a bug"):
        run("fit", "--data", "x", "--out", tmp_path / "o")


XLA_ERROR = "RESOURCE_EXHAUSTED: jgd_blend_fwd: out of memory: 8 bytes were wanted for nothing"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        jax.errors.JaxRuntimeError(XLA_ERROR),
        ValueError("RESOURCE_EXHAUSTED: Out of memory allocating 1555200 bytes."),
        jax.errors.JaxRuntimeError("INTERNAL: Error dispatching computation: Out of memory"),
        RuntimeError("std::bad_alloc"),
        ImportError("libx.so: failed to map segment from shared object"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        datasets.CaptureError("photo.png cannot be read as a photo"),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize(
    ("command", "lower"),
    [
        ("fit --data x", "--downscale or a smaller --max-gaussians"),
        ("render a.ply", "a smaller --width and --height"),
        ("eval a.ply --data x", "--downscale"),
        ("view a.ply", "a file with fewer Gaussians"),
        ("convert a.ply b.ply", "a file with fewer Gaussians"),
        ("info a.ply", "a file with fewer Gaussians"),
    ],
)
def test_every_command_says_what_to_lower(tmp_path, monkeypatch, capsys, command, lower, error):
    if command.startswith("view"):
        pytest.importorskip("viser")

    def fail(*_, **__):
        if isinstance(error, datasets.CaptureError):
            raise error from MemoryError()
        raise error

    monkeypatch.chdir(tmp_path)
    for module, name in (datasets, "load_capture"), (io, "read"), (io, "describe"):
        monkeypatch.setattr(module, name, fail)
    assert run(*command.split()) == 2
    expected = f"jax-gsplat-depth: error: there is not enough memory: try {lower}"
    assert capsys.readouterr().err.splitlines()[-1] == expected
    assert not list(tmp_path.iterdir())


ABORT = """
import os
from jax_gsplat_depth.cli._common import guarded

sentence = "there is not enough memory: try something smaller"
fine = guarded(out_of_memory=sentence)(lambda _: "done")
assert fine(None) == 0
guarded(out_of_memory=sentence)(lambda _: os.abort())(None)
"""


def test_an_abort_of_the_compiler_is_a_sentence():
    done = subprocess.run([sys.executable, "-c", ABORT], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "jax-gsplat-depth: done",
        "jax-gsplat-depth: error: aborted, most likely because there is not enough memory: try "
        "something smaller",
    ]


@pytest.fixture
def usual_interrupt():
    """Ctrl-C as in a terminal: a shell in the background starts programs that ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_first_interrupt_asks_and_second_interrupts(usual_interrupt):
    with stop_on_interrupt() as interrupt:
        assert not interrupt.requested()
        signal.raise_signal(signal.SIGINT)
        assert interrupt.requested()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_interrupt_while_reading_writes_nothing(tmp_path, monkeypatch):
    def load_capture(path, downscale):
        raise KeyboardInterrupt

    monkeypatch.setattr(datasets, "load_capture", load_capture)
    assert run("fit", "--data", "x", "--out", tmp_path / "o") == 130
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_ctrl_c_leaves_a_valid_result(tmp_path):
    out = tmp_path / "result"
    arguments = ["fit", "--out", str(out), "--steps", "100000", "--max-gaussians", "500"]
    process = subprocess.Popen(
        [sys.executable, "-m", "jax_gsplat_depth.cli", *arguments],
        stderr=subprocess.PIPE,
        env={**os.environ, "XLA_FLAGS": ""},
    )
    try:
        # The empty bar is drawn before the first step, and after the handler is in place.
        seen = b""
        while b"0/100000" not in seen:
            chunk = process.stderr.read1()
            assert chunk, seen.decode()
            seen += chunk
        process.send_signal(signal.SIGINT)
        seen += process.communicate(timeout=100)[1]
    finally:
        process.kill()
    assert process.returncode == 130, seen.decode()
    names = [f"view_{i:03d}" for i in range(0, 44, 8)]
    metrics = assert_complete(out, 500, names)
    assert metrics["interrupted"]
    assert 1 <= metrics["steps_done"] < 1000
    assert np.isfinite(metrics["psnr"])
