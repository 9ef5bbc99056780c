"""Measure one library on one scene in this process: the worker of bench_gpu.py.

usage: python measure_gpu.py OPTIONS, where OPTIONS is the JSON of the fields of ``Options``. Prints
the result as one line of JSON; a library that is missing, fails or draws something else gives a
result with the field ``error``. Every library has a process of its own, so that no memory pool
takes from another.

The library "reference" is the package on the CPU. It writes the scene and its pictures to the files
that the other libraries read, and measures nothing.
"""

import dataclasses
import importlib.metadata
import inspect
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

import measure
import numpy as np
import scenes

# Differentiated in the timed backward passes. Camera and background are constants.
PARAMETERS = ("means", "quats", "scales", "opacities", "sh")
OUTPUTS = ("image", "depth", "weight")
NEAR_PLANE, EPS2D, SH_DEGREE = 0.01, 0.3, 3
_QUEUE = 10  # calls in flight when the time between two results is measured

# Worst picture that is still timed: PSNR of the image, mean |difference| of the weight, and of the
# depth in units of its mean, where the weight is above one half. The same kernels with another
# rounding flip a branch in a few pixels; another library may also cut its Gaussians off elsewhere.
_GATES = {
    "jax_gsplat_depth": {"psnr": 60.0, "weight": 1e-4, "depth": 1e-4, "gradient": 1e-2},
    "other": {"psnr": 40.0, "weight": 1e-2, "depth": 1e-2, "gradient": math.inf},
}


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure.

    Attributes:
        library: "reference", or one of ``LIBRARIES``.
        scene: Name of the scene.
        shared: Folder of the frozen scenes.
        scene_file: The scene's arrays; written by "reference".
        reference_file: The reference's pictures and gradient norms; written by "reference".
        repeats: Timed calls of each function.
        max_seconds: Time after which a function is not called again.
        capacity: ``Config.capacity`` of the package.
        deterministic: ``Config.deterministic`` of the package.
        stages: Whether to measure the stages of the package one by one.
    """

    library: str
    scene: str
    shared: str
    scene_file: str
    reference_file: str
    repeats: int
    max_seconds: float
    capacity: int | None = None
    deterministic: bool = False
    stages: bool = True


@dataclasses.dataclass
class Renderer:
    """A library on a scene.

    Attributes:
        cases: Functions to time, by outputs ("image" or "all") and mode ("forward" or
            "forward_backward").
        wait: Returns its argument, a result, when that is there.
        pictures: From the result of a forward case to arrays by name of the output.
        gradients: From the result of a forward + backward case to L2 norms by parameter.
        settings: What a reader of the numbers has to know.
        device: Name of the device.
        reset_peak: Starts a new measurement of the peak memory; None if that cannot be done.
        peak: Bytes at the peak, or None.
        planned: Bytes that the compiler planned for a case, or None.
    """

    cases: dict[tuple[str, str], Callable[[], Any]]
    wait: Callable[[Any], Any]
    pictures: Callable[[str, Any], dict[str, np.ndarray]]
    gradients: Callable[[Any], dict[str, float]]
    settings: dict[str, Any]
    device: str
    reset_peak: Callable[[], Any] | None
    peak: Callable[[], int | None]
    planned: Callable[[Callable[[], Any]], int | None] = lambda case: None


class WrongPicture(Exception):
    """The library draws something else."""


# ------------------------------------------------------------------------------------- libraries


def package(scene: dict[str, Any], options: Options) -> Renderer:
    """The package under test, on JAX's default device."""
    import jax_gsplat_depth as jgd

    config = jgd.Config(
        near_plane=NEAR_PLANE,
        eps2d=EPS2D,
        capacity=options.capacity,
        deterministic=options.deterministic,
    )
    render = measure.package_renderer(int(scene["width"]), int(scene["height"]), config)
    constants = {name: _to_jax(scene[name]) for name in ("viewmat", "K", "background")}
    parameters = {name: _to_jax(scene[name]) for name in PARAMETERS}
    settings = {"capacity": options.capacity, "deterministic": options.deterministic}
    return _jax_renderer(
        {outputs: lambda p: render({**p, **constants}) for outputs in ("image", "all")},
        parameters,
        scene,
        settings,
    )


def splax(scene: dict[str, Any], options: Options) -> Renderer:
    """Splax, whose kernels are written in Warp and called from JAX.

    Its versions differ: some take activated scales, opacities and RGB colours, others logarithms,
    logits and SH coefficients. The names of its arguments tell.
    """
    del options
    import splax as library

    names = list(inspect.signature(library.render).parameters)[:5]
    takes_logs, takes_sh = "log" in names[1], "sh" in names[3]
    opacities = scene["opacities"].astype(np.float64)
    logits = np.log(opacities / np.maximum(1 - opacities, 1e-7)).astype(np.float32)
    values = {
        "means": scene["means"],
        "scales": np.log(scene["scales"]) if takes_logs else scene["scales"],
        "quats": scene["quats"],
        "sh": scene["sh" if takes_sh else "colors"],
        "opacities": logits if "logit" in names[4] else scene["opacities"],
    }
    K = scene["K"].astype(np.float64)
    camera = {
        "viewmat": _to_jax(scene["viewmat"]),
        "background": _to_jax(scene["background"]),
        "img_shape": (int(scene["height"]), int(scene["width"])),
        "f": (float(K[0, 0]), float(K[1, 1])),
        "c": (float(K[0, 2]), float(K[1, 2])),
        "clip_thresh": NEAR_PLANE,
    }

    def render(p: Any, with_depth: bool) -> tuple[Any, ...]:
        image, extra = library.render(
            *(p[name] for name in values), **camera, render_depth=with_depth
        )
        if not with_depth:
            return (image,)
        # Depth is a fourth channel and extra the weight; older versions have no weight.
        return (image[..., :3], image[..., 3], extra) if image.shape[-1] == 4 else (image, extra)

    settings = {
        "arguments": names,
        "colors": "SH of degree 3" if takes_sh else "RGB given, without SH",
        "memory": "JAX's pool plus the high-water mark of Warp's",
    }
    renderer = _jax_renderer(
        {"image": lambda p: render(p, False), "all": lambda p: render(p, True)},
        {name: _to_jax(value) for name, value in values.items()},
        scene,
        settings,
    )
    jax_peak, jax_gradients = renderer.peak, renderer.gradients
    # The others are with respect to a logarithm, a logit or a colour.
    comparable = [name for name, value in values.items() if value is scene[name]]

    def peak() -> int | None:
        in_jax = jax_peak()
        if in_jax is None:
            return None
        import warp

        return in_jax + int(warp.get_mempool_used_mem_high(warp.get_device("cuda:0")))

    # Its compiler plans nothing for what Warp allocates.
    return dataclasses.replace(
        renderer,
        peak=peak,
        planned=lambda case: None,
        gradients=lambda result: {k: jax_gradients(result)[k] for k in comparable},
    )


def gsplat(scene: dict[str, Any], options: Options) -> Renderer:
    """The PyTorch library gsplat."""
    del options
    import gsplat as library
    import torch

    device = torch.device("cuda")

    def tensor(name: str) -> Any:
        return torch.from_numpy(np.ascontiguousarray(scene[name])).to(device)

    parameters = [tensor(name).requires_grad_(True) for name in PARAMETERS]
    camera = {
        "viewmats": tensor("viewmat")[None],
        "Ks": tensor("K")[None],
        "width": int(scene["width"]),
        "height": int(scene["height"]),
        "backgrounds": tensor("background")[None],
    }
    options_of_call = {
        "sh_degree": SH_DEGREE,
        "near_plane": NEAR_PLANE,
        "eps2d": EPS2D,
        "rasterize_mode": "classic",
    }
    cotangents = [torch.from_numpy(value).to(device) for value in _cotangents(scene)]

    def render(with_depth: bool, packed: bool) -> tuple[Any, ...]:
        means, quats, scales, opacities, sh = parameters
        colors, alphas, _ = library.rasterization(
            means=means,
            quats=quats,
            scales=scales,
            opacities=opacities,
            colors=sh,
            packed=packed,
            render_mode="RGB+ED" if with_depth else "RGB",
            **camera,
            **options_of_call,
        )
        if not with_depth:
            return (colors[0, ..., :3],)
        return colors[0, ..., :3], colors[0, ..., 3], alphas[0, ..., 0]

    def forward(with_depth: bool, packed: bool) -> tuple[Any, ...]:
        with torch.no_grad():
            return render(with_depth, packed)

    def forward_backward(with_depth: bool, packed: bool) -> tuple[Any, ...]:
        outputs = render(with_depth, packed)
        return outputs, torch.autograd.grad(outputs, parameters, cotangents[: len(outputs)])

    def wait(result: Any) -> Any:
        torch.cuda.synchronize()
        return result

    seconds = {}
    for packed in (False, True):
        for _ in range(3):  # the last one counts: the first may compile the kernels
            start = time.perf_counter()
            wait(forward_backward(False, packed))
            seconds[packed] = time.perf_counter() - start
    packed = seconds[True] < seconds[False]
    torch.cuda.empty_cache()
    return Renderer(
        cases={
            (outputs, mode): lambda function=function, depth=outputs == "all": function(
                depth, packed
            )
            for outputs in ("image", "all")
            for mode, function in (("forward", forward), ("forward_backward", forward_backward))
        },
        wait=wait,
        pictures=lambda outputs, result: {
            name: value.detach().cpu().numpy() for name, value in zip(OUTPUTS, result, strict=False)
        },
        gradients=lambda result: {
            name: float(torch.linalg.vector_norm(value))
            for name, value in zip(PARAMETERS, result[1], strict=True)
        },
        settings={**options_of_call, "packed": packed, "packed_ms": seconds[True] * 1e3}
        | {"unpacked_ms": seconds[False] * 1e3, "torch": torch.__version__},
        device=torch.cuda.get_device_name(),
        reset_peak=torch.cuda.reset_peak_memory_stats,
        peak=torch.cuda.max_memory_allocated,
    )


LIBRARIES = {"jax_gsplat_depth": package, "gsplat": gsplat, "splax": splax}


def _to_jax(value: Any) -> Any:
    import jax.numpy as jnp

    return jnp.asarray(np.asarray(value, np.float32))


def _cotangents(scene: dict[str, Any]) -> list[np.ndarray]:
    """Fixed derivatives of the loss with respect to image, depth and weight."""
    rng = np.random.default_rng(0)
    shape = scene["cotangent"].shape[:2]
    return [scene["cotangent"], *(rng.standard_normal(shape, np.float32) for _ in range(2))]


def _jax_renderer(
    renders: dict[str, Callable[[Any], tuple[Any, ...]]],
    parameters: dict[str, Any],
    scene: dict[str, Any],
    settings: dict[str, Any],
) -> Renderer:
    """A library that is called from JAX; ``renders`` by outputs."""
    import jax
    import jax.numpy as jnp

    device = next(iter(parameters["means"].devices()))
    cotangents = tuple(_to_jax(value) for value in _cotangents(scene))
    cases = {}
    for outputs, render in renders.items():
        n_outputs = len(jax.eval_shape(render, parameters))
        n_outputs = 1 if outputs == "image" else n_outputs
        modes = measure.whole_cases(render, parameters, cotangents, n_outputs)
        cases |= {(outputs, mode): case for mode, case in modes.items()}

    def pictures(outputs: str, result: Any) -> dict[str, np.ndarray]:
        values = {k: np.asarray(v) for k, v in zip(OUTPUTS, result, strict=False)}
        return values if outputs == "all" else {"image": values["image"]}

    def peak() -> int | None:
        stats = device.memory_stats()
        return stats["peak_bytes_in_use"] if stats else None

    def planned(case: Any) -> int | None:
        analysis = case.func.lower(*case.args).compile().memory_analysis()
        if analysis is None:
            return None
        sizes = ("argument", "output", "temp")
        return sum(getattr(analysis, f"{size}_size_in_bytes") for size in sizes)

    return Renderer(
        cases=cases,
        wait=jax.block_until_ready,
        pictures=pictures,
        gradients=lambda result: {
            name: float(jnp.sqrt(jnp.sum(value**2))) for name, value in result[1][0].items()
        },
        settings=settings,
        device=f"{device.platform}: {device.device_kind}",
        # The pool's high-water mark is of the process; the cases run in the order of their needs.
        reset_peak=None,
        peak=peak,
        planned=planned,
    )


# ----------------------------------------------------------------------------------- measurement


def make_reference(options: Options) -> dict[str, Any]:
    """Write the scene and the CPU's pictures of it; return what is known of the scene."""
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
    """Numbers that say how heavy a scene is, and its colours as seen by the camera."""
    import jax
    import jax.numpy as jnp

    import jax_gsplat_depth as jgd

    width, height = int(scene["width"]), int(scene["height"])
    arrays = {k: _to_jax(scene[k]) for k in (*PARAMETERS, "viewmat", "K")}
    gaussians = jgd.Gaussians(**{k: arrays[k] for k in PARAMETERS})
    camera = jgd.Camera(arrays["viewmat"], arrays["K"], width=width, height=height)
    out, splats, colors = jax.jit(
        lambda g, c: (jgd.render(g, c), jgd.project(g, c), jgd.shade(g, c))
    )(gaussians, camera)
    xx, xy, yy = jnp.moveaxis(splats.conics, -1, 0)
    # Pixels in which the alpha of a splat is at least 1/255, those outside of the image included.
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
    """Differences from the reference's pictures; raises ``WrongPicture`` if they are too large."""
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
    """Largest relative difference of the norms; raises ``WrongPicture`` if it is too large."""
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
    times = measure.time_together({"": case}, options, renderer.wait)[""]
    # Without the gap between a result and the next call: how long the device is busy, if it is the
    # slower side.
    n_queued = max(1, min(_QUEUE, int(options.max_seconds * 1e3 / times["median_ms"])))
    start = time.perf_counter()
    result = None
    for _ in range(n_queued):
        result = case()  # dropping the one before frees its memory in the order of the queue
    renderer.wait(result)
    times["queued_ms"] = (time.perf_counter() - start) * 1e3 / n_queued
    times["peak_bytes"] = peak
    times["planned_bytes"] = _or_none(renderer.planned, case)
    return times


def _or_none(read: Callable[..., int | None], *arguments: Any) -> int | None:
    """A number that is not worth losing the times for."""
    try:
        return read(*arguments)
    except Exception:
        traceback.print_exc()
        return None


def _package_details(scene: dict[str, Any], options: Options) -> dict[str, Any]:
    """Stages of the package, and how much of the lists fitted."""
    import jax

    import jax_gsplat_depth as jgd

    width, height = int(scene["width"]), int(scene["height"])
    config = jgd.Config(
        near_plane=NEAR_PLANE,
        eps2d=EPS2D,
        capacity=options.capacity,
        deterministic=options.deterministic,
    )
    arrays = {k: _to_jax(scene[k]) for k in (*PARAMETERS, "viewmat", "K", "background")}
    gaussians = jgd.Gaussians(**{k: arrays[k] for k in PARAMETERS})
    camera = jgd.Camera(arrays["viewmat"], arrays["K"], width=width, height=height)
    render = jax.jit(lambda g, c: jgd.render(g, c, config=config))
    out = render(gaussians, camera)
    details: dict[str, Any] = {
        "n_isects": int(out.n_isects),
        "n_isects_listed": int(out.n_isects_listed),
    }
    if options.stages:
        cotangents = tuple(_to_jax(value) for value in _cotangents(scene))
        cases, _ = measure.stage_cases(arrays, width, height, cotangents, 3, config)
        details["stages"] = measure.time_together(cases, options)
    return details


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name.replace("_", "-"))
    except importlib.metadata.PackageNotFoundError:
        return None


def _used_bytes() -> int | None:
    """Memory in use on the GPU as its driver sees it: pools, contexts and code included."""
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
