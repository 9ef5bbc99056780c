"""Puts Gaussians into a frame of their own, in which float32 and the near plane suit them."""

from __future__ import annotations

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from jax_gsplat_depth._common.local_frame import LocalFrame
from jax_gsplat_depth._cpu import ALPHA_MIN
from jax_gsplat_depth._types import Gaussians

SMALL = 0.1
"""Gaussians below this quantile of size are weighted as if they had it: specks are no detail."""

_SIZES = 100.0
"""Sizes of the detail in a unit: the near plane, a hundredth, is about one of them away."""

_REACH = 3.0
"""Radius of a Gaussian in standard deviations."""

_MOST = 100_000
"""Gaussians that are looked at, evenly chosen, if there are twice as many or more."""

_LEAST = 1e-6
"""Least unit relative to the radius of the scene, whose far side is in front of the far plane."""


@dataclasses.dataclass(frozen=True)
class Detail:
    """The ``M`` Gaussians of a scene that can be drawn, and how much each counts as its detail.

    Of many, some stand for all.

    A fit makes near surfaces of small Gaussians and the background of large ones. With opacity over
    squared size as weight, neither a backdrop nor floaters nor many faint Gaussians count much.

    Attributes:
        means: ``[M, 3]`` float64.
        sizes: ``[M]`` float64 largest standard deviation of each.
        opacities: ``[M]`` float64.
        weights: ``[M]`` float64, positive.
    """

    means: np.ndarray
    sizes: np.ndarray
    opacities: np.ndarray
    weights: np.ndarray

    @classmethod
    def of(cls, gaussians: Gaussians) -> Detail:
        """Select what can be drawn, as far as the Gaussians themselves decide it."""
        drawn = np.flatnonzero(_drawable(gaussians))
        drawn = drawn[:: max(1, len(drawn) // _MOST)]
        means = np.asarray(gaussians.means, np.float64)[drawn]
        opacities = np.asarray(gaussians.opacities, np.float64)[drawn]
        sizes = _sizes(gaussians)[drawn]
        least = np.quantile(sizes, SMALL) if len(sizes) else 1.0
        return cls(means, sizes, opacities, opacities / np.square(np.maximum(sizes, least) / least))


@dataclasses.dataclass(frozen=True)
class LocalScene:
    """Gaussians in a local frame.

    Attributes:
        gaussians: In local coordinates and units.
        frame: Where these are in the world.
    """

    gaussians: Gaussians
    frame: LocalFrame

    @classmethod
    def of(
        cls, gaussians: Gaussians | LocalScene, origin: ArrayLike = (0.0, 0.0, 0.0)
    ) -> LocalScene:
        """Choose a frame for Gaussians and move them there; a scene is returned as it is.

        The unit follows from the sizes of the Gaussians and the distances between them, so the same
        scene in other units, or elsewhere, is the same in its frame.

        Args:
            gaussians: Activated, in world units.
            origin: ``[3]`` position in the world to which ``means`` are relative, as a file says
                whose Gaussians are far from the zero of the world (``io.Tags``).
        """
        if isinstance(gaussians, LocalScene):
            return gaussians
        frame = _frame_of(gaussians, origin)
        if frame.unit == 1 and np.array_equal(frame.origin, origin):
            return cls(gaussians, frame)
        return cls(_moved(gaussians, frame, origin), frame)


def weighted_quantile(values: np.ndarray, weights: np.ndarray, fraction: float) -> float:
    """Return the least value at or below which the given fraction of the weight lies."""
    order = np.argsort(values)
    below = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(below, fraction * below[-1])])


def _frame_of(gaussians: Gaussians, origin: ArrayLike) -> LocalFrame:
    detail = Detail.of(gaussians)
    if len(detail.means) == 0:
        return LocalFrame(np.asarray(origin, np.float64), 1.0)
    center = np.array([weighted_quantile(axis, detail.weights, 0.5) for axis in detail.means.T])
    size = weighted_quantile(detail.sizes, detail.weights, 0.5)
    distances = np.linalg.norm(detail.means - center, axis=1)
    radius = weighted_quantile(distances, detail.weights, 0.9) + _REACH * size
    length = max(min(radius, _SIZES * size), _LEAST * radius)
    return LocalFrame.around(center, length, origin)


def _moved(gaussians: Gaussians, frame: LocalFrame, origin: ArrayLike) -> Gaussians:
    dtype = gaussians.means.dtype
    changed = {"means": frame.local_points(np.asarray(gaussians.means), origin)}
    for name, power in (("scales", 1), ("covars", 2)):
        values = getattr(gaussians, name)
        if values is not None:
            changed[name] = np.asarray(values, np.float64) / frame.unit**power
    with np.errstate(over="ignore"):  # What is infinite is not drawn, like all that is so far away.
        arrays = {name: jnp.asarray(array.astype(dtype)) for name, array in changed.items()}
    return dataclasses.replace(gaussians, **arrays)


def _drawable(gaussians: Gaussians) -> np.ndarray:
    """Return ``[N]`` bool: finite, with a size, a rotation, and an opacity that can be seen."""
    drawn = np.asarray(gaussians.opacities) > ALPHA_MIN
    for field in dataclasses.fields(gaussians):
        value = getattr(gaussians, field.name)
        if value is not None:
            finite = np.isfinite(np.asarray(value))
            if field.name == "colors" and finite.ndim == 3:  # a set for each camera
                finite = finite.all(axis=0)
            drawn &= finite.reshape(len(drawn), math.prod(finite.shape[1:])).all(axis=1)
    if gaussians.scales is not None:
        drawn &= (np.asarray(gaussians.scales) > 0).all(axis=1)
    if gaussians.quats is not None:
        drawn &= (np.asarray(gaussians.quats) != 0).any(axis=1)
    return drawn & (_sizes(gaussians) > 0)


def _sizes(gaussians: Gaussians) -> np.ndarray:
    """Return the largest standard deviation ``[N]``, for covariances that along a world axis."""
    if gaussians.scales is not None:
        return np.asarray(gaussians.scales, np.float64).max(axis=1)
    covars = np.asarray(gaussians.covars, np.float64)
    diagonal = covars[:, [0, 3, 5]] if covars.ndim == 2 else np.diagonal(covars, axis1=1, axis2=2)
    return np.sqrt(np.maximum(diagonal.max(axis=1), 0))
