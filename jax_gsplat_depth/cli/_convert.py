"""Runs ``jax-gsplat-depth convert``, which writes a file of Gaussians in another format."""

import dataclasses
import math
from pathlib import Path
from typing import Annotated

import tyro

from jax_gsplat_depth import io
from jax_gsplat_depth.cli._common import (
    MaxExpansion,
    guarded,
    read_splats,
    say,
    shown_as,
    stated_default,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Convert:
    """Write a file of Gaussians in another format.

    Reads and writes .ply, .compressed.ply, .splat, .spz and .sog, as the suffixes say, and SOG
    folders by their meta.json; reads .ksplat. Only .ply keeps every number; .splat keeps no
    view-dependent colour. Gaussians that cannot be drawn are left out. What a file says about all
    of them (antialiased, origin) is kept.

    Attributes:
        input: File to read.
        output: File to write or replace.
        antialiased: Say in the new file that its Gaussians were trained with the antialiasing
            compensation, or that they were not.
        local: Leave out where the zero of IN lies in the world: its positions stay as they are.
        max_expansion: Largest ratio of the Gaussians of an .spz or SOG to its bytes, beyond 4 MiB.
    """

    input: Annotated[tyro.conf.Positional[Path], shown_as("IN")]
    output: Annotated[tyro.conf.Positional[Path], shown_as("OUT")]
    antialiased: Annotated[bool | None, stated_default("as IN says")] = None
    local: bool = False
    max_expansion: MaxExpansion = io.MAX_EXPANSION


@guarded(out_of_memory="there is not enough memory: try a file with fewer Gaussians")
def run(command: Convert) -> str:
    """Convert the file; returns what to tell."""
    io.check_suffix(command.output)  # Before the work.
    file = read_splats(command.input, command.antialiased, command.max_expansion)
    tags = dataclasses.replace(file.tags, origin=(0, 0, 0)) if command.local else file.tags
    size = io.size_on_disk(command.input)
    saved = io.save(command.output, file.gaussians, tags)
    assert file.gaussians.sh is not None  # Every file has it.
    degree = math.isqrt(file.gaussians.sh.shape[1]) - 1
    if saved.sh_degree < degree:
        say(f"warning: {command.output} holds SH of degree {saved.sh_degree}, not {degree}")
    return (
        f"{saved.written} Gaussians from {command.input} ({size} bytes) to "
        f"{command.output} ({io.size_on_disk(command.output)} bytes)"
    )
