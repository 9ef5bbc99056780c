"""Tests that a resumed fit takes the options it was started with, and no others."""

import dataclasses
from pathlib import Path

import pytest

pytest.importorskip("optax")

from jax_gsplat_depth import cli
from jax_gsplat_depth.cli import _fit, _main
from jax_gsplat_depth.cli._refusals import Refusal
from jax_gsplat_depth.fit._checkpoint_files import IDENTITY, write_sealed

STARTED = (
    "fit photos --out out --steps 12 --mcmc.growth 0.1 --depth-loss ssi --lr-means 0.01 --views 4 "
    "--downscale 2 --checkpoint-every 3 --antialiased"
)


def read(line):
    """Return the options of a command line as they are run."""
    words = line.split()
    return _fit.completed(_main.parse(words), lambda defaults: _main.parse(words, defaults))


@pytest.fixture
def started(tmp_path, monkeypatch):
    """The options of a fit of which ``out`` has a checkpoint, as far as they matter here."""
    monkeypatch.chdir(tmp_path)
    command = read(STARTED)
    folder = tmp_path / "out" / "checkpoint"
    (folder / "3").mkdir(parents=True)
    write_sealed(folder / IDENTITY, {"options": _fit.options_to_save(command)})
    return command


@pytest.mark.parametrize(
    "more",
    [
        "",
        "photos",
        "--data ./photos",
        "--steps 12 --views 4",
        "--depth-weight 1.0 --mcmc.growth .1",
    ],
)
def test_options_need_not_be_given_again(started, tmp_path, more):
    resumed = read(f"fit --resume --out out {more}")
    assert resumed.data.resolve() == (tmp_path / "photos").resolve() and resumed.resume
    assert _fit.chosen_settings(resumed) == _fit.chosen_settings(started)
    same = {"data": None, "resume": False, "depth_weight": None}
    assert dataclasses.replace(resumed, **same) == dataclasses.replace(started, **same)


def test_what_does_not_change_the_result_may_change(started):
    assert read("fit --resume --out out --checkpoint-every 5").checkpoint_every == 5
    # Whether it is the same capture, moved, its content decides.
    assert read("fit moved --resume --out out").data == Path("moved")
    assert read("fit builtin").data is None


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("--steps 13", "argument --steps: out belongs to a fit with steps = 12, not 13"),
        ("--steps 13 --views 5", "argument --views: out belongs to a fit with views = 4, not 5"),
        (
            "--mcmc.growth 0.2",
            "argument --mcmc.growth: out belongs to a fit with mcmc.growth = 0.1",
        ),
        ("--antialiased --seed 3", "argument --seed: out belongs to a fit with seed = 0, not 3"),
        ("--depth-weight 2", "argument --depth-weight: out belongs to a fit with depth_weight = 1"),
        ("--depth-loss none", "--depth-loss"),
        ("--downscale 1", "argument --downscale: out belongs to a fit with downscale = 2, not 1"),
    ],
)
def test_options_that_differ_are_refused(started, more, words, capsys):
    with pytest.raises(Refusal) as refusal:
        read(f"fit --resume --out out {more}")
    assert words in str(refusal.value)
    assert cli.main(f"fit --resume --out out {more}".split()) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_options_of_another_version_are_refused(started, tmp_path):
    saved = _fit.options_to_save(started) | {"colour_space": "linear"}
    write_sealed(tmp_path / "out" / "checkpoint" / IDENTITY, {"options": saved})
    with pytest.raises(Refusal, match="options that this version does not know"):
        read("fit --resume --out out")
