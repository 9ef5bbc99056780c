"""Tests losses against hand-computed values, dm_pix and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jax_gsplat_depth import losses

dm_pix = pytest.importorskip("dm_pix")

# One window, one more in one direction and channel, and many.
SHAPES = [(11, 11, 1), (11, 12, 4), (97, 65, 3)]


def image_pair(shape, dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    target = rng.uniform(size=shape)
    image = np.clip(target + rng.normal(scale=0.2, size=shape), 0, 1)
    return jnp.asarray(image, dtype), jnp.asarray(target, dtype)


def library_ssim(image, target):
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return dm_pix.ssim(image, target)


def test_hand_values():
    image = jnp.array([[[0.0, 0.5, 1.0]]])
    target = jnp.array([[[0.3, 0.5, 0.4]]])
    np.testing.assert_allclose(losses.l1(image, target), 0.3, rtol=1e-6)
    np.testing.assert_allclose(losses.psnr(image, target), -10 * np.log10(0.15), rtol=1e-6)
    assert losses.psnr(image, image) == np.inf


def test_ssim_of_equal_constant_and_inverted_images():
    ssim = jax.jit(losses.ssim)
    image, _ = image_pair((16, 16, 3))
    np.testing.assert_allclose(ssim(image, image), 1, atol=1e-6)
    np.testing.assert_allclose(losses.dssim(image, image), 0, atol=1e-6)
    # Constant images have no variance: only the luminance term (2ab + c1) / (a^2 + b^2 + c1) stays.
    a, b, c1 = 0.25, 0.75, 0.01**2
    expected = (2 * a * b + c1) / (a * a + b * b + c1)
    shape = (16, 16, 3)
    np.testing.assert_allclose(ssim(jnp.full(shape, a), jnp.full(shape, b)), expected, rtol=2e-4)
    assert ssim(1 - image, image) < 0


@pytest.mark.quick(shape=[SHAPES[2]], dtype=["float32"])
@pytest.mark.parametrize("shape", SHAPES)
def test_ssim_is_that_of_dm_pix(shape, dtype):
    image, target = image_pair(shape, dtype)
    tolerance = 1e-12 if dtype == np.float64 else 2e-6
    both = (0, 1)
    ours, v_ours = jax.jit(jax.value_and_grad(losses.ssim, both))(image, target)
    theirs, v_theirs = jax.jit(jax.value_and_grad(library_ssim, both))(image, target)
    assert ours.dtype == dtype
    np.testing.assert_allclose(ours, theirs, atol=tolerance)
    for v, expected in zip(v_ours, v_theirs, strict=True):
        assert v.dtype == dtype
        np.testing.assert_allclose(v, expected, atol=tolerance * float(jnp.abs(expected).max()))


@pytest.mark.slow
def test_ssim_has_every_derivative(x64):
    """Forward mode, Hessian times vector both ways round, and all of it mapped over any axis."""
    image, target = image_pair((14, 13, 2), np.float64)
    tangent = image_pair((14, 13, 2), np.float64, seed=1)[0]

    def derivatives(ssim):
        def ssim_of(x):
            return ssim(x, target)

        def forward(x, t):
            return jax.jvp(ssim_of, (x,), (t,))[1]

        def twice(x, t):
            return jax.jvp(jax.grad(ssim_of), (x,), (t,))[1]

        both = jax.jit(lambda x, t: (forward(x, t), twice(x, t), jax.grad(forward)(x, t)))
        mapped = jax.jit(jax.vmap(twice, in_axes=(None, 1), out_axes=2))
        return *both(image, tangent), mapped(image, jnp.stack([tangent, 2 * tangent], axis=1))

    for ours, theirs in zip(derivatives(losses.ssim), derivatives(library_ssim), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-12 * float(jnp.abs(theirs).max()))


def test_passes_of_the_blur_stay_apart():
    """As one loop they would compute each sum of the first pass eleven times."""
    image, target = image_pair((20, 30, 3))
    compiled = jax.jit(jax.value_and_grad(losses.ssim)).lower(image, target).compile()
    # Two passes of five maps, and back of the three that depend on the image.
    assert compiled.as_text().count(" call(") == 16


def test_gradients(x64):
    image, target = image_pair((14, 13, 2), np.float64, seed=3)
    for loss in (losses.l1, losses.psnr, losses.ssim, losses.dssim, losses.photometric):
        loss_of_image = jax.jit(lambda x, f=loss: f(x, target))
        check_grads(loss_of_image, (image,), order=1, modes=("rev",), eps=1e-6)


def test_photometric_mixes_l1_and_ssim():
    image, target = image_pair((20, 30, 3))
    l1, ssim = losses.l1(image, target), losses.ssim(image, target)
    np.testing.assert_allclose(
        losses.photometric(image, target), 0.8 * l1 + 0.2 * (1 - ssim), rtol=1e-6
    )
    np.testing.assert_allclose(losses.photometric(image, target, 0.0), l1, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_flat_images_have_finite_gradients(value):
    target, _ = image_pair((20, 20, 3))
    flat = jnp.full((20, 20, 3), value)
    gradient = jax.jit(jax.grad(losses.photometric))
    for image, other in ((flat, target), (target, flat), (flat, flat)):
        assert np.isfinite(gradient(image, other)).all()


@pytest.mark.parametrize("loss", [losses.l1, losses.mse, losses.psnr, losses.ssim])
def test_each_image_of_a_batch_on_its_own(loss, x64):
    rng = np.random.default_rng(0)
    image = rng.uniform(size=(2, 3, 14, 13, 3))
    noise = np.linspace(0.02, 0.3, 6).reshape(2, 3, 1, 1, 1)
    target = image + noise * rng.normal(size=image.shape)
    each = [loss(image[i, j], target[i, j]) for i in range(2) for j in range(3)]
    assert loss(image, target).shape == ()
    np.testing.assert_allclose(loss(image, target), np.mean(each), rtol=1e-12)
    mask = rng.random((2, 3, 14, 13)) > 0.3
    mask[1, 2] = False  # an image that does not count
    each = [loss(image[i, j], target[i, j], mask=mask[i, j]) for i in range(2) for j in range(3)]
    np.testing.assert_allclose(loss(image, target, mask=mask), np.mean(each[:-1]), rtol=1e-12)


def test_jit_vmap_and_numpy_inputs():
    pairs = [image_pair((20, 30, 3), seed=seed) for seed in range(3)]
    images, targets = (jnp.stack(arrays) for arrays in zip(*pairs, strict=True))
    batched = jax.jit(jax.vmap(losses.photometric))(images, targets)
    one_by_one = [losses.photometric(np.asarray(a), np.asarray(b)) for a, b in pairs]
    np.testing.assert_allclose(batched, one_by_one, rtol=1e-5)


@pytest.mark.parametrize("loss", [losses.l1, losses.mse, losses.psnr, losses.ssim])
def test_shapes_that_differ(loss):
    with pytest.raises(ValueError, match=r"target has shape \(20, 1, 3\)"):
        loss(jnp.zeros((20, 20, 3)), jnp.zeros((20, 1, 3)))


@pytest.mark.parametrize("shape", [(10, 20, 3), (20, 10, 3), (20, 20)])
def test_ssim_of_too_small_images(shape):
    with pytest.raises(ValueError, match="at least 11"):
        losses.ssim(jnp.zeros(shape), jnp.zeros(shape))
