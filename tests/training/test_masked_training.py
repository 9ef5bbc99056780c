"""Tests that masked pixels enter nothing: neither losses, metrics and depth, nor the start."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("optax")
pytest.importorskip("dm_pix")

from helpers.toy_capture import (
    HEIGHT,
    N_VIEWS,
    WIDTH,
    arc_capture,
    assert_same_bits,
    true_gaussians,
)

import jax_gsplat_depth as jgd
from jax_gsplat_depth import evaluation, fit, losses
from jax_gsplat_depth.datasets import monocular_like
from jax_gsplat_depth.fit._loss import loss_parts
from jax_gsplat_depth.fit._views import TrainingViews

SETTINGS = fit.FitSettings(
    steps=2, max_gaussians=90, initial_fraction=1.0, sh_degree=0, densify="none", seed=3
)

DEPTH = dataclasses.replace(SETTINGS, depth_loss="l1")


@pytest.fixture(scope="module")
def capture():
    return arc_capture()


@pytest.fixture(scope="module")
def masked(capture):
    """The capture with a hole in every view, and pixels of noise that are masked as well."""
    masks = np.random.default_rng(0).random((N_VIEWS, HEIGHT, WIDTH)) > 0.05
    masks[:, 4:13, 6:15] = False
    alphas = np.where(masks, 1.0, 0.5).astype(np.float32)
    return dataclasses.replace(capture, masks=masks, alphas=alphas)


def with_other_pixels_where_masked(capture):
    """Change everything about the pixels that do not count."""
    hidden = ~capture.masks
    images, depths, alphas = capture.images.copy(), capture.depths.copy(), capture.alphas.copy()
    images[hidden] = (255, 0, 255)
    depths[hidden] *= 0.3
    alphas[hidden] = 0
    changed = dataclasses.replace(capture, images=images, depths=depths, alphas=alphas)
    if capture.depth_priors is not None:
        priors = capture.depth_priors.copy()
        priors[hidden] += 3
        changed = dataclasses.replace(changed, depth_priors=priors)
    return changed


def camera_of(capture, view):
    viewmat, K = (jnp.asarray(each[view], jnp.float32) for each in (capture.viewmats, capture.Ks))
    return jgd.Camera(viewmat, K, width=WIDTH, height=HEIGHT)


def pair(dtype, seed=0):
    rng = np.random.default_rng(seed)
    image, target = rng.uniform(size=(2, 23, 31, 3))
    mask = rng.random((23, 31)) > 0.2
    mask[:, 20:] = False
    return jnp.asarray(image, dtype), jnp.asarray(target, dtype), jnp.asarray(mask)


@pytest.mark.quick(dtype=["float32"])
def test_means_over_the_pixels_that_count(dtype):
    image, target, mask = pair(dtype)
    difference = np.asarray(image - target, np.float64)[np.asarray(mask)]
    rtol = 1e-12 if dtype == np.float64 else 1e-5
    mse = np.mean(difference**2)
    np.testing.assert_allclose(losses.l1(image, target, mask), np.abs(difference).mean(), rtol=rtol)
    np.testing.assert_allclose(losses.mse(image, target, mask), mse, rtol=rtol)
    np.testing.assert_allclose(losses.psnr(image, target, mask), -10 * np.log10(mse), rtol=rtol)
    one_channel = losses.l1(image[..., 0], target[..., 0], mask)
    np.testing.assert_allclose(one_channel, np.abs(difference[:, 0]).mean(), rtol=rtol)
    nothing = jnp.zeros_like(mask)
    assert losses.l1(image, target, nothing) == losses.mse(image, target, nothing) == 0


@pytest.mark.quick(dtype=["float32"])
def test_ssim_is_the_mean_over_the_windows_whose_middle_counts(dtype):
    image, target, _ = pair(dtype)
    mask = np.ones((23, 31), bool)
    mask[:, 16:] = False
    rtol = 1e-9 if dtype == np.float64 else 1e-4
    ssim = jax.jit(losses.ssim)
    hidden = [jnp.where(mask[..., None], x, 0) for x in (image, target)]
    windows = [ssim(image[:, i : i + 11], target[:, i : i + 11]) for i in range(6)]
    windows += [ssim(*(x[:, i : i + 11] for x in hidden)) for i in range(6, 11)]
    wanted = np.mean(np.array(windows))
    np.testing.assert_allclose(losses.ssim(image, target, jnp.asarray(mask)), wanted, rtol=rtol)
    everything = jnp.ones((23, 31), bool)
    whole = losses.ssim(image, target)
    np.testing.assert_allclose(losses.ssim(image, target, everything), whole, rtol=rtol)
    np.testing.assert_allclose(losses.ssim(image, image, jnp.asarray(mask)), 1, rtol=1e-5)


@pytest.mark.quick(dtype=["float32"], name=["photometric"])
@pytest.mark.parametrize("name", ["l1", "mse", "psnr", "ssim", "dssim", "photometric"])
def test_pixels_that_do_not_count_have_no_value_and_no_gradient(name, dtype):
    image, target, mask = pair(dtype)
    loss = jax.jit(jax.value_and_grad(lambda *xs: getattr(losses, name)(*xs, mask=mask), (0, 1)))
    value, gradients = loss(image, target)
    hidden = ~mask[..., None]
    for filling in (jnp.nan, 1e20, 0.5):
        other, others = loss(jnp.where(hidden, filling, image), jnp.where(hidden, filling, target))
        assert_same_bits((value, gradients), (other, others))
    for gradient in gradients:
        assert np.isfinite(gradient).all() and not gradient[~mask].any() and gradient.any()


@pytest.mark.quick(name=["psnr"])
@pytest.mark.parametrize("name", ["l1", "psnr", "photometric"])
def test_weights_weigh_pixels(name, x64):
    """Weights of 0 and 1 are a mask; only proportions matter; each image has its own mean."""
    image, target, mask = pair(np.float64)
    loss, mask = jax.jit(getattr(losses, name)), np.asarray(mask)
    rng = np.random.default_rng(1)
    weights = np.where(mask, rng.uniform(0.1, 1, mask.shape), 0)
    expected = loss(image, target, mask=mask)
    for same in (255 * mask.astype(np.uint8), 1.0 * mask[..., None]):
        np.testing.assert_allclose(loss(image, target, mask=same), expected, rtol=1e-12)
    value = loss(image, target, mask=weights)
    assert abs(value - expected) > 1e-5
    np.testing.assert_allclose(loss(image, target, mask=7 * weights), value, rtol=1e-12)
    # What has no positive weight does not count, whatever is there.
    negative = np.where(mask, weights, rng.choice([-1.0, np.nan], mask.shape))
    np.testing.assert_allclose(loss(image, target, mask=negative), value, rtol=1e-12)
    if name != "photometric":
        distance = np.abs(image - target) ** (1 if name == "l1" else 2)
        mean = np.average(distance, weights=np.repeat(weights[..., None], 3, -1))
        np.testing.assert_allclose(value, -10 * np.log10(mean) if name == "psnr" else mean)
    images, targets = jnp.stack([image, target, image]), jnp.stack([target, image, 0.5 * target])
    each = [loss(images[i], targets[i], mask=weights) for i in range(3)]
    np.testing.assert_allclose(loss(images, targets, mask=weights), np.mean(each), rtol=1e-12)
    stack = jnp.stack([weights, jnp.zeros_like(weights), weights])
    np.testing.assert_allclose(loss(images, targets, mask=stack), np.mean(each[::2]), rtol=1e-12)


def test_a_weighted_ssim_weighs_its_windows(x64):
    image, target, _ = pair(np.float64)
    weights = np.random.default_rng(1).uniform(0.1, 1, (23, 31))
    ssim = jax.jit(losses.ssim)
    windows = [
        [
            ssim(image[i : i + 11, j : j + 11], target[i : i + 11, j : j + 11])
            for j in range(0, 21, 4)
        ]
        for i in range(0, 13, 4)
    ]
    chosen = np.zeros((23, 31), bool)
    chosen[5:18:4, 5:26:4] = True
    # All pixels are seen, but only these windows count: weights next to nothing elsewhere.
    value = ssim(image, target, jnp.where(chosen, weights, 1e-14))
    wanted = np.average(windows, weights=weights[5:18:4, 5:26:4])
    np.testing.assert_allclose(value, wanted, rtol=1e-9)


@pytest.mark.parametrize("filling", [jnp.nan, 1e20])
def test_other_losses_do_not_read_masked_pixels_either(filling):
    """A weight map, and an image beside a depth map: NaN there must not reach the gradient."""
    image, target, mask = pair(np.float32)
    weight, cover = image[..., 0], target[..., 0]

    def total(image, weight, cover, depth):
        smooth = losses.edge_aware_smoothness(depth, image, mask)
        return losses.mask_loss(weight, cover, mask) + smooth

    run = jax.jit(jax.value_and_grad(total, (0, 1, 2, 3)))
    arrays = image, weight, cover, 1 + weight
    hidden = [jnp.where(mask[..., None] if x.ndim == 3 else mask, x, filling) for x in arrays]
    ours, others = run(*arrays), run(*hidden)
    assert_same_bits(ours, others)
    assert all(np.isfinite(x).all() for x in ours[1]) and np.any(ours[1][3])


def test_a_mask_of_another_shape_is_refused():
    image, target, mask = pair(np.float32)
    for name in ("l1", "mse", "psnr", "ssim", "photometric"):
        with pytest.raises(ValueError, match=r"mask has shape \(22, 31\), expected \(23, 31\)"):
            getattr(losses, name)(image, target, mask=mask[1:])


def test_the_terms_of_the_loss_do_not_read_masked_pixels(masked):
    out = jgd.render(true_gaussians(), camera_of(masked, 1))
    terms = jax.jit(loss_parts, static_argnums=0)
    ours, others, unmasked = (
        terms(DEPTH, out, TrainingViews.of(each, DEPTH)[jnp.int32(0)])
        for each in (
            masked,
            with_other_pixels_where_masked(masked),
            dataclasses.replace(masked, masks=None),
        )
    )
    assert set(ours) == {"l1", "ssim", "alpha", "depth"}
    assert ours == others
    assert all(ours[name] != unmasked[name] for name in ("l1", "ssim", "alpha"))


@pytest.mark.slow
@pytest.mark.parametrize("depth_loss", ["l1", "ssi"])
@pytest.mark.parametrize("points", [True, False])
def test_a_fit_does_not_read_masked_pixels(masked, depth_loss, points):
    settings = dataclasses.replace(SETTINGS, depth_loss=depth_loss)
    data = masked if depth_loss == "l1" else monocular_like(masked)
    if not points:
        data = dataclasses.replace(data, points=None, point_colors=None)
    ours = fit.fit(data, settings)
    others = fit.fit(with_other_pixels_where_masked(data), settings)
    assert_same_bits(ours.gaussians, others.gaussians)
    assert ours.reports == others.reports


@pytest.mark.slow
def test_a_fit_reads_all_pixels_without_a_mask(masked):
    data = dataclasses.replace(masked, masks=None)
    changed = dataclasses.replace(with_other_pixels_where_masked(masked), masks=None)
    ours, others = (fit.fit(each, SETTINGS).reports[0].loss for each in (data, changed))
    assert ours != others


def test_gaussians_start_at_pixels_that_count(masked):
    changed = with_other_pixels_where_masked(masked)
    for geometry in (
        {},
        {"points": None, "point_colors": None},
        {"points": None, "point_colors": None, "depths": None},
    ):
        ours, others = (dataclasses.replace(each, **geometry) for each in (masked, changed))
        params = fit.initial_params(ours, SETTINGS)
        assert_same_bits(params, fit.initial_params(others, SETTINGS))


def test_the_evaluation_does_not_read_masked_pixels(masked):
    ours, others = (
        list(evaluation.evaluate(each, true_gaussians()))
        for each in (masked, with_other_pixels_where_masked(masked))
    )
    for one, other in zip(ours, others, strict=True):
        assert (one.psnr, one.ssim) == (other.psnr, other.ssim)
        assert one.psnr > 50 and one.ssim > 0.99
        np.testing.assert_array_equal(one.depth_errors, other.depth_errors)
        assert len(one.depth_errors) == (one.mask & (one.true_depth > 0)).sum()
