"""Measures one scene in this process: a worker of bench_cpu.py.

usage: python measure.py OPTIONS, where OPTIONS is the JSON of the fields of ``Options``. Prints the
results as one line of JSON. The number of threads is fixed before JAX is imported, because XLA
sizes its pool when it starts: one process measures one number of threads.
"""

import dataclasses
import json
import sys
from typing import Any

import native
import numpy as np
import renderers
import scenes
import timing

_TILE_PIXELS = native.TILE**2
_PARAMETERS = ("means", "quats", "scales", "opacities", "viewmat", "K", "background")
# Number of outputs, of image, depth and weight, that the loss reads.
_N_OUTPUTS = {"image": 1, "all": 3}


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure.

    Attributes:
        scene: Name in ``scenes.NAMES``.
        threads: Number of cores and of XLA's threads.
        colors: "rgb" for fixed colours, "sh" for spherical harmonics of degree 3.
        cotangents: Outputs that the losses of forward + backward are on: "image", "all" or both.
        baseline: Whether to measure the pure-JAX renderer beside the package.
        stages: Whether to measure the stages of the package one by one.
        kernels: Library of ``native.compile_kernels``, which counts the drawn pairs, or None.
        repeats: Number of timed calls of each function.
        max_seconds: Seconds after which a group of functions is not called again.
    """

    scene: str
    threads: int
    colors: str
    cotangents: list[str]
    baseline: bool
    stages: bool
    kernels: str | None
    repeats: int
    max_seconds: float


def measure(options: Options) -> list[dict[str, Any]]:
    """Measure one scene; return one result for each of the losses."""
    import jax.numpy as jnp

    scene, source = scenes.load(options.scene)
    width, height = int(scene["width"]), int(scene["height"])
    appearance = "sh" if options.colors == "sh" else "colors"
    parameters = {name: jnp.asarray(scene[name]) for name in (*_PARAMETERS, appearance)}
    rng = np.random.default_rng(0)
    maps = [rng.standard_normal((height, width), np.float32) for _ in range(2)]
    cotangents = tuple(jnp.asarray(value) for value in (scene["cotangent"], *maps))
    scene_of = {
        "scene": options.scene,
        "source": source,
        "threads": options.threads,
        "colors": options.colors,
        "n_gaussians": len(scene["means"]),
        "width": width,
        "height": height,
    }
    results = {loss: scene_of | {"cotangents": loss} for loss in options.cotangents}
    _add_renderers(results, options, parameters, cotangents, (width, height))
    if options.stages:
        _add_stages(results, options, parameters, cotangents, (width, height))
    return list(results.values())


def _add_renderers(results, options, parameters, cotangents, size):
    """Time whole renderers; forward, which no loss changes, once for all results."""
    drawn_by = {"package": renderers.package_renderer(*size)}
    if options.baseline:
        drawn_by["pure_jax"] = renderers.baseline_renderer(parameters, *size, options.threads)
    calls = {}
    for name, render in drawn_by.items():
        for loss in results:
            modes = renderers.whole_cases(render, parameters, cotangents, _N_OUTPUTS[loss])
            calls[name, "forward", None] = modes["forward"]
            calls[name, "forward_backward", loss] = modes["forward_backward"]
    measured = timing.time_together(calls, options)
    for key, times in measured.items():
        times["peak_bytes"] = timing.peak_memory(calls[key])
    for loss, result in results.items():
        result["renderers"] = {name: {} for name in drawn_by}
        for (name, mode, of), times in measured.items():
            if of in (None, loss):
                result["renderers"][name][mode] = times
    if options.baseline:
        images = [np.asarray(calls[name, "forward", None]()[0]) for name in drawn_by]
        difference = np.abs(images[0] - images[1])
        for result in results.values():
            result["image_difference"] = {
                "max": float(difference.max()),
                "mean": float(difference.mean()),
            }


def _add_stages(results, options, parameters, cotangents, size):
    """Time the stages; only the backward pass of blend depends on the loss."""
    calls = {}
    for loss in results:
        stages, splats, bins = renderers.stage_cases(
            parameters, *size, cotangents, _N_OUTPUTS[loss]
        )
        for name, call in stages.items():
            calls[name, loss if name == "blend_backward" else None] = call
    measured = timing.time_together(calls, options)
    counts = {"listed": _TILE_PIXELS * int(np.asarray(bins.tile_counts, np.int64).sum())}
    if options.kernels:
        counts["drawn"], counts["in_drawn_vectors"] = native.Kernels(options.kernels).drawn_pairs(
            *(np.asarray(getattr(splats, n)) for n in ("means2d", "conics", "opacities", "radii")),
            np.asarray(bins.order),
            *size,
        )
    for loss, result in results.items():
        result["n_intersections"] = counts["listed"] // _TILE_PIXELS
        result["pairs"] = counts
        stages = {name: times for (name, of), times in measured.items() if of in (None, loss)}
        for name in ("blend_forward", "blend_backward"):
            stages[name]["pairs_per_second"] = counts["listed"] / stages[name]["best_ms"] * 1e3
        result["stages"] = stages


def main() -> None:
    options = Options(**json.loads(sys.argv[1]))
    timing.limit_threads(options.threads)
    print(json.dumps(measure(options)))


if __name__ == "__main__":
    main()
