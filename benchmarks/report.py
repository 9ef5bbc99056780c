"""Tables of the results of bench_cpu.py and bench_gpu.py."""

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


# ------------------------------------------------------------------------------------------- GPU

# What an H200 can do at best, estimated: (pixel, Gaussian) pairs per second that it can issue, and
# bytes per second that a copy moved there.
_H200_PAIRS = {"blend_forward": 1.8e12, "blend_backward": 0.9e12}
_H200_BYTES = 4.3e12
# Bytes of device memory per Gaussian that a stage at least reads and writes, float32 and SH of
# degree 3: project 11 numbers to 8 and back, shade 51 to 3 and back, bin four passes of a radix
# sort of 8-byte pairs.
_BYTES_PER_GAUSSIAN = {
    "project_forward": 4 * (11 + 8),
    "shade_forward": 4 * (51 + 3),
    "bin": 4 * 16,
    "shade_backward": 4 * (51 + 3 + 51),
    "project_backward": 4 * (11 + 7 + 11),
}
# The lists: written, sorted by tile in two passes, read.
_BYTES_PER_INTERSECTION = 8 + 2 * 16 + 4


def gpu_markdown(report: Result) -> str:
    """Render the report of bench_gpu.py as markdown."""
    gpu = report["gpu"]
    name = "no GPU" if gpu is None else ", ".join(f"{k} {v}" for k, v in gpu.items())
    versions = {k: v for k, v in report["versions"].items() if v}
    parts = [
        f"{name}; {report['hardware']['cpu']}, {report['hardware']['cores']} cores;"
        f" {report['date']}, {(report['git_commit'] or 'unknown commit')[:12]}"
        f"{' with local changes' if report['git_dirty'] else ''}.",
        "Versions: " + ", ".join(f"{k} {v}" for k, v in versions.items()) + ".",
        f"`{report['command']}`",
        _gpu_scenes(report["results"]),
        _gpu_times(report["results"]),
    ]
    stages = _gpu_stages(report)
    failures = _gpu_failures(report["results"])
    return "\n\n".join([*parts, *filter(None, (stages, failures))])


def _gpu_scenes(results: list[Result]) -> str:
    head = ["scene", "Gaussians", "image", "intersections", "per tile", "Gaussians per pixel"]
    head += ["mean weight", "lists held"]
    rows = []
    for result in results:
        scene = result["reference"]
        if "error" in scene:
            continue
        ours = result["libraries"].get("jax_gsplat_depth", {})
        listed = ours.get("n_isects_listed")
        rows.append(
            [
                scene["scene"] + ("" if scene["source"] == "frozen" else " (stand-in)"),
                str(scene["n_gaussians"]),
                f"{scene['width']}x{scene['height']}",
                str(scene["n_isects"]),
                f"{scene['mean_list']:.0f}",
                f"{scene['pairs_per_pixel']:.1f}",
                f"{scene['mean_weight']:.2f}",
                "-" if listed is None else f"{listed / max(ours['n_isects'], 1):.0%}",
            ]
        )
    return (
        "Scenes. Gaussians per pixel: those whose alpha is at least 1/255, before a pixel ends"
        " early.\n\n" + _table(head, rows)
    )


def _gpu_times(results: list[Result]) -> str:
    head = ["scene", "library", "device", "outputs", "forward", "queued", "forward + backward"]
    head += ["queued", "peak memory (MB)", "planned (MB)", "PSNR (dB)"]
    rows = []
    for result in results:
        for library, measured in result["libraries"].items():
            if "error" in measured:
                continue
            for outputs, modes in measured["times"].items():
                forward, both = (modes.get(m, {}) for m in ("forward", "forward_backward"))
                rows.append(
                    [
                        result["scene"],
                        f"{library} {measured['version'] or ''}".strip(),
                        measured["device"],
                        "image" if outputs == "image" else "image, depth, weight",
                        *(text for times in (forward, both) for text in _gpu_cell(times)),
                        _both_megabytes(forward, both, "peak_bytes"),
                        _both_megabytes(forward, both, "planned_bytes"),
                        f"{measured['accuracy'][outputs]['psnr']:.0f}",
                    ]
                )
    ratios = _gpu_ratios(results)
    return (
        "Times in ms: median (best) of single calls with their wait; queued: per call of several"
        " in a row. Memory: forward / forward + backward.\n\n"
        + _table(head, rows)
        + (f"\n\n{ratios}" if ratios else "")
    )


def _gpu_cell(times: Result) -> list[str]:
    if "best_ms" not in times:
        return ["failed" if "error" in times else "-", "-"]
    return [
        f"{_fine_ms(times['median_ms'])} ({_fine_ms(times['best_ms'])})",
        _fine_ms(times["queued_ms"]),
    ]


def _both_megabytes(forward: Result, both: Result, key: str) -> str:
    return f"{_megabytes(forward.get(key))} / {_megabytes(both.get(key))}"


def _gpu_ratios(results: list[Result]) -> str:
    """The package beside the fastest of the others, by median."""
    rows = []
    for result in results:
        measured = {k: v for k, v in result["libraries"].items() if "error" not in v}
        ours = measured.pop("jax_gsplat_depth", None)
        if ours is None or not measured:
            continue
        for outputs, modes in ours["times"].items():
            row = [result["scene"], "image" if outputs == "image" else "image, depth, weight"]
            for mode, times in modes.items():
                others = {
                    library: other["times"][outputs].get(mode, {})
                    for library, other in measured.items()
                }
                medians = {k: v["median_ms"] for k, v in others.items() if "median_ms" in v}
                if "median_ms" not in times or not medians:
                    row += ["-", "-"]
                    continue
                fastest = min(medians, key=lambda k: medians[k])
                row += [f"{medians[fastest] / times['median_ms']:.2f}x", fastest]
            rows.append(row)
    if not rows:
        return ""
    head = ["scene", "outputs", "forward is faster by", "than", "forward + backward by", "than"]
    return _table(head, rows)


def _gpu_stages(report: Result) -> str:
    is_h200 = "H200" in (report["gpu"] or {}).get("name", "")
    names = ["project_forward", "shade_forward", "bin", "blend_forward"]
    names += ["blend_backward", "shade_backward", "project_backward"]
    rows = []
    for result in report["results"]:
        ours = result["libraries"].get("jax_gsplat_depth", {})
        if "stages" not in ours:
            continue
        n = result["reference"]["n_gaussians"]
        row = [result["scene"]]
        for name in names:
            text = _fine_ms(ours["stages"][name]["median_ms"])
            if is_h200:
                text += f" / {_fine_ms(stage_limit_ms(name, n, ours['n_isects']))}"
            row.append(text)
        rows.append(row)
    if not rows:
        return ""
    limits = " / the estimated limit of this GPU" if is_h200 else ""
    return (
        f"Stages of the package, each alone with its wait, median in ms{limits}. The limit of blend"
        " takes every pixel of every tile of a list; what is skipped makes it lower.\n\n"
        + _table(["scene", *(name.replace("_", " ") for name in names)], rows)
    )


def stage_limit_ms(stage: str, n_gaussians: int, n_intersections: int) -> float:
    """Estimated least time of a stage on an H200, in ms."""
    n_bytes = _BYTES_PER_GAUSSIAN.get(stage, 0) * n_gaussians
    seconds = 0.0
    if stage in _H200_PAIRS:
        n_bytes += _BYTES_PER_INTERSECTION * n_intersections
        seconds += 256 * n_intersections / _H200_PAIRS[stage]
    return (seconds + n_bytes / _H200_BYTES) * 1e3


def _gpu_failures(results: list[Result]) -> str:
    lines = []
    for result in results:
        parts = {"reference": result["reference"], **result["libraries"]}
        for library, measured in parts.items():
            if "error" in measured:
                lines.append(f"- {result['scene']}, {library}: {measured['error']}")
            for outputs, modes in measured.get("times", {}).items():
                for mode, times in modes.items():
                    if "error" in times:
                        lines.append(
                            f"- {result['scene']}, {library}, {outputs}, {mode}: {times['error']}"
                        )
    return "Not measured:\n\n" + "\n".join(lines) if lines else ""


def _fine_ms(value: float) -> str:
    return f"{value:.3f}" if value < 10 else _ms(value)
