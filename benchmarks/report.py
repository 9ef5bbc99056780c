"""Tables of the results of bench_cpu.py."""

from typing import Any

# Forward and forward + backward in ms: OpenSplat's CPU rasterizer as the owner of the project
# measured it before this package existed, on the same kind of machine (2 cores, RGB, best medians)
# and the same frozen scenes. It cannot be installed by pip, so it is quoted and not measured here.
EARLIER_OPENSPLAT = {
    "garden_half": (212, 427),
    "blob_10k_1080p": (1772, 2834),
    "blob_50k_480p": (962, 1847),
}

Result = dict[str, Any]


def markdown(report: Result) -> str:
    """Render the whole report as markdown."""
    parts = [_header(report), _whole_table(report["results"])]
    if any("stages" in result for result in report["results"]):
        parts.append(_stage_table(report["results"]))
    return "\n\n".join(parts)


def compare(a: Result, b: Result) -> str:
    """Table of the best times of two reports and their ratio."""
    lines = []
    for key in ("hardware", "versions"):
        for field in sorted(a[key].keys() | b[key].keys()):
            if a[key].get(field) != b[key].get(field):
                lines.append(f"{field}: {a[key].get(field)} -> {b[key].get(field)}")
    if lines:
        lines = ["Different machine or versions:", *(f"- {line}" for line in lines), ""]
    old, new = _flat(a), _flat(b)
    shared = [key for key in old if key in new]
    if not shared:
        return "\n".join([*lines, "The two reports have no measurement in common."])
    rows = [[*key, _ms(old[key]), _ms(new[key]), f"{old[key] / new[key]:.2f}x"] for key in shared]
    head = ["scene", "threads", "colors", "loss on", "what", "A (ms)", "B (ms)", "B is faster by"]
    return "\n".join([*lines, _table(head, rows)])


def _flat(report: Result) -> dict[tuple[str, ...], float]:
    times = {}
    for result in report["results"]:
        key = (
            result["scene"] + ("" if result["source"] == "frozen" else " (stand-in)"),
            str(result["threads"]),
            result["colors"],
            result["cotangents"],
        )
        for renderer, modes in result["renderers"].items():
            for mode, values in modes.items():
                times[*key, f"{renderer} {mode}"] = values["best_ms"]
        for stage, values in result.get("stages", {}).items():
            times[*key, f"stage {stage}"] = values["best_ms"]
    return times


def _header(report: Result) -> str:
    hardware, versions = report["hardware"], report["versions"]
    commit = report["git_commit"] or "unknown commit"
    lines = [
        f"{hardware['cpu']}, {hardware['cores']} cores, kernels for {hardware['kernel_isa']};"
        f" Python {versions['python']}, jax {versions['jax']}, jaxlib {versions['jaxlib']},"
        f" {versions['compiler']}; {report['date']}, {commit[:12]}"
        f"{' with local changes' if report['git_dirty'] else ''};"
        f" load average {report['load_average_start']:.1f} before the run.",
        f"`{report['command']}`",
    ]
    return "\n\n".join(lines)


def _whole_table(results: list[Result]) -> str:
    head = [
        "scene",
        "Gaussians",
        "image",
        "threads",
        "colors",
        "loss on",
        "forward",
        "forward + backward",
        "peak memory (MB)",
        "pure JAX forward",
        "pure JAX forward + backward",
        "ratio forward",
        "ratio forward + backward",
        "OpenSplat, earlier (not this run)",
    ]
    rows = []
    for result in results:
        package = result["renderers"]["package"]
        baseline = result["renderers"].get("pure_jax")
        modes = ("forward", "forward_backward")
        row = [
            result["scene"] + ("" if result["source"] == "frozen" else " (stand-in)"),
            str(result["n_gaussians"]),
            f"{result['width']}x{result['height']}",
            str(result["threads"]),
            result["colors"],
            result["cotangents"],
            *(_best_and_median(package[mode]) for mode in modes),
            " / ".join(_megabytes(package[mode]["peak_bytes"]) for mode in modes),
        ]
        if baseline:
            row += [_best_and_median(baseline[mode]) for mode in modes]
            row += [f"{baseline[m]['best_ms'] / package[m]['best_ms']:.1f}x" for m in modes]
        else:
            row += ["-"] * 4
        earlier = EARLIER_OPENSPLAT.get(result["scene"])
        comparable = result["source"] == "frozen" and result["colors"] == "rgb"
        row.append(f"{earlier[0]} / {earlier[1]}" if earlier and comparable else "-")
        rows.append(row)
    return "Times in ms: best (median).\n\n" + _table(head, rows)


def _stage_table(results: list[Result]) -> str:
    names = {
        "project": "project_forward",
        "shade": "shade_forward",
        "bin": "bin",
        "blend": "blend_forward",
        "blend backward": "blend_backward",
        "shade backward": "shade_backward",
        "project backward": "project_backward",
    }
    head = ["scene", "threads", "intersections", *names, "pairs/s", "pairs/s backward"]
    rows = []
    for result in results:
        stages = result.get("stages")
        if not stages:
            continue
        row = [result["scene"], str(result["threads"]), str(result["n_intersections"])]
        row += [_ms(stages[s]["best_ms"]) if s in stages else "-" for s in names.values()]
        for name in ("blend_forward", "blend_backward"):
            row.append(f"{stages[name]['pairs_per_second']:.2e}")
        rows.append(row)
    return (
        "Stages of the package, best in ms; pairs are 256 times the intersections, skipped ones"
        " included.\n\n" + _table(head, rows)
    )


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _ms(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _best_and_median(times: Result) -> str:
    return f"{_ms(times['best_ms'])} ({_ms(times['median_ms'])})"


def _megabytes(value: int | None) -> str:
    return "-" if value is None else f"{value / 1e6:.0f}"
