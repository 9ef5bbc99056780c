"""Defines the settings of a fit, with the ranges and defaults that the command has too."""

import dataclasses
import math
from typing import Annotated, Any, Literal

from jax_gsplat_depth._common.settings import (
    Amount,
    Between01,
    Count,
    Fraction,
    Positive,
    Range,
    check_settings,
)
from jax_gsplat_depth._types import Config

Densify = Literal["mcmc", "adc", "none"]
DepthLoss = Literal["none", "l1", "disparity", "ssi", "pearson"]


class FitError(ValueError):
    """A capture or a setting cannot be used; the message is one sentence for the user."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class McmcSettings:
    """Density control by MCMC; used if ``densify`` is "mcmc".

    Attributes:
        growth: Share of the Gaussians that a refinement adds.
        min_opacity: Gaussians of this opacity or less are moved elsewhere.
        noise: Strength of the noise, for a scene of extent 1.
        opacity_weight: Weight of the mean opacity in the loss.
        scale_weight: Weight of the mean scale, in scene extents, in the loss.
    """

    growth: Amount = 0.05
    min_opacity: Between01 = 0.005
    noise: Amount = 5e5
    opacity_weight: Amount = 0.01
    scale_weight: Amount = 0.01

    def __post_init__(self) -> None:
        """Refuse what no fit can work with.

        Raises:
            FitError: A value is outside its range.
        """
        check_settings(self, FitError, "mcmc.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdcSettings:
    """Adaptive density control as in 3DGS; used if ``densify`` is "adc".

    Attributes:
        threshold: Gradient above which a Gaussian is cloned or split (default: that of
            ``densify.Adc``).
        absgrad: Whether that gradient is a sum of absolute values.
        reset_every: Refinements from one reset of the opacities to the next; 0 for none.
    """

    threshold: Positive | None = None
    absgrad: bool = True
    reset_every: Annotated[int, Range(low=0, whole=True)] = 0

    def __post_init__(self) -> None:
        """Refuse what no fit can work with.

        Raises:
            FitError: A value is outside its range.
        """
        check_settings(self, FitError, "adc.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitSettings:
    """Settings of one fit.

    The defaults are those of the command line. Learning rates begin at two to four times those of
    3DGS, whose schedule is 15 times longer; they were chosen by the held-out PSNR of the built-in
    capture and of two sets of photos.

    Attributes:
        steps: Optimiser steps, one rendered view each.
        max_gaussians: How many Gaussians there may be.
        densify: What adds and removes Gaussians: "mcmc" for MCMC, "adc" for the adaptive density
            control of 3DGS, "none" for a fixed number.
        seed: Decides the initial Gaussians and the order of the views. On the CPU, the same seed
            gives the same result.
        depth_loss: What compares the rendered depth of a training view with the depth prior of the
            capture, or with its depth if there are no priors: nothing, "l1" or "disparity" for
            depth in world units, "ssi" or "pearson" for depth up to a scale and a shift of each
            view. See docs/training.md.
        depth_weight: Weight of the depth loss, which has no unit.
        antialiased: Whether to fit with the antialiasing compensation, ``Config.antialiased``; the
            file of the result says so.
        lr_means: Learning rate of the centres, in scene extents; falls exponentially.
        initial_fraction: Fraction of ``max_gaussians`` to start with, unless ``densify`` is "none".
        initial_opacity: Opacity of the initial Gaussians.
        densify_start: Fraction of the steps before density control begins.
        densify_stop: Fraction of the steps after which it ends.
        densify_every: Steps from one refinement of the density to the next.
        mcmc: Density control by MCMC.
        adc: Adaptive density control.
        sh_degree: Highest degree of the spherical harmonics, 0 to 4.
        sh_warmup: Fraction of the steps over which the degree rises from 0 to ``sh_degree``.
        ssim_weight: Weight of 1 - SSIM in the loss; L1 has the rest.
        alpha_weight: Weight of the mean absolute difference between weight map and photo alpha;
            used only if the photos have alpha.
        lr_means_final: What ``lr_means`` falls to, as a fraction of it.
        lr_final: What all the other learning rates fall to, as a fraction of them.
        lr_scales: Learning rate of the log scales.
        lr_quats: Learning rate of the quaternions.
        lr_opacities: Learning rate of the opacity logits.
        lr_sh0: Learning rate of the constant colour coefficients.
        lr_sh_rest: Learning rate of the other colour coefficients.
    """

    steps: Count = 2000
    max_gaussians: Annotated[int, Range(low=1, high=2**31 - 1, whole=True)] = 30_000
    densify: Densify = "none"
    seed: Annotated[int, Range(low=0, high=2**32 - 1, whole=True)] = 0
    depth_loss: DepthLoss = "none"
    depth_weight: Amount = 1.0
    antialiased: bool = False
    lr_means: Positive = 6e-4
    initial_fraction: Annotated[float, Range(low=0, high=1, above=True)] = 0.8
    initial_opacity: Between01 = 0.3
    densify_start: Fraction = 0.05
    densify_stop: Fraction = 0.8
    densify_every: Count = 50
    mcmc: McmcSettings = McmcSettings()
    adc: AdcSettings = AdcSettings()
    sh_degree: Annotated[int, Range(low=0, high=4, whole=True)] = 3
    sh_warmup: Fraction = 0.4
    ssim_weight: Fraction = 0.2
    alpha_weight: Amount = 0.1
    lr_means_final: Positive = 0.01
    lr_final: Positive = 0.5
    lr_scales: Positive = 1.5e-2
    lr_quats: Positive = 2e-3
    lr_opacities: Positive = 5e-2
    lr_sh0: Positive = 7e-3
    lr_sh_rest: Positive = 3.5e-4

    def __post_init__(self) -> None:
        """Refuse what no fit can work with.

        Raises:
            FitError: A value is outside its range.
        """
        check_settings(self, FitError)
        if self.densify_start >= self.densify_stop:
            raise FitError(
                f"densify_start must be below densify_stop, got {self.densify_start} and "
                f"{self.densify_stop}"
            )

    @property
    def config(self) -> Config:
        """Settings of the renderer, in the fit and for its result."""
        return Config(antialiased=self.antialiased)

    @property
    def initial_gaussians(self) -> int:
        """How many Gaussians a fit begins with."""
        if self.densify == "none":
            return self.max_gaussians
        return max(1, round(self.initial_fraction * self.max_gaussians))

    def sh_degree_at(self, step: Any) -> Any:
        """Return the degree used in step number ``step``, counted from 0, which may be traced."""
        rising = self.sh_warmup * self.steps
        starts = (math.ceil(i * rising / self.sh_degree) for i in range(1, self.sh_degree + 1))
        return sum(step >= start for start in starts)
