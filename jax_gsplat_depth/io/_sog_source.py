"""Opens a SOG scene, a zip file or a folder with ``meta.json``, and reads members within limits.

Nothing is unpacked to disk. A name in ``meta.json`` never leads out of the folder, and a member of
a zip file is decompressed no further than the file says that it reaches.
"""

import contextlib
import dataclasses
import os
import zipfile
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from jax_gsplat_depth._common.regular_file import open_regular

META = "meta.json"
"""Name of the member that describes the others."""

MAX_META = 1 << 20
"""Bytes of it that are read; three codebooks of 256 numbers have about 15000."""

# What zipfile raises for damage somewhere in a file.
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    OSError,
    OverflowError,
    NotImplementedError,
    RuntimeError,
)
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


@dataclasses.dataclass
class Source:
    """A scene that can be read; one of its two kinds.

    Attributes:
        path: What the user named.
    """

    path: Path

    def size(self, names: Collection[str]) -> int:
        """Return how many bytes these members and ``meta.json`` have on the disk."""
        raise NotImplementedError

    def read(self, name: str, most: int) -> bytes:
        """Return a member.

        Args:
            name: As ``meta.json`` has it.
            most: Bytes beyond which it is refused.

        Raises:
            ValueError: There is no such member, or it is damaged or too large.
        """
        raise NotImplementedError

    def _refuse(self, name: str, reason: object) -> ValueError:
        text = " ".join(str(reason).split())[:120]
        return ValueError(f"{self.path} has no readable {name[:60]!r} ({text})")


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Source]:
    """Open a ``.sog`` file, a folder, or the ``meta.json`` in it.

    Raises:
        ValueError: It is no zip file, or one without ``meta.json``.
        OSError: It cannot be opened.
    """
    if path.is_dir():
        yield _Folder(path, path / META)
    elif path.suffix.lower() == ".json":
        yield _Folder(path, path)
    else:
        with open_regular(path) as stream:
            yield _bundle(path, stream)


@dataclasses.dataclass
class _Folder(Source):
    """A folder with pictures; ``meta`` is the file that names them."""

    meta: Path

    def size(self, names: Collection[str]) -> int:
        with contextlib.suppress(OSError, ValueError):
            return sum(os.stat(file).st_size for file in [self.meta, *map(self._file, names)])
        return 0  # Reading it will say what is wrong.

    def read(self, name: str, most: int) -> bytes:
        if name == META:
            with open_regular(self.meta) as stream:
                return _limited(self, name, stream, most)
        file = self._file(name)
        try:
            with open_regular(file) as stream:
                return _limited(self, name, stream, most)
        except OSError as error:
            raise self._refuse(name, error.strerror or error) from error
        except ValueError as error:  # An embedded null.
            raise self._refuse(name, error) from error

    def _file(self, name: str) -> Path:
        parts = PurePosixPath(name).parts
        if not parts or ".." in parts or PurePosixPath(name).is_absolute() or "\\" in name:
            raise self._refuse(name, "expected the name of a file in the folder")
        return self.meta.parent / name


def _limited(source: Source, name: str, stream: BinaryIO, most: int) -> bytes:
    size = os.fstat(stream.fileno()).st_size
    if size > most:
        raise ValueError(f"{source.path} has a {name[:60]!r} of more than {most} bytes")
    return stream.read(size)


@dataclasses.dataclass
class _Bundle(Source):
    """A zip file; ``prefix`` is the folder in it, often none."""

    archive: zipfile.ZipFile
    prefix: str
    file_size: int

    def size(self, names: Collection[str]) -> int:
        return self.file_size

    def read(self, name: str, most: int) -> bytes:
        try:
            entry = self.archive.getinfo(self.prefix + name)
        except KeyError:
            raise self._refuse(name, "it is not in the zip file") from None
        if entry.file_size > most:
            raise ValueError(f"{self.path} has a {name[:60]!r} of more than {most} bytes")
        if entry.compress_type not in _METHODS:
            raise self._refuse(name, f"compression method {entry.compress_type}")
        try:
            with self.archive.open(entry) as member:
                data = member.read(entry.file_size)
                if len(data) != entry.file_size or member.read(1):
                    raise ValueError(f"not {entry.file_size} bytes")
        except _DAMAGE as error:
            raise self._refuse(name, error or type(error).__name__) from error
        return data


def _bundle(path: Path, stream: BinaryIO) -> _Bundle:
    try:
        archive = zipfile.ZipFile(stream)
        names = archive.namelist()
    except _DAMAGE as error:
        reason = " ".join(str(error).split())[:120]
        raise ValueError(f"{path} is not a .sog file, which is a zip file ({reason})") from error
    # Some tools pack the folder and not its files.
    found = [name for name in names if PurePosixPath(name).name == META]
    if len(found) != 1:
        raise ValueError(f"{path} has {len(found)} files {META}: a .sog file has one")
    if len(set(names)) != len(names):
        raise ValueError(f"{path} has two files of the same name")
    return _Bundle(path, archive, found[0].removesuffix(META), stream.seek(0, os.SEEK_END))
