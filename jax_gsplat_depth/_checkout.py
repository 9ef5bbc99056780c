"""Lets the sources of a checkout run with the compiled modules of the installed package.

Python imports from the folder in which it is started. In a checkout after ``pip install .`` that is
the package's source folder, which holds no compiled module.
"""

import filecmp
import sys
from importlib.machinery import PathFinder
from pathlib import Path

_PACKAGE = "jax_gsplat_depth"


def use_installed_modules() -> None:
    """Add the folder of the installed package to where the package looks for its modules.

    Raises:
        ImportError: The package is not installed, or other sources are; with what to do about it.
    """
    package = sys.modules[_PACKAGE]
    sources = Path(__file__).resolve().parent
    checkout = sources.parent
    installed = _installed(sources)
    if installed is None:
        raise ImportError(
            f"{_PACKAGE} is imported from its source folder {sources}, which has no compiled "
            f'module _cpu, and is not installed: run `python -m pip install "{checkout}"`',
            name=_PACKAGE,
        )
    different = _first_difference(sources, installed)
    if different is not None:
        raise ImportError(
            f"{_PACKAGE} is imported from its source folder {sources}, which has no compiled "
            f"module _cpu, and what is installed in {installed} differs in {different}: run "
            f'`python -m pip install "{checkout}"`',
            name=_PACKAGE,
        )
    package.__path__.append(str(installed))


def _installed(sources: Path) -> Path | None:
    """Return the first other folder of the package on the path that has the compiled module."""
    for entry in sys.path:
        package = PathFinder.find_spec(_PACKAGE, [entry])
        for folder in (package and package.submodule_search_locations) or []:
            if Path(folder).resolve() != sources and PathFinder.find_spec(
                f"{_PACKAGE}._cpu", [folder]
            ):
                return Path(folder).resolve()
    return None


def _first_difference(sources: Path, installed: Path) -> str | None:
    """Return the name of the first Python file that is missing on a side or not the same."""
    names = sorted({p.relative_to(f) for f in (sources, installed) for p in f.rglob("*.py")})
    for name in names:
        pair = sources / name, installed / name
        if not all(p.is_file() for p in pair) or not filecmp.cmp(*pair, shallow=False):
            return str(name)
    return None
