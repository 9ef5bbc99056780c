"""Gathers arrays that are split over the explicit axes of a mesh: a kernel needs them whole.

With automatic axes XLA does the same, unseen. With explicit ones (``jax.make_mesh`` makes such) the
type of an array says how it is split, and types have to agree, those of gradients included.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec


def gathered(x: Array) -> Array:
    """Return an array whole on every device; its gradient is split as the array was."""
    sharding = jax.typeof(x).sharding
    if all(axes is None for axes in sharding.spec):
        return x
    return jax.sharding.reshard(x, NamedSharding(sharding.mesh, PartitionSpec()))


def split_like(operands: Sequence[Array], arrays: Sequence[Array], axes: int = 1) -> list[Array]:
    """Split the leading axes of arrays, which ``jax.vmap`` maps, like those of the operands.

    Args:
        operands: Arrays of which some may be split along their leading axes.
        arrays: Arrays with the same leading axes; their others become whole.
        axes: Number of leading axes.
    """
    for x in operands:
        sharding: Any = jax.typeof(x).sharding
        lead = sharding.spec[:axes]
        if any(axis is not None for axis in lead):
            split = NamedSharding(sharding.mesh, PartitionSpec(*lead))
            return [jax.sharding.reshard(jnp.asarray(y), split) for y in arrays]
    return list(arrays)
