"""Measures steps per second: the one definition, of the progress bar and of ``metrics.json``."""

import bisect
import time


class StepRate:
    """One over the median time of a step, of all but the first, which compiles.

    A median leaves out the few steps that do something else as well: write a checkpoint, compile
    and run a refinement.
    """

    def __init__(self) -> None:
        """Begin with no step."""
        self._previous: float | None = None
        self._durations: list[float] = []  # seconds, sorted

    def count(self) -> None:
        """Say that a step has ended."""
        now = time.perf_counter()
        if self._previous is not None:
            bisect.insort(self._durations, now - self._previous)
        self._previous = now

    def per_second(self) -> float | None:
        """Return steps per second; None before the second step."""
        n = len(self._durations)
        if n == 0:
            return None
        return 2 / (self._durations[(n - 1) // 2] + self._durations[n // 2])
