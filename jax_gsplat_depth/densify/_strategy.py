"""Declares the interface between a training loop and a strategy of density control.

A strategy is static: everything that changes travels through its arguments and its state, so that
its methods can be jitted.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol

import jax
from jax import Array
from jax.typing import ArrayLike

from jax_gsplat_depth._common.by_shape import shown_by_shape
from jax_gsplat_depth.densify._population import Population


@shown_by_shape
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class StepInfo:
    """What one step of the optimiser has shown; a strategy reads what it needs.

    Attributes:
        key: A JAX random key, another one for each step.
        lr_means: Learning rate of the means in this step, world units; may be traced.
        radii: ``[N_max]`` or ``[C, N_max]``, as ``render`` returns it: 0 where not drawn.
        width: Width of the images, pixels.
        height: Height of the images, pixels.
        v_means2d: ``[N_max, 2]`` or ``[C, N_max, 2]``, 1 / pixels: gradient of ``means2d_offset``
            of ``render``, or of ``absgrad_probe`` for strategies with ``absgrad``. Only strategies
            with ``needs_means2d`` read it.
    """

    key: Array
    lr_means: ArrayLike
    radii: ArrayLike
    width: int = dataclasses.field(metadata={"static": True})
    height: int = dataclasses.field(metadata={"static": True})
    v_means2d: ArrayLike | None = None


@shown_by_shape
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class RefineInfo:
    """What a refinement has to know besides the population; a strategy reads what it needs.

    Attributes:
        key: A JAX random key, another one for each refinement.
        extent: Size of the scene, world units: in 3DGS 1.1 times the largest distance of a camera
            from their mean. May be traced.
        reset: Whether to reset the opacities: ``resets_at(step)``. May be traced, so that one
            compilation serves both.
    """

    key: Array
    extent: ArrayLike
    reset: ArrayLike = False


class Strategy(Protocol):
    """What a training loop calls: ``Mcmc``, ``Adc`` or one of your own.

    ``init`` once; in each step ``penalty`` in the loss and ``update`` after the optimiser; after
    the steps that ``refines_at`` names ``refine``. All but the schedule are pure, have static
    shapes and work inside ``jax.jit``, ``jax.lax.scan`` and ``cond``.
    """

    @property
    def needs_means2d(self) -> bool:
        """Whether ``update`` reads ``StepInfo.v_means2d``, whose computation takes time."""
        ...

    @property
    def absgrad(self) -> bool:
        """Whether that gradient sums the absolute values of the pixels' gradients."""
        ...

    @property
    def has_penalty(self) -> bool:
        """Whether ``penalty`` is ever anything but 0."""
        ...

    def refines_at(self, step: int) -> bool:
        """Whether ``refine`` follows step number ``step``, counted from 1. On the host."""
        ...

    def resets_at(self, step: int) -> bool:
        """Whether that ``refine`` resets the opacities. On the host."""
        ...

    def init(self, population: Population) -> Any:
        """Return the state before the first step."""
        ...

    def penalty(self, population: Population) -> Array:
        """Return what is added to the loss, a scalar."""
        ...

    def update(self, population: Population, state: Any, info: StepInfo) -> tuple[Population, Any]:
        """Return population and state after a step of the optimiser.

        Args:
            population: After the optimiser's step.
            state: As ``init`` or the last call returned it.
            info: What the step has shown.
        """
        ...

    def refine(
        self,
        population: Population,
        opt_state: Any,
        state: Any,
        info: RefineInfo,
        *,
        optimizer: Any,
    ) -> tuple[Population, Any, Any]:
        """Add and remove Gaussians; return population, optimiser state and state.

        Args:
            population: After ``update``.
            opt_state: State of the optimiser.
            state: As ``update`` returned it.
            info: What the refinement has to know.
            optimizer: The ``optax.GradientTransformation`` of ``population.params``; static.
        """
        ...
