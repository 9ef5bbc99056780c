"""Trains a scene that is a Flax NNX module: parameters, activations, rendering in one object.

    python examples/flax_module.py

``nnx.Param`` marks what is trained, ``nnx.Optimizer`` wraps an Optax optimizer, and ``nnx.jit``
carries the updates of both out of the compiled step. Each step takes one photo of the built-in
capture; the held-out photos tell whether the fit converged.
"""

import pathlib
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import jax_gsplat_depth as jgd
from jax_gsplat_depth import datasets, losses

RATES = {"means": 2e-3, "quats": 5e-3, "log_scales": 2e-2, "opacities": 5e-2, "colors": 2e-2}


class Scene(nnx.Module):
    """``N`` Gaussians, each of one colour; every parameter is unconstrained.

    Args:
        points: ``[N, 3]`` initial centres, world units.
        colors: ``[N, 3]`` initial RGB, between 0 and 1.
        scale: Initial standard deviation, world units.
    """

    def __init__(self, points: jax.Array, colors: jax.Array, scale: float):
        """Make round, half transparent Gaussians."""
        n = points.shape[0]
        self.means = nnx.Param(points)
        self.quats = nnx.Param(jnp.zeros((n, 4)).at[:, 0].set(1.0))
        self.log_scales = nnx.Param(jnp.log(scale * jnp.ones((n, 3))))
        self.opacities = nnx.Param(jnp.zeros(n))
        self.colors = nnx.Param(jax.scipy.special.logit(colors))

    def __call__(self, camera: jgd.Camera) -> jgd.RenderOutput:
        """Activate the parameters and render image, depth and weight."""
        gaussians = jgd.Gaussians(
            self.means[...],
            self.quats[...],
            jnp.exp(self.log_scales[...]),
            jax.nn.sigmoid(self.opacities[...]),
            colors=jax.nn.sigmoid(self.colors[...]),
        )
        return jgd.render(gaussians, camera)


def name_of_each(params: nnx.State) -> nnx.State:
    """Label each parameter with its name, so that each has its own learning rate."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[0].key, params)


@nnx.jit
def train_step(
    scene: Scene, optimizer: nnx.Optimizer, camera: jgd.Camera, photo: jax.Array
) -> jax.Array:
    """Update scene and optimizer in place with one photo; return the loss before the update."""

    def loss_fn(scene: Scene) -> jax.Array:
        return losses.photometric(scene(camera).image, photo)

    loss, grads = nnx.value_and_grad(loss_fn)(scene)
    optimizer.update(scene, grads)
    return loss


@nnx.jit
def psnr(scene: Scene, camera: jgd.Camera, photo: jax.Array) -> jax.Array:
    """Return the PSNR of one view in dB."""
    return losses.psnr(scene(camera).image, photo)


def main(steps: int = 300, seed: int = 0) -> tuple[float, float]:
    """Train, save, restore; return the held-out PSNR in dB before training and after restoring."""
    capture = datasets.builtin_capture(seed=seed, n_views=24, width=96, height=72, n_points=4000)
    size = {"width": capture.width, "height": capture.height}
    cameras = [jgd.Camera(*pose, **size) for pose in zip(capture.viewmats, capture.Ks, strict=True)]
    photos = jnp.asarray(capture.images / 255, jnp.float32)
    colors = jnp.asarray(capture.point_colors / 255, jnp.float32).clip(0.02, 0.98)

    scene = Scene(jnp.asarray(capture.points), colors, scale=0.05)
    rates = {name: optax.adam(rate) for name, rate in RATES.items()}
    optimizer = nnx.Optimizer(scene, optax.partition(rates, name_of_each), wrt=nnx.Param)

    def held_out(scene: Scene) -> float:
        return float(np.mean([psnr(scene, cameras[i], photos[i]) for i in capture.test_indices]))

    before = held_out(scene)
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        i = rng.choice(capture.train_indices)
        train_step(scene, optimizer, cameras[i], photos[i])

    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "scene.npz"
        np.savez(path, **nnx.to_pure_dict(nnx.state(scene)))
        restored = Scene(jnp.zeros((4000, 3)), colors, scale=1.0)
        with np.load(path) as saved:
            nnx.update(restored, dict(saved))

    after = held_out(restored)
    print(f"held-out PSNR {before:.1f} dB -> {after:.1f} dB in {steps} steps")
    return before, after


if __name__ == "__main__":
    main()
