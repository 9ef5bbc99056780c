"""Checks what README.md says: its code runs, its table is right, its files exist."""

import os
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import scenes

import jax_gsplat_depth as jgd

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "examples" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
README = PAGES[0].read_text(encoding="utf-8")
COMMANDS = (
    'python -m pip install ".[fit]" && jax-gsplat-depth fit',
    'python -m pip install ".[test]" && python -m pytest',
)
OUTPUTS = ("image", "depth", "weight")


def blocks(page, language):
    """The code blocks of a page, in order."""
    return re.findall(
        rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )


@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.name
)
@pytest.mark.quick(page=[ROOT / "README.md"])
def test_code_runs(page, tmp_path):
    """The blocks of a page continue one another, and one without imports the README's first."""
    code = "\n".join(blocks(page, "python"))
    if "import " not in code:
        code = blocks(PAGES[0], "python")[0] + code
    if "import optax" in code:
        pytest.importorskip("optax")
    script = tmp_path / "page.py"
    script.write_text(code, encoding="utf-8")
    # JAX as a user has it, not with the settings of the suite.
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


def test_first_example_is_short():
    lines = [line for line in blocks(PAGES[0], "python")[0].splitlines() if line]
    assert len([line for line in lines if not line.startswith("import ")]) <= 10


def test_commands():
    shell = [line for block in blocks(PAGES[0], "sh") for line in block.splitlines()]
    for command in COMMANDS:
        assert command in shell


def table():
    """The inputs and outputs that the table of gradients names, with what it says."""
    start = README.index("| input | image | depth | weight |")
    rows = README[start:].split("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    return {row[0].split("`")[1]: dict(zip(OUTPUTS, row[1:], strict=True)) for row in cells}


@pytest.mark.parametrize(
    "form",
    [
        {"color": "sh", "shape": "quats"},
        {"color": "colors", "shape": "quats"},
        {"color": "colors", "shape": "covars6"},
    ],
    ids=lambda form: "-".join(form.values()),
)
@pytest.mark.parametrize("output", OUTPUTS)
def test_table_of_gradients(form, output):
    scene = scenes.random_scene(40, 30, 20, seed=4, bases=4, sigma_px=(1.0, 5.0))
    inputs = {k: jnp.asarray(v) for k, v in scene.inputs(np.float32, **form).items()}

    def total(inputs):
        gaussians, camera = scenes.build(inputs, scene)
        rest = {k: inputs[k] for k in ("background", "means2d_offset")}
        return jnp.sum(jnp.square(getattr(jgd.render(gaussians, camera, **rest), output)))

    for name, gradient in jax.jit(jax.grad(total))(inputs).items():
        assert table()[name][output] == ("yes" if np.any(gradient) else "0"), name


def test_table_is_complete():
    differentiable = {"viewmat", "K", "background", "means2d_offset"}
    differentiable |= {"means", "quats", "scales", "covars", "opacities", "sh", "colors"}
    assert set(table()) == differentiable


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links(page):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_pictures_are_small():
    for picture in (ROOT / "docs" / "images").iterdir():
        assert picture.stat().st_size < 400_000, picture.name
