"""Writes the results of bench_gpu.py as Markdown tables."""

from typing import Any

import traffic
from markdown_text import fine_ms, megabytes, table

Result = dict[str, Any]

# Estimated limits of an H200: (pixel, Gaussian) pairs per second that it can issue, and bytes per
# second that a copy moved there.
_H200_PAIRS = {"blend_forward": 1.8e12, "blend_backward": 0.9e12}
_H200_BYTES = 4.3e12
# A list entry is written, sorted by tile in two passes, and read.
_BYTES_PER_INTERSECTION = 8 + 2 * 16 + 4


def markdown(report: Result) -> str:
    """Write the report of bench_gpu.py as Markdown."""
    gpu = report["gpu"]
    name = "no GPU" if gpu is None else ", ".join(f"{k} {v}" for k, v in gpu.items())
    versions = {k: v for k, v in report["versions"].items() if v}
    parts = [
        f"{name}; {report['hardware']['cpu']}, {report['hardware']['cores']} cores;"
        f" {report['date']}, {(report['git_commit'] or 'unknown commit')[:12]}"
        f"{' with local changes' if report['git_dirty'] else ''}.",
        "Versions: " + ", ".join(f"{k} {v}" for k, v in versions.items()) + ".",
        f"`{report['command']}`",
        _scenes(report["results"]),
        _times(report["results"]),
    ]
    stages = _stages(report)
    failures = _failures(report["results"])
    return "\n\n".join([*parts, *filter(None, (stages, failures))])


def _scenes(results: list[Result]) -> str:
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
        " early.\n\n" + table(head, rows)
    )


def _times(results: list[Result]) -> str:
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
                        *(text for times in (forward, both) for text in _cell(times)),
                        _both_megabytes(forward, both, "peak_bytes"),
                        _both_megabytes(forward, both, "planned_bytes"),
                        f"{measured['accuracy'][outputs]['psnr']:.0f}",
                    ]
                )
    ratios = _ratios(results)
    return (
        "Times in ms: median (best) of single calls with their wait; queued: per call of several"
        " in a row. Memory: forward / forward + backward.\n\n"
        + table(head, rows)
        + (f"\n\n{ratios}" if ratios else "")
    )


def _cell(times: Result) -> list[str]:
    if "best_ms" not in times:
        return ["failed" if "error" in times else "-", "-"]
    return [
        f"{fine_ms(times['median_ms'])} ({fine_ms(times['best_ms'])})",
        fine_ms(times["queued_ms"]),
    ]


def _both_megabytes(forward: Result, both: Result, key: str) -> str:
    return f"{megabytes(forward.get(key))} / {megabytes(both.get(key))}"


def _ratios(results: list[Result]) -> str:
    """Compare the package with the fastest of the others, by median."""
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
    return table(head, rows)


def _stages(report: Result) -> str:
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
            text = fine_ms(ours["stages"][name]["median_ms"])
            if is_h200:
                text += f" / {fine_ms(stage_limit_ms(name, n, ours['n_isects']))}"
            row.append(text)
        rows.append(row)
    if not rows:
        return ""
    limits = " / the estimated limit of this GPU" if is_h200 else ""
    return (
        f"Stages of the package, each alone with its wait, median in ms{limits}. The limit of blend"
        " takes every pixel of every tile of a list; what is skipped makes it lower.\n\n"
        + table(["scene", *(name.replace("_", " ") for name in names)], rows)
    )


def stage_limit_ms(stage: str, n_gaussians: int, n_intersections: int) -> float:
    """Return the estimated least time of a stage on an H200, in ms."""
    n_bytes = traffic.BYTES_PER_GAUSSIAN.get(stage, 0) * n_gaussians
    seconds = 0.0
    if stage in _H200_PAIRS:
        n_bytes += _BYTES_PER_INTERSECTION * n_intersections
        seconds += 256 * n_intersections / _H200_PAIRS[stage]
    return (seconds + n_bytes / _H200_BYTES) * 1e3


def _failures(results: list[Result]) -> str:
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
