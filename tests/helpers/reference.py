"""Runs the definition of the renderer: the values and gradients that the tests compare with.

Gradients come from autodiff. ``evaluate``, ``gradients`` and ``absgrad`` take a stage of
``reference_stages`` or ``render``, add the camera axis, and have NumPy in, float64 NumPy out,
whatever the x64 setting outside.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from helpers import compilation
from helpers.reference_stages import (
    Settings,
    blend_stage,
    masked,
    pixel_grid,
    project_stage,
    rotation_matrix,
    sh_basis,
    shade_stage,
    tile_rectangle,
)

__all__ = [
    "Settings",
    "absgrad",
    "blend_stage",
    "evaluate",
    "evaluate_with_gradients",
    "gradients",
    "project_stage",
    "render",
    "rotation_matrix",
    "sh_basis",
    "shade_stage",
    "tile_rectangle",
    "weights",
]

# Each stage is compiled alone, for one camera, without optimisation, and for few sizes, to which
# arrays are padded: with scenes as small as these, compiling takes longer than running.
_compile = functools.partial(jax.jit, static_argnames="stage", compiler_options=compilation.OPTIONS)


@_compile
def _values(stage, inputs, s):
    return stage(inputs, s)


@_compile
def _values_and_gradients(stage, inputs, s, cotangents):
    fixed = {k: v for k, v in inputs.items() if v.dtype.kind != "f"}
    free = {k: v for k, v in inputs.items() if k not in fixed}

    def loss(x):
        out, total = stage({**x, **fixed}, s), 0.0
        for k, v in cotangents.items():
            if "band" in out:
                v = masked(~out["band"], v, 0.0)
            total += jnp.sum(out[k] * v)
        return total, out

    grads, out = jax.grad(loss, has_aux=True)(free)
    return out, grads


# Inputs that may have a leading camera axis, with their number of axes without it.
_CAMERA_AXIS = {
    **{"viewmat": 2, "K": 2, "means2d_offset": 2, "background": 1, "colors": 2, "pixel_offset": 3},
    **{"usable": 1, "means2d": 2, "depths": 1, "conics": 2, "splat_opacities": 1, "radii": 1},
}


# The axes of inputs and outputs that are padded: Gaussians, pixels, channels.
_PADDED_AXES = {
    **dict.fromkeys(("means", "quats", "scales", "covars", "opacities", "usable", "sh"), "n"),
    **dict.fromkeys(("means2d", "depths", "conics", "radii", "cov2d", "splat_opacities"), "n"),
    **{"colors": "nd", "background": "d", "image": "pd", "pixels": "p", "pixel_offset": "np"},
    **dict.fromkeys(("depth", "depth_variance", "weight", "band"), "p"),
}
# What has cotangents, and its shape.
_OUTPUTS = {
    "project_stage": {"means2d": "n2", "depths": "n", "conics": "n3", "opacities": "n"},
    "shade_stage": {"colors": "nd"},
    "blend_stage": {"image": "pd", "depth": "p", "depth_variance": "p", "weight": "p"},
}


def _padded_sizes(n, d, p=0):
    return {
        "n": 16 if n <= 16 else max(128, 2 ** (n - 1).bit_length()),
        "d": 3 if d <= 3 else max(8, 2 ** (d - 1).bit_length()),
        "p": 512 if p <= 512 else 2560 * 2 ** ((p - 1) // 2560).bit_length(),
    }


def _pad(name, x, sizes):
    """Append rows that are culled: zeros, and an opacity that nothing has."""
    missing = [sizes[a] - x.shape[i] for i, a in enumerate(_PADDED_AXES.get(name, ""))]
    missing += [0] * (x.ndim - len(missing))
    value = -1 if name == "opacities" else 0
    return np.pad(x, [(0, n) for n in missing], constant_values=value)


def _cut(name, x, sizes):
    return np.asarray(x)[tuple(slice(sizes[a]) for a in _PADDED_AXES.get(name, ""))]


def _run_one(stage, inputs, s, pixels, cotangents):
    x, image = dict(inputs), ()
    sizes = {"n": len(x["means" if "means" in x else "depths"])}
    sizes["d"] = x["colors"].shape[-1] if "colors" in x else 3
    if stage is blend_stage:
        x.setdefault("background", np.zeros(sizes["d"]))
        image = (s.height, s.width) if pixels is None else (len(pixels),)
        x["pixels"] = pixel_grid(s) if pixels is None else np.asarray(pixels)
        sizes["p"] = len(x["pixels"])
    padded = _padded_sizes(**sizes)
    x = {k: _pad(k, v, padded) for k, v in x.items()}
    if cotangents is None:
        out, grads = _values(stage, x, s), {}
    else:
        shapes = _OUTPUTS[stage.__name__]
        v = {k: np.zeros([padded.get(a) or int(a) for a in shapes[k]]) for k in shapes}
        for k, value in cotangents.items():
            if image:
                value = value.reshape(sizes["p"], *value.shape[len(image) :])
            v[k] = _pad(k, value, padded)
        out, grads = _values_and_gradients(stage, x, s, v)
    out = {k: _cut(k, value, sizes) for k, value in out.items()}
    if image:
        out = {k: value.reshape(*image, *value.shape[1:]) for k, value in out.items()}
    return out, {k: _cut(k, value, sizes) for k, value in grads.items() if k in inputs}


def _run(stage, inputs, s, pixels=None, cotangents=None):
    """Outputs of a stage, and gradients if there are cotangents, for all cameras."""
    per_camera = [k for k, v in inputs.items() if v.ndim > _CAMERA_AXIS.get(k, v.ndim)]
    if not per_camera:
        return _run_one(stage, inputs, s, pixels, cotangents)
    outs, grads = [], []
    for c in range(len(inputs[per_camera[0]])):
        x = {k: v[c] if k in per_camera else v for k, v in inputs.items()}
        v = None if cotangents is None else {k: v[c] for k, v in cotangents.items()}
        for results, result in zip((outs, grads), _run_one(stage, x, s, pixels, v), strict=True):
            results.append(result)
    add_up = {k: np.stack if k in per_camera else sum for k in grads[0]}
    return (
        {k: np.stack([out[k] for out in outs]) for k in outs[0]},
        {k: add_up[k]([grad[k] for grad in grads]) for k in grads[0]},
    )


def _chain(inputs, s):
    """Stage, inputs and settings of project, shade (or None) and blend; and the splats."""
    color = inputs["sh" if "sh" in inputs else "colors"]
    finite = np.isfinite(color).all(axis=(1, 2) if "sh" in inputs else -1)
    names = ("means", "quats", "scales", "covars", "opacities", "viewmat", "K")
    geometry = {k: inputs[k] for k in names if k in inputs} | {"usable": finite}
    options = dataclasses.replace(
        s, sh_convention="3dgs", sh_degree=None, depth="expected", ray_depth=False
    )
    first = (project_stage, geometry, options)
    splats, _ = _run(*first)
    second, colors = None, color
    if "sh" in inputs:
        shading = {k: inputs[k] for k in ("means", "sh", "viewmat")}
        options = Settings(0, 0, sh_convention=s.sh_convention, sh_degree=s.sh_degree)
        second = (shade_stage, shading, options)
        colors = _run(*second)[0]["colors"]
    blending = {k: splats[k] for k in ("means2d", "depths", "conics", "radii")}
    blending |= {"splat_opacities": splats["opacities"], "colors": colors}
    if "means2d_offset" in inputs:  # after culling, which does not depend on it
        blending["means2d"] = splats["means2d"] + inputs["means2d_offset"]
    blending |= {k: inputs[k] for k in ("background", "pixel_offset") if k in inputs}
    options = {k: getattr(s, k) for k in ("footprint", "depth", "ray_depth")}
    options = Settings(s.width, s.height, **options)
    if s.ray_depth:
        blending["K"] = inputs["K"]
    return first, second, (blend_stage, blending, options), splats


def render(inputs, s, pixels=None, cotangents=None):
    """All stages in order, the chain rule from stage to stage; adds ``radii`` and ``cov2d``."""
    first, second, last, splats = _chain(inputs, s)
    out, v = _run(*last, pixels, cotangents)
    out |= {k: splats[k] for k in ("radii", "cov2d")}
    if cotangents is None:
        return out, {}
    v_splats = {k: v.pop(k) for k in ("means2d", "depths", "conics")}
    v_splats["opacities"] = v.pop("splat_opacities")
    v["means2d_offset"] = v_splats["means2d"]
    parts = [_run(*first, cotangents=v_splats)[1]]
    if second:
        parts.append(_run(*second, cotangents={"colors": v.pop("colors")})[1])
    return out, {k: sum(part[k] for part in (*parts, v) if k in part) for k in inputs}


def _in_float64(stage, inputs, s, pixels=None, cotangents=None):
    def cast(x):
        x = np.asarray(x)
        return x.astype(np.float64) if x.dtype.kind == "f" else x

    run = render if stage is render else functools.partial(_run, stage)
    with jax.enable_x64(True):
        inputs, cotangents = jax.tree.map(cast, (inputs, cotangents))
        return run(inputs, s, pixels, cotangents)


def evaluate(stage, inputs, s, pixels=None):
    """Outputs of ``render`` or one of the functions ``*_stage``.

    Those of ``render`` and ``blend_stage`` have shape ``(C?, H, W, ...)``, or ``(C?, P, ...)`` at
    ``pixels`` ``(P, 2)`` (row, column).
    """
    return _in_float64(stage, inputs, s, pixels)[0]


def evaluate_with_gradients(stage, inputs, cotangents, s):
    """Outputs, and the gradient of ``sum(cotangents[k] * outputs[k])`` for every float input.

    Pixels in the boundary band have no part in the sum, so that the gradient is comparable.
    """
    return _in_float64(stage, inputs, s, cotangents=cotangents)


def weights(inputs, s):
    """Weight of every Gaussian at every pixel, ``(C?, H, W, N)``, and the band.

    It is the image of colours that have a channel for each Gaussian.
    """
    n = len(inputs["opacities"])
    colors = {"colors": np.eye(n), "background": np.zeros(n)}
    out = evaluate(render, {k: v for k, v in inputs.items() if k != "sh"} | colors, s)
    return out["image"], out["band"]


def gradients(stage, inputs, cotangents, s):
    """The gradients of ``evaluate_with_gradients`` alone."""
    return evaluate_with_gradients(stage, inputs, cotangents, s)[1]


def absgrad(stage, inputs, cotangents, s):
    """Sum over pixels of the absolute ``means2d`` gradient of each pixel's loss, ``(C?, N, 2)``."""
    n = inputs["opacities" if "opacities" in inputs else "splat_opacities"].shape[-1]
    batch = inputs["viewmat" if "viewmat" in inputs else "conics"].shape[:-2]
    offset = np.zeros((*batch, n, s.height * s.width, 2))
    grads = gradients(stage, {**inputs, "pixel_offset": offset}, cotangents, s)
    return np.abs(grads["pixel_offset"]).sum(-2)
