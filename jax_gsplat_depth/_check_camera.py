"""Checks the numbers that a camera is built from, where they are known while tracing.

A tracer is known only when the program runs; ``Camera`` says what such numbers have to be.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer


def check_camera_values(inputs: dict[str, Any], dtype: np.dtype) -> None:
    """Raise a ValueError that names an argument whose values cannot make a camera.

    Args:
        inputs: Values of the arguments of a constructor by their names, of checked shapes.
        dtype: The type in which the camera is computed.
    """
    known = {
        name: np.asarray(value, np.float64)
        for name, value in inputs.items()
        if not any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(value))
    }
    for name, values in known.items():
        _CHECKS[name](name, values)
    if "eye" in known and "target" in known:
        # In the type that computes: there points may coincide, or the square of a distance be 0.
        with np.errstate(over="ignore"):
            ahead = known["target"].astype(dtype) - known["eye"].astype(dtype)
            squared = np.sum(ahead * ahead, axis=-1)
        if not np.all((squared >= jnp.finfo(dtype).tiny) & (squared < np.inf)):
            raise ValueError(
                f"eye and target are the same point, or too close or too far apart for {dtype}: "
                f"eye = {_short(known['eye'])}, target = {_short(known['target'])}"
            )


def _finite(name: str, values: np.ndarray) -> None:
    if not np.isfinite(values).all():
        raise ValueError(f"{name} holds NaN or infinity: {_short(values)}")


def _angle(name: str, values: np.ndarray) -> None:
    if not np.all((values > 0) & (values < np.pi)):
        raise ValueError(
            f"{name} is {_short(values)}, expected radians between 0 and pi, both excluded"
        )


def _focal(name: str, focal: np.ndarray, center: np.ndarray) -> None:
    if not np.all((focal > 0) & (focal < np.inf)):
        raise ValueError(f"{name} has the focal lengths {_short(focal)}, expected positive pixels")
    _finite(f"the principal point of {name}", center)


def _intrinsics(name: str, values: np.ndarray) -> None:
    _focal(name, values[..., [0, 1], [0, 1]], values[..., :2, 2])


def _params(name: str, values: np.ndarray) -> None:
    _focal(name, values[..., :-2], values[..., -2:])


def _quaternion(name: str, values: np.ndarray) -> None:
    _finite(name, values)
    if not (values != 0).any(axis=-1).all():
        raise ValueError(f"{name} is zero, which is no rotation: {_short(values)}")


def _pose(name: str, values: np.ndarray) -> None:
    _finite(name, values[..., :3, :])


_CHECKS = {
    "eye": _finite,
    "target": _finite,
    "up": _finite,
    "tvec": _finite,
    "qvec": _quaternion,
    "fov_x": _angle,
    "fov_y": _angle,
    "K": _intrinsics,
    "params": _params,
    "viewmat": _pose,
    "camera_to_world": _pose,
}


def _short(values: np.ndarray) -> str:
    if values.ndim == 0:
        return f"{values.item():.6g}"
    return np.array2string(values, precision=6, threshold=8, separator=", ").replace("\n", "")
