"""Checks what only a GPU can show: recorded graphs, no round trips, atomics, sizes, concurrency.

The tests that both backends pass are in the other modules, with the fixture ``backend``.
"""

import concurrent.futures
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
from helpers.asserts import (
    OUTPUTS,
    Size,
    close_l2,
    image_cotangents,
    library,
    render_call,
    same_bits,
)

import jax_gsplat_depth as jgd

on_gpu = pytest.mark.parametrize("backend", ["cuda"], indirect=True)

N_TARGETS = 7  # of a training step: all there are
TESTS = pathlib.Path(__file__).resolve().parents[1]


def run(scene, config, seed=0):
    """Outputs, and gradients of all inputs from all outputs."""
    size = Size(scene.width, scene.height)
    inputs = scene.inputs(np.float32, color="sh")
    cotangents = image_cotangents(inputs, size, seed)
    return library(render_call, (size, config, None), inputs, cotangents)


# ------------------------------------------------------------------------------------ CUDA graphs


def thunks(text, kind):
    """Count the thunks of a kind in XLA's dump: (inside of command buffers, outside).

    A line is "<indent><number>: <kind> ..."; what a command buffer holds follows it, indented.
    """
    inside, outside = 0, 0
    buffer_indent = None
    for line in text.splitlines():
        match = re.match(r"( *)\d+: (k\w+)", line)
        if match is None:
            continue
        indent = len(match[1])
        if buffer_indent is not None and indent <= buffer_indent:
            buffer_indent = None
        if match[2] == kind:
            if buffer_indent is None:
                outside += 1
            else:
                inside += 1
        if match[2] == "kCommandBuffer" and buffer_indent is None:
            buffer_indent = indent
    return inside, outside


def test_thunks_are_counted():
    text = """\
001: kKernel       \tfusion.1
  some header:
002: kCommandBuffer\tcommand_buffer

  003: kCustomCall\tcustom-call.1
  004: kKernel    \tfusion.2
  005: kCustomCall\tcustom-call.2
006: kCustomCall   \tcustom-call.3

"""
    assert thunks(text, "kCustomCall") == (2, 1)
    assert thunks(text, "kKernel") == (1, 1)
    assert thunks("", "kCustomCall") == (0, 0)


def run_step(folder, flags):
    """Run helpers.graph_capture in a process of its own, since XLA reads the flags once."""
    path = folder / "results.npz"
    environment = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "PYTHONSAFEPATH")}
    # A failed capture must be seen in the result, not in how the memory of the GPU is shared.
    environment |= {"XLA_FLAGS": flags, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    command = [sys.executable, "-m", "helpers.graph_capture", str(path)]
    done = subprocess.run(
        command, cwd=TESTS, capture_output=True, text=True, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stderr[-4000:]
    with np.load(path) as file:
        return dict(file)


@on_gpu
def test_xla_records_every_handler(backend, tmp_path):
    """All targets of a step are in CUDA graphs, and these compute the same when replayed."""
    dump = tmp_path / "dump"
    recorded = run_step(
        tmp_path, f"--xla_dump_to={dump} --xla_dump_hlo_as_text --xla_gpu_graph_min_graph_size=1"
    )
    assert recorded["platform"] == "gpu"
    targets = [name for name in recorded["targets"].tolist() if name.startswith("jgd_")]
    assert len(set(targets)) == N_TARGETS, targets

    files = sorted(dump.glob("*jit_captured_step*thunk_sequence_after_thunk_passes*"))
    found = ", ".join(sorted(path.name for path in dump.glob("*jit_captured_step*thunk*")))
    # XLA writes it only if it has recorded anything.
    assert files, f"nothing was recorded into a command buffer; there are: {found or 'no dumps'}"
    for path in files:
        inside, outside = thunks(path.read_text(), "kCustomCall")
        assert outside == 0 and inside >= len(targets), f"{path.name}:\n{path.read_text()}"

    # The first runs may be made without the graph; later ones replay and update it.
    for name in [k.partition("_")[2] for k in recorded if k.startswith("0_")]:
        for i in range(1, 5):
            same_bits(recorded[f"{i}_{name}"], recorded[f"0_{name}"], f"run {i}, {name}")
    plain = run_step(tmp_path, "--xla_gpu_enable_command_buffer=")
    same_bits(recorded["4_image"], plain["4_image"], "image without a graph")
    for name in ("means", "quats", "scales", "opacities", "sh", "viewmat", "K"):
        close_l2(recorded[f"4_{name}"], plain[f"4_{name}"], 1e-5, f"gradient of {name}")


# --------------------------------------------------------------------------------- no round trips


@on_gpu
@pytest.mark.parametrize("capacity", [None, 1])
def test_step_transfers_nothing(backend, capacity):
    """Not even the number of intersections; the handlers themselves are seen by the recording."""
    scene = scenes.dense()
    config = jgd.Config(capacity=capacity)
    inputs = jax.tree.map(jnp.asarray, scene.inputs(np.float32, color="sh"))

    @jax.jit
    def step(inputs):
        def loss(inputs):
            gaussians, camera = scenes.build(inputs, scene)
            out = jgd.render(gaussians, camera, config=config)
            return (out.image**2).mean() + (out.depth * out.weight).mean()

        gradients = jax.grad(loss)(inputs)
        return {k: x - 1e-3 * gradients[k] for k, x in inputs.items()}

    inputs = jax.block_until_ready(step(inputs))  # constants are transferred when it is compiled
    with jax.transfer_guard("disallow"):
        for _ in range(3):
            inputs = step(inputs)
        jax.block_until_ready(inputs)
    assert all(np.isfinite(x).all() for x in jax.device_get(inputs).values())


# ----------------------------------------------------------------------------------- determinism


@on_gpu
@pytest.mark.parametrize("capacity", [None, 1])
def test_deterministic_gradients_repeat(backend, capacity):
    """Thousands of Gaussians that overlap, so that sums have many orders."""
    scene = scenes.random_scene(5000, 260, 196, sigma_px=(0.5, 12.0))
    config = jgd.Config(deterministic=True, capacity=capacity)
    out, gradients = run(scene, config)
    for _ in range(5):
        out_again, gradients_again = run(scene, config)
        for name in OUTPUTS:
            same_bits(out_again[name], out[name], name)
        for name, value in gradients.items():
            same_bits(gradients_again[name], value, f"gradient of {name}")


@on_gpu
def test_atomics_change_little(backend):
    """The default mode has the same sums in another order."""
    scene = scenes.random_scene(5000, 260, 196, sigma_px=(0.5, 12.0))
    out, gradients = run(scene, jgd.Config())
    out_fixed, gradients_fixed = run(scene, jgd.Config(deterministic=True))
    for name in OUTPUTS:
        same_bits(out[name], out_fixed[name], name)
    for name, value in gradients.items():
        close_l2(value, gradients_fixed[name], 1e-4, f"gradient of {name}")


# -------------------------------------------------------------------------------------- capacity


@on_gpu
def test_capacity_changes_only_time(backend):
    """From one pair per tile to twice the need; more is drawn than fits in most of them."""
    scene = scenes.random_scene(2000, 260, 196, sigma_px=(0.5, 12.0))
    out, gradients = run(scene, jgd.Config(deterministic=True))
    need = int(out["n_isects"])
    n_tiles = 17 * 13
    assert int(out["n_isects_listed"]) == need > 4 * n_tiles
    for capacity in (1, need // 3, need // 2, need - 1, need, need + 1, 2 * need):
        config = jgd.Config(deterministic=True, capacity=capacity)
        swept, swept_gradients = run(scene, config)
        for name in OUTPUTS:
            same_bits(swept[name], out[name], f"{name}, capacity {capacity}")
        for name, value in gradients.items():
            same_bits(swept_gradients[name], value, f"gradient of {name}, capacity {capacity}")
        assert int(swept["n_isects"]) == need
        listed = int(swept["n_isects_listed"])
        assert listed <= max(capacity, n_tiles)
        assert (listed == need) == (capacity >= need)


def layers(n, width, height):
    """``n`` Gaussians that each cover all of the image, one behind the other."""
    scene = scenes.random_scene(n, width, height, spread=0.0, opacity=(0.3, 0.4))
    sigma = 4 * width  # pixels
    depth = (scene.means @ scene.viewmat[:3, :3].T + scene.viewmat[:3, 3])[:, 2:]
    scales = np.repeat(sigma * depth / scene.K[0, 0], 3, axis=1)
    order = np.argsort(depth[:, 0], kind="stable")
    return scene.replace(scales=scales).take(order)


def check_layers(n, width, height):
    """What is behind the first hundred is not seen, however many there are."""
    scene = layers(n, width, height)
    front = scene.take(np.arange(100))
    inputs, few = (s.inputs(np.float32, offset=False) for s in (scene, front))
    size = Size(width, height)
    out = jax.jit(lambda x: render_call(x, size, jgd.Config(), None))(inputs)
    wanted = jax.jit(lambda x: render_call(x, size, jgd.Config(), None))(few)
    for name in OUTPUTS:
        same_bits(out[name], wanted[name], name)
    n_tiles = -(-width // 16) * -(-height // 16)
    assert int(out["n_isects"]) == min(n * n_tiles, 2**31 - 1)


@on_gpu
def test_more_pairs_than_32_bits(backend):
    """2.4e9 pairs: the lists hold a small part of them, and the rest is not needed."""
    check_layers(300_000, 1920, 1080)


# ------------------------------------------------------------------------------------ many, large


@on_gpu
def test_concurrent_calls(backend):
    """Two executables in flight, from two threads, do not touch each other's memory."""
    cases = [
        (scenes.random_scene(3000, 200, 150, seed=1), jgd.Config(deterministic=True)),
        (scenes.random_scene(4000, 170, 210, seed=2), jgd.Config(deterministic=True, capacity=1)),
    ]
    alone = [run(*case) for case in cases]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for _ in range(10):
            together = list(pool.map(lambda case: run(*case), cases))
            for (out, gradients), (wanted, wanted_gradients) in zip(together, alone, strict=True):
                for name in OUTPUTS:
                    same_bits(out[name], wanted[name], name)
                for name, value in gradients.items():
                    same_bits(value, wanted_gradients[name], f"gradient of {name}")


def check_large(n, width, height):
    """Everything is finite, and the picture is that of the CPU."""
    scene = scenes.random_scene(n, width, height, sigma_px=(0.2, 1.5), bases=4)
    out, gradients = run(scene, jgd.Config())
    for name, value in {**{k: out[k] for k in OUTPUTS}, **gradients}.items():
        assert np.isfinite(value).all(), name
        assert np.abs(value).max() > 0, name
    assert int(out["n_isects"]) > 0
    inputs = scene.inputs(np.float32, color="sh", offset=False)
    with jax.default_device(jax.devices("cpu")[0]):
        size = Size(width, height)
        wanted = jax.jit(lambda x: render_call(x, size, jgd.Config(), None))(inputs)
    for name in OUTPUTS:
        difference = np.abs(out[name] - np.asarray(wanted[name]))
        # A branch may flip in a few pixels: the mean says more than the largest.
        assert difference.mean() < 1e-5 * max(1, np.abs(wanted[name]).max()), name


@on_gpu
def test_large_scene(backend):
    check_large(1_000_000, 1920, 1080)
