"""Tests that bad data is culled, harms nothing else, and that no result is ever non-finite."""

import dataclasses

import jax
import numpy as np
import pytest
from helpers import reference, scenes
from helpers.asserts import OUTPUTS, Size, library, make_cotangents, render_call, same_bits
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import jax_gsplat_depth as jgd

# float64 is slow to compile: by default other files cover it.
pytestmark = pytest.mark.quick(dtype=["float32"])

WIDTH, HEIGHT = 37, 35
PER_GAUSSIAN = ("means", "quats", "scales", "covars", "opacities", "sh", "colors")

_examples = hypothesis_settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def base_scene(seed=0, cameras=None):
    return scenes.random_scene(
        40, WIDTH, HEIGHT, seed=seed, bases=9, cameras=cameras, sigma_px=(0.6, 9.0)
    )


def run(scene, dtype, *, color="colors", shape="quats", config=None, inputs=None, cotangents=None):
    """Outputs and gradients of all three outputs."""
    inputs = scene.inputs(dtype, color=color, shape=shape) if inputs is None else inputs
    size = Size(scene.width, scene.height)
    image = (*scene.batch, size.height, size.width)
    channels = 3 if color == "sh" else scene.colors.shape[1]
    shapes = {"image": (*image, channels), "depth": image, "weight": image}
    cotangents = make_cotangents(shapes, seed=31) if cotangents is None else cotangents
    config = dataclasses.replace(config or jgd.Config(), deterministic=True)
    return library(render_call, (size, config, None), inputs, cotangents)


def assert_finite(out, grads):
    for k, v in (out | grads).items():
        assert np.isfinite(v).all(), f"{k} is not finite"


def check_harmless(bad, clean, rows, dtype, **form):
    """``bad`` equals ``clean`` with the Gaussians ``rows`` made transparent or removed.

    Transparent ones leave every array at its size, so all gradients keep their bits. Removed ones
    change the length of the sums over Gaussians, so the cameras' gradients are left out.
    """
    out, grads = run(bad, dtype, **form)
    assert_finite(out, grads)
    assert not out["radii"][..., rows].any()
    for k in PER_GAUSSIAN:
        if k in grads:
            assert not grads[k][rows].any(), f"gradient of {k} of a poisoned Gaussian"
    assert not grads["means2d_offset"][..., rows, :].any()

    opacities = clean.opacities.copy()
    opacities[rows] = -1
    hidden, hidden_grads = run(dataclasses.replace(clean, opacities=opacities), dtype, **form)
    for k in out:
        same_bits(out[k], hidden[k], f"{k}, against transparent")
    for k in grads:
        same_bits(grads[k], hidden_grads[k], f"gradient of {k}, against transparent")

    rest = np.setdiff1d(np.arange(clean.n), rows)
    fewer, fewer_grads = run(clean.take(rest), dtype, **form)
    for k in OUTPUTS:
        same_bits(out[k], fewer[k], f"{k}, against removed")
    same_bits(out["radii"][..., rest], fewer["radii"], "radii")
    for k in grads.keys() & set(PER_GAUSSIAN):
        same_bits(grads[k][rest], fewer_grads[k], f"gradient of {k}, against removed")
    same_bits(grads["background"], fewer_grads["background"], "background")
    return out


def form_of(name):
    return {"color": "sh" if name.startswith("sh") else "colors"}


ROWS = np.array([0, 7, 8, 21, 39])
FAINT = ("opacities_zero", "opacities_cutoff")


@pytest.mark.quick(
    name=["means_nan", "quats_zero", "scales_inf", "opacities_nan", "sh_nan", "colors_inf"]
)
@pytest.mark.parametrize("name", scenes.POISONS)
def test_each_poison(every_backend, dtype, name):
    clean = base_scene()
    out = check_harmless(scenes.poison(clean, ROWS, name), clean, ROWS, dtype, **form_of(name))
    assert (out["radii"] > 0).sum() > 20


@pytest.mark.quick(name=["sh_nan"])
@pytest.mark.parametrize("name", ["means_nan", "scales_inf", "sh_nan", "opacities_nan"])
def test_poison_with_cameras(every_backend, dtype, name):
    clean = base_scene(cameras=3)
    check_harmless(scenes.poison(clean, ROWS, name), clean, ROWS, dtype, **form_of(name))


@pytest.mark.quick(name=["scales_negative"], footprint=["3sigma"])
@pytest.mark.parametrize("footprint", ["exact", "3sigma"])
@pytest.mark.parametrize(
    "name", ["quats_zero", "opacities_negative", "scales_negative", "colors_nan"]
)
def test_poison_with_options(every_backend, dtype, name, footprint):
    clean = base_scene()
    config = jgd.Config(footprint=footprint, antialiased=True)
    check_harmless(scenes.poison(clean, ROWS, name), clean, ROWS, dtype, config=config)


@pytest.mark.parametrize("name", FAINT)
def test_faint_gaussians_keep_their_radius_in_three_sigma(every_backend, dtype, name):
    """As in the original rasterizers, whose radii are reproduced; they are still not drawn."""
    clean, config = base_scene(), jgd.Config(footprint="3sigma")
    out, grads = run(scenes.poison(clean, ROWS, name), dtype, config=config)
    whole, _ = run(clean, dtype, config=config)
    same_bits(out["radii"], whole["radii"], "radii")
    assert out["radii"][ROWS].all()
    rest = np.setdiff1d(np.arange(clean.n), ROWS)
    fewer, fewer_grads = run(clean.take(rest), dtype, config=config)
    for k in OUTPUTS:
        same_bits(out[k], fewer[k], k)
    for k in grads.keys() & set(PER_GAUSSIAN):
        assert not grads[k][ROWS].any()
        same_bits(grads[k][rest], fewer_grads[k], f"gradient of {k}")


@pytest.mark.quick(value=[np.nan, "negative"])
@pytest.mark.parametrize("layout", ["covars6", "covars33"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, "negative", "zero"])
def test_poisoned_covariances(every_backend, dtype, layout, value):
    clean = base_scene()
    # A zero covariance is degenerate only without eps2d; a negative one is with any.
    config = jgd.Config(eps2d=0.0 if value == "zero" else 0.3)
    inputs = clean.inputs(dtype, shape=layout)
    covars = inputs["covars"].copy()
    if value == "negative":
        covars[ROWS] *= -100
    elif value == "zero":
        covars[ROWS] = 0
    else:
        covars[(ROWS, 1) if layout == "covars6" else (ROWS, 0, 1)] = value
    out, grads = run(clean, dtype, inputs={**inputs, "covars": covars}, config=config)
    assert_finite(out, grads)
    hidden = {**inputs, "opacities": inputs["opacities"].copy()}
    hidden["opacities"][ROWS] = 0
    expected, expected_grads = run(clean, dtype, inputs=hidden, config=config)
    for k in out:
        same_bits(out[k], expected[k], k)
    for k in grads:
        same_bits(grads[k], expected_grads[k], f"gradient of {k}")


@pytest.mark.quick(dtype=["float32"])
@pytest.mark.parametrize("name", scenes.EXTREMES)
def test_extreme_values_stay_finite(every_backend, dtype, name):
    bad = scenes.poison(base_scene(), ROWS, name)
    color = form_of(name)["color"]
    out, grads = run(bad, dtype, color=color)
    if name in ("colors_huge", "sh_huge"):
        # 1e30 in the image is lawful; the products with it may overflow, but not elsewhere.
        assert np.isfinite(out["weight"]).all() and np.isfinite(out["depth"]).all()
        return
    assert_finite(out, grads)


@pytest.mark.parametrize("opacity", [1.0, 1.5, 7.0, 1e30])
def test_opacity_above_one_is_capped_alpha(backend, x64, opacity):
    scene = base_scene()
    opacities = scene.opacities.copy()
    opacities[ROWS] = opacity
    bad = scene.replace(opacities=opacities)
    static = reference.Settings(WIDTH, HEIGHT)
    expected = reference.evaluate(reference.render, bad.inputs(np.float64), static)
    out, _ = run(bad, np.float64)
    keep = ~expected["band"]
    for k in OUTPUTS:
        np.testing.assert_allclose(out[k][keep], expected[k][keep], atol=1e-10)


@st.composite
def poisoned_scene(draw):
    """A random scene, some rows of it and a poison for each."""
    seed = draw(st.integers(0, 2**20))
    rows = draw(st.lists(st.integers(0, 39), min_size=1, max_size=8, unique=True))
    names = draw(
        st.lists(st.sampled_from(sorted(scenes.POISONS)), min_size=len(rows), max_size=len(rows))
    )
    return base_scene(seed), rows, names


@_examples
@given(poisoned_scene(), st.sampled_from(["colors", "sh"]), st.sampled_from(["exact", "3sigma"]))
@pytest.mark.slow
def test_random_poison(case, color, footprint):
    clean, rows, names = case
    bad = clean
    kept = []
    for row, name in zip(rows, names, strict=True):
        unused = scenes.POISONS[name][0] in {"colors", "sh"} - {color}
        if not unused and not (footprint == "3sigma" and name in FAINT):
            bad = scenes.poison(bad, [row], name)
            kept.append(row)
    config = jgd.Config(footprint=footprint)
    check_harmless(bad, clean, np.array(kept, int), np.float32, color=color, config=config)


_any_float = st.one_of(
    st.floats(width=32, allow_nan=True, allow_infinity=True),
    st.sampled_from([0.0, -0.0, 1e-45, 1e-38, 3e38, -3e38, np.inf, -np.inf, np.nan, 1.0]),
)


@_examples
@given(
    st.integers(0, 2**20),
    st.lists(
        st.tuples(st.sampled_from(PER_GAUSSIAN), st.integers(0, 2**16), _any_float),
        min_size=1,
        max_size=12,
    ),
    st.booleans(),
)
def test_any_bits_in_any_parameter(seed, changes, use_covars):
    """Arbitrary floats anywhere: no crash, and a NaN or Inf never reaches an output."""
    scene = base_scene(seed)
    inputs = scene.inputs(np.float32, shape="covars6" if use_covars else "quats")
    inputs = {k: v.copy() for k, v in inputs.items()}
    moderate = True
    for name, index, value in changes:
        if name in inputs:
            inputs[name].reshape(-1)[index % inputs[name].size] = value
            moderate &= not 1e6 < abs(value) < np.inf
    out, grads = run(scene, np.float32, inputs=inputs)
    assert (out["radii"] >= 0).all() and (out["weight"] >= 0).all() and (out["weight"] <= 1).all()
    assert np.isfinite(out["weight"]).all() and np.isfinite(out["depth"]).all()
    if moderate:  # products with finite values near the end of the range may overflow
        assert_finite(out, grads)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 0.0, 1e30])
@pytest.mark.parametrize("entry", [("viewmat", 0, 0), ("viewmat", 2, 3), ("K", 0, 0), ("K", 1, 2)])
def test_bad_camera_does_not_crash(every_backend, dtype, entry, value):
    scene = base_scene()
    name, row, col = entry
    inputs = scene.inputs(dtype, color="sh")
    inputs[name] = inputs[name].copy()
    inputs[name][row, col] = value
    out, grads = run(scene, dtype, color="sh", inputs=inputs)
    if not np.isfinite(value):
        # Nothing can be drawn by such a camera.
        np.testing.assert_array_equal(
            out["image"], np.broadcast_to(inputs["background"], (HEIGHT, WIDTH, 3))
        )
        assert not out["radii"].any() and not out["weight"].any() and not out["depth"].any()
        assert_finite(out, grads)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_one_bad_camera_of_several(backend, dtype, value):
    scene = base_scene(cameras=3)
    inputs = scene.inputs(dtype)
    good, _ = run(scene, dtype)
    inputs["viewmat"] = inputs["viewmat"].copy()
    inputs["viewmat"][1, 0, 0] = value
    out, grads = run(scene, dtype, inputs=inputs)
    for c in (0, 2):
        for k in (*OUTPUTS, "radii"):
            same_bits(out[k][c], good[k][c], k)
    assert_finite(out, grads)


@pytest.mark.quick(value=[np.nan])
@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_bad_cotangent_stays_with_its_gaussians(every_backend, dtype, output, value):
    scene = scenes.poison(base_scene(), ROWS, "opacities_zero")
    shapes = {"image": (HEIGHT, WIDTH, 3), "depth": (HEIGHT, WIDTH), "weight": (HEIGHT, WIDTH)}
    cotangents = make_cotangents(shapes, seed=31)
    out, good = run(scene, dtype, cotangents=cotangents)
    bad = {k: v.copy() for k, v in cotangents.items()}
    bad[output][2, 3] = value
    same, grads = run(scene, dtype, cotangents=bad)
    for k in OUTPUTS:
        same_bits(same[k], out[k], k)
    culled = out["radii"] == 0
    untouched = 0
    for k in ("means", "quats", "scales", "opacities", "colors"):
        assert not grads[k][culled].any(), k
        finite = np.isfinite(grads[k]).reshape(scene.n, -1).all(1)
        same_bits(grads[k][finite], good[k][finite], k)
        untouched += finite.sum()
    assert untouched > 2 * scene.n


def garbage_blend(splats, colors, order):
    """Call ``blend`` with its gradient on whatever arrays; returns outputs and gradients."""

    def run_blend(splats, colors):
        out = jgd.blend(splats, colors, order, width=WIDTH, height=HEIGHT)
        return (out.image, out.depth, out.weight), out

    primals, pullback, out = jax.vjp(run_blend, splats, colors, has_aux=True)
    grads = pullback(jax.tree.map(np.ones_like, jax.tree.map(np.asarray, primals)))
    return jax.tree.map(np.asarray, (vars(out), grads))


def projected(dtype=np.float32):
    scene = base_scene()
    splats = jgd.project(scene.gaussians(dtype), scene.camera(dtype))
    bins = jgd.bin(splats, width=WIDTH, height=HEIGHT)
    splats, bins = jax.tree.map(np.asarray, (splats, bins))
    return splats, scene.colors.astype(dtype), bins.order


@pytest.mark.quick(value=[np.nan, -1.0])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 0.0, -1.0, 1e30, -1e30, 1e-40])
@pytest.mark.parametrize("field", ["means2d", "depths", "conics", "opacities"])
def test_blend_of_garbage_splats_does_not_crash(every_backend, dtype, field, value):
    splats, colors, order = projected(dtype)
    array = getattr(splats, field).copy()
    array[::3] = value
    out, _ = garbage_blend(dataclasses.replace(splats, **{field: array}), colors, order)
    assert out["image"].shape == (HEIGHT, WIDTH, 3)
    assert np.isfinite(out["weight"]).all()
    bins = jgd.bin(dataclasses.replace(splats, **{field: array}), width=WIDTH, height=HEIGHT)
    np.testing.assert_array_equal(np.sort(bins.order), np.arange(40))
    assert (np.asarray(bins.tile_counts) >= 0).all()
    assert (np.asarray(bins.tile_counts) <= 40).all()


@pytest.mark.parametrize(
    "make",
    [
        lambda order: np.full_like(order, -1),
        lambda order: np.full_like(order, 2**31 - 1),
        lambda order: np.full_like(order, -(2**31)),
        lambda order: np.full_like(order, 40),
        lambda order: np.zeros_like(order),
        lambda order: np.where(order % 4 == 0, 10**6, order).astype(np.int32),
    ],
    ids=["-1", "max", "min", "N", "zeros", "mixed"],
)
def test_blend_with_a_garbage_order_does_not_crash(every_backend, make):
    splats, colors, order = projected()
    out, grads = garbage_blend(splats, colors, make(order))
    assert np.isfinite(out["image"]).all() and np.isfinite(out["depth"]).all()
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads) if g.dtype == np.float32)


@pytest.mark.parametrize("radius", [-1, -(2**31), 2**31 - 1])
@pytest.mark.parametrize("footprint", ["exact", "3sigma"])
def test_garbage_radii_do_not_crash(every_backend, radius, footprint):
    splats, _, _ = projected()
    splats = dataclasses.replace(splats, radii=np.full(40, radius, np.int32))
    config = jgd.Config(footprint=footprint)
    bins = jgd.bin(splats, width=WIDTH, height=HEIGHT, config=config)
    np.testing.assert_array_equal(np.sort(bins.order), np.arange(40))
    counts = np.asarray(bins.tile_counts)
    assert (counts >= 0).all() and (counts <= 40).all()


# ---------------------------------------------------------------------- JAX's debugging


def poisoned_inputs(name):
    """Four Gaussians with one NaN, and a camera; made before the flag is set, which sees them."""
    scene = scenes.random_scene(4, 21, 18, seed=3, bases=4, sigma_px=(0.6, 5.0))
    shape = "covars" if name == "covars" else "quats"
    inputs = scene.inputs(np.float32, color="sh" if name == "sh" else "colors", shape=shape)
    inputs[name] = inputs[name].copy()
    inputs[name].reshape(len(inputs[name]), -1)[1, 0] = np.nan
    return scenes.build({k: jax.device_put(v) for k, v in inputs.items()}, Size(21, 18))


@pytest.mark.quick(name=["colors"])
@pytest.mark.parametrize("name", ["means", "quats", "sh", "colors", "covars"])
def test_debug_nans_in_eager_mode(name):
    gaussians, camera = poisoned_inputs(name)
    with jax.debug_nans(True):
        out, pullback = jax.vjp(lambda g: jgd.render(g, camera), gaussians)
        zero = np.zeros(out.radii.shape, jax.dtypes.float0)
        ones = jax.tree.map(np.ones_like, out)
        counts = np.zeros((), jax.dtypes.float0)
        (grads,) = pullback(
            dataclasses.replace(ones, radii=zero, n_isects=counts, n_isects_listed=counts)
        )
        jgd.render(jax.tree.map(np.asarray, gaussians), camera)
        if name in ("quats", "covars"):
            covars = gaussians.covars
            if covars is None:
                covars = jgd.covariances(gaussians.quats, gaussians.scales)
            assert np.isnan(np.asarray(jgd.quats_and_scales(covars)[1])[1]).all()
    assert not any(np.isnan(x).any() for x in jax.tree.leaves((out, grads)))
    assert out.radii[1] == 0


def test_debug_nans_still_finds_a_nan_in_a_result():
    gaussians, camera = poisoned_inputs("means")
    background = jax.device_put(np.full(gaussians.colors.shape[1], np.nan, np.float32))
    with jax.debug_nans(True), pytest.raises(FloatingPointError, match=r"jax_gsplat_depth\.render"):
        jgd.render(gaussians, camera, background=background)
    cameras = jax.tree.map(lambda x: x[None], camera)
    cotangent = jax.device_put(np.full((1, 4), np.nan, np.float32))
    _, pullback = jax.vjp(lambda g: jgd.project(g, cameras).depths, gaussians)
    with jax.debug_nans(True), pytest.raises(FloatingPointError, match="jgd_project_bwd"):
        pullback(cotangent)
