"""Compiles the CUDA sources as C++ for the host, once for all processes that share a folder."""

import concurrent.futures
import contextlib
import fcntl
import hashlib
import importlib.metadata
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
    *("-std=c++17", "-O1", "-g1", "-fPIC", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror"),
    *("-U_FORTIFY_SOURCE", "-DJGD_BACKEND_CUDA", f"-I{HERE}", f"-I{ROOT / 'csrc'}"),
    *("-isystem", jax.ffi.include_dir()),
]


def _run(command):
    done = subprocess.run([COMPILER, *map(str, command)], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}\n{done.stderr}")
    return done.stdout


def _link(folder, name, sources):
    def compile_one(source):
        target = folder / f"{source.parent.name}_{source.stem}.o"
        language = ["-x", "c++"] if source.suffix == ".cu" else []
        _run([*FLAGS, *language, "-c", source, "-o", target])
        return target

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile_one, sources))
    _run(["-shared", "-Wl,-Bsymbolic", *objects, "-o", folder / name, "-pthread"])
    for path in objects:
        path.unlink()


def _content():
    """A hash of everything that a library is compiled from."""
    digest = hashlib.sha256()
    for part in (_run(["--version"]), importlib.metadata.version("jaxlib"), *FLAGS):
        digest.update(f"{part}\n".encode())
    for folder in (HERE, ROOT / "csrc"):
        for path in sorted(folder.rglob("*")):
            if path.suffix in (".h", ".inc", ".cc", ".cu"):
                digest.update(f"{path}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


@contextlib.contextmanager
def _lock(path):
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _cached(cache, name, sources):
    """The library in ``cache``; the first process compiles it, the others wait."""
    cache.mkdir(parents=True, exist_ok=True)
    with _lock(cache / f"{name}.lock"):
        library = cache / f"{name}-{_content()}.so"
        if not library.exists():
            for old in cache.glob(f"{name}-*"):  # a process that has one open keeps it
                shutil.rmtree(old) if old.is_dir() else old.unlink()
            folder = cache / f"{library.stem}.tmp"
            folder.mkdir()
            _link(folder, library.name, sources)
            (folder / library.name).rename(library)
            folder.rmdir()
    return library


def build_toy(cache):
    """Compile the kernels that test the emulation itself."""
    return _cached(cache, "toy", [*MACHINE, HERE / "toy.cu"])


OPS = ("project", "shade", "bin", "blend", "weights")


def build(cache):
    """Compile all handlers; the name of each is ``emulated_`` and the op."""
    kernels = sorted(set((ROOT / "csrc" / "cuda").glob("*.cu")) - {ROOT / "csrc/cuda/sort.cu"})
    boundary = [ROOT / "csrc" / "ffi" / f"{op}.cc" for op in OPS]
    # The slowest first.
    kernels.sort(key=lambda path: -path.stat().st_size)
    sources = [*boundary, *kernels, *MACHINE, HERE / "sort.cc", HERE / "handlers.cc"]
    return _cached(cache, "cuda_host", sources)
