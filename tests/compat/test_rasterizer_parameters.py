"""Tests every parameter, the transformations and bad input of the original interface."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import reference
from helpers.asserts import same_bits
from helpers.rasterizer_inputs import OUTPUTS, gaussians, projection, render, settings
from helpers.valid import raises

import jax_gsplat_depth as jgd
from jax_gsplat_depth.compat import _rasterizer

# float64 is slow to compile: by default other files cover it.
pytestmark = pytest.mark.quick(dtype=["float32"])

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
    covariance = np.asarray(_rasterizer._covariances(x["rotations"], x["scales"], 1.0))
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


@pytest.mark.quick(degree=[1, 3])
@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_sh_degree_below_the_stored_one(backend, degree):
    shs = np.random.default_rng(0).normal(0, 0.3, (12, 25, 3))
    out = render(settings(sh_degree=degree), gaussians(shs=shs))
    fewer = render(settings(sh_degree=degree), gaussians(shs=shs[:, : (degree + 1) ** 2]))
    same_bits(out["rendered_image"], fewer["rendered_image"], "image")
    assert differs(out, render(settings(sh_degree=4), gaussians(shs=shs)))


def test_sh_convention(backend):
    shs = np.random.default_rng(0).normal(0, 0.3, (12, 16, 3))
    conventions = ("3dgs", "e3nn", "e3nn-legacy")
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


@pytest.mark.quick(every_backend=["cpu"])
def test_vmap_over_settings(every_backend):
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


def test_no_gaussians(every_backend, dtype):
    bg = np.array([0.2, 0.4, 0.6])
    x = {k: v[:0] for k, v in gaussians(dtype=dtype).items()}
    out, pullback = jax.vjp(lambda x: render(settings(bg=bg), x), x)
    np.testing.assert_allclose(
        out["rendered_image"], np.broadcast_to(bg[:, None, None], (3, 24, 40)), rtol=1e-6
    )
    assert not np.any(out["depth_map"]) and out["radii"].shape == (0,)
    np.testing.assert_allclose(out["weight_map"], 1e-6, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.quick(name=["opacities"], bad=[np.nan])
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


@pytest.mark.slow
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
