"""Tests evaluating, rotating and converting coefficients: the basis, e3nn, rotated scenes."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import compilation, reference, scenes
from helpers.asserts import Size, close, close_l2
from helpers.valid import raises
from jax.test_util import check_grads

import jax_gsplat_depth as jgd
from jax_gsplat_depth import sh

CONVENTIONS = ("3dgs", "e3nn")
# Of a value of about 1.
ROUNDING = {"float32": 3e-6, "float64": 1e-13}


def rotations(n, seed=0):
    """Random rotation matrices."""
    quats = np.random.default_rng(seed).normal(size=(n, 4))
    return np.stack([scenes.rotation(q) for q in quats])


def directions(n, seed=1):
    """Random unit vectors."""
    d = np.random.default_rng(seed).normal(size=(n, 3))
    return d / np.linalg.norm(d, axis=1, keepdims=True)


def coefficients(degree, *leading, seed=2):
    """Random coefficients of three channels."""
    return np.random.default_rng(seed).normal(size=(*leading, (degree + 1) ** 2, 3))


def evaluate(values, d, convention):
    """The function of the coefficients ``(B, 3)`` at directions ``(Q, 3)``, by the reference."""
    degree = int(np.sqrt(values.shape[0])) - 1
    with jax.enable_x64(True):
        basis = np.asarray(reference.sh_basis(jnp.asarray(d), degree, convention))
    return basis @ np.asarray(values, np.float64)


@pytest.mark.quick(convention=["e3nn-legacy"])
@pytest.mark.parametrize("convention", [*CONVENTIONS, "e3nn-legacy"])
def test_evaluate_is_the_sum_of_the_reference(convention, x64):
    """Of five channels, in directions of any length, in both dtypes, with its gradients."""
    rng = np.random.default_rng(2)
    values, towards = jnp.asarray(rng.normal(size=(7, 25, 5))), jnp.asarray(3 * directions(7))
    cotangent = jnp.asarray(rng.normal(size=(7, 5)))

    def by_definition(values, towards):
        unit = towards / jnp.linalg.norm(towards, axis=1, keepdims=True)
        basis = reference.sh_basis(unit, 4, convention)
        return jnp.sum(basis[:, :, None] * values, axis=1)

    @functools.partial(jax.jit, static_argnums=0, compiler_options=compilation.OPTIONS)
    def with_gradients(function, values, towards, cotangent):
        result, pull = jax.vjp(function, values, towards)
        return result, *pull(cotangent)

    ours = functools.partial(sh.evaluate, convention=convention)
    wanted = with_gradients(by_definition, values, towards, cotangent)
    for dtype, rounding in ROUNDING.items():
        arrays = (x.astype(dtype) for x in (values, towards, cotangent))
        for actual, expected in zip(with_gradients(ours, *arrays), wanted, strict=True):
            assert actual.dtype == dtype
            close(actual, expected, 30 * rounding, dtype)
    # A lower degree does not read the others; one function in many directions, and the reverse.
    low = ours(values.at[:, 9:].set(jnp.nan), towards, sh_degree=2)
    wanted = with_gradients(by_definition, values.at[:, 9:].set(0), towards, cotangent)[0]
    close(low, wanted, 1e-13, "degree 2")
    close(ours(values[3, :9], towards)[3], low[3], 1e-13, "one function")
    close(ours(values[:, :9], towards[2])[2], low[2], 1e-13, "one direction")


def test_evaluate_is_what_shade_clamps():
    """The colour of shade, no clamp; a direction that is none has no NaN and no gradient."""
    values, means = coefficients(3, 6).astype(np.float32), 4 * directions(6).astype(np.float32)
    camera = jgd.Camera(jnp.eye(4), jnp.eye(3), width=1, height=1)
    raw = jgd.sh.evaluate(values, means)
    colors = jgd.shade(jgd.Gaussians(jnp.asarray(means), sh=values), camera)
    assert np.min(raw) < -0.5
    close(np.maximum(raw + 0.5, 0), colors, 3e-6, "shade")
    bad = jnp.array([[0.0, 0, 0], [jnp.nan, 1, 0], [jnp.inf, 0, 1]])
    value, gradient = jax.value_and_grad(lambda d: jnp.sum(sh.evaluate(values[:3], d)))(bad)
    assert np.isfinite(value) and not np.any(gradient)
    assert sh.evaluate(np.zeros((2, 4, 0)), np.ones((2, 3))).shape == (2, 0)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (
            (np.ones((5, 3)), np.ones(3)),
            {},
            ValueError,
            "sh has shape (5, 3), expected (..., B, D)",
        ),
        (
            (np.ones((4, 3)), np.ones((7, 2))),
            {},
            ValueError,
            "directions has shape (7, 2), expected",
        ),
        (
            (np.ones((6, 4, 3)), np.ones((7, 3))),
            {},
            ValueError,
            "directions has shape (7, 3), expected (..., 3) with leading axes that broadcast",
        ),
        ((np.ones((4, 3)), np.ones(3)), {"sh_degree": 2}, ValueError, "sh_degree is 2 and needs"),
        (
            (np.ones((4, 3)), np.ones(3)),
            {"convention": "x"},
            ValueError,
            "convention must be '3dgs'",
        ),
        ((np.ones((4, 3)), jnp.ones(3, int)), {}, TypeError, "directions has dtype int"),
    ],
    ids=str,
)
def test_errors_of_evaluate(arguments, options, error, message):
    raises(error, message, functools.partial(sh.evaluate, **options), *arguments)


@pytest.mark.quick(degree=[1, 4])
@pytest.mark.parametrize("degree", range(5))
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_rotated_function(dtype, degree, convention):
    """What was seen in the direction d is seen in the direction R d."""
    values, d = coefficients(degree), directions(50)
    for R in [*rotations(5), np.eye(3), np.diag([1.0, -1, -1])]:
        rotated = sh.rotate_sh(values.astype(dtype), R.astype(dtype), convention=convention)
        assert rotated.dtype == dtype and rotated.shape == values.shape
        close(
            evaluate(rotated, d @ R.T, convention),
            evaluate(values, d, convention),
            ROUNDING[str(dtype)],
            f"degree {degree} {convention}",
        )


@pytest.mark.parametrize("degree", range(5))
@pytest.mark.parametrize(("source", "target"), [("3dgs", "e3nn"), ("e3nn", "3dgs")])
def test_converted_function(dtype, degree, source, target):
    """Both conventions describe the same function, and there and back is the same."""
    values, d = coefficients(degree).astype(dtype), directions(50)
    other = jgd.convert_sh(values, source=source, target=target)
    limit = ROUNDING[str(dtype)]
    close(evaluate(other, d, target), evaluate(values, d, source), limit, f"degree {degree}")
    close(jgd.convert_sh(other, source=target, target=source), values, limit, "back")
    np.testing.assert_array_equal(jgd.convert_sh(values, source=source, target=source), values)


def test_degree_1_is_permuted_with_signs():
    """(-y, z, -x) at (z, x, y) is (-x, y, -z)."""
    values = np.arange(12, dtype=np.float32).reshape(4, 3)
    converted = jgd.convert_sh(values, source="3dgs", target="e3nn")
    np.testing.assert_allclose(converted, values[[0, 3, 1, 2]] * [[1], [1], [-1], [-1]], atol=1e-6)


def test_wigner_matrices_are_a_representation(x64):
    a, b = rotations(2)
    for R in (a, b, a @ b):
        for band, matrix in enumerate(sh.wigner_matrices(jnp.asarray(R), 4)):
            np.testing.assert_allclose(matrix @ matrix.T, np.eye(2 * band + 1), atol=1e-14)
    of_a, of_b, of_ab = (sh.wigner_matrices(jnp.asarray(R), 4) for R in (a, b, a @ b))
    for p, q, pq in zip(of_a, of_b, of_ab, strict=True):
        np.testing.assert_allclose(p @ q, pq, atol=1e-14)
    # Degree 1 is (-y, z, -x).
    t = np.array([[0, -1, 0], [0, 0, 1], [-1, 0, 0]])
    np.testing.assert_allclose(of_a[1], t @ a @ t.T, atol=1e-14)


@pytest.mark.slow
def test_one_rotation_for_each(dtype):
    values, R = coefficients(4, 6).astype(dtype), rotations(6).astype(dtype)
    rotate = functools.partial(jgd.rotate_sh, convention="e3nn")
    together = rotate(values, R)
    for i in range(6):
        close(together[i], rotate(values[i], R[i]), ROUNDING[str(dtype)], "each")
    close(rotate(values, R[0])[3], rotate(values[3], R[0]), ROUNDING[str(dtype)], "one for all")
    close(jax.vmap(rotate)(values, R), together, ROUNDING[str(dtype)], "vmap")


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.slow
def test_gradients(x64, convention):
    """Of both arguments, along the rotations."""

    def rotate(values, angles):
        x, y, z = angles
        zero = jnp.zeros_like(x)
        turn = jax.scipy.linalg.expm(
            jnp.stack([jnp.stack(r) for r in [[zero, -z, y], [z, zero, -x], [-y, x, zero]]])
        )
        return jgd.rotate_sh(values, turn, convention=convention)

    arguments = jnp.asarray(coefficients(4)), jnp.array([0.4, -1.1, 0.7])
    check_grads(jax.jit(rotate), arguments, order=1, modes=["rev", "fwd"])


@pytest.mark.slow
@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("degree", [1, 3, 4])
def test_a_rotated_scene_gives_the_same_picture(backend, dtype, degree, convention):
    """Means, covariances, coefficients and the camera are turned together."""
    scene = scenes.random_scene(60, 44, 30, seed=9, bases=(degree + 1) ** 2)
    R, config = rotations(1, seed=4)[0], jgd.Config(sh_convention=convention)
    size = Size(scene.width, scene.height)
    still = scene.inputs(dtype, color="sh", shape="covars33", offset=False)
    turn, to_new = R.astype(dtype), np.eye(4, dtype=dtype)
    to_new[:3, :3] = turn
    turned = still | {
        "means": still["means"] @ turn.T,
        "covars": turn @ still["covars"] @ turn.T,
        "viewmat": still["viewmat"] @ to_new.T,
        "sh": jgd.rotate_sh(still["sh"], turn, convention=convention),
    }

    def picture(inputs):
        gaussians, camera = scenes.build(inputs, size)
        out = jgd.render(gaussians, camera, background=inputs["background"], config=config)
        return np.asarray(out.image)

    expected, actual = picture(still), picture(turned)
    # Thresholds may fall the other way at single pixels.
    assert np.median(np.abs(actual - expected)) < 100 * np.finfo(dtype).eps
    close_l2(actual, expected, 1e-3 if dtype == np.float32 else 1e-11, "rotated scene")
    wrong = picture(turned | {"sh": still["sh"]})
    assert np.abs(wrong - expected).max() > 0.05


@pytest.mark.quick(degree=[2, 4])
@pytest.mark.parametrize("degree", range(5))
def test_converted_coefficients_render_the_same_picture(backend, degree):
    scene = scenes.random_scene(60, 44, 30, seed=9, bases=(degree + 1) ** 2)
    gaussians, camera = scene.gaussians(color="sh"), scene.camera()
    expected = jgd.render(gaussians, camera).image
    converted = jgd.convert_sh(gaussians.sh, source="3dgs", target="e3nn")
    config = jgd.Config(sh_convention="e3nn")
    gaussians = jgd.Gaussians(**vars(gaussians) | {"sh": converted})
    close(jgd.render(gaussians, camera, config=config).image, expected, 5e-6, "converted")


# ----------------------------------------------------------------------------- the package e3nn


@pytest.fixture(scope="module")
def e3nn():
    """The package's spherical harmonics and Wigner matrices as NumPy functions."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        o3 = pytest.importorskip("e3nn.o3")
        import torch  # pyright: ignore[reportMissingImports]

    def tensor(x):
        return torch.tensor(np.asarray(x, np.float64))

    class Functions:
        @staticmethod
        def harmonics(degree, d):
            bands = list(range(degree + 1))
            return o3.spherical_harmonics(bands, tensor(d), True, "integral").numpy()

        @staticmethod
        def wigner(band, R):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return o3.Irrep(band, (-1) ** band).D_from_matrix(tensor(R)).numpy()

    return Functions


# e3nn's harmonics are seen at (-x, y, -z): half a turn about y.
HALF_TURN = np.diag([-1.0, 1, -1])


def test_convention_is_e3nn(e3nn, x64):
    d = directions(100)
    expected = e3nn.harmonics(4, d @ HALF_TURN)
    for i, column in enumerate(expected.T):
        np.testing.assert_allclose(
            evaluate(np.eye(25)[:, i : i + 1], d, "e3nn")[:, 0], column, atol=1e-12
        )
    with jax.enable_x64(True):
        camera = jgd.Camera(jnp.eye(4), jnp.eye(3), width=1, height=1)
        values = jnp.asarray(0.1 * coefficients(4, 100))
        gaussians = jgd.Gaussians(jnp.asarray(d), sh=values)
        colors = jgd.shade(gaussians, camera, config=jgd.Config(sh_convention="e3nn"))
        raw = np.einsum("nb,nbc->nc", expected, values) + 0.5
    np.testing.assert_allclose(colors, np.maximum(raw, 0), atol=1e-12)


@pytest.mark.parametrize("band", range(5))
def test_rotation_is_that_of_e3nn(e3nn, x64, band):
    part = slice(band**2, (band + 1) ** 2)
    values = coefficients(4)
    # Its matrices go through Euler angles and are good to some 1e-6.
    for R in rotations(3):
        rotated = jgd.rotate_sh(values, R, convention="e3nn")[part]
        matrix = e3nn.wigner(band, HALF_TURN @ R @ HALF_TURN)
        np.testing.assert_allclose(rotated, matrix @ values[part], atol=1e-5)


# ------------------------------------------------------------------------------------ bad calls


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((np.ones((5, 3)), np.eye(3)), {}, ValueError, "sh has shape (5, 3), expected (..., B, 3)"),
        ((np.ones((4, 2)), np.eye(3)), {}, ValueError, "sh has shape (4, 2), expected (..., B, 3)"),
        ((np.ones(4), np.eye(3)), {}, ValueError, "sh has shape (4,)"),
        ((np.ones((4, 3)), np.eye(4)), {}, ValueError, "R has shape (4, 4), expected (3, 3)"),
        (
            (np.ones((7, 4, 3)), np.ones((6, 3, 3))),
            {},
            ValueError,
            "R has shape (6, 3, 3), expected (3, 3) or (7, 3, 3) (from sh)",
        ),
        (
            (np.ones((16, 3)), np.eye(3)),
            {"convention": "e3nn-legacy"},
            ValueError,
            "convention must be '3dgs' or 'e3nn', got 'e3nn-legacy'",
        ),
        ((jnp.ones((4, 3), int), np.eye(3)), {}, TypeError, "sh has dtype int"),
    ],
    ids=str,
)
def test_errors(arguments, options, error, message):
    raises(error, message, functools.partial(jgd.rotate_sh, **options), *arguments)


def test_errors_of_conversion():
    for options in ({"source": "e3nn-legacy", "target": "e3nn"}, {"source": "3dgs", "target": "x"}):
        with pytest.raises(ValueError, match="must be '3dgs' or 'e3nn', got"):
            jgd.convert_sh(np.ones((16, 3)), **options)
    with pytest.raises(ValueError, match="sh has shape"):
        jgd.convert_sh(np.ones((16,)), source="3dgs", target="e3nn")
