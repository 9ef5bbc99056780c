"""Checks who imports what: foreign private modules, import circles, the names of packages."""

import ast
import graphlib
import importlib
import pathlib
from collections.abc import Iterator

import pytest

import jax_gsplat_depth

ROOT = pathlib.Path(__file__).resolve().parents[2] / "jax_gsplat_depth"
MODULES = {
    ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for suffix in ("*.pyi", "*.py")  # The stub stands for the compiled module.
    for path in ROOT.rglob(suffix)
}
PACKAGES = sorted(name for name, path in MODULES.items() if path.name == "__init__.py")

# Whose modules with an underscore are their own: ``_common`` and the renderer serve everybody.
SUBJECTS = tuple(
    name for name in PACKAGES if name not in ("jax_gsplat_depth", "jax_gsplat_depth._common")
)

# Importer, imported module, reason.
ALLOWED = {
    ("fit._frame", "datasets._geometry"): "NumPy camera geometry has one home",
    ("datasets._points", "io._ply_file"): "reads the vertices of any PLY file",
    ("frames._camera_file", "datasets._geometry"): "NumPy camera geometry has one home",
    ("frames._camera_file", "datasets._keys"): "says which keys of a file are not used",
    ("frames._camera_file", "datasets._transforms"): "reads the cameras of a transforms.json",
    ("frames._camera_file", "datasets._views"): "names the cameras as a capture names its views",
    ("frames._paths", "datasets._geometry"): "NumPy camera geometry has one home",
    ("frames._scene_cameras", "datasets._geometry"): "NumPy camera geometry has one home",
    ("frames._scene_path", "datasets._geometry"): "NumPy camera geometry has one home",
    ("viewer._picture", "datasets._geometry"): "NumPy camera geometry has one home",
    ("viewer._places", "datasets._geometry"): "NumPy camera geometry has one home",
}


def imports(name: str, *, at_import: bool) -> Iterator[str]:
    """Yield the modules of the package that a module imports.

    Args:
        name: Dotted name of the module.
        at_import: Only what is imported when the module is, not what its functions import later
            or what stands under ``TYPE_CHECKING``.
    """
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    for node in _executed(tree) if at_import else ast.walk(tree):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None and node.level == 0, f"{name} has a relative import"
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            found = [path if path in MODULES else node.module for path in inside]
        else:
            continue
        yield from (path for path in found if path in MODULES)


def _executed(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes that run when a module is imported."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        yield child
        yield from _executed(child)


def subject_of(name: str) -> str:
    """Return the package of a subject that a module is in, or an empty string."""
    return next((s for s in SUBJECTS if name == s or name.startswith(f"{s}.")), "")


def test_private_modules_of_other_packages():
    found = {
        (name.removeprefix("jax_gsplat_depth."), path.removeprefix("jax_gsplat_depth."))
        for name in MODULES
        for path in imports(name, at_import=False)
        if subject_of(path) not in ("", subject_of(name)) and path.rpartition(".")[2][0] == "_"
    }
    unlisted, unused = sorted(found - ALLOWED.keys()), sorted(ALLOWED.keys() - found)
    assert not unlisted, f"take the names from the package, or list the reason: {unlisted}"
    assert not unused, f"no longer imported, so not to be allowed either: {unused}"


def test_imports_go_in_no_circle():
    graph = {}
    for name in MODULES:
        graph[name] = set()
        for path in imports(name, at_import=True):
            graph[name].add(path)
            # Importing a module runs the __init__ of its packages, unless we are inside of them.
            parents = [path[:i] for i, c in enumerate(path) if c == "."]
            graph[name].update(p for p in parents if not f"{name}.".startswith(f"{p}."))
    assert "jax_gsplat_depth.datasets._capture" in graph["jax_gsplat_depth.datasets._load"]
    assert "jax_gsplat_depth.datasets" in graph["jax_gsplat_depth.frames._paths"]
    graphlib.TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("name", [n for n in PACKAGES if n != "jax_gsplat_depth._common"])
def test_packages_have_the_names_that_they_list(name):
    for library in ("optax", "matplotlib", "dm_pix"):
        pytest.importorskip(library)
    package = importlib.import_module(name)
    assert len(set(package.__all__)) == len(package.__all__) > 0
    for public in package.__all__:
        assert not public.startswith("_")
        assert getattr(package, public) is not None


def test_all_subjects_are_found():
    assert len(SUBJECTS) >= 10
    assert pathlib.Path(jax_gsplat_depth.__file__).name == "__init__.py"
    assert {f"jax_gsplat_depth.{name}" for name in ("io", "fit", "viewer", "cli")} < set(SUBJECTS)
