"""Moves captures and Gaussians to other units and another place: no picture may change."""

import dataclasses

import jax.numpy as jnp
import numpy as np

TURN = np.array([[0.36, 0.48, -0.8], [-0.8, 0.6, 0.0], [0.48, 0.64, 0.6]])
"""A rotation, exact to rounding."""

PLACE = np.array([0.6, -0.8, 0.05])
"""Direction of the origin."""


def moved_viewmats(viewmats, scale=1.0, origin=(0, 0, 0), turn=None):
    """World-to-camera poses for a world of which x is now scale * turn @ x + origin."""
    moved = np.array(viewmats, np.float64)
    if turn is not None:
        moved[:, :3, :3] = moved[:, :3, :3] @ turn.T
    moved[:, :3, 3] = scale * moved[:, :3, 3] - moved[:, :3, :3] @ np.asarray(origin)
    return moved


def moved_points(points, scale=1.0, origin=(0, 0, 0), turn=None):
    """Points of that world."""
    points = np.asarray(points, np.float64)
    return scale * (points if turn is None else points @ turn.T) + np.asarray(origin)


def moved_capture(capture, scale=1.0, origin=(0, 0, 0), turn=None):
    """The same capture in that world."""
    place = (scale, origin, turn)
    return dataclasses.replace(
        capture,
        viewmats=moved_viewmats(capture.viewmats, *place),
        points=None if capture.points is None else moved_points(capture.points, *place),
        depths=None if capture.depths is None else np.float32(scale * capture.depths),
    )


def scaled_gaussians(gaussians, scale):
    """The same Gaussians in other units."""
    return dataclasses.replace(
        gaussians,
        means=jnp.asarray(np.float32(scale * np.asarray(gaussians.means, np.float64))),
        scales=jnp.asarray(np.float32(scale * np.asarray(gaussians.scales, np.float64))),
    )
