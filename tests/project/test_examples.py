"""Runs each example and checks that it does what it says."""

import ast
import importlib.util
import io
import json
import os
import pathlib
import re
import subprocess
import sys
import tokenize

import jax
import numpy as np
import pytest

for _module in ("optax", "flax", "nbclient", "ipykernel"):
    pytest.importorskip(_module)

ROOT = pathlib.Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
FILES = sorted(path for path in EXAMPLES.iterdir() if path.suffix in (".py", ".ipynb"))
# What takes too long for this file, and the file that runs it.
ELSEWHERE = {"sparse_views.py": "training/test_sparse_views.py"}


@pytest.fixture
def main(request):
    """The function ``main`` of an example, with JAX as a user has it: promotion is not strict."""
    path = EXAMPLES / f"{request.param}.py"
    spec = importlib.util.spec_from_file_location(f"example_{request.param}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield module.main


def example(name):
    return pytest.mark.parametrize("main", [name], indirect=True)


def run(*arguments, folder, **environment):
    """Run Python as a user does: in another folder, and without the settings of the suite."""
    variables = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "MPLBACKEND")}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=folder,
        env=variables | environment,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_example_is_tested_and_listed(path):
    if path.name in ELSEWHERE:
        assert path.stem in (ROOT / "tests" / ELSEWHERE[path.name]).read_text(encoding="utf-8")
    else:
        assert f"test_{path.stem}" in globals()
    row = f"| [{path.name}]({path.name}) |"
    (line,) = [
        line
        for line in (EXAMPLES / "README.md").read_text(encoding="utf-8").splitlines()
        if line.startswith(row)
    ]
    assert f"examples/{path.name}" in line.split("|")[-2]


@example("optax_step")
@pytest.mark.slow
def test_optax_step(main):
    first, last = main()
    assert 0.2 < first < 1
    assert last < 0.3 * first


def test_optax_step_is_short():
    """At most forty lines of code: neither empty ones nor comments nor docstrings count."""
    source = (EXAMPLES / "optax_step.py").read_text(encoding="utf-8")
    # Without comments and blank lines; what is left of the layout is that of the file.
    no_code = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    no_code |= {tokenize.ENCODING, tokenize.ENDMARKER}
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in no_code:
            lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            lines -= set(range(node.lineno, node.end_lineno + 1))
    assert len(lines) <= 40


@pytest.mark.slow
@example("flax_module")
def test_flax_module(main):
    before, after = main()
    assert before < 12
    assert after > 20


@pytest.mark.slow
@example("pose_refinement")
@pytest.mark.parametrize(
    "weights",
    [{}, {"color_weight": 0.0}, {"depth_weight": 0.0}],
    ids=["both", "depth", "colors"],
)
def test_pose_refinement(main, weights):
    (angle, distance, focal), after = main(**weights)
    np.testing.assert_allclose([angle, distance, focal], [5, 0.1, 0.03], rtol=1e-3)
    assert after[0] < 0.1
    assert after[1] < 0.005
    assert after[2] < 0.002


@pytest.mark.slow
def test_multi_camera(tmp_path):
    """As a script: the number of devices is chosen before JAX starts."""
    script = EXAMPLES / "multi_camera.py"
    out = run("-W", "error", script, "--devices", 3, folder=tmp_path)
    assert out.startswith("6 cameras on 3 devices")
    largest, difference = (float(number) for number in re.findall(r"\d\.\d+e[+-]\d+", out))
    assert largest > 1e-3
    assert difference < 1e-5 * largest


EXECUTE = """
import sys
import nbclient, nbformat

notebook = nbformat.read(sys.argv[1], as_version=4)
notebook.cells.append(nbformat.v4.new_code_cell(sys.argv[3]))
nbclient.NotebookClient(notebook, kernel_name="this", timeout=300).execute()
nbformat.write(notebook, sys.argv[2])
"""
NUMBERS = (
    "psnr",
    "depth_error",
    "farthest",
    "stage_difference",
    "n_isects",
    "position_error",
    "n_responsible",
    "depth_here",
    "by_factor",
    "absgrad_ratio",
)


@pytest.mark.slow
def test_research(tmp_path):
    """In a process of its own, and with a kernel that is this interpreter, installed or not."""
    kernel = tmp_path / "kernels" / "this"
    kernel.mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec = {"argv": command, "display_name": "this", "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(spec), encoding="utf-8")
    report = f"import json\nprint(json.dumps({{k: globals()[k] for k in {NUMBERS}}}))"
    run(
        *("-c", EXECUTE, EXAMPLES / "research.ipynb", tmp_path / "out.ipynb", report),
        folder=tmp_path,
        JUPYTER_PATH=str(tmp_path),
        JUPYTER_RUNTIME_DIR=str(tmp_path / "runtime"),
        IPYTHONDIR=str(tmp_path / "ipython"),
    )
    cells = json.loads((tmp_path / "out.ipynb").read_text(encoding="utf-8"))["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    pictures = [o["data"]["image/png"] for o in outputs if "image/png" in o.get("data", {})]
    assert len(set(pictures)) == 7
    # Nothing but what it prints: a warning would be on the other stream.
    assert {o["name"] for o in outputs if o["output_type"] == "stream"} == {"stdout"}

    found = json.loads("".join(cells[-1]["outputs"][0]["text"]))
    assert found["psnr"] > 18
    assert found["depth_error"] < 0.1
    # The median is the quantile p = 0.5 / weight of what is drawn: at most sqrt(p / (1 - p))
    # standard deviations from the mean, 1.06 at the weight of 0.95 from which pixels count.
    assert 0 < found["farthest"] < 1.06
    assert found["stage_difference"] == 0
    assert found["n_isects"] > 1000
    assert found["position_error"] < 1e-4
    assert found["n_responsible"] > 5
    np.testing.assert_allclose(found["by_factor"], found["depth_here"], rtol=1e-4)
    assert found["absgrad_ratio"] > 1.2


def test_research_is_stored_without_outputs():
    notebook = json.loads((EXAMPLES / "research.ipynb").read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        assert not cell.get("outputs") and cell.get("execution_count") is None
