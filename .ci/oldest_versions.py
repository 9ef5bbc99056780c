"""Prints the oldest allowed version of every dependency as a requirement, one per line.

Called by .ci/run, which installs them and tests once with them. The extras are those of ``test``;
left out are CUDA, whose JAX is the same, and the tools and oracles that nobody needs to use or to
test the package.
"""

import pathlib
import re
import tomllib
from collections.abc import Iterator

PROJECT = pathlib.Path(__file__).resolve().parents[1] / "pyproject.toml"


def requirements() -> Iterator[str]:
    """Yield the dependencies of the package and of all extras that ``test`` brings."""
    project = tomllib.loads(PROJECT.read_text())["project"]
    yield from project["dependencies"]
    extras, seen = ["test"], set()
    while extras:
        extra = extras.pop()
        if extra in seen:
            continue
        seen.add(extra)
        for requirement in project["optional-dependencies"][extra]:
            more = re.fullmatch(rf"{project['name']}\[(.*)\]", requirement)
            if more is None:
                yield requirement
            else:
                extras += more[1].split(",")


def main() -> None:
    """Print them; a dependency without a lower bound is an error."""
    for requirement in requirements():
        name, _, marker = requirement.partition(";")
        found = re.fullmatch(r"([\w.-]+(?:\[[\w,-]+\])?)>=([\w.]+)(?:,<[\w.]+)?", name.strip())
        if found is None:
            raise SystemExit(f"pyproject.toml: {requirement} has no bound like >=1.2")
        print(f"{found[1]}=={found[2]}", *([f"; {marker.strip()}"] if marker else []))


if __name__ == "__main__":
    main()
