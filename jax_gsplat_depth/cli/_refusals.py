"""Says in one sentence why the arguments of a command line cannot be used.

tyro draws a box instead, and reports errors through a hook that is not yet part of its public
interface. Nothing else depends on the hook: with a version of tyro that has it elsewhere, the
commands work, and a wrong argument ends in the box.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

try:
    from tyro._errors import on_parse_error
except ImportError:
    on_parse_error = None


class Refusal(Exception):
    """The arguments cannot be used; the message is one sentence."""


class Unrecognized(Refusal):
    """Some of the arguments are unknown.

    Attributes:
        tokens: These.
    """

    def __init__(self, tokens: list[str]) -> None:
        """Make the sentence."""
        super().__init__(f"unrecognized arguments: {' '.join(tokens)}")
        self.tokens = tokens


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """Make tyro raise the sentence for what it does not accept.

    Raises:
        Refusal: The arguments cannot be used.
    """
    if on_parse_error is None:
        yield
        return

    def refuse(event: Any) -> None:
        if type(event).__name__ == "UnrecognizedArgs":
            raise Unrecognized(list(event.tokens))
        raise Refusal(_sentence(event))

    with on_parse_error(refuse):
        yield


def _sentence(event: Any) -> str:
    kind = type(event).__name__
    if kind == "InvalidChoice":
        choices = ", ".join(event.choices)
        return f"argument {_name(event.argument)}: {invalid_choice(event.value, choices)}"
    if kind == "InstantiationFailure":
        if event.argument is None:
            return event.message
        return f"argument {_name(event.argument)}: {event.message}"
    if kind == "BadValue":
        count = event.argument.lowered.nargs
        values = "one argument" if count == 1 else f"{count} arguments"
        return f"argument {_name(event.argument)}: expected {values}"
    if kind == "MutexConflict":
        return f"argument {event.second_token}: not allowed with argument {event.first_token}"
    if kind == "MissingArgs":
        names = ", ".join(_name(missing.arg) for missing in event.missing_arguments)
        return f"the following arguments are required: {names}"
    if kind == "MissingSubcommand":
        return "the following arguments are required: COMMAND"
    return "the arguments cannot be used"


def invalid_choice(value: str, choices: str) -> str:
    """Return the words for a value that is not among some."""
    return f"invalid choice: {value!r} (choose from {choices})"


def _name(argument: Any) -> str:
    if argument.is_positional():
        return str(argument.lowered.metavar)
    return "/".join(argument.lowered.name_or_flags)
