"""Measures the cost of a call that has little to draw: a worker of bench_cpu.py.

usage: python small_scene.py OPTIONS, where OPTIONS is the JSON of the arguments of ``measure``.
Prints the result as one line of JSON.
"""

import ctypes
import gc
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import renderers
import scenes
import timing

_SCENE = "blob_1k_64"
_GAUSSIANS = ("means", "quats", "scales", "opacities", "colors")
# Calls of one function in a row: its caches are warm then, as in a user's loop.
_RUN = 50


def measure(threads: int, empty_call: str | None, repeats: int) -> dict[str, Any]:
    """Time calls from the cheapest to forward + backward; see ``small_cases``.

    Args:
        threads: Number of cores and of XLA threads.
        empty_call: Path of the library that ``native.compile_empty_call`` made, or None.
        repeats: Runs of 50 calls of each function.

    Returns:
        Per function the best and the median time of a call in microseconds, and page faults and
        voluntary context switches per call.
    """
    import jax

    calls = small_cases(empty_call)
    for call in calls.values():
        jax.block_until_ready(call())
    times = {name: [] for name in calls}
    usage = {name: [0, 0] for name in calls}
    gc.collect()
    gc.disable()
    for _ in range(repeats):
        for name, call in calls.items():
            before = resource.getrusage(resource.RUSAGE_SELF)
            for _ in range(_RUN):
                start = time.perf_counter()
                jax.block_until_ready(call())
                times[name].append((time.perf_counter() - start) * 1e6)
            after = resource.getrusage(resource.RUSAGE_SELF)
            usage[name][0] += after.ru_minflt - before.ru_minflt
            usage[name][1] += after.ru_nvcsw - before.ru_nvcsw
    gc.enable()
    return {
        "scene": _SCENE,
        "threads": threads,
        "calls": {
            name: {
                "best_us": min(values),
                "median_us": statistics.median(values),
                "page_faults": usage[name][0] / len(values),
                "context_switches": usage[name][1] / len(values),
            }
            for name, values in times.items()
        },
    }


def small_cases(empty_call: str | None) -> dict[str, Callable[[], Any]]:
    """Return calls that do more and more.

    ``empty``: a jitted function of one number. ``arguments``: a jitted function that takes and
    returns what the renderer does and only fills its results. ``ffi_1`` and ``ffi_3``: the same
    through one and three FFI calls that do nothing (left out without ``empty_call``).
    ``no_gaussians``: the renderer without Gaussians. Then the stages, and the whole.
    """
    import jax
    import jax.numpy as jnp

    scene, _ = scenes.load(_SCENE)
    width, height = int(scene["width"]), int(scene["height"])
    parameters = {
        name: jnp.asarray(scene[name]) for name in (*_GAUSSIANS, "viewmat", "K", "background")
    }
    none = parameters | {name: parameters[name][:0] for name in _GAUSSIANS}
    maps = jnp.zeros((height, width))
    cotangents = (jnp.asarray(scene["cotangent"]), maps, maps)

    empty, number = jax.jit(lambda x: x + 1), jnp.zeros(())

    @jax.jit
    def arguments(p):
        filled = jnp.full((height, width), p["K"][0, 0])
        return jnp.broadcast_to(filled[..., None], (height, width, 3)), filled, filled

    calls = {"empty": lambda: empty(number), "arguments": lambda: arguments(parameters)}
    if empty_call:
        for n in (1, 3):
            through = jax.jit(_empty_calls(empty_call, n, (height, width)))
            calls[f"ffi_{n}"] = lambda through=through: through(parameters)
    render = renderers.package_renderer(width, height)
    whole = renderers.whole_cases(render, parameters, cotangents, 1)
    empty_scene = jax.jit(render)
    stages, _, _ = renderers.stage_cases(parameters, width, height, cotangents, 1)
    return calls | {"no_gaussians": lambda: empty_scene(none)} | stages | whole


def _empty_calls(library, n, size):
    """Return a function that makes n calls, each of which waits for the previous one."""
    import jax
    import jax.numpy as jnp

    handler = ctypes.CDLL(library).empty_call
    jax.ffi.register_ffi_target("empty_call", jax.ffi.pycapsule(handler), platform="cpu")
    results = [jax.ShapeDtypeStruct((*size, *rest), jnp.float32) for rest in ((3,), (), ())]
    call = jax.ffi.ffi_call("empty_call", results)

    def run(p):
        outputs = ()
        for _ in range(n):
            outputs = call(*p.values(), *outputs)
        return outputs

    return run


def main() -> None:
    options = json.loads(sys.argv[1])
    timing.limit_threads(options["threads"])
    print(json.dumps(measure(**options)))


if __name__ == "__main__":
    main()
