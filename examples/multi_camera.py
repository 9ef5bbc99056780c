"""Renders cameras on many devices: each device takes its share, and the gradients are summed.

    python examples/multi_camera.py --devices 4

``shard_map`` splits the cameras and the photos over the devices and repeats the Gaussians. The
gradient of a repeated input is the sum over the devices: JAX inserts that ``psum`` when it
differentiates. Here the devices are parts of one CPU; on a machine with several GPUs, leave out
``--devices`` to use those.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import jax_gsplat_depth as jgd


def random_scene(seed: int, n: int) -> jgd.Gaussians:
    """Return ``n`` Gaussians in the cube of side 2 around the origin."""
    keys = jax.random.split(jax.random.key(seed), 3)
    return jgd.Gaussians(
        jax.random.uniform(keys[0], (n, 3), minval=-1.0),
        jax.random.normal(keys[1], (n, 4)),
        jnp.full((n, 3), 0.05),
        jnp.full(n, 0.7),
        colors=jax.random.uniform(keys[2], (n, 3)),
    )


def main(cameras_per_device: int = 2, seed: int = 0) -> tuple[float, float]:
    """Differentiate a loss over all cameras, sharded and on one device.

    Returns:
        The largest difference of the two gradients, and the largest entry of the gradient.
    """
    mesh = jax.make_mesh((jax.device_count(),), ("cameras",))
    n_cameras = cameras_per_device * mesh.size
    angles = jnp.linspace(0, 2 * jnp.pi, n_cameras, endpoint=False)
    eyes = 4 * jnp.stack([jnp.cos(angles), jnp.sin(angles), 0.3 * jnp.ones(n_cameras)], axis=1)
    cameras = jgd.Camera.look_at(eyes, (0, 0, 0), fov_x=0.8, width=160, height=120)
    photos = jax.jit(jgd.render)(random_scene(seed, 2000), cameras).image
    gaussians = random_scene(seed + 1, 2000)

    def loss(gaussians, cameras, photos):
        """Return the sum over the cameras of the mean squared error of each."""
        return jnp.sum(
            jnp.mean(jnp.square(jgd.render(gaussians, cameras).image - photos), (1, 2, 3))
        )

    @jax.shard_map(mesh=mesh, in_specs=(P(), P("cameras"), P("cameras")), out_specs=P())
    def sharded_loss(gaussians, cameras, photos):
        return jax.lax.psum(loss(gaussians, cameras, photos), "cameras")

    everywhere, split = NamedSharding(mesh, P()), NamedSharding(mesh, P("cameras"))
    placed = jax.device_put((gaussians, cameras, photos), (everywhere, split, split))
    on_all = jax.jit(jax.grad(sharded_loss))(*placed)
    on_one = jax.jit(jax.grad(loss))(gaussians, cameras, photos)

    pairs = list(zip(jax.tree.leaves(on_one), jax.tree.leaves(on_all), strict=True))
    difference = max(float(np.abs(np.asarray(a) - np.asarray(b)).max()) for a, b in pairs)
    largest = max(float(jnp.abs(a).max()) for a, _ in pairs)
    print(f"{n_cameras} cameras on {mesh.size} devices: the largest entry of the gradient is")
    print(f"{largest:.2e}, the largest difference to a single device {difference:.1e}")
    return difference, largest


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--devices", type=int, help="split the CPU into so many devices")
    arguments = parser.parse_args()
    if arguments.devices:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", arguments.devices)
    main()
