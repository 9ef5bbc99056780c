"""Adds the command ``fit``, the main job, to the command line."""

import argparse
import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

from jax_gsplat_depth import datasets
from jax_gsplat_depth._common.result_folder import OutputError
from jax_gsplat_depth.cli._common import INTERRUPTED, fail, guarded, number, say, whole_number
from jax_gsplat_depth.fit import Densify, DepthLoss, FitError, FitSettings

# With few views many Gaussians start at the depth of something else; a smaller rate leaves them too
# slow to reach where the depth loss pulls them (docs/training.md).
_LR_MEANS_FEW_VIEWS = 6e-3


def add_commands(commands: Any) -> None:
    """Add the command.

    Args:
        commands: The subparsers of the command line.
    """
    parser = commands.add_parser(
        "fit",
        help="fit a scene to posed photos",
        description=(
            "Fit Gaussians to posed photos and render views that the fit never saw. Writes to the "
            "output folder: heldout/NAME.png (photo, rendering, depth and weight side by side), "
            "metrics.json, splats.ply, loss.png and loss.csv. Ctrl-C ends the fit early and "
            "writes what has been reached (exit code 130); a second Ctrl-C stops at once."
        ),
    )
    defaults = FitSettings()
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="folder with a transforms.json, with transforms_train.json and transforms_test.json, "
        "or with images and a COLMAP model in sparse/0 (default: a built-in capture)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        default=Path("fit_out"),
        help="folder for the results; an earlier result in it is replaced (default: %(default)s)",
    )
    parser.add_argument(
        "--steps",
        type=whole_number(1),
        metavar="N",
        default=defaults.steps,
        help="optimiser steps (default: %(default)s)",
    )
    parser.add_argument(
        "--max-gaussians",
        type=whole_number(1, 2**31 - 1),
        metavar="N",
        default=defaults.max_gaussians,
        help="how many Gaussians there may be (default: %(default)s)",
    )
    parser.add_argument(
        "--densify",
        choices=get_args(Densify),
        default=defaults.densify,
        help="what adds and removes Gaussians: MCMC, the adaptive density control of 3DGS, or "
        "nothing (default: %(default)s)",
    )
    parser.add_argument(
        "--downscale",
        type=whole_number(1),
        metavar="D",
        default=1,
        help="divide width and height of the photos by D (default: %(default)s)",
    )
    parser.add_argument(
        "--seed",
        type=whole_number(0, 2**32 - 1),
        metavar="S",
        default=defaults.seed,
        help="decides the initial Gaussians and the order of the views; on the CPU, the same seed "
        "gives the same result (default: %(default)s)",
    )
    parser.add_argument(
        "--views",
        type=whole_number(1),
        metavar="N",
        help="train on N evenly spread photos only, with the sparse points that these could give "
        "(default: all but the held-out ones)",
    )
    parser.add_argument(
        "--depth-loss",
        choices=get_args(DepthLoss),
        metavar="NAME",
        default=defaults.depth_loss,
        help=f"supervise the depth: {', '.join(get_args(DepthLoss))}. With the depth maps of the "
        "folder; for the built-in capture with some as of a monocular estimator, whose scale and "
        "shift are unknown, for ssi or pearson (default: %(default)s)",
    )
    parser.add_argument(
        "--depth-weight",
        type=number(0, math.inf),
        metavar="X",
        help=f"weight of the depth loss (default: {defaults.depth_weight})",
    )
    parser.add_argument(
        "--lr-means",
        type=number(0, math.inf, open_interval=True),
        metavar="X",
        help="learning rate of the centres, in scene extents (default: "
        f"{defaults.lr_means}; {_LR_MEANS_FEW_VIEWS} for --views with --depth-loss)",
    )
    parser.add_argument(
        "--checkpoint-every",
        type=whole_number(1),
        metavar="N",
        help="save the training in DIR/checkpoint every N steps, after the last one and on Ctrl-C "
        "(default: never)",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on from the checkpoint in DIR, with the other options as they were; on the CPU, "
        "the result is the same as without the stop. Ctrl-C saves again",
    )
    run = guarded(
        _fit,
        out_of_memory="there is not enough memory: try --downscale or a smaller --max-gaussians",
        expected=(datasets.CaptureError, FitError, OutputError, ImportError),
    )
    parser.set_defaults(run=run)


def _fit(options: argparse.Namespace) -> int:
    started = time.perf_counter()
    # Late, so that --help is there without the extra.
    from jax_gsplat_depth.fit import Checkpoints, Progress, check_folder, fit_to_folder

    if options.data is None and options.downscale != 1:
        return fail("--downscale needs --data, since the built-in capture has one size")
    if options.depth_weight is None:
        options.depth_weight = FitSettings.depth_weight
    elif options.depth_loss == "none":
        return fail("--depth-weight needs --depth-loss, without which nothing supervises the depth")
    if options.lr_means is None:
        few = options.views is not None and options.depth_loss != "none"
        options.lr_means = _LR_MEANS_FEW_VIEWS if few else FitSettings.lr_means
    settings = FitSettings(
        steps=options.steps,
        max_gaussians=options.max_gaussians,
        densify=options.densify,
        seed=options.seed,
        depth_loss=options.depth_loss,
        depth_weight=options.depth_weight,
        lr_means=options.lr_means,
    )
    # Before the work, because finding out at the end would lose all of it.
    check_folder(options.out, resume=options.resume)
    checkpoints = None
    if options.resume or options.checkpoint_every is not None:
        checkpoints = Checkpoints(
            options.out, every=options.checkpoint_every, resume=options.resume
        )
    if options.data is None:
        say("making the built-in capture")
        capture = datasets.builtin_capture()
        if settings.depth_loss != "none":
            capture = datasets.monocular_like(capture)
    else:
        say(f"reading {options.data}")
        capture = datasets.load_capture(options.data, downscale=options.downscale)
    if options.views is not None:
        capture = datasets.select_views(capture, options.views)
    with (
        _stop_on_interrupt() as interrupt,
        Progress(settings.steps) as progress,
    ):

        def on_fitted() -> None:
            progress.close()
            say("rendering the held-out views")

        metrics = fit_to_folder(
            capture,
            options.out,
            settings,
            source="built-in capture" if options.data is None else str(options.data),
            on_step=progress.step,
            on_fitted=on_fitted,
            should_stop=interrupt.requested,
            checkpoints=checkpoints,
            started=started,
        )
    say(_summary(metrics, options.out))
    return INTERRUPTED if metrics["interrupted"] else 0


class _Interrupt:
    """The first Ctrl-C is a request to finish; after it, Ctrl-C acts as usual."""

    def __init__(self) -> None:
        self._event = threading.Event()
        # Signals reach the main thread only; elsewhere Ctrl-C is the caller's affair.
        self._installed = threading.current_thread() is threading.main_thread()
        if self._installed:
            self._previous = signal.signal(signal.SIGINT, lambda *_: self._request())

    def _request(self) -> None:
        self._event.set()
        self.restore()

    def requested(self) -> bool:
        return self._event.is_set()

    def restore(self) -> None:
        if self._installed:
            signal.signal(signal.SIGINT, self._previous)
            self._installed = False


@contextmanager
def _stop_on_interrupt() -> Iterator[_Interrupt]:
    interrupt = _Interrupt()
    try:
        yield interrupt
    finally:
        interrupt.restore()


def _summary(metrics: dict[str, Any], out: Path) -> str:
    steps = f"{metrics['steps_done']} steps"
    if metrics["resumed_after"]:
        steps += f" ({metrics['resumed_after']} of them before)"
    parts = [f"{steps} in {metrics['seconds']['total']:.0f} s"]
    if metrics["interrupted"]:
        parts[0] = "stopped after " + parts[0]
    if metrics["psnr"] is not None:
        parts.append(f"held-out PSNR {metrics['psnr']:.2f} dB, SSIM {metrics['ssim']:.3f}")
    if metrics["depth_error"] is not None:
        parts.append(f"median relative depth error {100 * metrics['depth_error']:.2f} %")
    if metrics["interrupted"] and (out / "checkpoint").is_dir():
        parts.append("--resume goes on from here")
    return f"{'; '.join(parts)}; results in {out}"
