"""Decides on the host after which steps a strategy refines."""


def in_schedule(step: int, start: int, stop: int, every: int) -> bool:
    """Whether ``step`` is a multiple of ``every`` strictly between ``start`` and ``stop``."""
    return start < step < stop and step % every == 0


def check_schedule(start: int, stop: int, every: int) -> None:
    """Refuse schedules without meaning.

    Raises:
        ValueError: A value is outside its range.
    """
    if min(start, stop) < 0:
        raise ValueError(f"start and stop must not be negative, got {start} and {stop}")
    if every < 1:
        raise ValueError(f"every must be at least 1, got {every}")
