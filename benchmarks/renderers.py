"""Makes the functions that the benchmarks time: whole renderers, and stages one by one."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any


def whole_cases(render, parameters, cotangents, n_outputs) -> dict[str, Callable[[], Any]]:
    """Return forward and forward + backward of ``render(parameters) -> (image, depth, weight)``."""
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
    """Return the package under test as a function of the parameters."""
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
    """Return the pure-JAX renderer as a function of the parameters, with room for this scene."""
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
    """The stages of the package one by one, forward and pull-back; their splats and bins."""
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
            jgd.Splats(**values, radii=radii), colors, bins.order, **size, background=background
        )
        return (output.image, output.depth, output.weight)[:n_outputs]

    values, radii = jax.jit(project)(parameters)
    colors = jax.jit(shade)(parameters)
    bins = jax.jit(make_bin)(values, radii)
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
    return cases, jgd.Splats(**values, radii=radii), bins


def _pull_back(function, arguments, cotangent):
    """Return a call of the pull-back alone, with the residuals of one forward pass at hand."""
    import jax

    _, pull = jax.vjp(jax.jit(function), *arguments)
    run = jax.jit(lambda pull, cotangent: pull(cotangent))
    return lambda: run(pull, cotangent)
