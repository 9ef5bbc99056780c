"""Imports optional libraries when they are first used; the error says how to get a missing one."""

import contextlib
import importlib
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
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
        with undisturbed():
            return importlib.import_module(module)
    except ImportError as error:
        raise missing(module, extra) from error


def missing(module: str, extra: str = "fit") -> ImportError:
    """Return the error for a module of an extra that is not installed."""
    return ImportError(
        f"{module.partition('.')[0]} is needed for this; install it with: "
        f"python -m pip install 'jax-gsplat-depth[{extra}]'"
    )


def lazy_names(package: str, module_of: Mapping[str, str]) -> Callable[[str], Any]:
    """Return the ``__getattr__`` of a package whose names are imported when they are first used.

    Args:
        package: Its ``__name__``.
        module_of: Module of the package that defines each name, or "" if the name is a module.

    Raises:
        ImportError: The function raises it if a package of the ``fit`` extra is not installed.
    """

    def getattr_of_package(name: str) -> Any:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        try:
            with undisturbed():
                module = importlib.import_module(f"{package}.{module_of[name] or name}")
        except ModuleNotFoundError as error:
            if error.name is None or error.name.partition(".")[0] == "jax_gsplat_depth":
                raise
            raise missing(error.name) from error
        return getattr(module, name) if module_of[name] else module

    return getattr_of_package


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Put Ctrl-C off to the end of the block: in the middle of an import it can be lost, or crash.

    Handlers of others, which need not raise, are left alone, and threads get no signals.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    came = threading.Event()
    signal.signal(signal.SIGINT, lambda *_: came.set())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if came.is_set():
            raise KeyboardInterrupt
