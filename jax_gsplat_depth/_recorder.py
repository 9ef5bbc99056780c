"""Saves the inputs of rasterizer calls that go wrong, for the flags of ``seeds.py``.

A call that is watched writes its inputs to a file before it starts, and removes the file when its
results turn out to be finite. A call that fails, or takes the process down, leaves the file behind,
whether it was compiled, mapped or differentiated: nothing has to be caught for that.
"""

import atexit
import functools
import itertools
import json
import os
import pathlib
import sys
import threading
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.experimental import io_callback

from jax_gsplat_depth import _ffi

OUTPUTS = ("rendered_image", "radii", "depth_map", "weight_map")
COTANGENT = "cotangent of "
# Of one process, so that a training that has gone wrong does not fill the disk.
MAX_KEPT = 10

_HEADER = "settings"
_numbers = itertools.count()
_lock = threading.Lock()
_running: dict[int, pathlib.Path] = {}
_kept: list[pathlib.Path] = []

Header = dict[str, Any]
Outputs = tuple[Array, Array, Array, Array]


def recorded(run: Callable[..., Outputs], header: Header, inputs: dict[str, Array]) -> Outputs:
    """Return ``run(inputs)``, watched in the forward and in the backward pass.

    Args:
        run: From arrays by name to the outputs; hashable.
        header: What else the file has to say, as JSON.
        inputs: What the file holds.
    """
    try:
        outputs = _recorded((run, json.dumps(header)), inputs)
        if not any(isinstance(x, Tracer) for x in outputs):
            jax.block_until_ready(outputs)
    except Exception as error:
        for path in list(_running.values()):
            error.add_note(f"The inputs of the rasterizer are in {path}")
        raise
    return outputs


def report_prefiltered(header: Header, hidden: Array, inputs: dict[str, Array]) -> None:
    """Save the inputs if a point is hidden although the points are said to be prefiltered."""
    save = functools.partial(_save_prefiltered, json.dumps(header))
    jax.lax.cond(
        hidden.any(),
        lambda: jax.debug.callback(save, hidden, inputs),
        lambda: None,
    )


def load(path: Any) -> tuple[Header, dict[str, Array]]:
    """Return what a file holds: the header, and the arrays by name."""
    with np.load(path) as file:
        arrays = {name: jnp.asarray(file[name]) for name in file.files if name != _HEADER}
        return json.loads(str(file[_HEADER])), arrays


def cotangent_names(arrays: dict[str, Array]) -> list[str]:
    """Return the names of those arrays that are cotangents."""
    return [name for name in arrays if name.startswith(COTANGENT)]


@_ffi.custom_vjp
def _recorded(static: tuple[Callable[..., Outputs], str], inputs: dict[str, Array]) -> Outputs:
    run, header = static
    number, inputs = _begin("forward", header, inputs)
    outputs = run(inputs)
    _end("forward", number, dict(zip(OUTPUTS, outputs, strict=True)), inputs)
    return outputs


def _recorded_fwd(static: Any, inputs: dict[str, Array]) -> tuple[Outputs, dict[str, Array]]:
    return _recorded(static, inputs), inputs


def _recorded_bwd(
    static: Any, inputs: dict[str, Array], cotangents: Any
) -> tuple[dict[str, Array]]:
    run, header = static
    named = {
        COTANGENT + name: v for name, v in zip(OUTPUTS, cotangents, strict=True) if name != "radii"
    }
    number, held = _begin("backward", header, inputs | named)
    inputs = {name: held[name] for name in inputs}
    cotangents = tuple(
        held.get(COTANGENT + name, v) for name, v in zip(OUTPUTS, cotangents, strict=True)
    )
    (gradients,) = jax.vjp(run, inputs)[1](cotangents)
    _end("backward", number, {f"gradient of {k}": v for k, v in gradients.items()}, held)
    return (gradients,)


_recorded.defvjp(_recorded_fwd, _recorded_bwd)


def _begin(kind: str, header: str, inputs: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
    """Write the inputs, and return them so that they cannot be used earlier."""
    write = functools.partial(_write_running, kind, header)
    number = io_callback(write, jax.ShapeDtypeStruct((), np.int32), inputs)
    return jax.lax.optimization_barrier((number, inputs))


def _end(kind: str, number: Array, results: dict[str, Array], inputs: dict[str, Array]) -> None:
    jax.debug.callback(functools.partial(_judge, kind), number, results, inputs)


def _write_running(kind: str, header: str, inputs: dict[str, Any]) -> np.int32:
    with _lock:
        number = next(_numbers)
        _running[number] = path = _path(kind, number)
    _write(path, header, inputs)
    return np.int32(number)


def _judge(kind: str, number: Any, results: dict[str, Any], inputs: dict[str, Any]) -> None:
    """Remove the file, or keep it and say what is not finite."""
    with _lock:
        path = _running.pop(int(number))
    found = [_first_bad(name, value) for name, value in {**results, **inputs}.items()]
    found = [text for text in found if text]
    if not found:
        path.unlink()
        return
    _keep(f"the {kind} pass of the rasterizer: {'; '.join(found)}", path)


def _save_prefiltered(header: str, hidden: Any, inputs: dict[str, Any]) -> None:
    hidden = np.asarray(hidden)
    if not hidden.any():  # under vmap both branches run
        return
    with _lock:
        path = _path("prefiltered", next(_numbers))
    _write(path, header, inputs)
    _keep(
        f"prefiltered is True, but {hidden.sum()} of {hidden.size} points are not in front of the "
        f"near plane, the first is means3D[{hidden.argmax()}]; they are not drawn",
        path,
    )


def _keep(message: str, path: pathlib.Path) -> None:
    with _lock:
        full = len(_kept) >= MAX_KEPT
        if not full:
            _kept.append(path)
    if full:
        path.unlink()
        where = f"nothing saved, this process has saved {MAX_KEPT} files before"
    else:
        where = f"the inputs are in {path}, see jax_gsplat_depth.seeds.load_snapshot"
    warnings.warn(f"{message}; {where}", RuntimeWarning, stacklevel=2)


def _first_bad(name: str, value: Any) -> str:
    bad = ~np.isfinite(np.asarray(value))
    if not bad.any():
        return ""
    index = ", ".join(map(str, np.unravel_index(bad.argmax(), bad.shape)))
    return f"{name}[{index}] and {bad.sum() - 1} more of {bad.size} values are not finite"


def _path(kind: str, number: int) -> pathlib.Path:
    return pathlib.Path.cwd() / f"rasterizer_{kind}_{os.getpid()}_{number}.npz"


def _write(path: pathlib.Path, header: str, inputs: dict[str, Any]) -> None:
    arrays: dict[str, Any] = {name: np.asarray(value) for name, value in inputs.items()}
    arrays[_HEADER] = header
    np.savez(path, **arrays)


@atexit.register
def _report_unfinished() -> None:
    for path in _running.values():
        print(f"A call of the rasterizer did not finish; its inputs are in {path}", file=sys.stderr)
