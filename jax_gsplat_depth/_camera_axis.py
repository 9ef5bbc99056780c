"""Adds and removes the camera axis: inside, every stage works on ``C`` cameras, even on one."""

from typing import TypeVar

import jax

Tree = TypeVar("Tree")


def with_camera_axis(arrays: Tree, has_camera_axis: bool) -> Tree:
    """Give every array of a pytree a leading camera axis of size 1, unless they have the axis."""
    return arrays if has_camera_axis else jax.tree.map(lambda x: x[None], arrays)


def without_camera_axis(arrays: Tree, had_camera_axis: bool) -> Tree:
    """Undo ``with_camera_axis`` on the results."""
    return arrays if had_camera_axis else jax.tree.map(lambda x: x[0], arrays)
