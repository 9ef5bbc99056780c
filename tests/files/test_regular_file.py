"""Tests that files are opened for reading without waiting, and that nothing else is opened."""

import os
import socket
from pathlib import Path

import pytest

from jax_gsplat_depth._common.regular_file import (
    NotRegularFileError,
    open_regular,
    read_regular,
)


def test_files_and_links_to_files_are_read(tmp_path):
    (tmp_path / "file").write_bytes(b"a\r\nb\x1a")
    (tmp_path / "link").symlink_to("file")
    for name in ("file", "link"):
        assert read_regular(tmp_path / name) == b"a\r\nb\x1a"
        with open_regular(str(tmp_path / name)) as stream:
            assert stream.read(1) == b"a"
            assert not os.get_inheritable(stream.fileno())


@pytest.mark.parametrize("kind", ["FIFO", "socket", "device"])
def test_what_is_no_file_is_refused_at_once(tmp_path, monkeypatch, kind):
    path = tmp_path / "x"
    if kind == "FIFO":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        # A path of a socket must be short.
        monkeypatch.chdir(tmp_path)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("x")
    with pytest.raises(NotRegularFileError, match=f"x is a {kind}, not a regular file$") as caught:
        open_regular(path)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, OSError)
    assert caught.value.filename == str(path)


def test_what_becomes_a_fifo_before_the_opening_is_refused(tmp_path, monkeypatch):
    file, fifo = tmp_path / "file", tmp_path / "fifo"
    file.write_bytes(b"")
    os.mkfifo(fifo)
    state = os.stat(file)
    monkeypatch.setattr(os, "stat", lambda path: state)
    before = os.listdir("/dev/fd")
    with pytest.raises(NotRegularFileError, match="FIFO"):
        open_regular(fifo)
    assert len(os.listdir("/dev/fd")) == len(before)


def test_folders_and_missing_files_are_named(tmp_path):
    with pytest.raises(IsADirectoryError) as caught:
        open_regular(tmp_path)
    assert caught.value.filename == str(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_regular(Path(tmp_path, "none"))
