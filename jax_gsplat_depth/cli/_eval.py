"""The command ``eval`` of the command line: how well Gaussians show views they never saw."""

import argparse
from pathlib import Path
from typing import Any

from jax_gsplat_depth import evaluation, io
from jax_gsplat_depth.cli._common import guarded, load_any_capture, say, whole_number
from jax_gsplat_depth.evaluation._job import check_evaluation


def add_commands(commands: Any) -> None:
    """Add the command.

    Args:
        commands: The subparsers of the command line.
    """
    parser = commands.add_parser(
        "eval",
        help="measure a file of Gaussians on held-out views",
        description=(
            "Render the held-out views of a capture and print PSNR, SSIM and, where the depth is "
            "known, the median relative depth error: the numbers that fit reports for its result."
        ),
    )
    parser.add_argument("splats", type=Path, metavar="SPLATS", help="file of Gaussians")
    parser.add_argument(
        "--data",
        metavar="DIR",
        default="builtin",
        help="capture as for fit (default: the built-in one)",
    )
    parser.add_argument(
        "--downscale",
        type=whole_number(1),
        metavar="D",
        default=1,
        help="divide width and height of the photos by D (default: %(default)s)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder for metrics.json and heldout/NAME.png (default: nothing is written)",
    )

    memory = "there is not enough memory: try --downscale"
    parser.set_defaults(run=guarded(_eval, out_of_memory=memory))


def _eval(options: argparse.Namespace) -> str:
    check_evaluation(options.out)  # Before the work.
    gaussians = io.load(options.splats)
    capture = load_any_capture(options.data, options.downscale)
    say(f"rendering {len(capture.test_indices)} held-out views")
    width = max([4, *(len(capture.names[i]) for i in capture.test_indices)])

    def line(name: str, numbers: dict[str, Any]) -> None:
        depth = numbers["depth_error"]
        cells = [f"{numbers['psnr']:9.3f}", f"{numbers['ssim']:7.4f}"]
        cells.append("      -" if depth is None else f"{100 * depth:7.3f}")
        print(f"{name:<{width}}", *cells, sep="  ", flush=True)

    print(f"{'view':<{width}}  {'PSNR (dB)':>9}  {'SSIM':>7}  depth error (%)")
    metrics = evaluation.evaluate_splats(
        capture,
        gaussians,
        options.out,
        source="built-in capture" if options.data == "builtin" else options.data,
        splats=str(options.splats),
        on_view=lambda entry: line(entry["name"], entry),
    )
    line("all", metrics)
    where = "" if options.out is None else f"; pictures and metrics.json in {options.out}"
    return f"{metrics['n_gaussians']} Gaussians, {len(metrics['heldout'])} held-out views{where}"
