"""Defines the tags of a file of Gaussians: what it says about all of them together."""

import dataclasses
from typing import Literal

from jax_gsplat_depth._types import Gaussians

OnBad = Literal["error", "drop"]


@dataclasses.dataclass(frozen=True)
class Tags:
    """What a file says about all of its Gaussians together.

    Attributes:
        antialiased: Whether they were trained with the antialiasing compensation, and are to be
            drawn with ``Config(antialiased=True)``; None if the file does not say.
        origin: World position of the file's zero, float64: world = origin + means.
    """

    antialiased: bool | None = None
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)


@dataclasses.dataclass(frozen=True)
class SplatFile:
    """What a file of Gaussians holds.

    Attributes:
        gaussians: The Gaussians, those that were dropped left out.
        tags: What the file says about all of them.
        dropped: How many were dropped, by reason; empty if none was.
    """

    gaussians: Gaussians
    tags: Tags = Tags()
    dropped: dict[str, int] = dataclasses.field(default_factory=dict)
