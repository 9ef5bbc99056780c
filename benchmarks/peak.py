"""Measures the limits of the machine in this process: a worker of bench_cpu.py.

usage: python peak.py OPTIONS, where OPTIONS is the JSON of the arguments of ``measure``. Prints the
result as one line of JSON.
"""

import concurrent.futures
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import native
import numpy as np
import timing

# Splats of a list that stays in the first-level cache beside the state of the tile.
_SPLATS = 128
# All arrays together, larger than the caches of the machine.
_TRIAD_BYTES = 400_000_000


def measure(kernels: str, threads: int, repeats: int) -> dict[str, Any]:
    """Return the best rates of all threads together.

    Args:
        kernels: Path of the library that ``native.compile_kernels`` made.
        threads: Number of threads, which run the same code at the same time.
        repeats: Number of times that each rate is measured.

    Returns:
        ``pairs_per_second`` of the bare kernel by direction, ``flops_per_second`` of multiply-adds
        in registers, ``bytes_per_second`` of a triad, read and written.
    """
    library = native.Kernels(kernels)
    splats, v_image = faint_splats(_SPLATS)
    transmittance = library.forward(splats)[0]
    passes, multiply_adds = 200, 1_000_000
    pairs = passes * _SPLATS * native.TILE**2
    arrays = [np.ones((threads, _TRIAD_BYTES // 24 // threads)) for _ in range(3)]

    def rate(work, call):
        return threads * work / best_seconds(call, threads, repeats)

    return {
        "threads": threads,
        "pairs_per_second": {
            "forward": rate(pairs, lambda thread: library.forward(splats, passes)),
            "backward": rate(
                pairs, lambda thread: library.backward(splats, v_image, transmittance, passes)
            ),
        },
        "flops_per_second": rate(
            library.multiply_adds(multiply_adds),
            lambda thread: library.multiply_adds(multiply_adds),
        ),
        "bytes_per_second": rate(
            3 * arrays[0][0].nbytes, lambda thread: library.triad(*(a[thread] for a in arrays), 3.0)
        ),
    }


def faint_splats(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return splats that draw every pixel of a tile without ending one, and a cotangent."""
    rng = np.random.default_rng(0)
    splats = np.empty((n, native.SPLAT_COLUMNS), np.float32)
    splats[:, :2] = rng.uniform(0, native.TILE, (n, 2))
    splats[:, 2:5] = -0.001, 0.0005, -0.001
    splats[:, 5] = np.log2(0.02)
    splats[:, 6:] = rng.uniform(0, 1, (n, 4))
    return splats, rng.standard_normal((3, native.TILE, native.TILE), np.float32)


def best_seconds(call: Callable[[int], Any], threads: int, repeats: int) -> float:
    """Return the least time from first start to last end of call(thread) on all threads at once."""
    barrier = threading.Barrier(threads)
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []

    def run(thread):
        if cores:  # threads that wake up on one core would share it for milliseconds
            os.sched_setaffinity(0, {cores[thread % len(cores)]})
        barrier.wait()
        start = time.perf_counter()
        call(thread)
        return start, time.perf_counter()

    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        times = []
        for _ in range(repeats):
            starts, ends = zip(*pool.map(run, range(threads)), strict=True)
            times.append(max(ends) - min(starts))
    return min(times)


def main() -> None:
    options = json.loads(sys.argv[1])
    timing.limit_threads(options["threads"])
    print(json.dumps(measure(**options)))


if __name__ == "__main__":
    main()
