"""Reads photos and masks from files, and opens pictures of every kind."""

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
from jax_gsplat_depth.datasets._paths import is_there
from jax_gsplat_depth.datasets._placing import Placing

_FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "BMP", "PPM", "HEIF")
"""What photos, depth maps and masks come in, by Pillow's names.

Pillow knows many more, chooses by content whatever the suffix is, and runs Ghostscript for some of
them. HEIF is that of the package pillow-heif.
"""

_HEIF_SUFFIXES = (".heic", ".heif", ".hif")
DEPTH_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")
"""Pillow's modes of one channel with 16 or 32 bits."""

_EXIF_ORIENTATION = 0x0112


@contextlib.contextmanager
def opened(path: Path, what: str) -> Iterator[Any]:
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
            reason = error.strerror or reason_of(error)
            raise CaptureError(f"{path} cannot be read as {what} ({reason})") from error
        except Exception as error:  # The decoders raise errors of many types on broken files.
            raise CaptureError(f"{path} cannot be read as {what} ({reason_of(error)})") from error
        yield stack.enter_context(picture)


def _known_formats(path: Path) -> list[str]:
    image_module = require("PIL.Image")
    image_module.init()
    if path.suffix.lower() in _HEIF_SUFFIXES and "HEIF" not in image_module.OPEN:
        with contextlib.suppress(ImportError):
            importlib.import_module("pillow_heif").register_heif_opener()
    return [name for name in _FORMATS if name in image_module.OPEN]


def reason_of(error: Exception) -> str:
    """Return what an error of a decoder says, on one line."""
    return " ".join(str(error).split())[:120] or type(error).__name__


def picture_size(path: Path) -> tuple[int, int]:
    """Return the width and height of a photo as stored; an EXIF orientation is not applied."""
    with opened(path, "a photo") as picture:
        return picture.size


def read_photo(path: Path, placing: Placing) -> tuple[np.ndarray, np.ndarray]:
    """Read a photo as stored: like COLMAP, without turning it by its EXIF orientation.

    Args:
        path: JPEG, PNG, TIFF, WebP, BMP, PPM or HEIF, 8 bits per channel.
        placing: What becomes of it; each pixel is the mean of those that it covers.

    Returns:
        ``(H, W, 3)`` uint8 on white, and ``(H, W)`` float32 alpha, 1 where opaque. Where the common
        size is larger than the photo it is black and opaque, as what is not transparent.
    """
    with opened(path, "a photo") as picture:
        _refuse_other_size(path, picture, placing.stored)
        if picture.mode in DEPTH_MODES:
            raise CaptureError(f"{path} is a {picture.mode} picture: expected 8 bits per channel")
        box = placing.box(path)
        try:
            rgba = picture.convert("RGBA")
        except Exception as error:  # As in opened.
            raise CaptureError(f"{path} cannot be read as a photo ({reason_of(error)})") from error
    image_module = require("PIL.Image")
    white = image_module.new("RGBA", placing.stored, "white")
    white.alpha_composite(rgba)
    rgb, alpha = white.convert("RGB"), rgba.getchannel("A")
    if lens := placing.lens:
        rgb, alpha = (image_module.fromarray(lens.remove(np.asarray(p))) for p in (rgb, alpha))
    if rgb.size != placing.size:
        larger = image_module.new("RGB", placing.size), image_module.new("L", placing.size, 255)
        for canvas, part in zip(larger, (rgb, alpha), strict=True):
            canvas.paste(part)
        rgb, alpha = larger
    rgb, alpha = rgb.reduce(placing.downscale, box), alpha.reduce(placing.downscale, box)
    return np.asarray(rgb), np.asarray(alpha, np.float32) / 255.0


def read_mask(path: Path, placing: Placing, *, hides: bool = False) -> np.ndarray:
    """Read which pixels of a photo count: those that are not black.

    Args:
        path: A picture of the photo's size, of any kind; what is transparent is black.
        placing: What becomes of it. A pixel counts if all of the file's pixels do that its colour
            is the mean of.
        hides: Whether those that are black count instead.

    Returns:
        ``(H, W)`` bool.
    """
    with opened(path, "a mask") as picture:
        _refuse_other_size(path, picture, placing.stored)
        # The black of a JPEG file is not exact. That of others is, and their white may be 1.
        darkest = 127 if picture.format in ("JPEG", "MPO") else 0
        try:
            if picture.mode in ("1", "L", *DEPTH_MODES):
                counts = np.asarray(picture) > darkest
            else:
                rgba = np.asarray(picture.convert("RGBA"))
                counts = (rgba[..., :3] > darkest).any(axis=-1) & (rgba[..., 3] > 0)
        except Exception as error:  # As in opened.
            raise CaptureError(f"{path} cannot be read as a mask ({reason_of(error)})") from error
    counts = counts != hides
    if placing.lens:
        # The resampled pixel of a photo is a mean of four: almost 1 only where all of them count.
        counts = placing.lens.remove(counts.astype(np.float32)) > 0.999
    return np.all(placing.blocks(counts, path, fill=False), axis=(1, 3))


def filled(path: Path, placing: Placing) -> np.ndarray:
    """Return ``(H, W)`` bool, which pixels of the capture a photo without a mask fills."""
    width, height = placing.pinhole_size
    return np.all(placing.blocks(np.ones((height, width), bool), path, fill=False), axis=(1, 3))


def check_size(path: Path, expected: tuple[int, int]) -> None:
    """Raise a CaptureError if a photo has not the size for which its camera is."""
    with opened(path, "a photo") as picture:
        _refuse_other_size(path, picture, expected)


def _refuse_other_size(path: Path, picture: Any, expected: tuple[int, int]) -> None:
    if picture.size == expected:
        return
    message = f"{path} is {picture.width}x{picture.height} pixels"
    message += f" but its camera is for {expected[0]}x{expected[1]}"
    if picture.size == expected[::-1] and picture.getexif().get(_EXIF_ORIENTATION, 1) > 4:
        message += "; its EXIF orientation is not applied, so store the photo upright"
    raise CaptureError(message)
