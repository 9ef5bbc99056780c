"""Builds valid inputs of every function, to be spoilt one at a time, and checks the error."""

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import jax_gsplat_depth as jgd

N, D, C, W, H = 7, 5, 2, 40, 24
replace = dataclasses.replace


def ones(*shape, dtype=jnp.float32):
    """A JAX array."""
    return jnp.ones(shape, dtype)


def gaussians(n=N, dtype: Any = jnp.float32, **changes: Any):
    """Gaussians with quats, scales and sh."""
    shapes = ((n, 3), (n, 4), (n, 3), (n,))
    value = jgd.Gaussians(
        *(ones(*shape, dtype=dtype) for shape in shapes), sh=ones(n, 4, 3, dtype=dtype)
    )
    return replace(value, **changes)


def camera(*batch, dtype: Any = jnp.float32, **changes: Any):
    """One camera, or several along a leading axis."""
    viewmat = jnp.broadcast_to(jnp.eye(4, dtype=dtype), (*batch, 4, 4))
    K = jnp.broadcast_to(jnp.eye(3, dtype=dtype), (*batch, 3, 3))
    return replace(jgd.Camera(viewmat, K, width=W, height=H), **changes)


def raises(error, message, f, *args, **kwargs):
    """Require the error from a call and from tracing alone, which cannot have looked at data.

    Arguments that are no arrays (NumPy, lists, numbers, broken containers) are closed over, since
    JAX would convert or refuse them before the function sees them.
    """
    with pytest.raises(error, match=re.escape(message)):
        f(*args, **kwargs)
    leaves, structure = jax.tree.flatten((args, kwargs))
    is_array = [isinstance(leaf, jax.Array) for leaf in leaves]

    def traced(arrays):
        arrays = iter(arrays)
        merged = [next(arrays) if a else x for x, a in zip(leaves, is_array, strict=True)]
        inner_args, inner_kwargs = jax.tree.unflatten(structure, merged)
        return f(*inner_args, **inner_kwargs)

    with pytest.raises(error, match=re.escape(message)):
        jax.eval_shape(traced, [x for x, a in zip(leaves, is_array, strict=True) if a])


def splats(*batch, **changes):
    """Splats, with leading axis if ``batch`` is given."""
    fields = {"means2d": (2,), "depths": (), "conics": (3,), "opacities": ()}
    arrays = {name: ones(*batch, N, *own) for name, own in fields.items()}
    return replace(jgd.Splats(**arrays, radii=ones(*batch, N, dtype=jnp.int32)), **changes)


def order(*batch):
    """A drawing order for ``splats(*batch)``."""
    return jnp.zeros((*batch, N), jnp.int32)
