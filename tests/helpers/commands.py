"""Runs the command line, inside of the test's process or without a package that it needs."""

import subprocess
import sys

from jax_gsplat_depth import cli


def run(*arguments):
    """Return the exit code, also where argparse exits by itself."""
    try:
        return cli.main([str(argument) for argument in arguments])
    except SystemExit as exit:
        return exit.code


def refusal_without(package, arguments, folder):
    """Return the one line that the command ends with where a package is not installed."""
    code = (
        f"import sys; sys.modules[{package!r}] = None\n"
        f"from jax_gsplat_depth import cli; sys.exit(cli.main({arguments!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert not list(folder.iterdir())
    return done.stderr
