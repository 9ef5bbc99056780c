"""Runs ``jax-gsplat-depth fit``, which fits a scene to posed photos."""

import dataclasses
import os
import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import tyro

from jax_gsplat_depth import datasets
from jax_gsplat_depth._common.result_folder import OutputError
from jax_gsplat_depth._common.settings import Amount, Count, Positive, Range
from jax_gsplat_depth.cli._arguments import Flat
from jax_gsplat_depth.cli._common import (
    BUILT_IN,
    INTERRUPTED,
    PROGRAM,
    guarded,
    say,
    shown_as,
    stated_default,
)
from jax_gsplat_depth.cli._interrupt import stop_on_interrupt
from jax_gsplat_depth.cli._refusals import Refusal
from jax_gsplat_depth.cli._resume import difference, restored, saved_form
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
    rendering, depth and weight side by side), metrics.json, splats.ply, cameras.json (the cameras,
    for view, render, eval and other programs), loss.png and loss.csv. Ctrl-C ends the fit early and
    writes what has been reached (exit code 130); a second Ctrl-C stops at once.

    Attributes:
        photos: Folder with a transforms.json, with transforms_train.json and transforms_test.json,
            with images and a COLMAP model in sparse/0, or with an RGB-D recording as of 7-Scenes or
            TUM; "builtin" is the built-in capture (default: the built-in capture).
        data: The same, for those who like to name it.
        out: Folder for the results; an earlier result in it is replaced.
        downscale: Divide width and height of the photos by it (default: the smallest at which no
            photo has more than 2.1 million pixels).
        holdout: Hold out every Nth photo, or none for 0: then nothing is measured (default: what
            the files say, else 8).
        views: Train on so many evenly spread photos only, with the sparse points that these could
            give (default: all but the held-out ones).
        checkpoint_every: Save the training in DIR/checkpoint every N steps, after the last one and
            on Ctrl-C (default: never).
        resume: Go on from the checkpoint in DIR; on the CPU, the result is the same as without the
            stop. The other options are those it was started with and need not be given again.
            Ctrl-C saves again.
        settings: How to fit.
        depth_weight: Weight of the depth loss, which has no unit.
        lr_means: Learning rate of the centres, in scene extents; falls exponentially.
    """

    photos: Annotated[tyro.conf.Positional[Path | None], shown_as("[PHOTOS]")] = None
    data: Annotated[Path | None, shown_as("DIR"), stated_default("as PHOTOS says")] = None
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


# Of a resumed fit: where the checkpoint lies, what is asked for now, and what may change.
_NOT_SAVED = frozenset(("photos", "out", "resume"))
_MAY_CHANGE = _NOT_SAVED | {"data", "checkpoint_every"}

# Of these the values that they result in are compared, not the words.
_IN_SETTINGS = frozenset(("settings", "depth_weight", "lr_means"))


def completed(command: Fit, read_again: Callable[[Fit], Fit]) -> Fit:
    """Return the options with the capture in ``data``, and with those of a fit that is resumed.

    Args:
        command: What the command line says.
        read_again: Reads the command line with other defaults.

    Raises:
        Refusal: The capture is given twice, or an option differs from that of the start.
    """
    if command.photos is not None and command.data is not None:
        raise Refusal("argument --data: not allowed with argument PHOTOS, which is the same")
    saved = _saved(command) if command.resume else None
    given = command if saved is None else read_again(saved)
    data = given.photos if given.photos is not None else given.data
    if data is not None and str(data) == BUILT_IN and not data.is_dir():
        data = None
    given = dataclasses.replace(given, photos=None, data=data)
    if saved is not None:
        _check_agreement(saved, given)
    return given


def options_to_save(command: Fit) -> dict[str, Any]:
    """Return what a checkpoint keeps of the options, for those who resume it from any folder."""
    data = None if command.data is None else _absolute(command.data)
    return saved_form(command, _NOT_SAVED) | {"data": data}


def _absolute(path: Path) -> str:
    # Of a link that leads to itself, Path.resolve makes an error of its own kind.
    return os.path.realpath(path)


def _saved(command: Fit) -> Fit | None:
    """Return the options that the fit in the output folder was started with, if it says so."""
    try:
        from jax_gsplat_depth.fit import saved_options

        options = saved_options(command.out)
    except (ImportError, OSError, ValueError):
        return None  # Said where the checkpoint is opened.
    if options is None:
        return None
    try:
        return restored(Fit, options, out=command.out, resume=True)
    except (ValueError, TypeError, KeyError) as error:
        raise Refusal(
            f"argument --resume: the fit in {command.out} was started with options that this "
            "version does not know"
        ) from error


def _check_agreement(saved: Fit, given: Fit) -> None:
    found = difference(saved, given, _MAY_CHANGE | _IN_SETTINGS)
    if found is None:
        try:
            found = difference(chosen_settings(saved), chosen_settings(given), frozenset())
        except FitError as error:
            raise Refusal(str(error)) from error
    if found is not None:
        name, old, new = found
        raise Refusal(
            f"argument --{name.replace('_', '-')}: {given.out} belongs to a fit with {name} = "
            f"{old}, not {new}: leave it out, and the fit goes on as it was started"
        )


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
            command.out,
            every=command.checkpoint_every,
            resume=command.resume,
            options=options_to_save(command),
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
            data=BUILT_IN if command.data is None else _absolute(command.data),
            options={"holdout": command.holdout, "views": command.views},
        )
    say(_summary(metrics, command.out, saved=checkpoints is not None))
    for line in _next_steps(command.out, goes_on=metrics["interrupted"] and bool(checkpoints)):
        say(line)
    return INTERRUPTED if metrics["interrupted"] else 0


def _next_steps(out: Path, *, goes_on: bool) -> list[str]:
    """Return what one may want to type next."""
    splats, folder = shlex.quote(str(out / "splats.ply")), shlex.quote(str(out))
    commands = [f"fit --resume --out {folder}"] if goes_on else []
    commands += [f"view {splats}", f"render {splats}"]
    return [f"next: {PROGRAM} {command}" for command in commands]


def chosen_settings(command: Fit) -> FitSettings:
    """Return the settings, with the values that follow from other options.

    Raises:
        FitError: The options do not go together.
    """
    if command.data is None and command.downscale not in (None, 1):
        raise FitError(
            "--downscale needs --data or PHOTOS, since the built-in capture has one size"
        )
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
