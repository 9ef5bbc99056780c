"""The command ``render`` of the command line: pictures or a video along a camera path."""

import argparse
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np

from jax_gsplat_depth import frames, io
from jax_gsplat_depth._common.extras import require
from jax_gsplat_depth.cli._common import AXES, guarded, load_any_capture, number, say, whole_number

_WIDTH, _HEIGHT, _FOV, _N_FRAMES, _ELEVATION = 640, 480, 60.0, 120, 20.0
"""Of an orbit; degrees."""

_OF_ORBITS = ("up", "fov", "elevation", "distance")
"""Options that say nothing about cameras that are given."""


def add_commands(commands: Any) -> None:
    """Add the command.

    Args:
        commands: The subparsers of the command line.
    """
    parser = commands.add_parser(
        "render",
        help="render pictures or a video of a file of Gaussians",
        description=(
            "Render image, depth and weight along a camera path: around the scene (default), "
            "through the cameras of a capture, or those of a file. Writes a folder of pictures, "
            "or a video if PATH ends in .mp4; nothing appears there before all of it is done."
        ),
    )
    parser.add_argument("splats", type=Path, metavar="SPLATS", help="file of Gaussians")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="PATH",
        default=Path("render_out"),
        help="folder, or video *.mp4; an earlier result in it is replaced (default: %(default)s)",
    )
    cameras = parser.add_mutually_exclusive_group()
    cameras.add_argument(
        "--orbit", action="store_true", help="an ellipse around the scene (default)"
    )
    cameras.add_argument(
        "--data",
        metavar="DIR",
        help="cameras of a capture as for fit; 'builtin' is the built-in one",
    )
    cameras.add_argument(
        "--cameras", type=Path, metavar="FILE", help="cameras of a JSON file (see docs/tools.md)"
    )
    parser.add_argument(
        "--views",
        choices=("path", "all", "train", "heldout"),
        help="with --data: a smooth path through all views, or these views (default: path)",
    )
    parser.add_argument(
        "--up",
        choices=list(AXES),
        metavar="AXIS",
        help="with --orbit: the axis of the world that is up: x, y or z, or as in --up=-y "
        "(default: z)",
    )
    parser.add_argument(
        "--width",
        type=whole_number(1, frames.LARGEST_SIDE),
        metavar="W",
        help="pixels (default: those of the cameras; orbit: 640)",
    )
    parser.add_argument(
        "--height",
        type=whole_number(1, frames.LARGEST_SIDE),
        metavar="H",
        help="pixels (default: those of the cameras, or to keep their shape; orbit: 480)",
    )
    parser.add_argument(
        "--fov",
        type=number(0, 180, open_interval=True),
        metavar="DEGREES",
        help="with --orbit: horizontal field of view (default: 60)",
    )
    parser.add_argument(
        "--elevation",
        type=number(-89, 89),
        metavar="DEGREES",
        help="with --orbit: angle by which the cameras look down (default: 20)",
    )
    parser.add_argument(
        "--distance",
        type=number(0, math.inf, open_interval=True),
        metavar="F",
        help="with --orbit: factor on the distance, which is chosen so that the scene is in view",
    )
    parser.add_argument(
        "--frames",
        type=whole_number(2, 10**6),
        metavar="N",
        help="frames of an orbit or a path (default: 120)",
    )
    parser.add_argument(
        "--fps",
        type=whole_number(1, 240),
        metavar="N",
        default=30,
        help="frames per second of a video (default: %(default)s)",
    )
    parser.add_argument(
        "--outputs",
        type=_outputs,
        metavar="LIST",
        default=frames.OUTPUTS,
        help="some of image,depth,weight; in a video they stand side by side (default: all)",
    )
    parser.add_argument(
        "--background",
        metavar="COLOUR",
        help="a name, #rrggbb, or a grey in 0..1 (default: that of the capture, else black)",
    )
    parser.add_argument(
        "--depth-range",
        nargs=2,
        type=number(0, math.inf),
        metavar=("NEAR", "FAR"),
        help="depths of the first and last colour (default: the 1st and 99th percentile over all "
        "frames)",
    )
    parser.add_argument(
        "--min-weight",
        type=number(0, 1),
        metavar="W",
        default=0.5,
        help="pixels of less weight are grey in depth pictures (default: %(default)s)",
    )
    parser.add_argument(
        "--depth-format",
        choices=("png", "npy"),
        default="png",
        help="measured depth in a folder: 16-bit PNG or exact float32 (default: %(default)s)",
    )

    memory = "there is not enough memory: try a smaller --width and --height"
    parser.set_defaults(run=guarded(_render, out_of_memory=memory))


def _render(options: argparse.Namespace) -> str:
    mode = _mode(options)
    low_high = None if options.depth_range is None else tuple(options.depth_range)
    if low_high is not None and not low_high[0] < low_high[1]:
        raise ValueError("--depth-range needs a second number that is larger than the first")
    frames.check_output(options.out)  # Before the work.
    background = None if options.background is None else frames.color_of(options.background)
    gaussians = io.load(options.splats)
    cameras, of_capture = _cameras(options, mode, gaussians)
    if background is None:
        background = np.zeros(3) if of_capture is None else of_capture
    settings = frames.RenderSettings(
        outputs=options.outputs,
        background=tuple(float(channel) for channel in background),
        depth_range=low_high,
        min_weight=options.min_weight,
        depth_format=options.depth_format,
        fps=options.fps,
    )
    n_frames = len(cameras.names)
    say(f"rendering {n_frames} frames of {cameras.width}x{cameras.height}")
    bar = require("tqdm").tqdm(total=n_frames, unit="frame", disable=not sys.stderr.isatty())
    with bar:
        metrics = frames.render_to(
            options.out,
            gaussians,
            cameras,
            settings,
            source=str(options.splats),
            on_frame=bar.update,
        )
    colours = ""
    if metrics["depth_range"] is not None:
        low, high = metrics["depth_range"]
        colours = f"; depth colours from {low:.4g} to {high:.4g}"
    return f"{n_frames} frames of {cameras.width}x{cameras.height} in {options.out}{colours}"


def _mode(options: argparse.Namespace) -> str:
    """Return ``orbit``, ``path``, ``views`` or ``file``; refuse options that it has no use for."""
    if options.views is not None and options.data is None:
        raise ValueError("--views needs --data")
    if options.cameras is not None:
        mode = "file"
    elif options.data is not None:
        mode = "path" if options.views in (None, "path") else "views"
    else:
        mode = "orbit"
    for name in _OF_ORBITS:
        if getattr(options, name) is not None and mode != "orbit":
            raise ValueError(f"--{name} is for an orbit, not for given cameras")
    if options.frames is not None and mode in ("file", "views"):
        raise ValueError("--frames is for an orbit or a path, not for given cameras")
    return mode


def _cameras(
    options: argparse.Namespace, mode: str, gaussians: Any
) -> tuple[frames.CameraPath, np.ndarray | None]:
    """Return the cameras, and the background of the capture that they come from."""
    n_frames = options.frames or _N_FRAMES
    if mode == "orbit":
        path = frames.orbit(
            gaussians,
            up=AXES[options.up or "z"],
            n_frames=n_frames,
            width=options.width or _WIDTH,
            height=options.height or _HEIGHT,
            fov_x=math.radians(options.fov or _FOV),
            elevation=math.radians(_ELEVATION if options.elevation is None else options.elevation),
            distance=options.distance or 1.0,
        )
        return path, None
    background = None
    if mode == "file":
        size = None if None in (options.width, options.height) else (options.width, options.height)
        path = frames.read_cameras(options.cameras, size)
    else:
        capture = load_any_capture(options.data)
        background = capture.background
        indices = {"train": capture.train_indices, "heldout": capture.test_indices}
        all_indices = np.arange(len(capture.names))
        path = frames.views_of(capture, indices.get(options.views, all_indices))
        if mode == "path":
            path = frames.smooth_path(path, n_frames)
    return frames.resized(path, options.width, options.height), background


def _outputs(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if not set(names) <= set(frames.OUTPUTS) or len(set(names)) < len(names):
        known = ",".join(frames.OUTPUTS)
        raise argparse.ArgumentTypeError(f"expected some of {known}, got {text!r}")
    return names
