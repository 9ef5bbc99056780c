"""Chooses the depth of a capture that supervises a fit, and compares the rendered depth with it.

A scale and a shift that each view may choose anew leave room for a collapse: with few views, every
view can have a compressed copy of the scene of its own right in front of its camera, and all depth
losses that are invariant to scale and shift are content. The sparse points of the capture decide
where they can.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jax_gsplat_depth import losses
from jax_gsplat_depth._common.by_shape import shown_by_shape
from jax_gsplat_depth.datasets import Capture, PosedViews
from jax_gsplat_depth.fit._settings import FitError, FitSettings

_METRIC = ("l1", "disparity")
"""The losses that need depth in world units."""

# Sparse points that a view must see so that they decide its scale and shift.
_FEWEST_POINTS = 10
# Pairs of points that are tried as the line that most points lie on.
_TRIALS = 500
# Points whose median distance from such a line is taken: enough to tell a good line from a bad one.
_JUDGES = 2000
# A point further off than this many standard deviations is hidden or wrong.
_OUTLIER = 3.0
# Standard deviation of a normal distribution, per median absolute value.
_SIGMA_PER_MEDIAN = 1.4826


@shown_by_shape
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DepthTargets:
    """What supervises the depth, of all training views or of one.

    Attributes:
        maps: ``[T, H, W]`` or ``[H, W]`` float32, 0 where nothing supervises.
        units: ``[T]`` or ``[]`` float32 lengths that the loss is measured in, so that
            ``depth_weight`` does not depend on the units of the capture: the median depth of all
            views for losses in world units, the standard deviation of the view's map otherwise.
        loss: "l1" or "disparity" with maps in world units, "ssi" or "pearson" with maps up to scale
            and shift.
    """

    maps: Array
    units: Array
    loss: str = dataclasses.field(metadata={"static": True})

    @classmethod
    def of(cls, capture: Capture, settings: FitSettings) -> "DepthTargets | None":
        """Choose the targets of the training views; None if the settings ask for no depth loss.

        These are the depth priors of the capture if it has some, else its depth. For "ssi" they are
        brought to world units by the sparse points, if every view sees enough of them, and the loss
        becomes "l1".

        Raises:
            FitError: The capture has no depth, or none in world units where the loss needs that.
        """
        loss = settings.depth_loss
        if loss == "none":
            return None
        known = capture.depths if capture.depth_priors is None else capture.depth_priors
        maps = None if known is None else capture.counted(known)[capture.train_indices]
        if maps is None or not (maps > 0).any():
            raise FitError(
                f"the depth loss {loss!r} has nothing to compare with: the training views have no "
                "depth"
            )
        if loss in _METRIC and capture.depth_priors is not None:
            raise FitError(
                f"the depth loss {loss!r} needs depth in world units, but the depth of this "
                "capture has an unknown scale and shift: use 'ssi' or 'pearson'"
            )
        aligned = align_to_points(capture, maps) if loss == "ssi" else None
        if aligned is not None:
            loss, maps = "l1", aligned
        if loss in _METRIC:
            units = np.full(len(maps), np.median(maps[maps > 0]))
        else:
            spreads = [target[target > 0].std() if (target > 0).any() else 0.0 for target in maps]
            units = np.array([spread if spread > 0 else 1.0 for spread in spreads])
        return cls(jnp.asarray(maps, jnp.float32), jnp.asarray(units, jnp.float32), loss)

    def __getitem__(self, view: Array) -> "DepthTargets":
        """Return the target of view number ``view``, which may be traced."""
        return DepthTargets(self.maps[view], self.units[view], self.loss)

    def distance(self, depth: Array) -> Array:
        """Return how far a rendered depth ``[H, W]`` is from the target of one view, ``[]``.

        It has no unit. Pixels where either has no depth do not count; with none that counts it
        is 0.
        """
        if self.loss == "l1":
            return losses.depth_l1(depth, self.maps) / self.units
        if self.loss == "disparity":
            return losses.disparity_l1(depth, self.maps) * self.units
        if self.loss == "ssi":
            return losses.scale_shift_invariant(depth, self.maps / self.units)
        return losses.pearson(depth, self.maps)


def align_to_points(capture: Capture, maps: np.ndarray) -> np.ndarray | None:
    """Bring depth maps of the training views to world units by the sparse points.

    In each view the line ``map = scale z + shift`` through the points that project into it is
    found by least median of squares (Rousseeuw 1984), since up to half of them may be hidden by
    what the view sees, and refined by least squares over the points near it.

    Args:
        capture: Posed photos.
        maps: ``[T, H, W]`` depth of the training views up to a scale and a shift of each, 0 where
            there is none.

    Returns:
        ``[T, H, W]`` z in world units, 0 where there is none. None if the capture has no sparse
        points or a view with depth sees too few of them to tell its scale.
    """
    if capture.points is None:
        return None
    views = PosedViews.training(capture)
    aligned = np.zeros(maps.shape, np.float32)
    for view, target in enumerate(maps):
        if not (target > 0).any():
            continue
        pixels, depths, inside = views.project(view, capture.points.astype(np.float64))
        columns, rows = pixels[inside].astype(np.int64).T
        values, depths = target[rows, columns].astype(np.float64), depths[inside]
        line = _robust_line(depths[values > 0], values[values > 0])
        if line is None:
            return None
        scale, shift = line
        # A map may reach below what the line gives for z = 0: such a pixel supervises nothing.
        aligned[view] = np.where(target > 0, np.maximum((target - shift) / scale, 0), 0)
    return aligned


def _robust_line(x: np.ndarray, y: np.ndarray) -> tuple[float, float] | None:
    """Return slope and intercept of y over x, ``[P]`` each; None if no rising line is there."""
    if len(x) < _FEWEST_POINTS:
        return None
    rng = np.random.default_rng(0)
    first, second = rng.integers(len(x), size=(2, _TRIALS))
    run = x[second] - x[first]
    usable = run != 0
    if not usable.any():
        return None
    first, second, run = first[usable], second[usable], run[usable]
    slopes = (y[second] - y[first]) / run
    intercepts = y[first] - slopes * x[first]
    judges = rng.permutation(len(x))[:_JUDGES]
    xs, ys = x[judges], y[judges]
    medians = [np.median(np.abs(ys - s * xs - i)) for s, i in zip(slopes, intercepts, strict=True)]
    best = int(np.argmin(medians))
    residuals = np.abs(y - slopes[best] * x - intercepts[best])
    near = residuals <= _OUTLIER * _SIGMA_PER_MEDIAN * medians[best]
    if np.ptp(x[near]) == 0:
        return None
    slope, intercept = np.polyfit(x[near], y[near], 1)
    return (float(slope), float(intercept)) if slope > 0 else None
