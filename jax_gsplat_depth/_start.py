"""Lets Ctrl-C end the command ``jax-gsplat-depth`` while Python loads JAX.

A ``KeyboardInterrupt`` in the middle of an import can be lost, or crash what is half loaded. The
package imports this module first; in other programs it does nothing.
"""

import os
import signal
import sys

_COMMAND, _MODULE = "jax-gsplat-depth", "jax_gsplat_depth.cli"


def loaded() -> None:
    """Give Ctrl-C back: the command begins."""
    if signal.getsignal(signal.SIGINT) is _quit:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _quit(*_: object) -> None:
    os.write(2, f"{_COMMAND}: stopped\n".encode())
    os._exit(128 + signal.SIGINT)


def _is_command() -> bool:
    # While Python looks for a module to run, its name is not yet in the place of the "-m".
    as_module = sys.argv[:1] == ["-m"] and any(a.endswith(_MODULE) for a in sys.orig_argv)
    return as_module or os.path.basename((sys.argv or [""])[0]) == _COMMAND


if _is_command() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, _quit)
