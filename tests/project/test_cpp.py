"""Compiles and runs the C++ tests with the host compiler alone: no Python, no XLA headers."""

import os
import shutil
import subprocess

import pytest
from cpp import programs

COMPILER = next(filter(shutil.which, [os.environ.get("CXX", ""), "c++", "g++", "clang++"]), None)
PROGRAMS = programs.programs()


def test_programs_exist():
    folders = {program.name.partition("/")[0] for program in PROGRAMS}
    assert folders == {"math", "simd", "kernels", "cpu", "stages"}


def test_flags_are_those_of_the_build():
    flags = programs.instruction_sets()
    assert flags.pop("baseline") == ()
    for isa, option in ("avx2", "-mavx2"), ("avx512", "-mavx512f"):
        assert not flags or option in flags.pop(isa)
    assert not flags


@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler found (CXX, c++, g++, clang++)")
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
@pytest.mark.quick(program=[x for x in PROGRAMS if x.name in ("math/blend", "cpu/parallel")])
def test_cpp(program, tmp_path):
    command = [COMPILER, *programs.FLAGS, *program.flags, *map(str, program.sources)]
    command += ["-o", str(tmp_path / "test")]
    built = subprocess.run(command, cwd=programs.ROOT, capture_output=True, text=True, timeout=300)
    assert built.returncode == 0, built.stderr
    done = subprocess.run([tmp_path / "test"], capture_output=True, text=True, timeout=300)
    if done.returncode == programs.SKIPPED:
        pytest.skip("this machine lacks the instruction set")
    assert done.returncode == 0, done.stdout + done.stderr
