"""Teaches ``flax.serialization`` the containers, without loading Flax for it.

Flax saves only types that are registered with it. Where it is not loaded yet, a finder of modules
waits until somebody else imports it: that costs nothing, and Flax need not be installed.
"""

import dataclasses
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

_MODULE = "flax.serialization"

_waiting: list[type] = []


def register(*classes: type) -> None:
    """Let ``flax.serialization`` save and restore instances of dataclasses, static fields included.

    Args:
        *classes: Dataclasses whose fields Flax can save. A field that a saved state does not have
            gets its default.
    """
    flax = sys.modules.get(_MODULE)
    if hasattr(flax, "register_serialization_state"):
        _register(flax, classes)
        return
    if not _waiting:
        sys.meta_path.insert(0, _Waiting())
    _waiting.extend(classes)


def _register(flax: Any, classes: Sequence[type]) -> None:
    def to_state(value: Any) -> dict[str, Any]:
        names = [field.name for field in dataclasses.fields(value)]
        return {name: flax.to_state_dict(getattr(value, name)) for name in names}

    def from_state(target: Any, state: Any) -> Any:
        fields = {field.name: field for field in dataclasses.fields(target)}
        needed = {k for k, f in fields.items() if f.default is dataclasses.MISSING}
        held = {*state} if isinstance(state, dict) else set()
        if needed - held or held - {*fields}:
            raise ValueError(
                f"the state at {flax.current_path()} holds {sorted(held)}, expected the fields of "
                f"{type(target).__name__}: {sorted(fields)}"
            )
        return type(target)(
            **{k: flax.from_state_dict(getattr(target, k), state[k], name=k) for k in held}
        )

    for cls in classes:
        flax.register_serialization_state(cls, to_state, from_state, override=True)


class _Waiting(importlib.abc.MetaPathFinder):
    """Finds no module; where the others find Flax's, the classes are registered after it loads."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != _MODULE or self not in sys.meta_path:
            return None
        # Only those behind: where the package was imported twice, another of these is among them.
        others = sys.meta_path[sys.meta_path.index(self) + 1 :]
        specs = (finder.find_spec(fullname, path, target) for finder in others)
        spec: Any = next(filter(None, specs), None)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def load_and_register(module: ModuleType) -> None:
                load(module)
                _register(module, _waiting)
                if self in sys.meta_path:
                    sys.meta_path.remove(self)

            spec.loader.exec_module = load_and_register
        return spec
