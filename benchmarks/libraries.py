"""Brings the libraries that bench_gpu.py compares to one form, ``Renderer``.

A library is imported when its renderer is made; a missing one raises ImportError.
"""

import dataclasses
import inspect
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import renderers

# Differentiated in the timed backward passes. Camera and background are constants.
PARAMETERS = ("means", "quats", "scales", "opacities", "sh")
OUTPUTS = ("image", "depth", "weight")
NEAR_PLANE, EPS2D, SH_DEGREE = 0.01, 0.3, 3


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure.

    Attributes:
        library: "reference", or one of ``LIBRARIES``.
        scene: Name of the scene.
        shared: Folder of the frozen scenes.
        scene_file: The scene's arrays; written by "reference".
        reference_file: The reference's pictures and gradient norms; written by "reference".
        repeats: Number of timed calls of each function.
        max_seconds: Seconds after which a function is not called again.
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
        wait: Waits for a result and returns it.
        pictures: Turns the result of a forward case into arrays by name of the output.
        gradients: Turns the result of a forward + backward case into L2 norms by parameter.
        settings: Settings that a reader of the numbers has to know.
        device: Name of the device.
        reset_peak: Starts a new measurement of the peak memory; None if that cannot be done.
        peak: Returns the bytes at the peak, or None.
        planned: Returns the bytes that the compiler planned for a case, or None.
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


def package(scene: dict[str, Any], options: Options) -> Renderer:
    """Make the renderer of the package under test, on JAX's default device."""
    import jax_gsplat_depth as jgd

    config = jgd.Config(
        near_plane=NEAR_PLANE,
        eps2d=EPS2D,
        capacity=options.capacity,
        deterministic=options.deterministic,
    )
    render = renderers.package_renderer(int(scene["width"]), int(scene["height"]), config)
    constants = {name: to_jax(scene[name]) for name in ("viewmat", "K", "background")}
    parameters = {name: to_jax(scene[name]) for name in PARAMETERS}
    settings = {"capacity": options.capacity, "deterministic": options.deterministic}
    return _jax_renderer(
        {outputs: lambda p: render({**p, **constants}) for outputs in ("image", "all")},
        parameters,
        scene,
        settings,
    )


def splax(scene: dict[str, Any], options: Options) -> Renderer:
    """Make the renderer of splax, whose kernels are written in Warp and called from JAX.

    Its versions differ: some take activated scales, opacities and RGB colours, others logarithms,
    logits and SH coefficients. The names of its arguments tell which.
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
        "viewmat": to_jax(scene["viewmat"]),
        "background": to_jax(scene["background"]),
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
        # Depth is the fourth channel and extra the weight; older versions have no weight.
        return (image[..., :3], image[..., 3], extra) if image.shape[-1] == 4 else (image, extra)

    settings = {
        "arguments": names,
        "colors": "SH of degree 3" if takes_sh else "RGB given, without SH",
        "memory": "JAX's pool plus the high-water mark of Warp's",
    }
    renderer = _jax_renderer(
        {"image": lambda p: render(p, False), "all": lambda p: render(p, True)},
        {name: to_jax(value) for name, value in values.items()},
        scene,
        settings,
    )
    jax_peak, jax_gradients = renderer.peak, renderer.gradients
    # Other gradients are with respect to a logarithm, a logit or a colour.
    comparable = [name for name, value in values.items() if value is scene[name]]

    def peak() -> int | None:
        in_jax = jax_peak()
        if in_jax is None:
            return None
        import warp

        return in_jax + int(warp.get_mempool_used_mem_high(warp.get_device("cuda:0")))

    # The compiler does not plan the memory that Warp allocates.
    return dataclasses.replace(
        renderer,
        peak=peak,
        planned=lambda case: None,
        gradients=lambda result: {k: jax_gradients(result)[k] for k in comparable},
    )


def gsplat(scene: dict[str, Any], options: Options) -> Renderer:
    """Make the renderer of the PyTorch library gsplat."""
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
    cotangents = [torch.from_numpy(value).to(device) for value in make_cotangents(scene)]

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


def to_jax(value: Any) -> Any:
    import jax.numpy as jnp

    return jnp.asarray(np.asarray(value, np.float32))


def make_cotangents(scene: dict[str, Any]) -> list[np.ndarray]:
    """Return fixed derivatives of the loss with respect to image, depth and weight."""
    rng = np.random.default_rng(0)
    shape = scene["cotangent"].shape[:2]
    return [scene["cotangent"], *(rng.standard_normal(shape, np.float32) for _ in range(2))]


def _jax_renderer(
    renders: dict[str, Callable[[Any], tuple[Any, ...]]],
    parameters: dict[str, Any],
    scene: dict[str, Any],
    settings: dict[str, Any],
) -> Renderer:
    """Make the renderer of a library that is called from JAX; ``renders`` has one by outputs."""
    import jax
    import jax.numpy as jnp

    device = next(iter(parameters["means"].devices()))
    cotangents = tuple(to_jax(value) for value in make_cotangents(scene))
    cases = {}
    for outputs, render in renders.items():
        n_outputs = len(jax.eval_shape(render, parameters))
        n_outputs = 1 if outputs == "image" else n_outputs
        modes = renderers.whole_cases(render, parameters, cotangents, n_outputs)
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
        # The pool's high-water mark is that of the process: cases run in the order of their needs.
        reset_peak=None,
        peak=peak,
        planned=planned,
    )


# ----------------------------------------------------------------------------------- measurement
