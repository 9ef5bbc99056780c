"""Saves the inputs of rasterizer calls that go wrong, for ``debug`` and ``prefiltered``.

A watched call writes its inputs to a file before it starts, and removes the file when its results
are good. A call that fails, or takes the process down, leaves the file behind, whether it was
compiled, mapped or differentiated: nothing has to be caught for that.

Arrays go to the host in pieces. JAX copies larger ones for a callback on a thread of the pool that
the callback itself may hold: with one core that is a deadlock.
"""

import atexit
import dataclasses
import functools
import itertools
import json
import math
import os
import pathlib
import sys
import threading
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.experimental import io_callback
from jax.interpreters import batching, mlir

from jax_gsplat_depth._vjp import custom_vjp
from jax_gsplat_depth.compat._snapshot import HEADER

OUTPUTS = ("rendered_image", "radii", "depth_map", "weight_map")
COTANGENT = "cotangent of "
# Per process, so that a training that has gone wrong does not fill the disk.
MAX_KEPT = 10

# JAX copies up to 100 kB at once.
_PIECE_BYTES = 1 << 16

Header = dict[str, Any]
Outputs = tuple[Array, Array, Array, Array]


@dataclasses.dataclass(frozen=True)
class _Call:
    """The static part of a watched call."""

    run: Callable[..., Outputs]
    header: str
    watch_values: bool
    watch_hidden: bool


@dataclasses.dataclass(frozen=True)
class _Layout:
    """What a file will hold, in the order in which the values arrive."""

    kind: str
    header: str
    arrays: tuple[tuple[str, tuple[int, ...]], ...]
    dtype: str

    @property
    def size(self) -> int:
        return sum(math.prod(shape) for _, shape in self.arrays)


@dataclasses.dataclass
class _File:
    """The file of a call that has not ended."""

    path: pathlib.Path
    pieces: list[np.ndarray] = dataclasses.field(default_factory=list)


_numbers = itertools.count()
_lock = threading.Lock()
_running: dict[int, _File] = {}
_kept: list[pathlib.Path] = []


def recorded(
    run: Callable[..., Outputs],
    header: Header,
    inputs: dict[str, Array],
    hidden: Array | None,
    *,
    watch_values: bool,
) -> Outputs:
    """Return ``run(inputs)``, watched.

    Args:
        run: From arrays by name to the outputs; hashable.
        header: What else the file holds, as JSON.
        inputs: The arrays that the file holds.
        hidden: ``[N]`` bool, points that must not be there; or None.
        watch_values: Whether all values, gradients included, must be finite.
    """
    call = _Call(run, json.dumps(header, default=int), watch_values, hidden is not None)
    try:
        outputs = _recorded(call, inputs, jnp.zeros(0, bool) if hidden is None else hidden)
        if not any(isinstance(x, Tracer) for x in outputs):
            jax.block_until_ready(outputs)
    except Exception as error:
        for file in list(_running.values()):
            error.add_note(f"The inputs of the rasterizer are in {file.path}")
        raise
    return outputs


@custom_vjp
def _recorded(call: _Call, inputs: dict[str, Array], hidden: Array) -> Outputs:
    number, inputs = _begin("forward", call, inputs)
    outputs = call.run(inputs)
    results = dict(zip(OUTPUTS, outputs, strict=True)) | inputs
    _end("forward", number, results if call.watch_values else {}, hidden)
    return outputs


def _recorded_fwd(call: _Call, inputs: dict[str, Array], hidden: Array) -> tuple[Outputs, Any]:
    return _recorded(call, inputs, hidden), inputs


def _recorded_bwd(
    call: _Call, inputs: dict[str, Array], cotangents: Any
) -> tuple[dict[str, Array], None]:
    if not call.watch_values:
        return jax.vjp(call.run, inputs)[1](cotangents)[0], None
    named = {
        COTANGENT + name: v
        for name, v in zip(OUTPUTS, cotangents, strict=True)
        if name != "radii"  # integers have none
    }
    number, held = _begin("backward", call, inputs | named)
    inputs = {name: held[name] for name in inputs}
    cotangents = tuple(
        held.get(COTANGENT + name, v) for name, v in zip(OUTPUTS, cotangents, strict=True)
    )
    (gradients,) = jax.vjp(call.run, inputs)[1](cotangents)
    results = {f"gradient of {k}": v for k, v in gradients.items()} | held
    _end("backward", number, results, jnp.zeros(0, bool))
    return gradients, None


_recorded.defvjp(_recorded_fwd, _recorded_bwd)


def _begin(kind: str, call: _Call, inputs: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
    """Write the inputs, and return them so that they cannot be used earlier."""
    shapes = tuple((name, value.shape) for name, value in inputs.items())
    layout = _Layout(kind, call.header, shapes, str(inputs["means3D"].dtype))
    return jax.lax.optimization_barrier((_write(layout, inputs), inputs))


@functools.partial(jax.jit, static_argnums=0)
def _write(layout: _Layout, inputs: dict[str, Array]) -> Array:
    """Send the arrays to the host in order; returns the number of the file."""
    values = jnp.concatenate([inputs[name].ravel() for name, _ in layout.arrays])
    step = _PIECE_BYTES // values.dtype.itemsize
    n_pieces = -(-layout.size // step)
    pieces = jnp.pad(values, (0, n_pieces * step - layout.size)).reshape(n_pieces, step)

    def send(number: Array, piece: Array) -> tuple[Array, None]:
        return _send_p.bind(number, piece, layout=layout), None

    return jax.lax.scan(send, jnp.int32(-1), pieces)[0]


def _send(number: Array, piece: Array, *, layout: _Layout) -> Array:
    scalar = jax.ShapeDtypeStruct((), np.int32)
    return io_callback(functools.partial(_receive, layout), scalar, number, piece)


def _send_batch(values: Any, axes: Any, *, layout: _Layout) -> tuple[Array, int]:
    size = next(x.shape[axis] for x, axis in zip(values, axes, strict=True) if axis is not None)
    mapped = [
        jnp.broadcast_to(x, (size, *x.shape)) if axis is None else jnp.moveaxis(x, axis, 0)
        for x, axis in zip(values, axes, strict=True)
    ]
    return jax.lax.map(lambda x: _send_p.bind(*x, layout=layout), tuple(mapped)), 0


# ``io_callback`` has an effect that ``jax.checkpoint`` refuses. As a primitive of its own the call
# has none for JAX, which keeps it because its result is used; for XLA it has a side effect still.
_send_p = jax.extend.core.Primitive("jax_gsplat_depth_send")
_send_p.def_abstract_eval(lambda number, piece, **_: number.update(weak_type=False))
_send_p.def_impl(_send)
batching.primitive_batchers[_send_p] = _send_batch
mlir.register_lowering(_send_p, mlir.lower_fun(_send, multiple_results=False))


def _receive(layout: _Layout, number: Any, piece: Any) -> np.int32:
    """Append a piece to its file, to a new one if the number is -1; write after the last piece."""
    number = int(number)
    with _lock:
        if number < 0:
            number = next(_numbers)
            _running[number] = _File(_path(layout.kind, number))
        file = _running[number]
    file.pieces.append(np.array(piece))
    if sum(len(part) for part in file.pieces) >= layout.size:
        values, start = np.concatenate(file.pieces), 0
        file.pieces.clear()
        arrays: dict[str, Any] = {HEADER: layout.header}
        for name, shape in layout.arrays:
            end = start + math.prod(shape)
            arrays[name], start = values[start:end].reshape(shape), end
        np.savez(file.path, **arrays)
    return np.int32(number)


def _end(kind: str, number: Array, results: dict[str, Array], hidden: Array) -> None:
    """Send what is wrong with the call to the host: counts and positions only."""
    shapes = tuple((name, value.shape) for name, value in results.items())
    bad = [_count_and_first(~jnp.isfinite(value)) for value in results.values()]
    judge = functools.partial(_judge, kind, shapes, hidden.size)
    jax.debug.callback(judge, number, bad, _count_and_first(hidden))


def _count_and_first(bad: Array) -> tuple[Array, Array]:
    if bad.size == 0:
        return jnp.int32(0), jnp.int32(0)
    bad = bad.ravel()
    return jnp.sum(bad, dtype=jnp.int32), jnp.argmax(bad).astype(jnp.int32)


def _judge(
    kind: str, shapes: Any, n_points: int, number: Any, bad: list[Any], hidden: tuple[Any, Any]
) -> None:
    """Remove the file, or keep it and say what is wrong."""
    with _lock:
        path = _running.pop(int(number)).path
    found = []
    if hidden[0]:
        found.append(
            f"prefiltered is True, but {hidden[0]} of {n_points} points are not in front of the "
            f"near plane, the first is means3D[{hidden[1]}]; they are not drawn"
        )
    for (name, shape), (count, first) in zip(shapes, bad, strict=True):
        if count:
            index = ", ".join(map(str, np.unravel_index(int(first), shape or (1,))))
            others = f"{count - 1} more of {math.prod(shape)} values"
            found.append(f"{name}[{index}] and {others} are not finite")
    if not found:
        path.unlink()
        return
    with _lock:
        keep = len(_kept) < MAX_KEPT
        if keep:
            _kept.append(path)
    if keep:
        where = f"the inputs are in {path}, see jax_gsplat_depth.compat.load_snapshot"
    else:
        path.unlink()
        where = f"nothing saved, this process has saved {MAX_KEPT} files before"
    message = f"the {kind} pass of the rasterizer: {'; '.join(found)}; {where}"
    warnings.warn(message, RuntimeWarning, stacklevel=2)


def _path(kind: str, number: int) -> pathlib.Path:
    return pathlib.Path.cwd() / f"rasterizer_{kind}_{os.getpid()}_{number}.npz"


@atexit.register
def _report_unfinished() -> None:
    for file in _running.values():
        print(
            f"A call of the rasterizer did not finish; its inputs are in {file.path}",
            file=sys.stderr,
        )
