"""Moves and adds Gaussians as a Markov chain: relocation, growth, noise and regularisers."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jax_gsplat_depth.densify._moments import clear_moments
from jax_gsplat_depth.densify._population import (
    Population,
    free_slots,
    from_own_axes,
    healthy,
    take,
    to_own_axes,
)
from jax_gsplat_depth.densify._relocation import scale_ratio, split_opacity
from jax_gsplat_depth.densify._schedule import check_schedule, in_schedule
from jax_gsplat_depth.densify._strategy import RefineInfo, StepInfo

# Opacities stay so far below 1 that their logit is finite in float32; as in the paper's code.
_MAX_OPACITY = 1 - 2.0**-23
# Levels of an opacity as a whole number; every one is exact in float32.
_MAX_LEVELS = 2**24


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mcmc:
    """3D Gaussian splatting as Markov chain Monte Carlo (Kheradmand et al. 2024).

    Gaussians are samples of a distribution over scenes. Every step adds noise to the centres of the
    nearly transparent (``update``), and a refinement (``refine``) moves those that have become
    transparent to where opaque ones are, and adds new ones there until the capacity is reached. A
    Gaussian and the copies that join it get the opacity and the scale with which together they
    look as it did alone, see ``relocation``; so the image does not jump. Two regularisers
    (``penalty``) keep opacities and scales small, so that Gaussians without use become transparent.

    The methods are pure and have static shapes; all but the schedule can be jitted, and work inside
    ``jax.lax.scan`` and ``cond``. There is no state: ``init`` returns ``()``.

    Attributes:
        start: No refinement up to and including this step.
        stop: No refinement from this step on.
        every: Steps from one refinement to the next.
        min_opacity: A Gaussian is relocated at this opacity or below, and no copy gets less.
        growth: Share of the living that a refinement adds, rounded up, up to the capacity.
        noise: Multiplies the noise; 0 for none. The paper's value belongs to learning rates of the
            centres that are given in world units.
        noise_steepness: k in the share of the noise, sigmoid(k (1 - opacity - t)).
        noise_threshold: t there: with the paper's values, half of the noise at opacity 0.005.
        opacity_weight: Weight of the mean opacity in ``penalty``.
        scale_weight: Weight of the mean scale, world units, in ``penalty``.

    Raises:
        ValueError: A value is outside its range.
    """

    start: int = 500
    stop: int = 25_000
    every: int = 100
    min_opacity: float = 0.005
    growth: float = 0.05
    noise: float = 5e5
    noise_steepness: float = 100.0
    noise_threshold: float = 0.995
    opacity_weight: float = 0.01
    scale_weight: float = 0.01

    needs_means2d = False
    absgrad = False
    has_penalty = True

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_schedule(self.start, self.stop, self.every)
        if not 0 < self.min_opacity < 1:
            raise ValueError(f"min_opacity must be between 0 and 1, got {self.min_opacity}")
        for name in ("growth", "noise", "opacity_weight", "scale_weight"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")

    def refines_at(self, step: int) -> bool:
        """Whether ``refine`` follows step number ``step``, counted from 1. On the host."""
        return in_schedule(step, self.start, self.stop, self.every)

    def resets_at(self, step: int) -> bool:
        """Return False: opacities are never reset."""
        del step
        return False

    def init(self, population: Population) -> tuple[()]:
        """Return the state, which is empty."""
        del population
        return ()

    def penalty(self, population: Population) -> Array:
        """Return what is added to the loss: weighted means over the living, a scalar.

        Differentiable; dead slots get a gradient of 0. It is 0 if nothing is alive.
        """
        alive = population.alive
        n = jnp.maximum(population.n_alive(), 1)
        # Replaced before the functions: 0 times the derivative of an overflow is NaN.
        logits = jnp.where(alive, population.params["opacity_logits"], -jnp.inf)
        log_scales = jnp.where(alive[:, None], population.params["log_scales"], -jnp.inf)
        opacity = jnp.sum(jax.nn.sigmoid(logits)) / n.astype(logits.dtype)
        scale = jnp.sum(jnp.exp(log_scales)) / (3 * n).astype(logits.dtype)
        return self.opacity_weight * opacity + self.scale_weight * scale

    def update(
        self, population: Population, state: tuple[()], info: StepInfo
    ) -> tuple[Population, tuple[()]]:
        """Add the noise of Langevin dynamics to the centres, after every optimiser step.

        A centre moves by ``noise * lr_means * sigmoid(k (1 - o - t)) * Sigma eta``, where ``eta``
        is standard normal and ``Sigma`` the covariance, so that it mostly stays on its surface.

        Args:
            population: After the optimiser's step.
            state: As ``init`` returns it.
            info: Random key and learning rate of the means are read.

        Returns:
            Population and state.
        """
        means = population.params["means"]
        opacities = jax.nn.sigmoid(population.params["opacity_logits"])
        share = jax.nn.sigmoid(self.noise_steepness * (1 - opacities - self.noise_threshold))
        amount = self.noise * jnp.asarray(info.lr_means, means.dtype) * share
        eta = jax.random.normal(info.key, means.shape, means.dtype)
        moved = means + amount[:, None] * from_own_axes(population, to_own_axes(population, eta))
        # A Gaussian that is not finite stays where it is: refine relocates it.
        moves = population.alive[:, None] & jnp.isfinite(moved)
        params = {**population.params, "means": jnp.where(moves, moved, means)}
        return dataclasses.replace(population, params=params), state

    def refine(
        self,
        population: Population,
        opt_state: Any,
        state: tuple[()],
        info: RefineInfo,
        *,
        optimizer: Any,
    ) -> tuple[Population, Any, tuple[()]]:
        """Relocate the transparent and add new ones, after the steps that ``refines_at`` names.

        Living Gaussians with an opacity of at most ``min_opacity``, or that are not finite, are
        relocated. They and the new ones, which take the first dead slots, each draw a source with a
        probability proportional to its opacity, with replacement, among the healthy. The source and
        all that drew it get its parameters with the opacity and scale of ``relocation``, and
        moments of zero, as in the paper's code for the source: Adam's statistics belong to a larger
        and more opaque Gaussian. Where the new opacity would fall below ``min_opacity``, it stays
        there and the scale follows. With nothing healthy, nothing happens.

        Relocation and growth are one draw here and two in the paper's code, where the second sees
        the opacities that the first has left.

        Args:
            population: After ``update``.
            opt_state: State of the optimiser.
            state: As ``init`` returns it.
            info: The random key is read.
            optimizer: The ``optax.GradientTransformation`` of ``population.params``; static.

        Returns:
            Population, optimiser state and state.
        """
        alive = population.alive
        usable = healthy(population, self.min_opacity)
        n_alive = population.n_alive()
        n_new = jnp.ceil(self.growth * n_alive.astype(jnp.float32)).astype(jnp.int32)
        slots = free_slots(alive)
        new = (slots >= 0) & (slots < n_new)
        filled = ((alive & ~usable) | new) & jnp.any(usable)

        logits = jnp.where(usable, population.params["opacity_logits"], 0)
        opacities = jax.nn.sigmoid(logits)
        drawn = _draw(info.key, jnp.where(usable, opacities, 0))
        source = jnp.where(filled, drawn, jnp.arange(population.capacity, dtype=jnp.int32))
        copies = jnp.zeros(population.capacity, jnp.int32).at[source].add(filled.astype(jnp.int32))

        joined = copies > 0
        n = (1 + copies).astype(logits.dtype)
        # log(1 - o) from the logit: 1 - o itself has no digits left near opacity 1.
        new_opacities = jnp.clip(
            split_opacity(jax.nn.softplus(logits), n), self.min_opacity, _MAX_OPACITY
        )
        new_logits = jnp.log(new_opacities) - jnp.log1p(-new_opacities)
        log_ratio = jnp.log(scale_ratio(opacities, new_opacities, n))
        log_scales = population.params["log_scales"]
        params = take(
            population,
            source,
            opacity_logits=jnp.where(joined, new_logits, population.params["opacity_logits"]),
            log_scales=jnp.where(joined[:, None], log_scales + log_ratio[:, None], log_scales),
        )
        opt_state = clear_moments(filled | joined, optimizer, opt_state, population.params)
        return Population(params, alive | filled), opt_state, state


def _draw(key: Array, weights: Array) -> Array:
    """Return ``[N]`` int32 indices, each drawn with a probability proportional to its weight.

    By the inverse of the cumulated weights, which are whole numbers: a sum in float32 would lose
    the small ones among a million. Weights are from 0 to 1; one of 0 is not drawn, if any is above.
    """
    n = weights.shape[0]
    levels = min((2**32 - 1) // n, _MAX_LEVELS)
    cumulated = jnp.cumsum(jnp.round(weights * levels).astype(jnp.uint32))
    total = jnp.maximum(cumulated[-1], jnp.uint32(1))
    numbers = jax.random.randint(key, (n,), jnp.uint32(0), total, jnp.uint32)
    drawn = jnp.searchsorted(cumulated, numbers, side="right")
    return jnp.minimum(drawn, n - 1).astype(jnp.int32)
