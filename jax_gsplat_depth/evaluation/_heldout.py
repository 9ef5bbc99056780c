"""Renders views that the fit never saw, and measures how far they are from the truth."""

import dataclasses
import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from jax_gsplat_depth import losses
from jax_gsplat_depth._camera import Camera
from jax_gsplat_depth._common.by_shape import shown_by_shape
from jax_gsplat_depth._common.local_scene import LocalScene
from jax_gsplat_depth._render import render
from jax_gsplat_depth._types import Config, Gaussians
from jax_gsplat_depth.datasets import Capture


@shown_by_shape
@dataclasses.dataclass(frozen=True)
class HeldOutView:
    """One held-out view: the photo, the rendering, and the distance between them.

    Attributes:
        name: Name of the view in its capture.
        photo: ``[H, W, 3]`` uint8.
        image: ``[H, W, 3]`` uint8 rendering.
        depth: ``[H, W]`` rendered depth, world units, 0 where nothing was hit.
        weight: ``[H, W]`` rendered weight, 0..1.
        true_depth: ``[H, W]`` world units, 0 where unknown; None if the capture has no depth.
        psnr: dB, of the rendering limited to 0..1 but not rounded.
        ssim: Structural similarity of the same rendering; None if the mask has no pixel that is the
            middle of a window inside the image.
        depth_errors: Relative errors |d - d*| / d* at the pixels of known depth, in no order; None
            if there are no such pixels.
        mask: ``[H, W]`` bool, the pixels that were measured, or None for all.
    """

    name: str
    photo: np.ndarray
    image: np.ndarray
    depth: np.ndarray
    weight: np.ndarray
    true_depth: np.ndarray | None
    psnr: float
    ssim: float | None
    depth_errors: np.ndarray | None
    mask: np.ndarray | None = None


def evaluate(
    capture: Capture, gaussians: Gaussians | LocalScene, *, config: Config | None = None
) -> Iterator[HeldOutView]:
    """Yield the held-out views of a capture in the order of ``capture.test_indices``.

    They are rendered in the frame of ``LocalScene``, so that units and origin do not matter.

    Args:
        capture: Posed photos.
        gaussians: Activated Gaussians with spherical harmonics; as a ``LocalScene`` if their means
            are relative to an origin.
        config: Settings of the renderer, near and far plane in units of that frame; None for its
            defaults.
    """
    scene = LocalScene.of(gaussians)
    viewmats = scene.frame.local_viewmats(capture.viewmats)
    background = jnp.asarray(capture.background, dtype=jnp.float32)
    depths = None if capture.depths is None else capture.counted(capture.depths)
    for view in capture.test_indices:
        camera = Camera(
            jnp.asarray(viewmats[view], dtype=jnp.float32),
            jnp.asarray(capture.Ks[view], dtype=jnp.float32),
            width=capture.width,
            height=capture.height,
        )
        photo = capture.images[view]
        mask = None if capture.masks is None else capture.masks[view]
        out, psnr, ssim = _render_and_compare(
            scene.gaussians,
            camera,
            background,
            jnp.asarray(photo),
            mask,
            config=config or Config(),
        )
        depth = scene.frame.world_lengths(np.asarray(out.depth))
        true_depth = None if depths is None else depths[view]
        yield HeldOutView(
            name=capture.names[view],
            photo=photo,
            image=np.round(255 * np.asarray(out.image)).astype(np.uint8),
            depth=depth,
            weight=np.asarray(out.weight),
            true_depth=true_depth,
            psnr=float(psnr),
            ssim=float(ssim) if mask is None or _has_window(mask) else None,
            depth_errors=_relative_errors(depth, true_depth),
            mask=mask,
        )


@functools.partial(jax.jit, static_argnames="config")
def _render_and_compare(gaussians, camera, background, photo, mask, *, config):
    out = render(gaussians, camera, background=background, config=config)
    image = jnp.clip(out.image, 0, 1)
    photo = photo.astype(image.dtype) / 255
    out = dataclasses.replace(out, image=image)
    return out, losses.psnr(image, photo, mask), losses.ssim(image, photo, mask)


def _has_window(mask: np.ndarray) -> bool:
    """Return whether a pixel counts that is the middle of a window of SSIM."""
    margin = losses.SSIM_WINDOW // 2
    return bool(mask[margin:-margin, margin:-margin].any())


def _relative_errors(depth: np.ndarray, true_depth: np.ndarray | None) -> np.ndarray | None:
    if true_depth is None or not (true_depth > 0).any():
        return None
    known = true_depth > 0
    return np.abs(depth[known] - true_depth[known]) / true_depth[known]
