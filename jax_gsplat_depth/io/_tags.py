"""Defines the tags of a file of Gaussians: what it says about all of them together."""

import dataclasses
import math
import re
import warnings
from pathlib import Path
from typing import Literal

import numpy as np

from jax_gsplat_depth._common.one_line import one_line
from jax_gsplat_depth._types import Gaussians

OnBad = Literal["error", "drop"]

MOST_BITS = 23
"""Most fractional bits of a position in ``.spz``, which has 24 bits and a sign among them."""


class FileWarning(UserWarning):
    """Something in a file of Gaussians is left out or changed; the message names the file."""

    def __str__(self) -> str:
        """Return the message on one line, whatever the names in a file are made of."""
        return one_line(super().__str__())


@dataclasses.dataclass(frozen=True)
class Tags:
    """What a file says about all of its Gaussians together.

    Attributes:
        antialiased: Whether they were trained with the antialiasing compensation, and are to be
            drawn with ``Config(antialiased=True)``; None if the file does not say.
        origin: World position of the file's zero, float64: world = origin + means.
        fractional_bits: Bits of a position after the binary point in ``.spz``; None elsewhere.
        comments: The other comments in the header of a PLY, in their order.
    """

    antialiased: bool | None = None
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    fractional_bits: int | None = None
    comments: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Store plain Python values, which are written exactly.

        Raises:
            ValueError: A value is not what a file can say.
        """
        try:
            origin = () if isinstance(self.origin, str) else tuple(map(float, self.origin))
        except (TypeError, ValueError):
            origin = ()
        if len(origin) != 3 or not all(map(math.isfinite, origin)):
            raise ValueError(f"origin is {self.origin!r}: expected three finite numbers")
        object.__setattr__(self, "origin", origin)
        if self.antialiased is not None:
            if not isinstance(self.antialiased, (bool, np.bool_)):
                raise ValueError(f"antialiased is {self.antialiased!r}: expected a bool or None")
            object.__setattr__(self, "antialiased", bool(self.antialiased))
        bits = self.fractional_bits
        if bits is not None:
            whole = isinstance(bits, (int, np.integer)) and not isinstance(bits, bool)
            if not whole or not 0 <= bits <= MOST_BITS:
                raise ValueError(
                    f"fractional_bits is {bits!r}: expected a whole number from 0 to {MOST_BITS}"
                )
            object.__setattr__(self, "fractional_bits", int(bits))
        comments = self.comments
        if not isinstance(comments, (tuple, list)) or not all(isinstance(x, str) for x in comments):
            raise ValueError(f"comments is {str(comments)[:80]!r}: expected a tuple of strings")
        object.__setattr__(self, "comments", tuple(comments))
        if any(not comment.isascii() or "\n" in comment for comment in comments):
            raise ValueError("comments has a line break or a letter that is not ASCII")


@dataclasses.dataclass(frozen=True, eq=False)
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


def without_tags(path: Path, file: SplatFile) -> Gaussians:
    """Return the Gaussians alone, and warn of a tag without which they are drawn differently."""
    lost = []
    if any(file.tags.origin):
        lost.append(f"origin ({' '.join(map(repr, file.tags.origin))})")
    if file.tags.antialiased:
        lost.append("antialiased")
    if lost:
        warnings.warn(
            f"{path} has the tag{'s' * (len(lost) > 1)} {' and '.join(lost)}, which only io.read "
            "returns",
            FileWarning,
            stacklevel=3,
        )
    return file.gaussians


@dataclasses.dataclass(frozen=True)
class Saved:
    """What became of the Gaussians that were to be written.

    Attributes:
        written: How many the file holds.
        dropped: How many were left out because they cannot be drawn, by reason.
        sh_degree: Degree of the spherical harmonics in the file, which a format may limit.
    """

    written: int
    dropped: dict[str, int]
    sh_degree: int


# Comments in the header of a PLY. SplatRenderMode is what Brush, SplatTransform and gsplat write,
# the second form is that of Postshot (https://developer.playcanvas.com/user-manual/
# gaussian-splatting/building/anti-aliasing/), and the spelling of some scripts.
_MODES = (
    re.compile(r"SplatRenderMode:\s*(mip|default)", re.IGNORECASE),
    re.compile(r"(?:postshot\.)?anti_?alias(?:ed|ing)\s*[=: ]\s*(1|0|true|false)", re.IGNORECASE),
)
_YES = ("mip", "1", "true")
_LONGEST = 200
_NUMBER = r"\s+[-+]?(?:[\d.]\S*|inf|nan)"
_ORIGIN = re.compile(rf"origin((?:{_NUMBER}){{3}})", re.IGNORECASE)


def comments_of(tags: Tags) -> list[str]:
    """Return the comments of a PLY header that hold the tags; they are read back exactly."""
    # One that looks like a tag would contradict it.
    comments = [comment for comment in tags.comments if not _is_tag(comment)]
    if tags.antialiased is not None:
        comments.append(f"SplatRenderMode: {'mip' if tags.antialiased else 'default'}")
    if any(tags.origin):
        comments.append("origin " + " ".join(map(repr, tags.origin)))
    return comments


def tags_of_comments(path: Path, comments: list[str]) -> Tags:
    """Return the tags in the comments of a PLY header.

    Raises:
        ValueError: Two comments contradict each other, or one is damaged; the message names it.
    """
    modes, origins, others = set(), set(), []
    for comment in map(str.strip, comments):
        if (mode := _mode(comment)) is not None:
            modes.add(mode)
        elif match := _ORIGIN.fullmatch(comment):
            origins.add(_origin(path, match[1]))
        else:
            others.append(comment)
    for name, values in (("antialiased", modes), ("origin", origins)):
        if len(values) > 1:
            raise ValueError(f"{path} has comments that contradict each other on the tag {name}")
    origin = origins.pop() if origins else (0.0, 0.0, 0.0)
    return Tags(modes.pop() if modes else None, origin, comments=tuple(others))


def _is_tag(comment: str) -> bool:
    comment = comment.strip()
    return _mode(comment) is not None or _ORIGIN.fullmatch(comment) is not None


def _mode(comment: str) -> bool | None:
    """Return what a comment says about antialiasing, None if it is about something else."""
    if len(comment) > _LONGEST:  # The patterns take long on very many spaces.
        return None
    for pattern in _MODES:
        if match := pattern.fullmatch(comment):
            return match[1].lower() in _YES
    return None


def _origin(path: Path, text: str) -> tuple[float, float, float]:
    try:
        x, y, z = map(float, text.split())
        return Tags(origin=(x, y, z)).origin
    except ValueError:
        raise ValueError(
            f"{path} has the comment {'origin' + text[:60]!r}: expected three finite numbers"
        ) from None
