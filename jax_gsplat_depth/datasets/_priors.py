"""Makes depth priors like a monocular estimator's: the truth up to scale, shift and noise."""

import dataclasses

import numpy as np

from jax_gsplat_depth._common.extras import require
from jax_gsplat_depth.datasets._capture import Capture, CaptureError

_SMOOTH_ERROR = 0.03
_WHITE_ERROR = 0.01
"""Standard deviations of the two kinds of noise, relative to the depth."""

_SMOOTH_LENGTH = 1 / 8
"""Standard deviation of the filter that makes the smooth noise, relative to the longer side."""

_SCALES = (0.3, 3.0)
"""Range of the unknown scales."""


def monocular_like(capture: Capture, seed: int = 0) -> Capture:
    """Return the capture with depth priors like those of a monocular depth estimator.

    The prior of a view is ``a d (1 + e) + b``: the true depth d with a relative error e, and an
    unknown scale a and shift b of this view. e is the sum of smooth noise (standard
    deviation 3 %, correlated over an eighth of the picture: whole objects are too near or too far)
    and white noise (1 %). a is log-uniform in 0.3..3; b is uniform between minus half of the
    smallest and plus the median of the scaled depths, so that every prior is positive.

    Args:
        capture: Posed photos with depth.
        seed: Decides scales, shifts and noise; the same seed gives the same priors.

    Returns:
        The same capture with ``depth_priors``, 0 where the depth is unknown.

    Raises:
        CaptureError: The capture has no depth.
    """
    if capture.depths is None:
        raise CaptureError("the capture has no depth to make monocular-like priors from")
    rng = np.random.default_rng([seed, 2])
    priors = [_prior(depth, rng) for depth in capture.depths]
    return dataclasses.replace(capture, depth_priors=np.stack(priors))


def _prior(depth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    known = depth > 0
    smooth = require("scipy.ndimage").gaussian_filter(
        rng.standard_normal(depth.shape), _SMOOTH_LENGTH * max(depth.shape), mode="reflect"
    )
    # The filtered noise has a mean and a spread of its own; a mean would merely change the scale.
    smooth = (smooth - smooth.mean()) / max(float(smooth.std()), 1e-12)
    white = rng.standard_normal(depth.shape)
    scale = np.exp(rng.uniform(*np.log(_SCALES)))
    position = rng.random()
    if not known.any():
        return np.zeros_like(depth)
    error = np.maximum(_SMOOTH_ERROR * smooth + _WHITE_ERROR * white, -0.5)
    scaled = np.where(known, scale * depth * (1 + error), 0)
    low, high = -0.5 * scaled[known].min(), np.median(scaled[known])
    shift = low + position * (high - low)
    return np.where(known, scaled + shift, 0).astype(np.float32)
