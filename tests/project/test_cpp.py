"""Compiles and runs the C++ tests with the host compiler alone: no Python, no XLA headers."""

import os
import pathlib
import platform
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "tests" / "cpp").glob("*.cc"))
COMPILER = next(filter(shutil.which, [os.environ.get("CXX", ""), "c++", "g++", "clang++"]), None)


# Of what is compiled once per instruction set, with the flags of CMakeLists.txt.
PACK_SOURCES = [path for path in SOURCES if path.stem.endswith("pack_test")]
ISA_FLAGS = {"baseline": []}
if platform.machine() in ("x86_64", "AMD64"):
    ISA_FLAGS["avx2"] = ["-mavx2", "-mfma"]
    ISA_FLAGS["avx512"] = ["-mavx512f", "-mavx512dq", "-mavx512vl", "-mavx512bw", "-mfma"]

needs_compiler = pytest.mark.skipif(
    COMPILER is None, reason="no C++ compiler found (CXX, c++, g++, clang++)"
)


def test_sources_exist():
    assert SOURCES and PACK_SOURCES


def test_flags_are_those_of_the_build():
    cmake = (ROOT / "CMakeLists.txt").read_text()
    for isa, flags in ISA_FLAGS.items():
        assert f"jgd_add_isa({' '.join([isa, *flags])})" in cmake


def compile_and_run(source, sources, flags, tmp_path):
    """What a C++ test ends with, and what it printed."""
    program = tmp_path / source.stem
    # The flags of the package's own build; a test that compiles with warnings fails.
    flags = ["-std=c++17", "-O1", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", *flags]
    command = [COMPILER, *flags, f"-I{ROOT / 'csrc'}", *map(str, sources), "-o", str(program)]
    built = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert built.returncode == 0, built.stderr
    done = subprocess.run([program], capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout + done.stderr


@needs_compiler
@pytest.mark.parametrize(
    "source", [path for path in SOURCES if path not in PACK_SOURCES], ids=lambda path: path.stem
)
def test_cpp(source, tmp_path):
    sources, flags = [source], []
    if '#include "cpu/' in source.read_text():
        sources += sorted((ROOT / "csrc" / "cpu").glob("*.cc"))
        flags = ["-Wno-psabi", "-DJGD_ISA=baseline", "-pthread"]
    status, output = compile_and_run(source, sources, flags, tmp_path)
    assert status == 0, output


@needs_compiler
@pytest.mark.parametrize("isa", ISA_FLAGS)
@pytest.mark.parametrize("source", PACK_SOURCES, ids=lambda path: path.stem)
def test_cpp_instruction_set(source, isa, tmp_path):
    """x_pack_test.cc with x_pack.cc, both compiled for the instruction set."""
    kernel = ROOT / "csrc" / "cpu" / source.name.replace("_test", "")
    flags = ["-Wno-psabi", f"-DJGD_ISA={isa}", *ISA_FLAGS[isa]]
    sources = [source, kernel] if kernel.exists() else [source]
    status, output = compile_and_run(source, sources, flags, tmp_path)
    if status == 77:  # kSkipped
        pytest.skip(f"no {isa} on this machine")
    assert status == 0, output
