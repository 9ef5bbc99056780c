"""Refines a camera: from where a picture was taken, and with which focal length.

    python examples/pose_refinement.py

This is the tracking half of a SLAM system. The map is given; a picture with noisy colours and a
noisy, incomplete depth comes in; the camera starts 5 degrees, 10 cm (0.1 world units) and 3 % of
its focal length away from the truth, and gradient descent aligns the rendering of the map with the
picture. Here colours or depth alone would find the camera (``color_weight=0`` leaves only the
depth); together they help where one of them is ambiguous.

The picture is a rendering of the map at the true camera. The error that remains is thus that of the
tracking alone; a real map would add its own.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jax_gsplat_depth as jgd
from jax_gsplat_depth import datasets, losses

Errors = tuple[float, float, float]


def se3_exp(twist: jax.Array) -> jax.Array:
    """Return the rigid transform ``[4, 4]`` of a twist ``[6]``: rotation vector, then translation.

    The exponential of the matrix that the twist stands for. It is smooth at 0, where the closed
    form (Rodrigues) divides 0 by 0.
    """
    (a, b, c), velocity = twist[:3], twist[3:]
    cross = jnp.array([[0, -c, b], [c, 0, -a], [-b, a, 0]])
    return jax.scipy.linalg.expm(jnp.zeros((4, 4)).at[:3].set(jnp.c_[cross, velocity]))


def errors(camera: jgd.Camera, truth: jgd.Camera) -> Errors:
    """Return the errors: rotation in degrees, distance in world units, relative focal length."""
    turn = np.asarray(camera.viewmat[:3, :3] @ truth.viewmat[:3, :3].T, np.float64)
    # By the chord, which is accurate for small angles, where the cosine is flat.
    angle = 2 * np.degrees(np.arcsin(min(1, np.linalg.norm(turn - np.eye(3)) / np.sqrt(8))))
    distance = jnp.linalg.norm(camera.center - truth.center)
    return float(angle), float(distance), float(abs(camera.K[0, 0] / truth.K[0, 0] - 1))


def main(
    steps: int = 150, seed: int = 0, color_weight: float = 1.0, depth_weight: float = 0.3
) -> tuple[Errors, Errors]:
    """Refine one camera and return its ``errors`` before and after."""
    rng = np.random.default_rng(seed)
    capture = datasets.builtin_capture(n_views=8, width=96, height=72, n_points=8000)
    size = {"width": capture.width, "height": capture.height}
    truth = jgd.Camera(jnp.asarray(capture.viewmats[1]), jnp.asarray(capture.Ks[1]), **size)
    scene = jgd.Gaussians(
        jnp.asarray(capture.points),
        jnp.zeros((8000, 4)).at[:, 0].set(1.0),
        jnp.full((8000, 3), 0.04),
        jnp.full(8000, 0.9),
        colors=jnp.asarray(capture.point_colors / 255, jnp.float32),
    )

    seen = jax.jit(jgd.render)(scene, truth)
    photo = seen.image + rng.normal(0, 0.02, seen.image.shape).astype(np.float32)
    depth = seen.depth * (1 + rng.normal(0, 0.01, seen.depth.shape).astype(np.float32))
    # Sensors report 0 where they measured nothing.
    depth = jnp.where(rng.random(depth.shape) < 0.2, 0.0, depth)

    # The camera turns about its centre, then it moves.
    axis, direction = rng.normal(size=(2, 3))
    turn = np.radians(5) * axis / np.linalg.norm(axis)
    move = 0.1 * direction / np.linalg.norm(direction)
    twists = jnp.asarray([[*turn, 0, 0, 0], [0, 0, 0, *move]], jnp.float32)
    viewmat = se3_exp(twists[1]) @ se3_exp(twists[0]) @ truth.viewmat
    params = {"twist": jnp.zeros(6), "log_focal": jnp.log(1.03 * truth.K[0, 0])}

    def camera_of(params, viewmat):
        K = truth.K.at[[0, 1], [0, 1]].set(jnp.exp(params["log_focal"]))
        return jgd.Camera(se3_exp(params["twist"]) @ viewmat, K, **size)

    def loss_fn(params, viewmat):
        out = jgd.render(scene, camera_of(params, viewmat))
        color, z = losses.l1(out.image, photo), losses.depth_l1(out.depth, depth)
        return color_weight * color + depth_weight * z

    optimizer = optax.adam(optax.cosine_decay_schedule(5e-3, steps))

    @jax.jit
    def step(params, viewmat, state):
        grads = jax.grad(loss_fn)(params, viewmat)
        updates, state = optimizer.update(grads, state)
        params = optax.apply_updates(params, updates)
        # The step is taken in the tangent space at the pose, where the next twist is 0 again.
        return params | {"twist": jnp.zeros(6)}, camera_of(params, viewmat).viewmat, state

    before, state = errors(camera_of(params, viewmat), truth), optimizer.init(params)
    for _ in range(steps):
        params, viewmat, state = step(params, viewmat, state)
    after = errors(camera_of(params, viewmat), truth)
    for name, (angle, distance, zoom) in {"before": before, "after": after}.items():
        print(f"{name:>6}: {angle:.3f} degrees, {100 * distance:.2f} cm, focal length {zoom:.2%}")
    return before, after


if __name__ == "__main__":
    main()
