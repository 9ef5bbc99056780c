"""Optional libraries: imported when first used, with an error that says how to get them."""

import importlib
from typing import Any


def require(module: str, extra: str = "fit") -> Any:
    """Import a module of an extra.

    Args:
        module: Dotted name, such as ``PIL.Image``.
        extra: The extra that it belongs to.

    Returns:
        The module.

    Raises:
        ImportError: It is not installed; the message is the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise missing(module, extra) from error


def missing(module: str, extra: str = "fit") -> ImportError:
    """Return the error for a module of an extra that is not installed."""
    return ImportError(
        f"{module.partition('.')[0]} is needed for this; install it with: "
        f"python -m pip install 'jax-gsplat-depth[{extra}]'"
    )
