"""The command ``view`` of the command line: a viewer in the browser."""

import argparse
from pathlib import Path
from typing import Any

from jax_gsplat_depth import io
from jax_gsplat_depth._common.extras import require
from jax_gsplat_depth.cli._common import AXES, guarded, say, whole_number


def add_commands(commands: Any) -> None:
    """Add the command.

    Args:
        commands: The subparsers of the command line.
    """
    parser = commands.add_parser(
        "view",
        help="look at a file of Gaussians in the browser",
        description=(
            "Serve a page that shows image, depth and weight from any side; this machine renders "
            "them. Ctrl-C ends it."
        ),
    )
    parser.add_argument("splats", type=Path, metavar="SPLATS", help="file of Gaussians")
    parser.add_argument(
        "--port",
        type=whole_number(0, 65535),
        metavar="N",
        default=8080,
        help="port to listen at, 0 for any that is free (default: %(default)s)",
    )
    parser.add_argument(
        "--host",
        metavar="NAME",
        default="localhost",
        help="interface to listen at; 0.0.0.0 lets other machines in (default: %(default)s)",
    )
    parser.add_argument(
        "--up",
        choices=list(AXES),
        metavar="AXIS",
        default="z",
        help="axis of the world that is up: x, y or z, or as in --up=-y (default: %(default)s)",
    )

    parser.set_defaults(run=guarded(_view))


def _view(options: argparse.Namespace) -> str:
    require("viser", "viewer")  # Before the work.
    from jax_gsplat_depth.viewer._server import Viewer

    gaussians = io.load(options.splats)
    up = AXES[options.up]
    with Viewer(gaussians, up=up, say=say, host=options.host, port=options.port) as viewer:
        try:
            say(f"{len(gaussians.means)} Gaussians at {viewer.url} (Ctrl-C ends)")
            viewer.wait()
        except KeyboardInterrupt:
            # The usual end, and no failure.
            pass
    return "stopped"
