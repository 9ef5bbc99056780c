"""Turns quaternions into rotation matrices, for NumPy and JAX arrays alike."""

from typing import Any


def rotation_rows(w: Any, x: Any, y: Any, z: Any) -> tuple[tuple[Any, Any, Any], ...]:
    """Return the rows of the rotation matrix of a quaternion, entry by entry.

    The polynomial is evaluated as it is: it is a rotation only if w^2 + x^2 + y^2 + z^2 = 1.

    Args:
        w: Real part; a number or an array of any shape, like the others.
        x: First imaginary part.
        y: Second imaginary part.
        z: Third imaginary part.
    """
    return (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
