"""What the commands share: parsers of numbers, and errors of the user as sentences."""

import argparse
import math
import signal
import sys
from collections.abc import Callable

import jax
import numpy as np

from jax_gsplat_depth.datasets import Capture, builtin_capture, load_capture

USAGE_ERROR = 2
"""Exit code of a command that cannot be done as it was asked for."""

INTERRUPTED = 128 + signal.SIGINT
"""Exit code of a command that Ctrl-C stopped."""


AXES = {
    sign + name: factor * axis
    for sign, factor in (("", 1.0), ("-", -1.0))
    for name, axis in zip("xyz", np.eye(3), strict=True)
}
"""Directions by name."""

_BUILT_IN = "builtin"


def whole_number(low: int, high: int | None = None) -> Callable[[str], int]:
    """Return a parser of whole numbers within limits."""
    expected = f"at least {low}" if high is None else f"between {low} and {high}"

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = None
        if value is None or value < low or (high is not None and value > high):
            raise argparse.ArgumentTypeError(f"expected a whole number {expected}, got {text!r}")
        return value

    return parse


def number(low: float, high: float, *, open_interval: bool = False) -> Callable[[str], float]:
    """Return a parser of finite numbers from ``low`` to ``high``, or strictly between them."""
    expected = f"between {low:g} and {high:g}" if high < math.inf else f"of at least {low:g}"
    if open_interval:
        expected = f"above {low:g}" + (f" and below {high:g}" if high < math.inf else "")

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        inside = low < value < high if open_interval else low <= value <= high
        if not inside or not math.isfinite(value):
            raise argparse.ArgumentTypeError(f"expected a number {expected}, got {text!r}")
        return value

    return parse


def guarded(
    run: Callable[[argparse.Namespace], str | int | None],
    *,
    out_of_memory: str = "there is not enough memory",
    expected: tuple[type[Exception], ...] = (OSError, ValueError, ImportError),
) -> Callable[[argparse.Namespace], int]:
    """Return a command that turns what can go wrong for the user into one sentence.

    Args:
        run: The work; returns what to tell at the end, an exit code, or None.
        out_of_memory: The sentence for that case.
        expected: Other errors that are the user's; what is not among them is a bug and is raised.
    """

    def command(options: argparse.Namespace) -> int:
        try:
            result = run(options)
        except expected as error:
            # Errors of ours have a sentence only.
            if isinstance(error, OSError) and error.strerror is not None:
                return fail(f"{error.filename or 'a file'}: {error.strerror}")
            return fail(error)
        except (MemoryError, jax.errors.JaxRuntimeError) as error:
            if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):
                raise
            return fail(out_of_memory)
        except KeyboardInterrupt:
            say("stopped")
            return INTERRUPTED
        if isinstance(result, str):
            say(result)
            return 0
        return result or 0

    return command


def say(message: str) -> None:
    """Tell the person at the keyboard something."""
    print(f"jax-gsplat-depth: {message}", file=sys.stderr, flush=True)


def fail(message: object) -> int:
    """Tell them what is wrong, and return the exit code."""
    say(f"error: {message}")
    return USAGE_ERROR


def load_any_capture(name: str, downscale: int = 1) -> Capture:
    """Return the capture in a folder, or the built-in one for the name ``builtin``.

    Raises:
        CaptureError: As ``load_capture``.
        ValueError: ``downscale`` is not 1 for the built-in capture.
    """
    # A folder of that name is still there as ./builtin.
    if name != _BUILT_IN:
        return load_capture(name, downscale=downscale)
    if downscale != 1:
        raise ValueError("the built-in capture has one size: --downscale needs --data DIR")
    return builtin_capture()
