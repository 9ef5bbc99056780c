"""Writes the report of bench_cpu.py as Markdown, and compares two reports."""

from typing import Any

import report_stages
from markdown_text import fine_ms, megabytes, ms, table

# Forward and forward + backward in ms, as the owner of the project measured them before this
# package existed, on the same kind of machine (2 cores, RGB, best medians) and the same frozen
# scenes: OpenSplat's CPU rasterizer, which pip cannot install, and the first pure-JAX renderer of
# the project, which pure_jax.py replaced. Quoted, not measured here.
EARLIER = {
    "OpenSplat": {
        "garden_half": (212, 427),
        "blob_10k_1080p": (1772, 2834),
        "blob_50k_480p": (962, 1847),
    },
    "first pure JAX": {
        "garden_half": (1416, 7547),
        "blob_10k_1080p": (750, 3329),
        "blob_50k_480p": (604, 4859),
    },
}
_MODES = ("forward", "forward_backward")

Result = dict[str, Any]


def markdown(report: Result) -> str:
    """Write the whole report as Markdown."""
    parts = [_header(report)]
    if report["results"]:
        parts += [_whole_table(report["results"]), _others_table(report["results"])]
        parts.append(_mitsuba_table(report))
    parts += report_stages.parts(report)
    return "\n\n".join(filter(None, parts))


def compare(a: Result, b: Result) -> str:
    """Return a table of the best times of two reports and their ratios."""
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
    rows = [
        [
            *key,
            fine_ms(old[key]),
            fine_ms(new[key]),
            f"{old[key] / new[key]:.2f}x",
        ]
        for key in shared
    ]
    head = ["scene", "threads", "colors", "loss on", "what", "A (ms)", "B (ms)", "B is faster by"]
    return "\n".join([*lines, table(head, rows)])


def _flat(report: Result) -> dict[tuple[str, ...], float]:
    """Return every best time in ms by the first columns of the comparison."""
    times = {}
    for result in report["results"]:
        key = (_scene(result), str(result["threads"]), result["colors"], result["cotangents"])
        for renderer, modes in result["renderers"].items():
            for mode, values in modes.items():
                times[*key, f"{renderer} {mode}"] = values["best_ms"]
        for stage, values in result.get("stages", {}).items():
            times[*key, f"stage {stage}"] = values["best_ms"]
    for small in report.get("small_scene", []):
        for name, values in small["calls"].items():
            key = (small["scene"], str(small["threads"]), "rgb", "image", f"call {name}")
            times[key] = values["best_us"] / 1e3
    for machine in report.get("machine", []):
        for direction, rate in machine["pairs_per_second"].items():
            key = ("-", str(machine["threads"]), "rgb", "image", f"bare {direction}, 1e6 pairs")
            times[key] = 1e6 / rate * 1e3
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
    head = ["scene", "Gaussians", "image", "threads", "colors", "forward"]
    head += ["forward + backward, image", "forward + backward, all", "peak memory (MB)"]
    rows = []
    for group in report_stages.by_measurement(results):
        first = next(iter(group.values()))
        modes = [first["renderers"]["package"]["forward"]]
        modes += [group[loss]["renderers"]["package"]["forward_backward"] for loss in group]
        both = {
            loss: _best_and_median(group[loss]["renderers"]["package"]["forward_backward"])
            for loss in group
        }
        rows.append(
            [
                _scene(first),
                str(first["n_gaussians"]),
                f"{first['width']}x{first['height']}",
                str(first["threads"]),
                first["colors"],
                _best_and_median(modes[0]),
                both.get("image", "-"),
                both.get("all", "-"),
                " / ".join(megabytes(mode["peak_bytes"]) for mode in modes),
            ]
        )
    return (
        "The package, times in ms: best (median). Backward is from a loss on the image, or on all"
        " of image, depth and weight. Peak memory: of these calls.\n\n" + table(head, rows)
    )


def _others_table(results: list[Result]) -> str:
    head = ["scene", "threads", "colors", "loss on", "package", "pure JAX", "is slower by"]
    for name in EARLIER:
        head += [f"{name}, earlier (not this run)", "is slower by"]
    rows = []
    for result in results:
        ours = result["renderers"]["package"]
        baseline = result["renderers"].get("pure_jax")
        others = [[baseline[mode]["best_ms"] for mode in _MODES] if baseline else None]
        others += [_earlier(result, times) for times in EARLIER.values()]
        if not any(others):
            continue
        best = [ours[mode]["best_ms"] for mode in _MODES]
        row = [_scene(result), str(result["threads"]), result["colors"], result["cotangents"]]
        row.append(_pair(best))
        for other in others:
            row += [_pair(other), _ratios(best, other)] if other else ["-", "-"]
        rows.append(row)
    if not rows:
        return ""
    title = "Beside other renderers: forward / forward + backward, best in ms."
    return f"{title}\n\n{table(head, rows)}"


def _mitsuba_table(report: Result) -> str:
    ours = {
        (result["scene"], result["threads"]): result["renderers"]["package"]
        for result in report["results"]
        if (result["colors"], result["cotangents"]) == ("rgb", "image")
    }
    rows = []
    for result in report.get("mitsuba", []):
        theirs = [result["modes"][mode]["best_ms"] for mode in _MODES]
        row = [_scene(result), str(result["threads"]), result["version"], _pair(theirs)]
        package = ours.get((result["scene"], result["threads"]))
        ratios = "-"
        if package:
            ratios = _ratios([package[mode]["best_ms"] for mode in _MODES], theirs)
        rows.append([*row, ratios, f"{result['psnr']:.1f}"])
    if not rows:
        return ""
    head = ["scene", "threads", "version", "time", "is slower by", "PSNR to the package (dB)"]
    return (
        "Mitsuba 3 traces rays through the same Gaussians: a like picture, not the same. Forward /"
        " forward + backward, loss on the image, best in ms.\n\n" + table(head, rows)
    )


def _earlier(result: Result, times: dict[str, tuple[int, int]]) -> tuple[int, int] | None:
    """Return the earlier times, if they are those of the same measurement."""
    same = (
        result["source"] == "frozen"
        and result["colors"] == "rgb"
        and result["cotangents"] == "image"
        and result["threads"] == 2
    )
    return times.get(result["scene"]) if same else None


def _scene(result: Result) -> str:
    return result["scene"] + ("" if result["source"] == "frozen" else " (stand-in)")


def _best_and_median(times: Result) -> str:
    return f"{ms(times['best_ms'])} ({ms(times['median_ms'])})"


def _pair(times: Any) -> str:
    return " / ".join(ms(value) for value in times)


def _ratios(ours: Any, theirs: Any) -> str:
    ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
    return " / ".join(f"{ratio:.1f}x" if ratio < 100 else f"{ratio:.0f}x" for ratio in ratios)
