"""Writes rendered frames to a folder of pictures or to a video."""

import dataclasses
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import numpy as np

from jax_gsplat_depth._common.atomic import atomic_write
from jax_gsplat_depth._common.extras import require
from jax_gsplat_depth._common.file_names import file_name
from jax_gsplat_depth._common.local_scene import LocalScene
from jax_gsplat_depth._common.result_folder import OutputError, check_folder, publish, write_metrics
from jax_gsplat_depth._common.scratch import clear_scratch, tag_of
from jax_gsplat_depth._common.settings import Amount, Fraction, Range, check_settings
from jax_gsplat_depth._types import Config, Gaussians
from jax_gsplat_depth.frames._camera_file import write_cameras
from jax_gsplat_depth.frames._colors import depth_picture, weight_picture
from jax_gsplat_depth.frames._paths import CameraPath
from jax_gsplat_depth.frames._render import DepthRange, Frame, depth_range, render_frames

PROGRAM = "jax-gsplat-depth render"
"""The command that writes here, as ``metrics.json`` names it."""

Output = Literal["image", "depth", "weight"]
OUTPUTS: tuple[Output, ...] = get_args(Output)

DepthFormat = Literal["png", "npy"]

_VIDEO = ".mp4"
_OTHER_FILES = frozenset(
    (".avi", ".gif", ".m4v", ".mkv", ".mov", ".mpeg", ".mpg", ".ogv", ".webm", ".wmv")
    + (".bmp", ".exr", ".jpeg", ".jpg", ".npy", ".npz", ".png", ".tif", ".tiff", ".webp")
    + (".json", ".ply", ".spz", ".splat", ".zip")
)
"""Suffixes that nobody gives to a folder: any other dot is a part of its name, as in ``v1.0``."""

_CODEC = "libx264"

# Most players show no other format; it halves the colour resolution, so sides have to be even.
_PIXELS = "yuv420p"

_LARGEST_STEP = 65535
"""Largest number in a 16-bit depth picture; 0 stands for no depth."""


@dataclasses.dataclass(frozen=True)
class RenderSettings:
    """What becomes of the frames.

    Attributes:
        outputs: Some of image,depth,weight, in the order in which they stand side by side in a
            video.
        background: RGB in 0..1.
        depth_range: Depths in world units of the first and the last colour (default: the 1st and
            99th percentile over all frames).
        min_weight: Pixels of less weight are grey in depth pictures and do not count for the range.
        depth_format: Measured depth in a folder: png for 16 bits in steps of depth_scale (see
            metrics.json), npy for exact float32.
        fps: Frames per second of a video.

    Raises:
        ValueError: A value is outside its range.
    """

    outputs: tuple[Output, ...] = OUTPUTS
    background: tuple[float, ...] = (0.0, 0.0, 0.0)
    depth_range: tuple[Amount, Amount] | None = None
    min_weight: Fraction = 0.5
    depth_format: DepthFormat = "png"
    fps: Annotated[int, Range(low=1, high=240, whole=True)] = 30

    def __post_init__(self) -> None:
        """Refuse what no frames can be written with."""
        check_settings(self, ValueError)


def check_output(out: Path) -> None:
    """Check, before the work, that a result can be written to ``out``.

    Args:
        out: A video ``*.mp4``, which may exist, or a folder as in ``render_to``.

    Raises:
        OutputError: It cannot be written, or it has the suffix of another kind of picture or video.
        ImportError: ``out`` is a video, and the extra ``video`` is not installed.
    """
    if not _is_video(out):
        if out.suffix.lower() in _OTHER_FILES and not out.is_dir():
            raise OutputError(f"{out}: expected a folder or a {_VIDEO} file")
        check_folder(out, PROGRAM)
        return
    _video_library()
    if out.is_dir():
        raise OutputError(f"{out} is a folder: expected a file")
    if not out.parent.is_dir():
        raise OutputError(f"{out} cannot be written: there is no folder {out.parent}")
    if not os.access(out.parent, os.W_OK):
        raise OutputError(f"{out} cannot be written: no permission for {out.parent}")
    # Half a video of a killed command.
    clear_scratch(out.parent, tag_of(out))


def render_to(
    out: Path,
    gaussians: Gaussians | LocalScene,
    cameras: CameraPath,
    settings: RenderSettings,
    *,
    config: Config | None = None,
    source: str = "",
    on_frame: Callable[[], None] | None = None,
) -> dict[str, Any]:
    """Render all cameras into a folder or a video, whole or not at all.

    A folder gets ``image/NAME.png``, ``depth/NAME.png`` (colours), ``depth_raw/NAME.png`` or
    ``.npy`` (world units), ``weight/NAME.png`` (0 to 255 for 0 to 1), as far as ``outputs`` names
    them, ``cameras.json`` for ``read_cameras``, and ``metrics.json``. A name that no file can have
    is cut, with a hash at its end. A video shows the outputs side by side. If depth is among them,
    all frames are rendered twice, first for the range of depths; a video with a given range does
    without.

    Args:
        out: A folder that is new, empty or holds an earlier result, or a video ``*.mp4``; earlier
            results are replaced.
        gaussians: Activated Gaussians with 3 colour channels.
        cameras: The cameras to render.
        settings: See ``RenderSettings``.
        config: As in ``render_frames``.
        source: Origin of the Gaussians, for ``metrics.json``.
        on_frame: Called after each frame that is written.

    Returns:
        The content of ``metrics.json``, for a video as well, which has no such file.

    Raises:
        OutputError: As in ``check_output``, or the disk is full.
        ImportError: A library of an extra is not installed.
    """
    check_output(out)
    scene = LocalScene.of(gaussians)
    background = np.asarray(settings.background, np.float32)
    depths = DepthRange(0.0, 1.0, 0.0)
    if "depth" in settings.outputs:
        # A video with a given range does not need the first pass.
        if settings.depth_range is None or (not _is_video(out) and settings.depth_format == "png"):
            depths = depth_range(scene, cameras, background, settings.min_weight, config=config)
        if settings.depth_range is not None:
            low, high = settings.depth_range
            depths = dataclasses.replace(depths, low=low, high=high)

    def frames() -> Iterator[Frame]:
        for frame in render_frames(scene, cameras, background, config=config):
            yield frame
            if on_frame is not None:
                on_frame()

    metrics: dict[str, Any] = {
        "source": source,
        "n_gaussians": len(scene.gaussians.means),
        "n_frames": len(cameras.names),
        "width": cameras.width,
        "height": cameras.height,
        "outputs": list(settings.outputs),
        "background": [float(channel) for channel in background],
        "min_weight": settings.min_weight,
        "depth_range": [depths.low, depths.high] if "depth" in settings.outputs else None,
        "depth_scale": depths.largest / _LARGEST_STEP or None,
    }
    if _is_video(out):
        _write_video(out, frames(), settings, depths)
        return metrics

    def build(folder: Path) -> None:
        nonlocal metrics
        _write_frames(folder, frames(), settings, depths)
        write_cameras(folder / "cameras.json", cameras)
        metrics = write_metrics(folder, PROGRAM, metrics)

    publish(out, build, PROGRAM)
    return metrics


def _is_video(out: Path) -> bool:
    return out.suffix.lower() == _VIDEO


def _write_frames(
    folder: Path, frames: Iterator[Frame], settings: RenderSettings, depths: DepthRange
) -> None:
    with_depth = "depth" in settings.outputs
    for name in (*settings.outputs, *(["depth_raw"] if with_depth else [])):
        (folder / name).mkdir()
    for frame in frames:
        for output in settings.outputs:
            picture = _picture(output, frame, settings, depths)
            _save_png(folder / output / file_name(frame.name, ".png"), picture)
        if with_depth and settings.depth_format == "npy":
            np.save(folder / "depth_raw" / file_name(frame.name, ".npy"), frame.depth)
        elif with_depth:
            steps = np.round(frame.depth * (_LARGEST_STEP / (depths.largest or 1.0)))
            _save_png(folder / "depth_raw" / file_name(frame.name, ".png"), steps.astype(np.uint16))


def _save_png(path: Path, picture: np.ndarray) -> None:
    require("PIL.Image").fromarray(picture).save(path)


def _write_video(
    out: Path, frames: Iterator[Frame], settings: RenderSettings, depths: DepthRange
) -> None:
    library = _video_library()

    def write(stream: Any) -> None:
        options = {"plugin": "pyav", "extension": _VIDEO, "container": "mp4"}
        with library.imopen(stream, "w", **options) as video:
            video.init_video_stream(_CODEC, fps=settings.fps, pixel_format=_PIXELS)
            for frame in frames:
                panels = [_picture(name, frame, settings, depths) for name in settings.outputs]
                video.write_frame(
                    _with_even_sides(np.concatenate([_as_rgb(p) for p in panels], axis=1))
                )

    try:
        atomic_write(out, write)
    except OSError as error:
        raise OutputError(f"{out} cannot be written: {error.strerror or error}") from error


def _picture(output: str, frame: Frame, settings: RenderSettings, depths: DepthRange) -> np.ndarray:
    if output == "image":
        return frame.image
    if output == "weight":
        return weight_picture(frame.weight)
    return depth_picture(frame.depth, frame.weight, depths.low, depths.high, settings.min_weight)


def _as_rgb(picture: np.ndarray) -> np.ndarray:
    return picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, axis=-1)


def _with_even_sides(picture: np.ndarray) -> np.ndarray:
    """Repeat the last row and column where a side is odd."""
    height, width = picture.shape[:2]
    return np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")


def _video_library() -> Any:
    require("av", "video")
    return require("imageio.v3", "video")
