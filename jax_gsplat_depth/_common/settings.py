"""Checks settings against their annotations, where each range and each choice is written once.

The command line reads the same annotations, so what a dataclass refuses the command refuses too.
"""

import dataclasses
import functools
import math
import numbers
import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints


@dataclasses.dataclass(frozen=True, kw_only=True)
class Range:
    """The finite numbers within limits: ``Annotated[float, Range(low=0)]``.

    Attributes:
        low: Smallest number.
        high: Largest number.
        whole: Whether only whole numbers count.
        above: Whether ``low`` itself is outside.
        below: Whether ``high`` itself is outside.
    """

    low: float = -math.inf
    high: float = math.inf
    whole: bool = False
    above: bool = False
    below: bool = False

    def __contains__(self, value: Any) -> bool:
        """Whether a number is within the limits."""
        over = self.low < value if self.above else self.low <= value
        under = value < self.high if self.below else value <= self.high
        fits = isinstance(value, numbers.Integral) or not self.whole
        return fits and over and under and math.isfinite(value)

    def __str__(self) -> str:
        """Name the numbers, as in "a whole number between 0 and 4"."""
        low, high = _written(self.low), _written(self.high)
        if not (self.above or self.below or math.inf in (-self.low, self.high)):
            limits = f"between {low} and {high}"
        else:
            limits = " and ".join(
                f"{word} {end}"
                for word, end, limited in (
                    ("above" if self.above else "at least", low, self.low > -math.inf),
                    ("below" if self.below else "at most", high, self.high < math.inf),
                )
                if limited
            )
        if not self.whole and limits.startswith("at"):
            limits = f"of {limits}"
        return f"a {'whole ' if self.whole else ''}number {limits}"


Count = Annotated[int, Range(low=1, whole=True)]
Fraction = Annotated[float, Range(low=0, high=1)]
Amount = Annotated[float, Range(low=0)]
Positive = Annotated[float, Range(low=0, above=True)]
Between01 = Annotated[float, Range(low=0, high=1, above=True, below=True)]


def check_settings(settings: Any, error: type[ValueError], prefix: str = "") -> None:
    """Refuse a value that is not among those that its annotation names.

    Args:
        settings: An instance of a dataclass.
        error: What is raised, with one sentence.
        prefix: Written before the name of the setting.
    """
    for name, hint in hints_of(type(settings)).items():
        for entry, entry_hint in _entries(getattr(settings, name), hint):
            base, metadata, optional = parts_of(entry_hint)
            if entry is None and optional:
                continue
            if get_origin(base) is Literal and entry not in get_args(base):
                choices = ", ".join(get_args(base))
                raise error(f"{prefix}{name} must be one of {choices}, got {entry!r}")
            limits = range_of(metadata)
            if limits is not None and entry not in limits:
                raise error(f"{prefix}{name} must be {limits}, got {entry}")


def _entries(value: Any, hint: Any) -> list[tuple[Any, Any]]:
    """Return a value with its annotation, or the entries of a tuple with theirs."""
    base, _, _ = parts_of(hint)
    hints = get_args(base)
    if get_origin(base) is not tuple or not isinstance(value, tuple):
        return [(value, hint)]
    if hints[-1] is Ellipsis:
        hints = hints[:1] * len(value)
    return list(zip(value, hints, strict=True))


@functools.cache
def hints_of(settings: type) -> dict[str, Any]:
    """Return the annotations of the fields of a dataclass, metadata included."""
    hints = get_type_hints(settings, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(settings)}


def parts_of(hint: Any) -> tuple[Any, tuple[Any, ...], bool]:
    """Return the bare type of an annotation, its metadata, and whether None is allowed as well."""
    metadata: tuple[Any, ...] = ()
    optional = False
    while True:
        if get_origin(hint) is Annotated:
            hint, *more = get_args(hint)
            metadata += tuple(more)
        elif get_origin(hint) in (Union, types.UnionType) and type(None) in get_args(hint):
            (hint,) = (part for part in get_args(hint) if part is not type(None))
            optional = True
        else:
            return hint, metadata, optional


def _written(number: float) -> str:
    return str(int(number)) if float(number).is_integer() else f"{number:g}"


def range_of(metadata: tuple[Any, ...]) -> Range | None:
    """Return the range among the metadata of an annotation."""
    return next((entry for entry in metadata if isinstance(entry, Range)), None)
