"""Runs ``jax-gsplat-depth render``, which makes pictures or a video along a camera path."""

import dataclasses
import math
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

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
from jax_gsplat_depth.datasets import CaptureError
from jax_gsplat_depth.frames import RenderSettings

# Of an orbit where nothing else is asked for: pixels, degrees, a factor, a number and an axis.
_WIDTH, _HEIGHT = 640, 480
_FOV, _ELEVATION = 60.0, 20.0
_DISTANCE = 1.0
_N_FRAMES = 120
_UP = "z"

_LONGEST_UNASKED = 1280
"""Longest side in pixels of pictures whose size nobody asked for: photos may be much larger."""

_OF_ORBITS = ("up", "fov", "elevation", "distance")
"""Options that say nothing about cameras that are given."""

_ONE_OF = tyro.conf.create_mutex_group(required=False, title="cameras")

Side = Annotated[int, Range(low=1, high=frames.LARGEST_SIDE, whole=True)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Render:
    """Render pictures or a video of a file of Gaussians.

    Renders image, depth and weight along a camera path: through the views that fit has saved beside
    SPLATS in cameras.json, or around the scene where there are none (default); through the cameras
    of a capture, or those of a file. Writes a folder of pictures, or a video if PATH ends in .mp4;
    nothing appears there before all of it is done.

    Attributes:
        splats: File of Gaussians.
        out: Folder, or video *.mp4; an earlier result in it is replaced.
        orbit: Once around what the views beside SPLATS look at, or around the scene.
        data: Cameras of a capture as for fit; "builtin" is the built-in one.
        cameras: Cameras of a JSON file (see docs/tools.md).
        views: Of --data, or of the views beside SPLATS: a smooth path through them, or these views
            themselves (default: path).
        up: For an orbit: the axis of the world that is up, x, y, z, -x, -y or -z.
        width: Pixels.
        height: Pixels.
        fov: For an orbit: horizontal field of view.
        elevation: For an orbit: angle by which the cameras look down.
        distance: For an orbit: factor on the distance, which is that of the views beside SPLATS, or
            such that the scene is in view.
        frames: Frames of an orbit or a path.
        background: A name, #rrggbb, or a grey in 0..1 (default: that of the capture, else black).
        antialiased: Draw with the antialiasing compensation, for Gaussians trained with it.
        max_expansion: Largest ratio of the Gaussians of an .spz or SOG to its bytes, beyond 4 MiB.
        settings: What becomes of the frames.
    """

    splats: SplatsFile
    out: Annotated[Path, shown_as("PATH")] = Path("render_out")
    orbit: Annotated[
        bool, tyro.conf.arg(help_behavior_hint="(default without cameras.json)"), _ONE_OF
    ] = False
    data: Annotated[str | None, shown_as("DIR"), _ONE_OF] = None
    cameras: Annotated[Path | None, shown_as("FILE"), _ONE_OF] = None
    views: Literal["path", "all", "train", "heldout"] | None = None
    up: Annotated[
        Axis | None, shown_as("AXIS"), stated_default(f"that of the views, else {_UP}")
    ] = None
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
        stated_default(f"that of the views, else {_ELEVATION:g}"),
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
    beside = _beside(command)
    mode = _mode(command, beside)
    depth_range = command.settings.depth_range
    if depth_range is not None and not depth_range[0] < depth_range[1]:
        raise ValueError("--depth-range needs a second number that is larger than the first")
    frames.check_output(command.out)  # Before the work.
    background = None if command.background is None else frames.color_of(command.background)
    file = read_splats(command.splats, command.antialiased, command.max_expansion)
    scene = frames.LocalScene.of(file.gaussians, file.tags.origin)
    cameras, of_photos = _cameras(command, mode, scene, beside)
    if background is None:
        background = np.zeros(3) if of_photos is None else of_photos
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


def _beside(command: Render) -> frames.SceneCameras | None:
    """Return the views beside the Gaussians, where they are asked for or stand for what is not."""
    if command.data is not None or command.cameras is not None:
        return None
    try:
        return frames.load_scene_cameras(command.splats)
    except CaptureError as error:
        # The orbit needs none.
        if command.views is not None:
            raise
        say(f"warning: {error}; rendering as if it were not there")
        return None


def _mode(command: Render, beside: frames.SceneCameras | None) -> str:
    """Return ``orbit``, ``path``, ``views`` or ``file``; refuse options that it has no use for."""
    for_orbits = [name for name in _OF_ORBITS if getattr(command, name) is not None]
    if command.views is not None and (command.orbit or command.cameras is not None):
        raise ValueError("--views is for the views of a capture, not with --orbit or --cameras")
    if command.views is not None and command.data is None and beside is None:
        raise ValueError(
            f"--views needs --data: there is no {frames.SCENE_CAMERAS} beside {command.splats}"
        )
    if command.cameras is not None:
        mode = "file"
    elif command.data is not None or command.views is not None:
        mode = "path" if command.views in (None, "path") else "views"
    else:
        mode = "orbit" if command.orbit or for_orbits or beside is None else "path"
    if for_orbits and mode != "orbit":
        raise ValueError(f"--{for_orbits[0]} is for an orbit, not for given cameras")
    if command.frames is not None and mode in ("file", "views"):
        raise ValueError("--frames is for an orbit or a path, not for given cameras")
    return mode


def _cameras(
    command: Render, mode: str, scene: frames.LocalScene, beside: frames.SceneCameras | None
) -> tuple[frames.CameraPath, np.ndarray | None]:
    """Return the cameras, and the background of the photos that they come from."""
    width, height = command.width, command.height
    n_frames = command.frames or _N_FRAMES
    if mode == "orbit":
        return _orbit(command, scene, beside), None if beside is None else beside.background
    if beside is not None:
        return _resized(command, _views_beside(command, mode, beside)), beside.background
    if command.cameras is not None:
        size = None if width is None or height is None else (width, height)
        return frames.resized(frames.read_cameras(command.cameras, size), width, height), None
    assert command.data is not None  # As _mode says.
    capture = load_any_capture(command.data, None)
    indices = {"train": capture.train_indices, "heldout": capture.test_indices}
    all_indices = np.arange(len(capture.names))
    path = frames.views_of(capture, indices.get(command.views or "path", all_indices))
    if mode == "path":
        path = frames.smooth_path(path, n_frames)
    return frames.resized(path, width, height), capture.background


def _views_beside(command: Render, mode: str, beside: frames.SceneCameras) -> frames.CameraPath:
    if mode == "path":
        say(
            f"through the training views of {frames.SCENE_CAMERAS} beside {command.splats} "
            "(--orbit goes around what they look at)"
        )
        return frames.training_path(beside, command.frames or _N_FRAMES)
    chosen = np.arange(len(beside.names))
    if command.views != "all":
        chosen = np.flatnonzero(beside.held_out == (command.views == "heldout"))
    return frames.views_path(beside, chosen)


def _resized(command: Render, path: frames.CameraPath) -> frames.CameraPath:
    """Return a path with the size that was asked for, or a moderate one."""
    width, height = command.width, command.height
    longest = max(path.width, path.height)
    if width is None and height is None and longest > _LONGEST_UNASKED:
        width = max(1, round(path.width * _LONGEST_UNASKED / longest))
    return frames.resized(path, width, height)


def _orbit(
    command: Render, scene: frames.LocalScene, beside: frames.SceneCameras | None
) -> frames.CameraPath:
    up = None if command.up is None else AXES[command.up]
    elevation = None if command.elevation is None else math.radians(command.elevation)
    options: dict[str, Any] = {
        "n_frames": command.frames or _N_FRAMES,
        "width": command.width or _WIDTH,
        "height": command.height or _HEIGHT,
        "fov_x": math.radians(command.fov or _FOV),
        "distance": command.distance or _DISTANCE,
    }
    if beside is not None:
        path = frames.views_orbit(beside, up=up, elevation=elevation, **options)
        if path is not None:
            return path
        up = beside.up if up is None else up
    return frames.orbit(
        scene,
        up=AXES[_UP] if up is None else up,
        elevation=math.radians(_ELEVATION) if elevation is None else elevation,
        **options,
    )
