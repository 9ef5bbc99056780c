"""Runs the library's calls on a device, or on the CUDA kernels compiled for the host.

What was traced for one of them is never run for another: helpers that outlive a test are jitted
with ``jit`` of this file.
"""

import contextlib
import ctypes
import functools
import importlib.util
import os
import re
import zlib

import jax
import pytest
from cuda_host import build

from jax_gsplat_depth import _ffi

EMULATED = "emulated_"


@contextlib.contextmanager
def stand_in(prefix):
    """On the CPU, calls that are traced get the targets with this prefix."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_ffi, "cpu_stand_in", prefix)
        yield


def jit(function, *, static_argnums=(), compiler_options=None):
    """``jax.jit`` for a function that several tests share: the stand-in is part of its key."""

    @functools.partial(
        jax.jit,
        static_argnums=static_argnums,
        static_argnames="stand_in",
        compiler_options=compiler_options,
    )
    def keyed(*args, stand_in):
        assert stand_in == _ffi.cpu_stand_in
        return function(*args)

    return lambda *args: keyed(*args, stand_in=_ffi.cpu_stand_in)


def load(path):
    """Open a library whose schedule follows from a seed."""
    library = ctypes.CDLL(str(path))
    library.jgd_cuda_host_set_seed.argtypes = [ctypes.c_uint64]
    return library


def load_emulation(cache):
    """Register every op as ``emulated_<op>``; compiled once for all who share ``cache``."""
    library = load(build.build(cache))
    library.jgd_cuda_host_n_calls.restype = ctypes.c_uint64
    ops = re.findall(r"JGD_OP\((\w+)\)", (build.ROOT / "csrc" / "ffi" / "ops.inc").read_text())
    for op in ops:
        target = jax.ffi.pycapsule(getattr(library, EMULATED + op))
        jax.ffi.register_ffi_target(EMULATED + op, target, platform="cpu")
    return library


@contextlib.contextmanager
def device(name):
    """Make the first device of a backend the default; a missing backend skips the test."""
    try:
        first = jax.devices(name)[0]
    except RuntimeError:
        pytest.skip(f"no {name} device")
    if name == "cuda" and importlib.util.find_spec("jax_gsplat_depth._cuda") is None:
        pytest.skip("the package was built without its CUDA module")
    with jax.default_device(first):
        yield


@contextlib.contextmanager
def cuda_host(library, test_name):
    """Run the CUDA kernels on the host, with a schedule of this test's own."""
    seed = int(os.environ.get("JGD_CUDA_HOST_SEED", "0"), 0)
    library.jgd_cuda_host_set_seed(zlib.crc32(test_name.encode()) + seed)
    with device("cpu"), stand_in(EMULATED):
        yield
