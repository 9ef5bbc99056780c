"""Writes the tables of bench_cpu.py on the machine, the stages, threads and small scenes."""

import itertools
from typing import Any

import scaling
from markdown_text import ms, table

Result = dict[str, Any]

_STAGES = {
    "project_forward": "project",
    "shade_forward": "shade",
    "bin": "bin",
    "blend_forward": "blend",
    "blend_backward": "blend backward",
    "shade_backward": "shade backward",
    "project_backward": "project backward",
}
_CALLS = {
    "empty": "empty function",
    "arguments": "same arguments and results",
    "ffi_1": "same through an empty FFI call",
    "ffi_3": "same through three of them",
    "no_gaussians": "render no Gaussians",
    **_STAGES,
    "forward": "forward",
    "forward_backward": "forward + backward",
}


def parts(report: Result) -> list[str]:
    """Return the tables for which the report has measurements."""
    machine = {entry["threads"]: entry for entry in report.get("machine", [])}
    with_stages = [result for result in report["results"] if "stages" in result]
    return [
        _machine_table(list(machine.values())),
        _stage_table(with_stages),
        _share_table(with_stages, machine),
        _scaling_table(scaling.table(report)),
        _small_table(report.get("small_scene", [])),
    ]


def _machine_table(machine: list[Result]) -> str:
    if not machine:
        return ""
    head = ["threads", "bare kernel, pairs/s", "backward, pairs/s", "multiply-adds, GFLOP/s"]
    head.append("memory, GB/s")
    rows = [
        [
            str(entry["threads"]),
            *(f"{entry['pairs_per_second'][d]:.2e}" for d in ("forward", "backward")),
            f"{entry['flops_per_second'] / 1e9:.0f}",
            f"{entry['bytes_per_second'] / 1e9:.1f}",
        ]
        for entry in machine
    ]
    return "What the machine can do, all threads together.\n\n" + table(head, rows)


def by_measurement(results: list[Result]) -> list[dict[str, Result]]:
    """Group by loss the results that differ only in it: one process measured them together."""

    def measurement(result):
        return result["scene"], result["threads"], result["colors"]

    return [
        {result["cotangents"]: result for result in group}
        for _, group in itertools.groupby(results, measurement)
    ]


def _stage_table(results: list[Result]) -> str:
    """Tabulate the stages; the backward pass of blend has a column for each loss."""
    if not results:
        return ""
    losses = list(dict.fromkeys(result["cotangents"] for result in results))
    columns = {
        (stage, loss): f"{name}, {loss}" if stage == "blend_backward" else name
        for stage, name in _STAGES.items()
        if any(stage in result["stages"] for result in results)
        for loss in (losses if stage == "blend_backward" else losses[:1])
    }
    rows = []
    for group in by_measurement(results):
        first = next(iter(group.values()))
        row = [*_what(first), str(first["n_intersections"])]
        for stage, loss in columns:
            result = group.get(loss) if stage == "blend_backward" else first
            times = result and result["stages"].get(stage)
            row.append(ms(times["best_ms"]) if times else "-")
        rows.append(row)
    head = ["scene", "threads", "colors", "intersections", *columns.values()]
    return (
        "Stages of the package, best in ms; backward of blend from a loss on the image, or on all"
        " of image, depth and weight.\n\n" + table(head, rows)
    )


def _share_table(results: list[Result], machine: dict[int, Result]) -> str:
    """Compare blend with the bare kernel, by three ways to count its pairs."""
    rows = []
    for group in by_measurement([result for result in results if "pairs" in result]):
        first = next(iter(group.values()))
        rows.append(_share_row(first, "forward", "-", machine))  # it does not depend on the loss
        for loss, result in group.items():
            rows.append(_share_row(result, "backward", loss, machine))
    if not rows:
        return ""
    head = ["scene", "threads", "colors", "direction", "loss on", "pairs in lists (1e6)", "pairs/s"]
    head += ["of bare kernel", "in drawn vectors", "of bare kernel", "drawn", "of bare kernel"]
    return (
        "Blend beside the bare kernel. Pairs in lists: 256 times the intersections, skipped ones"
        " included. Drawn: those that change a pixel. In drawn vectors: those in the vectors of"
        " pixels with a drawn one.\n\n" + table(head, rows)
    )


def _share_row(result: Result, direction: str, loss: str, machine: dict[int, Result]) -> list[str]:
    pairs = result["pairs"]
    rate = result["stages"][f"blend_{direction}"]["pairs_per_second"]
    share = None
    if result["threads"] in machine:
        share = rate / machine[result["threads"]]["pairs_per_second"][direction]
    row = [*_what(result), direction, loss, f"{pairs['listed'] / 1e6:.1f}", f"{rate:.2e}"]
    row.append(_percent(share))
    for counted in ("in_drawn_vectors", "drawn"):
        part = pairs[counted] / pairs["listed"] if counted in pairs else None
        row.append(_percent(part))
        row.append(_percent(None if part is None or share is None else part * share))
    return row


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def _scaling_table(entries: list[Result]) -> str:
    rows, seen = [], set()
    for entry in entries:
        key = entry["scene"], entry["colors"], entry["what"]
        if key in seen and entry["what"] not in ("blend_backward", "forward_backward"):
            continue  # it does not depend on the loss
        seen.add(key)
        rows.append(
            [
                entry["scene"],
                entry["colors"],
                entry["cotangents"],
                _CALLS[entry["what"]],
                ms(entry["one_ms"]),
                f"{ms(entry['many_ms'])} ({entry['one_ms'] / entry['many_ms']:.2f}x)",
                f"{entry['serial_fraction']:.0%}",
                ms(entry["memory_ms"]) if entry["memory_ms"] else "-",
                f"{ms(entry['model_ms'])} ({entry['one_ms'] / entry['model_ms']:.1f}x)",
            ]
        )
    if not rows:
        return ""
    many = " or ".join(str(n) for n in sorted({entry["threads"] for entry in entries}))
    head = ["scene", "colors", "loss on", "what", "1 thread", f"{many} threads (speed-up)"]
    head += ["serial part", "memory limit", f"model of {scaling.THREADS} threads"]
    return (
        "Threads, best in ms. The last three columns are a **model**, not measured: Amdahl's law"
        " from the two times, and no faster than the memory moves the bytes of the stage.\n\n"
        + table(head, rows)
    )


def _small_table(small: list[Result]) -> str:
    if not small:
        return ""
    names = [name for name in _CALLS if any(name in entry["calls"] for entry in small)]
    head = ["call"]
    for entry in small:
        head += [f"{_threads(entry)}, us", "page faults", "context switches"]
    rows = []
    for name in names:
        row = [_CALLS[name]]
        for entry in small:
            call = entry["calls"].get(name)
            if call is None:
                row += ["-"] * 3
                continue
            row.append(f"{call['best_us']:.0f} ({call['median_us']:.0f})")
            row += [f"{call['page_faults']:.1f}", f"{call['context_switches']:.1f}"]
        rows.append(row)
    return (
        f"Cost of a call: `{small[0]['scene']}`, 1000 Gaussians in 64x64 pixels; best (median), and"
        " page faults and context switches per call.\n\n" + table(head, rows)
    )


def _threads(entry: Result) -> str:
    return f"{entry['threads']} thread" + ("s" if entry["threads"] > 1 else "")


def _what(result: Result) -> list[str]:
    scene = result["scene"] + ("" if result["source"] == "frozen" else " (stand-in)")
    return [scene, str(result["threads"]), result["colors"]]
