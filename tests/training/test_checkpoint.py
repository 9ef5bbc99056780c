"""Tests stopping a fit and going on: the same bits, and one sentence for what cannot be resumed."""

import dataclasses
import json
import os
import shutil

import pytest

pytest.importorskip("optax")
pytest.importorskip("dm_pix")
pytest.importorskip("orbax.checkpoint")

from helpers.checkpoints import assert_same_bits, settings_of, small_capture
from helpers.commands import refusal_without

from jax_gsplat_depth import fit
from jax_gsplat_depth._common.scratch import PREFIX, scratch_folder

STOP = 5

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
    return small_capture()


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


DAMAGES = ["one bit", "truncated", "gone", "a link", "a pipe", "a folder", "nested"]


def damage(path, kind):
    content = bytearray(path.read_bytes())
    path.unlink()
    if kind == "one bit":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif kind == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif kind == "a link":
        out = next(folder.parent for folder in path.parents if folder.name == "checkpoint")
        elsewhere = out.parent / "elsewhere"
        elsewhere.write_bytes(content)
        path.symlink_to(elsewhere)
    elif kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a folder":
        path.mkdir()
    elif kind == "nested":
        path.write_text("[" * 200_000)


@pytest.mark.parametrize("kind", [*DAMAGES, "one more"])
def test_damage_of_any_file_is_one_sentence(out, resumed, kind, capfd, monkeypatch):
    """No file of a checkpoint is read before it is known to be what was written."""
    newest = out / "checkpoint" / "5"
    monkeypatch.setattr(fit.Checkpoints, "_checkpointer", lambda _: pytest.fail("reads it"))
    names = sorted(path.relative_to(newest) for path in files_of(newest))
    assert {"about/metadata", "_CHECKPOINT_METADATA"} < {name.as_posix() for name in names}
    shutil.copytree(newest, out / "whole")
    for name in names:
        if kind == "one more":
            (newest / name).with_name("more").write_text("")
        else:
            damage(newest / name, kind)
        with pytest.raises(fit.FitError, match=r"checkpoint/5 is damaged: delete it") as error:
            resumed()
        assert "\n" not in str(error.value)
        shutil.rmtree(newest)
        shutil.copytree(out / "whole", newest)
    assert capfd.readouterr() == ("", "")
    monkeypatch.undo()
    shutil.rmtree(newest)
    assert len(resumed()[1]) == 3


def test_a_checkpoint_of_another_fit_is_recognised(capture, out, resumed, tmp_path):
    other = tmp_path / "other"
    run_fit(capture, other, settings_of(seed=1), stop=STOP, every=3)
    shutil.rmtree(out / "checkpoint" / "5")
    shutil.copytree(other / "checkpoint" / "5", out / "checkpoint" / "5")
    with pytest.raises(fit.FitError, match=r"checkpoint/5 is damaged"):
        resumed()


@pytest.mark.parametrize("kind", [*DAMAGES, "settings", "a list"])
def test_damage_of_the_identity_is_one_sentence(out, resumed, kind):
    identity = out / "checkpoint" / "fit.json"
    content = json.loads(identity.read_text())
    if kind == "settings":
        identity.write_text(json.dumps(content | {"settings": 5}))
    elif kind == "a list":
        identity.write_text("[]")
    else:
        damage(identity, kind)
    if kind == "a link":  # It says what it said.
        assert len(resumed()[1]) == STOP
        return
    with pytest.raises(fit.FitError, match="no checkpoint to resume from: .* or its fit.json is"):
        resumed()
    for resume in (False, True):
        with pytest.raises(fit.OutputError, match="fit.json is damaged: move or delete it"):
            fit.check_folder(out, resume=resume)
    shutil.rmtree(out / "checkpoint")
    fit.check_folder(out)


def test_files_of_the_user_in_the_place_of_checkpoints_stay(tmp_path, capture):
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "model.bin").write_text("mine")
    for refused in (lambda: fit.Checkpoints(tmp_path), lambda: fit.check_folder(tmp_path)):
        with pytest.raises((fit.FitError, fit.OutputError), match="something else than the check"):
            refused()
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(fit.FitError, match="something else than the check"):
        fit.Checkpoints(tmp_path)


@pytest.mark.parametrize("steps", [False, True])
def test_files_of_the_user_among_checkpoints_stay(capture, out, resumed, steps):
    if not steps:
        for folder in (out / "checkpoint").glob("[0-9]*"):
            shutil.rmtree(folder)
    notes = out / "checkpoint" / "notes.txt"
    notes.write_text("mine")
    for refused in (
        *(lambda: fit.Checkpoints(out), lambda: fit.check_folder(out), resumed),
        lambda: fit.check_folder(out, resume=True),
    ):
        with pytest.raises((fit.FitError, fit.OutputError), match=r": move notes.txt to another"):
            refused()
    assert notes.read_text() == "mine"
    notes.unlink()
    fit.check_folder(out, resume=steps)


def test_the_first_checkpoint_of_a_running_fit_stays(capture, tmp_path, straight):
    folder = tmp_path / "checkpoint"
    late = fit.Checkpoints(tmp_path)
    late.start(capture, settings_of(), None)
    fit.Checkpoints(tmp_path)._make_folder()
    with scratch_folder(folder) as saving:
        for refused in (
            lambda: fit.check_folder(tmp_path),
            lambda: late.save(straight.state, straight.reports),
        ):
            with pytest.raises(fit.OutputError, match=r"^another fit is saving .*choose another"):
                refused()
        assert saving.exists()
    fit.check_folder(tmp_path)
    assert not list(tmp_path.iterdir())


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
    (out / f"{PREFIX}abc").mkdir()
    (out / f"{PREFIX}abc" / "splats.ply").write_bytes(b"half")
    fit.check_folder(out, resume=True)
    (out / "thesis.txt").write_text("")
    with pytest.raises(fit.OutputError, match="not empty"):
        fit.check_folder(out, resume=True)


@pytest.mark.slow
def test_without_orbax_there_is_one_sentence(tmp_path):
    message = refusal_without("orbax.checkpoint", ["fit", "--checkpoint-every", "5"], tmp_path)
    assert "pip install 'jax-gsplat-depth[checkpoint]'" in message
