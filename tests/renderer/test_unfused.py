"""Tests that an ``unfused`` function computes the same and is compiled as one call."""

import jax
import jax.numpy as jnp
import numpy as np

from jax_gsplat_depth._common.fusion import unfused


def function(tree, y):
    # jnp.where is a compiled function itself.
    x = jnp.where(tree["x"] > 0, tree["x"], 0)
    return {"sum": x + y, "product": x * y}


def test_same_values_and_derivatives():
    x, y = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 3)), jnp.float32)

    def results(function):
        def total(x, y):
            return jnp.sum(jnp.square(function({"x": x}, y)["product"]))

        return (
            function({"x": x}, y),
            jax.grad(total, argnums=(0, 1))(x, y),
            jax.jvp(total, (x, y), (y, x)),
            jax.vmap(jax.grad(total), in_axes=(1, None))(x, y[:, 0]),
        )

    jax.tree.map(np.testing.assert_array_equal, results(unfused(function)), results(function))


def test_one_call():
    x = jnp.ones((5, 3))
    compiled = jax.jit(lambda x: unfused(function)({"x": 2 * x}, x)["sum"] + 1).lower(x).compile()
    assert compiled.as_text().count(" call(") == 1
