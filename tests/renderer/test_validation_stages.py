"""Tests what ``bin`` and ``blend`` refuse, and what every function accepts and converts."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.valid import (
    C,
    D,
    H,
    N,
    W,
    camera,
    gaussians,
    ones,
    order,
    raises,
    replace,
    splats,
)

import jax_gsplat_depth as jgd
from jax_gsplat_depth import _check

TAKES_SPLATS = {
    "bin": lambda s: jgd.bin(s, width=W, height=H),
    "blend": lambda s: jgd.blend(s, ones(N, D), order(), width=W, height=H),
}
N7 = "N = 7 (from splats.means2d)"


# --------------------------------------------------------------------------------- splats

SPLATS_ERRORS = [
    ("means2d", ones(N), ValueError, "has shape (7,), expected (N, 2) or (C, N, 2)"),
    ("means2d", ones(N, 3), ValueError, "has shape (7, 3), expected (N, 2) or (C, N, 2)"),
    ("depths", ones(N, 1), ValueError, f"has shape (7, 1), expected (N,) with {N7}"),
    ("depths", ones(6), ValueError, f"has shape (6,), expected (N,) with {N7}"),
    ("conics", ones(N, 2, 2), ValueError, f"has shape (7, 2, 2), expected (N, 3) with {N7}"),
    ("opacities", ones(6), ValueError, f"has shape (6,), expected (N,) with {N7}"),
    ("opacities", ones(N, 1), ValueError, f"has shape (7, 1), expected (N,) with {N7}"),
    (
        "radii",
        ones(N, 2, dtype=jnp.int32),
        ValueError,
        f"has shape (7, 2), expected (N,) with {N7}",
    ),
    (
        "means2d",
        ones(N, 2, dtype=jnp.int32),
        TypeError,
        "has dtype int32, expected float32 or float64",
    ),
    (
        "depths",
        ones(N, dtype=jnp.float16),
        TypeError,
        "has dtype float16, expected float32 (from splats.means2d)",
    ),
    (
        "conics",
        ones(N, 3, dtype=jnp.bfloat16),
        TypeError,
        "has dtype bfloat16, expected float32 (from splats.means2d)",
    ),
    (
        "opacities",
        ones(N, dtype=bool),
        TypeError,
        "has dtype bool, expected float32 (from splats.means2d)",
    ),
    ("radii", ones(N), TypeError, "has dtype float32, expected int32"),
    ("radii", np.ones(N), TypeError, "has dtype float64, expected int32"),
    ("radii", ones(N, dtype=jnp.uint8), TypeError, "has dtype uint8, expected int32"),
    *((field.name, None, ValueError, "is missing") for field in dataclasses.fields(jgd.Splats)),
]


@pytest.mark.parametrize("stage", TAKES_SPLATS)
@pytest.mark.parametrize(
    "field, value, error, message", SPLATS_ERRORS, ids=range(len(SPLATS_ERRORS))
)
def test_splats(field, value, error, message, stage):
    message = f"splats.{field} {message}"
    raises(error, message, TAKES_SPLATS[stage], splats(**{field: value}))


@pytest.mark.parametrize("stage", TAKES_SPLATS)
def test_splats_camera_axis(stage):
    message = (
        f"splats.depths has shape (7,), expected (C, N) with C = 2 (from splats.means2d), {N7}"
    )
    raises(ValueError, message, TAKES_SPLATS[stage], splats(means2d=ones(C, N, 2)))
    message = f"splats.depths has shape (2, 7), expected (N,) with {N7}"
    raises(ValueError, message, TAKES_SPLATS[stage], splats(depths=ones(C, N)))
    message = "splats.means2d has C = 0 cameras, expected at least 1"
    raises(ValueError, message, TAKES_SPLATS[stage], splats(0))


@pytest.mark.parametrize("field", ["depths", "conics", "opacities"])
def test_splats_of_mixed_float_dtypes(field, x64):
    value = splats(**{field: getattr(splats(), field).astype(np.float64)})
    message = f"splats.{field} has dtype float64, expected float32 (from splats.means2d)"
    for call in TAKES_SPLATS.values():
        raises(TypeError, message, call, value)


@pytest.mark.parametrize("stage", TAKES_SPLATS)
def test_not_splats(stage):
    message = "splats has type Gaussians, expected Splats"
    raises(TypeError, message, TAKES_SPLATS[stage], gaussians())


SIZE_ERRORS = [
    ({"width": 0}, ValueError, "width is 0 pixels, expected 1 to 1048576"),
    ({"height": 2**21}, ValueError, "height is 2097152 pixels, expected 1 to 1048576"),
    ({"width": 4.0}, TypeError, "width has type float, expected int: it is static"),
    ({"height": False}, TypeError, "height has type bool, expected int: it is static"),
    ({"width": None}, TypeError, "width has type NoneType, expected int: it is static"),
]


@pytest.mark.parametrize("changes, error, message", SIZE_ERRORS)
def test_size(changes, error, message):
    size = {"width": W, "height": H} | changes
    raises(error, message, functools.partial(jgd.bin, **size), splats())
    blend = functools.partial(jgd.blend, **size)
    raises(error, message, blend, splats(), ones(N, D), order())


def test_bin_config():
    config: Any = {}
    call = functools.partial(jgd.bin, width=W, height=H, config=config)
    raises(TypeError, "config has type dict, expected Config", call, splats())


# ---------------------------------------------------------------------------------- blend


def blend(batch, colors=None, order_=None, **kwargs):
    """Blend valid inputs except for those given."""
    return jgd.blend(
        splats(*batch),
        ones(N, D) if colors is None else colors,
        order(*batch) if order_ is None else order_,
        width=W,
        height=H,
        **kwargs,
    )


F32 = "expected float32 (from splats.means2d)"
INT32 = "expected int32"
# argument, leading axes of the splats, value, exception, message after the name of the argument
BLEND_ERRORS = [
    (
        "colors",
        (),
        ones(N),
        ValueError,
        f"has shape (7,), expected (N, D) with {N7}; a single channel is colors[:, None]",
    ),
    ("colors", (), ones(6, D), ValueError, f"has shape (6, 5), expected (N, D) with {N7}"),
    ("colors", (), ones(C, N, D), ValueError, f"has shape (2, 7, 5), expected (N, D) with {N7}"),
    (
        "colors",
        (C,),
        ones(3, N, D),
        ValueError,
        f"has shape (3, 7, 5), expected (N, D) or (C, N, D) with {N7}, C = 2 (from splats.means2d)",
    ),
    ("colors", (), ones(N, 2**15 + 1), ValueError, "has D = 32769 channels, expected 0 to 32768"),
    ("colors", (), ones(N, D, dtype=jnp.uint8), TypeError, f"has dtype uint8, {F32}"),
    ("background", (), ones(3), ValueError, "has shape (3,), expected (D,) with D = 5 (from the"),
    ("background", (), ones(D, dtype=jnp.float16), TypeError, f"has dtype float16, {F32}"),
    (
        "background",
        (C,),
        ones(3, D),
        ValueError,
        "has shape (3, 5), expected (D,) or (C, D) with D = 5 (from the image channels), C = 2",
    ),
    ("absgrad_probe", (), ones(N, 3), ValueError, f"has shape (7, 3), expected (N, 2) with {N7}"),
    (
        "absgrad_probe",
        (C,),
        ones(N, 2),
        ValueError,
        f"has shape (7, 2), expected (C, N, 2) with C = 2 (from the camera), {N7}",
    ),
    ("absgrad_probe", (), ones(N, 2, dtype=bool), TypeError, f"has dtype bool, {F32}"),
    ("config", (), "exact", TypeError, "has type str, expected Config"),
    (
        "order",
        (),
        jgd.Bins(order(), jnp.zeros((2, 3), jnp.int32)),
        TypeError,
        "has type Bins, expected its array: pass bins.order",
    ),
    ("order", (), (1, 2), ValueError, f"has shape (2,), expected (N,) with {N7}"),
    ("order", (), "near", TypeError, f"has dtype <U4, {INT32}"),
    (
        "order",
        (),
        ones(6, dtype=jnp.int32),
        ValueError,
        f"has shape (6,), expected (N,) with {N7}",
    ),
    (
        "order",
        (C,),
        ones(N, dtype=jnp.int32),
        ValueError,
        f"has shape (7,), expected (C, N) with C = 2 (from splats.means2d), {N7}",
    ),
    ("order", (), ones(N), TypeError, f"has dtype float32, {INT32}"),
    ("order", (), None, ValueError, "is missing"),
]


@pytest.mark.parametrize(
    "name, batch, value, error, message", BLEND_ERRORS, ids=range(len(BLEND_ERRORS))
)
def test_blend_argument(name, batch, value, error, message):
    call = functools.partial(blend, batch)
    if name == "order":  # None has to reach it
        call = functools.partial(jgd.blend, splats(*batch), ones(N, D), width=W, height=H)
    if name == "config":
        raises(error, f"{name} {message}", functools.partial(call, config=value))
    else:
        raises(error, f"{name} {message}", call, **{name: value})


# --------------------------------------------------------------- what is accepted


def as_lists(tree):
    return jax.tree.map(lambda x: np.asarray(x).tolist(), tree)


def as_integers(tree):
    return jax.tree.map(lambda x: np.asarray(x).astype(np.int64), tree)


def as_double(tree):
    return jax.tree.map(lambda x: np.asarray(x).astype(np.float64), tree)


def as_half(tree):
    return jax.tree.map(lambda x: np.asarray(x).astype(np.float16), tree)


@pytest.mark.parametrize("convert", [as_lists, as_integers, as_double, as_half])
def test_host_values_follow_the_means(convert, dtype):
    expected = gaussians(dtype=dtype)
    checked = _check.check_gaussians(replace(convert(expected), means=expected.means))
    for actual, wanted in zip(jax.tree.leaves(checked), jax.tree.leaves(expected), strict=True):
        assert isinstance(actual, jax.Array) and actual.dtype == dtype
        np.testing.assert_array_equal(actual, wanted)
    view = _check.check_camera(convert(camera(dtype=dtype)), dtype)
    assert view.viewmat.dtype == view.K.dtype == dtype


@pytest.mark.parametrize("convert", [as_lists, as_integers, as_double])
def test_host_means_have_the_default_dtype(convert, dtype):
    checked = _check.check_gaussians(convert(gaussians(dtype=dtype)))
    assert {leaf.dtype for leaf in jax.tree.leaves(checked)} == {dtype}


def test_numpy_float32_means_stay_float32(x64):
    means = np.ones((N, 3), np.float32)
    checked = _check.check_gaussians(replace(as_double(gaussians()), means=means))
    assert {leaf.dtype for leaf in jax.tree.leaves(checked)} == {np.dtype(np.float32)}


def test_render_takes_numpy_and_lists():
    expected = jgd.render(gaussians(), camera(), background=ones(3))
    white: Any = [1, 1, 1]
    actual = jgd.render(as_lists(gaussians()), as_double(camera()), background=white)
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert a.dtype == e.dtype
        np.testing.assert_array_equal(a, e)


def test_jax_arrays_are_not_copied():
    value = gaussians()
    checked = _check.check_gaussians(value)
    for a, b in zip(jax.tree.leaves(checked), jax.tree.leaves(value), strict=True):
        assert a is b


def test_weak_types_are_removed():
    value = gaussians(opacities=jnp.full((N,), 0.5), means=jnp.full((N, 3), 0.5))
    assert [x.weak_type for x in jax.tree.leaves(value)] == [True, False, False, True, False]
    checked = _check.check_gaussians(value)
    assert not any(x.weak_type for x in jax.tree.leaves(checked))


def test_intrinsics_may_hold_traced_numbers():
    def intrinsics(fx):
        matrix = [[fx, 0, 3], [0, 2 * fx, 4], [0, 0, 1]]
        return _check.check_camera(camera(K=matrix), np.dtype(np.float32)).K

    expected = [[5, 0, 3], [0, 10, 4], [0, 0, 1]]
    np.testing.assert_array_equal(jax.jit(intrinsics)(jnp.float32(5)), expected)
    with pytest.raises(TypeError, match=r"camera\.K has dtype int32, expected float32"):
        jax.jit(intrinsics)(jnp.int32(5))


def test_numpy_integer_sizes():
    checked = _check.check_camera(camera(width=np.int64(9), height=np.uint8(3)), np.float32)
    assert (type(checked.width), checked.width, checked.height) == (int, 9, 3)
    assert _check.check_image_size(np.int32(1), 2**20, ()) == (1, 2**20)  # pyright: ignore
    with pytest.raises(ValueError, match=r"width \* height \* C = .* pixels, expected at most"):
        _check.check_image_size(2**20, 2**20, (64,))
    assert _check.check_sh_degree(np.int64(1), 16) == 1  # pyright: ignore


@pytest.mark.parametrize("bases, highest", [(1, 0), (4, 1), (9, 2), (16, 3), (25, 4)])
def test_sh_degree(bases, highest):
    assert _check.check_sh_degree(None, bases) == highest
    for degree in range(highest + 1):
        assert _check.check_sh_degree(degree, bases) == degree
    _check.check_gaussians(gaussians(sh=ones(N, bases, 3)))


def test_covariances_become_their_symmetric_part(x64):
    full = jnp.arange(9.0).reshape(1, 3, 3)
    six = jnp.array([[0.0, 2, 4, 4, 6, 8]])

    def covars(value) -> Any:
        g = jgd.Gaussians(jnp.ones((1, 3)), covars=value)
        return _check.check_gaussians(g, need=("means",)).covars

    np.testing.assert_array_equal(covars(full), six)
    np.testing.assert_array_equal(covars(six), six)
    gradient = jax.grad(lambda c: (covars(c) * jnp.arange(1.0, 7)[None]).sum())(full)
    np.testing.assert_array_equal(gradient, [[[1, 1, 1.5], [1, 4, 2.5], [1.5, 2.5, 6]]])


def test_background_and_offset_forms():
    f32 = np.dtype(np.float32)
    background = functools.partial(_check.check_background, n_channels=3, dtype=f32)
    np.testing.assert_array_equal(background(None, ()), np.zeros(3, f32))
    np.testing.assert_array_equal(background(None, (2,)), np.zeros(3, f32))
    assert background([1, 2, 3], ()).dtype == f32
    assert background(np.ones(3), (2,)).shape == (3,)
    assert background(np.ones((2, 3)), (2,)).shape == (2, 3)
    offset = functools.partial(_check.check_means2d_offset, n=N, dtype=f32)
    assert offset(None, ()) is None
    for batch in ((), (2,)):
        array = offset(np.zeros((*batch, N, 2)), batch)
        assert array is not None and array.shape == (*batch, N, 2) and array.dtype == f32


@pytest.mark.parametrize("batch", [(), (C,)])
def test_stage_containers_from_numpy(batch):
    checked = _check.check_splats(jax.tree.map(np.asarray, splats(*batch)))
    assert checked.radii.dtype == np.int32 and checked.means2d.dtype == np.float32
    found = _check.check_order(np.zeros((*batch, N), np.int64), checked)
    assert found.dtype == np.int32 and found.shape == (*batch, N)
    assert _check.check_colors(np.ones((N, D)), checked).shape == (N, D)
    if batch:
        assert _check.check_colors(np.ones((C, N, D)), checked).shape == (C, N, D)


def test_no_gaussians_are_valid():
    checked = _check.check_gaussians(gaussians(0))
    assert checked.sh is not None and checked.sh.shape == (0, 4, 3)
    out = jax.eval_shape(jgd.render, gaussians(0), camera())
    assert out.image.shape == (H, W, 3) and out.radii.shape == (0,)
