"""What can be chosen about a fit, with the defaults of the command."""

import dataclasses
import math
import numbers
from typing import Any, Literal, get_args

Densify = Literal["mcmc", "adc", "none"]
DepthLoss = Literal["none", "l1", "disparity", "ssi", "pearson"]


_WHOLE = ("steps", "max_gaussians", "densify_every", "adc_reset_every", "seed", "sh_degree")
_MCMC_AMOUNTS = ("mcmc_growth", "mcmc_noise", "mcmc_opacity_weight", "mcmc_scale_weight")


class FitError(ValueError):
    """A capture or a setting cannot be used; the message is one sentence for the user."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitSettings:
    """Settings of one fit.

    The defaults are those of the command line. Learning rates begin at two to four times those of
    3DGS, whose schedule is 15 times longer; they were chosen by the held-out PSNR of the built-in
    capture and of two sets of photos.

    Attributes:
        steps: Optimiser steps, one rendered view each.
        max_gaussians: How many Gaussians there may be.
        initial_fraction: Fraction of ``max_gaussians`` to start with, unless ``densify`` is "none".
        densify: What adds and removes Gaussians: "mcmc", "adc" (see ``densify.Mcmc`` and
            ``densify.Adc``) or "none".
        densify_start: Fraction of the steps before density control begins.
        densify_stop: Fraction of the steps after which it ends.
        densify_every: Steps from one refinement of the density to the next.
        mcmc_growth: Share of the Gaussians that a refinement adds.
        mcmc_min_opacity: Gaussians of this opacity or less are moved elsewhere.
        mcmc_noise: Strength of the noise, for a scene of extent 1.
        mcmc_opacity_weight: Weight of the mean opacity in the loss.
        mcmc_scale_weight: Weight of the mean scale, in scene extents, in the loss.
        adc_threshold: Gradient above which a Gaussian is cloned or split, see ``densify.Adc``.
        adc_absgrad: Whether that gradient is a sum of absolute values.
        adc_reset_every: Refinements from one reset of the opacities to the next; 0 for none.
        seed: 0..2^32 - 1. Decides the initial Gaussians and the order of the views.
        sh_degree: Highest degree of the spherical harmonics, 0..4.
        sh_warmup: Fraction of the steps over which the degree rises from 0 to ``sh_degree``.
        ssim_weight: Weight of 1 - SSIM in the loss; L1 has the rest.
        alpha_weight: Weight of the mean absolute difference between weight map and photo alpha;
            used only if the photos have alpha.
        depth_loss: What compares the rendered depth of a training view with the depth prior of the
            capture, or with its depth if there are no priors. "none": no depth supervision. "l1":
            mean absolute error, in median depths. "disparity": the same of the inverse depth.
            These two need depth in world units. "ssi": for depth up to a scale and a shift of each
            view. If all views see enough sparse points, these decide both and the rest is "l1";
            otherwise half the mean squared error after aligning the rendering, in variances of the
            target. "pearson": 1 minus the correlation; scale and shift stay open.
        depth_weight: Weight of the depth loss, which has no unit.
        lr_means: Learning rate of the centres, in scene extents; falls exponentially.
        lr_means_final: What ``lr_means`` falls to, as a fraction of it.
        lr_final: What all the other learning rates fall to, as a fraction of them.
        lr_scales: Learning rate of the log scales.
        lr_quats: Learning rate of the quaternions.
        lr_opacities: Learning rate of the opacity logits.
        lr_sh0: Learning rate of the constant colour coefficients.
        lr_sh_rest: Learning rate of the other colour coefficients.
        initial_opacity: Opacity of the initial Gaussians, between 0 and 1.
    """

    steps: int = 2000
    max_gaussians: int = 30_000
    initial_fraction: float = 0.8
    densify: Densify = "none"
    densify_start: float = 0.05
    densify_stop: float = 0.8
    densify_every: int = 50
    mcmc_growth: float = 0.05
    mcmc_min_opacity: float = 0.005
    mcmc_noise: float = 5e5
    mcmc_opacity_weight: float = 0.01
    mcmc_scale_weight: float = 0.01
    adc_threshold: float | None = None
    adc_absgrad: bool = True
    adc_reset_every: int = 0
    seed: int = 0
    sh_degree: int = 3
    sh_warmup: float = 0.4
    ssim_weight: float = 0.2
    alpha_weight: float = 0.1
    depth_loss: DepthLoss = "none"
    depth_weight: float = 1.0
    lr_means: float = 6e-4
    lr_means_final: float = 0.01
    lr_final: float = 0.5
    lr_scales: float = 1.5e-2
    lr_quats: float = 2e-3
    lr_opacities: float = 5e-2
    lr_sh0: float = 7e-3
    lr_sh_rest: float = 3.5e-4
    initial_opacity: float = 0.3

    def __post_init__(self) -> None:
        """Refuse what no fit can work with.

        Raises:
            FitError: A value is outside its range.
        """
        if self.densify not in get_args(Densify):
            names = ", ".join(get_args(Densify))
            raise FitError(f"densify must be one of {names}, got {self.densify!r}")
        for name in _WHOLE:
            if not isinstance(getattr(self, name), numbers.Integral):
                raise FitError(f"{name} must be a whole number, got {getattr(self, name)}")
        for name in ("steps", "max_gaussians", "densify_every"):
            if getattr(self, name) < 1:
                raise FitError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("sh_warmup", "ssim_weight", "densify_start", "densify_stop"):
            if not 0 <= getattr(self, name) <= 1:
                raise FitError(f"{name} must be between 0 and 1, got {getattr(self, name)}")
        if self.densify_start >= self.densify_stop:
            raise FitError(
                f"densify_start must be below densify_stop, got {self.densify_start} and "
                f"{self.densify_stop}"
            )
        if not 0 < self.initial_fraction <= 1:
            raise FitError(
                f"initial_fraction must be above 0 and at most 1, got {self.initial_fraction}"
            )
        for name in ("initial_opacity", "mcmc_min_opacity"):
            if not 0 < getattr(self, name) < 1:
                raise FitError(f"{name} must be above 0 and below 1, got {getattr(self, name)}")
        for name in ("alpha_weight", "depth_weight", *_MCMC_AMOUNTS):
            if not 0 <= getattr(self, name) < math.inf:
                raise FitError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.adc_threshold is not None and not 0 < self.adc_threshold < math.inf:
            raise FitError(f"adc_threshold must be positive, got {self.adc_threshold}")
        if self.adc_reset_every < 0:
            raise FitError(f"adc_reset_every must not be negative, got {self.adc_reset_every}")
        if self.depth_loss not in get_args(DepthLoss):
            names = ", ".join(get_args(DepthLoss))
            raise FitError(f"depth_loss must be one of {names}, got {self.depth_loss!r}")
        for field in dataclasses.fields(self):
            rate = getattr(self, field.name)
            if field.name.startswith("lr_") and not 0 < rate < math.inf:
                raise FitError(f"{field.name} must be positive, got {rate}")
        if not 0 <= self.seed < 2**32:
            raise FitError(f"seed must be between 0 and {2**32 - 1}, got {self.seed}")
        if not 0 <= self.sh_degree <= 4:
            raise FitError(f"sh_degree must be between 0 and 4, got {self.sh_degree}")

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
