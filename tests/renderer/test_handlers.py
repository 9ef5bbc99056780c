"""Tests that a handler refuses bad buffers by itself, the second line of checks."""

import jax
import jax.numpy as jnp
import pytest

from jax_gsplat_depth import _ffi

C, N = 2, 5
SIZE = {"width": 20, "height": 10}
SIZES = _ffi.Sizes(n_cameras=C, n=N, **SIZE)


def bin_operands(dtype=jnp.float32):
    return {
        "means2d": jnp.ones((C, N, 2), dtype),
        "depths": jnp.ones((C, N), dtype),
        "conics": jnp.ones((C, N, 3), dtype),
        "opacities": jnp.ones((C, N), dtype),
        "radii": jnp.ones((C, N), jnp.int32),
    }


def call_bin(operands, order_shape=(C, N), **size):
    order, _ = _ffi.call(
        "jgd_bin_fwd",
        list(operands.values()),
        [(order_shape, jnp.int32), (_ffi.Absent(3), jnp.int32)],
        sizes=SIZES,
        **{**SIZE, **size},
        three_sigma=False,
    )
    return jax.block_until_ready(order)


def test_accepts_what_is_right():
    assert call_bin(bin_operands()).shape == (C, N)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("conics", jnp.ones((C, N, 2), jnp.float32), "wrong shape of conics"),
        ("depths", jnp.ones((C, N + 1), jnp.float32), "wrong shape of depths"),
        ("depths", jnp.ones((C, N), jnp.int32), "wrong dtype of depths"),
        ("radii", jnp.ones((C, N), jnp.float32), "wrong dtype of radii"),
        ("radii", jnp.ones((3, C, N), jnp.int32), "number of leading axes"),
        ("means2d", jnp.ones((N, 2), jnp.float32), "too few axes"),
        ("means2d", jnp.ones((C, N, 2), jnp.int32), "only float32 and float64"),
    ],
)
def test_wrong_operands(name, value, words):
    with pytest.raises(jax.errors.JaxRuntimeError, match=words):
        call_bin({**bin_operands(), name: value})


def test_leading_axes_that_disagree():
    operands = {name: jnp.stack([x, x]) for name, x in bin_operands().items()}
    operands["depths"] = jnp.ones((3, C, N), jnp.float32)
    with pytest.raises(jax.errors.JaxRuntimeError, match="leading axes disagree"):
        call_bin(operands, (2, C, N))


def test_wrong_result():
    with pytest.raises(jax.errors.JaxRuntimeError, match="wrong shape of order"):
        call_bin(bin_operands(), (C, N + 1))


@pytest.mark.parametrize("size", [{"width": 0}, {"height": -1}, {"width": 2**20 + 1}])
def test_wrong_sizes(size):
    with pytest.raises(jax.errors.JaxRuntimeError, match=r"width and height of 1 to 2\^20"):
        call_bin(bin_operands(), **size)


def test_no_camera():
    operands = {name: x[:0] for name, x in bin_operands().items()}
    operands["means2d"] = jnp.ones((0, N, 2), jnp.float32)
    results = [((1,), jnp.int32), (_ffi.Absent(3), jnp.int32)]
    static = {**SIZE, "three_sigma": False}
    with pytest.raises(jax.errors.JaxRuntimeError, match="1 or more cameras"):
        jax.block_until_ready(
            _ffi.call("jgd_bin_fwd", list(operands.values()), results, sizes=SIZES, **static)
        )
