"""Keeps ``jax_debug_nans`` and ``jax_debug_infs`` out of the functions that take any data.

Data that is not finite is no error here: such a Gaussian is not drawn. Executed op by op, without
``jit``, JAX would find it in the first reshape of an input. So these flags are off inside of the
public functions, and what these return is looked at instead.
"""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

P = ParamSpec("P")
R = TypeVar("R")

# Its flags are set at run time, so that they have no types.
_CONFIG: Any = jax.config


def takes_any_data(*, returns_any: bool = False) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate a public function.

    Args:
        returns_any: Whether its results may be NaN or infinite by their definition.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            if not _watched():
                return function(*args, **kwargs)
            with unwatched():
                result = function(*args, **kwargs)
            if not returns_any:
                check_results(f"jax_gsplat_depth.{function.__qualname__}", jax.tree.leaves(result))
            return result

        return call

    return decorate


@contextlib.contextmanager
def unwatched() -> Iterator[None]:
    """Turn the flags off, if they are on."""
    if not _watched():
        yield
        return
    with jax.debug_nans(False), jax.debug_infs(False):
        yield


def check_results(name: str, results: Iterable[Any]) -> None:
    """Raise what JAX raises for an op of its own, if its flags are on and a result is not finite.

    Raises:
        FloatingPointError: A result is NaN or infinite; the message names the function.
    """
    if not _watched():
        return
    for x in results:
        if isinstance(x, Tracer) or not jnp.issubdtype(x.dtype, jnp.floating):
            continue
        values = np.asarray(x)
        if _CONFIG.jax_debug_nans and np.isnan(values).any():
            raise FloatingPointError(f"invalid value (nan) encountered in {name}")
        if _CONFIG.jax_debug_infs and np.isinf(values).any():
            raise FloatingPointError(f"invalid value (inf) encountered in {name}")


def _watched() -> bool:
    return _CONFIG.jax_debug_nans or _CONFIG.jax_debug_infs
