"""Makes populations, Optax states and a small training for the tests of density control."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jax_gsplat_depth as jgd
from jax_gsplat_depth import densify, losses

WIDTH, HEIGHT, N_VIEWS = 40, 32, 4
RATES = {"means": 5e-3, "quats": 5e-3, "log_scales": 2e-2, "opacity_logits": 5e-2, "sh0": 2e-2}


def make_params(n, *, bases=4, seed=0, spread=0.6, sigma=0.1):
    """Random free parameters; quaternions are not normalised."""
    rng = np.random.default_rng(seed)
    arrays = {
        "means": rng.uniform(-spread, spread, (n, 3)),
        "quats": rng.normal(size=(n, 4)),
        "log_scales": np.log(sigma) + 0.4 * rng.normal(size=(n, 3)),
        "opacity_logits": 1.5 * rng.normal(size=n),
        "sh0": rng.normal(size=(n, 1, 3)),
        "sh_rest": 0.2 * rng.normal(size=(n, bases - 1, 3)),
    }
    return {name: jnp.asarray(value, jnp.float32) for name, value in arrays.items()}


def init(optimizer, params):
    """The optimiser's state; Optax relies on standard promotion."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return optimizer.init(params)


ADAM = optax.adam(1e-2)


@functools.cache
def refinement(strategy):
    """The jitted refinement for Adam, one for all tests: compiling takes longer than running."""
    return jax.jit(functools.partial(strategy.refine, optimizer=ADAM))


def used_adam(params, seed=0):
    """A state of ``ADAM`` all of whose moments are above zero."""
    rng = np.random.default_rng(seed)
    return densify.map_moments(
        lambda leaf: jnp.asarray(rng.uniform(1, 2, leaf.shape), leaf.dtype),
        ADAM,
        init(ADAM, params),
        params,
    )


def moments(opt_state):
    """Adam's two moments, ``{name: [N, ...]}`` each."""
    return opt_state[0].mu, opt_state[0].nu


def step_info(**shown):
    """What a step has shown; what a test does not name is never read in it."""
    values = {"key": jax.random.key(0), "lr_means": 0.0, "radii": None, "width": 1, "height": 1}
    return densify.StepInfo(**{**values, **shown})


def cameras(n=N_VIEWS, width=WIDTH, height=HEIGHT):
    angles = np.linspace(0, 1.2 * np.pi, n)
    eyes = np.stack([2.5 * np.cos(angles), 2.5 * np.sin(angles), np.full(n, 0.6)], axis=1)
    return jgd.Camera.look_at(
        jnp.asarray(eyes, jnp.float32),
        jnp.zeros(3, jnp.float32),
        fov_x=jnp.float32(0.7),
        width=width,
        height=height,
    )


@functools.cache
def targets(n=150, seed=7):
    """Images ``[C, H, W, 3]`` of a random cloud."""
    truth = densify.activate(densify.pad(make_params(n, seed=seed, sigma=0.07), n))
    return jgd.render(truth, cameras()).image


def make_step(strategy, optimizer, photos, camera):
    """One step of a training on all views: loss, optimiser, ``update``."""
    watched = "absgrad_probe" if strategy.absgrad else "means2d_offset"

    def step(key, population, opt_state, state, sh_degree):
        offset = jnp.zeros((len(photos), population.capacity, 2), jnp.float32)

        def loss_fn(params, offset):
            trial = densify.Population(params, population.alive)
            gaussians = densify.activate(trial, sh_degree)
            out = jgd.render(gaussians, camera, **{watched: offset})
            loss = losses.l1(out.image, photos)
            return loss + strategy.penalty(trial), out

        gradient = jax.value_and_grad(loss_fn, argnums=(0, 1), has_aux=True)
        (loss, out), (v_params, v_means2d) = gradient(population.params, offset)
        updates, opt_state = optimizer.update(v_params, opt_state, population.params)
        params = optax.apply_updates(population.params, updates)
        info = densify.StepInfo(
            key=key,
            lr_means=RATES["means"],
            radii=out.radii,
            width=camera.width,
            height=camera.height,
            v_means2d=v_means2d,
        )
        population, state = strategy.update(
            densify.Population(params, population.alive), state, info
        )
        mse = jnp.mean(jnp.square(out.image - photos))
        return population, opt_state, state, (loss, -10 * jnp.log10(mse))

    return step


def make_optimizer():
    rates = {**RATES, "sh_rest": 2e-3}
    return optax.partition(
        {name: optax.adam(rate, eps=1e-15) for name, rate in rates.items()},
        {name: name for name in rates},
    )


@functools.cache
def compiled(strategy):
    """The optimiser, and the jitted step and refinement that serve all trainings."""
    optimizer = make_optimizer()
    step = jax.jit(make_step(strategy, optimizer, targets(), cameras()))
    refine = jax.jit(functools.partial(strategy.refine, optimizer=optimizer))
    return optimizer, step, refine


def train(strategy, population, steps, *, density=True, seed=0):
    """Train in a Python loop: the population, PSNR before the last step, counts of the living."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        optimizer, step_fn, refine = compiled(strategy)
        opt_state, state = optimizer.init(population.params), strategy.init(population)
        psnr, counts = None, []
        for step in range(1, steps + 1):
            step_key, refine_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), step))
            degree = jnp.int32(step * 2 // (steps + 1))
            population, opt_state, state, (_, psnr) = step_fn(
                step_key, population, opt_state, state, degree
            )
            if density and strategy.refines_at(step):
                info = densify.RefineInfo(
                    key=refine_key, extent=2.5, reset=strategy.resets_at(step)
                )
                population, opt_state, state = refine(population, opt_state, state, info)
            counts.append(int(population.n_alive()))
    return population, float(psnr), counts
