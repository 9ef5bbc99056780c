"""Trains Gaussians with Optax on photos and depth, starting from sparse points.

    python examples/optax_step.py

One jitted function takes the parameters and the state of the optimizer and returns the next ones.
The parameters are unconstrained; ``activate`` makes Gaussians of them. One call renders all
cameras, because the camera has a leading axis.
"""

import jax
import jax.numpy as jnp
import optax

import jax_gsplat_depth as jgd
from jax_gsplat_depth import datasets, losses

RATES = {"means": 2e-3, "quats": 1e-2, "log_scales": 2e-2, "logits": 5e-2, "colors": 2e-2}


def activate(params: dict[str, jax.Array]) -> jgd.Gaussians:
    """Make Gaussians of the parameters: ``render`` has neither exp nor sigmoid inside."""
    scales, opacities = jnp.exp(params["log_scales"]), jax.nn.sigmoid(params["logits"])
    colors = jax.nn.sigmoid(params["colors"])
    return jgd.Gaussians(params["means"], params["quats"], scales, opacities, colors=colors)


def main(steps: int = 100, seed: int = 0) -> tuple[float, float]:
    """Train on the built-in capture and return the loss before the first and the last step."""
    capture = datasets.builtin_capture(seed=seed, n_views=8, width=96, height=72, n_points=2000)
    cameras = jgd.Camera(capture.viewmats, capture.Ks, width=capture.width, height=capture.height)
    photos, depths = jnp.asarray(capture.images / 255, jnp.float32), jnp.asarray(capture.depths)
    params = {
        "means": jnp.asarray(capture.points),
        "quats": jnp.zeros((2000, 4)).at[:, 0].set(1.0),
        "log_scales": jnp.full((2000, 3), jnp.log(0.05)),
        "logits": jnp.zeros(2000),
        "colors": jax.scipy.special.logit(jnp.asarray(capture.point_colors).clip(3, 252) / 255),
    }
    optimizers = {name: optax.adam(rate) for name, rate in RATES.items()}
    optimizer = optax.partition(optimizers, {name: name for name in RATES})
    state = optimizer.init(params)

    def loss_fn(params):
        out = jgd.render(activate(params), cameras)
        return losses.l1(out.image, photos) + 0.1 * losses.depth_l1(out.depth, depths)

    @jax.jit
    def step(params, state):
        loss, grads = jax.value_and_grad(loss_fn)(params)
        updates, state = optimizer.update(grads, state)
        return optax.apply_updates(params, updates), state, loss

    history = []
    for _ in range(steps):
        params, state, loss = step(params, state)
        history.append(loss)
    print(f"loss {history[0]:.4f} -> {history[-1]:.4f} in {steps} steps")
    return float(history[0]), float(history[-1])


if __name__ == "__main__":
    main()
