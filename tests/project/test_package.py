"""Checks the installed package: names, documentation, version, compiled module."""

import dataclasses
import importlib
import importlib.resources
import importlib.util
import inspect
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tomllib

import pytest

import jax_gsplat_depth as jgd
from jax_gsplat_depth import _checkout, _compiled, _cpu, _ffi

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

FIELDS = {
    jgd.Gaussians: ("means", "quats", "scales", "opacities", "sh", "colors", "covars"),
    jgd.Camera: ("viewmat", "K", "width", "height"),
    jgd.Splats: ("means2d", "depths", "conics", "opacities", "radii"),
    jgd.Bins: ("order", "tile_counts"),
    jgd.RenderOutput: (
        "image",
        "depth",
        "weight",
        "radii",
        "n_isects",
        "n_isects_listed",
        "depth_variance",
    ),
    jgd.Contributors: ("ids", "weights"),
    jgd.ViewStatistics: ("largest_weight", "summed_weight", "n_pixels"),
    jgd.Config: (
        "near_plane",
        "far_plane",
        "eps2d",
        "footprint",
        "antialiased",
        "sh_convention",
        "deterministic",
        "capacity",
        "depth",
        "ray_depth",
        "depth_variance",
    ),
    jgd.GaussianRasterizationSettings: (
        "image_height",
        "image_width",
        "tanfovx",
        "tanfovy",
        "bg",
        "scale_modifier",
        "viewmatrix",
        "projmatrix",
        "sh_degree",
        "campos",
        "prefiltered",
        "debug",
        "sh_convention",
    ),
    jgd.GaussianRasterizer: ("raster_settings",),
}
CALLS = {
    jgd.project: "gaussians camera * config keep_outside",
    jgd.opacity_compensation: "gaussians camera * config",
    jgd.shade: "gaussians camera * sh_degree config",
    jgd.bin: "splats * width height config",
    jgd.blend: "splats colors order * width height background absgrad_probe config",
    jgd.render: "gaussians camera * background sh_degree means2d_offset absgrad_probe config",
    jgd.contributors: "gaussians camera k * sh_degree config",
    jgd.view_statistics: "gaussians camera * sh_degree config",
    jgd.Gaussians: "means quats scales opacities * sh colors covars",
    jgd.Camera: "viewmat K * width height",
    jgd.Camera.look_at: "eye target up * K fov_x fov_y width height",
    jgd.Camera.from_opengl: "camera_to_world K * fov_x fov_y width height",
    jgd.Camera.from_fov: "viewmat * fov_x fov_y width height",
    jgd.Camera.from_colmap: "qvec tvec params * model width height",
    jgd.covariances: "quats scales * triu",
    jgd.quats_and_scales: "covars",
    jgd.rotate_sh: "sh R * convention",
    jgd.convert_sh: "sh * source target",
    jgd.GaussianRasterizer: "raster_settings",
    jgd.GaussianRasterizer.__call__: (
        "self means3D means2D opacities shs colors_precomp scales rotations cov3D_precomp"
    ),
    jgd.GaussianRasterizer.markVisible: "self positions",
}


NAMES = (*jgd.__all__, "bin")
SUBPACKAGES = ("compat", "datasets", "densify", "evaluation", "fit", "frames", "io", "losses")
SUBPACKAGES += ("viewer",)


def run_python(code, *arguments, **environment):
    variables = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "JGD_CPU_ISA")}
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=ROOT / "tests",
        env=variables | {"PYTHONPATH": str(ROOT / "tests")} | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_version():
    assert jgd.__version__ == PROJECT["version"]


def test_every_dependency_has_an_oldest_version():
    """CI installs what this prints."""
    script = ROOT / ".ci" / "oldest_versions.py"
    if not script.exists():
        pytest.skip("not in a source distribution")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    names = [re.split(r"[=\[ ]", line)[0] for line in done.stdout.splitlines()]
    assert {"jax", "numpy", "optax", "viser", "orbax-checkpoint", "imageio", "pytest"} <= {*names}
    assert len(set(names)) == len(names)


def test_typed():
    assert importlib.resources.files(jgd).joinpath("py.typed").is_file()


def test_public_names():
    calls = {call.__qualname__ for call in CALLS if inspect.isfunction(call)}
    functions = {name for name in calls if "." not in name}
    # ``bin`` is public, but would shadow the built-in function where all names are imported.
    assert set(jgd.__all__) == {cls.__name__ for cls in FIELDS} | functions - {"bin"}
    assert list(jgd.__all__) == sorted(jgd.__all__)
    for name in NAMES:
        assert getattr(jgd, name).__module__.startswith("jax_gsplat_depth")
    assert set(jgd.compat.__all__) == {
        "GaussianRasterizationSettings",
        "GaussianRasterizer",
        "Snapshot",
        "load_snapshot",
    }
    assert jgd.GaussianRasterizer is jgd.compat.GaussianRasterizer


def test_importing_all_names_leaves_the_built_in_bin():
    names = {"bin": bin}
    exec("from jax_gsplat_depth import *", names)
    assert names["bin"](5) == "0b101" and names["render"] is jgd.render
    from jax_gsplat_depth import bin as stage

    assert stage is jgd.bin and stage is not bin


@pytest.mark.parametrize("cls", FIELDS, ids=lambda cls: cls.__name__)
def test_fields(cls):
    assert tuple(field.name for field in dataclasses.fields(cls)) == FIELDS[cls]


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__qualname__)
def test_signatures(call):
    names = []
    for parameter in inspect.signature(call).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in names:
            names.append("*")
        names.append(parameter.name)
    assert " ".join(names) == CALLS[call]


def documented():
    """Every public function, class, method and property."""
    for name in NAMES:
        value = getattr(jgd, name)
        yield name, value
        if inspect.isclass(value):
            for member in vars(value):
                if not member.startswith("_") and member not in FIELDS[value]:
                    yield f"{name}.{member}", inspect.getattr_static(value, member)


DOCUMENTED = dict(documented())


@pytest.mark.parametrize("name", DOCUMENTED)
def test_docstrings(name):
    value = getattr(DOCUMENTED[name], "__func__", DOCUMENTED[name])
    doc = inspect.getdoc(value)
    # A dataclass without docstring gets its signature as one.
    assert doc and not doc.startswith(f"{name}("), name
    if inspect.isfunction(value):
        for parameter in inspect.signature(value).parameters:
            if parameter not in ("cls", "self"):
                assert re.search(rf"^ +{parameter}: ", doc, re.MULTILINE), f"{name}: {parameter}"
    elif inspect.isclass(value):
        for field in FIELDS[value]:
            assert re.search(rf"^ +{field}: ", doc, re.MULTILINE), f"{name}: {field}"


def test_constants_of_the_compiled_module():
    assert _cpu.TILE_SIZE == _compiled.TILE_SIZE == _ffi.TILE_SIZE == 16
    assert _cpu.ALPHA_MIN == 1 / 255
    assert _cpu.ALPHA_MAX == 0.99
    assert _cpu.TRANSMITTANCE_MIN == 1e-4


@pytest.mark.parametrize("name", ["_cpu", "_cuda"])
def test_targets_are_those_of_ops_inc(name):
    """The CUDA module loads without a driver, so this runs wherever it was built."""
    if importlib.util.find_spec(f"jax_gsplat_depth.{name}") is None:
        pytest.skip("the package was built without its CUDA module")
    module = importlib.import_module(f"jax_gsplat_depth.{name}")
    ops = re.findall(r"^JGD_OP\((\w+)\)$", (ROOT / "csrc/ffi/ops.inc").read_text(), re.MULTILINE)
    assert sorted(module.registrations()) == sorted(ops)


IMPORT_WITHOUT_CUDA = """
import sys, warnings

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "jax_gsplat_depth._cuda":
            raise {error}("undefined symbol: cudaNewThing", name=name)

sys.meta_path.insert(0, Finder())
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import jax_gsplat_depth as jgd
print(*(str(w.message) for w in caught if "jax_gsplat_depth" in str(w.message)), sep="\\n")
"""


@pytest.mark.parametrize("error", ["ModuleNotFoundError", "ImportError"])
def test_a_cuda_module_that_does_not_load_leaves_the_cpu(error):
    done = run_python(IMPORT_WITHOUT_CUDA.format(error=error))
    assert done.returncode == 0, done.stderr
    if error == "ModuleNotFoundError":
        assert not done.stdout.strip()
    else:
        (line,) = done.stdout.splitlines()
        assert "runs on the CPU only" in line and "undefined symbol: cudaNewThing" in line


def test_unknown_instruction_set():
    done = run_python("import jax_gsplat_depth", JGD_CPU_ISA="mmx")
    assert done.returncode != 0
    message = done.stderr.splitlines()[-1]
    assert message.startswith("ImportError: ")
    for word in ("JGD_CPU_ISA", "'mmx'", "baseline", "avx2", "avx512"):
        assert word in message


IMPORT_SOURCES = """
import sys
# Without the finder of an editable install, which knows where the compiled module is.
sys.meta_path[:] = [finder for finder in sys.meta_path if isinstance(finder, type)]
sys.path[:0] = sys.argv[1:]
import jax_gsplat_depth as jgd
from jax_gsplat_depth import _cpu, losses
print(jgd.__file__, _cpu.__file__, sep="\\n")
"""


@pytest.fixture
def checkout_and_site(tmp_path):
    """A folder with the sources, and one in which the same is installed."""
    checkout, site = tmp_path / "checkout", tmp_path / "site"
    ignore = shutil.ignore_patterns("*.so", "__pycache__")
    sources = pathlib.Path(jgd.__file__).parent
    shutil.copytree(sources, checkout / "jax_gsplat_depth", ignore=ignore)
    shutil.copytree(checkout, site)
    shutil.copy(_cpu.__file__, site / "jax_gsplat_depth")
    return checkout, site


def test_sources_use_the_installed_modules(checkout_and_site):
    """What happens in a checkout after an install that is not editable."""
    done = run_python(IMPORT_SOURCES, *checkout_and_site)
    assert done.returncode == 0, done.stderr
    checkout, site = checkout_and_site
    package, module = map(pathlib.Path, done.stdout.splitlines())
    assert package.parent == checkout / "jax_gsplat_depth"
    assert module.parent == site / "jax_gsplat_depth"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (None, "is not installed"),
        ("losses/_blur.py", "differs in losses/_blur.py"),
        ("_new.py", "differs in _new.py"),
    ],
)
def test_sources_without_compiled_module(checkout_and_site, monkeypatch, change, reason):
    """Other sources than those that are installed, or nothing installed: what to do about it."""
    checkout, site = checkout_and_site
    if change is not None:
        with (site / "jax_gsplat_depth" / change).open("a") as file:
            file.write("# Another version.\n")
    monkeypatch.setattr(_checkout, "__file__", str(checkout / "jax_gsplat_depth" / "_checkout.py"))
    path = [str(checkout), "", *([] if change is None else [str(site)])]
    monkeypatch.setattr(sys, "path", path)
    monkeypatch.chdir(checkout)
    with pytest.raises(ImportError) as caught:
        _checkout.use_installed_modules()
    message = str(caught.value)
    assert message.startswith("jax_gsplat_depth is imported from its source folder ")
    assert reason in message and message.endswith(f'run `python -m pip install "{checkout}"`')
    assert "\n" not in message


def test_the_build_says_how_to_leave_cuda_out():
    """In pip's verbose output; the README says it as well."""
    build = (ROOT / "CMakeLists.txt").read_text()
    for text in (build, (ROOT / "README.md").read_text().replace("\n", " ")):
        assert "-C cmake.define.JGD_CUDA=OFF" in text


AGREE_WITH_THE_REFERENCE = """
import jax, numpy as np
from helpers import scenes
from helpers.asserts import check_render
from jax_gsplat_depth import _cpu

print(_cpu.isa())
# Neither the image nor the tiles are whole vectors wide, and some pixels end early.
scene = scenes.random_scene(150, 67, 45, seed=8, sigma_px=(0.5, 10.0))
for dtype in ("float32", "float64"):
    with jax.enable_x64(dtype == "float64"):
        check_render(scene, np.dtype(dtype), name=_cpu.isa(), color="sh")
"""


@pytest.mark.quick(isa=["baseline"])
@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_every_instruction_set(isa):
    done = run_python(AGREE_WITH_THE_REFERENCE, JGD_CPU_ISA=isa)
    if isa != "baseline" and "which this machine does not have" in done.stderr:
        pytest.skip(f"no {isa} on this machine")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == isa


USE_SUBPACKAGE = """
import sys
import jax_gsplat_depth as jgd

module = getattr(jgd, sys.argv[1])
print(module.__name__, *(name for name in module.__all__ if getattr(module, name) is None))
"""


@pytest.mark.quick(name=["losses", "fit"])
@pytest.mark.parametrize("name", SUBPACKAGES)
def test_subpackages_are_imported_when_used(name):
    assert name in dir(jgd)
    done = run_python(USE_SUBPACKAGE, name)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"jax_gsplat_depth.{name}"


def test_unknown_attribute():
    with pytest.raises(AttributeError, match="'jax_gsplat_depth' has no attribute 'nothing'"):
        _ = jgd.nothing


def test_importing_is_light():
    code = "import sys, json, jax_gsplat_depth; print(json.dumps(sorted(sys.modules)))"
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    loaded = json.loads(done.stdout)
    own = {name.split(".")[1] for name in loaded if name.startswith("jax_gsplat_depth.")}
    assert own & set(SUBPACKAGES) == {"compat", "io"}
    modules = {name.partition(".")[0] for name in loaded}
    extras = [re.split(r"[<>=\[]", r)[0] for r in PROJECT["optional-dependencies"]["fit"]]
    heavy = {{"dm-pix": "dm_pix", "pillow": "PIL"}.get(name, name) for name in extras}
    assert {"optax", "matplotlib", "dm_pix"} <= heavy
    # JAX itself imports SciPy.
    assert not modules & (heavy - {"scipy"})


def test_signatures_name_types():
    """A signature shows ``ArrayLike``, not the union of eight types that it stands for."""
    for name in jgd.__all__ + ["compat", "densify", "losses", "frames", "fit", "io", "datasets"]:
        value = getattr(jgd, name)
        members = [getattr(value, k) for k in value.__all__] if inspect.ismodule(value) else [value]
        for member in members:
            methods = list(vars(member)) if inspect.isclass(member) else []
            public = [getattr(member, k) for k in methods if not k.startswith("_")]
            for function in filter(callable, [member, *public]):
                try:
                    text = str(inspect.signature(function))
                except ValueError:  # a class that is not made by calling it
                    continue
                assert "jax._src" not in text and "complex" not in text, function
