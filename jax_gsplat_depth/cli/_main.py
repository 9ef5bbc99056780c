"""Runs ``jax-gsplat-depth``: chooses the command, reads its arguments, returns its exit code.

Exit codes: 0 done, 2 the arguments or the input cannot be used, 130 stopped by Ctrl-C, 141 cut off
because nobody reads the output.
"""

import functools
import importlib.metadata
import operator
import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import Annotated, Any, NamedTuple

import docstring_parser
import tyro
from tyro.constructors import MISSING_NONPROP

from jax_gsplat_depth import _start
from jax_gsplat_depth.cli import _convert, _eval, _fit, _info, _render, _view
from jax_gsplat_depth.cli._arguments import REGISTRY
from jax_gsplat_depth.cli._common import USAGE_ERROR
from jax_gsplat_depth.cli._hints import hint_for_arguments, hint_for_command
from jax_gsplat_depth.cli._pipe import quiet_if_closed
from jax_gsplat_depth.cli._refusals import Refusal, Unrecognized, invalid_choice, refusals

_PROGRAM = "jax-gsplat-depth"
_DESCRIPTION = (
    "3D Gaussian splatting with depth, for JAX. Each command has a --help of its own; --version "
    "prints the version."
)


class _Command(NamedTuple):
    """What can be chosen, and what is done with it.

    Attributes:
        settings: The dataclass of its options.
        run: Does it; returns the exit code.
        completed: Fills in what the options do not say; may read the command line again with the
            defaults that it calls its second argument with.
    """

    settings: type
    run: Callable[[Any], int]
    completed: Callable[[Any, Callable[[Any], Any]], Any] | None = None


_COMMANDS = {
    "fit": _Command(_fit.Fit, _fit.run, _fit.completed),
    "render": _Command(_render.Render, _render.run),
    "eval": _Command(_eval.Eval, _eval.run),
    "view": _Command(_view.View, _view.run),
    "convert": _Command(_convert.Convert, _convert.run),
    "info": _Command(_info.Info, _info.run),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: Command line without the program's name; None takes it from ``sys.argv``.

    Returns:
        The exit code.

    Raises:
        SystemExit: After ``--help`` (code 0).
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    return quiet_if_closed(lambda: _run(given))


def _run(arguments: list[str]) -> int:
    if arguments[:1] == ["--version"]:
        print(f"{_PROGRAM} {_version()}")
        return 0
    known = bool(arguments) and arguments[0] in _COMMANDS
    program = f"{_PROGRAM} {arguments[0]}" if known else _PROGRAM
    try:
        settings = parse(arguments)
        if (completed := _COMMANDS[arguments[0]].completed) is not None:
            settings = completed(settings, lambda defaults: parse(arguments, defaults))
    except Refusal as refusal:
        print(f"{program}: {refusal} (see {program} --help)", file=sys.stderr)
        return USAGE_ERROR
    _start.loaded()
    return _COMMANDS[arguments[0]].run(settings)


def parse(arguments: Sequence[str], defaults: Any = None) -> Any:
    """Return the settings of the command that a command line asks for.

    Args:
        arguments: Command line without the program's name.
        defaults: Settings that stand for what is not given; None for those of the command.

    Raises:
        Refusal: They cannot be used.
        SystemExit: After ``--help`` (code 0).
    """
    name, *rest = arguments or [""]
    command = _COMMANDS.get(name)
    if command is not None:
        about = docstring_parser.parse(command.settings.__doc__ or "").description or ""
        try:
            return _read(command.settings, f"{_PROGRAM} {name}", about, rest, defaults)
        except Unrecognized as error:
            raise Refusal(f"{error}{hint_for_arguments(error.tokens, command.settings)}") from error
    if name and not name.startswith("-"):
        choices = invalid_choice(name, ", ".join(_COMMANDS))
        raise Refusal(f"argument COMMAND: {choices}{hint_for_command(name, _COMMANDS)}")
    return _read(_any_command(), _PROGRAM, _DESCRIPTION, arguments)


def _read(
    settings: Any, program: str, description: str, arguments: Sequence[str], defaults: Any = None
) -> Any:
    with refusals():
        return tyro.cli(
            settings,
            default=MISSING_NONPROP if defaults is None else defaults,
            prog=program,
            description=_wrapped(description),
            args=arguments,
            config=(tyro.conf.DisallowNone,),
            registry=REGISTRY,
        )


def _wrapped(text: str) -> str:
    """Return lines that fit the terminal; tyro keeps the breaks before those that are indented."""
    width = min(shutil.get_terminal_size().columns, 100)
    text = " ".join(text.split())
    return textwrap.fill(text, width, initial_indent="  ", subsequent_indent="  ")


def _any_command() -> Any:
    """Return the choice between the commands, with the first line about each in its help."""
    choices = [
        Annotated[command.settings, tyro.conf.subcommand(name, description=_summary(command))]
        for name, command in _COMMANDS.items()
    ]
    return functools.reduce(operator.or_, choices)


def _summary(command: _Command) -> str:
    return (command.settings.__doc__ or "").partition("\n")[0]


def _version() -> str:
    try:
        return importlib.metadata.version("jax-gsplat-depth")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
