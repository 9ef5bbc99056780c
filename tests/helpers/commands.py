"""Runs the command line inside of the test's process."""

from jax_gsplat_depth import cli


def run(*arguments):
    """Return the exit code, also where argparse exits by itself."""
    try:
        return cli.main([str(argument) for argument in arguments])
    except SystemExit as exit:
        return exit.code
