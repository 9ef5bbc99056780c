"""Gathers arrays that are split over the explicit axes of a mesh: a kernel needs them whole.

With automatic axes XLA does the same, unseen. With explicit ones (``jax.make_mesh`` makes such) the
type of an array says how it is split, and types have to agree, those of gradients included.
"""

from collections.abc import Sequence
from typing import Any

import jax
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec


def gathered(x: Array) -> Array:
    """Return an array whole on every device; its gradient is split as the array was."""
    sharding = jax.typeof(x).sharding
    if all(axes is None for axes in sharding.spec):
        return x
    return jax.sharding.reshard(x, NamedSharding(sharding.mesh, PartitionSpec()))


def split_like(operands: Sequence[Array], results: Sequence[Array]) -> list[Array]:
    """Split the first axis of the results, which ``jax.vmap`` made, like that of the operands."""
    for x in operands:
        sharding: Any = jax.typeof(x).sharding
        if sharding.spec and sharding.spec[0] is not None:
            split = NamedSharding(sharding.mesh, PartitionSpec(sharding.spec[0]))
            return [jax.sharding.reshard(y, split) for y in results]
    return list(results)
