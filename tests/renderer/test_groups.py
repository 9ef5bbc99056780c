"""Tests blend with more (Gaussian, tile) pairs than it holds at a time: tiles go in groups."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_gsplat_depth as jgd

WIDTH, HEIGHT, HALF = 256, 256, 128
N = 16_000


def wide_splats(rng):
    """Splats that meet most tiles, so faint that a pixel sees hundreds of them."""
    sigma = rng.uniform(60, 120, (N, 2))
    conics = np.stack([sigma[:, 0] ** -2, np.zeros(N), sigma[:, 1] ** -2], axis=1)
    return jgd.Splats(
        means2d=jnp.asarray(rng.uniform(0, WIDTH, (N, 2))),
        depths=jnp.asarray(rng.uniform(1, 2, N)),
        conics=jnp.asarray(conics),
        opacities=jnp.asarray(rng.uniform(0.01, 0.05, N)),
        radii=jnp.full(N, 400, jnp.int32),
    )


def blend_vjp(splats, colors, cotangent):
    """Blend as many rows as the cotangent has; return image, pairs and gradients."""
    size = {"width": WIDTH, "height": cotangent.shape[0]}
    bins = jgd.bin(splats, **size)

    def image(floats, colors):
        changed = jgd.Splats(*floats, splats.radii)
        return jgd.blend(changed, colors, bins.order, **size).image

    floats = (splats.means2d, splats.depths, splats.conics, splats.opacities)
    out, vjp = jax.vjp(image, floats, colors)
    n_pairs = np.asarray(bins.tile_counts, np.int64).sum()
    return out, n_pairs, vjp(cotangent)


@pytest.mark.slow
def test_groups_of_tiles_add_up(x64):
    """The whole image, in several groups, against its two halves, each in fewer."""
    rng = np.random.default_rng(0)
    splats = wide_splats(rng)
    colors = jnp.asarray(rng.uniform(size=(N, 3)))
    cotangent = jnp.asarray(rng.normal(size=(HEIGHT, WIDTH, 3)))
    lower = jgd.Splats(
        splats.means2d - jnp.asarray([[0.0, HALF]]),
        splats.depths,
        splats.conics,
        splats.opacities,
        splats.radii,
    )
    whole, n_pairs, gradients = blend_vjp(splats, colors, cotangent)
    # A pair takes 8 + (9 + 3) * 8 bytes in backward, and a group 256 MiB.
    assert n_pairs * 104 > 256 * 2**20
    top, _, top_gradients = blend_vjp(splats, colors, cotangent[:HALF])
    bottom, _, bottom_gradients = blend_vjp(lower, colors, cotangent[HALF:])
    np.testing.assert_allclose(whole, np.concatenate([top, bottom]), atol=1e-12)
    expected = jax.tree.map(jnp.add, top_gradients, bottom_gradients)
    for value, reference in zip(jax.tree.leaves(gradients), jax.tree.leaves(expected), strict=True):
        error = np.linalg.norm(value - reference) / max(np.linalg.norm(reference), 1e-300)
        assert error < 1e-10


def test_repeated_indices_are_drawn_once():
    """An order that repeats indices draws each Gaussian once, and always the same."""
    rng = np.random.default_rng(1)
    n = 5000
    splats = jgd.Splats(
        means2d=jnp.asarray(rng.uniform(0, 64, (n, 2)), jnp.float32),
        depths=jnp.ones(n, jnp.float32),
        conics=jnp.tile(jnp.asarray([0.05, 0.0, 0.05], jnp.float32), (n, 1)),
        opacities=jnp.full(n, 0.1, jnp.float32),
        radii=jnp.full(n, 14, jnp.int32),
    )
    colors = jnp.asarray(rng.uniform(size=(n, 3)), jnp.float32)
    first = np.arange(50, dtype=np.int32)
    repeated = np.concatenate([first, rng.integers(0, 50, n - 50, dtype=np.int32)])
    once = np.concatenate([first, np.full(n - 50, -1, np.int32)])

    @jax.jit
    def gradients(order, colors):
        def loss(colors):
            out = jgd.blend(splats, colors, order, width=64, height=64)
            return jnp.sum(out.image * out.weight[..., None])

        return jax.grad(loss)(colors)

    expected = gradients(jnp.asarray(once), colors)
    assert np.abs(expected).max() > 0
    for _ in range(5):
        np.testing.assert_array_equal(gradients(jnp.asarray(repeated), colors), expected)
