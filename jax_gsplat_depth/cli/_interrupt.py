"""Turns the first Ctrl-C into a request to finish; the second one stops at once."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Interrupt:
    """The first Ctrl-C is a request to finish; after it, Ctrl-C acts as usual."""

    def __init__(self) -> None:
        """Take over Ctrl-C, until it comes or ``restore`` is called."""
        self._event = threading.Event()
        # Signals reach the main thread only; elsewhere Ctrl-C is the caller's affair.
        self._installed = threading.current_thread() is threading.main_thread()
        if self._installed:
            self._previous = signal.signal(signal.SIGINT, lambda *_: self._request())

    def _request(self) -> None:
        self._event.set()
        self.restore()

    def requested(self) -> bool:
        """Return whether Ctrl-C came."""
        return self._event.is_set()

    def restore(self) -> None:
        """Give Ctrl-C back."""
        if self._installed:
            signal.signal(signal.SIGINT, self._previous)
            self._installed = False


@contextmanager
def stop_on_interrupt() -> Iterator[Interrupt]:
    """Take over Ctrl-C inside of the block."""
    interrupt = Interrupt()
    try:
        yield interrupt
    finally:
        interrupt.restore()
