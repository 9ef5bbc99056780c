"""Runs ``jax-gsplat-depth info``, which prints what a file of Gaussians holds."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from jax_gsplat_depth import io
from jax_gsplat_depth.cli._common import MaxExpansion, guarded, shown_as


@dataclasses.dataclass(frozen=True, kw_only=True)
class Info:
    """Print what a file of Gaussians holds.

    These are counts, SH degree, tags, bounds and opacities of a .ply, .compressed.ply, .splat,
    .spz, .sog or .ksplat file or of a SOG folder, and how many of its Gaussians cannot be drawn for
    which reason.

    Attributes:
        file: File to read.
        max_expansion: Largest ratio of the Gaussians of an .spz or SOG to its bytes, beyond 4 MiB.
    """

    file: Annotated[tyro.conf.Positional[Path], shown_as("FILE")]
    max_expansion: MaxExpansion = io.MAX_EXPANSION


@guarded(out_of_memory="there is not enough memory: try a file with fewer Gaussians")
def run(command: Info) -> None:
    """Print the table."""
    text = io.describe(command.file, max_expansion=command.max_expansion)
    print(text)
