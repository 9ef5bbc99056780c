"""Models the gain of more threads: Amdahl's law from two measurements, limited by the memory.

It is a model, not a measurement: it ignores the caches of other cores, clocks that fall as more
cores work, and load that spreads badly over more threads.
"""

from typing import Any

import traffic

# Number of threads of the modelled machine.
THREADS = 16


def serial_fraction(one: float, many: float, threads: int) -> float:
    """Return the part of a time that does not shrink with threads, 0..1.

    From Amdahl's law, many / one = s + (1 - s) / threads.

    Args:
        one: Time on one thread.
        many: Time on ``threads`` threads, in the same unit.
        threads: At least 2.
    """
    return min(1.0, max(0.0, (threads * many / one - 1) / (threads - 1)))


def modelled(one: float, serial: float, threads: int, memory: float) -> float:
    """Return the time on ``threads`` threads: Amdahl's law, but at least that of the memory."""
    return max(one * (serial + (1 - serial) / threads), memory)


def table(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Return speed-up and model of each stage, of forward and of forward + backward.

    Needs measurements of the same scene with one thread and with more. The bandwidth is that of the
    most threads measured: that of 16 threads is unknown, so the model assumes no more.
    """
    bandwidth = {
        machine["threads"]: machine["bytes_per_second"] for machine in report.get("machine", [])
    }
    groups: dict[tuple, dict[int, dict]] = {}
    for result in report["results"]:
        key = (result["scene"], result["colors"], result["cotangents"])
        groups.setdefault(key, {})[result["threads"]] = result
    rows = []
    for (scene, colors, cotangents), by_threads in groups.items():
        threads = max(by_threads)
        if 1 not in by_threads or threads == 1:
            continue
        one, many = (_times(by_threads[n]) for n in (1, threads))
        n_bytes = _bytes(by_threads[1])
        for what in (name for name in one if name in many):
            serial = serial_fraction(one[what], many[what], threads)
            memory = 1e3 * n_bytes.get(what, 0) / bandwidth.get(threads, float("inf"))
            model = modelled(one[what], serial, THREADS, memory)
            rows.append(
                {
                    "scene": scene,
                    "colors": colors,
                    "cotangents": cotangents,
                    "what": what,
                    "threads": threads,
                    "one_ms": one[what],
                    "many_ms": many[what],
                    "serial_fraction": serial,
                    "memory_ms": memory,
                    "model_ms": model,
                }
            )
    return rows


def _times(result):
    """Return the best times of the stages and the whole, in this order."""
    stages = {name: times["best_ms"] for name, times in result.get("stages", {}).items()}
    package = result["renderers"]["package"]
    return stages | {mode: times["best_ms"] for mode, times in package.items()}


def _bytes(result):
    if "n_intersections" not in result:
        return {}
    counts = result["n_gaussians"], result["n_intersections"], result["width"] * result["height"]
    stages = {stage: traffic.cpu_bytes(stage, *counts) for stage in result["stages"]}
    forward = sum(n for stage, n in stages.items() if not stage.endswith("backward"))
    return stages | {"forward": forward, "forward_backward": sum(stages.values())}
