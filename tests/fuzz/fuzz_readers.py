"""Feeds mutated files to every reader: each must give a result or one clear error, soon.

Any other exception, a warning that is not one of ours, a message of several lines or without the
file's name, an allocation of more than 512 MiB, an input that takes seconds, or the end of the
process is a failure. Its input is kept, with a line in ``failures.txt``.

    python tests/fuzz/fuzz_readers.py --inputs 1000000 --workers 2 --keep failures

Every input is made from the seed, the target and its number alone: ``--only TARGET --first N
--inputs 1`` makes one of them again.
"""

import argparse
import collections
import contextlib
import json
import mmap
import os
import random
import resource
import signal
import struct
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

import jax
import numpy as np

from fuzz.mutations import mutated
from fuzz.targets import TARGETS, Target

SECONDS = 5.0
"""Time for one input."""

_STALLED = 20.0
"""Seconds without a new input after which a worker is killed."""

_MEMORY = 1 << 29
"""Bytes that an input may make the process grow by."""

_SCRATCH = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
"""Where files are written: in memory, if there is such a place."""

_BLOCK = 200
"""Inputs of one target in a row."""

_PROGRESS = struct.Struct("<qq")
"""Layout: index of the block, number of the next input."""

Block = tuple[str, int, int]
"""Name of a target, first input, end of the inputs."""

_OUR_WARNINGS = ("FileWarning", "CaptureWarning")


class Slow(BaseException):
    """An input takes too long."""


class Fuzzer:
    """The files of one target in a folder of its own, one of them mutated at a time."""

    def __init__(self, name: str, folder: Path, seed: int = 0) -> None:
        """Write the good files."""
        self.name, self.folder, self.seed = name, folder, seed
        self.target: Target = TARGETS[name]
        self.folder.mkdir(parents=True)
        self.target.make(self.folder)
        self.good = {file: (self.folder / file).read_bytes() for file in self.target.files}

    def mutation(self, number: int) -> tuple[str, bytes]:
        """Return the name of a file and its new content."""
        rng = random.Random(f"{self.seed} {self.name} {number}")
        file = rng.choice(self.target.files)
        data = self.good[file]
        if self.target.codings and rng.random() < 0.7:
            coding = self.target.codings[0]
            with contextlib.suppress(ValueError, OverflowError, struct.error):
                return file, coding.encode(mutated(rng, coding.decode(data)))
        return file, mutated(rng, data)

    def outcome(self, number: int) -> str:
        """Return ``read`` or ``refused``, or what went wrong."""
        file, content = self.mutation(number)
        path = self.folder / file
        path.write_bytes(content)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                _allow_our_warnings()
                _check(self.target.read(self.folder))
            return "read"
        except ValueError as error:
            message = str(error)
            if not message.isprintable() or len(message) > 10_000 or "/" not in message:
                return f"unclear {type(error).__name__}: {message[:300]!r}"
            return "refused"
        except (Slow, Exception) as error:
            return f"{type(error).__name__}: {str(error)[:300]!r}"
        finally:
            path.write_bytes(self.good[file])


def _allow_our_warnings() -> None:
    for module in ("jax_gsplat_depth.io", "jax_gsplat_depth.datasets"):
        for name in _OUR_WARNINGS:
            category = getattr(sys.modules[module], name, None)
            if category is not None:
                warnings.simplefilter("ignore", category)


def _check(result: Any) -> None:
    """Refuse a result with numbers that are none, where a reader promises that there are none."""
    if hasattr(result, "rasterizer"):
        return  # A snapshot is there to show them.
    for leaf in jax.tree.leaves(vars(result)):
        if isinstance(leaf, (np.ndarray, jax.Array)) and leaf.dtype.kind == "f":
            if not np.isfinite(leaf).all():
                raise AssertionError("a number that is not finite")


@contextlib.contextmanager
def limits() -> Iterator[None]:
    """Limit the memory of the process to what it has and some more; only while reading."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * mmap.PAGESIZE + _MEMORY, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _out_of_time(*_: Any) -> None:
    raise Slow("too slow")


def run(fuzzer: Fuzzer, numbers: range) -> Iterator[tuple[int, str]]:
    """Yield the outcome of each input, with a limit on the time; needs the main thread."""
    before = signal.signal(signal.SIGALRM, _out_of_time)
    try:
        for number in numbers:
            signal.setitimer(signal.ITIMER_REAL, SECONDS)
            try:
                found = fuzzer.outcome(number)
            except Slow:
                found = "Slow: outside of the reader"
            signal.setitimer(signal.ITIMER_REAL, 0)
            yield number, found
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _work(options: argparse.Namespace) -> None:
    """Run the blocks of inputs that come on standard input; a file shows how far it is."""
    blocks, progress = json.load(sys.stdin), options.progress
    end = time.monotonic() + 60 * options.minutes
    with tempfile.TemporaryDirectory(dir=_SCRATCH) as scratch, open(progress, "r+b") as stream:
        seen = mmap.mmap(stream.fileno(), _PROGRESS.size)
        names = dict.fromkeys(name for name, *_ in blocks)
        fuzzers = {name: Fuzzer(name, Path(scratch) / name, options.seed) for name in names}
        for fuzzer in fuzzers.values():
            for number in (-1, -2, -3):  # Whatever is loaded or compiled at first.
                fuzzer.outcome(number)
        with limits():
            for index, (name, first, last) in enumerate(blocks):
                if time.monotonic() > end:
                    break
                outcomes: collections.Counter[str] = collections.Counter()
                for number, found in run(fuzzers[name], range(first, last)):
                    seen[:] = _PROGRESS.pack(index, number + 1)
                    outcomes[found if found in ("read", "refused") else "failed"] += 1
                    if found not in ("read", "refused"):
                        _say(target=name, number=number, failure=found)
                _say(target=name, outcomes=outcomes)


def _say(**values: Any) -> None:
    print(json.dumps(values), flush=True)


class _Worker:
    """A process with blocks of inputs, which it may not survive."""

    def __init__(self, options: argparse.Namespace, blocks: list[Block], minutes: float) -> None:
        """Start it."""
        self.blocks = blocks
        self.progress = tempfile.NamedTemporaryFile(dir=_SCRATCH)
        self.progress.write(_PROGRESS.pack(0, blocks[0][1]))
        self.progress.flush()
        self.output = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--seed", str(options.seed), "--minutes", str(minutes)]
            + ["--progress", self.progress.name],
            stdin=subprocess.PIPE,
            stdout=self.output,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
            text=True,
        )
        assert self.process.stdin is not None
        with self.process.stdin as stream:
            json.dump(blocks, stream)
        self.at, self.since, self.started = self.place(), time.monotonic(), False

    def place(self) -> tuple[int, int]:
        """Return the block and the input that it is at."""
        index, number = _PROGRESS.unpack(Path(self.progress.name).read_bytes())
        return index, number

    def has_ended(self) -> bool:
        """Return whether it has, and end it if it does not go on."""
        if self.process.poll() is not None:
            return True
        now = time.monotonic()
        if (at := self.place()) != self.at:
            self.at, self.since, self.started = at, now, True
        # The first input waits for imports.
        if now - self.since > (_STALLED if self.started else 10 * _STALLED):
            self.process.kill()
            self.process.wait()
            return True
        return False

    def lines(self) -> list[dict[str, Any]]:
        """Return what it has printed."""
        self.output.seek(0)
        return [json.loads(line) for line in self.output.read().splitlines()]

    def unfinished(self) -> tuple[str, int, list[Block]]:
        """Return the target and the input that has ended the process, and what comes then."""
        index, number = self.place()
        name, _, last = self.blocks[index]
        if number >= last:
            index, number = index + 1, self.blocks[index + 1][1]
            name, _, last = self.blocks[index]
        rest = [(name, number + 1, last)] if number + 1 < last else []
        return name, number, rest + self.blocks[index + 1 :]


def _blocks(options: argparse.Namespace) -> list[list[Block]]:
    """Return the blocks of each worker, in an order that mixes the targets."""
    names = options.only or list(TARGETS)
    total = sum(TARGETS[name].share for name in names)
    placed = []
    for name in names:
        end = options.first + max(1, options.inputs * TARGETS[name].share // total)
        starts = range(options.first, end, _BLOCK)
        for i, start in enumerate(starts):
            placed.append((i / len(starts), (name, start, min(start + _BLOCK, end))))
    blocks = [block for _, block in sorted(placed)]
    shares = (blocks[i :: options.workers] for i in range(options.workers))
    return [share for share in shares if share]


def main() -> int:
    """Run all blocks; returns 1 if something failed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--inputs", type=int, default=20_000, help="how many in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first of each target")
    parser.add_argument("--only", nargs="+", choices=list(TARGETS), metavar="TARGET")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=1e9, help="start no block after that")
    parser.add_argument("--keep", type=Path, help="folder for inputs that fail")
    parser.add_argument("--progress", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.progress:
        _work(options)
        return 0
    end = time.monotonic() + 60 * options.minutes
    running = [_Worker(options, blocks, options.minutes) for blocks in _blocks(options)]
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    failures: list[tuple[str, int, str]] = []
    while running:
        time.sleep(0.05)
        for worker in [worker for worker in running if worker.has_ended()]:
            running.remove(worker)
            for line in worker.lines():
                counts[line["target"]].update(line.get("outcomes", {}))
                if "failure" in line:
                    failures.append((line["target"], line["number"], line["failure"]))
            if worker.process.returncode != 0:
                name, number, rest = worker.unfinished()
                failures.append((name, number, f"ended with {worker.process.returncode}"))
                counts[name].update(failed=1)
                if rest:
                    minutes = (end - time.monotonic()) / 60
                    running.append(_Worker(options, rest, minutes))
    _report(options, counts, failures)
    return 1 if failures else 0


def _report(
    options: argparse.Namespace,
    counts: dict[str, collections.Counter[str]],
    failures: list[tuple[str, int, str]],
) -> None:
    for name, outcomes in counts.items():
        print(f"{name:<22}", dict(outcomes))
    print("inputs:", sum(sum(outcomes.values()) for outcomes in counts.values()))
    print("failures:", len(failures))
    for name, number, failure in failures[:50]:
        print(f"  --only {name} --first {number}: {failure}")
    if options.keep is None or not failures:
        return
    options.keep.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        names = {name for name, *_ in failures}
        fuzzers = {name: Fuzzer(name, Path(scratch) / name, options.seed) for name in names}
        for name, number, _ in failures:
            file, content = fuzzers[name].mutation(number)
            (options.keep / f"{name}-{number}-{Path(file).name}").write_bytes(content)
    with (options.keep / "failures.txt").open("a") as stream:
        for name, number, failure in failures:
            print(options.seed, name, number, failure, file=stream)


if __name__ == "__main__":
    sys.exit(main())
