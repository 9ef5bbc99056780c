"""Compiles the CUDA sources as C++ for the host."""

import concurrent.futures
import os
import pathlib
import shutil
import subprocess

import jax

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
COMPILER = next(filter(shutil.which, [os.environ.get("CXX", ""), "g++", "c++", "clang++"]), None)
MACHINE = [HERE / "machine.cc", HERE / "guarded.cc"]

# The folder of this file comes first, so that its headers replace those of csrc. As nvcc is told,
# the compiler contracts nothing. A fortified longjmp would take the switch of fibers for an error.
FLAGS = [
    *("-std=c++17", "-O2", "-g1", "-fPIC", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror"),
    *("-U_FORTIFY_SOURCE", "-DJGD_BACKEND_CUDA", f"-I{HERE}", f"-I{ROOT / 'csrc'}"),
    *("-isystem", jax.ffi.include_dir()),
]


def _run(command):
    done = subprocess.run([COMPILER, *map(str, command)], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}\n{done.stderr}")


def _link(folder, name, sources):
    def compile_one(source):
        target = folder / f"{source.parent.name}_{source.stem}.o"
        language = ["-x", "c++"] if source.suffix == ".cu" else []
        _run([*FLAGS, *language, "-c", source, "-o", target])
        return target

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile_one, sources))
    library = folder / name
    _run(["-shared", "-Wl,-Bsymbolic", *objects, "-o", library, "-pthread"])
    return library


def build_toy(folder):
    """Compile the kernels that test the emulation itself."""
    return _link(folder, "libtoy.so", [*MACHINE, HERE / "toy.cu"])


def build(folder):
    """Compile all handlers; the name of each is ``emulated_`` and the op."""
    kernels = sorted(set((ROOT / "csrc" / "cuda").glob("*.cu")) - {ROOT / "csrc/cuda/sort.cu"})
    boundary = [ROOT / "csrc" / "ffi" / f"{op}.cc" for op in ("project", "shade", "bin", "blend")]
    # The slowest first.
    kernels.sort(key=lambda path: -path.stat().st_size)
    sources = [*boundary, *kernels, *MACHINE, HERE / "sort.cc", HERE / "handlers.cc"]
    return _link(folder, "libcuda_host.so", sources)
