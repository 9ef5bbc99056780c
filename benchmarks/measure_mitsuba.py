"""Measures Mitsuba 3 on one scene in this process: a worker of bench_cpu.py.

usage: python measure_mitsuba.py OPTIONS, where OPTIONS is the JSON of the fields of ``Options``.
Prints the result as one line of JSON.

Mitsuba draws Gaussians by tracing rays through their ellipsoids. That is not splatting: a Gaussian
is evaluated in space, where it is densest along the ray, not in the image; hits are sorted by
pixel; an ellipsoid ends at three standard deviations, and a ray where a hundredth of the light is
left. So its pictures resemble the package's, but are not the same; the result says how far they
differ.
"""

import dataclasses
import json
import sys
from typing import Any

import numpy as np
import renderers
import scenes
import timing

_SH_0 = 0.28209479177387814


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure.

    Attributes:
        scene: Name in ``scenes.NAMES``.
        threads: Number of cores and of threads.
        repeats: Number of timed calls of each function.
        max_seconds: Seconds after which the functions are not called again.
    """

    scene: str
    threads: int
    repeats: int
    max_seconds: float


def measure(options: Options) -> dict[str, Any]:
    """Time forward, and forward + backward from a loss on the image; see ``Options``."""
    import drjit as dr
    import mitsuba as mi

    scene, source = scenes.load(options.scene)
    mi.set_variant("llvm_ad_rgb")
    dr.set_thread_count(options.threads)
    calls = mitsuba_cases(scene)

    def wait(result):
        dr.eval(result)
        dr.sync_thread()
        return result

    picture = np.array(wait(calls["forward"]()))
    return {
        "scene": options.scene,
        "source": source,
        "threads": options.threads,
        "version": mi.__version__,
        "psnr": float(-10 * np.log10(np.square(picture - _package_image(scene)).mean())),
        "modes": timing.time_together(calls, options, wait),
    }


def mitsuba_cases(scene: dict[str, Any]):
    """Return forward, and forward + backward, as functions without arguments."""
    import drjit as dr
    import mitsuba as mi

    traced = mi.load_dict(
        {
            "type": "scene",
            "gaussians": _ellipsoids(scene),
            "sensor": _sensor(scene),
            "integrator": {
                "type": "volprim_rf_basic",
                "max_depth": -1,
                "srgb_primitives": False,  # no conversion: the package knows no colour space
            },
        }
    )
    parameters = mi.traverse(traced)
    names = [f"gaussians.{name}" for name in ("data", "opacities", "sh_coeffs")]
    cotangent = mi.TensorXf(scene["cotangent"])

    def forward_backward():
        for name in names:
            dr.enable_grad(parameters[name])
        parameters.update()
        image = mi.render(traced, params=parameters, spp=1)
        dr.backward(dr.sum(image * cotangent))
        gradients = [dr.grad(parameters[name]) for name in names]
        for name in names:
            dr.disable_grad(parameters[name])
        return [image, *gradients]

    return {"forward": lambda: mi.render(traced, spp=1), "forward_backward": forward_backward}


def _ellipsoids(scene):
    import mitsuba as mi

    quats = scene["quats"] / np.linalg.norm(scene["quats"], axis=1, keepdims=True)
    return {
        "type": "ellipsoids",
        "centers": mi.TensorXf(scene["means"]),
        "scales": mi.TensorXf(scene["scales"]),
        "quaternions": mi.TensorXf(np.roll(quats, -1, axis=1)),  # wxyz to xyzw
        "opacities": mi.TensorXf(scene["opacities"][:, None]),
        "sh_coeffs": mi.TensorXf((scene["colors"] - 0.5) / _SH_0),
    }


def _sensor(scene):
    """Describe a pinhole camera whose rays go through the pixel centres."""
    import mitsuba as mi

    width, height = int(scene["width"]), int(scene["height"])
    K = scene["K"].astype(float)
    # Mitsuba's camera has x to the left and y up.
    camera_to_world = np.linalg.inv(scene["viewmat"].astype(float)) @ np.diag([-1, -1, 1, 1])
    return {
        "type": "perspective",
        "fov": float(np.degrees(2 * np.arctan(width / 2 / K[0, 0]))),
        "fov_axis": "x",
        "principal_point_offset_x": float((width / 2 - K[0, 2]) / width),
        "principal_point_offset_y": float((height / 2 - K[1, 2]) / height),
        "to_world": mi.ScalarTransform4f(camera_to_world),
        "near_clip": 0.01,
        "far_clip": 1e4,
        "sampler": {"type": "stratified", "sample_count": 1, "jitter": False},
        "film": {
            "type": "hdrfilm",
            "width": width,
            "height": height,
            "pixel_format": "rgb",
            "component_format": "float32",
            "rfilter": {"type": "box"},
        },
    }


def _package_image(scene):
    """Render the same Gaussians with the package, on black."""
    import jax
    import jax.numpy as jnp

    names = ("means", "quats", "scales", "opacities", "colors", "viewmat", "K")
    parameters = {name: jnp.asarray(scene[name]) for name in names}
    parameters["background"] = jnp.zeros(3)
    render = renderers.package_renderer(int(scene["width"]), int(scene["height"]))
    return np.asarray(jax.jit(render)(parameters)[0])


def main() -> None:
    options = Options(**json.loads(sys.argv[1]))
    timing.limit_threads(options.threads)
    print(json.dumps(measure(options)))


if __name__ == "__main__":
    main()
