"""Runs ``jax-gsplat-depth view``, which shows a file of Gaussians in the browser."""

import dataclasses
from typing import Annotated

from jax_gsplat_depth import frames, io
from jax_gsplat_depth._common.local_scene import LocalScene
from jax_gsplat_depth._common.settings import Range
from jax_gsplat_depth._types import Config
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class View:
    """Look at a file of Gaussians in the browser.

    Serves a page that shows image, depth and weight from any side; this machine renders them. It
    starts at a photo's camera: of --data, or of the cameras.json that fit writes beside the file.
    Ctrl-C ends it.

    Attributes:
        splats: File of Gaussians.
        data: Capture as for fit, whose cameras to list; "builtin" is the built-in one (default:
            cameras.json beside SPLATS, if there is one).
        port: Port to listen at, 0 for any that is free.
        host: Interface to listen at, and its name in the browser; 0.0.0.0 (all interfaces) or the
            address of one lets other machines in.
        up: Axis of the world that is up: x, y, z, -x, -y or -z.
        antialiased: Draw with the antialiasing compensation, for Gaussians trained with it.
        max_expansion: Largest ratio of the Gaussians of an .spz or SOG to its bytes, beyond 4 MiB.
    """

    splats: SplatsFile
    data: Annotated[str | None, shown_as("DIR")] = None
    port: Annotated[int, Range(low=0, high=65535, whole=True)] = 8080
    host: Annotated[str, shown_as("NAME")] = "localhost"
    up: Annotated[
        Axis | None, shown_as("AXIS"), stated_default("as the cameras suggest, else z")
    ] = None
    antialiased: Antialiased = None
    max_expansion: MaxExpansion = io.MAX_EXPANSION


@guarded(out_of_memory="there is not enough memory: try a file with fewer Gaussians")
def run(command: View) -> str:
    """Serve the page until Ctrl-C; returns what to tell."""
    from jax_gsplat_depth.viewer import Viewer, require_safe_viser

    require_safe_viser()  # Before the work.
    cameras = _cameras(command)  # The errors of small files before the work on a large one.
    file = read_splats(command.splats, command.antialiased, command.max_expansion)
    with Viewer(
        LocalScene.of(file.gaussians, file.tags.origin),
        up=None if command.up is None else AXES[command.up],
        cameras=cameras,
        say=say,
        host=command.host,
        port=command.port,
        config=Config(antialiased=bool(file.tags.antialiased)),
    ) as viewer:
        try:
            say(f"{len(file.gaussians.means)} Gaussians at {viewer.url} (Ctrl-C ends)")
            if cameras is None:
                say("without cameras: --data DIR starts at those of a capture")
            viewer.wait()
        except KeyboardInterrupt:
            # The usual end, and no failure.
            pass
    return "stopped"


def _cameras(command: View) -> frames.SceneCameras | None:
    if command.data is not None:
        return frames.SceneCameras.of_capture(load_any_capture(command.data, None))
    from jax_gsplat_depth.viewer import cameras_beside

    return cameras_beside(command.splats, say)
