"""Measures the time and the memory of functions in this process."""

import ctypes
import gc
import os
import statistics
import time
from collections.abc import Callable
from typing import Any


def limit_threads(threads: int) -> None:
    """Restrict this process, and with it XLA's pool, to ``threads`` cores."""
    os.environ["NPROC"] = str(threads)
    os.environ["JAX_PLATFORMS"] = "cpu"
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def time_together(
    cases: dict[Any, Callable[[], Any]],
    options: Any,
    wait: Callable[[Any], Any] | None = None,
) -> dict[Any, dict]:
    """Time functions in turn, so that a disturbance of the machine hits all of them alike.

    Args:
        cases: Functions without arguments that return JAX arrays.
        options: Number of repeats and time limit: the fields ``repeats`` and ``max_seconds``.
        wait: Waits for a result; by default ``jax.block_until_ready``.

    Returns:
        Per function: best, median and all times in milliseconds, the least CPU time of all threads
        together (which other programs disturb little), and the seconds of the first call,
        compilation included.
    """
    if wait is None:
        import jax

        wait = jax.block_until_ready
    first = {}
    times, cpu_times = {name: [] for name in cases}, {name: [] for name in cases}
    for name, case in cases.items():
        start = time.perf_counter()
        wait(case())
        first[name] = time.perf_counter() - start
        wait(case())
    gc.collect()
    gc.disable()
    begin = time.perf_counter()
    for done in range(options.repeats):
        if done and time.perf_counter() - begin > options.max_seconds:
            break
        for name, case in cases.items():
            start, cpu_start = time.perf_counter(), time.process_time()
            wait(case())
            times[name].append((time.perf_counter() - start) * 1e3)
            cpu_times[name].append((time.process_time() - cpu_start) * 1e3)
    gc.enable()
    return {
        name: {
            "best_ms": min(values),
            "median_ms": statistics.median(values),
            "best_cpu_ms": min(cpu_times[name]),
            "times_ms": [round(value, 3) for value in values],
            "first_call_s": first[name],
        }
        for name, values in times.items()
    }


def peak_memory(case: Callable[[], Any]) -> int | None:
    """Return the bytes by which the resident memory rises at most during a call, with results.

    It is None where the kernel offers no high-water mark that can be reset.
    """
    import jax

    try:
        gc.collect()
        # Freed memory that the allocator keeps would hide the need of the call.
        ctypes.CDLL(None).malloc_trim(0)
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
        before = _status_bytes("VmRSS")
        jax.block_until_ready(case())
        return _status_bytes("VmHWM") - before
    except (OSError, AttributeError):
        return None


def _status_bytes(field: str) -> int:
    with open("/proc/self/status") as file:
        for line in file:
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    raise OSError(field)
