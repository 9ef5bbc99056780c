"""Runs ``jax-gsplat-depth view``, which shows a file of Gaussians in the browser."""

import dataclasses
from typing import Annotated

from jax_gsplat_depth import io
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
    read_splats,
    say,
    shown_as,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class View:
    """Look at a file of Gaussians in the browser.

    Serves a page that shows image, depth and weight from any side; this machine renders them.
    Ctrl-C ends it.

    Attributes:
        splats: File of Gaussians.
        port: Port to listen at, 0 for any that is free.
        host: Interface to listen at, and its name in the browser; 0.0.0.0 (all interfaces) or the
            address of one lets other machines in.
        up: Axis of the world that is up: x, y, z, -x, -y or -z.
        antialiased: Draw with the antialiasing compensation, for Gaussians trained with it.
        max_expansion: Largest ratio of the Gaussians of an .spz or SOG to its bytes, beyond 4 MiB.
    """

    splats: SplatsFile
    port: Annotated[int, Range(low=0, high=65535, whole=True)] = 8080
    host: Annotated[str, shown_as("NAME")] = "localhost"
    up: Annotated[Axis, shown_as("AXIS")] = "z"
    antialiased: Antialiased = None
    max_expansion: MaxExpansion = io.MAX_EXPANSION


@guarded(out_of_memory="there is not enough memory: try a file with fewer Gaussians")
def run(command: View) -> str:
    """Serve the page until Ctrl-C; returns what to tell."""
    from jax_gsplat_depth.viewer import Viewer, require_safe_viser

    require_safe_viser()  # Before the work.
    file = read_splats(command.splats, command.antialiased, command.max_expansion)
    with Viewer(
        LocalScene.of(file.gaussians, file.tags.origin),
        up=AXES[command.up],
        say=say,
        host=command.host,
        port=command.port,
        config=Config(antialiased=bool(file.tags.antialiased)),
    ) as viewer:
        try:
            say(f"{len(file.gaussians.means)} Gaussians at {viewer.url} (Ctrl-C ends)")
            viewer.wait()
        except KeyboardInterrupt:
            # The usual end, and no failure.
            pass
    return "stopped"
