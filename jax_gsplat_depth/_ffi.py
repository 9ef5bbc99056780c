"""The XLA boundary: registers the compiled targets and calls them.

Every backend registers the same target names, so nothing above this file knows which one runs. What
differs is the workspace: scratch memory that a target of the GPU gets as one more result, because a
handler that XLA records into a CUDA graph must not allocate.
"""

import dataclasses
import functools
import importlib
import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.core
import jax.extend.core
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.custom_derivatives import SymbolicZero
from jax.interpreters import ad, batching, mlir

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
    try:
        cuda = importlib.import_module("jax_gsplat_depth._cuda")
    except ModuleNotFoundError:  # built without it
        return
    except ImportError as error:  # no reason to stop those who have no GPU
        warnings.warn(
            f"jax_gsplat_depth runs on the CPU only, its CUDA module does not load: {error}",
            RuntimeWarning,
            stacklevel=2,
        )
        return
    for name, target in cuda.registrations().items():
        jax.ffi.register_ffi_target(name, target, platform="CUDA")


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


# For tests. While it is not empty, calls that are traced get the target with this prefix on the
# CPU, and the workspace of a GPU: what is registered there stands in for the CUDA targets.
cpu_stand_in: str = ""


def call(
    target: str,
    operands: Sequence[Array | Absent],
    results: Sequence[tuple[Shape, Any]],
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
    out = _call_p.bind(
        *same_axes(*arrays),
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


# Not jax.ffi.ffi_call, which has the same results on every platform.
_call_p = jax.extend.core.Primitive("jax_gsplat_depth")
_call_p.multiple_results = True


def _abstract_eval(*operands: Any, results: tuple[Any, ...], **_: Any) -> list[Any]:
    # Varying over the mesh axes of the operands; weak types would make a second executable.
    like = operands[0]
    return [like.update(shape=shape, dtype=dtype, weak_type=False) for shape, dtype in results]


@functools.partial(jax.jit, static_argnames="params")
def _compiled(*operands: Array, params: tuple[tuple[str, Any], ...]) -> list[Array]:
    return _call_p.bind(*operands, **dict(params))


def _evaluate(*operands: Array, **params: Any) -> list[Array]:
    with jax.disable_jit(False):
        return _compiled(*operands, params=tuple(params.items()))


def _batch(
    operands: Sequence[Array], axes: Sequence[int | None], **params: Any
) -> tuple[list[Array], list[int]]:
    """Put the mapped axis first; operands without it get one of size 1, which copies nothing."""
    size = next(x.shape[axis] for x, axis in zip(operands, axes, strict=True) if axis is not None)
    params["results"] = tuple(((size, *shape), dtype) for shape, dtype in params["results"])
    params["n_batch"] *= size
    out = _call_p.bind(
        *(
            jax.lax.expand_dims(x, [0]) if axis is None else jnp.moveaxis(x, axis, 0)
            for x, axis in zip(operands, axes, strict=True)
        ),
        **params,
    )
    return out, [0] * len(out)


def _jvp(*_: Any, target: str, **__: Any) -> Any:
    raise ValueError(
        f"{target} cannot be differentiated here: jax_gsplat_depth has reverse mode and first "
        "derivatives only"
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
    return _cpu.workspace_bytes(target, is_double, **numbers)


_call_p.def_abstract_eval(_abstract_eval)
_call_p.def_impl(_evaluate)
batching.primitive_batchers[_call_p] = _batch
ad.primitive_jvps[_call_p] = _jvp
mlir.register_lowering(_call_p, functools.partial(_lower, False), platform="cpu")
mlir.register_lowering(_call_p, functools.partial(_lower, True), platform="cuda")
