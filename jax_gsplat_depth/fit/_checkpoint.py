"""Saves an unfinished fit, which goes on from there as if it had never stopped.

Checkpoints lie in ``OUT/checkpoint``: ``fit.json`` says which fit they belong to, and Orbax writes
one folder for each saved step, under another name until it is complete. A kill at any time leaves
the earlier one, and the two newest are kept. Needs the ``checkpoint`` extra, imported when first
used.
"""

import dataclasses
import hashlib
import json
import logging
import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jax_gsplat_depth._common import result_folder
from jax_gsplat_depth._common.atomic import atomic_write
from jax_gsplat_depth._common.extras import require
from jax_gsplat_depth._common.result_folder import OutputError
from jax_gsplat_depth.datasets import Capture
from jax_gsplat_depth.fit._log import StepReport
from jax_gsplat_depth.fit._settings import FitError, FitSettings

PROGRAM = "jax-gsplat-depth fit"
"""The name of the main job in the files that it writes."""

CHECKPOINT = "checkpoint"
"""Folder of the checkpoints in an output folder."""

_IDENTITY = "fit.json"
"""File in it that says which fit they belong to."""

_KEPT = 2

# Columns of the saved log; the names of the loss terms follow.
_LOG = ("loss", "psnr", "n_gaussians")

State = TypeVar("State")


def check_folder(out: Path, *, resume: bool = False) -> None:
    """Find out before hours of work whether the result of a fit can be written to ``out``.

    Args:
        out: The folder; it may exist if it is empty or holds an earlier result of a fit.
        resume: The fit goes on from the checkpoint in the folder; another one would lose it.

    Raises:
        OutputError: It is a file, a folder with someone else's files or with the checkpoint of an
            unfinished fit, or not writable.
    """
    unfinished = is_checkpoint(out / CHECKPOINT)
    if unfinished and not resume:
        raise OutputError(
            f"{out} holds the checkpoint of an unfinished fit: add --resume to go on with "
            f"it, or delete {out / CHECKPOINT}"
        )
    result_folder.check_folder(out, PROGRAM, may_hold=[CHECKPOINT] if unfinished else [])


def is_checkpoint(folder: Path) -> bool:
    """Return whether a folder holds checkpoints of ours."""
    try:
        return json.loads((folder / _IDENTITY).read_text())["program"] == PROGRAM
    except (OSError, ValueError, KeyError, TypeError):
        return False


class Checkpoints:
    """The checkpoints of one fit.

    Attributes:
        folder: Where they lie.
        resume: Whether the fit goes on from the newest one.
    """

    def __init__(self, out: Path, *, every: int | None = None, resume: bool = False) -> None:
        """Open or plan the checkpoints in an output folder; nothing is written yet.

        Args:
            out: Output folder of the fit.
            every: Save after every this many steps and after the last one; None to save only when
                the fit is stopped.
            resume: Go on from the newest checkpoint, which has to exist.

        Raises:
            ImportError: Orbax, the ``checkpoint`` extra, is not installed.
            FitError: There is no checkpoint to resume from, or one that a new fit would lose.
        """
        self.folder = out / CHECKPOINT
        self._every = every
        self.resume = resume
        with _quiet():
            self._orbax = require("orbax.checkpoint", "checkpoint")
        self._identity: dict[str, Any] = {}
        if resume and not is_checkpoint(self.folder):
            raise FitError(f"{out} holds no checkpoint to resume from")
        if not resume and is_checkpoint(self.folder):
            raise FitError(
                f"{self.folder} holds the checkpoint of an unfinished fit: resume it, or delete it"
            )

    def start(
        self, capture: Capture, settings: FitSettings, state: State
    ) -> tuple[State, list[StepReport]]:
        """Return where the fit has to begin.

        Args:
            capture: The capture to fit.
            settings: The settings of the fit.
            state: The state of a fit that is not resumed.

        Returns:
            ``state`` and no reports, or, to resume, those of the newest checkpoint to the bit.

        Raises:
            FitError: The checkpoint belongs to another fit, or cannot be read.
        """
        self._identity = {
            "program": PROGRAM,
            "settings": json.loads(json.dumps(_flat(dataclasses.asdict(settings)))),
            "capture": fingerprint(capture),
        }
        if not self.resume:
            return state, []
        self._check_identity()
        with self._manager() as manager:
            step = manager.latest_step()
            if step is None:
                raise FitError(f"{self.folder} holds no complete checkpoint to resume from")
            try:
                return self._restored(manager, step, state)
            # Orbax and TensorStore have no common error, and damage may raise any.
            except Exception as error:
                raise FitError(
                    f"the checkpoint {self.folder / str(step)} is damaged: delete it to resume "
                    "from the one before, if there is one"
                ) from error

    def due(self, step: int, last: int) -> bool:
        """Return whether to save after step number ``step`` of ``last``, counted from 1.

        The last step is saved as well, so that a kill while the results are written loses none.
        """
        if step == last:
            return self._every is not None or self.resume
        return self._every is not None and step % self._every == 0

    def save(self, state: Any, reports: list[StepReport]) -> None:
        """Write a checkpoint.

        Args:
            state: The state of the training.
            reports: The reports of all steps up to it.

        Raises:
            OutputError: It cannot be written.
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
            # TensorStore notices a lost file, but not every changed byte.
            "sha256": hashlib.sha256(content.data).hexdigest(),
        }
        args = self._orbax.args
        items = args.Composite(
            content=args.StandardSave({"bytes": content}), about=args.JsonSave(about)
        )
        try:
            if not is_checkpoint(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
                identity = json.dumps(self._identity, indent=2).encode()
                atomic_write(self.folder / _IDENTITY, lambda stream: stream.write(identity))
            with self._manager() as manager:
                saved = manager.save(len(reports), args=items)
        # TensorStore reports a full disk as ValueError.
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
            raise OutputError(f"{self.folder} cannot be written: {reason}") from error
        if not saved:
            raise OutputError(
                f"{self.folder} already holds a checkpoint of step {len(reports)} or later"
            )

    def delete(self) -> None:
        """Delete them: the fit is done and published."""
        shutil.rmtree(self.folder, ignore_errors=True)

    @contextmanager
    def _manager(self) -> Iterator[Any]:
        options = self._orbax.CheckpointManagerOptions(
            max_to_keep=_KEPT, enable_async_checkpointing=False
        )
        with (
            _quiet(),
            self._orbax.CheckpointManager(self.folder.absolute(), options=options) as manager,
        ):
            yield manager

    def _check_identity(self) -> None:
        saved = json.loads((self.folder / _IDENTITY).read_text())
        for name, value in self._identity["settings"].items():
            old = saved.get("settings", {}).get(name)
            if old != value:
                raise FitError(
                    f"{self.folder} belongs to a fit with {name} = {old}, not {value}: resume with "
                    "the settings it was started with"
                )
        if saved.get("capture") != self._identity["capture"]:
            raise FitError(f"{self.folder} belongs to a fit of another capture")

    def _restored(self, manager: Any, step: int, state: State) -> tuple[State, list[StepReport]]:
        args = self._orbax.args
        items = args.Composite(content=args.StandardRestore(), about=args.JsonRestore())
        restored = manager.restore(step, args=items)
        content, about = np.asarray(restored.content["bytes"]), restored.about
        if hashlib.sha256(content.data).hexdigest() != about["sha256"]:
            raise ValueError("the content is not what was saved")
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


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    """Return nested settings in one level, with names such as ``mcmc.growth``."""
    flat = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            flat |= {f"{name}.{inner}": entry for inner, entry in _flat(value).items()}
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


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Orbax from writing to the terminal: what matters it raises, and we say."""
    logger = logging.getLogger("absl")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)
