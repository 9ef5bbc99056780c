"""Finds the arrays of an optimiser's state that follow their Gaussians."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax.numpy as jnp
from jax import Array


def map_moments(
    fn: Callable[[Array], Array],
    optimizer: Any,
    opt_state: Any,
    params: Mapping[str, Array],
    names: Collection[str] | None = None,
) -> Any:
    """Apply a function to every array of an Optax state that belongs to a parameter.

    That is to Adam's two moments, a momentum and the like: the leaves that Optax made in place of
    a parameter and that have its shape. Counts, schedules and factored statistics stay. Optimisers
    that see a part of the parameters (``optax.partition``, ``optax.masked``) are understood.

    Args:
        fn: From ``[N_max, ...]`` to the same shape and dtype.
        optimizer: The ``optax.GradientTransformation`` that made the state, for exactly ``params``.
        opt_state: Its state.
        params: The parameters; only their shapes are read.
        names: Those parameters only; None for all of them.

    Returns:
        The state, of the same structure, shapes and dtypes.
    """
    import optax
    from optax.tree_utils import tree_map_params

    def apply(leaf: Any, name: str) -> Any:
        if isinstance(leaf, optax.MaskedNode) or jnp.shape(leaf) != jnp.shape(params[name]):
            return leaf
        return fn(leaf) if names is None or name in names else leaf

    return tree_map_params(
        optimizer,
        apply,
        opt_state,
        {name: name for name in params},
        is_leaf=lambda leaf: isinstance(leaf, optax.MaskedNode),
    )


def clear_moments(
    where: Array,
    optimizer: Any,
    opt_state: Any,
    params: Mapping[str, Array],
    names: Collection[str] | None = None,
) -> Any:
    """Set the moments of the Gaussians ``where`` ``[N_max]`` to zero; see ``map_moments``."""

    def clear(leaf: Array) -> Array:
        mask = where.reshape(where.shape + (1,) * (leaf.ndim - 1))
        return jnp.where(mask, 0, leaf)

    return map_moments(clear, optimizer, opt_state, params, names)
