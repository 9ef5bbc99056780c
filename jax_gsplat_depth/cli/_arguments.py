"""Turns the fields of settings into command-line arguments: name, type, range, default and help.

tyro reads types, and learns here the ranges of ``_common.settings`` and how a long list of settings
falls into titled groups. A setting is described once, where it is defined.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, get_args, get_origin

import docstring_parser
import tyro
from tyro.constructors import (
    MISSING_NONPROP,
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    StructConstructorSpec,
    StructFieldSpec,
    StructTypeInfo,
)

from jax_gsplat_depth._common.settings import Range, hints_of, parts_of, range_of

REGISTRY = ConstructorRegistry()
"""What tyro learns here."""

_OURS = "jax_gsplat_depth."


@dataclasses.dataclass(frozen=True)
class Flat:
    """Says that the fields of nested settings are arguments of the command itself.

    Where the command has a field of the same name, it stands for the one of the settings.

    Attributes:
        groups: Names of fields by the title of their group; the others join the common options.
        shown_as: What the help calls the value of a field, by the name of the field.
    """

    groups: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    shown_as: Mapping[str, str] = dataclasses.field(default_factory=dict)


# Commands and settings


@REGISTRY.struct_rule
def _settings(info: StructTypeInfo) -> StructConstructorSpec | None:
    """Return the arguments of a command, of a group of its settings, or of nested settings."""
    if not isinstance(info.type, type) or not info.type.__module__.startswith(_OURS):
        return None
    if issubclass(info.type, _Group):
        return StructConstructorSpec(info.type, info.type.arguments)
    if not dataclasses.is_dataclass(info.type):
        return None
    own = _arguments_of(info.type, info.default)
    flat: dict[str, type] = {}
    options, groups, nested = [], [], []
    for name, argument in own.items():
        layout = _layout_of(info.type, name)
        found = {name: argument}
        if layout is not None:
            flat[name] = type(argument.default)
            found = _arguments_of(flat[name], argument.default)
            found = {key: value for key, value in found.items() if key not in own}
            for key, metavar in layout.shown_as.items():
                hint: Any = Annotated[found[key].type, tyro.conf.arg(metavar=metavar)]
                found[key] = dataclasses.replace(found[key], type=hint)
            for title, names in layout.groups.items():
                groups.append(_group_of(title, [found.pop(key) for key in names]))
        for value in found.values():
            (nested if dataclasses.is_dataclass(value.default) else options).append(value)
    return StructConstructorSpec(_maker_of(info.type, flat), (*options, *groups, *nested))


def flags_of(settings: type) -> list[str]:
    """Return the options of a command as they are typed, those of nested settings included."""
    flags = []
    for field in dataclasses.fields(settings):
        flag = field.name.replace("_", "-")
        if tyro.conf.Positional in parts_of(hints_of(settings)[field.name])[1]:
            continue
        if not dataclasses.is_dataclass(field.default):
            flags.append(f"--{flag}")
            continue
        inner = flags_of(type(field.default))
        is_flat = _layout_of(settings, field.name) is not None
        flags += inner if is_flat else [f"--{flag}.{name[2:]}" for name in inner]
    return flags


class _Group:
    """The values of settings that have a title of their own in the help, but no prefix."""

    arguments: tuple[StructFieldSpec, ...] = ()

    def __init__(self, **values: Any) -> None:
        """Keep the values by name."""
        self.values = values


def _group_of(title: str, arguments: list[StructFieldSpec]) -> StructFieldSpec:
    group = type("_Group", (_Group,), {"arguments": tuple(arguments)})
    hint: Any = tyro.conf.OmitArgPrefixes[Annotated[group, tyro.conf.arg(name=title)]]
    return StructFieldSpec(name=title, type=hint, default=MISSING_NONPROP, helptext="")


def _layout_of(settings: type, name: str) -> Flat | None:
    _, metadata, _ = parts_of(hints_of(settings)[name])
    return next((entry for entry in metadata if isinstance(entry, Flat)), None)


def _maker_of(settings: type, flat: Mapping[str, type]) -> Callable[..., Any]:
    """Return what makes the settings from the values of fields, of groups and of flat settings."""
    own = set(hints_of(settings))

    def make(**values: Any) -> Any:
        for name, value in list(values.items()):
            if isinstance(value, _Group):
                values |= values.pop(name).values
        for name, inner in flat.items():
            values[name] = inner(**{key: values.pop(key) for key in set(hints_of(inner)) - own})
        return settings(**values)

    # The help of nested settings begins with it.
    make.__doc__ = settings.__doc__
    return make


# Fields


def _arguments_of(settings: type, defaults: Any) -> dict[str, StructFieldSpec]:
    """Return an argument for each field, by name.

    Args:
        settings: The dataclass.
        defaults: An instance whose values stand for what is not given; anything else for those of
            the class.
    """
    docs = {
        entry.arg_name: entry.description or ""
        for entry in docstring_parser.parse(settings.__doc__ or "").params
    }
    hints = hints_of(settings)
    arguments = {}
    for field in dataclasses.fields(settings):
        text = _spelled(docs.get(field.name, ""), hints)
        default = MISSING_NONPROP if field.default is dataclasses.MISSING else field.default
        if isinstance(defaults, settings):
            default = getattr(defaults, field.name)
        # Of None, the description says what it stands for.
        described, _, stated = text.partition(" (default: ") if default is None else (text, "", "")
        hint = f"(default: {stated.rstrip('.')}" if stated else ""
        annotation = _annotation(hints[field.name], default, hint)
        text = f"{described}." if stated else described
        arguments[field.name] = StructFieldSpec(field.name, annotation, default, helptext=text)
    return arguments


def _spelled(text: str, names: Mapping[str, Any]) -> str:
    """Return the description of a setting with the flags of others in place of their names."""

    def flag(match: re.Match[str]) -> str:
        return f"--{match[1].replace('_', '-')}" if match[1] in names else match[1]

    return re.sub(r"``(.*?)``", flag, " ".join(text.split()))


def _annotation(hint: Any, default: Any, stated: str) -> Any:
    """Return the annotation of a field in the words of tyro."""
    base, metadata, optional = parts_of(hint)
    extra: list[Any] = []
    if (spec := _reader(base, metadata)) is not None:
        extra.append(spec)
    if default is None:
        extra.append(tyro.conf.arg(help_behavior_hint=stated))
    if base is bool and not optional:
        extra.append(tyro.conf.arg(help_behavior_hint=f"(default: {'on' if default else 'off'})"))
        if not default:
            extra.append(tyro.conf.FlagCreatePairsOff)
    base = base | None if optional else base
    # Its own metadata last: they win over what the type suggests.
    return Annotated[(base, *extra, *metadata)] if extra or metadata else base


# Values


def _reader(base: Any, metadata: tuple[Any, ...]) -> PrimitiveConstructorSpec[Any] | None:
    """Return how the value of an argument is read, or None where tyro knows it."""
    parts = get_args(base) if get_origin(base) is tuple else ()
    if len(parts) == 2 and parts[1] is Ellipsis and get_origin(parts[0]) is Literal:
        return _names(get_args(parts[0]))
    limits = [range_of(parts_of(part)[1]) for part in parts] or [range_of(metadata)]
    numbers = [entry for entry in limits if entry is not None]
    if len(numbers) < len(limits):
        return None
    return PrimitiveConstructorSpec(
        nargs=len(numbers),
        metavar=" ".join("N" if entry.whole else "X" for entry in numbers),
        instance_from_str=lambda texts: _numbers(texts, numbers, as_tuple=bool(parts)),
        is_instance=lambda value: isinstance(value, tuple if parts else (int, float)),
        str_from_instance=lambda value: _written(value if parts else (value,)),
    )


def _numbers(texts: list[str], limits: list[Range], *, as_tuple: bool) -> Any:
    values = tuple(_number(text, entry) for text, entry in zip(texts, limits, strict=True))
    return values if as_tuple else values[0]


def _written(values: tuple[float, ...] | None) -> list[str]:
    return [] if values in (None, (None,)) else [f"{value:.10g}" for value in values]


def _number(text: str, limits: Range) -> float:
    try:
        value = int(text) if limits.whole else float(text)
    except ValueError:
        value = None
    if value is None or value not in limits:
        raise ValueError(f"expected {limits}, got {text!r}")
    return value


def _names(known: tuple[str, ...]) -> PrimitiveConstructorSpec[tuple[str, ...]]:
    """Return how a list of different names is read, with commas between them."""

    def read(texts: list[str]) -> tuple[str, ...]:
        names = tuple(texts[0].split(","))
        if not set(names) <= set(known) or len(set(names)) < len(names):
            raise ValueError(f"expected some of {','.join(known)}, got {texts[0]!r}")
        return names

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="LIST",
        instance_from_str=read,
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda value: [",".join(value)],
    )
