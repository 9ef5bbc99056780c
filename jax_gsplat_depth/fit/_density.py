"""Makes the strategy of density control that the settings of a fit ask for."""

from jax_gsplat_depth.densify import Adc, Mcmc, Strategy
from jax_gsplat_depth.fit._settings import FitSettings


def make_strategy(settings: FitSettings, extent: float) -> Strategy | None:
    """Return the strategy, or None if the number of Gaussians is fixed.

    Its schedule is relative to the number of steps, and what it measures in world units relative to
    the extent of the scene, so that neither changes what it does.

    Args:
        settings: The settings.
        extent: World units; see ``scene_extent``.
    """
    schedule = {
        "start": round(settings.densify_start * settings.steps),
        "stop": round(settings.densify_stop * settings.steps),
        "every": settings.densify_every,
    }
    if settings.densify == "mcmc":
        return Mcmc(
            **schedule,
            min_opacity=settings.mcmc.min_opacity,
            growth=settings.mcmc.growth,
            # The noise has the learning rate and a covariance as factors, world units cubed.
            noise=settings.mcmc.noise / extent**2,
            opacity_weight=settings.mcmc.opacity_weight,
            scale_weight=settings.mcmc.scale_weight / extent,
        )
    if settings.densify == "adc":
        return Adc(
            **schedule,
            reset_every=settings.adc.reset_every * settings.densify_every,
            threshold=settings.adc.threshold,
            absgrad=settings.adc.absgrad,
        )
    return None
