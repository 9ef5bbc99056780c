"""Sets up JAX for the process and holds the fixtures that every test module shares."""

import gc
import itertools
import os
import pathlib
import sys

# `python -m pytest` puts the checkout first on the path, where the package has no compiled module
# after `pip install .`: it must not shadow the installed package, neither here nor in the Python
# processes that tests start. An editable install is found without the path.
_ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:] = [entry for entry in sys.path if pathlib.Path(entry).resolve() != _ROOT]
os.environ["PYTHONSAFEPATH"] = "1"

# Read by XLA once, when its CPU client starts. The last of several equal flags wins.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
)

import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
from cuda_host import build  # noqa: E402
from helpers import backends, compilation, scenes  # noqa: E402

# Global rather than by context manager: the contexts are local to a Python thread, and some tests
# start threads of their own.
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_configure(config):
    """Choose how programs are compiled; keep them for all processes of this run, and later runs.

    The quick selection and what it leaves out compile without optimisation, unless ``XLA_FLAGS``
    has a level of it: the programs are small, and run once. The key of a program that is kept holds
    its operations, the options and the version of XLA. Of our own code it has the names of the
    targets only, which are looked up when it runs.
    """
    chosen = "xla_backend_optimization_level" in os.environ["XLA_FLAGS"]
    if config.option.markexpr in ("not slow", "slow") and not chosen:
        os.environ["XLA_FLAGS"] += " " + compilation.as_flags()
    folder = _cache_folder(config)
    if folder is not None:
        jax.config.update("jax_compilation_cache_dir", str(folder / "xla"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
        jax.config.update("jax_persistent_cache_enable_xla_caches", "none")


def _cache_folder(config):
    cache = getattr(config, "cache", None)  # absent with -p no:cacheprovider
    return cache and cache.mkdir("jax_gsplat_depth")


def pytest_xdist_auto_num_workers(config):
    """One process per core, as far as memory goes; a test that is named runs in this one."""
    if any("::" in argument for argument in config.args):
        return 0
    gigabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES") / 2**30
    return max(1, min(len(os.sched_getaffinity(0)), int(gigabytes / 4), 16))


def _same(value, chosen):
    if isinstance(chosen, type(pytest.param())):
        (chosen,) = chosen.values
    # Scenes hold arrays, which have no truth value: they are told apart by identity.
    return value is chosen or (not isinstance(chosen, scenes.Scene) and value == chosen)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark as slow what the quick selection leaves out: ``quick`` says what it keeps of a test.

    The host runs the CUDA kernels in float32 only.
    """
    for item in items:
        values = item.callspec.params if hasattr(item, "callspec") else {}
        on_host = values.get("every_backend") == "cuda_host" or "cuda_host" in item.fixturenames
        kept = not (on_host and values.get("dtype") == "float64")
        for node, mark in item.iter_markers_with_node("quick"):
            for name, chosen in mark.kwargs.items():
                # A mark of a whole file holds for those of its tests that have the parameter.
                if node is item or name in values:
                    kept &= any(_same(values[name], x) for x in chosen)
        if not kept:
            item.add_marker(pytest.mark.slow)


_tests = itertools.count(1)


@pytest.fixture(autouse=True)
def few_memory_maps():
    """Compiled functions of earlier tests go when the process has many memory maps.

    Linux allows 65530, each compiled function takes several, and LLVM crashes when there are no
    more. Counting them takes milliseconds, so not every test does.
    """
    yield
    maps = pathlib.Path("/proc/self/maps")
    if next(_tests) % 20 == 0 and maps.exists() and maps.read_bytes().count(b"\n") > 25_000:
        jax.clear_caches()
        gc.collect()


@pytest.fixture
def x64():
    """Float64 is available inside the test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    """Run the test once per dtype; x64 is on exactly when the dtype needs it."""
    with jax.enable_x64(request.param == "float64"):
        yield np.dtype(request.param)


@pytest.fixture(params=["cpu", "cuda"])
def backend(request):
    """Run the test on the first device of each backend; a missing backend skips."""
    with backends.device(request.param):
        yield request.param


@pytest.fixture(params=["cpu", "cuda", "cuda_host"])
def every_backend(request):
    """Run the test as ``backend`` does, and on the CUDA kernels compiled for the host."""
    if request.param == "cuda_host":
        request.getfixturevalue("cuda_host")
        yield request.param
    else:
        with backends.device(request.param):
            yield request.param


@pytest.fixture(scope="session")
def emulation(cache_folder):
    """The library with the CUDA kernels compiled for the host."""
    if build.COMPILER is None:
        pytest.skip("no C++ compiler found (CXX, g++, c++, clang++)")
    return backends.load_emulation(cache_folder / "cuda_host")


_emulation = pytest.StashKey()


@pytest.fixture
def cuda_host(request, emulation):
    """All calls of the test run their CUDA kernels on the host."""
    request.node.stash[_emulation] = emulation
    with backends.cuda_host(emulation, request.node.name):
        yield emulation


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem):
    """A test that passes on the host's CUDA kernels has called them: no cache went around them."""
    library = pyfuncitem.stash.get(_emulation, None)
    if library is None or pyfuncitem.get_closest_marker("calls_nothing"):
        return (yield)
    before = library.jgd_cuda_host_n_calls()
    result = yield
    assert library.jgd_cuda_host_n_calls() > before, "no CUDA kernel was called"
    return result


@pytest.fixture(scope="session")
def cache_folder(request, tmp_path_factory):
    """Folder that all processes of a run share, and later runs if pytest has its cache."""
    return _cache_folder(request.config) or tmp_path_factory.getbasetemp().parent


@pytest.fixture(scope="session")
def shared():
    """Folder with golden files and data, next to the repository; absent in a plain checkout."""
    path = pathlib.Path(__file__).resolve().parents[2] / "shared"
    if not path.is_dir():
        pytest.skip(f"{path} is absent")
    return path
