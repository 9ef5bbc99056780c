"""Packs the state of a training into one array of bytes, and recognises its capture."""

import dataclasses
import hashlib
import math
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jax_gsplat_depth.datasets import Capture
from jax_gsplat_depth.fit._log import StepReport

# Columns of the saved log; the names of the loss terms follow.
_LOG = ("loss", "psnr", "n_gaussians")

State = TypeVar("State")


def pack(state: Any, reports: list[StepReport]) -> tuple[np.ndarray, dict[str, Any]]:
    """Return all arrays of a training as bytes, and what ``unpack`` has to know about them.

    Args:
        state: The state of the training, a tree of arrays.
        reports: The reports of all steps up to it, at least one.
    """
    arrays = _arrays_of(state)
    arrays["log"] = np.array(
        [[getattr(r, name) for name in _LOG] + list(r.parts.values()) for r in reports],
        np.float64,
    )
    # In one piece: of several arrays, TensorStore goes on reading some when another is damaged,
    # and complains on the terminal about reads that were not awaited.
    content = np.frombuffer(b"".join(array.tobytes() for array in arrays.values()), np.uint8)
    about = {
        "parts": list(reports[0].parts),
        "arrays": [[name, str(a.dtype), a.shape] for name, a in arrays.items()],
    }
    return content, about


def unpack(
    content: np.ndarray, about: dict[str, Any], state: State
) -> tuple[State, list[StepReport]]:
    """Return what ``pack`` was given.

    Args:
        content: ``[n]`` uint8.
        about: See ``pack``.
        state: A tree of arrays of the same names, shapes and types.

    Raises:
        ValueError: ``content`` holds other arrays.
        KeyError: Likewise.
    """
    arrays, begin = {}, 0
    for name, dtype, shape in about["arrays"]:
        end = begin + math.prod(shape) * np.dtype(dtype).itemsize
        arrays[name] = content[begin:end].view(dtype).reshape(shape)
        begin = end
    log = arrays.pop("log")
    reports = [
        StepReport(
            step=number,
            loss=float(row[0]),
            psnr=float(row[1]),
            n_gaussians=int(row[2]),
            parts=dict(zip(about["parts"], row[3:].tolist(), strict=True)),
        )
        for number, row in enumerate(log, start=1)
    ]
    return _with_arrays(state, arrays), reports


def fingerprint(capture: Capture) -> str:
    """Return a hash of everything that a capture holds."""
    content = hashlib.sha256()
    for field in dataclasses.fields(capture):
        value = getattr(capture, field.name)
        if isinstance(value, np.ndarray):
            content.update(f"{field.name} {value.dtype} {value.shape}".encode())
            content.update(np.ascontiguousarray(value).data)
        else:
            content.update(f"{field.name} {value!r}".encode())
    return content.hexdigest()


def flattened(settings: dict[str, Any]) -> dict[str, Any]:
    """Return nested settings in one level, with names such as ``mcmc.growth``."""
    flat = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            flat |= {f"{name}.{inner}": entry for inner, entry in flattened(value).items()}
        else:
            flat[name] = value
    return flat


def _arrays_of(state: Any) -> dict[str, np.ndarray]:
    """Return the leaves of a tree by name; Orbax does not save empty ones, and need not."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {_name(path): np.asarray(leaf) for path, leaf in leaves if leaf.size > 0}


def _with_arrays(state: State, arrays: dict[str, np.ndarray]) -> State:
    """Return a tree like ``state`` with other leaves, the inverse of ``_arrays_of``."""

    def leaf_of(path: Any, leaf: Any) -> Any:
        if leaf.size == 0:
            return leaf
        array = arrays[_name(path)]
        if (array.shape, array.dtype) != (leaf.shape, leaf.dtype):
            raise ValueError(f"{_name(path)} has {array.dtype} of shape {array.shape}")
        # A copy, which the step may overwrite.
        return jnp.array(array)

    return jax.tree_util.tree_map_with_path(leaf_of, state)


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")
