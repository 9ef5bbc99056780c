"""Tells whether an error means that there is not enough memory."""

_SIGNS = (
    "resource_exhausted",  # XLA, whose error is not of the same type and code in every call
    "out of memory",
    "bad_alloc",  # C++
    "cannot allocate memory",  # the system
    "failed to map segment",  # the loader of a compiled module
)


def is_out_of_memory(error: BaseException | None) -> bool:
    """Return whether an error, or one that it was raised from, is a lack of memory.

    Readers raise their own errors from whatever a decoder raises, and a lack of memory is nothing
    that is wrong with the file.
    """
    while error is not None:
        message = str(error).lower()
        if isinstance(error, MemoryError) or any(sign in message for sign in _SIGNS):
            return True
        error = error.__cause__
    return False
