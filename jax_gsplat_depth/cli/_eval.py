"""Runs ``jax-gsplat-depth eval``, which measures Gaussians on views they were not fitted to."""

import dataclasses
import os
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from jax_gsplat_depth import evaluation, frames, io
from jax_gsplat_depth._common.settings import Count
from jax_gsplat_depth._types import Config
from jax_gsplat_depth.cli._common import (
    BUILT_IN,
    Antialiased,
    MaxExpansion,
    SplatsFile,
    guarded,
    load_any_capture,
    read_splats,
    say,
    shown_as,
)
from jax_gsplat_depth.datasets import Capture, CaptureError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Eval:
    """Measure a file of Gaussians on held-out views.

    Renders the held-out views of a capture and prints PSNR, SSIM and, where the depth is known, the
    median relative depth error: the numbers that fit reports for its result.

    Attributes:
        splats: File of Gaussians.
        data: Capture as for fit, or "builtin" for the built-in one (default: the capture that fit
            has recorded beside SPLATS in cameras.json).
        downscale: Divide width and height of the photos by it (default: as fit did).
        antialiased: Draw with the antialiasing compensation, for Gaussians trained with it.
        max_expansion: Largest ratio of the Gaussians of an .spz or SOG to its bytes, beyond 4 MiB.
        out: Folder for metrics.json and heldout/NAME.png (default: nothing is written).
    """

    splats: SplatsFile
    data: Annotated[str | None, shown_as("DIR")] = None
    downscale: Annotated[Count | None, shown_as("D")] = None
    antialiased: Antialiased = None
    max_expansion: MaxExpansion = io.MAX_EXPANSION
    out: Annotated[Path | None, shown_as("DIR")] = None


@guarded(out_of_memory="there is not enough memory: try --downscale")
def run(command: Eval) -> str:
    """Print the table; returns what to tell at the end."""
    evaluation.check_evaluation(command.out)  # Before the work.
    file = read_splats(command.splats, command.antialiased, command.max_expansion)
    data, downscale, recorded = _capture_of(command)
    capture = load_any_capture(data, downscale)
    if recorded is not None:
        capture = _split_as(recorded, capture)
    say(f"rendering {len(capture.test_indices)} held-out views")
    width = max([4, *(len(capture.names[i]) for i in capture.test_indices)])
    print(f"{'view':<{width}}  {'PSNR (dB)':>9}  {'SSIM':>7}  depth error (%)")
    metrics = evaluation.evaluate_splats(
        capture,
        evaluation.LocalScene.of(file.gaussians, file.tags.origin),
        command.out,
        config=Config(antialiased=bool(file.tags.antialiased)),
        source="built-in capture" if data == BUILT_IN else data,
        splats=str(command.splats),
        options={"data": data, "downscale": downscale, "antialiased": bool(file.tags.antialiased)},
        on_view=lambda entry: _print_row(entry["name"], entry, width),
    )
    _print_row("all", metrics, width)
    where = "" if command.out is None else f"; pictures and metrics.json in {command.out}"
    return f"{metrics['n_gaussians']} Gaussians, {len(metrics['heldout'])} held-out views{where}"


def _capture_of(command: Eval) -> tuple[str, int | None, frames.SceneCameras | None]:
    """Return the capture, its downscale if one is stated, and the fit's record if it was asked.

    Raises:
        ValueError: Neither the command nor the record names a capture that is there.
    """
    try:
        recorded = frames.load_scene_cameras(command.splats)
    except CaptureError as error:
        if command.data is None:
            raise ValueError(f"{error}; name the capture with --data DIR") from error
        recorded = None
    if command.data is not None:
        # Of the photos of the fit, those that it has seen are known, named or not.
        named = command.data if command.data == BUILT_IN else os.path.realpath(command.data)
        if recorded is None or recorded.data != named:
            return command.data, command.downscale, None
    if recorded is None or recorded.data is None:
        raise ValueError(
            f"--data is needed: no {frames.SCENE_CAMERAS} of a fit beside {command.splats} names "
            f"its capture (--data {BUILT_IN} is the built-in one)"
        )
    if recorded.data != BUILT_IN and not Path(recorded.data).is_dir():
        raise ValueError(
            f"{recorded.data}, to which {command.splats} was fitted, is no longer there: name the "
            "capture with --data DIR"
        )
    if not recorded.held_out.any():
        raise ValueError(
            f"{command.splats} was fitted to all photos of {recorded.data}: none is left to "
            "measure on (--data DIR names others)"
        )
    downscale = command.downscale or recorded.downscale
    at = "" if downscale in (None, 1) else f" with --downscale {downscale}"
    say(f"on {recorded.data}{at}, as {frames.SCENE_CAMERAS} beside {command.splats} says")
    return recorded.data, downscale, recorded


def _split_as(recorded: frames.SceneCameras, capture: Capture) -> Capture:
    """Return the capture with the views held out that the fit has not seen.

    Raises:
        ValueError: One of them is gone; another in its place may have been trained on.
    """
    held_out = {name for name, out in zip(recorded.names, recorded.held_out, strict=True) if out}
    missing = sorted(held_out - set(capture.names))
    if missing:
        raise ValueError(
            f"{recorded.data} no longer has the held-out photo {missing[0]} of the fit: put it "
            "back, or name other photos with --data DIR"
        )
    indices = np.flatnonzero([name in held_out for name in capture.names])
    return dataclasses.replace(capture, test_indices=indices)


def _print_row(name: str, measured: dict[str, Any], width: int) -> None:
    ssim, depth = measured["ssim"], measured["depth_error"]
    cells = [f"{measured['psnr']:9.3f}"]
    cells.append("      -" if ssim is None else f"{ssim:7.4f}")
    cells.append("      -" if depth is None else f"{100 * depth:7.3f}")
    print(f"{name:<{width}}", *cells, sep="  ", flush=True)
