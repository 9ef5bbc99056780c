"""Runs ``jax-gsplat-depth render``, which makes pictures or a video along a camera path."""

import dataclasses
import math
import sys
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro

from jax_gsplat_depth import frames, io
from jax_gsplat_depth._common.extras import require
from jax_gsplat_depth._common.settings import Positive, Range
from jax_gsplat_depth._types import Config
from jax_gsplat_depth.cli._arguments import Flat
from jax_gsplat_depth.cli._common import (
    AXES,
    Antialiased,
    Axis,
    MaxExpansion,
    SplatsFile,
    guarded,
    load_any_capture,
    read_splats,
    say,
    shown_as,
    stated_default,
)
from jax_gsplat_depth.frames import RenderSettings

# Of an orbit where nothing else is asked for: pixels, degrees, a factor, a number and an axis.
_WIDTH, _HEIGHT = 640, 480
_FOV, _ELEVATION = 60.0, 20.0
_DISTANCE = 1.0
_N_FRAMES = 120
_UP = "z"

_OF_ORBITS = ("up", "fov", "elevation", "distance")
"""Options that say nothing about cameras that are given."""

_ONE_OF = tyro.conf.create_mutex_group(required=False, title="cameras")

Side = Annotated[int, Range(low=1, high=frames.LARGEST_SIDE, whole=True)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Render:
    """Render pictures or a video of a file of Gaussians.

    Renders image, depth and weight along a camera path: around the scene (default), through the
    cameras of a capture, or those of a file. Writes a folder of pictures, or a video if PATH ends
    in .mp4; nothing appears there before all of it is done.

    Attributes:
        splats: File of Gaussians.
        out: Folder, or video *.mp4; an earlier result in it is replaced.
        orbit: An ellipse around the scene.
        data: Cameras of a capture as for fit; "builtin" is the built-in one.
        cameras: Cameras of a JSON file (see docs/tools.md).
        views: With --data: a smooth path through all views, or these views (default: path).
        up: With --orbit: the axis of the world that is up: x, y or z, or as in --up=-y.
        width: Pixels.
        height: Pixels.
        fov: With --orbit: horizontal field of view.
        elevation: With --orbit: angle by which the cameras look down.
        distance: With --orbit: factor on the distance, which is chosen so that the scene is in
            view.
        frames: Frames of an orbit or a path.
        background: A name, #rrggbb, or a grey in 0..1 (default: that of the capture, else black).
        antialiased: Draw with the antialiasing compensation, for Gaussians trained with it.
        max_expansion: Largest ratio of the Gaussians of an .spz or SOG to its bytes, beyond 4 MiB.
        settings: What becomes of the frames.
    """

    splats: SplatsFile
    out: Annotated[Path, shown_as("PATH")] = Path("render_out")
    orbit: Annotated[bool, tyro.conf.arg(help_behavior_hint="(default)"), _ONE_OF] = False
    data: Annotated[str | None, shown_as("DIR"), _ONE_OF] = None
    cameras: Annotated[Path | None, shown_as("FILE"), _ONE_OF] = None
    views: Literal["path", "all", "train", "heldout"] | None = None
    up: Annotated[Axis | None, shown_as("AXIS"), stated_default(_UP)] = None
    width: Annotated[
        Side | None, shown_as("W"), stated_default(f"those of the cameras; orbit: {_WIDTH}")
    ] = None
    height: Annotated[
        Side | None,
        shown_as("H"),
        stated_default(f"those of the cameras, or to keep their shape; orbit: {_HEIGHT}"),
    ] = None
    fov: Annotated[
        float | None,
        Range(low=0, high=180, above=True, below=True),
        shown_as("DEGREES"),
        stated_default(f"{_FOV:g}"),
    ] = None
    elevation: Annotated[
        float | None,
        Range(low=-89, high=89),
        shown_as("DEGREES"),
        stated_default(f"{_ELEVATION:g}"),
    ] = None
    distance: Annotated[Positive | None, shown_as("F"), stated_default(f"{_DISTANCE:g}")] = None
    frames: Annotated[
        int | None, Range(low=2, high=10**6, whole=True), stated_default(f"{_N_FRAMES}")
    ] = None
    background: Annotated[str | None, shown_as("COLOUR")] = None
    antialiased: Antialiased = None
    max_expansion: MaxExpansion = io.MAX_EXPANSION
    settings: Annotated[RenderSettings, Flat(shown_as={"depth_range": "NEAR FAR"})] = (
        RenderSettings()
    )


@guarded(out_of_memory="there is not enough memory: try a smaller --width and --height")
def run(command: Render) -> str:
    """Render the frames; returns what to tell at the end."""
    mode = _mode(command)
    depth_range = command.settings.depth_range
    if depth_range is not None and not depth_range[0] < depth_range[1]:
        raise ValueError("--depth-range needs a second number that is larger than the first")
    frames.check_output(command.out)  # Before the work.
    background = None if command.background is None else frames.color_of(command.background)
    file = read_splats(command.splats, command.antialiased, command.max_expansion)
    scene = frames.LocalScene.of(file.gaussians, file.tags.origin)
    cameras, of_capture = _cameras(command, mode, scene)
    if background is None:
        background = np.zeros(3) if of_capture is None else of_capture
    settings = dataclasses.replace(
        command.settings, background=tuple(float(channel) for channel in background)
    )
    n_frames = len(cameras.names)
    say(f"rendering {n_frames} frames of {cameras.width}x{cameras.height}")
    bar = require("tqdm").tqdm(total=n_frames, unit="frame", disable=not sys.stderr.isatty())
    with bar:
        metrics = frames.render_to(
            command.out,
            scene,
            cameras,
            settings,
            config=Config(antialiased=bool(file.tags.antialiased)),
            source=str(command.splats),
            on_frame=bar.update,
        )
    colours = ""
    if metrics["depth_range"] is not None:
        low, high = metrics["depth_range"]
        colours = f"; depth colours from {low:.4g} to {high:.4g}"
    return f"{n_frames} frames of {cameras.width}x{cameras.height} in {command.out}{colours}"


def _mode(command: Render) -> str:
    """Return ``orbit``, ``path``, ``views`` or ``file``; refuse options that it has no use for."""
    if command.views is not None and command.data is None:
        raise ValueError("--views needs --data")
    if command.cameras is not None:
        mode = "file"
    elif command.data is not None:
        mode = "path" if command.views in (None, "path") else "views"
    else:
        mode = "orbit"
    for name in _OF_ORBITS:
        if getattr(command, name) is not None and mode != "orbit":
            raise ValueError(f"--{name} is for an orbit, not for given cameras")
    if command.frames is not None and mode in ("file", "views"):
        raise ValueError("--frames is for an orbit or a path, not for given cameras")
    return mode


def _cameras(
    command: Render, mode: str, scene: frames.LocalScene
) -> tuple[frames.CameraPath, np.ndarray | None]:
    """Return the cameras, and the background of the capture that they come from."""
    width, height = command.width, command.height
    background = None
    if command.cameras is not None:
        size = None if width is None or height is None else (width, height)
        path = frames.read_cameras(command.cameras, size)
    elif command.data is not None:
        capture = load_any_capture(command.data)
        background = capture.background
        indices = {"train": capture.train_indices, "heldout": capture.test_indices}
        all_indices = np.arange(len(capture.names))
        path = frames.views_of(capture, indices.get(command.views or "path", all_indices))
        if mode == "path":
            path = frames.smooth_path(path, command.frames or _N_FRAMES)
    else:
        return _orbit(command, scene), None
    return frames.resized(path, width, height), background


def _orbit(command: Render, scene: frames.LocalScene) -> frames.CameraPath:
    elevation = _ELEVATION if command.elevation is None else command.elevation
    return frames.orbit(
        scene,
        up=AXES[command.up or _UP],
        n_frames=command.frames or _N_FRAMES,
        width=command.width or _WIDTH,
        height=command.height or _HEIGHT,
        fov_x=math.radians(command.fov or _FOV),
        elevation=math.radians(elevation),
        distance=command.distance or _DISTANCE,
    )
