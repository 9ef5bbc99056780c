"""Ends a command without a word when nobody reads its output any more, as in ``info FILE | head``.

Python reports a closed pipe as an error of the program, often only when it ends. To be ended by the
signal instead, as other programs are, would leave hidden folders, and would reach the sockets of
the viewer.
"""

import os
import sys
from collections.abc import Callable
from typing import TextIO

from jax_gsplat_depth.cli._common import USAGE_ERROR, fail

CLOSED_PIPE = 128 + 13
"""Exit code of a command that was cut off, as of programs that the signal SIGPIPE ends."""


def quiet_if_closed(run: Callable[[], int]) -> int:
    """Run a command; a closed pipe behind its output ends it, and nothing is said.

    Args:
        run: Returns the exit code.

    Returns:
        That of the command if it was done before its last output found no reader.

    Raises:
        SystemExit: As the command.
    """
    try:
        code = run()
    except BrokenPipeError:
        code = CLOSED_PIPE
    except SystemExit:
        _written()
        raise
    return code if _written() else code or USAGE_ERROR


def _written() -> bool:
    """Write what Python still holds back; return whether it arrived, or nobody wants it."""
    arrived = True
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except BrokenPipeError:
            _forget(stream)
        except OSError as error:
            arrived = False
            _forget(stream)
            fail(f"the output cannot be written ({error.strerror})")
    return arrived


def _forget(stream: TextIO) -> None:
    """Send the rest nowhere, so that Python does not try again when it ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
