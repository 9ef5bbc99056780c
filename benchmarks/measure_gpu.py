"""Measures one library on one scene in this process: the worker of bench_gpu.py.

usage: python measure_gpu.py OPTIONS, where OPTIONS is the JSON of the fields of ``Options``. Prints
the result as one line of JSON; if a library is missing, fails or draws something else, the result
has the field ``error``. Every library has a process of its own, so that no memory pool
takes memory from another.

The library "reference" is the package on the CPU. It writes the scene and its pictures to the files
that the other libraries read, and measures nothing.
"""

import importlib.metadata
import json
import math
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import renderers
import scenes
import timing
from libraries import (
    EPS2D,
    LIBRARIES,
    NEAR_PLANE,
    PARAMETERS,
    Options,
    Renderer,
    make_cotangents,
    package,
    to_jax,
)

_QUEUE = 10  # calls in flight when the time between two results is measured

# Worst picture that is still timed: PSNR of the image, mean |difference| of the weight, and of the
# depth relative to its mean, where the weight is above one half. The same kernels with another
# rounding flip a branch in a few pixels; another library may also cut its Gaussians off elsewhere.
_GATES = {
    "jax_gsplat_depth": {"psnr": 60.0, "weight": 1e-4, "depth": 1e-4, "gradient": 1e-2},
    "other": {"psnr": 40.0, "weight": 1e-2, "depth": 1e-2, "gradient": math.inf},
}


class WrongPicture(Exception):
    """The library draws something else."""


# ------------------------------------------------------------------------------------- libraries


def make_reference(options: Options) -> dict[str, Any]:
    """Write the scene and the CPU's pictures of it; return a description of the scene."""
    scene, source = scenes.load(options.scene, Path(options.shared))
    width, height = int(scene["width"]), int(scene["height"])
    renderer = package(scene, options)
    result = renderer.wait(renderer.cases["all", "forward_backward"]())
    pictures = renderer.pictures("all", result[0])
    norms = {f"norm_{name}": norm for name, norm in renderer.gradients(result).items()}
    np.savez(options.reference_file, **pictures, **norms)
    statistics, colors = _statistics(scene)
    np.savez(options.scene_file, **scene | {"colors": colors})
    return {
        "scene": options.scene,
        "source": source,
        "n_gaussians": len(scene["means"]),
        "width": width,
        "height": height,
        **statistics,
    }


def _statistics(scene: dict[str, Any]) -> tuple[dict[str, Any], np.ndarray]:
    """Return numbers that say how heavy a scene is, and its colours as seen by the camera."""
    import jax
    import jax.numpy as jnp

    import jax_gsplat_depth as jgd

    width, height = int(scene["width"]), int(scene["height"])
    arrays = {k: to_jax(scene[k]) for k in (*PARAMETERS, "viewmat", "K")}
    gaussians = jgd.Gaussians(**{k: arrays[k] for k in PARAMETERS})
    camera = jgd.Camera(arrays["viewmat"], arrays["K"], width=width, height=height)
    out, splats, colors = jax.jit(
        lambda g, c: (jgd.render(g, c), jgd.project(g, c), jgd.shade(g, c))
    )(gaussians, camera)
    xx, xy, yy = jnp.moveaxis(splats.conics, -1, 0)
    # Pixels in which the alpha of a splat is at least 1/255, even outside of the image.
    area = 2 * np.pi * jnp.log(255 * splats.opacities) / jnp.sqrt(xx * yy - xy**2)
    inside = jnp.all((splats.means2d > 0) & (splats.means2d < jnp.array([width, height])), -1)
    pixels = np.asarray(jnp.where((splats.radii > 0) & inside, area, 0), np.float64).sum()
    n_tiles = -(-width // 16) * -(-height // 16)
    n_isects = int(out.n_isects)
    return {
        "n_isects": n_isects,
        "n_tiles": n_tiles,
        "mean_list": n_isects / n_tiles,
        "pairs_per_pixel": float(pixels / (width * height)),
        "mean_weight": float(jnp.mean(out.weight)),
    }, np.asarray(colors)


def compare(pictures: dict[str, np.ndarray], reference: Any, library: str) -> dict[str, float]:
    """Compare with the reference's pictures; raise ``WrongPicture`` if they differ too much."""
    gate = _GATES.get(library, _GATES["other"])
    found: dict[str, float] = {}
    for name, value in pictures.items():
        if value.shape != reference[name].shape:
            raise WrongPicture(f"{name} has shape {value.shape}, not {reference[name].shape}")
        if not np.isfinite(value).all():
            raise WrongPicture(f"{name} is not finite")
        difference = np.abs(value.astype(np.float64) - reference[name])
        found[f"{name}_max"] = float(difference.max())
        if name == "image":
            found["psnr"] = float(-10 * np.log10(max(np.mean(difference**2), 1e-20)))
        elif name == "weight":
            found["weight"] = float(difference.mean())
        else:
            hit = reference["weight"] > 0.5
            if hit.any():
                found["depth"] = float(difference[hit].mean() / reference["depth"][hit].mean())
    wrong = [
        f"{name} {found[name]:.3g}, limit {gate[name]:.3g}"
        for name in ("psnr", "weight", "depth")
        if name in found and (found[name] < gate[name]) == (name == "psnr")
    ]
    if wrong:
        raise WrongPicture(f"differs from the reference: {'; '.join(wrong)}")
    return found


def compare_gradients(norms: dict[str, float], reference: Any, library: str) -> float:
    """Return the largest relative difference of norms; raise ``WrongPicture`` at a large one."""
    wanted = {name: float(reference[f"norm_{name}"]) for name in norms}
    difference = max(abs(norms[k] - v) / max(v, 1e-30) for k, v in wanted.items())
    if not difference <= _GATES.get(library, _GATES["other"])["gradient"]:  # NaN fails too
        raise WrongPicture(f"norms of the gradients are {norms}, not {wanted}")
    return difference


def measure_library(options: Options) -> dict[str, Any]:
    """Measure a library; see ``Options``."""
    with np.load(options.scene_file) as file:
        scene = dict(file)
    with np.load(options.reference_file) as file:
        reference = dict(file)
    renderer = LIBRARIES[options.library](scene, options)
    result: dict[str, Any] = {
        "version": _version(options.library),
        "device": renderer.device,
        "settings": renderer.settings,
        "accuracy": {},
        "times": {"image": {}, "all": {}},
    }
    accuracy = result["accuracy"]
    for outputs in ("image", "all"):  # before any timing: no time of a wrong picture
        drawn = renderer.pictures(outputs, renderer.wait(renderer.cases[outputs, "forward"]()))
        accuracy[outputs] = compare(drawn, reference, options.library)
    # Forward first: a peak that cannot be reset is then that of the case itself.
    for mode in ("forward", "forward_backward"):
        for outputs in ("image", "all"):
            try:
                times = _measure_case(renderer, renderer.cases[outputs, mode], options)
                if (outputs, mode) == ("all", "forward_backward"):
                    norms = renderer.gradients(renderer.cases[outputs, mode]())
                    accuracy["gradient_norms"] = norms
                    accuracy["gradient"] = compare_gradients(norms, reference, options.library)
            except Exception as error:  # one that is out of memory must not hide the others
                traceback.print_exc()
                times = {"error": _message(error)}
            result["times"][outputs][mode] = times
    result["used_bytes"] = _used_bytes()
    if options.library == "jax_gsplat_depth":
        result |= _package_details(scene, options)
    return result


def _measure_case(renderer: Renderer, case: Callable[[], Any], options: Options) -> dict[str, Any]:
    if renderer.reset_peak is not None:
        renderer.reset_peak()
    renderer.wait(case())
    peak = _or_none(renderer.peak)
    times = timing.time_together({"": case}, options, renderer.wait)[""]
    # Without the gap between a result and the next call, this is the time for which the device is
    # busy, if it is the slower side.
    n_queued = max(1, min(_QUEUE, int(options.max_seconds * 1e3 / times["median_ms"])))
    start = time.perf_counter()
    result = None
    for _ in range(n_queued):
        result = case()  # dropping the last one frees its memory in the order of the queue
    renderer.wait(result)
    times["queued_ms"] = (time.perf_counter() - start) * 1e3 / n_queued
    times["peak_bytes"] = peak
    times["planned_bytes"] = _or_none(renderer.planned, case)
    return times


def _or_none(read: Callable[..., int | None], *arguments: Any) -> int | None:
    """Return a number, or None if it cannot be read: no reason to lose the times."""
    try:
        return read(*arguments)
    except Exception:
        traceback.print_exc()
        return None


def _package_details(scene: dict[str, Any], options: Options) -> dict[str, Any]:
    """Time the stages of the package, and count the pairs that fitted into the lists."""
    import jax

    import jax_gsplat_depth as jgd

    width, height = int(scene["width"]), int(scene["height"])
    config = jgd.Config(
        near_plane=NEAR_PLANE,
        eps2d=EPS2D,
        capacity=options.capacity,
        deterministic=options.deterministic,
    )
    arrays = {k: to_jax(scene[k]) for k in (*PARAMETERS, "viewmat", "K", "background")}
    gaussians = jgd.Gaussians(**{k: arrays[k] for k in PARAMETERS})
    camera = jgd.Camera(arrays["viewmat"], arrays["K"], width=width, height=height)
    render = jax.jit(lambda g, c: jgd.render(g, c, config=config))
    out = render(gaussians, camera)
    details: dict[str, Any] = {
        "n_isects": int(out.n_isects),
        "n_isects_listed": int(out.n_isects_listed),
    }
    if options.stages:
        cotangents = tuple(to_jax(value) for value in make_cotangents(scene))
        cases, _, _ = renderers.stage_cases(arrays, width, height, cotangents, 3, config)
        details["stages"] = timing.time_together(cases, options)
    return details


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name.replace("_", "-"))
    except importlib.metadata.PackageNotFoundError:
        return None


def _used_bytes() -> int | None:
    """Return the memory in use on the GPU as its driver sees it, with pools, contexts and code."""
    command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
        return int(done.stdout.split()[0]) * 2**20
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None


def _message(error: BaseException) -> str:
    first = str(error).strip().split("\n")[0][:300]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def main() -> None:
    options = Options(**json.loads(sys.argv[1]))
    if options.library == "reference":
        os.environ["JAX_PLATFORMS"] = "cpu"
    # A pool that starts with most of the memory would hide what is needed.
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    run = make_reference if options.library == "reference" else measure_library
    try:
        result = run(options)
    except Exception as error:
        traceback.print_exc()
        result = {"error": _message(error)}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
