"""Tests the containers as pytrees, and the static settings."""

import dataclasses
import functools
import importlib.util
import re
import subprocess
import sys
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

import jax_gsplat_depth as jgd
from jax_gsplat_depth import densify, frames
from jax_gsplat_depth._common import flax_states


def examples():
    """One value of each container, with distinct leaves."""
    n, size = 5, {"width": 17, "height": 33}

    def array(*shape):
        return jnp.arange(np.prod(shape), dtype=jnp.float32).reshape(shape)

    return {
        "gaussians_sh": jgd.Gaussians(
            array(n, 3), array(n, 4), array(n, 3), array(n), sh=array(n, 4, 3)
        ),
        "gaussians_colors": jgd.Gaussians(
            array(n, 3), opacities=array(n), colors=array(n, 7), covars=array(n, 6)
        ),
        "camera": jgd.Camera(array(4, 4), array(3, 3), **size),
        "cameras": jgd.Camera(array(2, 4, 4), array(2, 3, 3), **size),
        "splats": jgd.Splats(
            array(n, 2), array(n), array(n, 3), array(n), jnp.arange(n, dtype=jnp.int32)
        ),
        "bins": jgd.Bins(jnp.arange(n, dtype=jnp.int32), jnp.zeros((3, 2), jnp.int32)),
        "output": jgd.RenderOutput(
            array(33, 17, 3),
            array(33, 17),
            array(33, 17),
            jnp.arange(n, dtype=jnp.int32),
            jnp.asarray(9, jnp.int32),
            jnp.asarray(8, jnp.int32),
        ),
        "output_with_variance": jgd.RenderOutput(
            array(33, 17, 3),
            array(33, 17),
            array(33, 17),
            jnp.arange(n, dtype=jnp.int32),
            jnp.asarray(9, jnp.int32),
            jnp.asarray(8, jnp.int32),
            array(33, 17),
        ),
        "contributors": jgd.Contributors(jnp.zeros((33, 17, 2), jnp.int32), array(33, 17, 2)),
        "statistics": jgd.ViewStatistics(array(n), array(n), jnp.arange(n, dtype=jnp.int32)),
    }


EXAMPLES = sorted(examples())


@pytest.fixture(params=EXAMPLES)
def example(request):
    return examples()[request.param]


def assert_same(actual, expected):
    """Same type, same static fields, same absent fields, equal arrays."""
    assert type(actual) is type(expected)
    for field in dataclasses.fields(expected):
        a, e = getattr(actual, field.name), getattr(expected, field.name)
        if isinstance(e, jax.Array):
            np.testing.assert_array_equal(a, e)
        else:
            assert a == e and type(a) is type(e)


# ---------------------------------------------------------------------------- containers


def test_flatten_round_trip(example):
    leaves, structure = jax.tree.flatten(example)
    present = [
        getattr(example, field.name)
        for field in dataclasses.fields(example)
        if isinstance(getattr(example, field.name), jax.Array)
    ]
    assert len(leaves) == len(present)
    assert all(leaf is array for leaf, array in zip(leaves, present, strict=True))
    assert_same(jax.tree.unflatten(structure, leaves), example)


def test_unflatten_takes_any_object(example):
    leaves, structure = jax.tree.flatten(example)
    placeholders = [object() for _ in leaves]
    rebuilt = jax.tree.unflatten(structure, placeholders)
    assert type(rebuilt) is type(example)
    found = jax.tree.leaves(rebuilt)
    assert all(a is b for a, b in zip(found, placeholders, strict=True))


def test_constructors_keep_what_they_get():
    means, quats = np.zeros((3, 3)), [[1, 0, 0, 0]]
    gaussians = jgd.Gaussians(means, quats)  # pyright: ignore[reportArgumentType]
    assert gaussians.means is means and gaussians.quats is quats
    camera = jgd.Camera(means, quats, width=np.int64(3), height=2.5)  # pyright: ignore
    assert camera.viewmat is means and camera.K is quats and camera.height == 2.5


def test_tree_map(example):
    doubled = jax.tree.map(lambda x: 2 * x, example)
    assert type(doubled) is type(example)
    for a, b in zip(jax.tree.leaves(doubled), jax.tree.leaves(example), strict=True):
        np.testing.assert_array_equal(a, 2 * b)


def test_jit_round_trip(example):
    assert_same(jax.jit(lambda x: x)(example), example)


def test_frozen(example):
    name = dataclasses.fields(example)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(example, name, None)


def test_replace(example):
    name = dataclasses.fields(example)[0].name
    changed = dataclasses.replace(example, **{name: None})
    assert getattr(changed, name) is None
    assert_same(dataclasses.replace(changed, **{name: getattr(example, name)}), example)


def test_export_round_trip(example):
    exported = jax.export.export(jax.jit(lambda x: (x, jax.tree.map(lambda y: y + y, x))))(example)
    loaded = jax.export.deserialize(exported.serialize())
    same, doubled = loaded.call(example)
    assert_same(same, example)
    assert_same(doubled, jax.tree.map(lambda y: y + y, example))


def test_a_second_import_exports_too():
    """Such as after ``importlib.reload``, or in a notebook that deletes modules."""
    path = importlib.util.find_spec("jax_gsplat_depth._types")
    second = importlib.util.module_from_spec(path)
    path.loader.exec_module(second)
    first = examples()["cameras"]
    for cls in (jgd.Camera, second.Camera):
        camera = cls(first.viewmat, first.K, width=17, height=33)
        exported = jax.export.export(jax.jit(lambda x: x))(camera)
        assert_same(jax.export.deserialize(exported.serialize()).call(first), first)


@pytest.mark.slow
def test_import_again_and_reload():
    code = """if True:
        import importlib, sys
        import jax, jax.numpy as jnp
        import jax_gsplat_depth
        for name in [k for k in sys.modules if k.startswith("jax_gsplat_depth")]:
            if not name.endswith("._cpu"):
                importlib.reload(sys.modules[name])
        for name in [k for k in sys.modules if k.startswith("jax_gsplat_depth")]:
            del sys.modules[name]
        import jax_gsplat_depth as jgd
        one = jnp.ones((1, 3))
        camera = jgd.Camera.look_at((0., -4., 0.), (0., 0., 0.), fov_x=.8, width=4, height=4)
        splats = jgd.project(jgd.Gaussians(0 * one, jnp.ones((1, 4)), one, one[0, :1]), camera)
        assert splats.depths[0] == 4
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_repr_shows_shapes(example):
    text = repr(example)
    assert text.startswith(type(example).__name__) and len(text) < 200 and "\n" not in text


def test_repr():
    shown = examples()
    assert repr(shown["gaussians_colors"]) == (
        "Gaussians(means=float32[5,3], opacities=float32[5], colors=float32[5,7], "
        "covars=float32[5,6])"
    )
    assert (
        repr(shown["camera"]) == "Camera(viewmat=float32[4,4], K=float32[3,3], width=17, height=33)"
    )
    spec = jax.eval_shape(lambda x: x, shown["bins"])
    assert repr(spec) == "Bins(order=int32[5], tile_counts=int32[3,2])"
    traced = []
    jax.jit(lambda x: traced.append(repr(x)))(shown["camera"])
    assert traced == [repr(shown["camera"])]
    path = frames.CameraPath([f"{i:02}" for i in range(9)], np.zeros((9, 4, 4)), np.eye(3), 4, 3)
    assert repr(path) == (
        "CameraPath(names=['00', '01', '02', '03', '04', '05', ... 9 in all], "
        "viewmats=float64[9,4,4], Ks=float64[3,3], width=4, height=3)"
    )
    population = densify.Population({"means": np.zeros((2, 3))}, np.ones(2, bool))
    assert repr(population) == "Population(params={'means': float64[2,3]}, alive=bool[2])"


# --------------------------------------------------------------------------------- Flax


def test_flax_saves_and_restores(example):
    flax = pytest.importorskip("flax.serialization")
    state = {"it": example, "config": jgd.Config(near_plane=0.5)}
    empty = {"it": jax.tree.map(jnp.zeros_like, example), "config": jgd.Config()}
    restored = flax.from_bytes(empty, flax.to_bytes(state))
    assert restored["config"] == state["config"]
    same = jax.tree.map(np.array_equal, restored["it"], example)
    assert jax.tree.structure(restored["it"]) == jax.tree.structure(example)
    assert all(jax.tree.leaves(same))
    with pytest.raises(ValueError, match=rf"the fields of {type(example).__name__}"):
        flax.from_state_dict(example, {"means": 1, "something": 2})


def test_flax_is_not_loaded_but_waited_for(tmp_path, monkeypatch):
    (tmp_path / "stand_in").mkdir()
    (tmp_path / "stand_in/__init__.py").write_text("")
    (tmp_path / "stand_in/serialization.py").write_text(
        "known = {}\ndef register_serialization_state(cls, *rules, override): known[cls] = rules\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(flax_states, "_MODULE", "stand_in.serialization")
    monkeypatch.setattr(flax_states, "_waiting", [])
    others = [f for f in sys.meta_path if not isinstance(f, flax_states._Waiting)]
    monkeypatch.setattr(sys, "meta_path", others)
    before = len(sys.meta_path)
    flax_states.register(jgd.Camera)
    sys.meta_path.insert(0, flax_states._Waiting())  # as a second import of the package does
    assert "stand_in" not in sys.modules
    assert importlib.util.find_spec("stand_in.serialization")  # does not load it
    try:
        module = importlib.import_module("stand_in.serialization")
        flax_states.register(jgd.Bins)
        assert set(module.known) == {jgd.Camera, jgd.Bins} and len(sys.meta_path) == before
    finally:
        for name in ("stand_in", "stand_in.serialization"):
            sys.modules.pop(name, None)


# ---------------------------------------------------------------------------- static fields


def test_camera_size_is_static():
    traces = []

    @jax.jit
    def f(camera):
        traces.append((camera.width, camera.height))
        return camera.viewmat

    camera = examples()["camera"]
    f(camera)
    f(dataclasses.replace(camera, viewmat=camera.viewmat + 1))
    f(dataclasses.replace(camera, width=18))
    assert traces == [(17, 33), (18, 33)]


def test_cameras_of_different_size_do_not_mix():
    camera = examples()["camera"]
    with pytest.raises(ValueError, match="17"):
        jax.tree.map(jnp.add, camera, dataclasses.replace(camera, width=18))


def test_vmap_axes_by_field():
    gaussians = examples()["gaussians_sh"]
    stacked = jax.tree.map(lambda x: jnp.stack([x, 2 * x, 3 * x]), gaussians)
    mixed = dataclasses.replace(gaussians, means=stacked.means, sh=stacked.sh)
    axes = jgd.Gaussians(0, None, None, None, sh=0)  # pyright: ignore[reportArgumentType]
    out = jax.vmap(lambda g: (g.means.sum() + g.quats.sum(), g), in_axes=(axes,))(mixed)
    expected = gaussians.means.sum() * np.array([1, 2, 3], np.float32) + gaussians.quats.sum()
    np.testing.assert_allclose(out[0], expected)
    assert out[1].sh.shape == (3, 5, 4, 3) and out[1].quats.shape == (3, 5, 4)


def test_gradient_has_the_same_structure():
    gaussians = examples()["gaussians_colors"]
    grads = jax.grad(lambda g: (g.means**2).sum() + g.colors.sum())(gaussians)
    assert type(grads) is jgd.Gaussians and grads.quats is None and grads.sh is None
    np.testing.assert_array_equal(grads.means, 2 * gaussians.means)
    np.testing.assert_array_equal(grads.covars, 0)


# -------------------------------------------------------------------------------- config


def test_config_defaults():
    assert dataclasses.asdict(jgd.Config()) == {
        "near_plane": 0.01,
        "far_plane": 1e10,
        "eps2d": 0.3,
        "footprint": "exact",
        "antialiased": False,
        "sh_convention": "3dgs",
        "deterministic": False,
        "capacity": None,
        "depth": "expected",
        "ray_depth": False,
        "depth_variance": False,
    }


def test_config_is_a_static_value():
    traces = []

    @functools.partial(jax.jit, static_argnames="config")
    def f(x, config):
        traces.append(config)
        return x * config.eps2d

    f(1.0, jgd.Config())
    numpy_false: Any = np.bool_(False)
    f(2.0, jgd.Config(eps2d=np.float64(0.3), antialiased=numpy_false))
    f(2.0, jgd.Config(eps2d=0.1))
    assert [config.eps2d for config in traces] == [0.3, 0.1]


def test_config_passes_through_jit_as_an_argument():
    config = jgd.Config(footprint="3sigma", capacity=7)
    assert jax.tree.leaves(config) == []
    assert jax.jit(lambda c: c)(config) == config


def test_config_normalises_numbers():
    numbers: dict[str, Any] = {"far_plane": np.int32(2), "capacity": np.int64(3)}
    config = jgd.Config(near_plane=1, eps2d=0, **numbers)
    types = [type(getattr(config, name)) for name in ("near_plane", "far_plane", "eps2d")]
    assert types == [float] * 3 and type(config.capacity) is int
    assert config == dataclasses.replace(
        jgd.Config(), near_plane=1.0, far_plane=2.0, eps2d=0.0, capacity=3
    )
    assert hash(config) == hash(dataclasses.replace(config))


def test_config_takes_an_infinite_far_plane():
    assert jgd.Config(far_plane=float("inf")).far_plane == float("inf")


CONFIG_ERRORS = [
    ({"near_plane": 0.0}, ValueError, "near_plane must be positive and finite, got 0.0"),
    ({"near_plane": -1}, ValueError, "near_plane must be positive and finite, got -1.0"),
    ({"near_plane": float("nan")}, ValueError, "near_plane must be positive and finite, got nan"),
    ({"near_plane": float("inf")}, ValueError, "near_plane must be positive and finite, got inf"),
    ({"far_plane": 0.01}, ValueError, "far_plane must be larger than near_plane = 0.01, got 0.01"),
    ({"far_plane": float("nan")}, ValueError, "far_plane must be larger than near_plane"),
    ({"eps2d": -0.1}, ValueError, "eps2d must be finite and not negative, got -0.1"),
    ({"eps2d": float("nan")}, ValueError, "eps2d must be finite and not negative, got nan"),
    ({"eps2d": float("inf")}, ValueError, "eps2d must be finite and not negative, got inf"),
    ({"footprint": "2sigma"}, ValueError, "footprint must be 'exact' or '3sigma', got '2sigma'"),
    ({"footprint": ["exact"]}, ValueError, "footprint must be 'exact' or '3sigma'"),
    ({"sh_convention": "E3NN"}, ValueError, "sh_convention must be '3dgs', 'e3nn' or"),
    ({"sh_convention": None}, ValueError, "or 'e3nn-legacy', got None"),
    (
        {"sh_convention": "e3nn-seed"},
        ValueError,
        "sh_convention must be '3dgs', 'e3nn' or 'e3nn-legacy', got 'e3nn-seed'",
    ),
    ({"capacity": 0}, ValueError, "capacity must be positive or None, got 0"),
    ({"capacity": -4}, ValueError, "capacity must be positive or None, got -4"),
    ({"capacity": 1.5}, TypeError, "capacity has type float, expected int"),
    ({"capacity": True}, TypeError, "capacity has type bool, expected int"),
    ({"near_plane": "0.1"}, TypeError, "near_plane has type str, expected float"),
    ({"near_plane": None}, TypeError, "near_plane has type NoneType, expected float"),
    ({"far_plane": True}, TypeError, "far_plane has type bool, expected float"),
    ({"eps2d": 1j}, TypeError, "eps2d has type complex, expected float"),
    ({"antialiased": 1}, TypeError, "antialiased has type int, expected bool"),
    ({"absgrad": True}, TypeError, "unexpected keyword argument 'absgrad'"),
    ({"deterministic": "yes"}, TypeError, "deterministic has type str, expected bool"),
    ({"depth": "mean"}, ValueError, "depth must be 'expected', 'median' or 'inverse', got 'mean'"),
    ({"depth": None}, ValueError, "depth must be 'expected', 'median' or 'inverse', got None"),
    ({"ray_depth": 1}, TypeError, "ray_depth has type int, expected bool"),
    ({"depth_variance": None}, TypeError, "depth_variance has type NoneType, expected bool"),
]


@pytest.mark.parametrize("changes, error, message", CONFIG_ERRORS)
def test_config_error(changes, error, message):
    with pytest.raises(error, match=re.escape(message)):
        jgd.Config(**changes)
    with pytest.raises(error, match=re.escape(message)):
        dataclasses.replace(jgd.Config(), **changes)


@pytest.mark.parametrize("name", ["near_plane", "eps2d", "capacity", "antialiased"])
def test_config_refuses_traced_values(name):
    with pytest.raises(TypeError, match=f"{name} has type .*it is static"):
        jax.jit(lambda x: jgd.Config(**{name: x}).eps2d)(1)
    with pytest.raises(TypeError, match=f"{name} has type .*it is static"):
        dataclasses.replace(jgd.Config(), **{name: jnp.asarray(1.0)})
