"""Fail if an object of one instruction set shares a function with an object of another.

Called by .ci/run with a build folder. The sources of csrc/cpu/kernels are compiled once per
instruction set. If several objects define the same function (weak symbols: templates and inline
functions that were not inlined), the linker keeps the first copy that it meets, so a copy with
AVX-512 could run on a machine without it. Everything that these sources define therefore has the
instruction set in its name.
"""

import pathlib
import re
import subprocess
import sys


def main(build: str) -> None:
    """Print a line for each object; exit with 1 if one defines a shared function."""
    objects = sorted(pathlib.Path(build).glob("**/jgd_cpu_*.dir/**/*.o"))
    if not objects:
        sys.exit(f"no objects of the instruction sets in {build}")
    failed = False
    for path in objects:
        isa = re.search(r"jgd_cpu_(\w+)\.dir", str(path))[1]
        command = ["nm", "--demangle", "--defined-only", str(path)]
        report = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        weak = re.findall(r"^\w* *[WVu] (.*)$", report, re.MULTILINE)
        shared = [name for name in weak if f"jgd::cpu::{isa}::" not in name]
        failed |= bool(shared)
        print(
            f"{isa}/{path.name}: {len(weak)} weak symbols, {len(shared)} shared",
            *shared,
            sep="\n  ",
        )
    sys.exit(failed)


if __name__ == "__main__":
    main(*sys.argv[1:])
