"""Tests adaptive density control: statistics, clone, split, prune, reset."""

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

N, CAPACITY, EXTENT = 20, 32, 2.0
SMALL, LARGE = np.log(0.01), np.log(0.1)  # percent_dense * extent is 0.02
STRATEGY = densify.Adc(threshold=0.5)


def make_population(n=N, capacity=CAPACITY, large=(), logit=0.0):
    """All of opacity 0.5; those in ``large`` are split, the others cloned."""
    params = make_params(n, seed=2)
    log_scales = np.full((n, 3), SMALL) + np.log([1, 0.8, 0.6])
    log_scales[list(large)] += LARGE - SMALL
    params["log_scales"] = jnp.asarray(log_scales, jnp.float32)
    params["opacity_logits"] = jnp.full(n, logit, jnp.float32)
    return densify.pad(params, capacity)


def state_with(population, gradients, views=1, **changed):
    """A state in which slot ``i`` has the mean gradient ``gradients[i]``."""
    n = population.capacity
    values = np.zeros(n, np.float32)
    for i, gradient in gradients.items():
        values[i] = gradient * views
    fields = {
        "gradients": jnp.asarray(values),
        "views": jnp.full(n, views, jnp.int32),
        "sizes": jnp.zeros(n),
        "was_reset": jnp.array(False),
    }
    return densify.AdcState(**{**fields, **changed})


def refine(population, state, strategy=STRATEGY, key=0, reset=False):
    """After, Adam's state before and after, and the state."""
    opt_state = used_adam(population.params)
    info = densify.RefineInfo(key=jax.random.key(key), extent=EXTENT, reset=reset)
    after, new_opt, new_state = refinement(strategy)(population, opt_state, state, info)
    fresh = strategy.init(after)
    for name in ("gradients", "views", "sizes"):
        same_bits(getattr(new_state, name), getattr(fresh, name), name)
    return after, (opt_state, new_opt), new_state


def assert_only_touched(before, after, opt_states, touched):
    """Other slots are the same to the bit, with their moments; those of the touched are zero."""
    others = np.setdiff1d(np.arange(N), touched)
    for name, value in before.params.items():
        same_bits(after.params[name][others], value[others], name)
    for old, new in zip(*(moments(state) for state in opt_states), strict=True):
        for name in old:
            same_bits(new[name][others], old[name][others], f"moments of {name}")
            assert not np.any(new[name][touched]), f"moments of {name}"


# Statistics


def test_statistics_are_means_over_the_views_that_draw_it():
    population = make_population()
    rng = np.random.default_rng(0)
    v_means2d = rng.normal(size=(6, CAPACITY, 2)).astype(np.float32)
    radii = rng.integers(0, 3, size=(6, CAPACITY)).astype(np.int32)
    v_means2d[2, 4] = np.nan  # counts as not seen
    update = jax.jit(STRATEGY.update)
    size = {"width": 40, "height": 30}

    state = STRATEGY.init(population)
    for v, r in zip(v_means2d, radii, strict=True):
        _, state = update(population, state, step_info(v_means2d=v, radii=r, **size))
    info = step_info(v_means2d=v_means2d, radii=radii, **size)
    same, at_once = update(population, STRATEGY.init(population), info)
    assert jax.tree.all(jax.tree.map(np.array_equal, same, population))

    norms = np.hypot(v_means2d[..., 0] * 20, v_means2d[..., 1] * 15)
    seen = (radii > 0) & np.isfinite(norms) & (np.arange(CAPACITY) < N)
    for result in (state, at_once):
        np.testing.assert_allclose(
            result.gradients, np.where(seen, norms, 0).sum(axis=0), rtol=1e-5
        )
        np.testing.assert_array_equal(result.views, seen.sum(axis=0))
        np.testing.assert_allclose(result.sizes, radii.max(axis=0) / 40, rtol=1e-6)


@pytest.mark.parametrize("absgrad", [False, True])
def test_statistics_of_a_rendering(absgrad):
    """The gradient of ``means2d_offset`` fits; that of ``absgrad_probe`` is never smaller."""
    population = make_population(large=range(N))
    camera = cameras()
    strategy = densify.Adc(absgrad=absgrad)

    def total(offset, watched):
        out = jgd.render(densify.activate(population), camera, **{watched: offset})
        return jnp.mean(jnp.square(out.image - 0.5)), out.radii

    def statistics(absgrad):
        watched = "absgrad_probe" if absgrad else "means2d_offset"
        offset = jnp.zeros((4, CAPACITY, 2), jnp.float32)
        v_means2d, radii = jax.grad(total, has_aux=True)(offset, watched)
        info = step_info(v_means2d=v_means2d, radii=radii, width=camera.width, height=camera.height)
        return strategy.update(population, strategy.init(population), info)[1]

    state, plain = statistics(absgrad), statistics(False)
    assert np.all(state.gradients[:N] > 0)
    assert np.all(state.views[:N] == 4)
    assert not np.any(state.gradients[N:])
    if absgrad:
        assert np.all(state.gradients[:N] > plain.gradients[:N])


def test_the_gradient_is_asked_for():
    population = make_population()
    with pytest.raises(ValueError, match="Adc needs v_means2d"):
        STRATEGY.update(population, STRATEGY.init(population), step_info())


@pytest.mark.slow
def test_thresholds():
    population = make_population()
    for strategy, threshold in (
        (densify.Adc(), 2e-4),
        (densify.Adc(absgrad=True), 8e-4),
        (densify.Adc(absgrad=True, threshold=3e-3), 3e-3),
    ):
        for factor, n_new in ((0.99, 0), (1.01, 1)):
            state = state_with(population, {5: factor * threshold}, views=3)
            after, _, _ = refine(population, state, strategy)
            assert int(after.n_alive()) == N + n_new


# Clone, split, prune


def test_clone():
    before = make_population()
    after, opt_states, _ = refine(before, state_with(before, {4: 1.0, 11: 0.7, 12: 0.4}))
    np.testing.assert_array_equal(after.alive, np.arange(CAPACITY) < N + 2)
    # The free slots are taken in the order of the gradients.
    for slot, source in ((N, 4), (N + 1, 11)):
        for name, value in before.params.items():
            same_bits(after.params[name][slot], value[source], name)
    assert_only_touched(before, after, opt_states, np.array([N, N + 1]))


def test_split():
    before = make_population(large=[4])
    after, opt_states, _ = refine(before, state_with(before, {4: 1.0}))
    np.testing.assert_array_equal(after.alive, np.arange(CAPACITY) < N + 1)
    for slot in (4, N):
        for name in ("quats", "opacity_logits", "sh0", "sh_rest"):
            same_bits(after.params[name][slot], before.params[name][4], name)
        np.testing.assert_allclose(
            np.exp(after.params["log_scales"][slot]),
            np.exp(before.params["log_scales"][4]) / 1.6,
            rtol=1e-6,
        )
    assert not np.array_equal(after.params["means"][4], after.params["means"][N])
    assert_only_touched(before, after, opt_states, np.array([4, N]))


@pytest.mark.slow
def test_children_are_drawn_from_the_gaussian():
    """Their places, in standard deviations along the own axes, are standard normal."""
    before = make_population(n=1, capacity=2, large=[0])
    state = state_with(before, {0: 1.0})
    opt_state = used_adam(before.params)

    @jax.vmap
    def children(key):
        info = densify.RefineInfo(key=key, extent=EXTENT)
        after, _, _ = STRATEGY.refine(before, opt_state, state, info, optimizer=ADAM)
        return after.params["means"] - before.params["means"][:1]

    offsets = np.asarray(children(jax.random.split(jax.random.key(1), 4000)), np.float64)
    whole = densify.Population(
        {name: jnp.repeat(value[:1], 3, axis=0) for name, value in before.params.items()},
        jnp.ones(3, bool),
    )
    axes = np.asarray(densify._population.from_own_axes(whole, jnp.eye(3, dtype=jnp.float32)))
    for child in (0, 1):
        own = offsets[:, child] @ np.linalg.inv(axes.astype(np.float64))
        np.testing.assert_allclose(own.mean(axis=0), 0, atol=0.07)
        np.testing.assert_allclose(np.cov(own.T), np.eye(3), atol=0.1)
    correlation = np.corrcoef(offsets[:, 0, 0], offsets[:, 1, 0])[0, 1]
    assert abs(correlation) < 0.07


def test_the_largest_gradients_win():
    """Nine candidates, clones and splits mixed, for three free slots."""
    before = make_population(capacity=N + 3, large=[2, 8, 15])
    gradients = {i: 1 + 0.1 * i for i in (1, 2, 3, 5, 8, 9, 15, 16, 19)}
    after, opt_states, _ = refine(before, state_with(before, gradients))
    assert np.all(after.alive)
    for slot, source in ((N, 19), (N + 1, 16), (N + 2, 15)):
        same_bits(after.params["sh0"][slot], before.params["sh0"][source], "source")
    assert_only_touched(before, after, opt_states, np.array([15, N, N + 1, N + 2]))


def test_pruned_slots_are_free_at_once():
    before = make_population(capacity=N, large=[3])
    dead = before.params["opacity_logits"].at[6].set(np.log(0.0049 / 0.9951))
    dead = dead.at[7].set(np.log(0.0051 / 0.9949))
    before = densify.Population({**before.params, "opacity_logits": dead}, before.alive)
    after, opt_states, _ = refine(before, state_with(before, {3: 1.0, 6: 5.0, 10: 0.8}))
    assert int(after.n_alive()) == N
    same_bits(after.params["sh0"][6], before.params["sh0"][3], "the child")
    assert_only_touched(before, after, opt_states, np.array([3, 6]))


def test_pruned_slots_keep_no_moments():
    before = make_population()
    logits = before.params["opacity_logits"].at[6].set(-9.0)
    before = densify.Population({**before.params, "opacity_logits": logits}, before.alive)
    after, opt_states, _ = refine(before, state_with(before, {}))
    np.testing.assert_array_equal(np.flatnonzero(~np.asarray(after.alive)), [6, *range(N, 32)])
    assert_only_touched(before, after, opt_states, np.array([6]))


@pytest.mark.parametrize("name", ["means", "quats", "log_scales", "opacity_logits", "sh0"])
def test_what_is_not_finite_is_pruned(name):
    before = make_population()
    params = {**before.params, name: before.params[name].at[9].set(jnp.inf)}
    after, opt_states, _ = refine(
        densify.Population(params, before.alive), state_with(before, {9: jnp.nan, 3: 1.0})
    )
    # The clone of 3 takes its slot.
    assert int(after.n_alive()) == N
    same_bits(after.params["sh0"][9], before.params["sh0"][3], "the clone")
    assert all(np.isfinite(value).all() for value in after.params.values())
    assert_only_touched(before, after, opt_states, np.array([9]))


@pytest.mark.parametrize("was_reset", [False, True])
def test_size_limits_hold_after_a_reset(was_reset):
    before = make_population()
    log_scales = before.params["log_scales"].at[5, 1].set(np.log(0.21))  # max_scale * extent: 0.2
    log_scales = log_scales.at[6, 1].set(np.log(0.19))
    log_scales = log_scales.at[7, 1].set(np.log(0.3))  # its halves are small enough
    before = densify.Population({**before.params, "log_scales": log_scales}, before.alive)
    sizes = jnp.zeros(CAPACITY).at[jnp.array([7, 10, 11, 12])].set(jnp.array([0.3, 0.3, 0.2, 0.3]))
    state = state_with(before, {7: 1.0, 12: 1.0}, sizes=sizes, was_reset=jnp.array(was_reset))
    strategy = densify.Adc(threshold=0.5, max_size=0.25)
    after, _, new_state = refine(before, state, strategy)
    # The source of a clone is as large as before; copies and halves have not been seen yet.
    pruned = [5, 10, 12] if was_reset else []
    expected = np.setdiff1d(np.arange(N + 2), pruned)
    np.testing.assert_array_equal(np.flatnonzero(after.alive), expected)
    assert bool(new_state.was_reset) == was_reset
    unlimited = densify.Adc(threshold=0.5, max_scale=None)
    after, _, _ = refine(before, state, unlimited)
    assert int(after.n_alive()) == N + 2


def test_opacity_reset():
    before = make_population(logit=2.0)
    logits = before.params["opacity_logits"].at[3].set(np.log(0.007 / 0.993))
    before = densify.Population({**before.params, "opacity_logits": logits}, before.alive)
    after, opt_states, state = refine(before, state_with(before, {}), reset=True)
    opacities = np.asarray(jax.nn.sigmoid(after.params["opacity_logits"]))[:N]
    expected = np.where(np.arange(N) == 3, 0.007, 0.01)
    np.testing.assert_allclose(opacities, expected, rtol=1e-5)
    assert bool(state.was_reset)
    for old, new in zip(*(moments(state) for state in opt_states), strict=True):
        assert not np.any(new["opacity_logits"])
        same_bits(new["means"][:N], old["means"][:N], "moments of means")
    same_bits(after.params["means"][:N], before.params["means"][:N], "means")


@pytest.mark.slow
@pytest.mark.parametrize("n, capacity", [(0, 4), (1, 1), (2, 1_0), (N, N)])
def test_any_fill(n, capacity):
    """No Gaussian, capacity 1, capacity reached: bounded, and finite."""
    before = make_population(n=n, capacity=capacity, large=range(n // 2))
    state = state_with(before, {i: 1.0 for i in range(capacity)})
    after, _, _ = refine(before, state)
    assert int(after.n_alive()) == min(2 * n, capacity)
    assert all(np.isfinite(value).all() for value in after.params.values())
    if n == capacity:
        for name, value in before.params.items():
            same_bits(after.params[name], value, name)


def test_everything_dies():
    before = make_population(logit=-9.0)
    after, _, _ = refine(before, state_with(before, {i: 1.0 for i in range(N)}))
    assert int(after.n_alive()) == 0
    again, _, _ = refine(after, state_with(after, {}))
    assert int(again.n_alive()) == 0


def test_the_same_key_gives_the_same_bits():
    before = make_population(large=range(N))
    state = state_with(before, {i: 1.0 for i in range(N)})
    once, again, other = (refine(before, state, key=key)[0] for key in (5, 5, 6))
    for a, b in zip(jax.tree.leaves(once), jax.tree.leaves(again), strict=True):
        same_bits(a, b, "same key")
    assert not np.array_equal(once.params["means"], other.params["means"])


# Settings


def test_schedule():
    strategy = densify.Adc(start=10, stop=61, every=10, reset_every=30)
    assert [step for step in range(100) if strategy.refines_at(step)] == [20, 30, 40, 50, 60]
    assert [step for step in range(100) if strategy.resets_at(step)] == [30, 60]
    never = densify.Adc(start=10, stop=61, every=10, reset_every=0)
    assert not any(never.resets_at(step) for step in range(100))
    assert float(strategy.penalty(make_population())) == 0


@pytest.mark.parametrize(
    "values, message",
    [
        ({"every": 0}, "every must be at least 1"),
        ({"reset_every": 250}, "multiple of every = 100"),
        ({"reset_opacity": 0.001}, "min_opacity < reset_opacity"),
        ({"threshold": 0.0}, "threshold"),
        ({"max_size": -1.0}, "max_size"),
    ],
)
def test_settings_out_of_range(values, message):
    with pytest.raises(ValueError, match=message):
        densify.Adc(**values)
