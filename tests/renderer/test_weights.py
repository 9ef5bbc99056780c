"""Tests the contributors of pixels and the statistics of Gaussians against the dense reference."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import backends, reference, scenes
from helpers.asserts import Size, close, same_bits, settings
from helpers.tolerances import bound
from helpers.valid import camera, gaussians, ones, raises

import jax_gsplat_depth as jgd


def both(*args):
    """Contributors and statistics as dicts of NumPy arrays."""
    return jax.tree.map(np.asarray, _both(*args))


@functools.partial(backends.jit, static_argnums=(1, 2, 3))
def _both(inputs, size, k, config):
    args = scenes.build(inputs, size)
    found = jgd.contributors(*args, k, config=config)
    return vars(found), vars(jgd.view_statistics(*args, config=config))


def scattered(found, n):
    """The weights of contributors as ``(..., H, W, N)``."""
    dense = np.zeros((*found["ids"].shape[:-1], n + 1), found["weights"].dtype)
    np.put_along_axis(dense, found["ids"], found["weights"], axis=-1)  # -1 is the last one
    return dense[..., :n]


@pytest.mark.quick(footprint=["exact"], dtype=["float32"])
@pytest.mark.parametrize("footprint", ["exact", "3sigma"])
def test_weights_are_those_of_the_reference(every_backend, dtype, footprint):
    scene, n = scenes.dense(n=60, width=40, height=35, cameras=2), 60
    config = jgd.Config(footprint=footprint)
    inputs, size = scene.inputs(dtype), Size(scene.width, scene.height)
    wanted, band = reference.weights(inputs, settings(scene, config))
    found, measured = both(inputs, size, n, config)

    ids, weights = found["ids"], found["weights"]
    assert ids.dtype == np.int32 and weights.dtype == dtype
    assert ids.shape == weights.shape == (2, scene.height, scene.width, n)
    assert (np.diff(weights, axis=-1) <= 0).all(), "by weight, the largest first"
    np.testing.assert_array_equal(ids < 0, weights == 0)
    drawn, limit = scattered(found, n), bound("blend", "value", dtype)
    close(drawn, wanted, limit, "weights", ~band)
    np.testing.assert_array_equal((drawn > 0)[~band], (wanted > 0)[~band])

    # Outside of the band the contributors are right: the rest has to follow from them.
    largest, n_pixels = drawn.max((1, 2)), (drawn > 0).sum((1, 2))
    np.testing.assert_array_equal(measured["largest_weight"], largest)
    np.testing.assert_array_equal(measured["n_pixels"], n_pixels)
    summed = drawn.astype(np.float64).sum((1, 2))
    close(measured["summed_weight"], summed, limit, "summed")
    assert measured["n_pixels"].dtype == np.int32 and measured["summed_weight"].dtype == dtype

    # Fewer of each pixel, and lists of any length on a GPU: the same bits.
    short = dataclasses.replace(config, capacity=1)
    few, again = both(inputs, size, 3, short)
    for k, v in few.items():
        same_bits(v, found[k][..., :3], k)
    for k, v in again.items():
        same_bits(v, measured[k], k)


@pytest.mark.slow
def test_transforms():
    """Jit, vmap and the camera axis agree, and the weights are constants of a derivative."""
    scene = scenes.dense(n=30, width=33, height=20, cameras=2)
    g, cameras = scene.gaussians(), scene.camera()
    found, measured = jgd.contributors(g, cameras, 2), jgd.view_statistics(g, cameras)

    def one(viewmat, K):
        view = dataclasses.replace(cameras, viewmat=viewmat, K=K)
        return jgd.contributors(g, view, 2), jgd.view_statistics(g, view)

    mapped = jax.jit(jax.vmap(one))(cameras.viewmat, cameras.K)
    jax.tree.map(lambda a, b: same_bits(a, b, "vmap"), mapped, (found, measured))

    def loss(means):
        moved = dataclasses.replace(g, means=means)
        total = jgd.view_statistics(moved, cameras).summed_weight.sum()
        return total + jgd.contributors(moved, cameras, 2).weights.sum() + (means**2).sum()

    np.testing.assert_array_equal(jax.grad(loss)(g.means), 2 * g.means)


@pytest.mark.quick(every_backend=["cpu"])
def test_what_is_not_drawn_is_nowhere(every_backend):
    scene = scenes.single(width=20, height=18, sigma_px=1.5)
    g, view = scene.gaussians(), scene.camera()
    # Its copies: with a colour that is not finite, transparent, and without harm.
    g = jax.tree.map(lambda x: jnp.repeat(x, 3, axis=0), g)
    g = dataclasses.replace(
        g,
        colors=g.colors.at[0, 1].set(jnp.nan),
        opacities=g.opacities.at[1].set(0.001),
    )
    found, measured = jgd.contributors(g, view, 2), jgd.view_statistics(g, view)
    assert set(np.unique(found.ids)) == {-1, 2}
    assert np.all(found.ids[..., 1] == -1) and found.ids[0, 0, 0] == -1
    out = jgd.render(g, view)
    np.testing.assert_array_equal(found.weights[..., 0], out.weight)
    np.testing.assert_array_equal(measured.n_pixels, [0, 0, np.sum(np.asarray(out.weight) > 0)])
    np.testing.assert_array_equal(measured.largest_weight, [0, 0, np.max(out.weight)])
    # The appearance may be missing; then it culls nothing.
    bare = dataclasses.replace(g, colors=None)
    assert set(np.unique(jgd.contributors(bare, view, 1).ids)) == {-1, 0}

    nothing = scenes.empty()
    g, view = nothing.gaussians(), nothing.camera()
    assert np.all(jgd.contributors(g, view, 2).ids == -1)
    assert jgd.view_statistics(g, view).summed_weight.shape == (0,)


def test_k_is_checked():
    for k, error, message in (
        (0, ValueError, "k is 0, expected 1 to 32768"),
        (40000, ValueError, "k is 40000, expected 1 to 32768"),
        (2.0, TypeError, "k has type float, expected int: it is static"),
    ):
        raises(error, message, lambda g, k=k: jgd.contributors(g, camera(), k), gaussians())
    bare = gaussians(sh=None)
    message = "sh_degree is given but gaussians has no sh"
    raises(ValueError, message, lambda g: jgd.view_statistics(g, camera(), sh_degree=1), bare)
    colored = gaussians(sh=None, colors=ones(6, 3))
    raises(ValueError, "gaussians.colors", lambda g: jgd.contributors(g, camera(), 1), colored)
