"""Writes the tags of a file into formats that have no place for them, or says that it cannot."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np

from jax_gsplat_depth.io._record import Record
from jax_gsplat_depth.io._tags import Tags

_FINE = 0.02
"""Step of a position, relative to the median scale, that changes no picture."""


def in_world(path: Path, record: Record, tags: Tags, step: Callable[[np.ndarray], float]) -> Record:
    """Return the Gaussians with the origin added to their means.

    Args:
        path: File that will hold them.
        record: At least one Gaussian.
        tags: The origin is read.
        step: From ``(N, 3)`` means to the step in which the format would hold them.

    Raises:
        ValueError: The positions would become coarse.
    """
    if not any(tags.origin):
        return record
    means = record.means + np.array(tags.origin)
    coarse = step(means)
    if is_coarse(record, coarse) and coarse > step(record.means):
        origin = " ".join(map(repr, tags.origin))
        raise ValueError(
            f"{path} has no place for the tag origin ({origin}), and so far from zero its "
            f"positions would have steps of {coarse:.2g}: choose .ply, or write it without the tag"
        )
    return dataclasses.replace(record, means=means)


def is_coarse(record: Record, step: float) -> bool:
    """Return whether positions in such steps can change the picture."""
    return step > _FINE * float(np.median(record.scales))


def refuse_antialiased(path: Path, tags: Tags) -> None:
    """Raise a ValueError if the Gaussians are tagged as antialiased."""
    if tags.antialiased:
        raise ValueError(
            f"{path} has no place for the tag antialiased, without which its Gaussians would be "
            "drawn too bright: choose .ply, .spz or .sog, or write it without the tag"
        )
