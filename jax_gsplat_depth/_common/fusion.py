"""Keeps XLA's CPU backend from fusing a part of a computation with its surroundings."""

from collections.abc import Callable
from typing import Any

import jax
from jax.experimental.xla_metadata import set_xla_metadata


def unfused(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function of arrays so that the CPU backend compiles it as a call of its own.

    Nothing outside is fused with it, and no shape is changed across it. An optimisation barrier is
    no substitute: it is gone before the CPU backend fuses. Other backends see the function as it
    is. The result can be differentiated and mapped like the function.

    Args:
        function: Takes and returns pytrees of arrays.
    """

    @jax.jit
    def callee(*operands: Any) -> Any:
        # The attribute is not for the calls inside.
        with set_xla_metadata(inlineable=None):
            return function(*operands)

    def call(*operands: Any) -> Any:
        with set_xla_metadata(inlineable="false"):
            return callee(*operands)

    def choose(*operands: Any) -> Any:
        return jax.lax.platform_dependent(*operands, cpu=call, default=function)

    return choose
