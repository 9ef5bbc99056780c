"""Guesses what was meant by a word on the command line that is none of ours."""

import difflib
from collections.abc import Iterable
from pathlib import Path

from jax_gsplat_depth.cli._arguments import flags_of

_MEANT = {
    "benchmark": "eval",
    "evaluate": "eval",
    "export": "convert",
    "metrics": "eval",
    "optimize": "fit",
    "reconstruct": "fit",
    "show": "view",
    "test": "eval",
    "train": "fit",
    "video": "render",
}
"""Words of other programs for what a command of ours does."""


def hint_for_command(name: str, commands: Iterable[str]) -> str:
    """Return what to add to the sentence about a command that does not exist, or nothing."""
    if Path(name).is_dir():
        return f", as in: fit {name}"
    if Path(name).is_file():
        return f", as in: view {name}"
    close = difflib.get_close_matches(name.lower(), list(commands), 1)
    meant = close[0] if close else _MEANT.get(name.lower())
    return "" if meant is None else f": did you mean {meant}?"


def hint_for_arguments(tokens: list[str], settings: type) -> str:
    """Return what to add to the sentence about unknown arguments of a command, or nothing.

    Args:
        tokens: The arguments.
        settings: The options of the command.
    """
    flags = flags_of(settings)
    for token in tokens:
        typed = token.partition("=")[0]
        if not typed.startswith("-"):
            is_capture = "--data" in flags and Path(token).is_dir()
            return f": photos are given as --data {token}" if is_capture else ""
        # Nested settings have a prefix that one may not know of.
        whole = f"--{typed.lstrip('-').replace('_', '-').lower()}"
        nested = [flag for flag in flags if flag.endswith(f".{whole[2:]}")]
        close = nested or difflib.get_close_matches(whole, flags, 1, cutoff=0.7)
        if close:
            return f": did you mean {close[0]}?"
    return ""
