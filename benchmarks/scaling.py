"""What more threads would bring: Amdahl's law from two measurements, and the memory as a limit.

A model, no measurement: it knows nothing of other cores' caches, of clocks that fall as more cores
work, or of load that spreads badly over more threads.
"""

from typing import Any

import traffic

# Threads that the model is asked about.
THREADS = 16


def serial_fraction(one: float, many: float, threads: int) -> float:
    """The part of a time that does not shrink with threads, 0..1.

    From Amdahl's law, many / one = s + (1 - s) / threads.

    Args:
        one: Time on one thread.
        many: Time on ``threads`` threads, in the same unit.
        threads: At least 2.
    """
    return min(1.0, max(0.0, (threads * many / one - 1) / (threads - 1)))


def modelled(one: float, serial: float, threads: int, memory: float) -> float:
    """Time on ``threads`` threads: Amdahl's law, but no less than ``memory``, the bytes' own."""
    return max(one * (serial + (1 - serial) / threads), memory)


def table(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Speed-up and model of each stage, of forward and of forward + backward.

    Needs measurements of the same scene with one thread and with more. The bandwidth is that of the
    most threads measured: what 16 could draw from memory was not measured, so the model takes no
    more than that.
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
    """Best times of the stages and the whole, in this order."""
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
