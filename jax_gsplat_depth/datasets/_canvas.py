"""Chooses the one size that the views of a capture have, whatever the sizes of their photos.

Photos keep their cameras: they are cut or padded at the right and at the bottom only.
"""

import math
import warnings
from collections.abc import Sequence
from pathlib import Path

from jax_gsplat_depth.datasets._capture import CaptureWarning
from jax_gsplat_depth.datasets._pictures import check_size
from jax_gsplat_depth.datasets._views import PosedPhoto

_SLIGHT = 0.05
_FEW = 2
"""Fraction, or pixels, of the width and of the height that may be cut off to make photos equal.

COLMAP's undistorter, with a camera for each photo, leaves sizes that differ by a few pixels.
"""

AUTOMATIC_PIXELS = 2_100_000
"""Pixels of a photo up to which the automatic downscale is 1; 1920x1080 has fewer."""

_MOST_SIZES = 4


def common_size(root: Path, views: Sequence[PosedPhoto]) -> tuple[int, int]:
    """Return the width and height that all views get, before they are reduced.

    Sizes that hardly differ become the smallest; so do those of photos of one size from which
    lenses are removed. Otherwise no photo loses pixels: the size holds all of them, portrait or
    landscape, and what a photo does not fill is masked. A ``CaptureWarning`` says so.

    Raises:
        CaptureError: The sizes differ, and a photo has another size than its camera.
    """
    sizes = list(dict.fromkeys(view.size for view in views))
    widths, heights = zip(*sizes, strict=True)
    smallest, largest = (min(widths), min(heights)), (max(widths), max(heights))
    if smallest == largest or len({view.stored_size for view in views}) == 1:
        return smallest
    for view in views:
        check_size(view.photo, view.stored_size)
    listed = ", ".join(f"{width}x{height}" for width, height in sizes[:_MOST_SIZES])
    listed += f" and {len(sizes) - _MOST_SIZES} more" if len(sizes) > _MOST_SIZES else ""
    hardly = all(
        most - least <= max(_FEW, _SLIGHT * most)
        for least, most in zip(smallest, largest, strict=True)
    )
    if hardly:
        what = "all are cut to {}x{} at the right and at the bottom"
    else:
        what = "all are put on {}x{} pixels, of which those that a photo does not fill do not count"
    chosen = smallest if hardly else largest
    warnings.warn(
        f"{root} has photos of {len(sizes)} sizes ({listed}): {what.format(*chosen)}",
        CaptureWarning,
        stacklevel=2,
    )
    return chosen


def automatic_downscale(root: Path, views: Sequence[PosedPhoto]) -> int:
    """Return the smallest downscale at which no photo has more than ``AUTOMATIC_PIXELS``.

    A ``CaptureWarning`` names it where it is not 1.
    """
    width, height = max((view.size for view in views), key=math.prod)
    downscale = math.ceil(math.sqrt(width * height / AUTOMATIC_PIXELS))
    if downscale > 1:
        warnings.warn(
            f"{root} has photos of {width}x{height} pixels, which are reduced by a downscale of "
            f"{downscale} to at most {AUTOMATIC_PIXELS / 1e6:g} million; a downscale of 1 keeps "
            "all pixels",
            CaptureWarning,
            stacklevel=2,
        )
    return downscale
