"""Reads arrays and static values for the checks, and keeps the table of symbolic dimensions.

Only types, shapes and dtypes are looked at: the values may be tracers. ``_check.py`` says what each
argument has to be.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jax_gsplat_depth._explicit import gathered

_FLOATS = (np.dtype(np.float32), np.dtype(np.float64))

Dim = int | str


class Dims:
    """The sizes of symbolic dimensions, and the argument that each was read from."""

    def __init__(self) -> None:
        self._sizes: dict[str, tuple[int, str]] = {}

    def bind(self, symbol: str, size: int, source: str) -> None:
        """Give a symbol its size; ``source`` is the argument that the messages name."""
        self._sizes[symbol] = (size, source)

    def match(
        self, name: str, shape: tuple[int, ...], *patterns: tuple[Dim, ...], hint: str = ""
    ) -> None:
        """Require one of the patterns and bind their free symbols to the sizes found."""
        for pattern in patterns:
            if len(pattern) == len(shape) and all(map(self._fits, pattern, shape)):
                for symbol, size in zip(pattern, shape, strict=True):
                    if isinstance(symbol, str) and symbol not in self._sizes:
                        self.bind(symbol, size, name)
                return
        expected = " or ".join(map(_format_shape, patterns))
        symbols = dict.fromkeys(d for pattern in patterns for d in pattern if isinstance(d, str))
        known = [
            f"{symbol} = {self._sizes[symbol][0]} (from {self._sizes[symbol][1]})"
            for symbol in symbols
            if symbol in self._sizes
        ]
        message = f"{name} has shape {_format_shape(shape)}, expected {expected}"
        if known:
            message += " with " + ", ".join(known)
        raise ValueError(f"{message}; {hint}" if hint else message)

    def _fits(self, dim: Dim, size: int) -> bool:
        if isinstance(dim, int):
            return dim == size
        return dim not in self._sizes or self._sizes[dim][0] == size


def instance(name: str, value: Any, cls: type) -> Any:
    """Return the value if it is an instance of the class."""
    if not isinstance(value, cls):
        raise TypeError(f"{name} has type {type(value).__name__}, expected {cls.__name__}")
    return value


def static_int(name: str, value: Any) -> int:
    """Return a static integer."""
    # bool is a subclass of int: True would pass for 1.
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return int(value)
    raise TypeError(f"{name} has type {type(value).__name__}, expected int: it is static")


def reference_array(name: str, value: Any, *, whole: bool = True) -> Array:
    """Convert the array that determines the dtype of all others; ``whole`` as in the next one."""
    value = _read(name, value, "fiu")
    if isinstance(value, np.ndarray):
        # float64 is NumPy's default, and JAX's only with x64. [0, 1] may stand for [0.0, 1.0].
        is_float32 = value.dtype == np.float32
        value = jnp.asarray(value, value.dtype if is_float32 else jnp.result_type(float))
    if value.dtype not in _FLOATS:
        raise TypeError(f"{name} has dtype {value.dtype}, expected float32 or float64")
    array = jnp.asarray(value, value.dtype)
    return gathered(array) if whole else array


def float_array(name: str, value: Any, dtype: Any, source: str, *, whole: bool = True) -> Array:
    """Return a JAX array of the dtype of ``source``; JAX arrays are not converted.

    ``whole`` gathers an array that is split over the explicit axes of a mesh.
    """
    value = _read(name, value, "fiu")
    if isinstance(value, np.ndarray):
        value = jnp.asarray(value, dtype)
    if value.dtype != dtype:
        raise TypeError(f"{name} has dtype {value.dtype}, expected {dtype} (from {source})")
    # Drops a weak type, such as that of jnp.full((n,), 0.5).
    array = jnp.asarray(value, dtype)
    return gathered(array) if whole else array


def int32_array(name: str, value: Any) -> Array:
    """Return a JAX array of int32; JAX arrays are not converted."""
    value = _read(name, value, "iu")
    if isinstance(value, np.ndarray):
        value = jnp.asarray(value, jnp.int32)
    if value.dtype != jnp.int32:
        raise TypeError(f"{name} has dtype {value.dtype}, expected int32")
    return gathered(jnp.asarray(value))


def _read(name: str, value: Any, kinds: str) -> Array | np.ndarray:
    """Return JAX values as they are, and all else as a NumPy array of one of the kinds."""
    if value is None:
        raise ValueError(f"{name} is missing")
    if isinstance(value, Array):
        return value
    # A nested list may hold JAX scalars: [[fx, 0, cx], ...].
    holds_jax = any(isinstance(leaf, Array) for leaf in jax.tree.leaves(value))
    try:
        array = jnp.asarray(value) if holds_jax else np.asarray(value)
    except Exception as error:
        raise TypeError(f"{name} cannot be read as an array: {error}") from None
    if isinstance(array, np.ndarray) and array.dtype.kind not in kinds:
        expected = "float32 or float64" if "f" in kinds else "int32"
        raise TypeError(f"{name} has dtype {array.dtype}, expected {expected}")
    return array


def _format_shape(shape: tuple[Dim, ...]) -> str:
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"
