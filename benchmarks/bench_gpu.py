"""Times the renderer on a GPU, whole and stage by stage, beside gsplat and splax.

All libraries draw the same scenes, each in a process of its own (measure_gpu.py). Their pictures
are compared with those of the package on the CPU first: a wrong picture is not timed. A library
that is missing or fails is reported with its error. Prints markdown tables; ``--output`` writes
every number with hardware, versions, date, commit and command line.
"""

import argparse
import concurrent.futures
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import bench_cpu
import measure_gpu
import report_gpu
import scenes

_HERE = Path(__file__).resolve().parent
_PACKAGES = (
    "jax-cuda12-plugin",
    "jax-cuda13-plugin",
    "torch",
    "gsplat",
    "splax",
    "warp-lang",
)


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    if options.show:
        print(report_gpu.markdown(json.loads(options.show.read_text())))
        return 0
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
    # A time limit from outside has to end the worker too, which has a session of its own.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    deadline = time.monotonic() + options.seconds
    full = bench_cpu.describe(_PACKAGES) | {"gpu": _gpu(), "results": []}
    full["seconds"] = options.seconds
    with tempfile.TemporaryDirectory() as folder:
        jobs = [_Job(options, name, Path(folder)) for name in options.scenes]
        full["results"] = [job.result for job in jobs]
        # References are not timed, and mostly run on one core: several at a time.
        with concurrent.futures.ThreadPoolExecutor(max(1, (os.cpu_count() or 1) // 4)) as pool:
            list(pool.map(lambda job: job.run("reference", deadline), jobs))
        # Library by library: a slow or broken one takes time only from those after it.
        for library in options.libraries:
            for job in jobs:
                job.run(library, deadline)
                full["load_average_end"] = os.getloadavg()[0]
                if options.output:  # each time, so that an interrupted run keeps its results
                    options.output.write_text(json.dumps(full, indent=1) + "\n")
    print(report_gpu.markdown(full))
    ours = [r["libraries"].get("jax_gsplat_depth", {}) for r in full["results"]]
    failed = any("error" in result for result in ours) or any(
        "error" in result["reference"] for result in full["results"]
    )
    return 1 if failed else 0


def _parse(arguments):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    choices = (*scenes.GPU, *scenes.NAMES)
    libraries = tuple(measure_gpu.LIBRARIES)
    add("--scenes", nargs="+", default=scenes.GPU, choices=choices, metavar="NAME")
    add("--libraries", nargs="+", default=libraries, choices=libraries, metavar="NAME")
    add("--repeat", type=int, default=20, help="timed calls of each function")
    add("--seconds", type=float, default=900.0, help="no new measurement is begun after so long")
    add("--max-seconds", type=float, default=5.0, help="limit of the timed calls of a function")
    add("--library-seconds", type=float, default=300.0, help="limit of a library on one scene")
    add("--capacity", type=int, help="Config.capacity of the package")
    add("--deterministic", action="store_true", help="Config.deterministic of the package")
    add("--no-stages", action="store_true", help="leave out the times of the stages")
    add("--shared", type=Path, default=scenes.SHARED, metavar="DIR", help="the frozen scenes")
    add("--output", type=Path, metavar="FILE", help="write the results here, as JSON")
    add("--show", type=Path, metavar="FILE", help="print the tables of earlier results")
    options = parser.parse_args(arguments)
    if options.repeat < 1:
        parser.error("--repeat must be at least 1")
    if options.capacity is not None and options.capacity < 1:
        parser.error("--capacity must be at least 1")
    return options


class _Job:
    """One scene: the reference makes its files, then each library reads them."""

    def __init__(self, options, name: str, folder: Path):
        self._options = options
        self._worker = {
            "scene": name,
            "shared": str(options.shared),
            "scene_file": str(folder / f"{name}.npz"),
            "reference_file": str(folder / f"{name}_reference.npz"),
            "repeats": options.repeat,
            "max_seconds": options.max_seconds,
            "capacity": options.capacity,
            "deterministic": options.deterministic,
            "stages": not options.no_stages,
        }
        self.result = {"scene": name, "reference": {"error": "not run"}, "libraries": {}}

    def run(self, library: str, deadline: float) -> None:
        """Run the worker; a failure of it becomes a result as well."""
        if library != "reference" and "error" in self.result["reference"]:
            self.result["libraries"][library] = {"error": "not run: there is no reference"}
            return
        limit = min(self._options.library_seconds, deadline - time.monotonic())
        result = {"error": "not run: no time was left"}
        if limit > 0:
            print(f"{self.result['scene']}: {library}", file=sys.stderr, flush=True)
            result = self._call(library, limit)
        if "error" in result:
            print(f"  {result['error']}", file=sys.stderr, flush=True)
        if library == "reference":
            self.result["reference"] = result
        else:
            self.result["libraries"][library] = result

    def _call(self, library: str, limit: float) -> dict:
        worker = json.dumps(self._worker | {"library": library})
        command = [sys.executable, str(_HERE / "measure_gpu.py"), worker]
        # A session of its own: a library may start compilers, which must end with it.
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        try:
            lines = process.communicate(timeout=limit)[0].splitlines()
            return json.loads(lines[-1])
        except subprocess.TimeoutExpired:
            return {"error": f"not finished after {limit:.0f} s"}
        except (IndexError, ValueError):
            return {"error": f"the process ended with code {process.returncode}"}
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()


def _gpu() -> dict[str, str] | None:
    """Return the GPU as its driver describes it, or None."""
    fields = ("name", "driver_version", "memory.total", "compute_cap", "clocks.max.sm")
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
        values = done.stdout.splitlines()[0].split(", ")
        return dict(zip(fields, values, strict=True))
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None


if __name__ == "__main__":
    sys.exit(main())
