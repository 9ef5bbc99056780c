"""Tests command lines: every setting has a flag, the help an order, and errors one sentence."""

import dataclasses
import math
import pathlib
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest
import tyro
from helpers.commands import run

from jax_gsplat_depth._common.settings import hints_of, parts_of, range_of
from jax_gsplat_depth.cli import _main
from jax_gsplat_depth.cli._arguments import Flat

POSITIONALS = {
    "fit": [],
    "render": ["a.ply"],
    "eval": ["a.ply"],
    "view": ["a.ply"],
    "convert": ["a.ply", "b.spz"],
    "info": ["a.ply"],
}

# Every flag that the commands had before their settings were the command line.
COMMAND_LINES = [
    ("fit d --steps 5", {"photos": Path("d"), "data": None, "settings.steps": 5}),
    (
        "fit --data d --out o --steps 5 --max-gaussians 7 --densify adc --downscale 2 --seed 3 "
        "--views 4 --depth-loss ssi --depth-weight 0.5 --lr-means 0.01 --checkpoint-every 9 "
        "--resume",
        {
            "data": Path("d"),
            "out": Path("o"),
            "settings.steps": 5,
            "settings.max_gaussians": 7,
            "settings.densify": "adc",
            "downscale": 2,
            "settings.seed": 3,
            "views": 4,
            "settings.depth_loss": "ssi",
            "depth_weight": 0.5,
            "lr_means": 0.01,
            "checkpoint_every": 9,
            "resume": True,
        },
    ),
    (
        "render a.ply --out o --orbit --up=-y --width 40 --height=30 --fov 50 --elevation -10 "
        "--distance 2 --frames 9 --fps 10 --outputs image,depth --background red "
        "--depth-range 1 2.5 --min-weight 0.25 --depth-format npy",
        {
            "splats": Path("a.ply"),
            "out": Path("o"),
            "orbit": True,
            "up": "-y",
            "width": 40,
            "height": 30,
            "fov": 50.0,
            "elevation": -10.0,
            "distance": 2.0,
            "frames": 9,
            "settings.fps": 10,
            "settings.outputs": ("image", "depth"),
            "background": "red",
            "settings.depth_range": (1.0, 2.5),
            "settings.min_weight": 0.25,
            "settings.depth_format": "npy",
        },
    ),
    (
        "render a.ply --up -y --elevation -1e1 --depth-range 0 9",
        {"up": "-y", "elevation": -10.0, "settings.depth_range": (0.0, 9.0)},
    ),
    ("render --data builtin --views heldout a.ply", {"data": "builtin", "views": "heldout"}),
    ("render --cameras c.json a.ply", {"cameras": Path("c.json"), "splats": Path("a.ply")}),
    (
        "eval a.ply --data d --downscale 2 --out o",
        {"splats": Path("a.ply"), "data": "d", "downscale": 2, "out": Path("o")},
    ),
    (
        "view --up -z a.ply --port 0 --host 0.0.0.0",
        {"splats": Path("a.ply"), "port": 0, "host": "0.0.0.0", "up": "-z"},
    ),
    ("convert a.ply b.spz", {"input": Path("a.ply"), "output": Path("b.spz")}),
    ("info a.ply", {"file": Path("a.ply")}),
]


def value_at(settings, path):
    for name in path.split("."):
        settings = getattr(settings, name)
    return settings


@pytest.mark.parametrize(("line", "expected"), COMMAND_LINES, ids=[c for c, _ in COMMAND_LINES])
def test_flags_keep_their_names(line, expected):
    settings = _main.parse(shlex.split(line))
    assert {path: value_at(settings, path) for path in expected} == expected


def leaves(settings, path="", prefix="", taken=()):
    """Yield field, annotation, path and name on the command line of each setting, nested or not."""
    names = {field.name for field in dataclasses.fields(settings)}
    for field in dataclasses.fields(settings):
        hint = hints_of(settings)[field.name]
        if field.name in taken or tyro.conf.Positional in parts_of(hint)[1]:
            continue
        if dataclasses.is_dataclass(field.default):
            flat = any(isinstance(entry, Flat) for entry in parts_of(hint)[1])
            inner = prefix if flat else f"{prefix}{field.name}."
            yield from leaves(
                type(field.default), f"{path}{field.name}.", inner, names if flat else ()
            )
        elif field.default is not dataclasses.MISSING:
            yield field, hint, path + field.name, prefix + field.name.replace("_", "-")


def another(hint, default):
    """Return the words for another value than the default, and the value."""
    base, metadata, _ = parts_of(hint)
    limits = range_of(metadata)
    if limits is not None:
        value = next(x for x in (2, 3, 0.25, 0.5) if x in limits and x != default)
        return [str(value)], value
    if get_origin(base) is Literal:
        value = next(x for x in get_args(base) if x != default)
        return [value], value
    if get_origin(base) is tuple and get_args(base)[-1] is Ellipsis:
        return ["depth"], ("depth",)
    if get_origin(base) is tuple:
        return ["2", "3"], (2.0, 3.0)
    return ["x"], base("x")


SETTINGS = [
    (name, *leaf) for name, entry in _main._COMMANDS.items() for leaf in leaves(entry.settings)
]


@pytest.mark.parametrize(
    ("command", "field", "hint", "path", "flag"),
    SETTINGS,
    ids=[f"{name} --{flag}" for name, *_, flag in SETTINGS],
)
def test_every_setting_is_reachable(command, field, hint, path, flag):
    if parts_of(hint)[0] is bool:
        *group, name = flag.split(".")
        arguments = ["--" + ".".join([*group, f"no-{name}" if field.default else name])]
        value = not field.default
    else:
        words, value = another(hint, field.default)
        arguments = [f"--{flag}", *words]
    plain = _main.parse([command, *POSITIONALS[command]])
    settings = _main.parse([command, *POSITIONALS[command], *arguments])
    assert value_at(plain, path) == field.default
    assert value_at(settings, path) == value != field.default


def test_the_settings_are_many():
    """A walk that finds nothing would find no fault either."""
    flags = {flag for name, *_, flag in SETTINGS if name == "fit"}
    assert len(flags) > 35 and {"mcmc.growth", "adc.threshold", "lr-sh-rest", "steps"} <= flags


def help_of(command, capsys):
    assert run(*([command] if command else []), "--help") == 0
    return capsys.readouterr().out


def test_help_lists_common_options_first(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = help_of("fit", capsys)
    # With the lines of the boxes, or without where the encoding has none.
    titles = re.findall(r"^[ ╭─]+([a-z-]+ )?options[ ─╮]*$", text, re.MULTILINE)
    expected = ["start", "colour", "loss", "learning-rate", "density-control", "mcmc", "adc"]
    assert [title.strip() for title in titles] == ["", *expected]
    common, tail = text.split("start options")
    for flag in ("data", "out", "steps", "max-gaussians", "densify", "seed", "depth-loss"):
        assert re.search(rf"^[ │]+--{flag} ", common, re.MULTILINE)
    for flag in ("lr-quats", "mcmc.noise", "adc.threshold", "ssim-weight", "densify-start"):
        assert re.search(rf"^[ │]+--{flag} ", tail, re.MULTILINE)
    assert "(default: 0.0006; 0.006 for" in text and "settings.steps" not in text


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("command", ["", *POSITIONALS])
def test_help_fits_the_terminal(command, columns, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    text = help_of(command, capsys)
    # tyro does not break the line of the usage.
    assert all(len(line.rstrip()) <= columns for line in text.splitlines()[1:])
    assert "``" not in text and "{None}" not in text and "default: None" not in text
    for _, _, hint, _, flag in (entry for entry in SETTINGS if entry[0] == command):
        assert re.search(rf"--{re.escape(flag)}\b", text), flag
        limits = range_of(parts_of(hint)[1])
        assert limits is None or not math.isnan(limits.low)


SENTENCES = [
    ("", "jax-gsplat-depth: the following arguments are required: COMMAND"),
    ("paint", "jax-gsplat-depth: argument COMMAND: invalid choice: 'paint' (choose from fit, "),
    ("--colour", "jax-gsplat-depth: unrecognized arguments: --colour"),
    ("fit --steps", "argument --steps: expected one argument"),
    ("fit --steps --resume", "argument --steps: expected one argument"),
    ("fit --steps 1.5", "argument --steps: expected a whole number at least 1, got '1.5'"),
    ("fit --densify magic", "--densify: invalid choice: 'magic' (choose from mcmc, adc, none)"),
    ("fit --mcmc.growth -1", "--mcmc.growth: expected a number of at least 0, got '-1'"),
    ("fit --mcmc.min-opacity 1", "--mcmc.min-opacity: expected a number above 0 and below 1"),
    ("fit --adc.threshold 0", "--adc.threshold: expected a number above 0, got '0'"),
    ("fit --initial-fraction 0", "expected a number above 0 and at most 1, got '0'"),
    ("fit --sh-degree 5", "--sh-degree: expected a whole number between 0 and 4, got '5'"),
    ("fit --lr-quats nan", "--lr-quats: expected a number above 0, got 'nan'"),
    ("fit --densify-start 0.9", "densify_start must be below densify_stop, got 0.9 and 0.8"),
    ("fit --no-resume", "unrecognized arguments: --no-resume"),
    ("fit photos --data photos", "argument --data: not allowed with argument PHOTOS"),
    ("fit --step 3", "unrecognized arguments: --step 3: did you mean --steps? (see"),
    ("fit --growth=1", "unrecognized arguments: --growth=1: did you mean --mcmc.growth? (see"),
    ("train photos", "view, convert, info): did you mean fit? (see"),
    ("rendr a.ply", "view, convert, info): did you mean render? (see"),
    ("eval a.ply .", "unrecognized arguments: .: photos are given as --data . (see"),
    ("fit extra words", "unrecognized arguments: words (see"),
    ("render", "the following arguments are required: SPLATS"),
    ("render a.ply --depth-range 1", "argument --depth-range: expected 2 arguments"),
    ("render a.ply --depth-range 1 -2", "--depth-range: expected a number of at least 0, got '-2'"),
    ("render a.ply --orbit --data x", "argument --data: not allowed with argument --orbit"),
    ("render a.ply --fps 0", "--fps: expected a whole number between 1 and 240, got '0'"),
    ("convert", "the following arguments are required: IN, OUT"),
    ("view a.ply --up", "argument --up: expected one argument"),
]


@pytest.mark.parametrize(("line", "words"), SENTENCES, ids=[line for line, _ in SENTENCES])
def test_what_cannot_be_used_is_one_sentence(line, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(*shlex.split(line)) == 2
    out, error = capsys.readouterr()
    assert out == "" and error.count("\n") == 1
    command = line.split()[0] if line.split()[:1] and line.split()[0] in POSITIONALS else ""
    program = f"jax-gsplat-depth {command}".strip()
    assert error.startswith(f"{program}: ") and words in error
    assert error.endswith(f"(see {program} --help)\n")
    assert not list(tmp_path.iterdir())


def test_documented_commands():
    """Those of the page about training; test_cli_render has the other page."""
    page = (pathlib.Path(__file__).parents[2] / "docs" / "training.md").read_text()
    blocks = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    assert len(lines) > 3
    for line in lines:
        program, *arguments = shlex.split(line, comments=True)
        assert program == "jax-gsplat-depth"
        _main.parse(arguments)  # Raises if it does not like them.


def test_documented_options():
    """What the pages call an option is one."""
    flags = {f"--{flag}" for *_, flag in SETTINGS} | {"--help", "--version"}
    flags |= {f"--no-{flag}" for _, _, hint, _, flag in SETTINGS if bool in parts_of(hint)}
    for name in ("training.md", "tools.md"):
        page = (pathlib.Path(__file__).parents[2] / "docs" / name).read_text()
        found = set(re.findall(r"`(--[a-z0-9.-]+)", page))
        assert len(found) > 5 and found <= flags, found - flags


def test_help_needs_no_extra():
    code = (
        "import sys\n"
        "for name in ('dm_pix', 'matplotlib', 'optax', 'PIL', 'plyfile', 'scipy', 'tqdm'):\n"
        "    sys.modules[name] = None\n"
        "from jax_gsplat_depth import cli\n"
        "for command in ('fit', 'render', 'eval', 'view', 'convert', 'info'):\n"
        "    try:\n"
        "        cli.main([command, '--help'])\n"
        "    except SystemExit as exit:\n"
        "        assert exit.code == 0\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.count("usage: ") == 6


WITHOUT_THE_HOOK = """
import sys

import tyro._errors

del tyro._errors.on_parse_error
from jax_gsplat_depth import cli

sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [(["info", "--help"], 0, "FILE"), (["view", "a.ply", "--port", "-1"], 2, "--port")],
)
def test_a_tyro_without_the_hook_for_errors(arguments, code, words):
    command = [sys.executable, "-c", WITHOUT_THE_HOOK, *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == code
    assert words in done.stdout + done.stderr
