"""Compile the blend kernels for sm_90 and fail if one spills or needs more registers than stated.

Called by .ci/run with the name of the CUDA compiler; needs no GPU. Spills and registers show in no
other test: they only cost time.
"""

import pathlib
import re
import subprocess
import sys

CSRC = pathlib.Path(__file__).resolve().parents[1] / "csrc"
SOURCES = ("blend_forward.cu", "blend_backward.cu")
FLAGS = ["-arch=sm_90", "-std=c++17", "-O3", "-fmad=false", "-cubin", "--resource-usage"]

# The most registers of a thread, by a pattern of the name; the first match counts. The 65536
# registers of a multiprocessor allow these if 6, 5, 3, 4 and 5 blocks of 128 threads run on it.
LIMITS = {
    r"blend_forward_kernel<float, \d, (\(bool\))?(0|false)>": 80,
    r"blend_forward_kernel<float": 96,  # with the median
    r"blend_forward_kernel<double": 168,
    r"blend_backward_kernel<float, -1": 128,
    r"blend_backward_kernel<float": 96,
    r"": 255,
}


def resources(nvcc: str, source: str) -> list[tuple[str, int, int, int]]:
    """Name, registers, bytes on the stack and bytes spilled of each kernel."""
    command = [nvcc, *FLAGS, f"-I{CSRC}", str(CSRC / "cuda" / source), "-o", "/dev/null"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(done.stdout + done.stderr)
    report = subprocess.run(
        ["c++filt"], input=done.stdout + done.stderr, capture_output=True, text=True, check=True
    ).stdout
    kernel = (
        r"Compiling entry function '(.*?)' for 'sm_90'.*?(\d+) bytes stack frame, "
        r"(\d+) bytes spill stores, (\d+) bytes spill loads.*?Used (\d+) registers"
    )
    found = []
    for name, stack, stores, loads, registers in re.findall(kernel, report, re.DOTALL):
        short = re.sub(r"\(anonymous namespace\)::|jgd::cuda::|^void ", "", name)
        short = short.partition(">(")[0] + ">"
        found.append((short, int(registers), int(stack), int(stores) + int(loads)))
    if len(found) != report.count("Compiling entry function"):
        sys.exit(f"the report of {nvcc} reads differently:\n{report}")
    return sorted(found)


def main(nvcc: str) -> None:
    """Print a line for each kernel; exit with 1 if one is over its limit."""
    failed = False
    for source in SOURCES:
        kernels = resources(nvcc, source)
        if not any(name.startswith(source.partition(".")[0]) for name, *_ in kernels):
            sys.exit(f"no kernel in {source}")
        for name, registers, stack, spilled in kernels:
            limit = next(n for pattern, n in LIMITS.items() if re.match(pattern, name))
            over = spilled > 0 or registers > limit
            failed |= over
            print(
                f"{registers:4} of {limit} registers, {stack} bytes of stack, {spilled} spilled: "
                f"{name}{'  <-- too many' if over else ''}"
            )
    sys.exit(failed)


if __name__ == "__main__":
    main(*sys.argv[1:])
