"""Tests the original rasterizers' interface: stored pictures, gradients against the reference."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import backends, reference, scenes
from helpers.asserts import Size, close, close_l2, expect, image_cotangents, same_bits, within
from helpers.rasterizer_inputs import ARGUMENTS, SETTINGS, STORED, render, settings
from helpers.tolerances import bound
from jax.test_util import check_grads

import jax_gsplat_depth as jgd

# float64 is slow to compile: by default other files cover it.
pytestmark = pytest.mark.quick(dtype=["float32"])

# ------------------------------------------------------------------------------ the stored pictures


GOLDEN = {
    "leo_n200_64x48_sh3": "3dgs",
    "leo_n2000_200x150_sh2": "3dgs",
    "leo_colors_precomp": "3dgs",
    "leo_cov3d_precomp": "3dgs",
    "leo_scale_modifier_0p7": "3dgs",
    "leo_beyond_1p3": "3dgs",
    "leo_stress": "3dgs",
    "leo_empty": "3dgs",
    "e3nn_sh1": "e3nn",
    "e3nn_sh3": "e3nn",
}


@functools.cache
def stored(path):
    """A golden file."""
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


def golden_call(data, convention):
    """Settings and arguments of a golden file."""
    numbers = {k: int(data[k]) for k in ("H", "W", "sh_degree")}
    raster_settings = jgd.GaussianRasterizationSettings(
        image_height=numbers["H"],
        image_width=numbers["W"],
        sh_degree=numbers["sh_degree"],
        prefiltered=False,
        debug=False,
        sh_convention=convention,
        **{k: data[k] for k in SETTINGS},
    )
    arguments = {k: jnp.asarray(data[k]) for k in ARGUMENTS if k in data}
    return raster_settings, arguments | {"means2D": jnp.zeros_like(arguments["means3D"])}


def check_golden(shared, case, convention):
    """Values, radii and gradients of one file; its corrections where the original is wrong."""
    data = stored(shared / "golden" / "seeds" / f"{case}.npz")
    raster_settings, arguments = golden_call(data, convention)

    def run(x):
        out = render(raster_settings, x)
        return {k: v for k, v in out.items() if k != "radii"}, out["radii"]

    out, pullback, radii = jax.vjp(jax.jit(run), arguments, has_aux=True)
    corrected = convention == "e3nn" and "fix_color" in data
    np.testing.assert_array_equal(radii, data["radii"])
    keep = ~data["fragile"]
    color = data["fix_color" if corrected else "color"]
    for name, expected, quantity in (
        ("rendered_image", color, "value"),
        ("weight_map", data["weight"][0], "value"),
        ("depth_map", data["depth"][0], "depth"),
    ):
        actual = np.asarray(out[name])
        assert actual.shape == expected.shape and actual.dtype == np.float32
        error = np.abs(actual - expected)[..., keep].max()
        within(error, bound("rasterizer", quantity, "float32"), 1.0, f"{case} {name}")

    cotangents = {"rendered_image": data["dL_dcolor"], "depth_map": data["dL_ddepth"][0]}
    cotangents["weight_map"] = np.zeros_like(data["weight"][0])
    (grads,) = pullback({k: jnp.asarray(v) for k, v in cotangents.items()})
    limit = bound("rasterizer", "gradient", "float32")
    for name, actual in grads.items():
        key = f"grad_{STORED.get(name, name)}"
        if corrected and f"fix_{key}" not in data and name != "means2D":
            continue  # stored for the other colours only
        if corrected and name == "means2D":
            continue
        if convention == "e3nn-legacy" and f"fix_{key}" in data:
            continue  # the original mixes two polynomials
        expected = data.get(f"fix_{key}", data[key])
        close_l2(actual, expected, limit, f"{case} {key}")
    return out, grads


@pytest.mark.quick(case=["leo_n200_64x48_sh3", "leo_empty", "e3nn_sh3"])
@pytest.mark.parametrize("case", GOLDEN)
def test_golden(every_backend, case, shared):
    check_golden(shared, case, GOLDEN[case])


@pytest.mark.quick(case=["e3nn_sh3"])
@pytest.mark.parametrize("case", ["e3nn_sh1", "e3nn_sh3"])
def test_golden_with_the_legacy_polynomial(every_backend, case, shared):
    check_golden(shared, case, "e3nn-legacy")


def test_all_golden_files_are_tested(shared):
    assert {path.stem for path in (shared / "golden" / "seeds").glob("*.npz")} == set(GOLDEN)


# ------------------------------------------------------------------------ the stages, the reference


def to_rasterizer(inputs, size, **changes):
    """A call of the original interface from inputs as made by ``Scene.inputs``; traceable."""
    K, viewmat, dtype = inputs["K"], inputs["viewmat"], inputs["means"].dtype
    w, h = size.width, size.height
    zero, one = jnp.zeros((), dtype), jnp.ones((), dtype)
    clip = [
        [2 * K[0, 0] / w, zero, 2 * K[0, 2] / w - 1, zero],
        [zero, 2 * K[1, 1] / h, 2 * K[1, 2] / h - 1, zero],
        [zero, zero, one, -0.01 * one],
        [zero, zero, one, zero],
    ]
    projmatrix = viewmat.T @ jnp.stack([jnp.stack(row) for row in clip]).T
    names = {"means": "means3D", "opacities": "opacities", "sh": "shs", "scales": "scales"}
    names |= {"colors": "colors_precomp", "quats": "rotations", "covars": "cov3D_precomp"}
    arguments = {new: inputs[old] for old, new in names.items() if old in inputs}
    arguments["means2D"] = None
    if "rotations" in arguments:
        arguments["rotations"] /= jnp.linalg.norm(arguments["rotations"], axis=1, keepdims=True)
    return settings(
        image_height=h,
        image_width=w,
        tanfovx=w / (2 * K[0, 0]),
        tanfovy=h / (2 * K[1, 1]),
        bg=inputs["background"],
        viewmatrix=viewmat.T,
        projmatrix=projmatrix,
        campos=-viewmat[:3, :3].T @ viewmat[:3, 3],
        sh_degree=3,
        **changes,
    ), arguments


def to_render(out):
    """The outputs as ``render`` has them."""
    weight = out["weight_map"] - 1e-6
    depth = out["depth_map"] * out["weight_map"] / jnp.where(weight > 1e-3, weight, 1)
    image = jnp.moveaxis(out["rendered_image"], 0, -1)
    return {"image": image, "depth": depth, "weight": weight, "radii": out["radii"]}


@functools.partial(backends.jit, static_argnums=(0, 1))
def rasterizer_vjp(size, convention, inputs, cotangents):
    """Outputs and gradients in the terms of ``render``, by way of the original interface."""

    def run(inputs):
        call = to_rasterizer(inputs, size, sh_convention=convention)
        out = to_render(render(*call))
        return {k: out[k] for k in cotangents}, out

    _, pullback, out = jax.vjp(run, inputs, has_aux=True)
    return out, pullback(cotangents)[0]


@pytest.mark.quick(
    centre=[(0.62, 0.41)], outputs=[("image", "depth", "weight")], convention=["e3nn-legacy"]
)
@pytest.mark.parametrize("centre", [(0.5, 0.5), (0.62, 0.41)], ids=["central", "off-centre"])
@pytest.mark.parametrize(
    ("convention", "form"),
    [
        ("3dgs", {"color": "sh"}),
        ("e3nn-legacy", {"color": "sh", "shape": "covars6"}),
        ("3dgs", {"color": "colors"}),
    ],
)
@pytest.mark.parametrize("outputs", [("weight",), ("image", "depth", "weight")], ids=len)
def test_against_the_reference(every_backend, dtype, convention, form, centre, outputs):
    """Every gradient, those of the camera's arrays together, and that of the weight alone."""
    scene = scenes.random_scene(60, 44, 30, seed=7, centre=centre, spread=0.9)
    inputs, size = scene.inputs(dtype, offset=False, **form), Size(scene.width, scene.height)
    static = reference.Settings(
        size.width, size.height, 0.2, footprint="3sigma", sh_convention=convention
    )
    cotangents = image_cotangents(inputs, size, seed=2)
    expected, wanted, used = expect(reference.render, inputs, cotangents, static, outputs)
    used = {k: jnp.asarray(v, dtype) for k, v in used.items()}
    out, grads = rasterizer_vjp(
        size, convention, {k: jnp.asarray(v) for k, v in inputs.items()}, used
    )
    np.testing.assert_array_equal(out["radii"], expected["radii"])
    for k in ("image", "depth", "weight"):
        limit = bound("rasterizer reference", "value", dtype)
        close(out[k], expected[k], limit, f"rasterizer {k}", ~expected["band"])
    for k, v in grads.items():
        if not wanted[k].any():
            assert not np.any(v), k
            continue
        close_l2(
            v, wanted[k], bound("rasterizer reference", "gradient", dtype), f"rasterizer grad {k}"
        )


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.quick(name=["viewmatrix"])
def test_gradient_of_each_setting(backend, x64, name):
    """Finite differences, with wide Gaussians that no threshold is near to."""
    scene = scenes.smooth(bases=16)
    inputs = {k: jnp.asarray(v) for k, v in scene.inputs(np.float64, color="sh").items()}
    raster_settings, arguments = to_rasterizer(inputs, scene, scale_modifier=0.9)
    raster_settings = jax.tree.map(jnp.asarray, raster_settings)
    rng = np.random.default_rng(0)
    weights = {k: rng.normal(size=(18, 20)) for k in ("depth_map", "weight_map")}
    weights["rendered_image"] = rng.normal(size=(3, 18, 20))

    def total(value):
        out = render(raster_settings._replace(**{name: value}), arguments)
        return sum(jnp.sum(out[k] * v) for k, v in weights.items())

    value = jnp.asarray(getattr(raster_settings, name), jnp.float64)
    assert np.any(jax.grad(total)(value)), f"{name} is ignored"
    check_grads(jax.jit(total), (value,), order=1, modes=["rev"], eps=1e-6, atol=1e-6, rtol=1e-6)


@pytest.mark.slow
def test_gradient_of_means2D_is_in_device_coordinates(backend, dtype):
    scene = scenes.random_scene(60, 44, 30, seed=7)
    inputs, size = scene.inputs(dtype), Size(scene.width, scene.height)
    inputs = {k: jnp.asarray(v) for k, v in inputs.items()}
    config = jgd.Config(near_plane=0.2, footprint="3sigma")
    raster_settings, arguments = to_rasterizer(inputs, size)

    def ours(offset):
        splats, camera = scenes.build(inputs, scene)
        out = jgd.render(splats, camera, config=config, means2d_offset=offset)
        return jnp.square(out.image).sum()

    def theirs(means2D):
        bg = jnp.zeros_like(raster_settings.bg)
        out = render(raster_settings._replace(bg=bg), arguments | {"means2D": means2D})
        return jnp.square(out["rendered_image"]).sum()

    pixels = np.asarray(jax.grad(ours)(inputs["means2d_offset"]))
    # The value is not used, whatever it is.
    value = jnp.full((scene.n, 3), jnp.nan, dtype)
    grad = jax.grad(theirs)(value)
    expected = pixels * np.array([[size.width / 2, size.height / 2]], dtype)
    close_l2(grad[:, :2], expected, bound("rasterizer reference", "gradient", dtype), "means2D")
    assert not np.any(grad[:, 2])
    same_bits(theirs(value), theirs(jnp.zeros_like(value)), "value")
