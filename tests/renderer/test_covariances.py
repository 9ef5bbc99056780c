"""Tests covariances of quats and scales, and the way back, against the reference in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import reference_stages
from helpers.valid import ones, raises

import jax_gsplat_depth as jgd

ROUNDING = {"float32": 3e-6, "float64": 1e-13}


def shapes(dtype, *leading):
    """Quats of any length, and scales that differ by at least a tenth within a Gaussian."""
    rng = np.random.default_rng(0)
    quats = rng.normal(size=(*leading, 4)) * np.exp(rng.normal(size=(*leading, 1)))
    scales = rng.permuted(np.array([0.3, 1.0, 2.0]) * rng.uniform(0.9, 1.1, (*leading, 3)), axis=-1)
    return jnp.asarray(quats, dtype), jnp.asarray(scales, dtype)


def test_covariances_are_those_of_the_reference(x64):
    """In both dtypes, with gradients, layouts and leading axes."""
    quats, scales = shapes(np.float64, 6)
    cotangent = jnp.asarray(np.random.default_rng(1).normal(size=(6, 3, 3)))

    def with_gradients(function, arrays):
        values, pull = jax.vjp(function, *arrays[:2])
        return values, *pull(arrays[2])

    run = jax.jit(with_gradients, static_argnums=0)
    arrays = quats, scales, cotangent
    wanted = run(reference_stages.covariance, arrays)
    values = None
    for dtype, rounding in ROUNDING.items():
        values, *gradients = run(
            jgd.covariances, jax.tree.map(lambda x, d=dtype: x.astype(d), arrays)
        )
        for actual, expected in zip([values, *gradients], wanted, strict=True):
            assert actual.dtype == dtype
            size = np.abs(expected).max()
            np.testing.assert_allclose(actual, expected, rtol=0, atol=rounding * size)
    assert values is not None  # of float64
    np.testing.assert_array_equal(values, values.swapaxes(1, 2))
    triangles = jgd.covariances(quats, scales, triu=True)
    np.testing.assert_allclose(triangles, values[:, *np.triu_indices(3)], rtol=1e-14)
    folded = jgd.covariances(quats.reshape(2, 3, 4), scales.reshape(2, 3, 3), triu=True)
    np.testing.assert_allclose(folded.reshape(6, 6), triangles, rtol=1e-14)
    precisions = np.asarray(jgd.covariances(quats, 1 / scales))
    np.testing.assert_allclose(precisions @ values, np.tile(np.eye(3), (6, 1, 1)), atol=1e-12)


@pytest.mark.quick(dtype=["float32"])
def test_the_way_back(dtype):
    quats, scales = shapes(dtype, 2, 20)
    covars = jgd.covariances(quats, scales, triu=True)
    tolerance = {"rtol": 0, "atol": 20 * ROUNDING[str(dtype)]}
    full = np.asarray(covars)[..., [[0, 1, 2], [1, 3, 4], [2, 4, 5]]]
    # Of a matrix the symmetric part counts.
    full += np.array([[0, 1, 0], [-1, 0, 0], [0, 0, 0]], dtype)
    found_quats, found_scales = found = jgd.quats_and_scales(covars)
    for one, other in zip(found, jgd.quats_and_scales(full), strict=True):
        np.testing.assert_allclose(one, other, **tolerance)
    again = jgd.covariances(found_quats, found_scales, triu=True)
    np.testing.assert_allclose(again, covars, **tolerance)
    np.testing.assert_allclose(found_scales, -np.sort(-np.asarray(scales)), **tolerance)
    np.testing.assert_allclose(np.linalg.norm(found_quats, axis=-1), 1, rtol=1e-6)
    assert (np.asarray(found_quats)[..., 0] >= 0).all()
    w, x, y, z = np.moveaxis(np.asarray(found_quats), -1, 0)
    first = np.stack([1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y)], -1)
    second = np.stack([2 * (x * y - w * z), 1 - 2 * (x * x + z * z), 2 * (y * z + w * x)], -1)
    for axis in (first, second):
        assert (np.take_along_axis(axis, np.abs(axis).argmax(-1)[..., None], -1) > 0).all()


@pytest.mark.slow
def test_gradients_of_the_way_back(x64):
    """There and back is the identity, with its derivative; and against differences."""
    covars = jgd.covariances(*shapes(np.float64, 5), triu=True)
    tangent = jnp.asarray(np.random.default_rng(2).normal(size=covars.shape))

    @jax.jit
    def there_and_back(covars):
        _, pull = jax.vjp(lambda c: jgd.covariances(*jgd.quats_and_scales(c), triu=True), covars)
        return pull(tangent)[0]

    np.testing.assert_allclose(there_and_back(covars), tangent, atol=1e-11)
    forward = jax.jit(lambda c: jax.jvp(jgd.quats_and_scales, (c,), (tangent,)))
    values, tangents = forward(covars)
    above, below = (forward(covars + sign * 1e-6 * tangent)[0] for sign in (1, -1))
    for value, wanted, up, down in zip(values, tangents, above, below, strict=True):
        assert np.abs(up - value).max() < 1e-4  # no jump
        np.testing.assert_allclose((up - down) / 2e-6, wanted, atol=1e-6)


def test_bad_data_and_equal_axes_have_no_nan_gradients():
    @functools.partial(jax.jit, static_argnums=0)
    def with_gradients(function, *arrays):
        values, pull = jax.vjp(function, *arrays)
        return values, pull(jax.tree.map(jnp.ones_like, values))

    nan, inf = np.nan, np.inf
    bad = [[nan, 0, 0, 1], [0, 0, 0, 0], [1, inf, 0, 0], *[[1.0, 0, 0, 0]] * 3]
    good = [[1, 2, 3, 4], [1e30, 2e30, 3e30, 4e30], [1e-30, 2e-30, 3e-30, 4e-30]]
    sizes = [*[[1.0, 2, 3]] * 3, [1, 0, 2], [1, -1, 2], [1, inf, 2], *[[1, 2, 3]] * 3]
    quats, scales = np.float32([*bad, *good]), np.float32(sizes)
    values, gradients = with_gradients(jgd.covariances, quats, scales)
    assert np.isnan(values[:6]).all() and np.isfinite(values[6:]).all()
    np.testing.assert_allclose(values[7:], np.stack([values[6]] * 2), rtol=1e-5)
    for gradient in gradients:
        assert not np.any(gradient[:6]) and np.isfinite(gradient[6:]).all()
    # A ball, a disc, a needle, nothing, a matrix that is no covariance, extreme balls, and NaN.
    rows = [[1.0, 1, 1], [1, 1, 0.1], [1, 0.1, 0.1], [0, 0, 0], [1, 0.1, -1]]
    diagonals = np.float32([*rows, [1e-30] * 3, [1e30] * 3, [nan] * 3])
    matrices = diagonals[:, None] * np.eye(3, dtype=np.float32)
    (quats, scales), (gradient,) = with_gradients(jgd.quats_and_scales, matrices)
    assert np.isfinite(gradient).all() and not np.any(gradient[-1])
    np.testing.assert_allclose(gradient[0], 0.5 * np.eye(3), atol=1e-6)
    np.testing.assert_allclose(scales[:-1], np.sqrt(np.maximum(diagonals[:-1], 0)), rtol=1e-6)
    assert np.isnan(quats[-1]).all() and np.isnan(scales[-1]).all()
    assert np.isfinite(quats[:-1]).all()


@pytest.mark.parametrize(
    ("function", "arguments", "error", "message"),
    [
        (jgd.covariances, (ones(5, 3), ones(5, 3)), ValueError, "quats has shape (5, 3), expected"),
        (
            jgd.covariances,
            (ones(5, 4), ones(4, 3)),
            ValueError,
            "scales has shape (4, 3), expected (5, 3) (from quats)",
        ),
        (jgd.covariances, (ones(5, 4), ones(5, 3, dtype=int)), TypeError, "scales has dtype int"),
        (
            jgd.quats_and_scales,
            (ones(5, 3),),
            ValueError,
            "covars has shape (5, 3), expected (..., 6) or (..., 3, 3)",
        ),
    ],
    ids=["quats", "scales", "dtype", "covars"],
)
def test_errors(function, arguments, error, message):
    raises(error, message, function, *arguments)
