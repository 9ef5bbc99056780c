"""Opens files for reading, and refuses what only looks like one: a FIFO, a device, a socket.

Reading from such a thing waits for a writer, for ever if there is none, or never ends.
"""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
"""What a path can be instead of a file, by the type in its mode."""

# Windows needs the first; the others keep the opening itself from waiting for a writer or a line,
# and a terminal from becoming that of the process.
_FLAGS = os.O_RDONLY | sum(
    getattr(os, name, 0) for name in ("O_BINARY", "O_NONBLOCK", "O_NOCTTY", "O_CLOEXEC")
)


class NotRegularFileError(OSError, ValueError):
    """A path is neither a file nor a folder: its ``filename`` and ``strerror`` say what it is."""

    def __str__(self) -> str:
        """Return a sentence that names the path."""
        return f"{self.filename} is {self.strerror}"


def open_regular(path: str | Path) -> BinaryIO:
    """Open a regular file, or a link to one, for reading bytes; never wait.

    Args:
        path: The file.

    Raises:
        NotRegularFileError: The path is a FIFO, a device or a socket.
        IsADirectoryError: It is a folder.
        OSError: There is no such file, or it cannot be opened.
    """
    # Before the opening as well, which alone can act on a device.
    _refuse_others(path, os.stat(path).st_mode)
    descriptor = os.open(path, _FLAGS)
    try:
        # The path may name something else by now.
        _refuse_others(path, os.fstat(descriptor).st_mode)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: str | Path) -> bytes:
    """Return the bytes of a regular file; raises as ``open_regular``."""
    with open_regular(path) as stream:
        return stream.read()


def _refuse_others(path: str | Path, mode: int) -> None:
    if stat.S_ISREG(mode):
        return
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    kind = _KINDS.get(stat.S_IFMT(mode), "something else")
    raise NotRegularFileError(errno.EINVAL, f"{kind}, not a regular file", str(path))
