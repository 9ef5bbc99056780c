"""Reads photos, depth maps and masks from files, and shrinks them without moving anything.

A pixel of a picture reduced ``D`` times covers exactly ``D x D`` pixels of the file; at the right
and at the bottom, columns and rows that fill no whole pixel are cut off. The camera matrix then
scales by ``1 / D`` exactly, in both directions, for every size.
"""

import contextlib
import importlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jax_gsplat_depth._common.extras import require
from jax_gsplat_depth._common.regular_file import open_regular
from jax_gsplat_depth.datasets._capture import CaptureError
from jax_gsplat_depth.datasets._lens import Lens
from jax_gsplat_depth.datasets._paths import is_there

_FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "BMP", "PPM", "HEIF")
"""What photos, depth maps and masks come in, by Pillow's names.

Pillow knows many more, chooses by content whatever the suffix is, and runs Ghostscript for some of
them. HEIF is that of the package pillow-heif.
"""

_HEIF_SUFFIXES = (".heic", ".heif", ".hif")
_DEPTH_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")
_EXIF_ORIENTATION = 0x0112


@contextlib.contextmanager
def _opened(path: Path, what: str) -> Iterator[Any]:
    """Open a picture, without decoding it, for as long as the context lasts."""
    image_module = require("PIL.Image")
    if not is_there(path):
        raise CaptureError(f"{path} is missing: expected {what}")
    with contextlib.ExitStack() as stack:
        try:
            stream = stack.enter_context(open_regular(path))
            with warnings.catch_warnings():
                warnings.simplefilter("error", image_module.DecompressionBombWarning)
                picture = image_module.open(stream, formats=_known_formats(path))
        except (image_module.DecompressionBombWarning, image_module.DecompressionBombError):
            raise CaptureError(
                f"{path} has more than {image_module.MAX_IMAGE_PIXELS // 10**6} million pixels: "
                "expected a photo of ordinary size"
            ) from None
        except require("PIL").UnidentifiedImageError:
            raise CaptureError(
                f"{path} cannot be read as {what}: expected JPEG, PNG, TIFF, WebP, BMP, PPM or, "
                "with the package pillow-heif, HEIF"
            ) from None
        except OSError as error:
            reason = error.strerror or _reason(error)
            raise CaptureError(f"{path} cannot be read as {what} ({reason})") from error
        except Exception as error:  # The decoders raise errors of many types on broken files.
            raise CaptureError(f"{path} cannot be read as {what} ({_reason(error)})") from error
        yield stack.enter_context(picture)


def _known_formats(path: Path) -> list[str]:
    image_module = require("PIL.Image")
    image_module.init()
    if path.suffix.lower() in _HEIF_SUFFIXES and "HEIF" not in image_module.OPEN:
        with contextlib.suppress(ImportError):
            importlib.import_module("pillow_heif").register_heif_opener()
    return [name for name in _FORMATS if name in image_module.OPEN]


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__


def picture_size(path: Path) -> tuple[int, int]:
    """Return the width and height of a photo as stored; an EXIF orientation is not applied."""
    with _opened(path, "a photo") as picture:
        return picture.size


def read_photo(
    path: Path, size: tuple[int, int], downscale: int, lens: Lens | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Read a photo as stored: like COLMAP, without turning it by its EXIF orientation.

    Args:
        path: JPEG, PNG, TIFF, WebP, BMP, PPM or HEIF, 8 bits per channel.
        size: Width and height for which the camera holds.
        downscale: Pixels of the file per pixel of the result, per side.
        lens: Lens to remove first, before the photo is downscaled, or None.

    Returns:
        ``(H, W, 3)`` uint8 on white, and ``(H, W)`` float32 alpha, 1 where opaque.
    """
    with _opened(path, "a photo") as picture:
        if picture.size != size:
            raise CaptureError(_wrong_size(path, picture, size))
        if picture.mode in _DEPTH_MODES:
            raise CaptureError(f"{path} is a {picture.mode} picture: expected 8 bits per channel")
        box = _whole_pixels(path, lens.pinhole_size if lens else size, downscale)
        try:
            rgba = picture.convert("RGBA")
        except Exception as error:  # As in _opened.
            raise CaptureError(f"{path} cannot be read as a photo ({_reason(error)})") from error
    white = require("PIL.Image").new("RGBA", size, "white")
    white.alpha_composite(rgba)
    rgb, alpha = white.convert("RGB"), rgba.getchannel("A")
    if lens:
        to_picture = require("PIL.Image").fromarray
        rgb, alpha = (to_picture(lens.remove(np.asarray(part))) for part in (rgb, alpha))
    rgb, alpha = rgb.reduce(downscale, box), alpha.reduce(downscale, box)
    return np.asarray(rgb), np.asarray(alpha, np.float32) / 255.0


def read_depth(
    path: Path, size: tuple[int, int], scale: float, downscale: int, lens: Lens | None = None
) -> np.ndarray:
    """Read a depth map.

    Args:
        path: A picture with one channel of 16 or 32 bits; 0 is unknown, and so is 65535 in 16 bits.
        size: Width and height of the photo.
        scale: World units per step of the file.
        downscale: As in ``read_photo``. A pixel takes the median of its known pixels (the smaller
            of the middle two), a measured value: near an edge, a mean would lie on neither side.
        lens: Lens to remove first, or None; a pixel takes the nearest one of the file.

    Returns:
        ``(H, W)`` float32 in world units, 0 where unknown.
    """
    with _opened(path, "a depth map") as picture:
        if picture.mode not in _DEPTH_MODES:
            raise CaptureError(
                f"{path} is a {picture.mode} picture: expected a depth map with one channel of 16 "
                "or 32 bits"
            )
        if picture.size != size:
            raise CaptureError(_wrong_size(path, picture, size))
        pinhole_size = lens.pinhole_size if lens else size
        left, top, right, bottom = _whole_pixels(path, pinhole_size, downscale)
        try:
            stored = np.asarray(picture)
        except Exception as error:  # As in _opened.
            raise CaptureError(
                f"{path} cannot be read as a depth map ({_reason(error)})"
            ) from error
    steps = stored.astype(np.float32)
    if stored.dtype.itemsize == 2:
        # Sensors write the largest number of 16 bits where they saw nothing.
        steps[stored == np.iinfo(stored.dtype).max] = 0
    if lens:
        steps = lens.remove(steps, nearest=True)
    known = np.isfinite(steps) & (steps > 0)
    depth = np.where(known, steps * np.float32(scale), np.inf)[top:bottom, left:right]
    height, width = depth.shape[0] // downscale, depth.shape[1] // downscale
    blocks = depth.reshape(height, downscale, width, downscale).swapaxes(1, 2)
    blocks = np.sort(blocks.reshape(height, width, downscale**2), axis=-1)
    middle = np.maximum(np.isfinite(blocks).sum(axis=-1) - 1, 0) // 2
    median = np.take_along_axis(blocks, middle[..., None], axis=-1)[..., 0]
    return np.where(np.isfinite(median), median, 0).astype(np.float32)


def read_mask(
    path: Path,
    size: tuple[int, int],
    downscale: int,
    lens: Lens | None = None,
    *,
    hides: bool = False,
) -> np.ndarray:
    """Read which pixels of a photo count: those that are not black.

    Args:
        path: A picture of the photo's size, of any kind; what is transparent is black.
        size: Width and height of the photo.
        downscale: As in ``read_photo``. A pixel counts if all of the file's pixels do that its
            colour is the mean of.
        lens: Lens to remove first, or None; likewise.
        hides: Whether those that are black count instead.

    Returns:
        ``(H, W)`` bool.
    """
    with _opened(path, "a mask") as picture:
        if picture.size != size:
            raise CaptureError(_wrong_size(path, picture, size))
        pinhole_size = lens.pinhole_size if lens else size
        left, top, right, bottom = _whole_pixels(path, pinhole_size, downscale)
        # The black of a JPEG file is not exact. That of others is, and their white may be 1.
        darkest = 127 if picture.format in ("JPEG", "MPO") else 0
        try:
            if picture.mode in ("1", "L", *_DEPTH_MODES):
                counts = np.asarray(picture) > darkest
            else:
                rgba = np.asarray(picture.convert("RGBA"))
                counts = (rgba[..., :3] > darkest).any(axis=-1) & (rgba[..., 3] > 0)
        except Exception as error:  # As in _opened.
            raise CaptureError(f"{path} cannot be read as a mask ({_reason(error)})") from error
    counts = counts != hides
    if lens:
        # The resampled pixel of a photo is a mean of four: almost 1 only where all of them count.
        counts = lens.remove(counts.astype(np.float32)) > 0.999
    blocks = counts[top:bottom, left:right]
    height, width = blocks.shape[0] // downscale, blocks.shape[1] // downscale
    return np.all(blocks.reshape(height, downscale, width, downscale), axis=(1, 3))


def _whole_pixels(path: Path, size: tuple[int, int], downscale: int) -> tuple[int, int, int, int]:
    if downscale > min(size):
        raise CaptureError(
            f"{path} is {size[0]}x{size[1]} pixels: nothing is left of it at downscale {downscale}"
        )
    return 0, 0, size[0] - size[0] % downscale, size[1] - size[1] % downscale


def _wrong_size(path: Path, picture, size: tuple[int, int]) -> str:
    message = f"{path} is {picture.width}x{picture.height} pixels"
    message += f" but its camera is for {size[0]}x{size[1]}"
    if picture.size == size[::-1] and picture.getexif().get(_EXIF_ORIENTATION, 1) > 4:
        message += "; its EXIF orientation is not applied, so store the photo upright"
    return message
