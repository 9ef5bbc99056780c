"""Lists the programs that test the C++ code, with the sources and compiler flags of each.

``tests/test_cpp.py`` compiles and runs them. ``.ci/run`` does so under the sanitizers; it reads the
lines that this file prints when it is executed.

The folder of a test decides how it is compiled:

- ``math``: alone, because ``csrc/math`` and ``csrc/stages`` are headers;
- ``simd``, ``kernels``: once per instruction set, ``kernels/x_test.cc`` with
  ``csrc/cpu/kernels/x.cc`` where there is one;
- ``cpu``: ``x_test.cc`` with ``csrc/cpu/x.cc`` and threads;
- ``stages``: with the whole CPU backend for the baseline instruction set, and threads.
"""

import dataclasses
import pathlib
import platform
import re

# Paths and flags are relative to it.
ROOT = pathlib.Path(__file__).resolve().parents[2]
# Warnings are errors, and nothing contracts multiply-adds, as in the build.
FLAGS = ("-std=c++17", "-O1", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-pthread")
FLAGS += ("-Icsrc", "-Itests/cpp")
# The exit status of a program whose instruction set the machine lacks: kSkipped in isa.h.
SKIPPED = 77
_WITH_THREADS = ("address,undefined", "thread")


@dataclasses.dataclass(frozen=True)
class Program:
    """A C++ test.

    Attributes:
        name: Its path below ``tests/cpp``, and the instruction set if there are several.
        sources: The test first.
        flags: Beside ``FLAGS``.
        sanitizers: Values of ``-fsanitize``, a build for each.
    """

    name: str
    sources: tuple[pathlib.Path, ...]
    flags: tuple[str, ...] = ()
    sanitizers: tuple[str, ...] = ("address,undefined",)


def instruction_sets() -> dict[str, tuple[str, ...]]:
    """Compiler flags of each instruction set of this architecture, from ``CMakeLists.txt``."""
    text = (ROOT / "CMakeLists.txt").read_text()
    found = re.findall(r"^ *jgd_add_isa\((\w+)([^)]*)\)", text, re.MULTILINE)
    x86 = platform.machine() in ("x86_64", "AMD64")
    return {name: tuple(flags.split()) for name, flags in found if x86 or name == "baseline"}


def programs() -> list[Program]:
    """All of them.

    Raises:
        ValueError: A test lies in a folder that says nothing about its compilation.
    """
    found = []
    for test in _sources("tests/cpp/**/*_test.cc"):
        path = test.relative_to("tests/cpp")
        name, folder = str(path).removesuffix("_test.cc"), str(path.parent)
        if folder == "math":
            found.append(Program(name, (test,)))
        elif folder in ("simd", "kernels"):
            sources = (test, *_sources(f"csrc/cpu/{name}.cc"))
            for isa, flags in instruction_sets().items():
                found.append(Program(f"{name}-{isa}", sources, (*_isa_flags(isa), *flags)))
        elif folder == "cpu":
            sources = (test, *_sources(f"csrc/{name}.cc"))
            found.append(Program(name, sources, sanitizers=_WITH_THREADS))
        elif folder == "stages":
            sources = (test, *_sources("csrc/cpu/*.cc"), *_sources("csrc/cpu/kernels/*.cc"))
            found.append(Program(name, sources, _isa_flags("baseline"), _WITH_THREADS))
        else:
            raise ValueError(f"{path} must be in math/, simd/, kernels/, cpu/ or stages/")
    return found


def _sources(pattern):
    return sorted(path.relative_to(ROOT) for path in ROOT.glob(pattern))


def _isa_flags(isa):
    return (f"-DJGD_ISA={isa}", "-Wno-psabi")


if __name__ == "__main__":
    for program in programs():
        for sanitizer in program.sanitizers:
            print(f"-fsanitize={sanitizer}", *FLAGS, *program.flags, *program.sources)
