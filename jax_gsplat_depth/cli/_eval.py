"""Runs ``jax-gsplat-depth eval``, which measures Gaussians on views they were not fitted to."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

from jax_gsplat_depth import evaluation, io
from jax_gsplat_depth._common.settings import Count
from jax_gsplat_depth._types import Config
from jax_gsplat_depth.cli._common import (
    Antialiased,
    MaxExpansion,
    SplatsFile,
    guarded,
    load_any_capture,
    read_splats,
    say,
    shown_as,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Eval:
    """Measure a file of Gaussians on held-out views.

    Renders the held-out views of a capture and prints PSNR, SSIM and, where the depth is known, the
    median relative depth error: the numbers that fit reports for its result.

    Attributes:
        splats: File of Gaussians.
        data: Capture as for fit, or "builtin" for the built-in one.
        downscale: Divide width and height of the photos by it (default: as for fit).
        antialiased: Draw with the antialiasing compensation, for Gaussians trained with it.
        max_expansion: Largest ratio of the Gaussians of an .spz or SOG to its bytes, beyond 4 MiB.
        out: Folder for metrics.json and heldout/NAME.png (default: nothing is written).
    """

    splats: SplatsFile
    data: Annotated[str, shown_as("DIR")] = "builtin"
    downscale: Annotated[Count | None, shown_as("D")] = None
    antialiased: Antialiased = None
    max_expansion: MaxExpansion = io.MAX_EXPANSION
    out: Annotated[Path | None, shown_as("DIR")] = None


@guarded(out_of_memory="there is not enough memory: try --downscale")
def run(command: Eval) -> str:
    """Print the table; returns what to tell at the end."""
    evaluation.check_evaluation(command.out)  # Before the work.
    file = read_splats(command.splats, command.antialiased, command.max_expansion)
    capture = load_any_capture(command.data, command.downscale)
    say(f"rendering {len(capture.test_indices)} held-out views")
    width = max([4, *(len(capture.names[i]) for i in capture.test_indices)])
    print(f"{'view':<{width}}  {'PSNR (dB)':>9}  {'SSIM':>7}  depth error (%)")
    metrics = evaluation.evaluate_splats(
        capture,
        evaluation.LocalScene.of(file.gaussians, file.tags.origin),
        command.out,
        config=Config(antialiased=bool(file.tags.antialiased)),
        source="built-in capture" if command.data == "builtin" else command.data,
        splats=str(command.splats),
        on_view=lambda entry: _print_row(entry["name"], entry, width),
    )
    _print_row("all", metrics, width)
    where = "" if command.out is None else f"; pictures and metrics.json in {command.out}"
    return f"{metrics['n_gaussians']} Gaussians, {len(metrics['heldout'])} held-out views{where}"


def _print_row(name: str, measured: dict[str, Any], width: int) -> None:
    ssim, depth = measured["ssim"], measured["depth_error"]
    cells = [f"{measured['psnr']:9.3f}"]
    cells.append("      -" if ssim is None else f"{ssim:7.4f}")
    cells.append("      -" if depth is None else f"{100 * depth:7.3f}")
    print(f"{name:<{width}}", *cells, sep="  ", flush=True)
