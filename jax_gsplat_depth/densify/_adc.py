"""Adds and removes Gaussians as 3D Gaussian splatting does: clone, split, prune, opacity reset."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jax_gsplat_depth._common import flax_states
from jax_gsplat_depth._common.by_shape import shown_by_shape
from jax_gsplat_depth.densify._moments import clear_moments
from jax_gsplat_depth.densify._population import (
    Population,
    free_slots,
    from_own_axes,
    healthy,
    take,
)
from jax_gsplat_depth.densify._schedule import check_schedule, in_schedule
from jax_gsplat_depth.densify._strategy import RefineInfo, StepInfo

# A Gaussian is split into two of its scales divided by this.
_SPLIT_FACTOR = 1.6


@shown_by_shape
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class AdcState:
    """What ``Adc`` has seen since the last refinement.

    Attributes:
        gradients: ``[N_max]`` float, sum over the views that draw the Gaussian of the norm of the
            gradient of its projected centre, in units of half the image's width and height.
        views: ``[N_max]`` int32, number of these views.
        sizes: ``[N_max]`` float, largest radius as a fraction of the longer side of the image.
        was_reset: Scalar bool, whether opacities have ever been reset.
    """

    gradients: Array
    views: Array
    sizes: Array
    was_reset: Array


flax_states.register(AdcState)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adc:
    """Adaptive density control (Kerbl et al. 2023), with a bound on the number of Gaussians.

    A Gaussian whose projected centre the loss pulls strongly, in the mean over the views that draw
    it, stands where there are too few: a small one is cloned, a large one is split in two. The
    transparent are pruned, and from time to time all opacities are lowered, so that Gaussians
    without use do not recover. ``update`` collects the gradients, ``refine`` does the rest.

    The methods are pure and have static shapes; all but the schedule can be jitted, and work inside
    ``jax.lax.scan`` and ``cond``.

    Attributes:
        start: No refinement up to and including this step.
        stop: No refinement from this step on.
        every: Steps from one refinement to the next.
        reset_every: Steps from one opacity reset to the next, a multiple of ``every``; 0 for no
            resets.
        threshold: Mean gradient, of a loss that is a mean over the pixels, above which a Gaussian
            is cloned or split. None for 2e-4 of 3DGS, or for 8e-4 with ``absgrad``.
        absgrad: Whether the gradients are sums over pixels of absolute values, in which opposite
            pulls on one large Gaussian do not cancel (Ye et al. 2024, AbsGS): those of
            ``absgrad_probe`` instead of ``means2d_offset``.
        percent_dense: A Gaussian is split if its largest scale is above this times ``extent``, else
            cloned.
        min_opacity: Below it a Gaussian is pruned.
        reset_opacity: Opacity to which a reset lowers all above it; above ``min_opacity``.
        max_scale: Once opacities have been reset, a Gaussian is pruned if its largest scale is
            above this times ``extent``. None for no limit.
        max_size: The same for the largest radius in any view since the last refinement, as a
            fraction of the longer side of the image. None for no limit (3DGS has one of 20 pixels,
            which its code never applies, since densification clears the radii just before).

    Raises:
        ValueError: A value is outside its range.
    """

    start: int = 500
    stop: int = 15_000
    every: int = 100
    reset_every: int = 3000
    threshold: float | None = None
    absgrad: bool = False
    percent_dense: float = 0.01
    min_opacity: float = 0.005
    reset_opacity: float = 0.01
    max_scale: float | None = 0.1
    max_size: float | None = None

    needs_means2d = True
    has_penalty = False

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_schedule(self.start, self.stop, self.every)
        if self.reset_every < 0 or self.reset_every % self.every:
            raise ValueError(
                f"reset_every must be a multiple of every = {self.every}, got {self.reset_every}"
            )
        if not 0 < self.min_opacity < self.reset_opacity < 1:
            raise ValueError(
                "0 < min_opacity < reset_opacity < 1 must hold, got "
                f"{self.min_opacity} and {self.reset_opacity}"
            )
        for name in ("threshold", "percent_dense", "max_scale", "max_size"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")

    def refines_at(self, step: int) -> bool:
        """Whether ``refine`` follows step number ``step``, counted from 1. On the host."""
        return in_schedule(step, self.start, self.stop, self.every)

    def resets_at(self, step: int) -> bool:
        """Whether that ``refine`` resets the opacities, its argument ``reset``. On the host."""
        return self.reset_every > 0 and self.refines_at(step) and step % self.reset_every == 0

    def init(self, population: Population) -> AdcState:
        """Return the state before the first step."""
        n, dtype = population.capacity, population.params["means"].dtype
        zeros = jnp.zeros(n, dtype)
        return AdcState(zeros, jnp.zeros(n, jnp.int32), zeros, jnp.zeros((), bool))

    def penalty(self, population: Population) -> Array:
        """Return 0: nothing is added to the loss."""
        return jnp.zeros((), population.params["means"].dtype)

    def update(
        self, population: Population, state: AdcState, info: StepInfo
    ) -> tuple[Population, AdcState]:
        """Collect the gradients of one step; the population is returned as it is.

        Args:
            population: After the optimiser's step.
            state: As ``init`` or the last call returned it.
            info: The gradient, the radii and the size of the images are read.

        Raises:
            ValueError: ``info`` has no ``v_means2d``.
        """
        if info.v_means2d is None:
            raise ValueError("Adc needs v_means2d, the gradient of means2d_offset of render")
        n, dtype = population.capacity, state.gradients.dtype
        radii = jnp.asarray(info.radii).reshape(-1, n)
        # From pixels to the units of the thresholds of 3DGS, in which the image is 2 by 2.
        unit = jnp.array([[[info.width / 2, info.height / 2]]], dtype)
        pulls = jnp.asarray(info.v_means2d, dtype).reshape(-1, n, 2) * unit
        norms = jnp.sqrt(jnp.sum(jnp.square(pulls), axis=-1))
        seen = (radii > 0) & population.alive[None] & jnp.isfinite(norms)
        sizes = jnp.max(radii, axis=0).astype(dtype) / max(info.width, info.height)
        state = AdcState(
            state.gradients + jnp.sum(jnp.where(seen, norms, 0), axis=0),
            state.views + jnp.sum(seen, axis=0, dtype=jnp.int32),
            jnp.maximum(state.sizes, sizes),
            state.was_reset,
        )
        return population, state

    def refine(
        self,
        population: Population,
        opt_state: Any,
        state: AdcState,
        info: RefineInfo,
        *,
        optimizer: Any,
    ) -> tuple[Population, Any, AdcState]:
        """Prune, clone, split and reset, after the steps that ``refines_at`` names.

        In this order: the transparent and those that are not finite are pruned. Those with a large
        gradient are candidates; each needs one free slot, and if there are too few the largest
        gradients win. A clone is an equal copy in the free slot. A split leaves two Gaussians of
        the same opacity and 1 / 1.6 of the scales, drawn from the distribution that the Gaussian
        is, one in its place and one in the free slot. The too large are pruned, and opacities are
        reset.

        All moments of a new Gaussian are zero, and those of the opacities after a reset; those of
        the other Gaussians stay. The statistics start from zero.

        Args:
            population: After the optimiser's step.
            opt_state: State of the optimiser.
            state: As ``update`` returned it.
            info: Random key, size of the scene, and whether opacities are reset.
            optimizer: The ``optax.GradientTransformation`` of ``population.params``; static.

        Returns:
            Population, optimiser state and state.
        """
        extent = jnp.asarray(info.extent, state.gradients.dtype)
        alive = healthy(population, self.min_opacity)
        population = dataclasses.replace(population, alive=alive)
        gradients = state.gradients / jnp.maximum(state.views, 1).astype(state.gradients.dtype)
        candidates = alive & (gradients > self._threshold())
        source, new = _assign(alive, jnp.where(candidates, gradients, -1))
        large = _largest_log_scales(population) > jnp.log(self.percent_dense * extent)
        population, touched = _clone_and_split(info.key, population, source, new, large)
        sizes = jnp.where(touched, 0, state.sizes)

        alive = population.alive & ~(state.was_reset & self._too_large(population, sizes, extent))
        reset = jnp.asarray(info.reset, bool)
        logits = population.params["opacity_logits"]
        ceiling = math.log(self.reset_opacity / (1 - self.reset_opacity))
        params = {
            **population.params,
            "opacity_logits": jnp.where(reset, jnp.minimum(logits, ceiling), logits),
        }
        # Without the moments of what has died, its slot stays as it is until it is used again.
        touched |= ~alive
        opt_state = clear_moments(touched, optimizer, opt_state, params)
        opt_state = clear_moments(
            jnp.broadcast_to(reset, alive.shape), optimizer, opt_state, params, ("opacity_logits",)
        )
        population = Population(params, alive)
        fresh = dataclasses.replace(self.init(population), was_reset=state.was_reset | reset)
        return population, opt_state, fresh

    def _threshold(self) -> float:
        if self.threshold is not None:
            return self.threshold
        return 8e-4 if self.absgrad else 2e-4

    def _too_large(self, population: Population, sizes: Array, extent: Array) -> Array:
        too_large = jnp.zeros_like(population.alive)
        if self.max_scale is not None:
            too_large |= _largest_log_scales(population) > jnp.log(self.max_scale * extent)
        if self.max_size is not None:
            too_large |= sizes > self.max_size
        return too_large


def _assign(alive: Array, priorities: Array) -> tuple[Array, Array]:
    """Give the free slots to the candidates of the highest priority.

    Args:
        alive: ``[N]`` bool; the other slots are free.
        priorities: ``[N]``, negative where there is no candidate.

    Returns:
        ``(source, new)``, ``[N]`` each: int32, the candidate that slot ``i`` was given to, or ``i``
        itself; and whether it was given to any.
    """
    order = jnp.argsort(-priorities).astype(jnp.int32)
    slots = free_slots(alive)
    new = (slots >= 0) & (slots < jnp.sum(priorities >= 0, dtype=jnp.int32))
    own = jnp.arange(alive.shape[0], dtype=jnp.int32)
    return jnp.where(new, order[jnp.maximum(slots, 0)], own), new


def _clone_and_split(
    key: Array, population: Population, source: Array, new: Array, large: Array
) -> tuple[Population, Array]:
    """Fill the new slots from their sources, and split the sources that are large.

    Args:
        key: Random key of the children's places.
        population: Before.
        source: ``[N]`` int32, see ``_assign``.
        new: ``[N]`` bool, see ``_assign``.
        large: ``[N]`` bool, whether a Gaussian is split rather than cloned.

    Returns:
        The population, and which slots ``[N]`` hold another Gaussian than before.
    """
    n_copies = jnp.zeros(population.capacity, jnp.int32).at[source].add(new.astype(jnp.int32))
    # A new slot reads its source here, every other slot itself.
    child = (large & (n_copies > 0))[source]
    population = Population(take(population, source), population.alive | new)
    means, log_scales = population.params["means"], population.params["log_scales"]
    offsets = from_own_axes(population, jax.random.normal(key, means.shape, means.dtype))
    params = {
        **population.params,
        "means": jnp.where(child[:, None], means + offsets, means),
        "log_scales": jnp.where(child[:, None], log_scales - math.log(_SPLIT_FACTOR), log_scales),
    }
    return dataclasses.replace(population, params=params), new | child


def _largest_log_scales(population: Population) -> Array:
    return jnp.max(population.params["log_scales"], axis=1)
