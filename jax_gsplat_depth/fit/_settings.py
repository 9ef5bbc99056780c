"""What can be chosen about a fit, with the defaults of the command."""

import dataclasses
import math
from typing import Any


class FitError(ValueError):
    """A capture or a setting cannot be used; the message is one sentence for the user."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitSettings:
    """Settings of one fit.

    The defaults are those of the command line. Learning rates are two to four times those of 3DGS,
    whose schedule is 15 times longer: measured on the built-in capture and on photos, the rates of
    3DGS end 1 dB lower after 1000 steps, and twice the present rates disturb the initial geometry
    so much that 14 photos of a scene end 1 dB lower as well.

    Attributes:
        steps: Optimiser steps, one rendered view each.
        max_gaussians: Number of Gaussians; fixed, since nothing is added or removed yet.
        seed: 0..2^32 - 1. Decides the initial Gaussians and the order of the views.
        sh_degree: Highest degree of the spherical harmonics, 0..4.
        sh_warmup: Fraction of the steps over which the degree rises from 0 to ``sh_degree``.
        ssim_weight: Weight of 1 - SSIM in the loss; L1 has the rest.
        alpha_weight: Weight of the mean absolute difference between weight map and photo alpha;
            used only if the photos have alpha.
        lr_means: Learning rate of the centres, in scene extents; falls exponentially.
        lr_means_final: What ``lr_means`` falls to, as a fraction of it.
        lr_scales: Learning rate of the log scales.
        lr_quats: Learning rate of the quaternions.
        lr_opacities: Learning rate of the opacity logits.
        lr_sh0: Learning rate of the constant colour coefficients.
        lr_sh_rest: Learning rate of the other colour coefficients.
        initial_opacity: Opacity of the initial Gaussians, between 0 and 1.
    """

    steps: int = 2000
    max_gaussians: int = 30_000
    seed: int = 0
    sh_degree: int = 3
    sh_warmup: float = 0.4
    ssim_weight: float = 0.2
    alpha_weight: float = 0.1
    lr_means: float = 6e-4
    lr_means_final: float = 0.01
    lr_scales: float = 1e-2
    lr_quats: float = 2e-3
    lr_opacities: float = 5e-2
    lr_sh0: float = 5e-3
    lr_sh_rest: float = 2.5e-4
    initial_opacity: float = 0.3

    def __post_init__(self) -> None:
        """Refuse what no fit can work with.

        Raises:
            FitError: A value is outside its range.
        """
        for name in ("steps", "max_gaussians"):
            if getattr(self, name) < 1:
                raise FitError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("sh_warmup", "ssim_weight"):
            if not 0 <= getattr(self, name) <= 1:
                raise FitError(f"{name} must be between 0 and 1, got {getattr(self, name)}")
        if not 0 < self.initial_opacity < 1:
            raise FitError(
                f"initial_opacity must be above 0 and below 1, got {self.initial_opacity}"
            )
        if not 0 <= self.alpha_weight < math.inf:
            raise FitError(f"alpha_weight must not be negative, got {self.alpha_weight}")
        for field in dataclasses.fields(self):
            rate = getattr(self, field.name)
            if field.name.startswith("lr_") and not 0 < rate < math.inf:
                raise FitError(f"{field.name} must be positive, got {rate}")
        if not 0 <= self.seed < 2**32:
            raise FitError(f"seed must be between 0 and {2**32 - 1}, got {self.seed}")
        if not 0 <= self.sh_degree <= 4:
            raise FitError(f"sh_degree must be between 0 and 4, got {self.sh_degree}")

    def sh_degree_at(self, step: Any) -> Any:
        """Return the degree used in step number ``step``, counted from 0, which may be traced."""
        rising = self.sh_warmup * self.steps
        starts = (math.ceil(i * rising / self.sh_degree) for i in range(1, self.sh_degree + 1))
        return sum(step >= start for start in starts)
