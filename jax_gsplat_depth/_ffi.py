"""The XLA boundary: registers the compiled targets and calls them.

Every backend registers the same target names, so nothing above this file knows which one runs. So
far there is the CPU.
"""

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.custom_derivatives import SymbolicZero

try:
    from jax_gsplat_depth import _cpu
except ImportError as error:
    if error.name != "jax_gsplat_depth":  # it is there but does not load: its own error says why
        raise
    raise ImportError(
        "jax_gsplat_depth has no compiled module _cpu here: install it with pip, and do not import "
        "it from the source folder"
    ) from error

TILE_SIZE: int = _cpu.TILE_SIZE


def _register() -> None:
    wanted = os.environ.get("JGD_CPU_ISA")
    if wanted and wanted != _cpu.isa():
        raise ImportError(
            f"JGD_CPU_ISA is {wanted!r}, which this machine does not have: leave it unset or use "
            "baseline, avx2 or avx512"
        )
    for name, target in _cpu.registrations().items():
        jax.ffi.register_ffi_target(name, target, platform="cpu")


_register()


def custom_vjp(function: Callable[..., Any]) -> Any:
    """Decorate an op whose first argument is static."""
    return jax.custom_vjp(function, nondiff_argnums=(0,))


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Needed:
    """Which inputs of an op are differentiated; a residual that is not data."""

    inputs: tuple[bool, ...]


def values_and_needed(primals: Sequence[Any]) -> tuple[list[Any], Needed]:
    """Split what a forward rule with ``symbolic_zeros`` gets; a missing input is None."""
    values = [None if p is None else p.value for p in primals]
    return values, Needed(tuple(p is not None and bool(p.perturbed) for p in primals))


def known(cotangent: Any) -> Array | None:
    """Return a cotangent, or None where it is known to be zero."""
    return None if isinstance(cotangent, SymbolicZero) else cotangent


def same_axes(*operands: Array | None) -> list[Any]:
    """Make all operands vary over the same mesh axes inside ``jax.shard_map``.

    An op takes its operands together. The cast must be outside of its custom rule: its transpose
    is what sums the gradients of replicated operands over the mesh.
    """
    axes: set[Any] = set()
    for x in operands:
        if x is not None:
            axes |= jax.typeof(x).mat.varying

    def cast(x: Array | None) -> Array | None:
        missing = () if x is None else tuple(sorted(axes - jax.typeof(x).mat.varying))
        return jax.lax.pcast(x, missing, to="varying") if missing else x

    return [cast(x) for x in operands]


@dataclasses.dataclass(frozen=True)
class Absent:
    """An optional operand or result that is left out; it still has a rank, for ``jax.vmap``."""

    rank: int


Shape = tuple[int, ...] | Absent


def call(
    target: str,
    operands: Sequence[Array | Absent],
    results: Sequence[tuple[Shape, Any]],
    **attributes: Any,
) -> list[Any]:
    """Call a compiled target.

    Args:
        target: Name in ``csrc/ffi/ops.inc``.
        operands: In the order of the handler.
        results: Shape and dtype of each result, in the order of the handler.
        **attributes: Static values; Python numbers arrive as int64 and float64.

    Returns:
        The results; None for an absent one.
    """
    dtype = next(x.dtype for x in operands if not isinstance(x, Absent))
    arrays = [jnp.zeros((0,) * x.rank, dtype) if isinstance(x, Absent) else x for x in operands]
    arrays = same_axes(*arrays)
    like = jax.typeof(arrays[0])
    types = [
        like.update(
            shape=(0,) * shape.rank if isinstance(shape, Absent) else shape,
            dtype=np.dtype(dtype),
            weak_type=False,
        )
        for shape, dtype in results
    ]
    out = jax.ffi.ffi_call(target, types, vmap_method="expand_dims")(*arrays, **attributes)
    return [
        None if isinstance(shape, Absent) else array
        for (shape, _), array in zip(results, out, strict=True)
    ]
