"""Holds what the custom gradient rules of the stages share."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
from jax import Array
from jax.custom_derivatives import SymbolicZero

Tree = TypeVar("Tree")


def custom_vjp(function: Callable[..., Any]) -> Any:
    """Decorate an op whose first argument is static.

    Without an outer ``jit`` JAX executes a ``shard_map`` op by op, and has no rule there for
    gradients with symbolic zeros. It has one for ``jit``, so the op is one there.
    """
    op = jax.custom_vjp(function, nondiff_argnums=(0,))
    compiled = jax.jit(op, static_argnums=0)

    def call(static: Any, *inputs: Any) -> Any:
        if not jax.sharding.get_abstract_mesh().manual_axes:
            return op(static, *inputs)
        with jax.disable_jit(False):
            return compiled(static, *inputs)

    decorated: Any = functools.wraps(function)(call)
    decorated.defvjp = op.defvjp
    return decorated


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Needed:
    """Which inputs of an op are differentiated; a residual that is not data.

    Attributes:
        inputs: The named tuple of the inputs, with True or False in place of each array. A missing
            input stays None.
    """

    inputs: Any


def values_and_needed(primals: Tree) -> tuple[Tree, Needed]:
    """Split the named tuple that a forward rule with ``symbolic_zeros`` gets."""
    values = jax.tree.map(lambda primal: primal.value, primals)
    return values, Needed(jax.tree.map(lambda primal: bool(primal.perturbed), primals))


def none_if_zero(cotangent: Any) -> Array | None:
    """Return a cotangent, or None where it is known to be zero."""
    return None if isinstance(cotangent, SymbolicZero) else cotangent


def same_axes(operands: Tree) -> Tree:
    """Make all arrays of a pytree vary over the same mesh axes inside ``jax.shard_map``.

    An op takes its operands together. The cast must be outside of its custom rule: its transpose
    is what sums the gradients of replicated operands over the mesh.
    """
    axes: set[Any] = set()
    for x in jax.tree.leaves(operands):
        axes |= jax.typeof(x).mat.varying

    def cast(x: Array) -> Array:
        missing = tuple(sorted(axes - jax.typeof(x).mat.varying))
        return jax.lax.pcast(x, missing, to="varying") if missing else x

    return jax.tree.map(cast, operands)
