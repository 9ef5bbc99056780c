"""Runs ``jax-gsplat-depth convert``, which writes a file of Gaussians in another format."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from jax_gsplat_depth import io
from jax_gsplat_depth.cli._common import guarded, shown_as


@dataclasses.dataclass(frozen=True, kw_only=True)
class Convert:
    """Write a file of Gaussians in another format.

    Reads and writes .ply, .compressed.ply, .splat and .spz, as the suffixes say. Only .ply keeps
    every number; .splat keeps no view-dependent colour. Gaussians that cannot be drawn are left
    out.

    Attributes:
        input: File to read.
        output: File to write or replace.
    """

    input: Annotated[tyro.conf.Positional[Path], shown_as("IN")]
    output: Annotated[tyro.conf.Positional[Path], shown_as("OUT")]


@guarded(out_of_memory="there is not enough memory: try a file with fewer Gaussians")
def run(command: Convert) -> str:
    """Convert the file; returns what to tell."""
    io.check_suffix(command.output)  # Before the work.
    gaussians = io.load(command.input)
    size = command.input.stat().st_size
    try:
        io.save(command.output, gaussians)
    except OSError as error:  # Of the scratch file, a name that says nothing to the user.
        raise OSError(error.errno, error.strerror, str(command.output)) from error
    return (
        f"{len(gaussians.means)} Gaussians from {command.input} ({size} bytes) to "
        f"{command.output} ({command.output.stat().st_size} bytes)"
    )
