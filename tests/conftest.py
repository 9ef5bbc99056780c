"""Process-wide JAX settings and the fixtures that every test module shares."""

import gc
import importlib.util
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

# Read by XLA once, when its CPU client starts: has to be in place before the first import of jax.
# The last of several equal flags wins.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
)

import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

# Global rather than by context manager: the contexts are local to a Python thread, and some tests
# start threads of their own.
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

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
    """Make the first device of each backend the default; a missing backend skips."""
    try:
        device = jax.devices(request.param)[0]
    except RuntimeError:
        pytest.skip(f"no {request.param} device")
    if request.param == "cuda" and importlib.util.find_spec("jax_gsplat_depth._cuda") is None:
        pytest.skip("the package was built without its CUDA module")
    with jax.default_device(device):
        yield request.param


@pytest.fixture(scope="session")
def shared():
    """Folder with golden files and data, next to the repository; absent in a plain checkout."""
    path = pathlib.Path(__file__).resolve().parents[2] / "shared"
    if not path.is_dir():
        pytest.skip(f"{path} is absent")
    return path
