"""Calls the compiled targets, whose operands and results may be absent."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from jax_gsplat_depth._compiled import ALPHA_MIN as ALPHA_MIN
from jax_gsplat_depth._compiled import TILE_SIZE as TILE_SIZE
from jax_gsplat_depth._primitive import Sizes as Sizes
from jax_gsplat_depth._primitive import call_p
from jax_gsplat_depth._vjp import same_axes


@dataclasses.dataclass(frozen=True)
class Absent:
    """An optional operand or result that is left out; ``jax.vmap`` still needs its rank."""

    rank: int


Operand = Array | Absent
# Shape and dtype.
Result = tuple[tuple[int, ...] | Absent, Any]


def or_absent(array: Array | None, rank: int) -> Operand:
    """Return the operand for an array that may be missing."""
    return Absent(rank) if array is None else array


# For tests. While it is not empty, calls that are traced get the target with this prefix on the
# CPU, and the workspace of a GPU: what is registered there stands in for the CUDA targets.
cpu_stand_in: str = ""


def call(
    target: str,
    operands: Sequence[Operand],
    results: Sequence[Result],
    *,
    sizes: Sizes,
    **attributes: Any,
) -> list[Any]:
    """Call a compiled target.

    Args:
        target: Name in ``csrc/ffi/ops.inc``.
        operands: In the order of the handler.
        results: Shape and dtype of each result but the workspace, in the order of the handler.
        sizes: Of one call, without the axes of ``jax.vmap``.
        **attributes: Static values; Python numbers arrive as int64 and float64.

    Returns:
        The results; None for an absent one.
    """
    dtype = next(x.dtype for x in operands if not isinstance(x, Absent))
    arrays = [jnp.zeros((0,) * x.rank, dtype) if isinstance(x, Absent) else x for x in operands]
    out = call_p.bind(
        *same_axes(arrays),
        target=target,
        results=tuple(
            ((0,) * shape.rank if isinstance(shape, Absent) else shape, np.dtype(dtype))
            for shape, dtype in results
        ),
        sizes=sizes,
        n_batch=1,
        attributes=tuple(attributes.items()),
        cpu_stand_in=cpu_stand_in,
    )
    return [
        None if isinstance(shape, Absent) else array
        for (shape, _), array in zip(results, out, strict=True)
    ]
