"""Keeps the options that a fit was started with, so that ``--resume`` need not repeat them."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, TypeVar, get_origin

from jax_gsplat_depth._common.settings import hints_of, parts_of

Options = TypeVar("Options")


def saved_form(options: Any, left_out: frozenset[str]) -> dict[str, Any]:
    """Return options as JSON holds them, without some fields.

    Args:
        options: An instance of a dataclass of settings, nested or not.
        left_out: Names of fields.
    """
    fields = {k: v for k, v in dataclasses.asdict(options).items() if k not in left_out}
    return json.loads(json.dumps(fields, default=str))


def restored(options: type[Options], saved: Mapping[str, Any], **others: Any) -> Options:
    """Return the options that ``saved_form`` was given.

    Args:
        options: The dataclass.
        saved: What ``saved_form`` returned.
        **others: Values of the fields that it left out, unless they are the defaults.

    Raises:
        ValueError: Options of that name, or with such a value, do not exist in this version.
        TypeError: Likewise.
        KeyError: Likewise.
    """
    hints = hints_of(options)
    values = {name: _restored(hints[name], value) for name, value in saved.items()}
    return options(**values, **others)


def _restored(hint: Any, value: Any) -> Any:
    base, _, _ = parts_of(hint)
    if value is None:
        return None
    if dataclasses.is_dataclass(base) and isinstance(base, type):
        return restored(base, value)
    if get_origin(base) is tuple:
        return tuple(value)
    # The others are what JSON has, or, as a path, are made of it.
    return base(value) if isinstance(base, type) and not isinstance(value, base) else value


def difference(saved: Any, given: Any, left_out: frozenset[str]) -> tuple[str, Any, Any] | None:
    """Return the first option that differs, with both values, or None if none does.

    Args:
        saved: An instance of a dataclass of settings.
        given: Another one.
        left_out: Names of fields that may differ, which nested settings do not have.
    """
    for field in dataclasses.fields(saved):
        one, other = getattr(saved, field.name), getattr(given, field.name)
        if field.name in left_out or one == other:
            continue
        if not dataclasses.is_dataclass(one):
            return field.name, one, other
        found = difference(one, other, frozenset())
        if found is not None:
            return f"{field.name}.{found[0]}", *found[1:]
    return None
