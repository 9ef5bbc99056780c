"""Compiles and runs the C++ tests with the host compiler alone: no Python, no XLA headers."""

import os
import pathlib
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "tests" / "cpp").glob("*.cc"))
COMPILER = next(filter(shutil.which, [os.environ.get("CXX", ""), "c++", "g++", "clang++"]), None)


def test_sources_exist():
    assert SOURCES


@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler found (CXX, c++, g++, clang++)")
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_cpp(source, tmp_path):
    program = tmp_path / source.stem
    # The flags of the package's own build; a test that compiles with warnings fails.
    flags = ["-std=c++17", "-O1", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror"]
    sources = [source]
    if '#include "cpu/' in source.read_text():
        sources += sorted((ROOT / "csrc" / "cpu").glob("*.cc"))
        flags += ["-Wno-psabi", "-DJGD_ISA=baseline", "-pthread"]
    command = [COMPILER, *flags, f"-I{ROOT / 'csrc'}", *map(str, sources), "-o", str(program)]
    built = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert built.returncode == 0, built.stderr
    done = subprocess.run([program], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
