"""Tests populations: padding, activation, dead slots, and the state of the optimiser."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.asserts import same_bits
from helpers.populations import ADAM, cameras, init, make_params, moments, used_adam

import jax_gsplat_depth as jgd
from jax_gsplat_depth import densify
from jax_gsplat_depth.densify import _population

N, CAPACITY = 30, 47


@pytest.fixture
def camera():
    return cameras(2)


def poisoned(population):
    """The dead slots hold what must never be looked at."""
    params = {
        name: jnp.where(
            population.alive.reshape((-1,) + (1,) * (value.ndim - 1)),
            value,
            jnp.inf if name == "log_scales" else jnp.nan,
        )
        for name, value in population.params.items()
    }
    return densify.Population(params, population.alive)


def test_pad_and_compact_are_inverse():
    params = make_params(N)
    population = densify.pad(params, CAPACITY)
    assert population.capacity == CAPACITY
    assert int(population.n_alive()) == N
    again = densify.compact(population)
    assert again.keys() == params.keys()
    for name, value in params.items():
        same_bits(again[name], value, name)


def test_compact_keeps_the_order():
    population = densify.pad(make_params(6), 6)
    alive = jnp.array([False, True, True, False, False, True])
    compact = densify.compact(densify.Population(population.params, alive))
    same_bits(compact["means"], population.params["means"][np.array([1, 2, 5])], "means")


def test_pad_without_any_gaussian():
    population = densify.pad({k: v[:0] for k, v in make_params(1).items()}, 3)
    assert int(population.n_alive()) == 0
    assert densify.compact(population)["sh0"].shape == (0, 1, 3)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"capacity": N - 1}, "capacity is 29"),
        ({"quats": None}, "no 'quats'"),
        ({"log_scales": jnp.zeros((N, 1))}, r"log_scales has shape \(30, 1\), expected \(30, 3\)"),
        ({"sh0": jnp.zeros((N + 1, 1, 3))}, r"sh0 has shape \(31, 1, 3\)"),
    ],
)
def test_pad_refuses(change, message):
    params = {**make_params(N), **{k: v for k, v in change.items() if k != "capacity"}}
    params = {name: value for name, value in params.items() if value is not None}
    with pytest.raises(ValueError, match=message):
        densify.pad(params, change.get("capacity", CAPACITY))


def test_without_appearance():
    params = {k: v for k, v in make_params(N).items() if not k.startswith("sh")}
    with pytest.raises(ValueError, match="neither 'sh', 'sh0' nor 'colors'"):
        densify.activate(densify.pad(params, CAPACITY))
    colors = jnp.ones((N, 5), jnp.float32)
    gaussians = densify.activate(densify.pad({**params, "colors": colors}, CAPACITY))
    assert gaussians.sh is None
    assert gaussians.colors.shape == (CAPACITY, 5)
    coarse = {**params, "sh0": jnp.ones((N, 1, 3), jnp.float32)}
    assert densify.activate(densify.pad(coarse, CAPACITY), 2).sh.shape == (CAPACITY, 1, 3)


@pytest.mark.parametrize("spoil", [lambda population: population, poisoned])
def test_dead_slots_are_neither_drawn_nor_pulled(camera, spoil):
    """The same images and gradients as without padding, whatever the dead slots hold."""

    def evaluate(population):
        def total(params):
            trial = densify.Population(params, population.alive)
            out = jgd.render(densify.activate(trial), camera)
            penalty = densify.Mcmc().penalty(trial)
            loss = jnp.sum(jnp.square(out.image)) + jnp.sum(out.depth) + penalty
            return loss, (out, penalty)

        return jax.jit(jax.value_and_grad(total, has_aux=True))(population.params)

    (_, (out, penalty)), gradient = evaluate(densify.pad(make_params(N), N))
    (_, (padded, padded_penalty)), v_padded = evaluate(spoil(densify.pad(make_params(N), CAPACITY)))
    for name in ("image", "depth", "weight"):
        same_bits(getattr(padded, name), getattr(out, name), name)
    same_bits(padded.radii[:, :N], out.radii, "radii")
    assert not np.any(padded.radii[:, N:])
    np.testing.assert_allclose(padded_penalty, penalty, rtol=1e-6)
    for name, value in gradient.items():
        np.testing.assert_allclose(v_padded[name][:N], value, rtol=1e-5, atol=1e-5, err_msg=name)
        assert not np.any(v_padded[name][N:]), name


def test_nothing_alive(camera):
    population = densify.pad({k: v[:0] for k, v in make_params(1).items()}, 4)
    out = jgd.render(densify.activate(population), camera, background=jnp.ones(3))
    assert (np.asarray(out.image) == 1).all()
    assert float(densify.Mcmc().penalty(population)) == 0
    gradient = jax.grad(
        lambda params: densify.Mcmc().penalty(densify.Population(params, population.alive))
    )(population.params)
    assert all(not np.any(value) for value in gradient.values())


def test_traced_degree(camera):
    """The same image as a static degree, one compilation, no gradient above the degree."""
    population = densify.pad(make_params(N, bases=16), CAPACITY)

    @jax.jit
    def evaluate(params, degree):
        def total(params):
            trial = densify.Population(params, population.alive)
            image = jgd.render(densify.activate(trial, degree), camera).image
            return jnp.sum(jnp.square(image)), image

        return jax.grad(total, has_aux=True)(params)

    for degree in range(4):
        gradient, image = evaluate(population.params, jnp.int32(degree))
        gaussians = densify.activate(population)
        expected = jgd.render(gaussians, camera, sh_degree=degree).image
        np.testing.assert_allclose(image, expected, atol=2e-6)
        n_used = (degree + 1) ** 2 - 1
        assert not np.any(gradient["sh_rest"][:, n_used:])
        assert np.all(np.any(gradient["sh_rest"][:N, :n_used], axis=(0, 2)))
    assert evaluate._cache_size() == 1
    # The coefficients as one parameter.
    params = dict(population.params)
    params["sh"] = jnp.concatenate([params.pop("sh0"), params.pop("sh_rest")], axis=1)
    as_one = densify.Population(params, population.alive)
    same_bits(densify.activate(as_one, 2).sh, densify.activate(population, 2).sh, "as one")
    # More coefficients than there are: all of them.
    same_bits(
        densify.activate(population, 9).sh, densify.activate(population).sh, "degree above all"
    )


@pytest.mark.parametrize("length", [1e-30, 1e-3, 1.0, 1e25])
def test_rotation_by_quaternions_of_any_length(length):
    params = make_params(N)
    quats, vectors = params["quats"], params["means"]
    with jax.enable_x64(True):
        unit = np.asarray(quats, np.float64)
        unit /= np.linalg.norm(unit, axis=1, keepdims=True)
        w, x, y, z = unit.T
        rotations = np.stack(
            [
                [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
                [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
                [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
            ]
        )
    expected = np.einsum("ijn,nj->ni", rotations, np.asarray(vectors, np.float64))
    scaled = quats * jnp.float32(length)
    np.testing.assert_allclose(_population.rotate(scaled, vectors), expected, atol=1e-6)


def test_rotation_by_zero_does_nothing():
    vectors = make_params(4)["means"]
    np.testing.assert_array_equal(_population.rotate(jnp.zeros((4, 4)), vectors), vectors)


# The state of the optimiser


def everything_but_means(params):
    return {name: name != "means" for name in params}


OPTIMIZERS = {
    "adam": lambda params: optax.adam(1e-3),
    "adam with a schedule": lambda params: optax.adam(optax.exponential_decay(1e-3, 10, 0.5)),
    "partition": lambda params: optax.partition(
        {"a": optax.adam(1e-3), "b": optax.sgd(1e-3, momentum=0.9)},
        {name: "a" if name == "means" else "b" for name in params},
    ),
    "chain": lambda params: optax.chain(
        optax.clip_by_global_norm(1.0), optax.scale_by_adam(), optax.scale_by_learning_rate(1e-3)
    ),
    "masked": lambda params: optax.masked(optax.adam(1e-3), everything_but_means(params)),
    "masked by a function": lambda params: optax.masked(optax.adam(1e-3), everything_but_means),
    "injected": lambda params: optax.inject_hyperparams(optax.adam)(learning_rate=1e-3),
    "several steps": lambda params: optax.MultiSteps(optax.adam(1e-3), 2).gradient_transformation(),
    "factored": lambda params: optax.adafactor(1e-3, min_dim_size_to_factor=2),
    "none": lambda params: optax.sgd(1e-3),
}
# How many arrays in the place of each of the six parameters.
N_MOMENTS = {
    "adam": 12,
    "adam with a schedule": 12,
    "partition": 2 + 5,
    "chain": 12,
    "masked": 10,
    "masked by a function": 10,
    "injected": 12,
    "several steps": 18,
    "none": 0,
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_moments_are_found(name):
    params = make_params(N)
    optimizer = OPTIMIZERS[name](params)
    state = init(optimizer, params)
    mapped = densify.map_moments(lambda leaf: leaf + 1, optimizer, state, params)
    assert jax.tree.structure(mapped) == jax.tree.structure(state)
    n_changed = 0
    shapes = {value.shape for value in params.values()}
    for before, after in zip(jax.tree.leaves(state), jax.tree.leaves(mapped), strict=True):
        assert before.dtype == after.dtype
        assert before.shape == after.shape
        if np.array_equal(before, after):
            continue
        assert before.shape in shapes
        np.testing.assert_array_equal(after, before + 1)
        n_changed += 1
    if name in N_MOMENTS:
        assert n_changed == N_MOMENTS[name]
    # The optimiser goes on with it, inside jit.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        jitted = jax.jit(
            lambda state: optimizer.update(
                params, densify.map_moments(jnp.zeros_like, optimizer, state, params), params
            )
        )
        _, after = jitted(state)
    assert jax.tree.structure(after) == jax.tree.structure(state)


def test_moments_of_some_parameters_only():
    params = make_params(N)
    state = used_adam(params)
    mapped = densify.map_moments(jnp.zeros_like, ADAM, state, params, ("opacity_logits",))
    for before, after in zip(moments(state), moments(mapped), strict=True):
        for name in params:
            if name == "opacity_logits":
                assert not np.any(after[name])
            else:
                same_bits(after[name], before[name], name)
