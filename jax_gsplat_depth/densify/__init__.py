"""Changes the number of Gaussians during training, but no shape of an array: density control.

A ``Population`` holds the parameters of up to ``N_max`` Gaussians and says which of them are alive.
Everything here is a pure function of such padded arrays, so that one compiled step and one compiled
refinement serve a whole training, and nothing is read back from the device to decide anything.
Dead slots have opacity 0 and are culled by ``render`` before they cost anything but their
projection.

- ``pad`` makes a population, ``activate`` what to render from it, ``compact`` the arrays without
  the dead slots.
- ``Mcmc`` and ``Adc`` are the two strategies. They are static settings with the methods of
  ``Strategy``, so a training loop is written once: ``init``, ``penalty`` in the loss, ``update``
  with a ``StepInfo`` after every optimiser step, ``refine`` with a ``RefineInfo`` after those that
  ``refines_at`` names.
- ``map_moments`` reaches into the state of an Optax optimiser; the strategies use it so that the
  moments follow their Gaussians.
- ``relocation`` is the closed form behind ``Mcmc``.

Which one: ``Mcmc`` fills the capacity and needs no thresholds; with ``Adc`` the capacity is only a
bound, and the thresholds decide how many Gaussians there will be. The same keys give the same
population.
"""

from jax_gsplat_depth.densify._adc import Adc, AdcState
from jax_gsplat_depth.densify._mcmc import Mcmc
from jax_gsplat_depth.densify._moments import map_moments
from jax_gsplat_depth.densify._population import Population, activate, compact, pad
from jax_gsplat_depth.densify._relocation import relocation
from jax_gsplat_depth.densify._strategy import RefineInfo, StepInfo, Strategy

__all__ = [
    "Adc",
    "AdcState",
    "Mcmc",
    "Population",
    "RefineInfo",
    "StepInfo",
    "Strategy",
    "activate",
    "compact",
    "map_moments",
    "pad",
    "relocation",
]
