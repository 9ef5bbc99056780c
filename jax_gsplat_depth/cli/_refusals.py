"""Says in one sentence why the arguments of a command line cannot be used.

tyro draws a box instead, and tells what is wrong through a hook that is not yet part of its public
interface: hence the upper bound of its version in ``pyproject.toml``, and no other use of it.
"""

from tyro._arguments import ArgumentDefinition
from tyro._errors import (
    BadValue,
    InstantiationFailure,
    InvalidChoice,
    MissingArgs,
    MissingSubcommand,
    MutexConflict,
    ParseErrorEvent,
    UnrecognizedArgs,
    on_parse_error,
)

__all__ = ["Refusal", "on_parse_error", "refuse"]


class Refusal(Exception):
    """The arguments cannot be used; the message is one sentence."""


def refuse(event: ParseErrorEvent) -> None:
    """Raise the sentence for what tyro does not accept.

    Raises:
        Refusal: Always.
    """
    raise Refusal(_sentence(event))


def _sentence(event: ParseErrorEvent) -> str:
    if isinstance(event, InvalidChoice):
        choices = ", ".join(event.choices)
        return f"argument {_name(event.argument)}: {invalid_choice(event.value, choices)}"
    if isinstance(event, InstantiationFailure):
        if event.argument is None:
            return event.message
        return f"argument {_name(event.argument)}: {event.message}"
    if isinstance(event, BadValue):
        count = event.argument.lowered.nargs
        values = "one argument" if count == 1 else f"{count} arguments"
        return f"argument {_name(event.argument)}: expected {values}"
    if isinstance(event, MutexConflict):
        return f"argument {event.second_token}: not allowed with argument {event.first_token}"
    if isinstance(event, MissingArgs):
        names = ", ".join(_name(missing.arg) for missing in event.missing_arguments)
        return f"the following arguments are required: {names}"
    if isinstance(event, MissingSubcommand):
        return "the following arguments are required: COMMAND"
    if isinstance(event, UnrecognizedArgs):
        return f"unrecognized arguments: {' '.join(event.tokens)}"
    return "the arguments cannot be used"


def invalid_choice(value: str, choices: str) -> str:
    """Return the words for a value that is not among some."""
    return f"invalid choice: {value!r} (choose from {choices})"


def _name(argument: ArgumentDefinition) -> str:
    if argument.is_positional():
        return str(argument.lowered.metavar)
    return "/".join(argument.lowered.name_or_flags)
