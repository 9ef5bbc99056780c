"""Tests MCMC density control: relocation, growth, noise, regularisers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.asserts import same_bits
from helpers.populations import (
    ADAM,
    cameras,
    make_params,
    moments,
    refinement,
    step_info,
    used_adam,
)

import jax_gsplat_depth as jgd
from jax_gsplat_depth import densify
from jax_gsplat_depth.densify import _mcmc

N, CAPACITY, DEAD = 40, 60, np.array([3, 17, 18, 39])
STRATEGY = densify.Mcmc(growth=0.1)


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


def with_transparent(params, which, opacity=0.004):
    logit = np.log(opacity / (1 - opacity))
    logits = params["opacity_logits"].at[which].set(logit)
    return {**params, "opacity_logits": logits}


def population_with_dead():
    params = with_transparent(make_params(N, seed=4), DEAD)
    # No source so opaque or faint that a clamp acts: those have tests of their own.
    logits = jnp.where(np.isin(np.arange(N), DEAD), params["opacity_logits"], 1.0)
    logits = logits.at[:10].add(jnp.where(np.isin(np.arange(10), DEAD), 0, 1.5))
    return densify.pad({**params, "opacity_logits": logits}, CAPACITY)


def refine(strategy, population, key=0, opt_state=None):
    if opt_state is None:
        opt_state = used_adam(population.params)
    info = densify.RefineInfo(key=jax.random.key(key), extent=1.0)
    after, opt_state, state = refinement(strategy)(population, opt_state, (), info)
    assert state == ()
    return after, opt_state


def sources_of(before, after):
    """Which Gaussian each slot holds now, by its SH coefficients, which relocation copies."""
    colors = np.asarray(before.params["sh0"]).reshape(before.capacity, -1)
    now = np.asarray(after.params["sh0"]).reshape(before.capacity, -1)
    equal = (now[:, None] == colors[None]).all(axis=2)
    assert (equal.sum(axis=1)[np.asarray(after.alive)] == 1).all()
    return equal.argmax(axis=1)


@pytest.mark.slow
def test_bookkeeping():
    before = population_with_dead()
    opt_state = used_adam(before.params)
    after, new_state = refine(STRATEGY, before, 0, opt_state)
    # 10 % of 40 are added in the first dead slots.
    np.testing.assert_array_equal(after.alive, np.arange(CAPACITY) < N + 4)
    filled = np.concatenate([DEAD, np.arange(N, N + 4)])
    source = sources_of(before, after)
    kept = np.setdiff1d(np.arange(CAPACITY), filled)
    np.testing.assert_array_equal(source[kept[kept < N]], kept[kept < N])
    assert not np.isin(source[filled], filled).any()

    # Opacity and scale of all that share a source are those of the closed form.
    count = np.bincount(source[: N + 4], minlength=N)
    opacities = sigmoid(before.params["opacity_logits"])
    for i in np.unique(source[filled]):
        members = np.flatnonzero(source[: N + 4] == i)
        assert len(members) == count[i] >= 2
        new, ratio = densify.relocation(jnp.float32(opacities[i]), int(count[i]))
        np.testing.assert_allclose(
            sigmoid(after.params["opacity_logits"][members]), float(new), rtol=1e-5
        )
        expected = np.exp(np.asarray(before.params["log_scales"][i])) * float(ratio)
        np.testing.assert_allclose(
            np.exp(after.params["log_scales"][members]), np.tile(expected, (len(members), 1)), 1e-5
        )
        for name in ("means", "quats", "sh0", "sh_rest"):
            values = np.asarray(after.params[name])[members]
            same_bits(
                values, np.repeat(np.asarray(before.params[name])[[i]], len(members), 0), name
            )

    # Nobody else has changed a bit, and moments are zero exactly where somebody has.
    touched = np.union1d(filled, source[filled])
    others = np.setdiff1d(np.arange(CAPACITY), touched)
    assert len(others) > 30
    for name, value in before.params.items():
        same_bits(after.params[name][others], value[others], name)
    for old, new in zip(moments(opt_state), moments(new_state), strict=True):
        for name in old:
            same_bits(new[name][others], old[name][others], f"moments of {name}")
            assert not np.any(new[name][touched])
    same_bits(new_state[0].count, opt_state[0].count, "count")


def test_the_image_stays():
    """Relocation moves a Gaussian without changing the picture much; copying would."""
    before = population_with_dead()
    after, _ = refine(densify.Mcmc(growth=0.5), before)
    assert int(after.n_alive()) == CAPACITY
    camera = cameras()
    image, new = (jgd.render(densify.activate(p), camera).image for p in (before, after))
    source = sources_of(before, after)
    copied = densify.Population(
        {name: value[source] for name, value in before.params.items()}, after.alive
    )
    plain = jgd.render(densify.activate(copied), camera).image
    change, plain_change = (float(jnp.mean(jnp.abs(x - image))) for x in (new, plain))
    assert 0 < change < 0.02
    assert change < 0.35 * plain_change


def test_sources_are_drawn_by_opacity():
    """Chi-square of 20,000 draws from weights that include zeros."""
    n = 20_000
    weights = np.zeros(n, np.float32)
    weights[[5, 77, 78, n - 1]] = [0.1, 0.2, 0.3, 0.9]
    drawn = np.asarray(jax.jit(_mcmc._draw)(jax.random.key(2), jnp.asarray(weights)))
    counts = np.bincount(drawn, minlength=n)
    assert counts[weights == 0].sum() == 0
    expected = n * weights[weights > 0] / weights.sum()
    chi_square = np.sum((counts[weights > 0] - expected) ** 2 / expected)
    assert chi_square < 16.3  # 3 degrees of freedom: 0.1 % of all seeds are above


def test_the_smallest_weight_is_drawn_and_zero_is_not():
    """One level in all, so every number is the first: the boundary between two slots."""
    weights = jnp.array([0, 0, 2.0**-24, 0], jnp.float32)
    np.testing.assert_array_equal(_mcmc._draw(jax.random.key(0), weights), 2)


@pytest.mark.slow
def test_draw_among_a_million():
    """Sums are exact: the last ones are drawn as often as the first."""
    n = 2**20
    weights = jnp.full(n, 0.01, jnp.float32)
    drawn = np.asarray(jax.jit(_mcmc._draw)(jax.random.key(0), weights))
    quarters = np.bincount(drawn * 4 // n, minlength=4)
    np.testing.assert_allclose(quarters, n / 4, rtol=0.01)
    # Of n draws with replacement from n, a share of 1 - 1/e is seen.
    np.testing.assert_allclose(len(np.unique(drawn)) / n, 1 - np.exp(-1), rtol=0.005)


def test_a_source_that_many_join():
    """51 and more copies of one: finite, and together as opaque as the one was."""
    params = with_transparent(make_params(80, seed=1), np.arange(1, 80))
    params["opacity_logits"] = params["opacity_logits"].at[0].set(6.0)
    before = densify.pad(params, 80)
    after, _ = refine(densify.Mcmc(), before)
    np.testing.assert_array_equal(sources_of(before, after), 0)
    opacities = sigmoid(after.params["opacity_logits"])
    np.testing.assert_allclose(1 - np.prod(1 - opacities), sigmoid(6.0), rtol=1e-5)


def test_opacity_does_not_fall_below_the_minimum():
    """The scale follows: what the copies cover together is still what the one covered."""
    params = with_transparent(make_params(20, seed=1), np.arange(1, 20))
    params["opacity_logits"] = params["opacity_logits"].at[0].set(np.log(0.02 / 0.98))
    before = densify.pad(params, 20)
    after, _ = refine(densify.Mcmc(), before)
    np.testing.assert_allclose(sigmoid(after.params["opacity_logits"]), 0.005, rtol=1e-5)
    ratio = np.exp(np.asarray(after.params["log_scales"] - before.params["log_scales"][:1]))
    x = np.linspace(-8, 8, 10_001)
    profile = 1 - (1 - 0.005 * np.exp(-0.5 * np.square(x / float(ratio[0, 0])))) ** 20
    np.testing.assert_allclose(np.trapezoid(profile, x), 0.02 * np.sqrt(2 * np.pi), rtol=1e-4)


def test_opacity_one_stays_finite():
    params = with_transparent(make_params(4), np.arange(1, 4))
    params["opacity_logits"] = params["opacity_logits"].at[0].set(100.0)
    after, _ = refine(densify.Mcmc(), densify.pad(params, 8))
    for name, value in after.params.items():
        assert np.isfinite(value).all(), name
    assert (sigmoid(after.params["opacity_logits"][:4]) > 0.9).all()


@pytest.mark.quick(capacity=[60])
@pytest.mark.parametrize(
    "capacity, n, expected", [(60, 40, 42), (41, 40, 41), (40, 40, 40), (60, 1, 2), (1, 1, 1)]
)
def test_growth(capacity, n, expected):
    """5 % more, rounded up, to the capacity."""
    params = {**make_params(n), "opacity_logits": jnp.zeros(n, jnp.float32)}
    after, _ = refine(densify.Mcmc(), densify.pad(params, capacity))
    np.testing.assert_array_equal(after.alive, np.arange(capacity) < expected)


def test_no_growth_and_nothing_to_relocate_changes_nothing():
    before = densify.pad({**make_params(N), "opacity_logits": jnp.zeros(N)}, CAPACITY)
    opt_state = used_adam(before.params)
    after, new_state = refine(densify.Mcmc(growth=0), before, 0, opt_state)
    for old, new in ((before, after), (opt_state, new_state)):
        for a, b in zip(jax.tree.leaves(old), jax.tree.leaves(new), strict=True):
            same_bits(b, a, "unchanged")


@pytest.mark.parametrize("n", [0, N])
@pytest.mark.parametrize("capacity", [N, CAPACITY])
def test_nothing_to_draw_from(n, capacity):
    """None alive, or only transparent ones: nothing happens."""
    params = with_transparent(make_params(N), np.arange(N))
    before = densify.pad({name: value[:n] for name, value in params.items()}, capacity)
    opt_state = used_adam(before.params)
    after, new_state = refine(densify.Mcmc(), before, 0, opt_state)
    for old, new in ((before, after), (opt_state, new_state)):
        for a, b in zip(jax.tree.leaves(old), jax.tree.leaves(new), strict=True):
            same_bits(b, a, "unchanged")


@pytest.mark.parametrize("name", ["means", "log_scales", "opacity_logits", "sh_rest"])
def test_what_is_not_finite_is_relocated(name):
    before = densify.pad(make_params(N), CAPACITY)
    params = {**before.params, name: before.params[name].at[7].set(jnp.nan)}
    opt_state = used_adam(before.params)
    opt_state = densify.map_moments(lambda leaf: leaf.at[7].set(jnp.nan), ADAM, opt_state, params)
    broken = densify.Population(params, before.alive)
    after, new_state = refine(STRATEGY, broken, 0, opt_state)
    assert np.asarray(after.alive)[7]
    for value in (*after.params.values(), *jax.tree.leaves(new_state)):
        assert np.isfinite(value).all()


def test_the_same_key_gives_the_same_bits():
    before = population_with_dead()
    once, again, other = (refine(STRATEGY, before, key)[0] for key in (5, 5, 6))
    for a, b in zip(jax.tree.leaves(once), jax.tree.leaves(again), strict=True):
        same_bits(a, b, "same key")
    assert not np.array_equal(once.params["means"], other.params["means"])


# Noise and regularisers


@pytest.mark.slow
def test_noise_has_the_covariance_of_the_gaussian():
    """Over many keys, centres scatter with Sigma Sigma^T times the square of the factor."""
    lr, noise, logit = 2e-4, 5e4, np.log(0.006 / 0.994)
    params = {**make_params(3, seed=8), "opacity_logits": jnp.full(3, logit, jnp.float32)}
    population = densify.pad(params, 4)
    strategy = densify.Mcmc(noise=noise)

    @jax.vmap
    def moved(key):
        after, _ = strategy.update(population, (), step_info(key=key, lr_means=lr))
        return after.params["means"] - population.params["means"]

    offsets = np.asarray(moved(jax.random.split(jax.random.key(0), 20_000)))
    assert not offsets[:, 3].any()
    factor = lr * noise * sigmoid(100 * (1 - 0.006 - 0.995))
    for i in range(3):
        # The covariance from the identity: R S of unit vectors is its square root.
        root = densify._population.from_own_axes
        axes = [
            root(population, jnp.tile(jnp.eye(3, dtype=jnp.float32)[k], (4, 1)))[i]
            for k in range(3)
        ]
        matrix = np.stack(axes, axis=1).astype(np.float64)
        sigma = matrix @ matrix.T
        expected = factor**2 * sigma @ sigma
        measured = np.cov(offsets[:, i].T)
        assert np.abs(measured - expected).max() < 0.04 * np.abs(expected).max()


def test_only_the_transparent_feel_the_noise():
    opacities = np.array([0.001, 0.005, 0.05, 0.5, 0.999])
    logits = jnp.asarray(np.log(opacities / (1 - opacities)), jnp.float32)
    params = {**make_params(5), "opacity_logits": logits}
    params["log_scales"] = jnp.zeros((5, 3), jnp.float32)
    population = densify.pad(params, 5)
    after, _ = densify.Mcmc(noise=1.0).update(population, (), step_info(lr_means=1.0))
    eta = np.asarray(jax.random.normal(jax.random.key(0), (5, 3)))
    shares = np.asarray(after.params["means"] - population.params["means"]) / eta
    expected = sigmoid(-100 * (opacities - 0.005))
    np.testing.assert_allclose(shares, np.repeat(expected[:, None], 3, 1), rtol=1e-2, atol=1e-6)
    for name in set(params) - {"means"}:
        same_bits(after.params[name], params[name], name)


def test_noise_leaves_the_dead_and_the_broken():
    population = densify.pad(make_params(N), CAPACITY)
    params = {**population.params}
    params["log_scales"] = params["log_scales"].at[3].set(jnp.inf)
    params["opacity_logits"] = params["opacity_logits"].at[3].set(-20)
    broken = densify.Population(params, population.alive)
    after, _ = densify.Mcmc().update(broken, (), step_info(lr_means=1e-3))
    for i in (3, slice(N, None)):
        same_bits(after.params["means"][i], params["means"][i], "means")
    assert np.isfinite(after.params["means"]).all()


def test_penalty_is_the_mean_over_the_living():
    params = make_params(N)
    strategy = densify.Mcmc(opacity_weight=0.3, scale_weight=0.7)
    expected = 0.3 * sigmoid(params["opacity_logits"]).mean()
    expected += 0.7 * np.exp(np.asarray(params["log_scales"], np.float64)).mean()
    np.testing.assert_allclose(
        float(strategy.penalty(densify.pad(params, CAPACITY))), expected, rtol=1e-6
    )


# Settings


def test_schedule():
    strategy = densify.Mcmc(start=10, stop=41, every=10)
    assert [step for step in range(100) if strategy.refines_at(step)] == [20, 30, 40]
    assert not any(strategy.resets_at(step) for step in range(100))
    assert not densify.Mcmc.needs_means2d


@pytest.mark.parametrize(
    "values, message",
    [
        ({"every": 0}, "every must be at least 1"),
        ({"start": -1}, "start and stop"),
        ({"min_opacity": 0.0}, "min_opacity"),
        ({"growth": -0.1}, "growth"),
        ({"noise": float("nan")}, "noise"),
    ],
)
def test_settings_out_of_range(values, message):
    with pytest.raises(ValueError, match=message):
        densify.Mcmc(**values)
