"""Draws random Gaussians for the tests of files, and checks that damaged files do no harm."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import jax_gsplat_depth as jgd
from jax_gsplat_depth import io

HALF = 0.5 * (1 + 1e-4)
"""Half a step, and a little for the rounding of float32."""


def random_gaussians(n=20, degree=2, seed=0) -> Any:
    """Make Gaussians; the type does not say which fields may be None."""
    rng = np.random.default_rng(seed)
    quats = rng.normal(size=(n, 4))
    return jgd.Gaussians(
        jnp.asarray(rng.normal(size=(n, 3)), jnp.float32),
        jnp.asarray(quats / np.linalg.norm(quats, axis=1, keepdims=True), jnp.float32),
        jnp.asarray(np.exp(rng.normal(-3, 2, (n, 3))), jnp.float32),
        jnp.asarray(rng.uniform(0.001, 0.999, n), jnp.float32),
        sh=jnp.asarray(rng.normal(size=(n, (degree + 1) ** 2, 3)), jnp.float32),
    )


def in_range(n=700, degree=3, seed=0):
    """Gaussians whose values no format cuts off."""
    gaussians = random_gaussians(n, degree, seed)
    rng = np.random.default_rng(seed + 1)
    return jgd.Gaussians(
        gaussians.means,
        gaussians.quats,
        jnp.asarray(np.exp(rng.uniform(-9, 3, (n, 3))), jnp.float32),
        gaussians.opacities,
        sh=jnp.asarray(rng.uniform(-0.98, 0.98, (n, (degree + 1) ** 2, 3)), jnp.float32),
    )


def box_of_gaussians(n=60, seed=0, center=(1.0, -2.0, 0.5), half=(0.8, 0.4, 0.2), scale=0.08):
    """Gaussians in a box, wider along x than along y than along z."""
    rng = np.random.default_rng(seed)
    gaussians = random_gaussians(n, degree=1, seed=seed)
    means = np.asarray(center) + rng.uniform(-1, 1, (n, 3)) * half
    return jgd.Gaussians(
        jnp.asarray(means, jnp.float32),
        gaussians.quats,
        jnp.full((n, 3), scale, jnp.float32),
        jnp.asarray(rng.uniform(0.5, 0.95, n), jnp.float32),
        sh=jnp.asarray(rng.normal(0, 0.5, (n, 4, 3)), jnp.float32),
    )


def changed(gaussians, **changes):
    """Return Gaussians with other values in some fields."""
    names = ("means", "quats", "scales", "opacities", "sh")
    fields = {name: getattr(gaussians, name) for name in names} | changes
    return jgd.Gaussians(**{name: jnp.asarray(value) for name, value in fields.items()})


def difference(one, other, name, order=slice(None), log=False):
    """Return the absolute differences of a field."""
    a, b = (np.asarray(getattr(g, name), np.float64) for g in (one, other))
    return np.abs(np.log(a[order]) - np.log(b)) if log else np.abs(a[order] - b)


def refusal(path) -> str:
    """Return the one sentence with which ``io.load`` refuses the file."""
    with pytest.raises(ValueError) as error:
        io.load(path)
    message = str(error.value)
    assert "\n" not in message and path.name in message
    return message


def angles(one, other):
    """Return the angles in radians between the rotations of unit quaternions."""
    one, other = (np.asarray(quats, np.float64) for quats in (one, other))
    sign = np.sign((one * other).sum(axis=1, keepdims=True))
    return 4 * np.arcsin(np.minimum(1, np.linalg.norm(one - sign * other, axis=1) / 2))
