"""Runs a small scene forward and backward with every option that changes a kernel.

usage: compute-sanitizer --tool memcheck python sanitize_scene.py

Every buffer of XLA is an allocation of its own here, so that an access past its end is seen, and
nothing is recorded into CUDA graphs, in which the tool sees less of the kernels. Exits with 1 if a
result is not finite.
"""

import os
import sys

os.environ["XLA_PYTHON_CLIENT_ALLOCATOR"] = "platform"
os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_gpu_enable_command_buffer="

import jax
import jax.numpy as jnp
import numpy as np
import scenes

import jax_gsplat_depth as jgd

_N = 300

# Settings of Config, whether absgrad_probe is there, number of channels (0: SH of degree 3), number
# of cameras, dtype.
_CASES = (
    ({}, False, 0, 1, "float32"),
    ({"deterministic": True}, False, 0, 2, "float32"),
    # One pair per tile at most: the rest is found by the search past the lists.
    ({"capacity": 1}, False, 0, 1, "float32"),
    ({"capacity": 1, "deterministic": True}, True, 1, 2, "float32"),
    ({"footprint": "3sigma", "antialiased": True}, False, 4, 1, "float32"),
    ({}, True, 7, 1, "float32"),
    ({"deterministic": True}, False, 0, 1, "float64"),
)


def main() -> int:
    failed = 0
    for settings, absgrad, channels, n_cameras, dtype in _CASES:
        with jax.enable_x64(dtype == "float64"):
            wrong = _run(jgd.Config(**settings), absgrad, channels, n_cameras, dtype)
        what = f"{settings}{', absgrad' if absgrad else ''}, {channels or 'SH'}"
        print(f"{what}, {n_cameras} camera(s), {dtype}: ", end="")
        print(f"not finite: {', '.join(wrong)}" if wrong else "ok", flush=True)
        failed += bool(wrong)
    print(f"on {jax.devices()[0].device_kind}")
    return 1 if failed else 0


def _run(config: jgd.Config, absgrad: bool, channels: int, n_cameras: int, dtype: str) -> list[str]:
    """Names of the results that are not finite."""
    scene, _ = scenes.load("blob_1k_tiny")
    names = ("means", "quats", "scales", "opacities", "sh", "viewmat", "K", "background")
    p = {name: jnp.asarray(scene[name], dtype) for name in names}
    p |= {name: p[name][:_N] for name in names[:5]}
    # The same camera twice is enough: a wrong index leaves its array.
    p |= {name: jnp.stack([p[name]] * n_cameras) for name in ("viewmat", "K")}
    if channels:
        rng = np.random.default_rng(0)
        p["colors"] = jnp.asarray(rng.uniform(size=(_N, channels)), dtype)
        p["background"] = jnp.asarray(rng.uniform(size=channels), dtype)
        del p["sh"]
    p["means2d_offset"] = jnp.zeros((n_cameras, _N, 2), dtype)
    if absgrad:
        p["absgrad_probe"] = jnp.zeros((n_cameras, _N, 2), dtype)
    size = {"width": int(scene["width"]), "height": int(scene["height"])}

    @jax.jit
    def step(p):
        def loss(p):
            fields = {k: p[k] for k in (*names[:5], "colors") if k in p}
            out = jgd.render(
                jgd.Gaussians(**fields),
                jgd.Camera(p["viewmat"], p["K"], **size),
                background=p["background"],
                means2d_offset=p["means2d_offset"],
                absgrad_probe=p.get("absgrad_probe"),
                config=config,
            )
            return (out.image**2).sum() + (out.depth**2).sum() + (out.weight**2).sum(), out

        (_, out), gradients = jax.value_and_grad(loss, has_aux=True)(p)
        return {"image": out.image, "depth": out.depth, "weight": out.weight, **gradients}

    return [name for name, x in step(p).items() if not np.isfinite(np.asarray(x)).all()]


if __name__ == "__main__":
    sys.exit(main())
