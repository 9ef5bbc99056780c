"""Shows containers of arrays by shapes and dtypes: their numbers would fill the screen."""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np

Class = TypeVar("Class", bound=type)

_MOST_ITEMS = 6
"""A longer list is shown by its first items and its length."""


def shown_by_shape(cls: Class) -> Class:
    """Give a dataclass or a named tuple a ``repr`` like ``Camera(viewmat=float32[4,4], ...)``.

    Fields that are None, as by default, are left out.
    """
    decorated: Any = cls
    decorated.__repr__ = _by_shape
    return decorated


def _by_shape(self: Any) -> str:
    if dataclasses.is_dataclass(self):
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
    else:
        fields = self._asdict()
    # While JAX rebuilds a container, it may hold anything.
    shown = (f"{name}={_short(value)}" for name, value in fields.items() if value is not None)
    return f"{type(self).__name__}({', '.join(shown)})"


def _short(value: Any) -> str:
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if isinstance(shape, tuple) and dtype is not None and not isinstance(value, np.generic):
        return f"{getattr(dtype, 'name', dtype)}[{','.join(map(str, shape))}]"
    if isinstance(value, Mapping):
        return f"{{{_items([f'{key!r}: {_short(item)}' for key, item in value.items()])}}}"
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return _by_shape(value)
    if isinstance(value, (list, tuple)):
        items = _items([_short(item) for item in value[:_MOST_ITEMS]], len(value))
        return f"[{items}]" if isinstance(value, list) else f"({items})"
    return repr(value)


def _items(shown: list[str], n: int | None = None) -> str:
    n = len(shown) if n is None else n
    rest = [f"... {n} in all"] if n > _MOST_ITEMS else []
    return ", ".join([*shown[:_MOST_ITEMS], *rest])
