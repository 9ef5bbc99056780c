"""Measure one scene in this process: the worker of bench_cpu.py.

usage: python measure.py OPTIONS, where OPTIONS is the JSON of the fields of ``Options``. Prints the
result as one line of JSON. The number of threads is fixed before JAX is imported, because XLA sizes
its pool when it starts: one process measures one number of threads.
"""

import ctypes
import dataclasses
import functools
import gc
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import scenes

_TILE_PIXELS = 256
_PARAMETERS = ("means", "quats", "scales", "opacities", "viewmat", "K", "background")


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure.

    Attributes:
        scene: Name in ``scenes.NAMES``.
        threads: Number of cores and of XLA threads.
        colors: "rgb" for fixed colours, "sh" for spherical harmonics of degree 3.
        cotangents: Outputs that the loss of forward + backward depends on: "image" or "all".
        baseline: Whether to measure the pure-JAX renderer beside the package.
        stages: Whether to measure the stages of the package one by one.
        repeats: Timed calls of each function.
        max_seconds: Time after which a group of functions is not called again.
    """

    scene: str
    threads: int
    colors: str
    cotangents: str
    baseline: bool
    stages: bool
    repeats: int
    max_seconds: float


def limit_threads(threads: int) -> None:
    """Restrict this process, and with it XLA's pool, to ``threads`` cores."""
    os.environ["NPROC"] = str(threads)
    os.environ["JAX_PLATFORMS"] = "cpu"
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def time_together(
    cases: dict[Any, Callable[[], Any]],
    options: Any,
    wait: Callable[[Any], Any] | None = None,
) -> dict[Any, dict]:
    """Time functions in turn, so that a disturbance of the machine hits all of them alike.

    Args:
        cases: Functions without arguments that return JAX arrays.
        options: Number of repeats and time limit: the fields ``repeats`` and ``max_seconds``.
        wait: Called with a result, returns when it is there; default ``jax.block_until_ready``.

    Returns:
        Per function: best, median and all times in milliseconds, the least time that all threads
        together computed (which other programs disturb little), and the seconds that the first
        call took, compilation included.
    """
    if wait is None:
        import jax

        wait = jax.block_until_ready
    first = {}
    times, cpu_times = {name: [] for name in cases}, {name: [] for name in cases}
    for name, case in cases.items():
        start = time.perf_counter()
        wait(case())
        first[name] = time.perf_counter() - start
        wait(case())
    gc.collect()
    gc.disable()
    begin = time.perf_counter()
    for done in range(options.repeats):
        if done and time.perf_counter() - begin > options.max_seconds:
            break
        for name, case in cases.items():
            start, cpu_start = time.perf_counter(), time.process_time()
            wait(case())
            times[name].append((time.perf_counter() - start) * 1e3)
            cpu_times[name].append((time.process_time() - cpu_start) * 1e3)
    gc.enable()
    return {
        name: {
            "best_ms": min(values),
            "median_ms": statistics.median(values),
            "best_cpu_ms": min(cpu_times[name]),
            "times_ms": [round(value, 3) for value in values],
            "first_call_s": first[name],
        }
        for name, values in times.items()
    }


def peak_memory(case: Callable[[], Any]) -> int | None:
    """Bytes by which the resident memory rises at most during a call, results included.

    None where the kernel does not offer a resettable high-water mark.
    """
    import jax

    try:
        gc.collect()
        # Freed memory that the allocator keeps would hide what the call needs.
        ctypes.CDLL(None).malloc_trim(0)
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
        before = _status_bytes("VmRSS")
        jax.block_until_ready(case())
        return _status_bytes("VmHWM") - before
    except (OSError, AttributeError):
        return None


def _status_bytes(field: str) -> int:
    with open("/proc/self/status") as file:
        for line in file:
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    raise OSError(field)


def whole_cases(render, parameters, cotangents, n_outputs) -> dict[str, Callable[[], Any]]:
    """Forward, and forward + backward, of ``render(parameters) -> (image, depth, weight)``."""
    import jax

    forward = jax.jit(render)

    @jax.jit
    def forward_backward(parameters, cotangents):
        outputs, pull = jax.vjp(lambda p: render(p)[:n_outputs], parameters)
        return outputs, pull(cotangents)

    # partial, so that a caller can also lower the jitted function.
    return {
        "forward": functools.partial(forward, parameters),
        "forward_backward": functools.partial(forward_backward, parameters, cotangents[:n_outputs]),
    }


def package_renderer(width: int, height: int, config: Any = None):
    """The package under test as a function of the parameters."""
    import jax_gsplat_depth as jgd

    def render(p):
        inputs = _inputs(p, width, height)
        output = jgd.render(*inputs, background=p["background"], config=config)
        return output.image, output.depth, output.weight

    return render


def _inputs(p, width, height):
    import jax_gsplat_depth as jgd

    gaussians = jgd.Gaussians(
        p["means"],
        p["quats"],
        p["scales"],
        p["opacities"],
        sh=p.get("sh"),
        colors=p.get("colors"),
    )
    return gaussians, jgd.Camera(p["viewmat"], p["K"], width=width, height=height)


def baseline_renderer(parameters, width: int, height: int, threads: int):
    """The pure-JAX renderer as a function of the parameters, with room for this scene."""
    import pure_jax

    settings = pure_jax.Settings(width, height)
    # More tiles at a time give XLA work to divide over its threads, but the lists of a group are
    # padded to the longest: there have to be many groups.
    n_tiles = settings.n_tiles_x * settings.n_tiles_y
    group = max(8, min(32 if threads == 1 else 128, n_tiles // 8))
    settings = dataclasses.replace(settings, group=group)
    capacity = pure_jax.required_capacity(pure_jax.Scene(**parameters), settings)
    settings = dataclasses.replace(settings, capacity=capacity)
    return lambda p: pure_jax.render(pure_jax.Scene(**p), settings)


def stage_cases(parameters, width, height, cotangents, n_outputs, config=None):
    """The stages of the package one by one, forward and pull-back, and the pair count."""
    import jax

    import jax_gsplat_depth as jgd

    floats = ("means2d", "depths", "conics", "opacities")
    size = {"width": width, "height": height, "config": config}

    def project(p):
        splats = jgd.project(*_inputs(p, width, height), config=config)
        return {name: getattr(splats, name) for name in floats}, splats.radii

    def shade(p):
        return jgd.shade(*_inputs(p, width, height), config=config)

    def make_bin(values, radii):
        return jgd.bin(jgd.Splats(**values, radii=radii), **size)

    def blend(values, colors, background):
        output = jgd.blend(
            jgd.Splats(**values, radii=radii), colors, lists, **size, background=background
        )
        return (output.image, output.depth, output.weight)[:n_outputs]

    values, radii = jax.jit(project)(parameters)
    colors = jax.jit(shade)(parameters)
    lists = jax.jit(make_bin)(values, radii)
    blended = values, colors, parameters["background"]
    project_jit, bin_jit, blend_jit = jax.jit(project), jax.jit(make_bin), jax.jit(blend)
    cases = {
        "project_forward": lambda: project_jit(parameters),
        "project_backward": _pull_back(lambda p: project(p)[0], (parameters,), values),
        "bin": lambda: bin_jit(values, radii),
        "blend_forward": lambda: blend_jit(*blended),
        "blend_backward": _pull_back(blend, blended, cotangents[:n_outputs]),
    }
    if "sh" in parameters:
        shade_jit = jax.jit(shade)
        cases["shade_forward"] = lambda: shade_jit(parameters)
        cases["shade_backward"] = _pull_back(shade, (parameters,), colors)
    return cases, int(np.asarray(lists.tile_counts, np.int64).sum())


def _pull_back(function, arguments, cotangent):
    """A call of the pull-back alone, with the residuals of one forward pass at hand."""
    import jax

    _, pull = jax.vjp(jax.jit(function), *arguments)
    run = jax.jit(lambda pull, cotangent: pull(cotangent))
    return lambda: run(pull, cotangent)


def measure(options: Options) -> dict:
    """Measure one scene; see ``Options``."""
    import jax
    import jax.numpy as jnp

    scene, source = scenes.load(options.scene)
    width, height = int(scene["width"]), int(scene["height"])
    appearance = "sh" if options.colors == "sh" else "colors"
    parameters = {name: jnp.asarray(scene[name]) for name in (*_PARAMETERS, appearance)}
    rng = np.random.default_rng(0)
    maps = [rng.standard_normal((height, width), np.float32) for _ in range(2)]
    cotangents = tuple(jnp.asarray(value) for value in (scene["cotangent"], *maps))
    n_outputs = 3 if options.cotangents == "all" else 1

    renderers = {"package": package_renderer(width, height)}
    if options.baseline:
        renderers["pure_jax"] = baseline_renderer(parameters, width, height, options.threads)
    cases = {
        (name, mode): case
        for name, render in renderers.items()
        for mode, case in whole_cases(render, parameters, cotangents, n_outputs).items()
    }
    result: dict[str, Any] = {
        "scene": options.scene,
        "source": source,
        "threads": options.threads,
        "colors": options.colors,
        "cotangents": options.cotangents,
        "n_gaussians": len(scene["means"]),
        "width": width,
        "height": height,
        "renderers": {name: {} for name in renderers},
    }
    for (name, mode), times in time_together(cases, options).items():
        times["peak_bytes"] = peak_memory(cases[name, mode])
        result["renderers"][name][mode] = times
    if options.baseline:
        images = [np.asarray(cases[name, "forward"]()[0]) for name in renderers]
        difference = np.abs(images[0] - images[1])
        result["image_difference"] = {
            "max": float(difference.max()),
            "mean": float(difference.mean()),
        }
    if options.stages:
        cases, n_intersections = stage_cases(parameters, width, height, cotangents, n_outputs)
        stages = result["stages"] = time_together(cases, options)
        result["n_intersections"] = n_intersections
        pairs = n_intersections * _TILE_PIXELS
        for name in ("blend_forward", "blend_backward"):
            stages[name]["pairs_per_second"] = pairs / stages[name]["best_ms"] * 1e3
    jax.clear_caches()
    return result


def main() -> None:
    options = Options(**json.loads(sys.argv[1]))
    limit_threads(options.threads)
    print(json.dumps(measure(options)))


if __name__ == "__main__":
    main()
