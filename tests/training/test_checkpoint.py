"""Tests stopping a fit and going on: the same bits, and one sentence for what cannot be resumed."""

import dataclasses
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

pytest.importorskip("optax")
pytest.importorskip("dm_pix")
pytest.importorskip("orbax.checkpoint")

from helpers.commands import refusal_without

from jax_gsplat_depth import cli, datasets, fit
from jax_gsplat_depth._common import result_folder

STEPS, STOP = 11, 5

# Density control that adds, removes and resets before the stop and after it.
DENSE = {
    "steps": 16,
    "densify_every": 3,
    "initial_fraction": 0.4,
    "mcmc": fit.McmcSettings(growth=0.3),
    "adc": fit.AdcSettings(reset_every=2, threshold=1e-6),
}
DENSE_STOP = 8


@pytest.fixture(scope="module")
def capture():
    return datasets.builtin_capture(n_views=9, width=40, height=30, n_points=100)


def settings_of(**changed):
    values = {"steps": STEPS, "max_gaussians": 120} | changed
    return fit.FitSettings(**values)


def run_fit(capture, out, settings=None, *, stop=None, every=None, resume=False):
    reports = []
    return fit.fit(
        capture,
        settings or settings_of(),
        on_step=reports.append,
        # The report of a step comes after the next one has begun.
        should_stop=lambda: stop is not None and len(reports) >= stop - 1,
        checkpoints=fit.Checkpoints(out, every=every, resume=resume),
    )


def assert_same_bits(a, b):
    for one, other in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.fixture(scope="module")
def straight(capture):
    """A fit that was never stopped and never saved."""
    return fit.fit(capture, settings_of())


@pytest.fixture
def resumed(capture, straight, out):
    """What a fit in ``out`` would go on with: a function of its settings and its capture."""

    def start(settings=None, capture=capture):
        checkpoints = fit.Checkpoints(out, resume=True)
        return checkpoints.start(capture, settings or settings_of(), straight.state)

    return start


@pytest.fixture(scope="module")
def stopped(capture, tmp_path_factory):
    """The output folder of a fit that was stopped; copied by those who change it."""
    out = tmp_path_factory.mktemp("stopped") / "out"
    assert run_fit(capture, out, stop=STOP, every=3).interrupted
    return out


@pytest.fixture
def out(stopped, tmp_path):
    return shutil.copytree(stopped, tmp_path / "out")


@pytest.mark.quick(densify=["adc"])
@pytest.mark.parametrize(
    ("densify", "sh_degree"), [("none", 0), ("none", 3), ("mcmc", 3), ("adc", 3)]
)
@pytest.mark.slow
def test_resume_equals_no_stop(capture, tmp_path, densify, sh_degree):
    settings = settings_of(**DENSE, densify=densify, sh_degree=sh_degree)
    straight = run_fit(capture, tmp_path, settings, every=DENSE_STOP)
    shutil.rmtree(tmp_path / "checkpoint" / str(DENSE["steps"]))
    second = run_fit(capture, tmp_path, settings, resume=True)
    assert second.resumed_after == DENSE_STOP and not second.interrupted
    counts = {report.n_gaussians for report in second.reports}
    assert counts == {120} if densify == "none" else len(counts) > 2
    assert_same_bits(straight.state, second.state)
    assert_same_bits(straight.gaussians, second.gaussians)
    assert straight.reports == second.reports


@pytest.mark.slow
def test_the_two_newest_are_kept_and_stopping_saves(stopped):
    names = sorted(path.name for path in (stopped / "checkpoint").iterdir())
    assert names == ["3", "5", "fit.json"]


def test_the_last_step_is_saved(capture, tmp_path):
    """A kill while the results are written costs nothing: no step is made again."""
    settings = settings_of(steps=4)
    done = run_fit(capture, tmp_path / "out", settings, every=3)
    again = run_fit(capture, tmp_path / "out", settings, resume=True)
    assert again.resumed_after == 4 and again.steps_per_second is None
    assert_same_bits(done.state, again.state)
    assert done.reports == again.reports


def test_a_new_fit_does_not_lose_a_checkpoint(capture, out):
    before = {path: path.read_bytes() for path in files_of(out)}
    with pytest.raises(fit.FitError, match="checkpoint of an unfinished fit: resume it, or delete"):
        run_fit(capture, out, every=3)
    assert {path: path.read_bytes() for path in files_of(out)} == before


def test_a_checkpoint_that_is_not_written_is_an_error(out, straight):
    """Orbax refuses without a word to write a step before those that it finds."""
    checkpoints = fit.Checkpoints(out, resume=True)
    with pytest.raises(fit.OutputError, match="holds a checkpoint of step 4 or later"):
        checkpoints.save(straight.state, straight.reports[:4])


def test_an_incomplete_checkpoint_is_not_used(capture, straight, out):
    """Orbax writes under another name: what a kill leaves is not mistaken for a checkpoint."""
    newest = out / "checkpoint" / "5"
    newest.rename(newest.with_name("5.orbax-checkpoint-tmp"))
    resumed = run_fit(capture, out, resume=True)
    assert resumed.resumed_after == 3
    assert_same_bits(resumed.state, straight.state)
    assert resumed.reports == straight.reports


def files_of(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("damage", ["truncated", "changed", "gone"])
def test_damage_is_one_sentence(out, resumed, damage, capfd):
    arrays = max(files_of(out / "checkpoint" / "5"), key=lambda path: path.stat().st_size)
    content = bytearray(arrays.read_bytes())
    if damage == "gone":
        arrays.unlink()
    elif damage == "truncated":
        arrays.write_bytes(content[: len(content) // 2])
    else:
        content[len(content) // 2] ^= 0xFF
        arrays.write_bytes(content)
    with pytest.raises(fit.FitError, match=r"checkpoint/5 is damaged: delete it"):
        resumed()
    assert capfd.readouterr() == ("", "")
    shutil.rmtree(out / "checkpoint" / "5")
    assert len(resumed()[1]) == 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": 12}, "a fit with steps = 11, not 12"),
        ({"seed": 1}, "a fit with seed = 0, not 1"),
        ({"lr_quats": 0.5}, "a fit with lr_quats = 0.002, not 0.5"),
        ({"adc": fit.AdcSettings(threshold=0.5)}, "a fit with adc.threshold = None, not 0.5"),
    ],
)
def test_other_settings_are_refused(resumed, change, words):
    with pytest.raises(fit.FitError, match=words):
        resumed(settings_of(**change))


def test_another_capture_is_refused(capture, resumed):
    images = capture.images.copy()
    images[3, 2, 1] ^= 1
    for other in (
        dataclasses.replace(capture, images=images),
        dataclasses.replace(capture, depths=None),
    ):
        with pytest.raises(fit.FitError, match="another capture"):
            resumed(capture=other)


@pytest.mark.parametrize("found", ["nothing", "no step", "not ours"])
def test_nothing_to_resume_from(out, resumed, found):
    for folder in (out / "checkpoint").glob("[0-9]*"):
        shutil.rmtree(folder)
    if found == "not ours":
        (out / "checkpoint" / "fit.json").write_text("[]")
    elif found == "nothing":
        shutil.rmtree(out / "checkpoint")
    words = "no complete checkpoint" if found == "no step" else "no checkpoint to resume"
    with pytest.raises(fit.FitError, match=words):
        resumed()


def test_a_folder_that_cannot_be_made_is_one_sentence(straight, tmp_path):
    out = tmp_path / "out"
    out.write_text("a file where the folder should be")
    with pytest.raises(fit.OutputError, match="checkpoint cannot be written: "):
        fit.Checkpoints(out).save(straight.state, straight.reports)


def test_ownership_of_a_folder_with_checkpoints(out):
    with pytest.raises(fit.OutputError, match="unfinished fit: add --resume"):
        fit.check_folder(out)
    fit.check_folder(out, resume=True)
    # What a kill while the results are written leaves behind.
    (out / f"{result_folder._TEMPORARY}abc").mkdir()
    (out / f"{result_folder._TEMPORARY}abc" / "splats.ply").write_bytes(b"half")
    fit.check_folder(out, resume=True)
    (out / "thesis.txt").write_text("")
    with pytest.raises(fit.OutputError, match="not empty"):
        fit.check_folder(out, resume=True)


def test_without_orbax_there_is_one_sentence(tmp_path):
    message = refusal_without("orbax.checkpoint", ["fit", "--checkpoint-every", "5"], tmp_path)
    assert "pip install 'jax-gsplat-depth[checkpoint]'" in message


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
    assert cli.main(arguments(out, "--resume")) == 0
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
    assert "--resume goes on from here" in capsys.readouterr().err
    assert (out / "metrics.json").exists()
    assert (out / "checkpoint" / "3").is_dir()
    assert cli.main(arguments(out, "--resume")) == 0
    assert "19 steps (3 of them before) in" in capsys.readouterr().err
    assert len((out / "loss.csv").read_text().splitlines()) == 20
