"""Renders lists of cameras with one compiled function."""

import dataclasses
import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from jax_gsplat_depth._camera import Camera
from jax_gsplat_depth._common.by_shape import shown_by_shape
from jax_gsplat_depth._common.depth_colors import color_range
from jax_gsplat_depth._common.local_scene import LocalScene
from jax_gsplat_depth._render import render
from jax_gsplat_depth._types import Config, Gaussians
from jax_gsplat_depth.frames._paths import CameraPath

_N_SAMPLES = 20_000
"""Pixels of a frame, up to a factor of 2, that are sampled for the range of the depth colours."""


@shown_by_shape
@dataclasses.dataclass(frozen=True)
class Frame:
    """One rendered view.

    Attributes:
        name: From the ``CameraPath``.
        image: ``[H, W, 3]`` uint8, the rendering limited to 0..1 and rounded.
        depth: ``[H, W]`` float32, world units, 0 where nothing was hit.
        weight: ``[H, W]`` float32, 0..1.
    """

    name: str
    image: np.ndarray
    depth: np.ndarray
    weight: np.ndarray


@dataclasses.dataclass(frozen=True)
class DepthRange:
    """The range of the depths of all frames.

    Attributes:
        low: Depth of the first colour, world units.
        high: Depth of the last colour, larger than ``low``.
        largest: The largest depth of any pixel, 0 if nothing was hit.
    """

    low: float
    high: float
    largest: float


def render_frames(
    gaussians: Gaussians | LocalScene,
    cameras: CameraPath,
    background: np.ndarray,
    *,
    config: Config | None = None,
) -> Iterator[Frame]:
    """Yield the frames in order; all of them share one compiled function.

    They are rendered in the frame of ``LocalScene``, so that units and origin do not matter.

    Args:
        gaussians: Activated Gaussians with 3 colour channels.
        cameras: The cameras to render.
        background: ``[3]`` in 0..1.
        config: Settings of the renderer, near and far plane in units of that frame; None for its
            defaults.
    """
    background_array = jnp.asarray(background, jnp.float32)
    scene = LocalScene.of(gaussians)
    viewmats = scene.frame.local_viewmats(cameras.viewmats)
    for name, viewmat, K in zip(cameras.names, viewmats, cameras.Ks, strict=True):
        image, depth, weight = _render_8_bit(
            scene.gaussians,
            jnp.asarray(viewmat, jnp.float32),
            jnp.asarray(K),
            background_array,
            width=cameras.width,
            height=cameras.height,
            config=config or Config(),
        )
        world_depth = scene.frame.world_lengths(np.asarray(depth))
        yield Frame(name, np.asarray(image), world_depth, np.asarray(weight))


def depth_range(
    gaussians: Gaussians | LocalScene,
    cameras: CameraPath,
    background: np.ndarray,
    min_weight: float,
    *,
    config: Config | None = None,
) -> DepthRange:
    """Render all frames to find one range of depth colours for them.

    The range goes from the 1st to the 99th percentile of the pixels that are solid enough.

    Args:
        gaussians: As in ``render_frames``.
        cameras: As in ``render_frames``.
        background: As in ``render_frames``.
        min_weight: Pixels with less weight do not count, except for ``largest``.
        config: As in ``render_frames``.
    """
    scene = LocalScene.of(gaussians)
    samples = []
    largest = 0.0
    for frame in render_frames(scene, cameras, background, config=config):
        largest = max(largest, float(frame.depth.max()))
        solid = (frame.depth > 0) & (frame.weight >= min_weight)
        depths = frame.depth[solid]
        samples.append(depths[:: max(1, len(depths) // _N_SAMPLES)])
    low, high = color_range(np.concatenate(samples), scene.frame.unit)
    return DepthRange(low, high, largest)


@functools.partial(jax.jit, static_argnames=("width", "height", "config"))
def _render_8_bit(gaussians, viewmat, K, background, *, width, height, config):
    """Return the image as uint8, limited to 0..1 and rounded, with depth and weight."""
    camera = Camera(viewmat, K, width=width, height=height)
    out = render(gaussians, camera, background=background, config=config)
    image = jnp.round(255 * jnp.clip(out.image, 0, 1)).astype(jnp.uint8)
    return image, out.depth, out.weight
