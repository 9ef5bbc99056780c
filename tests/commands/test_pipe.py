"""Tests that a command whose output nobody reads any more ends without a word."""

import os
import subprocess
import sys

import pytest
from helpers.commands import run
from helpers.splats import random_gaussians

from jax_gsplat_depth import io

pytest.importorskip("plyfile")


@pytest.fixture
def ply(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    io.save("a.ply", random_gaussians(3, degree=0))


def without_reader(buffering):
    reader, writer = os.pipe()
    os.close(reader)
    return open(writer, "w", buffering)


@pytest.mark.parametrize("buffering", [-1, 1])
@pytest.mark.parametrize(
    "stream, arguments",
    [
        ("stdout", "info a.ply"),
        ("stdout", "--version"),
        ("stdout", "fit --help"),
        ("stderr", "convert a.ply b.splat"),
        ("stderr", "info none.ply"),
        ("stderr", "paint"),
    ],
)
def test_a_closed_pipe(ply, monkeypatch, capsys, stream, arguments, buffering):
    done = 2 if arguments in ("info none.ply", "paint") else 0
    with without_reader(buffering) as closed:
        monkeypatch.setattr(sys, stream, closed)
        # Cut off, or done before the last words. Closing is what Python does when it ends.
        assert run(*arguments.split()) in (141, done)
    assert capsys.readouterr() == ("", "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_output_that_cannot_be_written_is_said(ply, monkeypatch, capsys):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert run("info", "a.ply") == 2
    assert "the output cannot be written (No space left" in capsys.readouterr().err


@pytest.mark.slow
def test_a_closed_pipe_of_the_process(ply):
    command = [sys.executable, "-m", "jax_gsplat_depth.cli", "info", "a.ply"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() in (141, 0)  # As Python buffers or does not.
