"""Defines the JAX primitive that stands for one call of a compiled target.

``jax.ffi.ffi_call`` has the same results on every platform. This primitive adds the workspace where
it is lowered for a GPU: scratch memory that the target gets as one more result, because a handler
that XLA records into a CUDA graph must not allocate.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.core
import jax.extend.core
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.interpreters import ad, batching, mlir
from jax.sharding import NamedSharding, PartitionSpec

from jax_gsplat_depth import _compiled
from jax_gsplat_depth._debug import check_results, unwatched
from jax_gsplat_depth._explicit import gathered, split_like


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What the workspace of a call depends on; ``CallSizes`` in ``csrc/cuda/workspace.h``."""

    n_cameras: int
    n: int
    width: int = 1
    height: int = 1
    n_channels: int = 0
    capacity: int = 0
    deterministic: bool = False


call_p = jax.extend.core.Primitive("jax_gsplat_depth")
call_p.multiple_results = True


def _abstract_eval(*operands: Any, results: tuple[Any, ...], **_: Any) -> list[Any]:
    # Varying over the mesh axes of the operands, and whole on each device of explicit axes; weak
    # types would make a second executable.
    like, whole = operands[0], NamedSharding(operands[0].sharding.mesh, PartitionSpec())
    return [
        like.update(shape=shape, dtype=dtype, weak_type=False, sharding=whole)
        for shape, dtype in results
    ]


@functools.partial(jax.jit, static_argnames="params")
def _compiled_call(*operands: Array, params: tuple[tuple[str, Any], ...]) -> list[Array]:
    return call_p.bind(*operands, **dict(params))


def _evaluate(*operands: Array, **params: Any) -> list[Array]:
    # JAX's debugging repeats a compiled function that returns NaN op by op: this op, endlessly.
    with jax.disable_jit(False), unwatched():
        out = _compiled_call(*operands, params=tuple(params.items()))
    check_results(params["target"], out)
    return out


def _batch(
    operands: Sequence[Array], axes: Sequence[int | None], **params: Any
) -> tuple[list[Array], list[int]]:
    """Put the mapped axis first; operands without it get one of size 1, which copies nothing."""
    size = next(x.shape[axis] for x, axis in zip(operands, axes, strict=True) if axis is not None)
    params["results"] = tuple(((size, *shape), dtype) for shape, dtype in params["results"])
    params["n_batch"] *= size
    in_front = [
        jax.lax.expand_dims(x, [0]) if axis is None else jnp.moveaxis(x, axis, 0)
        for x, axis in zip(operands, axes, strict=True)
    ]
    out = call_p.bind(*map(gathered, in_front), **params)
    return split_like(in_front, out), [0] * len(out)


def _jvp(*_: Any, target: str, **__: Any) -> Any:
    stage = target.split("_")[1]
    raise ValueError(
        f"the gradient of jax_gsplat_depth.{stage} cannot be differentiated: jax_gsplat_depth has "
        "first derivatives only, by reverse mode (jax.grad, jax.vjp, jax.jacrev)"
    )


def _lower(on_cuda: bool, ctx: Any, *operands: Any, **params: Any) -> Sequence[Any]:
    target = params["target"]
    stand_in = "" if on_cuda else params["cpu_stand_in"]
    n_bytes = 0
    if on_cuda or stand_in:
        is_double = any(x.dtype == np.float64 for x in ctx.avals_in)
        n_bytes = _workspace_bytes(target, is_double, params["n_batch"], params["sizes"])
    workspace = jax.core.ShapedArray((n_bytes,), np.dtype(np.uint8))
    rule = jax.ffi.ffi_lowering(stand_in + target)
    ctx = ctx.replace(avals_out=[*ctx.avals_out, workspace])
    return rule(ctx, *operands, **dict(params["attributes"]))[:-1]


def _workspace_bytes(target: str, is_double: bool, n_batch: int, sizes: Sizes) -> int:
    numbers = {"n_batch": n_batch, **dataclasses.asdict(sizes)}
    for name, value in numbers.items():
        if not isinstance(value, (int, np.integer)):
            raise ValueError(
                f"{name} is {value}: on a GPU every size must be known when it is compiled"
            )
    return _compiled.workspace_bytes(target, is_double, **numbers)


call_p.def_abstract_eval(_abstract_eval)
call_p.def_impl(_evaluate)
batching.primitive_batchers[call_p] = _batch
ad.primitive_jvps[call_p] = _jvp
mlir.register_lowering(call_p, functools.partial(_lower, False), platform="cpu")
mlir.register_lowering(call_p, functools.partial(_lower, True), platform="cuda")
