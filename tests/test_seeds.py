"""The interface of the seed rasterizers: their stored pictures and gradients, and what it adds."""

import dataclasses
import functools
import os
import pathlib
import subprocess
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
import scenes
from asserts import Size, close, close_l2, expect, image_cotangents, same_bits
from jax.test_util import check_grads
from tolerances import bound
from valid import raises

import jax_gsplat_depth as jgd
from jax_gsplat_depth import seeds

ARGUMENTS = ("means3D", "means2D", "opacities", "shs", "colors_precomp", "scales", "rotations")
ARGUMENTS += ("cov3D_precomp",)
OUTPUTS = ("rendered_image", "radii", "depth_map", "weight_map")
SETTINGS = ("tanfovx", "tanfovy", "bg", "scale_modifier", "viewmatrix", "projmatrix", "campos")
STORED = {"colors_precomp": "colors", "cov3D_precomp": "cov3D"}


def settings(**changes):
    """Settings of a camera at the origin that sees 40x24 pixels."""
    eye = np.eye(4, dtype=np.float32)
    fields = {
        "image_height": 24,
        "image_width": 40,
        "tanfovx": 0.5,
        "tanfovy": 0.3,
        "bg": np.zeros(3, np.float32),
        "scale_modifier": 1.0,
        "viewmatrix": eye,
        "projmatrix": projection(0.5, 0.3),
        "sh_degree": 1,
        "campos": np.zeros(3, np.float32),
        "prefiltered": False,
        "debug": False,
    }
    return jgd.GaussianRasterizationSettings(**fields | changes)


def projection(tanfovx, tanfovy, cx=0.5, cy=0.5):
    """Camera to clip coordinates, transposed; the principal point in units of the image size."""
    rows = [[1 / tanfovx, 0, 2 * cx - 1, 0], [0, 1 / tanfovy, 2 * cy - 1, 0]]
    return np.array([*rows, [0, 0, 1, -0.01], [0, 0, 1, 0]], np.float32).T


def render(raster_settings, arguments):
    """The outputs by name."""
    rasterizer = jgd.GaussianRasterizer(raster_settings=raster_settings)
    return dict(zip(OUTPUTS, rasterizer(**arguments), strict=True))


def gaussians(n=12, dtype=np.float32, **changes):
    """Some Gaussians in front of the camera of ``settings``."""
    rng = np.random.default_rng(3)
    z = rng.uniform(1, 3, n)
    quats = rng.normal(size=(n, 4))
    values = {
        "means3D": np.stack([rng.uniform(-0.4, 0.4, n) * z, rng.uniform(-0.25, 0.25, n) * z, z], 1),
        "means2D": np.zeros((n, 3)),
        "opacities": rng.uniform(0.3, 0.9, (n, 1)),
        "shs": rng.normal(0, 0.3, (n, 4, 3)),
        "scales": rng.uniform(0.05, 0.2, (n, 3)),
        "rotations": quats / np.linalg.norm(quats, axis=1, keepdims=True),
    }
    values = {k: v for k, v in (values | changes).items() if v is not None}
    return {k: jnp.asarray(np.asarray(v), dtype) for k, v in values.items()}


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
    """Values, radii and gradients of one file; what the seeds have wrong from its corrections."""
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
        assert error <= bound("seeds", quantity, "float32"), f"{case} {name}: error {error:.1e}"

    cotangents = {"rendered_image": data["dL_dcolor"], "depth_map": data["dL_ddepth"][0]}
    cotangents["weight_map"] = np.zeros_like(data["weight"][0])
    (grads,) = pullback({k: jnp.asarray(v) for k, v in cotangents.items()})
    limit = bound("seeds", "gradient", "float32")
    for name, actual in grads.items():
        key = f"grad_{STORED.get(name, name)}"
        if corrected and f"fix_{key}" not in data and name != "means2D":
            continue  # stored for the other colours only
        if corrected and name == "means2D":
            continue
        if convention == "e3nn-seed" and f"fix_{key}" in data:
            continue  # the seed mixes two polynomials
        expected = data.get(f"fix_{key}", data[key])
        close_l2(actual, expected, limit, f"{case} {key}")
    return out, grads


@pytest.mark.parametrize("case", GOLDEN)
def test_golden(backend, case, shared):
    check_golden(shared, case, GOLDEN[case])


@pytest.mark.parametrize("case", ["e3nn_sh1", "e3nn_sh3"])
def test_golden_with_the_polynomial_of_the_seed(backend, case, shared):
    check_golden(shared, case, "e3nn-seed")


def test_all_golden_files_are_tested(shared):
    assert {path.stem for path in (shared / "golden" / "seeds").glob("*.npz")} == set(GOLDEN)


# ------------------------------------------------------------------------ the stages, the reference


def to_seeds(inputs, size, **changes):
    """A call of the seeds' interface from inputs as made by ``Scene.inputs``; traceable."""
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


@functools.partial(jax.jit, static_argnums=(0, 1))
def seeds_vjp(size, convention, inputs, cotangents):
    """Outputs and gradients in the terms of ``render``, by way of the seeds' interface."""

    def run(inputs):
        call = to_seeds(inputs, size, sh_convention=convention)
        out = to_render(render(*call))
        return {k: out[k] for k in cotangents}, out

    _, pullback, out = jax.vjp(run, inputs, has_aux=True)
    return out, pullback(cotangents)[0]


@pytest.mark.parametrize("centre", [(0.5, 0.5), (0.62, 0.41)], ids=["central", "off-centre"])
@pytest.mark.parametrize(
    ("convention", "form"),
    [
        ("3dgs", {"color": "sh"}),
        ("e3nn-seed", {"color": "sh", "shape": "covars6"}),
        ("3dgs", {"color": "colors"}),
    ],
)
@pytest.mark.parametrize("outputs", [("weight",), ("image", "depth", "weight")], ids=len)
def test_against_the_reference(backend, dtype, convention, form, centre, outputs):
    """Every gradient, those of the camera's arrays together, and that of the weight alone."""
    scene = scenes.random_scene(60, 44, 30, seed=7, centre=centre, spread=0.9)
    inputs, size = scene.inputs(dtype, offset=False, **form), Size(scene.width, scene.height)
    static = reference.Settings(
        size.width, size.height, 0.2, footprint="3sigma", sh_convention=convention
    )
    cotangents = image_cotangents(inputs, size, seed=2)
    expected, wanted, used = expect(reference.render, inputs, cotangents, static, outputs)
    used = {k: jnp.asarray(v, dtype) for k, v in used.items()}
    out, grads = seeds_vjp(size, convention, {k: jnp.asarray(v) for k, v in inputs.items()}, used)
    np.testing.assert_array_equal(out["radii"], expected["radii"])
    for k in ("image", "depth", "weight"):
        limit = bound("seeds reference", "value", dtype)
        close(out[k], expected[k], limit, f"seeds {k}", ~expected["band"])
    for k, v in grads.items():
        if not wanted[k].any():
            assert not np.any(v), k
            continue
        close_l2(v, wanted[k], bound("seeds reference", "gradient", dtype), f"seeds grad {k}")


@pytest.mark.parametrize("name", SETTINGS)
def test_gradient_of_each_setting(backend, x64, name):
    """Finite differences, with wide Gaussians that no threshold is near to."""
    scene = scenes.smooth(bases=16)
    inputs = {k: jnp.asarray(v) for k, v in scene.inputs(np.float64, color="sh").items()}
    raster_settings, arguments = to_seeds(inputs, scene, scale_modifier=0.9)
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


def test_gradient_of_means2D_is_in_device_coordinates(backend, dtype):
    scene = scenes.random_scene(60, 44, 30, seed=7)
    inputs, size = scene.inputs(dtype), Size(scene.width, scene.height)
    inputs = {k: jnp.asarray(v) for k, v in inputs.items()}
    config = jgd.Config(near_plane=0.2, footprint="3sigma")
    raster_settings, arguments = to_seeds(inputs, size)

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
    close_l2(grad[:, :2], expected, bound("seeds reference", "gradient", dtype), "means2D")
    assert not np.any(grad[:, 2])
    same_bits(theirs(value), theirs(jnp.zeros_like(value)), "value")


# ----------------------------------------------------------------------- every parameter has effect


def differs(a, b, name="rendered_image"):
    """The two pictures are not the same."""
    return np.abs(np.asarray(a[name]) - np.asarray(b[name])).max() > 1e-3


def same(a, b):
    """All outputs agree to rounding."""
    np.testing.assert_array_equal(a["radii"], b["radii"])
    for name in OUTPUTS:
        np.testing.assert_allclose(a[name], b[name], rtol=1e-4, atol=2e-6, err_msg=name)


def test_scale_modifier_multiplies_the_scales(backend):
    x = gaussians()
    small = render(settings(scale_modifier=0.5), x)
    assert differs(small, render(settings(), x))
    same(small, render(settings(), x | {"scales": 0.5 * x["scales"]}))


def test_bg_is_seen_where_light_is_left(backend):
    x = gaussians()
    black, coloured = render(settings(), x), render(settings(bg=np.array([0.2, 0.5, 0.9], "f4")), x)
    rest = 1 - (black["weight_map"] - 1e-6)
    expected = black["rendered_image"] + np.array([0.2, 0.5, 0.9], "f4")[:, None, None] * rest[None]
    np.testing.assert_allclose(coloured["rendered_image"], expected, atol=1e-5)
    assert differs(coloured, black)


def test_cov3D_precomp_is_the_covariance(backend):
    x = gaussians()
    covariance = np.asarray(seeds._covariances(x["rotations"], x["scales"], 1.0))
    rotation = np.asarray(reference.rotation_matrix(x["rotations"]))
    full = rotation @ (np.asarray(x["scales"])[:, :, None] ** 2 * rotation.transpose(0, 2, 1))
    np.testing.assert_allclose(
        covariance, full[:, [0, 0, 0, 1, 1, 2], [0, 1, 2, 1, 2, 2]], atol=1e-7
    )
    given = gaussians(scales=None, rotations=None, cov3D_precomp=covariance)
    out = render(settings(), given)
    same(out, render(settings(), x))
    assert differs(render(settings(), given | {"cov3D_precomp": 2 * given["cov3D_precomp"]}), out)
    # scale_modifier is for scales.
    same(render(settings(scale_modifier=0.5), given), out)


def test_rotations_are_not_normalised(backend):
    """The polynomial of the rotation matrix, of quaternions as given."""
    x = gaussians()
    q = np.asarray(1.3 * x["rotations"], np.float64)
    w, a, b, c = q.T
    upper = np.array(
        [
            [1 - 2 * (b * b + c * c), 2 * (a * b - w * c), 2 * (a * c + w * b)],
            [2 * (a * b + w * c), 1 - 2 * (a * a + c * c), 2 * (b * c - w * a)],
            [2 * (a * c - w * b), 2 * (b * c + w * a), 1 - 2 * (a * a + b * b)],
        ]
    ).transpose(2, 0, 1)
    m = upper * np.asarray(x["scales"], np.float64)[:, None]
    covariance = (m @ m.transpose(0, 2, 1))[:, [0, 0, 0, 1, 1, 2], [0, 1, 2, 1, 2, 2]]
    given = gaussians(scales=None, rotations=None, cov3D_precomp=covariance)
    out = render(settings(), x | {"rotations": 1.3 * x["rotations"]})
    same(out, render(settings(), given))
    assert differs(out, render(settings(), x))


def test_colors_precomp_are_the_colours(backend):
    x = gaussians()
    camera = jgd.Camera(np.eye(4), np.eye(3), width=1, height=1)
    colors = jgd.shade(jgd.Gaussians(x["means3D"], sh=x["shs"]), camera)
    given = gaussians(shs=None, colors_precomp=colors)
    out = render(settings(), given)
    same(out, render(settings(), x))
    assert differs(render(settings(), given | {"colors_precomp": 1 - colors}), out)
    # Any number of channels; sh_degree is for shs.
    five = given | {"colors_precomp": jnp.concatenate([colors, colors[:, :2]], 1)}
    image = render(settings(bg=np.zeros(5, "f4"), sh_degree=4), five)["rendered_image"]
    same_bits(image[:3], out["rendered_image"], "image")
    same_bits(image[3:], out["rendered_image"][:2], "image")


def test_campos_is_where_the_colours_are_seen_from(backend):
    x = gaussians()
    campos = np.array([1, 2, -3], np.float32)
    viewmat = np.eye(4, dtype=np.float32)
    viewmat[:3, 3] = -campos
    camera = jgd.Camera(viewmat, np.eye(3), width=1, height=1)
    colors = jgd.shade(jgd.Gaussians(x["means3D"], sh=x["shs"]), camera)
    out = render(settings(campos=campos), x)
    same(out, render(settings(), gaussians(shs=None, colors_precomp=colors)))
    assert differs(out, render(settings(), x))


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_sh_degree_below_the_stored_one(backend, degree):
    shs = np.random.default_rng(0).normal(0, 0.3, (12, 25, 3))
    out = render(settings(sh_degree=degree), gaussians(shs=shs))
    fewer = render(settings(sh_degree=degree), gaussians(shs=shs[:, : (degree + 1) ** 2]))
    same_bits(out["rendered_image"], fewer["rendered_image"], "image")
    assert differs(out, render(settings(sh_degree=4), gaussians(shs=shs)))


def test_sh_convention(backend):
    shs = np.random.default_rng(0).normal(0, 0.3, (12, 16, 3))
    conventions = ("3dgs", "e3nn", "e3nn-seed")
    a, b, c = (
        render(settings(sh_degree=3, sh_convention=name), gaussians(shs=shs))
        for name in conventions
    )
    assert differs(a, b) and differs(b, c) and differs(a, c)
    shs[:, 14] = 0
    b, c = (
        render(settings(sh_degree=3, sh_convention=name), gaussians(shs=shs))
        for name in conventions[1:]
    )
    same_bits(b["rendered_image"], c["rendered_image"], "without coefficient 14")


def test_projmatrix_moves_and_tanfov_shapes(backend):
    """The splat stays where projmatrix has it, and widens with the focal length."""
    covariance = np.array([[0.02, 0, 0, 0.02, 0, 0.02]], np.float32)
    x = gaussians(1, scales=None, rotations=None, cov3D_precomp=covariance, means3D=[[0, 0, 2.0]])
    spread, centres = [], []
    for changes in (
        {},
        {"tanfovx": 0.25},
        {"tanfovy": 0.15},
        {"projmatrix": projection(0.5, 0.3, 0.7, 0.4)},
    ):
        w = np.asarray(render(settings(**changes), x)["weight_map"]) - 1e-6
        columns, rows = np.arange(40) + 0.5, np.arange(24) + 0.5
        centre = (w.sum(0) @ columns / w.sum(), w.sum(1) @ rows / w.sum())
        centres.append(centre)
        spread.append((w.sum(0) @ (columns - centre[0]) ** 2, w.sum(1) @ (rows - centre[1]) ** 2))
        spread[-1] = np.array(spread[-1]) / w.sum()
    np.testing.assert_allclose(centres[:3], [[20, 12]] * 3, atol=1e-3)
    np.testing.assert_allclose(centres[3], [28, 9.6], atol=0.1)
    assert spread[1][0] > 2 * spread[0][0] and spread[2][1] > 1.5 * spread[0][1]


def test_viewmatrix_gives_the_depth(backend):
    x = gaussians(1, means3D=[[0, 0, 2.0]])
    further = np.eye(4, dtype=np.float32)
    further[3, 2] = 3
    for viewmatrix, z in ((np.eye(4, dtype=np.float32), 2), (further, 5)):
        out = render(settings(viewmatrix=viewmatrix), x)
        weight, depth = out["weight_map"] - 1e-6, out["depth_map"]
        seen = weight > 0.1
        np.testing.assert_allclose(depth[seen], z * (weight / (weight + 1e-6))[seen], rtol=1e-5)
    assert out["rendered_image"].shape == (3, 24, 40)


def test_far_from_the_image_of_tanfov_but_in_that_of_projmatrix(backend):
    """Culling is by where projmatrix puts the centre."""
    x = gaussians(1, means3D=[[5.0, 0, 1.0]])
    assert render(settings(), x)["radii"][0] == 0
    moved = render(settings(projmatrix=projection(0.5, 0.3, 0.5 - 5.0)), x)
    assert moved["radii"][0] > 0 and np.max(moved["weight_map"]) > 0.05


# ---------------------------------------------------------------------------------- transformations


def cameras():
    """Settings of three cameras, the arrays stacked."""
    alone = []
    for c in range(3):
        viewmatrix = np.eye(4, dtype=np.float32)
        viewmatrix[3, :3] = [0.1 * c, -0.05 * c, 0.2 * c]
        tanfovx, tanfovy = 0.5 + 0.05 * c, 0.3 + 0.02 * c
        one = settings(
            tanfovx=tanfovx,
            tanfovy=tanfovy,
            viewmatrix=viewmatrix,
            projmatrix=viewmatrix @ projection(tanfovx, tanfovy, 0.5 + 0.05 * c),
            campos=-viewmatrix[3, :3],
            bg=np.full(3, 0.1 * c, np.float32),
            scale_modifier=1 + 0.1 * c,
        )
        alone.append(jax.tree.map(lambda v: jnp.asarray(v, jnp.float32), one))
    return alone, jax.tree.map(lambda *v: jnp.stack(v), *alone)


def test_vmap_over_settings(backend):
    alone, stacked = cameras()
    x = gaussians()

    def loss(raster_settings, x):
        out = render(raster_settings, x)
        total = sum(jnp.sum(jnp.square(out[k])) for k in OUTPUTS if k != "radii")
        return total, out

    run = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
    mapped = jax.jit(jax.vmap(run, in_axes=(0, None)))(stacked, x)
    for c, one in enumerate(alone):
        expected = jax.jit(run)(one, x)
        for a, e in zip(jax.tree.leaves(mapped), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a[c], e, rtol=2e-4, atol=2e-5)


def test_settings_are_traced_but_for_the_static_ones():
    traces = []

    @jax.jit
    def run(raster_settings, x):
        traces.append(raster_settings)
        return render(raster_settings, x)

    x = gaussians()
    first = run(settings(), x)
    run(settings(tanfovx=0.6, scale_modifier=2.0, bg=np.ones(3, np.float32)), x)
    assert len(traces) == 1
    run(settings(sh_degree=0), x)
    assert len(traces) == 2
    # A whole rasterizer is a pytree as well.
    again = jax.jit(lambda rasterizer, x: rasterizer(**x))(jgd.GaussianRasterizer(settings()), x)
    same_bits(again[0], first["rendered_image"], "image")


def test_fields_and_copies():
    fields = [field.name for field in dataclasses.fields(jgd.GaussianRasterizationSettings)]
    names = ["image_height", "image_width", "tanfovx", "tanfovy", "bg", "scale_modifier"]
    names += ["viewmatrix", "projmatrix", "sh_degree", "campos", "prefiltered", "debug"]
    assert fields == [*names, "sh_convention"]
    by_position = jgd.GaussianRasterizationSettings(*(getattr(settings(), k) for k in names))
    assert by_position.sh_convention == "3dgs"
    changed = by_position._replace(sh_degree=3, sh_convention="e3nn")
    assert changed.sh_degree == 3 and by_position.sh_degree == 1


# ------------------------------------------------------------------------------------ bad and empty


def test_no_gaussians(backend, dtype):
    bg = np.array([0.2, 0.4, 0.6])
    x = {k: v[:0] for k, v in gaussians(dtype=dtype).items()}
    out, pullback = jax.vjp(lambda x: render(settings(bg=bg), x), x)
    np.testing.assert_allclose(
        out["rendered_image"], np.broadcast_to(bg[:, None, None], (3, 24, 40)), rtol=1e-6
    )
    assert not np.any(out["depth_map"]) and out["radii"].shape == (0,)
    np.testing.assert_allclose(out["weight_map"], 1e-6, rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["means3D", "opacities", "shs", "scales", "rotations"])
def test_one_bad_gaussian_is_not_drawn(backend, name, bad):
    x = gaussians()
    rest = {k: v[1:] for k, v in x.items()}
    x[name] = x[name].at[(0,) * x[name].ndim].set(bad)

    def total(x):
        out = render(settings(), x)
        return sum(jnp.sum(jnp.square(out[k])) for k in OUTPUTS if k != "radii")

    grads, expected = jax.grad(total)(x), jax.grad(total)(rest)
    for k, v in grads.items():
        assert not np.any(v[0]), k
        np.testing.assert_allclose(v[1:], expected[k], rtol=1e-5, atol=1e-6)


def test_behind_the_camera_and_in_its_plane(backend):
    """Clip coordinates with w of 0 and less give no NaN."""
    means = [[0, 0, 2.0], [0, 0, 0], [0.1, 0, -1e-7], [0, 0, -3], [1, 1, 0.2]]
    x = gaussians(5, means3D=means)

    def total(x, projmatrix):
        out = render(settings(projmatrix=projmatrix), x)
        return sum(jnp.sum(jnp.square(out[k])) for k in OUTPUTS if k != "radii")

    grads, v_projmatrix = jax.grad(total, argnums=(0, 1))(x, jnp.asarray(projection(0.5, 0.3)))
    assert np.isfinite(v_projmatrix).all() and np.any(v_projmatrix)
    for k, v in grads.items():
        assert np.isfinite(v).all() and not np.any(v[1:]), k
    for bad in (np.nan, np.zeros((4, 4), np.float32)):
        projmatrix = jnp.asarray(projection(0.5, 0.3) * bad)
        grads, v_projmatrix = jax.grad(total, argnums=(0, 1))(x, projmatrix)
        assert all(np.isfinite(v).all() for v in (*grads.values(), v_projmatrix))


def test_markVisible(backend):
    viewmatrix = np.eye(4, dtype=np.float32)
    viewmatrix[3] = [0, 0, 1, 1]
    rasterizer = jgd.GaussianRasterizer(settings(viewmatrix=viewmatrix))
    z = [0.0, -0.7, -0.8, -0.9, np.nan, 5.0]
    positions = np.stack([100 * np.ones(6), np.zeros(6), z], 1).astype(np.float32)
    for visible in (rasterizer.markVisible(positions), jax.jit(rasterizer.markVisible)(positions)):
        assert visible.dtype == bool
        np.testing.assert_array_equal(visible, [True, True, False, False, False, True])


NEITHER = "expected either shs or colors_precomp, got neither"
BOTH = "expected either shs or colors_precomp, got both"
PAIR = "expected either scales and rotations, or cov3D_precomp, got "


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"shs": None}, ValueError, NEITHER),
        ({"colors_precomp": np.ones((12, 3))}, ValueError, BOTH),
        ({"scales": None}, ValueError, PAIR + "rotations"),
        ({"rotations": None}, ValueError, PAIR + "scales"),
        ({"scales": None, "rotations": None}, ValueError, PAIR + "none of them"),
        (
            {"cov3D_precomp": np.ones((12, 6))},
            ValueError,
            PAIR + "scales and rotations and cov3D_precomp",
        ),
        (
            {"cov3D_precomp": np.ones((12, 6)), "scales": None},
            ValueError,
            PAIR + "rotations and cov3D_precomp",
        ),
        (
            {"means3D": np.ones((11, 3))},
            ValueError,
            "means2D has shape (12, 3), expected (N, 3) with N = 11 (from means3D)",
        ),
        ({"means3D": np.ones(12)}, ValueError, "means3D has shape (12,), expected (N, 3)"),
        ({"means3D": np.ones((12, 4))}, ValueError, "means3D has shape (12, 4), expected (N, 3)"),
        ({"means2D": np.ones((12, 2))}, ValueError, "means2D has shape (12, 2), expected (N, 3)"),
        (
            {"opacities": np.ones((12, 2))},
            ValueError,
            "opacities has shape (12, 2), expected (N, 1) or (N,)",
        ),
        ({"shs": np.ones((12, 5, 3))}, ValueError, "shs has shape (12, 5, 3), expected (N, B, 3)"),
        ({"rotations": np.ones((12, 3))}, ValueError, "rotations has shape (12, 3), expected"),
    ],
    ids=str,
)
def test_errors_of_arguments(changes, error, message):
    arguments = gaussians(**changes)
    raises(error, message, lambda **x: jgd.GaussianRasterizer(settings())(**x), **arguments)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"image_width": 0}, ValueError, "raster_settings.image_width is 0 pixels"),
        ({"image_height": 2.0}, TypeError, "raster_settings.image_height has type float"),
        ({"sh_degree": 2}, ValueError, "raster_settings.sh_degree is 2 and needs B = 9"),
        ({"sh_degree": 1.0}, TypeError, "raster_settings.sh_degree has type float"),
        ({"bg": np.ones(4)}, ValueError, "raster_settings.bg has shape (4,), expected (3,)"),
        (
            {"tanfovx": np.ones(1)},
            ValueError,
            "raster_settings.tanfovx has shape (1,), expected ()",
        ),
        (
            {"viewmatrix": np.ones((3, 4))},
            ValueError,
            "raster_settings.viewmatrix has shape (3, 4)",
        ),
        ({"campos": None}, ValueError, "raster_settings.campos is missing"),
        ({"projmatrix": jnp.ones((4, 4), jnp.int32)}, TypeError, "raster_settings.projmatrix has"),
        ({"sh_convention": "sh"}, ValueError, "sh_convention must be '3dgs', 'e3nn' or"),
        ({"debug": 1}, TypeError, "raster_settings.debug has type int, expected bool"),
        ({"prefiltered": None}, TypeError, "raster_settings.prefiltered has type NoneType"),
    ],
    ids=str,
)
def test_errors_of_settings(changes, error, message):
    arguments = gaussians()
    rasterizer = jgd.GaussianRasterizer(settings(**changes))
    raises(error, message, lambda **x: rasterizer(**x), **arguments)


def test_missing_arguments():
    for name in ("means3D", "opacities"):
        with pytest.raises(ValueError, match=f"{name} is missing"):
            jgd.GaussianRasterizer(settings())(**gaussians() | {name: None})


def test_settings_of_another_type():
    with pytest.raises(TypeError, match="raster_settings has type dict, expected GaussianRast"):
        jgd.GaussianRasterizer({})(**gaussians())
    with pytest.raises(ValueError, match="positions has shape"):
        jgd.GaussianRasterizer(settings()).markVisible(np.ones((3, 4)))


# ------------------------------------------------------------------------------- debug, prefiltered


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty current folder for the files, and room for them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(seeds._recorder, "_kept", [])
    yield tmp_path
    jax.effects_barrier()
    assert not seeds._recorder._running


def saved(folder):
    """The one file."""
    (path,) = folder.iterdir()
    return path


def modes(f):
    """The function as it is, compiled, and mapped over one example."""
    mapped = jax.vmap(f)

    def squeezed(*args):
        added = jax.tree.map(lambda v: jnp.asarray(v)[None], args)
        return jax.tree.map(lambda v: v[0], mapped(*added))

    return {"eager": f, "jit": jax.jit(f), "vmap": squeezed}


@pytest.mark.parametrize("mode", ["eager", "jit", "vmap"])
def test_debug_of_a_result_that_is_not_finite(backend, folder, mode):
    x = gaussians()
    bg = np.array([0.1, np.inf, 0.2], np.float32)
    raster_settings = settings(debug=True, bg=bg, sh_degree=np.int64(1), image_width=np.int32(40))
    message = r"forward pass.*: rendered_image\[1, 0, 0\] and \d+ more of 2880.*bg\[1\] and 0 more"
    with pytest.warns(RuntimeWarning, match=message) as caught:
        out = modes(lambda x: render(raster_settings, x))[mode](x)
        jax.block_until_ready(out)
        jax.effects_barrier()
    path = saved(folder)
    assert str(path) in str(caught[0].message)
    rasterizer, arguments, cotangents = seeds.load_snapshot(path)
    assert arguments.keys() == x.keys() and not cotangents
    assert not rasterizer.raster_settings.debug
    again = jax.jit(lambda x: rasterizer(**x))(arguments)
    expected = jax.jit(lambda x: render(raster_settings._replace(debug=False), x))(x)
    for name, a in zip(OUTPUTS, again, strict=True):
        same_bits(a, expected[name], name)
        np.testing.assert_allclose(out[name], a, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mode", ["eager", "jit", "vmap"])
def test_debug_of_a_gradient_that_is_not_finite(backend, folder, mode):
    x = gaussians()
    raster_settings = settings(debug=True)

    def loss(x):
        image = render(raster_settings, x)["rendered_image"]
        # The slope of the root is infinite where the image is black.
        return jnp.sum(jnp.sqrt(image))

    with pytest.warns(RuntimeWarning, match=r"backward pass.*cotangent of rendered_image\[0, "):
        grads = modes(jax.grad(loss))[mode](x)
        jax.block_until_ready(grads)
        jax.effects_barrier()
    rasterizer, arguments, cotangents = seeds.load_snapshot(saved(folder))
    assert set(cotangents) == set(OUTPUTS) - {"radii"}

    def run(x):
        out = dict(zip(OUTPUTS, rasterizer(**x), strict=True))
        return {k: out[k] for k in cotangents}

    again = jax.vjp(run, arguments)[1](cotangents)[0]
    for k, v in grads.items():
        np.testing.assert_allclose(again[k], v, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mode", ["eager", "jit", "vmap"])
def test_debug_changes_nothing_and_leaves_nothing(backend, folder, mode):
    x = gaussians()

    def run(raster_settings, x):
        out = render(raster_settings, x)
        return sum(jnp.sum(jnp.square(out[k])) for k in OUTPUTS if k != "radii"), out

    with warnings.catch_warnings(action="error"):
        results = [
            modes(jax.value_and_grad(functools.partial(run, settings(debug=debug)), has_aux=True))[
                mode
            ](x)
            for debug in (False, True)
        ]
        jax.block_until_ready(results)
        jax.effects_barrier()
    for a, e in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-4, atol=1e-4)
    assert not list(folder.iterdir())


def test_debug_of_a_bad_input_that_is_only_culled(backend, folder):
    x = gaussians()
    x["means3D"] = x["means3D"].at[5, 1].set(jnp.nan)
    with pytest.warns(RuntimeWarning, match=r"forward pass.*: means3D\[5, 1\] and 0 more of 36"):
        jax.block_until_ready(render(settings(debug=True), x))
        jax.effects_barrier()
    assert saved(folder)


@pytest.mark.parametrize("mode", ["eager", "jit"])
def test_debug_of_a_call_that_fails(folder, monkeypatch, capsys, mode):
    def fail(options, x):
        def raise_error(_):
            raise RuntimeError("the device is gone")

        out = original(options, x)
        image = jax.pure_callback(raise_error, out[0], out[0])
        return image, *out[1:]

    original = seeds._rasterize
    monkeypatch.setattr(seeds, "_rasterize", fail)
    x = gaussians()
    with pytest.raises(Exception, match="the device is gone") as caught:
        jax.block_until_ready(modes(lambda x: render(settings(debug=True), x))[mode](x))
    path = saved(folder)
    if mode == "eager":
        assert str(path) in " ".join(caught.value.__notes__)
    seeds._recorder._report_unfinished()
    assert f"did not finish; its inputs are in {path}" in capsys.readouterr().err
    seeds._recorder._running.clear()
    assert seeds.load_snapshot(path).arguments.keys() == x.keys()


def test_debug_does_not_fill_the_disk(folder, monkeypatch):
    monkeypatch.setattr(seeds._recorder, "MAX_KEPT", 2)
    raster_settings = settings(debug=True, bg=np.full(3, np.nan, np.float32))
    run = jax.jit(lambda x: render(raster_settings, x))
    for i in range(4):
        message = "the inputs are in" if i < 2 else "nothing saved, this process has saved 2 files"
        with pytest.warns(RuntimeWarning, match=message):
            jax.block_until_ready(run(gaussians()))
            jax.effects_barrier()
    assert len(list(folder.iterdir())) == 2


ONE_CORE = """
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import jax
from test_seeds import gaussians, render, settings

x = gaussians(5000)
grad = jax.grad(lambda x: render(settings(debug=True), x)["rendered_image"].sum())
for f in (grad, jax.jit(grad)):
    jax.block_until_ready(f(x))
jax.effects_barrier()
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cannot choose a core")
def test_debug_does_not_hang_with_one_core(tmp_path):
    """A callback that waits for an array of more than 100 kB does."""
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    environment |= {"PYTHONPATH": str(pathlib.Path(__file__).parent)}
    done = subprocess.run(
        [sys.executable, "-c", ONE_CORE],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("mode", ["eager", "jit", "vmap"])
def test_prefiltered(backend, folder, mode):
    x = gaussians()
    run = modes(lambda x: render(settings(prefiltered=True), x))[mode]
    with warnings.catch_warnings(action="error"):
        jax.block_until_ready(run(x))
        jax.effects_barrier()
    assert not list(folder.iterdir())
    x["means3D"] = x["means3D"].at[3, 2].set(-1.0).at[7, 2].set(0.2)
    message = r"prefiltered is True, but 2 of 12 points.*means3D\[3\].*the inputs are in"
    with pytest.warns(RuntimeWarning, match=message):
        out = jax.block_until_ready(run(x))
        jax.effects_barrier()
    rasterizer, arguments, _ = seeds.load_snapshot(saved(folder))
    assert not rasterizer.raster_settings.prefiltered
    again = rasterizer(**arguments)
    np.testing.assert_allclose(again[0], out["rendered_image"], rtol=1e-5, atol=1e-6)
    grads = jax.grad(lambda x: run(x)["rendered_image"].sum())
    with pytest.warns(RuntimeWarning, match="prefiltered is True"):
        assert np.any(jax.block_until_ready(grads(x)["means3D"]))
        jax.effects_barrier()
    assert pathlib.Path.cwd() == folder
