"""Compares the optimiser of a fit with Optax on arrays as they are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

optax = pytest.importorskip("optax")

from jax_gsplat_depth import fit  # noqa: E402
from jax_gsplat_depth.fit._optimizer import make_descent, make_optimizer  # noqa: E402

N, EXTENT = 40, 2.0
# Degree 1 from step 3 on, degree 2 from step 6 on.
SETTINGS = fit.FitSettings(steps=10, sh_degree=2, sh_warmup=0.6)
SHAPES = {
    "means": (N, 3),
    "quats": (N, 4),
    "log_scales": (N, 3),
    "opacity_logits": (N,),
    "sh": (N, 9, 3),
}


def random_arrays(seed):
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(rng.normal(size=x), jnp.float32) for name, x in SHAPES.items()}


@pytest.fixture
def promotion():
    """The fit allows Optax what it relies on."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def expected_params(params):
    """Adam for each kind of parameter, the coefficients of each degree apart."""
    s, final = SETTINGS, SETTINGS.lr_final
    rates = {
        "means": (s.lr_means * EXTENT, s.lr_means_final),
        "quats": (s.lr_quats, final),
        "log_scales": (s.lr_scales, final),
        "opacity_logits": (s.lr_opacities, final),
        "sh_0": (s.lr_sh0, final),
        "sh_1": (s.lr_sh_rest, final),
        "sh_2": (s.lr_sh_rest, final),
    }

    def split(arrays):
        parts = jnp.split(arrays["sh"], [1, 4], axis=1)
        return {k: v for k, v in arrays.items() if k != "sh"} | {
            f"sh_{degree}": part for degree, part in enumerate(parts)
        }

    adams = {
        name: optax.adam(optax.exponential_decay(rate, s.steps, end), eps=1e-15)
        for name, (rate, end) in rates.items()
    }
    optimizer = optax.partition(adams, {name: name for name in rates})
    parts = split(params)
    state = optimizer.init(parts)
    for step in range(s.steps):
        gradient = split(random_arrays(step + 1))
        for degree, start in ((1, 3), (2, 6)):
            if step < start:
                gradient[f"sh_{degree}"] = jnp.zeros_like(gradient[f"sh_{degree}"])
        updates, state = optimizer.update(gradient, state, parts)
        parts = optax.apply_updates(parts, updates)
    sh = jnp.concatenate([parts.pop(f"sh_{degree}") for degree in range(3)], axis=1)
    return {**parts, "sh": sh}


@pytest.mark.slow
def test_descent_is_adam(promotion):
    params = random_arrays(0)
    optimizer = make_optimizer(SETTINGS, EXTENT)
    descent = jax.jit(make_descent(optimizer))
    now, state = params, optimizer.init(params)
    structure = jax.tree.map(jnp.shape, state)
    for step in range(SETTINGS.steps):
        now, state = descent(now, state, random_arrays(step + 1))
        used = 1 if step < 3 else 4 if step < 6 else 9
        moved = np.any(now["sh"] != params["sh"], axis=(0, 2))
        np.testing.assert_array_equal(moved, np.arange(9) < used)
    # Densification moves the moments by their shapes.
    assert jax.tree.map(jnp.shape, state) == structure
    for name, expected in expected_params(params).items():
        np.testing.assert_allclose(now[name], expected, rtol=1e-6, atol=1e-6, err_msg=name)


def test_state_is_updated_in_place(promotion):
    params = random_arrays(0)
    optimizer = make_optimizer(SETTINGS, EXTENT)
    descent = jax.jit(make_descent(optimizer), donate_argnums=(0, 1))
    compiled = descent.lower(params, optimizer.init(params), params).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < params["sh"].nbytes
