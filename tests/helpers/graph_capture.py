"""Runs a training step that XLA may record into a CUDA graph: the process that test_cuda.py starts.

usage: python -m helpers.graph_capture FILE. XLA_FLAGS say whether XLA records, and where it dumps
what it made. Runs the step several times on arrays at different addresses, since XLA records again
when those change, and writes the results and the names of the called targets.
"""

import re
import sys

import jax
import numpy as np

import jax_gsplat_depth as jgd
from helpers import scenes

N_RUNS = 5


def main():
    scene = scenes.dense(cameras=2)
    config = jgd.Config(deterministic=True)
    inputs = scene.inputs(np.float32, color="sh", offset=False)

    def loss(inputs):
        gaussians, camera = scenes.build(inputs, scene)
        background = inputs["background"]
        out = jgd.render(gaussians, camera, background=background, config=config)
        return (out.image**2).mean() + (out.depth**2).mean() + (out.weight**2).mean(), out.image

    def captured_step(inputs):
        return jax.value_and_grad(loss, has_aux=True)(inputs)

    step = jax.jit(captured_step)
    compiled = step.lower(inputs).compile()
    targets = re.findall(r'custom_call_target="(\w+)"', compiled.as_text())
    results = {}
    kept = []
    for run in range(N_RUNS):
        arrays = jax.tree.map(jax.numpy.array, inputs)
        kept.append(arrays)  # nothing is freed: every run has new addresses
        (value, image), gradients = step(arrays)
        results |= {f"{run}_value": value, f"{run}_image": image}
        results |= {f"{run}_{name}": gradient for name, gradient in gradients.items()}
    arrays = {name: np.asarray(value) for name, value in results.items()}
    np.savez(sys.argv[1], targets=targets, platform=jax.default_backend(), **arrays)


if __name__ == "__main__":
    main()
