"""Removes the distortion of OPENCV lenses: photos become those of a pinhole camera on load.

With x, y the pinhole coordinates of a ray (right and down per unit of depth) and r^2 = x^2 + y^2,
the lens moves the ray to

    x' = x (1 + k1 r^2 + k2 r^4) + 2 p1 x y + p2 (r^2 + 2 x^2)
    y' = y (1 + k1 r^2 + k2 r^4) + p1 (r^2 + 2 y^2) + 2 p2 x y

and the pixel is fx x' + cx, fy y' + cy. Resampling needs only this direction, which is exact; the
inverse, by Newton's method, decides how much of the picture is left.
"""

import dataclasses
import functools

import numpy as np

from jax_gsplat_depth._common.extras import require

_NEWTON_STEPS = 50
_CONVERGED = 1e-12
"""Residual, in pinhole coordinates, at which Newton's method stops."""

_SLACK = 1e-6
"""Pixels by which rounding may move an edge: a lens without terms must take nothing away."""


class LensError(ValueError):
    """The lens cannot be undone; the message says why, but not whose lens it is."""


@dataclasses.dataclass(frozen=True)
class Lens:
    """A camera with an OPENCV lens.

    Attributes:
        width: Width of the photo in pixels.
        height: Height of the photo in pixels.
        fx: Focal length in pixels.
        fy: Focal length in pixels.
        cx: Principal point in pixels; the centre of the top left pixel is (0.5, 0.5).
        cy: Principal point in pixels.
        k1: Radial term of degree 2.
        k2: Radial term of degree 4.
        p1: Tangential term.
        p2: Tangential term.
    """

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    k1: float
    k2: float
    p1: float
    p2: float

    def distort(self, xy: np.ndarray) -> np.ndarray:
        """Move ``(..., 2)`` pinhole coordinates to where the lens shows them."""
        x, y = xy[..., 0], xy[..., 1]
        r2 = x * x + y * y
        radial = 1 + r2 * (self.k1 + r2 * self.k2)
        return np.stack(
            [
                x * radial + 2 * self.p1 * x * y + self.p2 * (r2 + 2 * x * x),
                y * radial + self.p1 * (r2 + 2 * y * y) + 2 * self.p2 * x * y,
            ],
            axis=-1,
        )

    def jacobian(self, xy: np.ndarray) -> np.ndarray:
        """Return the ``(..., 2, 2)`` derivative of ``distort``, which is symmetric."""
        x, y = xy[..., 0], xy[..., 1]
        r2 = x * x + y * y
        radial = 1 + r2 * (self.k1 + r2 * self.k2)
        slope = 2 * (self.k1 + 2 * r2 * self.k2)
        xx = radial + slope * x * x + 2 * self.p1 * y + 6 * self.p2 * x
        yy = radial + slope * y * y + 6 * self.p1 * y + 2 * self.p2 * x
        mixed = slope * x * y + 2 * self.p1 * x + 2 * self.p2 * y
        return np.stack([np.stack([xx, mixed], -1), np.stack([mixed, yy], -1)], -2)

    def undistort(self, xy: np.ndarray) -> np.ndarray:
        """Return the pinhole coordinates of ``(..., 2)`` lens coordinates, by Newton's method.

        Raises:
            LensError: There are none, or the picture folds over between the centre and them.
        """
        found = np.array(xy, np.float64)
        with np.errstate(all="ignore"):  # Divergence is reported below.
            for _ in range(_NEWTON_STEPS):
                J = self.jacobian(found)
                residual = self.distort(found) - xy
                if np.abs(residual).max(initial=0) < _CONVERGED:
                    break
                determinant = J[..., 0, 0] * J[..., 1, 1] - J[..., 0, 1] ** 2
                found[..., 0] -= (
                    J[..., 1, 1] * residual[..., 0] - J[..., 0, 1] * residual[..., 1]
                ) / determinant
                found[..., 1] -= (
                    J[..., 0, 0] * residual[..., 1] - J[..., 0, 1] * residual[..., 0]
                ) / determinant
            # The camera cannot see what lies beyond the first fold.
            path = np.linspace(0, 1, 33).reshape(-1, *[1] * found.ndim) * found
            determinant = np.linalg.det(self.jacobian(path)) if np.isfinite(path).all() else -1.0
            off = np.abs(self.distort(found) - xy).max(initial=0)
        if not off < 100 * _CONVERGED or not np.all(determinant > 0):
            raise LensError("its lens terms fold the picture over, so they cannot be undone")
        return found

    @functools.cached_property
    def _window(self) -> tuple[int, int, int, int]:
        """Left, top, right and bottom of the pinhole picture, in pixels of the same focal length.

        It is the largest rectangle of whole pixels between the four undistorted edges of the photo,
        so that every pixel has a value.
        """
        across, down = np.arange(self.width + 1.0), np.arange(self.height + 1.0)
        left, right = (self._pinhole_pixels(np.full_like(down, x), down) for x in (0, self.width))
        top, bottom = (
            self._pinhole_pixels(across, np.full_like(across, y)) for y in (0, self.height)
        )
        x0 = int(np.ceil(left[:, 0].max() - _SLACK))
        y0 = int(np.ceil(top[:, 1].max() - _SLACK))
        x1 = int(np.floor(right[:, 0].min() + _SLACK))
        y1 = int(np.floor(bottom[:, 1].min() + _SLACK))
        if x0 >= x1 or y0 >= y1:
            raise LensError("its lens terms leave nothing of the picture")
        return x0, y0, x1, y1

    def _pinhole_pixels(self, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        focal, centre = np.array([self.fx, self.fy]), np.array([self.cx, self.cy])
        return self.undistort((np.stack([u, v], -1) - centre) / focal) * focal + centre

    @property
    def stored_size(self) -> tuple[int, int]:
        """Width and height of the photo."""
        return self.width, self.height

    @property
    def pinhole_size(self) -> tuple[int, int]:
        """Width and height of the undistorted picture."""
        left, top, right, bottom = self._window
        return right - left, bottom - top

    @property
    def pinhole_center(self) -> tuple[float, float]:
        """Principal point of the undistorted picture; the focal lengths are those of the photo."""
        return self.cx - self._window[0], self.cy - self._window[1]

    def remove(self, picture: np.ndarray, *, nearest: bool = False) -> np.ndarray:
        """Resample a picture as if a pinhole camera had taken it.

        Args:
            picture: ``(height, width)`` or ``(height, width, channels)``; uint8 is rounded.
            nearest: Take the nearest pixel (depth must not be mixed), not the bilinear mean of
                four.

        Returns:
            The picture with ``pinhole_size``, dtype kept.
        """
        resample = require("scipy.ndimage").map_coordinates
        positions = _positions_in_photo(self)

        def channel(plane: np.ndarray) -> np.ndarray:
            if nearest:
                return resample(plane, positions, order=0, mode="nearest")
            values = resample(plane.astype(np.float32), positions, order=1, mode="nearest")
            return np.rint(values) if plane.dtype == np.uint8 else values

        planes = picture if picture.ndim == 3 else picture[..., None]
        result = np.stack([channel(planes[..., i]) for i in range(planes.shape[2])], axis=-1)
        return result.reshape(*result.shape[:2], *picture.shape[2:]).astype(picture.dtype)


@functools.lru_cache(maxsize=2)
def _positions_in_photo(lens: Lens) -> np.ndarray:
    """Return ``(2, h, w)``, row and column in the photo of every pixel of the pinhole picture."""
    width, height = lens.pinhole_size
    cx, cy = lens.pinhole_center
    x = (np.arange(width) + 0.5 - cx) / lens.fx
    y = (np.arange(height) + 0.5 - cy) / lens.fy
    seen = lens.distort(np.stack(np.meshgrid(x, y), axis=-1))
    columns, rows = lens.fx * seen[..., 0] + lens.cx, lens.fy * seen[..., 1] + lens.cy
    return np.stack([rows - 0.5, columns - 0.5])
