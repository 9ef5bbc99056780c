"""Holds what the commands share: annotations of arguments, and errors of the user as sentences."""

import contextlib
import dataclasses
import functools
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import numpy as np
import tyro

from jax_gsplat_depth import _cpu, io
from jax_gsplat_depth._common.memory import is_out_of_memory
from jax_gsplat_depth._common.one_line import one_line
from jax_gsplat_depth._common.settings import Positive
from jax_gsplat_depth.datasets import Capture, CaptureWarning, builtin_capture, load_capture

PROGRAM = "jax-gsplat-depth"

USAGE_ERROR = 2
"""Exit code of a command that cannot be done as it was asked for."""

INTERRUPTED = 128 + signal.SIGINT
"""Exit code of a command that Ctrl-C stopped."""

Axis = Literal["x", "y", "z", "-x", "-y", "-z"]

AXES = {
    name: (-1.0 if name.startswith("-") else 1.0) * np.eye(3)["xyz".index(name[-1])]
    for name in get_args(Axis)
}
"""Directions by name."""


def shown_as(metavar: str) -> Any:
    """Return the annotation of an argument whose value the help calls ``metavar``."""
    return tyro.conf.arg(metavar=metavar)


def stated_default(text: str) -> Any:
    """Return the annotation of an argument that stands for ``text`` where it is not given."""
    return tyro.conf.arg(help_behavior_hint=f"(default: {text})")


SplatsFile = Annotated[tyro.conf.Positional[Path], shown_as("SPLATS")]
"""The argument for a file of Gaussians."""

Antialiased = Annotated[bool | None, stated_default("what the file says, else off")]
"""The flag that overrides the tag of a file of Gaussians."""

MaxExpansion = Annotated[Positive, shown_as("X")]
"""The limit on what an .spz or a SOG may expand to."""

BUILT_IN = "builtin"
"""The name of the built-in capture on the command line and in files."""

_WARNINGS = (CaptureWarning, io.FileWarning)

Settings = TypeVar("Settings")


def guarded(
    *,
    out_of_memory: str = "there is not enough memory",
    expected: tuple[type[Exception], ...] = (OSError, ValueError, ImportError),
) -> Callable[[Callable[[Settings], str | int | None]], Callable[[Settings], int]]:
    """Return a decorator of commands: what can go wrong for the user becomes one sentence.

    The command returns what to tell at the end, an exit code, or None; decorated, the exit code.

    Args:
        out_of_memory: The sentence for that case, with what to lower.
        expected: Other errors that are the user's; what is not among them is a bug and is raised.
    """

    def decorate(run: Callable[[Settings], str | int | None]) -> Callable[[Settings], int]:
        @functools.wraps(run)
        def command(settings: Settings) -> int:
            try:
                with _told_if_aborted(out_of_memory), _warnings_said():
                    result = run(settings)
            except BrokenPipeError:
                raise  # Nobody reads what the command says; see _pipe.
            except Exception as error:
                if is_out_of_memory(error):
                    return fail(out_of_memory)
                if not isinstance(error, expected):
                    raise
                # Errors of ours have a sentence only.
                if isinstance(error, OSError) and error.strerror is not None:
                    return fail(f"{error.filename or 'a file'}: {error.strerror}")
                return fail(error)
            except KeyboardInterrupt:
                say("stopped")
                return INTERRUPTED
            if isinstance(result, str):
                say(result)
                return 0
            return result or 0

        return command

    return decorate


@contextlib.contextmanager
def _warnings_said() -> Iterator[None]:
    """Say at once what the readers of files warn of; other warnings are shown as ever."""
    with warnings.catch_warnings():
        for ours in _WARNINGS:
            warnings.simplefilter("always", ours)
        show = warnings.showwarning

        def tell(message: Any, category: type[Warning], *rest: Any, **options: Any) -> None:
            if issubclass(category, _WARNINGS):
                say(f"warning: {message}")
            else:
                show(message, category, *rest, **options)

        warnings.showwarning = tell
        yield


@contextlib.contextmanager
def _told_if_aborted(out_of_memory: str) -> Iterator[None]:
    """Say something where XLA's compiler aborts the process, as it does without memory."""
    sentence = f"{PROGRAM}: error: aborted, most likely because {out_of_memory}\n"
    _cpu.exit_on_abort(sentence, USAGE_ERROR)
    try:
        yield
    finally:
        _cpu.abort_as_before()


def say(message: str) -> None:
    """Tell the person at the keyboard something."""
    print(f"{PROGRAM}: {one_line(message)}", file=sys.stderr, flush=True)


def fail(message: object) -> int:
    """Tell them what is wrong, and return the exit code."""
    say(f"error: {message}")
    return USAGE_ERROR


def read_splats(
    path: Path, antialiased: bool | None = None, max_expansion: float = io.MAX_EXPANSION
) -> io.SplatFile:
    """Return a file of Gaussians without those that cannot be drawn, and say what was left out.

    Args:
        path: File to read.
        antialiased: Takes the place of the file's tag, unless it is None.
        max_expansion: As for ``io.read``.

    Raises:
        ValueError: As ``io.read``.
    """
    # A folder may be the SOG format, whose pictures a meta.json names.
    if path.is_dir() and not (path / "meta.json").is_file():
        inside = path / "splats.ply"
        hint = f" such as {inside}" if inside.is_file() else ""
        raise ValueError(f"{path} is a folder: expected a file of Gaussians{hint}")
    file = io.read(path, on_bad="drop", max_expansion=max_expansion)
    if file.dropped:
        say(f"{path}: {left_out(file.dropped)}")
    if antialiased is None:
        return file
    tags = dataclasses.replace(file.tags, antialiased=antialiased)
    return dataclasses.replace(file, tags=tags)


def left_out(counts: dict[str, int]) -> str:
    """Return how many Gaussians were left out of a file, and why."""
    reasons = ", ".join(f"{count} {reason}" for reason, count in counts.items())
    return f"{sum(counts.values())} Gaussians left out that cannot be drawn ({reasons})"


def load_any_capture(name: str, downscale: int | None = 1) -> Capture:
    """Return the capture in a folder, or the built-in one for the name ``builtin``.

    Raises:
        CaptureError: As ``load_capture``.
        ValueError: ``downscale`` is more than 1 for the built-in capture.
    """
    # A folder of that name is still there as ./builtin.
    if name != BUILT_IN:
        return load_capture(name, downscale=downscale)
    if downscale not in (None, 1):
        raise ValueError("the built-in capture has one size: --downscale needs --data DIR")
    return builtin_capture()
