"""Tests the closed form of relocation against exact sums, its definition and the picture."""

import decimal
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.asserts import close
from helpers.tolerances import bound

import jax_gsplat_depth as jgd
from jax_gsplat_depth import densify

OPACITIES = np.array([0.0051, 0.03, 0.3, 0.7, 0.95, 0.99, 0.999, 1 - 2.0**-20])
COUNTS = np.array([1, 2, 3, 4, 7, 16, 51, 300])


def paper_formula(opacity, n):
    """Opacity and scale ratio by the double sum of the paper, in 200 digits."""
    with decimal.localcontext(decimal.Context(prec=200)):
        o = decimal.Decimal(float(opacity))
        new = 1 - (1 - o) ** (1 / decimal.Decimal(n))
        total = decimal.Decimal(0)
        for i in range(1, n + 1):
            for k in range(i):
                term = math.comb(i - 1, k) * (-1) ** k * new ** (k + 1)
                total += term / decimal.Decimal(k + 1).sqrt()
        return float(new), float(o / total)


@pytest.mark.parametrize("n", COUNTS[:-1])
def test_agrees_with_the_formula_of_the_paper(n, dtype):
    n = int(n)
    opacities = OPACITIES.astype(dtype)
    actual = jax.jit(densify.relocation)(jnp.asarray(opacities), n)
    expected = np.array([paper_formula(o, n) for o in opacities]).T
    for name, values, exact in zip(("opacity", "ratio"), actual, expected, strict=True):
        assert values.dtype == dtype
        close(values / exact, np.ones_like(exact), bound("relocation", "value", dtype), name)


@pytest.mark.slow
def test_float32_agrees_with_float64_for_many_copies():
    """Far beyond what the alternating sum could do in any usual precision."""
    opacities, counts = (x.ravel() for x in np.meshgrid(OPACITIES, [300, 5000, 10**6]))
    opacities = opacities.astype(np.float32)
    with jax.enable_x64(True):
        exact = densify.relocation(jnp.asarray(opacities, jnp.float64), jnp.asarray(counts))
        exact = [np.asarray(value) for value in exact]
    actual = densify.relocation(jnp.asarray(opacities), jnp.asarray(counts, jnp.int32))
    for name, values, wanted in zip(("opacity", "ratio"), actual, exact, strict=True):
        limit = bound("relocation", "value", np.dtype(np.float32))
        close(values / wanted, np.ones_like(wanted), limit, name)


@pytest.mark.parametrize("n", COUNTS)
def test_the_copies_are_as_opaque_and_as_heavy_as_the_one(n, x64):
    """The definition itself: n stacked profiles against one, integrated over a fine grid."""
    opacities = jnp.asarray(OPACITIES)
    new, ratio = (np.asarray(value)[:, None] for value in densify.relocation(opacities, int(n)))
    x = np.linspace(-12, 12, 200_001)[None]
    # The ratio of scales is at most 1 for some and above for others: 12 covers all of them.
    stacked = -np.expm1(n * np.log1p(-new * np.exp(-0.5 * np.square(x / ratio))))
    single = OPACITIES[:, None] * np.exp(-0.5 * np.square(x))
    np.testing.assert_allclose(stacked.max(axis=1), OPACITIES, rtol=1e-10)
    np.testing.assert_allclose(
        np.trapezoid(stacked, x, axis=1), np.trapezoid(single, x, axis=1), rtol=1e-9
    )


def test_one_copy_changes_nothing():
    new, ratio = densify.relocation(jnp.asarray(OPACITIES, jnp.float32), 1)
    np.testing.assert_allclose(new, OPACITIES, rtol=1e-6)
    np.testing.assert_allclose(ratio, 1, rtol=1e-6)


@pytest.mark.slow
def test_gradient_is_finite():
    def total(opacities):
        return sum(jnp.sum(value) for value in densify.relocation(opacities, 5))

    gradient = jax.grad(total)(jnp.asarray(OPACITIES[:-1], jnp.float32))
    step = 1e-3
    with jax.enable_x64(True):
        at = jnp.asarray(OPACITIES[2:5])
        slope = (densify.relocation(at + step, 5)[1] - densify.relocation(at - step, 5)[1]) + (
            densify.relocation(at + step, 5)[0] - densify.relocation(at - step, 5)[0]
        )
        slope = np.asarray(slope) / (2 * step)
    assert np.isfinite(gradient).all()
    np.testing.assert_allclose(gradient[2:5], slope, rtol=1e-2)


@pytest.mark.quick(opacity=[0.6], n=[2])
@pytest.mark.parametrize("n", [2, 5])
@pytest.mark.parametrize("opacity", [0.2, 0.6, 0.95])
def test_the_picture_stays(opacity, n):
    """One large Gaussian against n relocated ones in its place, and against n unchanged copies."""
    size = 65
    camera = jgd.Camera.look_at((0, -2.5, 0), (0, 0, 0), fov_x=0.8, width=size, height=size)

    def weight(count, opacity, scale):
        params = {
            "means": jnp.zeros((count, 3), jnp.float32),
            "quats": jnp.ones((count, 4), jnp.float32),
            "log_scales": jnp.full((count, 3), jnp.log(0.2 * scale), jnp.float32),
            "opacity_logits": jnp.full(count, math.log(opacity / (1 - opacity)), jnp.float32),
            "colors": jnp.ones((count, 1), jnp.float32),
        }
        gaussians = densify.activate(densify.pad(params, count))
        return np.asarray(jgd.render(gaussians, camera).weight)

    new, ratio = (float(x) for x in densify.relocation(jnp.float32(opacity), n))
    before, after, copies = weight(1, opacity, 1), weight(n, new, ratio), weight(n, opacity, 1)
    center = size // 2
    np.testing.assert_allclose(after[center, center], before[center, center], rtol=1e-5)
    # The copies end where their own alpha falls below 1/255, which costs up to 2.2 %.
    for line in ((center, slice(None)), (slice(None), center)):
        np.testing.assert_allclose(after[line].sum(), before[line].sum(), rtol=0.025)
    # The profile has another shape: by 0.09 at most where plain copies differ by 0.5.
    assert np.abs(after - before).max() < 0.25 * np.abs(copies - before).max()
    assert np.abs(after - before).mean() < 0.3 * np.abs(copies - before).mean()
