"""Runs ``jax-gsplat-depth fit``, which fits a scene to posed photos."""

import dataclasses
import time
from pathlib import Path
from typing import Annotated, Any

from jax_gsplat_depth import datasets
from jax_gsplat_depth._common.result_folder import OutputError
from jax_gsplat_depth._common.settings import Amount, Count, Positive, Range
from jax_gsplat_depth.cli._arguments import Flat
from jax_gsplat_depth.cli._common import INTERRUPTED, guarded, say, shown_as, stated_default
from jax_gsplat_depth.cli._interrupt import stop_on_interrupt
from jax_gsplat_depth.fit import FitError, FitSettings

# With few views many Gaussians start at the depth of something else; a smaller rate leaves them too
# slow to reach where the depth loss pulls them (docs/training.md).
_LR_MEANS_FEW_VIEWS = 6e-3

_GROUPS = {
    "start": ("initial_fraction", "initial_opacity"),
    "colour": ("sh_degree", "sh_warmup"),
    "loss": ("ssim_weight", "alpha_weight"),
    "learning-rate": (
        "lr_means_final",
        "lr_final",
        "lr_scales",
        "lr_quats",
        "lr_opacities",
        "lr_sh0",
        "lr_sh_rest",
    ),
    "density-control": ("densify_start", "densify_stop", "densify_every"),
}
"""The settings that few need to change, by the title of their group in the help."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fit:
    """Fit a scene to posed photos.

    Renders views that the fit never saw, and writes to the output folder: heldout/NAME.png (photo,
    rendering, depth and weight side by side), metrics.json, splats.ply, loss.png and loss.csv.
    Ctrl-C ends the fit early and writes what has been reached (exit code 130); a second Ctrl-C
    stops at once.

    Attributes:
        data: Folder with a transforms.json, with transforms_train.json and transforms_test.json,
            with images and a COLMAP model in sparse/0, or with an RGB-D recording as of 7-Scenes or
            TUM (default: a built-in capture).
        out: Folder for the results; an earlier result in it is replaced.
        downscale: Divide width and height of the photos by it (default: the smallest at which no
            photo has more than 2.1 million pixels).
        holdout: Hold out every Nth photo, or none for 0: then nothing is measured (default: what
            the files say, else 8).
        views: Train on so many evenly spread photos only, with the sparse points that these could
            give (default: all but the held-out ones).
        checkpoint_every: Save the training in DIR/checkpoint every N steps, after the last one and
            on Ctrl-C (default: never).
        resume: Go on from the checkpoint in DIR, with the other options as they were; on the CPU,
            the result is the same as without the stop. Ctrl-C saves again.
        settings: How to fit.
        depth_weight: Weight of the depth loss, which has no unit.
        lr_means: Learning rate of the centres, in scene extents; falls exponentially.
    """

    data: Annotated[Path | None, shown_as("DIR")] = None
    out: Annotated[Path, shown_as("DIR")] = Path("fit_out")
    settings: Annotated[FitSettings, Flat(_GROUPS, {"seed": "S"})] = FitSettings()
    downscale: Annotated[Count | None, shown_as("D")] = None
    holdout: Annotated[int | None, Range(low=0, whole=True), shown_as("N")] = None
    views: Count | None = None
    # What these two are without being asked for depends on the other options.
    depth_weight: Annotated[Amount | None, stated_default(f"{FitSettings.depth_weight:g}")] = None
    lr_means: Annotated[
        Positive | None,
        stated_default(
            f"{FitSettings.lr_means:g}; {_LR_MEANS_FEW_VIEWS:g} for --views with --depth-loss"
        ),
    ] = None
    checkpoint_every: Count | None = None
    resume: bool = False


@guarded(
    out_of_memory="there is not enough memory: try --downscale or a smaller --max-gaussians",
    expected=(datasets.CaptureError, FitError, OutputError, ImportError),
)
def run(command: Fit) -> int:
    """Fit the scene; returns the exit code."""
    started = time.perf_counter()
    # Late, so that --help is there without the extra.
    from jax_gsplat_depth.fit import Checkpoints, Progress, check_folder, fit_to_folder

    settings = chosen_settings(command)
    # Before the work, because finding out at the end would lose all of it.
    check_folder(command.out, resume=command.resume)
    checkpoints = None
    if command.resume or command.checkpoint_every is not None:
        checkpoints = Checkpoints(
            command.out, every=command.checkpoint_every, resume=command.resume
        )
    capture = _capture(command)
    with stop_on_interrupt() as interrupt, Progress(settings.steps) as progress:

        def on_fitted() -> None:
            progress.close()
            if len(capture.test_indices) > 0:
                say("rendering the held-out views")

        metrics = fit_to_folder(
            capture,
            command.out,
            settings,
            source="built-in capture" if command.data is None else str(command.data),
            on_step=progress.step,
            on_fitted=on_fitted,
            should_stop=interrupt.requested,
            checkpoints=checkpoints,
            started=started,
        )
    say(_summary(metrics, command.out, saved=checkpoints is not None))
    return INTERRUPTED if metrics["interrupted"] else 0


def chosen_settings(command: Fit) -> FitSettings:
    """Return the settings, with the values that follow from other options.

    Raises:
        FitError: The options do not go together.
    """
    if command.data is None and command.downscale not in (None, 1):
        raise FitError("--downscale needs --data, since the built-in capture has one size")
    settings = command.settings
    supervised = settings.depth_loss != "none"
    if command.depth_weight is not None:
        if not supervised:
            raise FitError(
                "--depth-weight needs --depth-loss, without which nothing supervises the depth"
            )
        settings = dataclasses.replace(settings, depth_weight=command.depth_weight)
    lr_means = command.lr_means
    if lr_means is None and supervised and command.views is not None:
        lr_means = _LR_MEANS_FEW_VIEWS
    return settings if lr_means is None else dataclasses.replace(settings, lr_means=lr_means)


def _capture(command: Fit) -> datasets.Capture:
    if command.data is None:
        say("making the built-in capture")
        capture = datasets.builtin_capture()
        if command.settings.depth_loss != "none":
            capture = datasets.monocular_like(capture)
    else:
        say(f"reading {command.data}")
        capture = datasets.load_capture(command.data, downscale=command.downscale)
    if command.holdout is not None:
        capture = capture.holding_out(command.holdout)
    if command.views is not None:
        capture = datasets.select_views(capture, command.views)
    return capture


def _summary(metrics: dict[str, Any], out: Path, *, saved: bool) -> str:
    steps = f"{metrics['steps_done']} steps"
    if metrics["resumed_after"]:
        steps += f" ({metrics['resumed_after']} of them before)"
    parts = [f"{steps} in {metrics['seconds']['total']:.0f} s"]
    if metrics["interrupted"]:
        parts[0] = "stopped after " + parts[0]
    if metrics["psnr"] is not None:
        ssim = "" if metrics["ssim"] is None else f", SSIM {metrics['ssim']:.3f}"
        parts.append(f"held-out PSNR {metrics['psnr']:.2f} dB{ssim}")
    elif "note" in metrics:
        parts.append(metrics["note"])
    if metrics["depth_error"] is not None:
        parts.append(f"median relative depth error {100 * metrics['depth_error']:.2f} %")
    if metrics["interrupted"] and saved:
        parts.append("--resume goes on from here")
    if any(metrics["origin"]):
        x, y, z = metrics["origin"]
        parts.append(f"splats.ply is relative to its origin {x:.10g} {y:.10g} {z:.10g}")
    return f"{'; '.join(parts)}; results in {out}"
