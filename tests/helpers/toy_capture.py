"""Builds a capture small enough to fit in a test: nine rendered views of a cloud of Gaussians."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

import jax_gsplat_depth as jgd
from jax_gsplat_depth.datasets import Capture

WIDTH, HEIGHT, N_VIEWS, N_TRUE = 26, 22, 9, 150
BACKGROUND = np.array([0.1, 0.2, 0.3], np.float32)


def true_gaussians():
    rng = np.random.default_rng(0)
    return jgd.Gaussians(
        jnp.asarray(rng.uniform(-0.6, 0.6, (N_TRUE, 3)), jnp.float32),
        jnp.asarray(rng.normal(size=(N_TRUE, 4)), jnp.float32),
        jnp.asarray(rng.uniform(0.05, 0.2, (N_TRUE, 3)), jnp.float32),
        jnp.asarray(rng.uniform(0.3, 0.9, N_TRUE), jnp.float32),
        sh=jnp.asarray(rng.normal(size=(N_TRUE, 1, 3)), jnp.float32),
    )


def arc_capture():
    """Nine views on an arc around a cloud of Gaussians that we rendered ourselves."""
    angles = np.linspace(0, 1.5 * np.pi, N_VIEWS)
    eyes = np.stack([3 * np.cos(angles), 3 * np.sin(angles), np.full(N_VIEWS, 0.7)], axis=1)
    camera = jgd.Camera.look_at(
        jnp.asarray(eyes, jnp.float32),
        jnp.zeros(3, jnp.float32),
        fov_x=jnp.float32(0.9),
        width=WIDTH,
        height=HEIGHT,
    )
    truth = true_gaussians()
    out = jgd.render(truth, camera, background=jnp.asarray(BACKGROUND))
    return Capture(
        names=[f"view_{i}" for i in range(N_VIEWS)],
        images=np.asarray(jnp.round(255 * jnp.clip(out.image, 0, 1))).astype(np.uint8),
        viewmats=np.asarray(camera.viewmat),
        Ks=np.asarray(camera.K),
        points=np.asarray(truth.means)[:60],
        point_colors=np.full((60, 3), 128, np.uint8),
        depths=np.asarray(out.depth),
        alphas=None,
        test_indices=np.array([0, 8]),
        background=BACKGROUND,
    )


def spoiled_test_views(capture):
    """Change everything about the held-out views."""
    changed = {}
    for name in ("images", "viewmats", "Ks", "depths"):
        array = getattr(capture, name).copy()
        array[capture.test_indices] = array[capture.test_indices][::-1] // 2 + 1
        changed[name] = array
    return dataclasses.replace(capture, **changed)


def assert_same_bits(a, b):
    for one, other in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(one, other)
