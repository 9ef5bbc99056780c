"""Tests the reference itself against closed forms, worked examples and finite differences.

It also agrees with the golden files, see ``test_golden.py``.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import reference as ref
from helpers import scenes

OUTPUTS = ("image", "depth", "weight")


def static(scene, **options):
    return ref.Settings(scene.width, scene.height, **options)


def test_harmonics_of_degree_3_are_those_of_3dgs(x64):
    d = np.random.default_rng(0).normal(size=(20, 3))
    d /= np.linalg.norm(d, axis=1, keepdims=True)
    x, y, z = d.T
    expected = [
        0.28209479177387814 + 0 * x,
        *(0.4886025119029199 * v for v in (-y, z, -x)),
        *(1.0925484305920792 * v for v in (x * y, -y * z)),
        0.31539156525252005 * (2 * z * z - x * x - y * y),
        -1.0925484305920792 * x * z,
        0.5462742152960396 * (x * x - y * y),
        -0.5900435899266435 * y * (3 * x * x - y * y),
        2.890611442640554 * x * y * z,
        -0.4570457994644658 * y * (4 * z * z - x * x - y * y),
        0.3731763325901154 * z * (2 * z * z - 3 * x * x - 3 * y * y),
        -0.4570457994644658 * x * (4 * z * z - x * x - y * y),
        1.445305721320277 * z * (x * x - y * y),
        -0.5900435899266435 * x * (x * x - 3 * y * y),
    ]
    np.testing.assert_allclose(ref.sh_basis(jnp.asarray(d), 3), np.stack(expected, 1), atol=1e-14)


def test_harmonics_of_degree_4_are_orthonormal(x64):
    z, weights = np.polynomial.legendre.leggauss(8)
    phi = np.arange(16) * 2 * np.pi / 16
    zz, pp = (a.ravel() for a in np.meshgrid(z, phi, indexing="ij"))
    sin = np.sqrt(1 - zz**2)
    d = np.stack([sin * np.cos(pp), sin * np.sin(pp), zz], 1)
    basis = np.asarray(ref.sh_basis(jnp.asarray(d), 4))
    gram = basis.T @ (basis * np.repeat(weights * 2 * np.pi / 16, 16)[:, None])
    np.testing.assert_allclose(gram, np.eye(25), atol=1e-13)


def test_e3nn_convention_is_e3nn_at_minus_x_y_minus_z(x64):
    d = np.random.default_rng(1).normal(size=(20, 3))
    d /= np.linalg.norm(d, axis=1, keepdims=True)
    x, y, z = d.T * [[-1], [1], [-1]]
    # e3nn's polynomials of degree 1 and 2, "norm" normalisation, polar axis y.
    one = np.stack([x, y, z], 1)
    two = [x * z, x * y, (y * y - (x * x + z * z) / 2) / np.sqrt(3), y * z, (z * z - x * x) / 2]
    actual = ref.sh_basis(jnp.asarray(d), 2, "e3nn")
    np.testing.assert_allclose(actual[:, 1:4], np.sqrt(3 / 4 / np.pi) * one, atol=1e-14)
    two = np.sqrt(15 / 4 / np.pi) * np.stack(two, 1)
    np.testing.assert_allclose(actual[:, 4:], two, atol=1e-14)


def test_one_gaussian_has_its_closed_form():
    scene = scenes.single(u=10.3, v=9.1, sigma_px=2.0, opacity=0.8)
    out = ref.evaluate(ref.render, scene.inputs(np.float64), static(scene))
    row, col = np.mgrid[:20, :20] + 0.5
    # Seen off the axis, the covariance is J J^T s^2 with J = f/z [[1, 0, -x/z], [0, 1, -y/z]].
    x, y = (10.3 - 10) / 32, (9.1 - 10) / 32
    cov = scene.scales[0, 0] ** 2 * 64 * np.array([[1 + x * x, x * y], [x * y, 1 + y * y]])
    d = np.stack([col - 10.3, row - 9.1], -1)
    inverse = np.linalg.inv(cov + 0.3 * np.eye(2))
    alpha = scene.opacities[0] * np.exp(-0.5 * np.einsum("hwi,ij,hwj->hw", d, inverse, d))
    alpha[alpha < 1 / 255] = 0
    np.testing.assert_allclose(out["weight"], alpha, atol=1e-6)
    np.testing.assert_allclose(out["depth"], np.where(alpha > 0, scene.means[0, 2], 0), rtol=1e-12)
    image = alpha[..., None] * scene.colors[0] + (1 - alpha[..., None]) * scene.background
    np.testing.assert_allclose(out["image"], image, atol=1e-6)
    assert out["radii"] == np.ceil(3 * np.sqrt(np.linalg.eigvalsh(cov).max() + 0.3))


def blend_at_centre(opacities, depths):
    """Weights of 1-channel Gaussians that all sit on the one pixel's centre."""
    n = len(opacities)
    inputs = {
        "means2d": np.full((n, 2), 0.5),
        "depths": np.array(depths, float),
        "conics": np.tile([1.0, 0, 1], (n, 1)),
        "splat_opacities": np.array(opacities, float),
        "radii": np.full(n, 3, np.int32),
        "colors": np.eye(n),
        "background": np.zeros(n),
    }
    return ref.evaluate(ref.blend_stage, inputs, ref.Settings(1, 1))


@pytest.mark.parametrize(
    ("opacities", "depths", "weights"),
    [
        ([0.5, 0.25], [1, 2], [0.5, 0.125]),
        ([0.5, 0.25], [2, 1], [0.375, 0.25]),
        ([0.5, 0.25], [1, 1], [0.5, 0.125]),  # tie: the lower index is in front
        ([0.0039, 0.5], [1, 2], [0, 0.5]),  # below 1/255
        ([0.00393, 0.5], [1, 2], [0.00393, 0.498035]),
        ([7.0, 0.5], [1, 2], [0.99, 0.005]),  # cap
        ([1.0, 0.9899, 0.5], [1, 2, 3], [0.99, 0.009899, 0]),  # T = 1.01e-4 goes on, 5e-5 ends
        ([0.99, 0.5, 0.99, 0.1], [1, 2, 3, 4], [0.99, 0.005, 0, 0]),  # 0.1 is behind the end
    ],
)
def test_blending_of_a_pixel(opacities, depths, weights):
    out = blend_at_centre(opacities, depths)
    np.testing.assert_allclose(out["image"][0, 0], weights, atol=1e-12)
    np.testing.assert_allclose(out["weight"][0, 0], sum(weights), atol=1e-12)
    depth = np.dot(weights, depths) / sum(weights)
    np.testing.assert_allclose(out["depth"][0, 0], depth, rtol=1e-12)


@pytest.mark.slow
def test_nothing_drawn_gives_background_and_zeros():
    for scene in (scenes.empty(), scenes.dense().replace(opacities=np.zeros(120))):
        inputs = scene.inputs(np.float64)
        out = ref.evaluate(ref.render, inputs, static(scene))
        assert (out["image"] == scene.background).all()
        assert not out["depth"].any() and not out["weight"].any() and not out["radii"].any()
        cotangents = {k: np.ones_like(out[k]) for k in OUTPUTS}
        grads = ref.gradients(ref.render, inputs, cotangents, static(scene))
        pixels = scene.width * scene.height
        np.testing.assert_array_equal(grads.pop("background"), np.full(3, pixels))
        assert not any(g.any() for g in grads.values())


@pytest.mark.quick(name=["means_nan", "quats_zero", "scales_inf", "sh_nan"])
@pytest.mark.parametrize("name", scenes.POISONS)
def test_poisoned_gaussians_are_culled_with_zero_gradient(name):
    scene = scenes.poison(scenes.smooth(), [2, 5], name)
    color = "sh" if name.startswith("sh") else "colors"
    inputs = scene.inputs(np.float64, color=color)
    out = ref.evaluate(ref.render, inputs, static(scene))
    assert not out["radii"][[2, 5]].any() and out["radii"][[0, 1, 3, 4, 6, 7]].all()
    cotangents = {k: np.ones_like(out[k]) for k in OUTPUTS}
    grads = ref.gradients(ref.render, inputs, cotangents, static(scene))
    for k, g in grads.items():
        assert np.isfinite(g).all()
        if g.shape[:1] == (8,):
            assert not g[[2, 5]].any(), k


@pytest.mark.slow
@pytest.mark.parametrize("footprint", ["exact", "3sigma"])
@pytest.mark.parametrize("form", [("colors", "quats"), ("sh", "covars6"), ("colors", "covars33")])
def test_gradients_are_finite_differences(form, footprint):
    scene = scenes.boundary()
    inputs = scene.inputs(np.float64, color=form[0], shape=form[1])
    s = static(scene, antialiased=True, footprint=footprint)
    out = ref.evaluate(ref.render, inputs, s)
    rng = np.random.default_rng(0)
    cotangents = {k: rng.normal(size=out[k].shape) for k in OUTPUTS}
    for v in cotangents.values():
        v[out["band"]] = 0
    grads = ref.gradients(ref.render, inputs, cotangents, s)

    def loss(x):
        y = ref.evaluate(ref.render, x, s)
        return sum((y[k] * v).sum() for k, v in cotangents.items())

    for name, g in grads.items():
        direction = rng.normal(size=g.shape) * (np.abs(inputs[name]).mean() or 1)
        h = 1e-6
        ends = [loss({**inputs, name: inputs[name] + sign * h * direction}) for sign in (1, -1)]
        np.testing.assert_allclose(
            (ends[0] - ends[1]) / (2 * h), (g * direction).sum(), rtol=2e-6, atol=1e-6, err_msg=name
        )


def test_three_sigma_rule_of_the_tiles(x64):
    s = ref.Settings(64, 48, footprint="3sigma")
    # Pixel centres at whole numbers: u = 20.5 is pixel 20, so radius 4 reaches pixels 16 to 24 and
    # radius 5 pixel 15, in the tile to the left; the right side needs a full pixel.
    u = np.array([[20.5, 20.5], [20.5, 20.5], [28.4, 20.5], [28.5, 20.5], [-30.0, 20.5]])
    radii = np.array([4.0, 5.0, 5.0, 5.0, 6.0])
    first, last = ref.tile_rectangle(jnp.asarray(u), jnp.asarray(radii), s)
    np.testing.assert_array_equal(first[:, 0], [1, 0, 1, 1, 0])
    np.testing.assert_array_equal(last[:, 0], [2, 2, 2, 3, 0])


@pytest.mark.slow
def test_absgrad_sums_absolute_values_of_pixels():
    scene = scenes.smooth()
    inputs, s = scene.inputs(np.float64), static(scene)
    out = ref.evaluate(ref.render, inputs, s)
    cotangents = {k: np.random.default_rng(3).normal(size=out[k].shape) for k in OUTPUTS}
    expected = np.zeros((8, 2))
    for row in range(0, scene.height):
        part = {k: np.zeros_like(v) for k, v in cotangents.items()}
        for col in range(0, scene.width):
            for k, v in cotangents.items():
                part[k][...] = 0
                part[k][row, col] = v[row, col]
            expected += np.abs(ref.gradients(ref.render, inputs, part, s)["means2d_offset"])
    np.testing.assert_allclose(ref.absgrad(ref.render, inputs, cotangents, s), expected, rtol=1e-12)


def test_band_marks_the_pixels_next_to_a_branch():
    assert not blend_at_centre([0.5, 0.25], [1, 2])["band"].any()
    assert blend_at_centre([1.001 / 255, 0.25], [1, 2])["band"].all()
    assert blend_at_centre([0.99004, 0.25], [1, 2])["band"].all()
    assert blend_at_centre([0.99, 0.9901, 0.5], [1, 2, 3])["band"].all()


def test_a_camera_axis_is_a_loop_and_pixels_are_a_subset():
    scene = scenes.dense(cameras=3)
    inputs, s = scene.inputs(np.float64), static(scene)
    out = ref.evaluate(ref.render, inputs, s)
    pixels = np.array([[3, 5], [40, 17], [47, 47]])
    some = ref.evaluate(ref.render, inputs, s, pixels)
    for c in range(3):
        one = scene.camera_at(c)
        alone = ref.evaluate(ref.render, one.inputs(np.float64), s)
        for k in OUTPUTS:
            np.testing.assert_allclose(out[k][c], alone[k], atol=1e-13)
            np.testing.assert_allclose(some[k][c], alone[k][tuple(pixels.T)], atol=1e-13)


def test_settings_are_hashable():
    assert hash(ref.Settings(2, 3)) == hash(dataclasses.replace(ref.Settings(1, 3), width=2))
