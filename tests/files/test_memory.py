"""Tests that reading and writing large files takes little more memory than their Gaussians."""

import struct
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from helpers import ksplat
from helpers.splats import random_gaussians

import jax_gsplat_depth as jgd
from jax_gsplat_depth import io

N = 100_000


@pytest.fixture(scope="module")
def gaussians():
    few = random_gaussians(N // 100, degree=1)
    names = ("means", "quats", "scales", "opacities", "sh")
    fields = {name: np.repeat(np.asarray(getattr(few, name)), 100, axis=0) for name in names}
    fields["means"] = np.random.default_rng(0).normal(size=(N, 3)).astype(np.float32)
    fields["scales"] = np.clip(fields["scales"], 1e-3, 1.0)
    return jgd.Gaussians(**fields)


def peak(call, *arguments):
    """Return the most bytes that a call holds at a time, those of its result included."""
    tracemalloc.start()
    try:
        result = call(*arguments)
        return tracemalloc.get_traced_memory()[1], result
    finally:
        tracemalloc.stop()


@pytest.mark.quick(suffix=[".ply"])
@pytest.mark.parametrize("suffix", [".ply", ".compressed.ply", ".splat", ".spz"])
def test_peaks(tmp_path, gaussians, suffix):
    path = tmp_path / f"a{suffix}"
    n_floats = 14 if suffix == ".splat" else 23
    decoded = 4 * n_floats * N
    # The Gaussians that are written are in memory before.
    assert peak(io.save, path, gaussians)[0] < decoded
    used, loaded = peak(io.load, path)
    assert used < 1.75 * decoded
    assert peak(io.describe, path)[0] < 1.75 * decoded
    assert len(loaded.means) == N


@pytest.mark.slow
def test_peak_of_ksplat(tmp_path):
    path, level = tmp_path / "a.ksplat", 1
    content = ksplat.header(N, level)
    content += ksplat.section_header(N, level, 0, full=1, partial=0, bucket_size=N)
    content += struct.pack("<3f", *ksplat.CENTERS[0]) + N * ksplat.gaussian(0, level, 0)[0]
    path.write_bytes(content)
    used, loaded = peak(io.load, path)
    assert used < 1.75 * 4 * 14 * len(loaded.means)


IN_A_CHILD = """
import resource, sys
import jax, numpy as np, plyfile
from jax_gsplat_depth import io

def most(): return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

jax.block_until_ready(jax.device_put(np.zeros(3, np.float32)))
before = most()
assert len(io.load(sys.argv[1]).means) == int(sys.argv[2])
print(most() - before)
"""


@pytest.mark.slow
def test_peak_where_some_are_dropped(tmp_path, gaussians):
    path = tmp_path / "a.splat"
    io.save(path, gaussians)
    content = path.read_bytes()
    path.write_bytes(b"\0\0\xc0\x7f" + content[4:])
    used, file = peak(lambda: io.read(path, on_bad="drop"))
    assert file.dropped == {"with NaN": 1} and used < 3 * len(content)


@pytest.mark.slow
def test_peak_of_a_process(tmp_path):
    """Counts the memory of JAX and the parts of files that are mapped, too."""
    n, names = 100_000, ["x", "y", "z", *(f"f_dc_{i}" for i in range(3))]
    names += [f"f_rest_{i}" for i in range(45)] + ["opacity"]
    names += [f"scale_{i}" for i in range(3)] + [f"rot_{i}" for i in range(4)]
    header = f"ply\nformat binary_little_endian 1.0\nelement vertex {n}\n"
    header += "".join(f"property float {name}\n" for name in names) + "end_header\n"
    path = tmp_path / "a.ply"
    rows = np.random.default_rng(0).normal(size=(n // 10, len(names))).astype("<f4").tobytes()
    path.write_bytes(header.encode() + 10 * rows)
    done = subprocess.run(
        [sys.executable, "-c", IN_A_CHILD, str(path), str(n)], capture_output=True, text=True
    )
    assert int(done.stdout) < 2 * path.stat().st_size, done.stderr
