"""The commands ``convert`` and ``info`` of the command line, for files of Gaussians."""

import argparse
from pathlib import Path
from typing import Any

from jax_gsplat_depth import io
from jax_gsplat_depth.cli._common import guarded

_FORMATS = ".ply, .compressed.ply, .splat or .spz"


def add_commands(commands: Any) -> None:
    """Add the two commands.

    Args:
        commands: The subparsers of the command line.
    """
    parser = commands.add_parser(
        "convert",
        help="write a file of Gaussians in another format",
        description=(
            f"Read a file of Gaussians and write it as {_FORMATS}, as the suffixes say. Only .ply "
            "keeps every number; .splat keeps no view-dependent colour. Gaussians that cannot be "
            "drawn are left out."
        ),
    )
    parser.add_argument("input", type=Path, metavar="IN", help="file to read")
    parser.add_argument("output", type=Path, metavar="OUT", help="file to write or replace")
    parser.set_defaults(run=guarded(_convert))

    parser = commands.add_parser(
        "info",
        help="say what a file of Gaussians holds",
        description=(
            f"Print counts, SH degree, bounds and opacities of a file in any of the formats "
            f"{_FORMATS}, and how many of its Gaussians have NaN or infinity."
        ),
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="file to read")
    parser.set_defaults(run=guarded(_info))


def _convert(options: argparse.Namespace) -> str:
    io.check_suffix(options.output)  # Before the work.
    gaussians = io.load(options.input)
    size = options.input.stat().st_size
    try:
        io.save(options.output, gaussians)
    except OSError as error:  # Of the scratch file, a name that says nothing to the user.
        raise OSError(error.errno, error.strerror, str(options.output)) from error
    return (
        f"{len(gaussians.means)} Gaussians from {options.input} ({size} bytes) to "
        f"{options.output} ({options.output.stat().st_size} bytes)"
    )


def _info(options: argparse.Namespace) -> None:
    print(io.describe(options.file))
