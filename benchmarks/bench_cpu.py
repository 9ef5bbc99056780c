"""Times the CPU renderer: whole, stage by stage, beside a pure-JAX renderer and a bare kernel.

Prints markdown tables; ``--json`` writes every time with hardware, versions, date, commit and
command line. Each measurement runs in a process of its own for each number of threads: a scene
(measure.py), the limits of the machine (peak.py), the cost of a call (small_scene.py).
"""

import argparse
import datetime
import importlib
import importlib.metadata
import json
import os
import platform
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import native
import report
import scenes

_HERE = Path(__file__).resolve().parent
_PACKAGES = ("jax", "jaxlib", "numpy", "jax-gsplat-depth")
_ISA_FLAGS = "sse4_2 avx avx2 fma avx512f avx512dq avx512bw avx512vl avx512_bf16 asimd sve sve2"


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    if options.compare:
        old, new = (json.loads(path.read_text()) for path in options.compare)
        print(report.compare(old, new))
        return 0
    if options.show:
        print(report.markdown(json.loads(options.show.read_text())))
        return 0
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
    full = describe(("mitsuba",) if options.mitsuba else ())
    full |= {"machine": [], "results": [], "small_scene": [], "mitsuba": []}
    with tempfile.TemporaryDirectory() as folder:
        for section, script, worker in _jobs(options, full["hardware"]["kernel_isa"], Path(folder)):
            print(f"measuring {_title(script, worker)}", file=sys.stderr, flush=True)
            measured = _run(script, worker)
            full[section] += measured if isinstance(measured, list) else [measured]
            full["load_average_end"] = os.getloadavg()[0]
            if options.json:  # each time, so that an interrupted run keeps its results
                options.json.write_text(json.dumps(full, indent=1) + "\n")
    print(report.markdown(full))
    return 0


def _parse(arguments):
    affinity = getattr(os, "sched_getaffinity", lambda pid: range(os.cpu_count() or 1))
    cores = len(affinity(0))
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--scenes", nargs="+", default=scenes.MAIN, choices=scenes.NAMES, metavar="NAME")
    add("--threads", nargs="+", type=int, default=sorted({cores, 1}, reverse=True), metavar="N")
    add("--colors", choices=("rgb", "sh"), default="rgb", help="fixed colours, or SH of degree 3")
    losses = ("image", "all")
    add("--cotangents", nargs="+", choices=losses, default=losses, help="what the losses are on")
    add("--repeats", type=int, default=15, help="timed calls of each function")
    add("--max-seconds", type=float, default=30.0, help="limit of a group of timed calls")
    add("--no-baseline", action="store_true", help="leave out the pure-JAX renderer")
    add("--no-stages", action="store_true", help="leave out the times of the stages")
    add("--mitsuba", action="store_true", help="also Mitsuba 3 (a ray tracer), if it is installed")
    add("--fixed-cost", action="store_true", help="measure nothing but the cost of a call")
    add("--json", type=Path, metavar="FILE", help="write the results here")
    add("--show", type=Path, metavar="FILE", help="print the tables of earlier results")
    add("--compare", type=Path, nargs=2, metavar=("OLD", "NEW"), help="compare two results")
    options = parser.parse_args(arguments)
    if any(not 1 <= n <= cores for n in options.threads):
        parser.error(f"--threads must be between 1 and {cores}, the number of usable cores")
    if options.repeats < 1:
        parser.error("--repeats must be at least 1")
    return options


def _jobs(options, isa: str, folder: Path) -> list[tuple[str, str, dict[str, Any]]]:
    """List the measurements: section of the report, script, options of the script."""
    empty_call = _compiled(native.compile_empty_call, folder)
    jobs = [
        (
            "small_scene",
            "small_scene.py",
            {"threads": threads, "empty_call": empty_call, "repeats": options.repeats},
        )
        for threads in options.threads
    ]
    if options.fixed_cost:
        return jobs
    kernels = _compiled(native.compile_kernels, isa, folder)
    if kernels:
        # The calls are short, so many of them take little time.
        peak = {"kernels": kernels, "repeats": 3 * options.repeats}
        jobs += [("machine", "peak.py", peak | {"threads": n}) for n in options.threads]
    scene = {
        "colors": options.colors,
        "cotangents": list(options.cotangents),
        "baseline": not options.no_baseline,
        "stages": not options.no_stages,
        "kernels": kernels,
        "repeats": options.repeats,
        "max_seconds": options.max_seconds,
    }
    mitsuba = {"repeats": options.repeats, "max_seconds": options.max_seconds}
    for name in options.scenes:
        for threads in options.threads:
            which = {"scene": name, "threads": threads}
            jobs.append(("results", "measure.py", scene | which))
            if options.mitsuba:
                jobs.append(("mitsuba", "measure_mitsuba.py", mitsuba | which))
    return jobs


def _compiled(compile_native, *arguments) -> str | None:
    """Return the path of a library, or print why not and return None: the rest needs no library."""
    try:
        return str(compile_native(*arguments))
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"left out what needs {compile_native.__name__}: {error}", file=sys.stderr)
        return None


def _title(script: str, worker: dict[str, Any]) -> str:
    return f"{worker.get('scene', script)} with {worker['threads']} thread(s)"


def _run(script: str, worker: dict[str, Any]) -> Any:
    command = [sys.executable, str(_HERE / script), json.dumps(worker)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"measuring {_title(script, worker)} failed, see above")
    return json.loads(done.stdout.splitlines()[-1])


def describe(packages: tuple[str, ...] = ()) -> dict:
    """Describe machine, versions and commit: without them no two numbers compare.

    Args:
        packages: Further distributions whose versions matter.
    """
    module = _native_module()
    versions = {name: _version(name) for name in (*_PACKAGES, *packages)}
    versions |= {"python": platform.python_version(), "compiler": module["compiler"]}
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", *sys.argv]),
        "git_commit": _git("rev-parse", "HEAD"),
        "git_dirty": bool(_git("status", "--porcelain")),
        "load_average_start": os.getloadavg()[0],
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "hardware": _hardware() | {"kernel_isa": module["isa"]},
        "versions": versions,
    }


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(_HERE), *arguments], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _native_module() -> dict[str, str]:
    """Return the instruction set of the kernels, and the compiler that left its name in them."""
    module = importlib.import_module("jax_gsplat_depth._cpu")
    binary = Path(str(module.__file__)).read_bytes()
    found = re.search(rb"(GCC: \([^)]*\) [0-9.]+|clang version [0-9.]+)", binary)
    compiler = found.group(1).decode() if found else "unknown compiler"
    return {"isa": str(module.isa()), "compiler": compiler}


def _hardware() -> dict:
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    fields = dict(re.findall(r"^([^\t:]+)\s*: (.*)$", info, re.MULTILINE))
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    return {
        "cpu": fields.get("model name") or platform.processor() or platform.machine(),
        "architecture": platform.machine(),
        "isa_flags": [flag for flag in _ISA_FLAGS.split() if flag in flags],
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": platform.platform(),
    }


if __name__ == "__main__":
    sys.exit(main())
