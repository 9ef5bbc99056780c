"""Saves an unfinished fit, which goes on from there as if it had never stopped.

Checkpoints lie in ``OUT/checkpoint``, one folder for each saved step, written by Orbax; the two
newest are kept (``_checkpoint_files`` has the other files). A kill at any time leaves the earlier
one. The order of the steps:

1. Before the first checkpoint the folder is made as a scratch folder, with ``fit.json``, synced and
   renamed to ``checkpoint``.
2. A checkpoint is written in a scratch folder in there, with its manifest, synced and renamed to
   the number of its step. From here on it counts.
3. An older one, and in the end the whole folder, is renamed to a hidden name and removed.

After a kill the next run removes what is hidden, and ``checkpoint`` if no step is in it. Needs the
``checkpoint`` extra, imported when first used.
"""

import contextlib
import dataclasses
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from jax_gsplat_depth._common import result_folder
from jax_gsplat_depth._common.disk import sync, sync_tree
from jax_gsplat_depth._common.extras import require
from jax_gsplat_depth._common.result_folder import OutputError
from jax_gsplat_depth._common.scratch import clear_scratch, discard, in_use, scratch_folder
from jax_gsplat_depth.datasets import Capture
from jax_gsplat_depth.fit._checkpoint_files import (
    CHECKPOINT,
    IDENTITY,
    check_manifest,
    read_sealed,
    state_of,
    steps_in,
    strangers_in,
    write_manifest,
    write_sealed,
)
from jax_gsplat_depth.fit._checkpoint_state import fingerprint, flattened, pack, unpack
from jax_gsplat_depth.fit._log import StepReport
from jax_gsplat_depth.fit._settings import FitError, FitSettings

PROGRAM = "jax-gsplat-depth fit"
"""The name of the main job in the files that it writes."""

_KEPT = 2

State = TypeVar("State")


def check_folder(out: Path, *, resume: bool = False) -> None:
    """Find out before hours of work whether the result of a fit can be written to ``out``.

    What a killed fit has left there is brought to its end or removed, but for its checkpoints.

    Args:
        out: The folder; it may exist if it is empty or holds an earlier result of a fit.
        resume: The fit goes on from the checkpoint in the folder; another one would lose it.

    Raises:
        OutputError: It is a file, a folder with someone else's files or with the checkpoint of an
            unfinished fit, in use by another fit, or not writable.
    """
    folder = out / CHECKPOINT
    state = state_of(folder)
    if state == "other":
        raise OutputError(_not_ours(folder, resume))
    if state == "usable" and not resume:
        raise OutputError(
            f"{out} holds the checkpoint of an unfinished fit: add --resume to go on with "
            f"it, or delete {folder}"
        )
    result_folder.check_folder(out, PROGRAM, may_hold=[CHECKPOINT] if state != "nothing" else [])
    try:
        if state == "unfinished" and not resume:
            _discard_unfinished(folder)
        clear_scratch(folder)
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {error.strerror}") from error


class Checkpoints:
    """The checkpoints of one fit.

    Attributes:
        folder: Where they lie.
        resume: Whether the fit goes on from the newest one.
    """

    def __init__(
        self,
        out: Path,
        *,
        every: int | None = None,
        resume: bool = False,
        options: dict[str, Any] | None = None,
    ) -> None:
        """Open or plan the checkpoints in an output folder; nothing is written yet.

        Args:
            out: Output folder of the fit.
            every: Save after every this many steps and after the last one; None to save only when
                the fit is stopped.
            resume: Go on from the newest checkpoint, which has to exist.
            options: What ``saved_options`` is to return to those who resume the fit, for JSON: how
                it was asked for. Of a fit that is resumed, those of its start stay.

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
        self._options = options
        # A fit that is not resumed makes the folder when it saves.
        self._has_folder = resume
        state = state_of(self.folder)
        if state == "other":
            raise FitError(_not_ours(self.folder, resume))
        if resume and state == "nothing":
            raise FitError(f"{out} holds no checkpoint to resume from")
        if resume and state == "unfinished":
            raise FitError(
                f"{self.folder} holds no complete checkpoint to resume from: start again without "
                "--resume"
            )
        if not resume and state == "usable":
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
            "settings": json.loads(json.dumps(flattened(dataclasses.asdict(settings)))),
            "capture": fingerprint(capture),
        }
        if not self.resume:
            if self._options is not None:
                self._identity["options"] = self._options
            return state, []
        try:
            saved = read_sealed(self.folder / IDENTITY)
            newest = self.folder / str(steps_in(self.folder)[-1])
        except (OSError, ValueError, IndexError) as error:
            raise FitError(_not_ours(self.folder, True)) from error
        self._check_identity(saved)
        if "options" in saved:
            self._identity["options"] = saved["options"]
        try:
            return self._restored(newest, state)
        # Orbax and TensorStore have no common error, and damage may raise any.
        except Exception as error:
            raise FitError(
                f"the checkpoint {newest} is damaged: delete it to resume from the one before, if "
                "there is one"
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
        content, about = pack(state, reports)
        args = self._orbax.args
        items = args.Composite(
            content=args.StandardSave({"bytes": content}), about=args.JsonSave(about)
        )
        try:
            if not self._has_folder:
                self._make_folder()
            self._write(len(reports), items)
        except OutputError:
            raise
        # TensorStore reports a full disk as ValueError.
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
            raise OutputError(f"{self.folder} cannot be written: {reason}") from error

    def delete(self) -> None:
        """Delete them: the fit is done and published."""
        with contextlib.suppress(OSError):
            discard(self.folder)

    @contextmanager
    def _checkpointer(self) -> Iterator[Any]:
        with (
            _quiet(),
            self._orbax.Checkpointer(self._orbax.CompositeCheckpointHandler()) as checkpointer,
        ):
            yield checkpointer

    def _make_folder(self) -> None:
        out = self.folder.parent
        out.mkdir(parents=True, exist_ok=True)
        if state_of(self.folder) == "unfinished":
            _discard_unfinished(self.folder)
        with scratch_folder(out) as scratch:
            write_sealed(scratch / IDENTITY, self._identity)
            sync_tree(scratch)
            scratch.rename(self.folder)
            sync(out)
        self._has_folder = True

    def _write(self, step: int, items: Any) -> None:
        earlier = steps_in(self.folder)
        if max(earlier, default=0) >= step:
            raise OutputError(f"{self.folder} already holds a checkpoint of step {step} or later")
        with scratch_folder(self.folder.absolute()) as scratch:
            new = scratch / str(step)
            with self._checkpointer() as checkpointer:
                checkpointer.save(new, args=items)
            write_manifest(new, self._identity)
            sync_tree(new)
            new.rename(self.folder / new.name)
            sync(self.folder)
        for old in earlier[: 1 - _KEPT]:
            discard(self.folder / str(old))

    def _check_identity(self, saved: dict[str, Any]) -> None:
        for name, value in self._identity["settings"].items():
            old = saved["settings"].get(name)
            if old != value:
                raise FitError(
                    f"{self.folder} belongs to a fit with {name} = {old}, not {value}: resume with "
                    "the settings it was started with"
                )
        if saved["capture"] != self._identity["capture"]:
            options = saved.get("options") or {}
            known = f": it was started with --data {options['data']}" if options.get("data") else ""
            raise FitError(f"{self.folder} belongs to a fit of another capture{known}")

    def _restored(self, checkpoint: Path, state: State) -> tuple[State, list[StepReport]]:
        check_manifest(checkpoint, self._identity)
        args = self._orbax.args
        items = args.Composite(content=args.StandardRestore(), about=args.JsonRestore())
        with self._checkpointer() as checkpointer:
            restored = checkpointer.restore(checkpoint.absolute(), args=items)
        return unpack(np.asarray(restored["content"]["bytes"]), restored["about"], state)


def _discard_unfinished(folder: Path) -> None:
    if in_use(folder):
        raise OutputError(
            f"another fit is saving its first checkpoint in {folder}: choose another folder, or "
            "delete it if no fit is running"
        )
    discard(folder)


def _not_ours(folder: Path, resume: bool) -> str:
    reason = f"{folder} holds something else than the checkpoints of a fit"
    strangers = []
    with contextlib.suppress(OSError):
        strangers = [] if folder.is_symlink() else strangers_in(folder)
    if strangers and (folder / IDENTITY).exists():
        reason += f": move {strangers[0]} to another place"
    else:
        reason += f", or its {IDENTITY} is damaged: move or delete it"
    return f"{folder.parent} holds no checkpoint to resume from: {reason}" if resume else reason


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
