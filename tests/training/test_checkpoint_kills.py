"""Kills fits at any step of the protocol of their files: what is left can be gone on from."""

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

pytest.importorskip("optax")
pytest.importorskip("dm_pix")
pytest.importorskip("orbax.checkpoint")

from helpers.checkpoints import assert_same_bits, settings_of, small_capture
from helpers.kills import kill_before

from jax_gsplat_depth import cli, datasets, fit
from jax_gsplat_depth._common import result_folder


@pytest.fixture(scope="module")
def capture():
    return small_capture()


class QuickCheckpointer:
    """Writes in the way of Orbax, beside the place and then renamed, in much less time."""

    def save(self, folder, args):
        scratch = folder.with_name("scratch")
        scratch.mkdir()
        np.save(scratch / "bytes.npy", args["content"].item["bytes"])
        (scratch / "about.json").write_text(json.dumps(args["about"].item))
        scratch.rename(folder)

    def restore(self, folder, args):
        about = json.loads((folder / "about.json").read_text())
        return {"content": {"bytes": np.load(folder / "bytes.npy")}, "about": about}


@pytest.fixture
def quick_checkpoints(monkeypatch):
    """Checkpoints by a writer that ends where it is killed: Orbax leaves threads behind."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
    checkpointer = contextlib.nullcontext(QuickCheckpointer())
    monkeypatch.setattr(fit.Checkpoints, "_checkpointer", lambda _: checkpointer)


@pytest.mark.quick(before=["nothing"])
@pytest.mark.parametrize("before", ["nothing", "a result"])
def test_a_kill_at_every_step_of_saving_is_made_good(capture, tmp_path, quick_checkpoints, before):
    """The next run goes on from a whole checkpoint, or starts again if there is none yet."""
    states = [{"means": np.full((3, 2), i, np.float32), "step": np.int32(i)} for i in range(4)]
    reports = [fit.StepReport(i, 1 / i, 20.0 + i, 9, {"l1": 0.5 / i}) for i in range(1, 4)]

    def save_from(checkpoints, out):
        state, done = checkpoints.start(capture, settings_of(), states[0])
        assert done == reports[: len(done)]
        assert_same_bits(state, states[len(done)])
        for i in range(len(done) + 1, 4):
            checkpoints.save(states[i], reports[:i])
        checkpoints.delete()
        assert not (out / "checkpoint").exists()
        return len(done)

    found = []
    number = 0
    for number in itertools.count(1):
        out = tmp_path / str(number) / "out"
        if before == "a result":
            result_folder.publish(out, publish_nothing, "jax-gsplat-depth fit")
        killed = kill_before(number, lambda out: save_from(fit.Checkpoints(out), out), out)
        resume = False
        try:
            fit.check_folder(out)
        except fit.OutputError as error:
            assert "add --resume" in str(error)
            resume = True
            fit.check_folder(out, resume=True)
        found.append(save_from(fit.Checkpoints(out, resume=resume), out))
        assert {path.name for path in out.iterdir()} <= {"metrics.json"}
        if not killed:
            break
    # Nothing is lost on the way, and at the end there is nothing to go on from.
    end = found.index(3) + found.count(3)
    assert found[:end] == sorted(found[:end]) and set(found[:end]) == {0, 1, 2, 3}
    assert not any(found[end:]) and number > 25


def publish_nothing(folder):
    result_folder.write_metrics(folder, "jax-gsplat-depth fit", {})


# The command


def arguments(out, *more):
    """Of a fit that is too short to measure where its time goes, which takes longer than it."""
    return ["fit", "--out", str(out), "--steps", "19", "--max-gaussians", "300", *more]


# The command with a built-in capture that is small.
SMALL = """
import sys
from jax_gsplat_depth import cli, datasets
capture = datasets.builtin_capture(n_views=9, width=40, height=30, n_points=100)
datasets.builtin_capture = lambda: capture
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_kill_at_any_step_of_the_command_is_made_good(
    capture, tmp_path, monkeypatch, capsys, quick_checkpoints
):
    """Of the whole protocol: checkpoints, publishing and all."""
    monkeypatch.setattr(datasets, "builtin_capture", lambda: capture)
    assert cli.main(arguments(tmp_path / "straight")) == 0
    ends = set()
    for number in range(1, 1000, 29):
        out = tmp_path / str(number)
        command = arguments(out, "--checkpoint-every", "8")
        killed = kill_before(number, cli.main, command)
        code = cli.main(command)
        ends.add((code, killed))
        if code == 2:
            assert "add --resume" in capsys.readouterr().err
            assert cli.main(arguments(out, "--resume")) == 0
        for name in ("splats.ply", "loss.csv"):
            assert (out / name).read_bytes() == (tmp_path / "straight" / name).read_bytes()
        assert not list(out.rglob(".*")) and not (out / "checkpoint").exists()
        if not killed:
            break
    assert ends == {(0, True), (2, True), (0, False)}


@pytest.mark.slow
def test_kill_and_resume(capture, tmp_path, monkeypatch, capsys):
    """A kill at any time, here most likely while a checkpoint is written."""
    monkeypatch.setattr(datasets, "builtin_capture", lambda: capture)
    assert cli.main(arguments(tmp_path / "straight")) == 0
    out = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-c", SMALL, *arguments(out, "--checkpoint-every", "1")],
        stderr=subprocess.DEVNULL,
    )
    try:
        while not any(path.name.isdigit() for path in out.glob("checkpoint/*")):
            assert process.poll() is None
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    assert not (out / "metrics.json").exists()
    assert cli.main(arguments(out)) == 2
    assert "add --resume" in capsys.readouterr().err
    assert cli.main([*arguments(out, "--resume"), "--seed", "1"]) == 2
    assert "belongs to a fit with seed = 0, not 1" in capsys.readouterr().err
    # It goes on with the settings that it was started with.
    assert cli.main(["fit", "--resume", "--out", str(out)]) == 0
    for name in ("splats.ply", "loss.csv"):
        assert (out / name).read_bytes() == (tmp_path / "straight" / name).read_bytes()
    assert not (out / "checkpoint").exists()
    assert cli.main(arguments(out, "--resume")) == 2
    message = f"jax-gsplat-depth: error: {out} holds no checkpoint to resume from"
    assert capsys.readouterr().err.splitlines()[-1] == message


@pytest.mark.slow
def test_ctrl_c_saves_where_it_was_asked_to(capture, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(datasets, "builtin_capture", lambda: capture)
    out = tmp_path / "out"
    save = fit.Checkpoints.save

    def save_and_interrupt(self, state, reports):
        save(self, state, reports)
        if len(reports) == 2:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(fit.Checkpoints, "save", save_and_interrupt)
    assert cli.main(arguments(out, "--checkpoint-every", "2")) == 130
    error = capsys.readouterr().err
    assert "--resume goes on from here" in error
    assert f"next: jax-gsplat-depth fit --resume --out {out}\n" in error
    assert (out / "metrics.json").exists()
    assert (out / "checkpoint" / "3").is_dir()
    assert cli.main(arguments(out, "--resume")) == 0
    assert "19 steps (3 of them before) in" in capsys.readouterr().err
    assert len((out / "loss.csv").read_text().splitlines()) == 20
