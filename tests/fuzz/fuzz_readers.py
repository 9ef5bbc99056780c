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
            if "\n" in message or len(message) > 10_000 or str(self.folder) not in message:
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
    """Run one block in this process; the file named last gets the number of each input."""
    name, first, last, progress = options.block
    outcomes: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory(dir=_SCRATCH) as scratch, open(progress, "r+b") as stream:
        seen = mmap.mmap(stream.fileno(), 8)
        fuzzer = Fuzzer(name, Path(scratch) / name, options.seed)
        for number in (-1, -2, -3):  # Whatever is loaded or compiled at first.
            fuzzer.outcome(number)
        with limits():
            for number, found in run(fuzzer, range(int(first), int(last))):
                seen[:8] = struct.pack("<q", number + 1)
                outcomes[found if found in ("read", "refused") else "failed"] += 1
                if found not in ("read", "refused"):
                    print(json.dumps({"target": name, "number": number, "failure": found}))
    print(json.dumps({"target": name, "outcomes": outcomes}), flush=True)


class _Worker:
    """A process with a block of inputs, which it may not survive."""

    def __init__(self, options: argparse.Namespace, name: str, first: int, last: int) -> None:
        """Start it."""
        self.name, self.first, self.last = name, first, last
        self.progress = tempfile.NamedTemporaryFile(dir=_SCRATCH)
        self.progress.write(struct.pack("<q", first))
        self.progress.flush()
        self.output = tempfile.TemporaryFile("w+")
        block = [name, str(first), str(last), self.progress.name]
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--seed", str(options.seed), "--block", *block],
            stdout=self.output,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
        )
        self.at, self.since = first, time.monotonic()

    def number(self) -> int:
        """Return the input that it is at."""
        return struct.unpack("<q", Path(self.progress.name).read_bytes())[0]

    def has_ended(self) -> bool:
        """Return whether it has, and end it if it does not go on."""
        if self.process.poll() is not None:
            return True
        now = time.monotonic()
        if (at := self.number()) != self.at:
            self.at, self.since = at, now
        # The first input waits for imports.
        if now - self.since > (_STALLED if self.at != self.first else 10 * _STALLED):
            self.process.kill()
            self.process.wait()
            return True
        return False

    def lines(self) -> list[dict[str, Any]]:
        """Return what it has printed."""
        self.output.seek(0)
        return [json.loads(line) for line in self.output.read().splitlines()]


def _blocks(options: argparse.Namespace) -> list[tuple[str, int, int]]:
    """Return name, first and last input of each block, in an order that mixes the targets."""
    names = options.only or list(TARGETS)
    total = sum(TARGETS[name].share for name in names)
    blocks = []
    for name in names:
        count = max(1, options.inputs * TARGETS[name].share // total)
        size = max(_BLOCK, -(-count // options.blocks))
        end = options.first + count
        starts = range(options.first, end, size)
        blocks += [
            (i / len(starts), name, start, min(start + size, end)) for i, start in enumerate(starts)
        ]
    return [block[1:] for block in sorted(blocks)]


def main() -> int:
    """Run all blocks; returns 1 if something failed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--inputs", type=int, default=20_000, help="how many in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first of each target")
    parser.add_argument("--only", nargs="+", choices=list(TARGETS), metavar="TARGET")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--blocks", type=int, default=1, help="processes for each target")
    parser.add_argument("--minutes", type=float, default=1e9, help="start no block after that")
    parser.add_argument("--keep", type=Path, help="folder for inputs that fail")
    parser.add_argument("--block", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.block:
        _work(options)
        return 0
    waiting, running = _blocks(options), []
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    failures: list[tuple[str, int, str]] = []
    end = time.monotonic() + 60 * options.minutes
    while running or (waiting and time.monotonic() < end):
        while waiting and len(running) < options.workers and time.monotonic() < end:
            running.append(_Worker(options, *waiting.pop(0)))
        time.sleep(0.05)
        for worker in [worker for worker in running if worker.has_ended()]:
            running.remove(worker)
            for line in worker.lines():
                counts[line["target"]].update(line.get("outcomes", {}))
                if "failure" in line:
                    failures.append((line["target"], line["number"], line["failure"]))
            if worker.process.returncode != 0:
                number = worker.number()
                failures.append((worker.name, number, f"ended with {worker.process.returncode}"))
                counts[worker.name].update(read_before_the_end=number - worker.first, failed=1)
                if number + 1 < worker.last:
                    waiting.insert(0, (worker.name, number + 1, worker.last))
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
        fuzzers = {name: Fuzzer(name, Path(scratch) / name, options.seed) for name, *_ in failures}
        for name, number, _ in failures:
            file, content = fuzzers[name].mutation(number)
            (options.keep / f"{name}-{number}-{Path(file).name}").write_bytes(content)
    with (options.keep / "failures.txt").open("a") as stream:
        for name, number, failure in failures:
            print(options.seed, name, number, failure, file=stream)


if __name__ == "__main__":
    sys.exit(main())
