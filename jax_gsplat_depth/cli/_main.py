"""The command ``jax-gsplat-depth``: parses arguments, and turns errors of the user into sentences.

Exit codes: 0 done, 2 the arguments or the input cannot be used, 130 stopped by Ctrl-C.
"""

import argparse
import importlib.metadata
from collections.abc import Sequence
from typing import NoReturn

from jax_gsplat_depth.cli import _eval, _files, _fit, _render, _view
from jax_gsplat_depth.cli._common import USAGE_ERROR


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: Command line without the program's name; None takes it from ``sys.argv``.

    Returns:
        The exit code.

    Raises:
        SystemExit: A wrong argument (code 2), or after ``--help`` and ``--version`` (code 0).
    """
    options = _parser().parse_args(arguments)
    return options.run(options)


class _Parser(argparse.ArgumentParser):
    """Reports a wrong argument as one sentence, without the usage lines."""

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE_ERROR, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="jax-gsplat-depth", description="3D Gaussian splatting with depth, for JAX."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {_version()}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in (_fit, _render, _eval, _view, _files):
        module.add_commands(commands)
    return parser


def _version() -> str:
    try:
        return importlib.metadata.version("jax-gsplat-depth")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
