"""Makes file names from the names of views, which may be longer than file names can be."""

import hashlib
import os
import re

_LONGEST = 255
"""Bytes of a name that the usual file systems allow, suffix included."""

_LOOKS_CUT = re.compile("~[0-9a-f]{16}$")


def file_name(name: str, suffix: str) -> str:
    """Return the file name for a view: its name and the suffix, where that can be one.

    A name that is too long is cut and ends with a hash of all of it, and so does one with a
    character that files cannot have in their names. Distinct names give distinct files.

    Args:
        name: Name of a view.
        suffix: ASCII, such as ``.png``.
    """
    raw = _bytes_of(name)
    fits = len(raw) + len(suffix) <= _LONGEST and not {ord("/"), 0} & set(raw)
    # A name that looks cut gets a hash too, so that it cannot be that of a cut one.
    if fits and not _LOOKS_CUT.search(name):
        return name + suffix
    digest = "~" + hashlib.sha256(raw).hexdigest()[:16]
    room = _LONGEST - len(digest) - len(suffix)
    start = raw.replace(b"/", b"_").replace(b"\0", b"_")[:room].decode(errors="ignore")
    return start + digest + suffix


def _bytes_of(name: str) -> bytes:
    try:
        return os.fsencode(name)
    except UnicodeEncodeError:
        # Of no file: the zero sees to it that it gets a hash.
        return name.encode(errors="surrogatepass") + b"\0"
