"""Tells whether an error means that there is not enough memory."""

import errno

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
        if _is_one(error):
            return True
        error = error.__cause__
    return False


def _is_one(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno == errno.ENOMEM  # The message has the name of a file.
    message = str(error).lower()
    if "operation not permitted" in message:
        return False  # The loader may not map a module: its disk holds no programs.
    return isinstance(error, MemoryError) or any(sign in message for sign in _SIGNS)
