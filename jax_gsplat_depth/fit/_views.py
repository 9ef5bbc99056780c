"""Puts the training views on the device and decides in which order they are shown."""

import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jax_gsplat_depth._camera import Camera
from jax_gsplat_depth._common.by_shape import shown_by_shape
from jax_gsplat_depth.datasets import Capture
from jax_gsplat_depth.fit._depth import DepthTargets
from jax_gsplat_depth.fit._settings import FitSettings


@shown_by_shape
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainingView:
    """One training view, ready for the loss.

    Attributes:
        photo: ``[H, W, 3]`` float32, 0..1.
        alpha: ``[H, W]`` float32, 0..1, or None if the photos have no alpha.
        camera: The camera that took it.
        background: ``[3]``.
        depth: What the rendered depth should be, or None if nothing supervises it.
        mask: ``[H, W]`` bool, the pixels that count, or None if all do.
    """

    photo: Array
    alpha: Array | None
    camera: Camera
    background: Array
    depth: DepthTargets | None = None
    mask: Array | None = None


@shown_by_shape
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainingViews:
    """The training views on the device: photos stay 8 bit and are converted in the step.

    Attributes:
        photos: ``[T, H, W, 3]`` uint8.
        alphas: ``[T, H, W]`` uint8, or None if the photos have no alpha.
        viewmats: ``[T, 4, 4]``.
        Ks: ``[T, 3, 3]`` pixels.
        background: ``[3]``.
        depths: What supervises the depth, or None.
        masks: ``[T, H, W]`` bool, the pixels that count, or None if all do.
    """

    photos: Array
    alphas: Array | None
    viewmats: Array
    Ks: Array
    background: Array
    depths: DepthTargets | None = None
    masks: Array | None = None

    @classmethod
    def of(cls, capture: Capture, settings: FitSettings) -> "TrainingViews":
        """Select the training views of a capture.

        Raises:
            FitError: The capture has no depth of the kind that the settings ask for.
        """
        train = capture.train_indices
        alphas = capture.alphas
        return cls(
            photos=jnp.asarray(capture.images[train]),
            alphas=None if alphas is None else jnp.asarray(_to_8_bit(alphas[train])),
            viewmats=jnp.asarray(capture.viewmats[train], dtype=jnp.float32),
            Ks=jnp.asarray(capture.Ks[train], dtype=jnp.float32),
            background=jnp.asarray(capture.background, dtype=jnp.float32),
            depths=DepthTargets.of(capture, settings),
            masks=None if capture.masks is None else jnp.asarray(capture.masks[train]),
        )

    def __getitem__(self, view: Array) -> TrainingView:
        """Return view number ``view``, which may be traced."""
        height, width = self.photos.shape[1:3]
        return TrainingView(
            photo=_from_8_bit(self.photos[view]),
            alpha=None if self.alphas is None else _from_8_bit(self.alphas[view]),
            camera=Camera(self.viewmats[view], self.Ks[view], width=width, height=height),
            background=self.background,
            depth=None if self.depths is None else self.depths[view],
            mask=None if self.masks is None else self.masks[view],
        )


def view_order(n_views: int, seed: int) -> Iterator[int]:
    """Yield view numbers forever: each epoch is a new random order of all views."""
    epochs = np.random.default_rng([seed, 1])
    while True:
        yield from epochs.permutation(n_views).tolist()


def _to_8_bit(values: np.ndarray) -> np.ndarray:
    return np.round(255 * values).astype(np.uint8)


def _from_8_bit(values: Array) -> Array:
    return values.astype(jnp.float32) / 255
