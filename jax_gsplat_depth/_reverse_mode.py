"""Refuses forward-mode differentiation of a public function, in words that name it.

JAX's own error for ``jax.custom_vjp`` names nothing, and in a compiled function it is raised while
lowering, where no function of this package is on the stack. So the inputs pass through an identity
whose tangent is another one: reverse mode only transposes that, forward mode executes it, and
executing it is the error.
"""

import functools
from collections.abc import Sequence
from typing import Any, TypeVar

import jax
import jax.extend.core
import jax.numpy as jnp
from jax.core import Tracer
from jax.interpreters import ad, batching, mlir

Tree = TypeVar("Tree")


def reverse_only(function: str, inputs: Tree) -> Tree:
    """Return the inputs of a public function, whose name is in the error of forward mode.

    Args:
        function: Name in ``jax_gsplat_depth``.
        inputs: Pytree of arrays, checked.
    """
    leaves, structure = jax.tree.flatten(inputs)
    traced = [
        i
        for i, x in enumerate(leaves)
        if isinstance(x, Tracer) and jnp.issubdtype(x.dtype, jnp.floating)
    ]
    if traced:
        same = _identity_p.bind(*(leaves[i] for i in traced), function=function)
        for i, x in zip(traced, same, strict=True):
            leaves[i] = x
    return jax.tree.unflatten(structure, leaves)


def _same(*operands: Any, **_: Any) -> list[Any]:
    return list(operands)


def _refuse(*_: Any, function: str, **__: Any) -> Any:
    raise TypeError(
        f"jax_gsplat_depth.{function} does not support forward-mode differentiation (jax.jvp, "
        "jax.jacfwd, jax.linearize, jax.hessian): expected reverse mode (jax.grad, jax.vjp, "
        "jax.jacrev)"
    )


def _batch(
    primitive: Any, operands: Sequence[Any], axes: Sequence[int | None], **params: Any
) -> tuple[list[Any], Sequence[int | None]]:
    return primitive.bind(*operands, **params), axes


def _jvp(
    primitive: Any, primals: Sequence[Any], tangents: Sequence[Any], **params: Any
) -> tuple[list[Any], list[Any]]:
    moved = list(tangents)
    known = [i for i, tangent in enumerate(tangents) if type(tangent) is not ad.Zero]
    if known:
        passed = _tangent_p.bind(*(tangents[i] for i in known), **params)
        for i, tangent in zip(known, passed, strict=True):
            moved[i] = tangent
    return primitive.bind(*primals, **params), moved


def _primitive(name: str) -> Any:
    primitive = jax.extend.core.Primitive(name)
    primitive.multiple_results = True
    primitive.def_abstract_eval(_same)
    batching.primitive_batchers[primitive] = functools.partial(_batch, primitive)
    ad.primitive_jvps[primitive] = functools.partial(_jvp, primitive)
    return primitive


_identity_p = _primitive("jax_gsplat_depth_inputs")
_identity_p.def_impl(_same)
mlir.register_lowering(_identity_p, lambda _, *operands, **__: operands)

_tangent_p = _primitive("jax_gsplat_depth_tangents")
_tangent_p.def_impl(_refuse)
mlir.register_lowering(_tangent_p, _refuse)
ad.primitive_transposes[_tangent_p] = lambda cotangents, *_, **__: list(cotangents)
