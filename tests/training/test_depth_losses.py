"""Tests losses of depth, surface and mask: hand values, invariances, gradients, missing depth."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jax_gsplat_depth import losses

SHAPE = (12, 17)
PAIR_LOSSES = {
    "depth_l1": losses.depth_l1,
    "disparity_l1": losses.disparity_l1,
    "scale_shift_invariant": losses.scale_shift_invariant,
    "pearson": losses.pearson,
    "pearson_patches": functools.partial(losses.pearson_patches, size=4),
}


def depth_pair(seed=0, dtype=np.float64):
    """A rendered depth and a target, some pixels of each without depth, and a mask."""
    rng = np.random.default_rng(seed)
    target = rng.uniform(1, 4, SHAPE)
    depth = target + rng.normal(scale=0.3, size=SHAPE).clip(-0.9, 0.9)
    depth[rng.uniform(size=SHAPE) < 0.1] = 0
    target[rng.uniform(size=SHAPE) < 0.1] = 0
    target[0, 0], target[1, 2], depth[3, 3] = np.nan, np.inf, np.nan
    return depth.astype(dtype), target.astype(dtype), rng.uniform(size=SHAPE) < 0.8


def counted(depth, target, mask):
    valid = np.isfinite(depth) & np.isfinite(target) & (depth > 0) & (target > 0) & mask
    return depth[valid], target[valid]


def expected_ssi(d, t):
    design = np.stack([d, np.ones_like(d)], axis=1)
    solution, *_ = np.linalg.lstsq(design, t, rcond=None)
    return 0.5 * np.mean((design @ solution - t) ** 2)


def test_values_against_numpy(x64):
    depth, target, mask = depth_pair()
    d, t = counted(depth, target, mask)
    assert 50 < d.size < depth.size
    expected = {
        "depth_l1": np.mean(np.abs(d - t)),
        "disparity_l1": np.mean(np.abs(1 / d - 1 / t)),
        "scale_shift_invariant": expected_ssi(d, t),
        "pearson": 1 - np.corrcoef(d, t)[0, 1],
    }
    for name, value in expected.items():
        np.testing.assert_allclose(PAIR_LOSSES[name](depth, target, mask), value, rtol=1e-10)
    parts = []
    for row in range(0, 12, 4):
        for column in range(0, 16, 4):
            part = np.s_[row : row + 4, column : column + 4]
            parts.append(1 - np.corrcoef(*counted(depth[part], target[part], mask[part]))[0, 1])
    np.testing.assert_allclose(
        PAIR_LOSSES["pearson_patches"](depth, target, mask), np.mean(parts), rtol=1e-10
    )


def test_align_depth_finds_an_affine_change(x64):
    depth, _, mask = depth_pair()
    scale, shift = losses.align_depth(depth, 0.7 * depth + 2, mask)
    np.testing.assert_allclose([scale, shift], [0.7, 2], rtol=1e-10)


@pytest.mark.quick(name=["pearson"])
@pytest.mark.parametrize("name", ["scale_shift_invariant", "pearson", "pearson_patches"])
def test_invariant_to_scale_and_shift_of_the_rendering(x64, name):
    depth, target, mask = depth_pair()
    loss = PAIR_LOSSES[name]
    changed = np.where(depth > 0, 3 * depth + 5, depth)
    np.testing.assert_allclose(loss(changed, target, mask), loss(depth, target, mask), rtol=1e-9)
    assert loss(depth, target, mask) > 0.01 > 1e-12 > abs(loss(depth, depth, mask))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["scale_shift_invariant", "pearson", "pearson_patches"])
def test_a_flat_rendering_is_no_way_out(x64, name):
    """What a loss with the target aligned would reward."""
    depth, target, mask = depth_pair()
    flat = np.full(SHAPE, 2.0)
    loss = PAIR_LOSSES[name]
    assert loss(flat, target, mask) > 3 * loss(depth, target, mask)
    assert np.isfinite(jax.grad(loss)(jnp.asarray(flat), target, mask)).all()


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_gradient_is_right_and_zero_where_nothing_counts(x64, name):
    depth, target, mask = depth_pair()
    loss = functools.partial(PAIR_LOSSES[name], target=target, mask=mask)
    grad = jax.grad(loss)(jnp.asarray(depth))
    valid = np.isfinite(depth) & np.isfinite(target) & (depth > 0) & (target > 0) & mask
    assert np.isfinite(grad).all()
    assert (np.asarray(grad)[~valid] == 0).all()
    inside = valid.copy()
    if name == "pearson_patches":
        inside[:, 16:] = False
    assert (np.asarray(grad)[inside] != 0).all()

    def of_counted(x):
        return loss(jnp.asarray(depth).at[valid].set(x))

    check_grads(of_counted, (jnp.asarray(depth[valid]),), order=1, modes=["rev"], eps=1e-6)


@pytest.mark.quick(what=["no mask pixel", "NaN target"])
@pytest.mark.parametrize("name", PAIR_LOSSES)
@pytest.mark.parametrize("what", ["no mask pixel", "empty rendering", "empty target", "NaN target"])
def test_nothing_counts(name, what):
    depth, target, mask = (jnp.asarray(x) for x in depth_pair(dtype=np.float32))
    if what == "no mask pixel":
        mask = jnp.zeros_like(mask)
    elif what == "empty rendering":
        depth = jnp.zeros_like(depth)
    else:
        target = jnp.full_like(target, 0 if what == "empty target" else jnp.nan)
    value, grad = jax.value_and_grad(PAIR_LOSSES[name])(depth, target, mask)
    assert value == 0
    assert (grad == 0).all()


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_one_pixel_counts(name):
    depth, target, _ = (jnp.asarray(x) for x in depth_pair(dtype=np.float32))
    mask = jnp.zeros(SHAPE, bool).at[5, 5].set(True)
    value, grad = jax.value_and_grad(PAIR_LOSSES[name])(depth, target, mask)
    assert np.isfinite(value) and np.isfinite(grad).all()


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_jit_and_vmap(name):
    pairs = [depth_pair(seed, np.float32) for seed in (1, 2)]
    loss = PAIR_LOSSES[name]
    stacked = [jnp.stack(parts) for parts in zip(*pairs, strict=True)]
    mapped = jax.jit(jax.vmap(loss))(*stacked)
    assert mapped.dtype == jnp.float32
    np.testing.assert_allclose(mapped, [loss(*map(jnp.asarray, p)) for p in pairs], rtol=1e-5)


@pytest.mark.slow
def test_sparse_points(x64):
    depth = jnp.asarray(np.arange(1.0, 13.0).reshape(3, 4))
    points = jnp.asarray([[0.5, 0.5], [3.9, 2.1], [1.0, 1.0], [-0.1, 1.0], [4.0, 0.0], [np.nan, 1]])
    target = jnp.asarray([1.5, 11.0, 6.5, 9.0, 9.0, 9.0])
    np.testing.assert_allclose(losses.sparse_depth_l1(depth, points, target), (0.5 + 1 + 0.5) / 3)
    weights = jnp.asarray([1.0, 3.0, 0.0, 5.0, 5.0, 5.0])
    weighted = losses.sparse_depth_l1(depth, points, target, weights)
    np.testing.assert_allclose(weighted, (0.5 + 3) / 4)
    grad = jax.grad(losses.sparse_depth_l1)(depth, points, target)
    np.testing.assert_allclose(grad[0, 0], -1 / 3)
    np.testing.assert_allclose(grad[2, 3], 1 / 3)
    np.testing.assert_allclose(grad[1, 1], -1 / 3)
    assert np.count_nonzero(grad) == 3
    for nothing in (depth * 0, depth):
        loss = losses.sparse_depth_l1(nothing, points, target, weights * 0)
        assert loss == 0
    assert losses.sparse_depth_l1(depth, points[:0], target[:0]) == 0


@pytest.mark.slow
def test_smoothness_counts_slopes_away_from_edges(x64):
    depth = jnp.asarray([[1.0, 1.0, 3.0, 3.0]] * 4)  # mean 2
    flat = jnp.zeros((4, 4, 3))
    np.testing.assert_allclose(losses.edge_aware_smoothness(depth, flat), 1 / 3)
    edge = flat.at[:, 2:].set(1)
    np.testing.assert_allclose(losses.edge_aware_smoothness(depth, edge), np.exp(-1) / 3)
    np.testing.assert_allclose(losses.edge_aware_smoothness(7 * depth, flat), 1 / 3)
    hole = depth.at[:, 2].set(0)
    assert losses.edge_aware_smoothness(hole, flat) == 0
    mask = jnp.ones((4, 4), bool).at[:, 2].set(False)
    assert losses.edge_aware_smoothness(depth, flat, mask) == 0
    noise = jnp.asarray(np.random.default_rng(0).uniform(1, 2, (4, 4)))
    check_grads(
        lambda d: losses.edge_aware_smoothness(d, edge), (noise,), order=1, modes=["rev"], eps=1e-6
    )
    assert (jax.grad(losses.edge_aware_smoothness)(depth * 0, flat) == 0).all()


def plane_depth(normal, distance, K, shape=(9, 11)):
    """Camera z of the plane with normal . point = distance, at the pixel centres."""
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    rays = np.stack([(x - K[0, 2]) / K[0, 0], (y - K[1, 2]) / K[1, 1], np.ones(shape)], axis=-1)
    return distance / (rays @ normal)


def test_normals_of_a_plane(x64):
    K = np.array([[20.0, 0, 5.2], [0, 24.0, 4.1], [0, 0, 1]])
    normal = np.array([0.3, -0.4, -1.0]) / np.linalg.norm([0.3, -0.4, -1.0])
    depth = plane_depth(normal, -2.0, K)
    normals = losses.normals_from_depth(depth, K)
    np.testing.assert_allclose(normals, np.broadcast_to(normal, (9, 11, 3)), atol=1e-12)
    tilted = jnp.broadcast_to(5 * normal, (9, 11, 3))
    np.testing.assert_allclose(losses.normal_consistency(normals, tilted), 0, atol=1e-12)
    np.testing.assert_allclose(losses.normal_consistency(normals, -tilted), 2, atol=1e-12)


@pytest.mark.slow
def test_normals_where_there_is_no_depth(x64):
    K = np.array([[20.0, 0, 5.2], [0, 24.0, 4.1], [0, 0, 1]])
    depth = plane_depth(np.array([0.0, 0.0, 1.0]), 2.0, K)
    depth[4, 5], depth[0, 0] = 0, np.nan
    normals = np.asarray(losses.normals_from_depth(depth, K))
    missing = (normals == 0).all(axis=-1)
    holes = {(4, 5), (3, 5), (5, 5), (4, 4), (4, 6), (0, 0), (0, 1), (1, 0)}
    assert set(zip(*np.nonzero(missing), strict=True)) == holes
    target = np.broadcast_to([0.0, 0.0, -1.0], normals.shape)

    def loss(depth, K):
        return losses.normal_consistency(losses.normals_from_depth(depth, K), target)

    rng = np.random.default_rng(0)
    rough = jnp.asarray(np.where(depth > 0, depth + rng.normal(scale=0.02, size=depth.shape), 0))
    grads = jax.grad(loss, argnums=(0, 1))(rough, jnp.asarray(K))
    assert all(np.isfinite(g).all() and np.any(g) for g in grads)
    assert grads[0][4, 5] == 0
    smooth = jnp.asarray(plane_depth(np.array([0.1, 0.2, 1.0]), 2.0, K))
    check_grads(loss, (smooth, jnp.asarray(K)), order=1, modes=["rev"], eps=1e-6)
    assert loss(rough * 0, jnp.asarray(K)) == 0


def test_mask_loss(x64):
    weight, target = jnp.asarray([0.0, 1.0, 0.5, 1.0]), jnp.asarray([0.0, 1.0, 1.0, 0.0])
    f = 1 / 255
    values = np.log1p(f) - np.log([1 + f, 1 + f, 0.5 + f, f])
    np.testing.assert_allclose(losses.mask_loss(weight, target), values.mean(), rtol=1e-12)
    np.testing.assert_allclose(values[:2], 0, atol=1e-15)
    first = jnp.asarray([True, False, True, False])
    np.testing.assert_allclose(losses.mask_loss(weight, target, first), values[2] / 2, rtol=1e-12)
    grad = jax.grad(losses.mask_loss)(weight, target)
    assert np.isfinite(grad).all()
    assert grad[2] < 0 < grad[3]  # more where it is missing, less where it is too much
    assert losses.mask_loss(weight, target, jnp.zeros(4, bool)) == 0


def batch(count=3):
    """Maps of several cameras whose scales differ, one of them without any depth."""
    pairs = [depth_pair(seed) for seed in range(count)]
    depth, target, mask = (np.stack(arrays) for arrays in zip(*pairs, strict=True))
    depth = np.where(depth > 0, depth, 0) * np.array([1.0, 10, 0.1]).reshape(count, 1, 1)
    target[-1] = 0
    return depth, target, mask


def smoothness(depth, target, mask):
    image = np.stack([np.nan_to_num(target, posinf=0), depth], axis=-1)
    return losses.edge_aware_smoothness(depth, image, mask & (target > 0))


def consistency(depth, target, mask):
    K = np.diag([10.0, 10, 1])
    of_depth = losses.normals_from_depth(depth, K)
    return losses.normal_consistency(of_depth, losses.normals_from_depth(target, K), mask)


def of_the_mask(depth, target, mask):
    return losses.mask_loss(np.clip(depth / 9, 0, 1), mask.astype(float), mask & (target > 0))


MAP_LOSSES = PAIR_LOSSES | {
    "edge_aware_smoothness": smoothness,
    "normal_consistency": consistency,
    "mask_loss": of_the_mask,
}


@pytest.mark.quick(name=["scale_shift_invariant"])
@pytest.mark.parametrize("name", MAP_LOSSES)
def test_each_map_of_a_batch_on_its_own(x64, name):
    """The loss is the mean over the maps in which a pixel counts, with any leading axes."""
    maps = batch()
    loss = MAP_LOSSES[name]
    each = [loss(*(x[i] for x in maps)) for i in range(3)]
    assert each[2] == 0 < each[0] != each[1] > 0
    np.testing.assert_allclose(loss(*maps), (each[0] + each[1]) / 2, rtol=1e-12)
    deeper = (x[:2, None] for x in maps)
    np.testing.assert_allclose(loss(*deeper), (each[0] + each[1]) / 2, rtol=1e-12)


def test_each_map_of_a_batch_is_aligned_on_its_own(x64):
    depth, target, mask = batch()
    scale, shift = losses.align_depth(depth, target, mask)
    assert scale.shape == shift.shape == (3,)
    for i in range(3):
        expected = losses.align_depth(depth[i], target[i], mask[i])
        np.testing.assert_allclose([scale[i], shift[i]], expected, rtol=1e-12)


@pytest.mark.slow
def test_normals_of_a_batch(x64):
    depth, _, _ = batch()
    K = np.stack([np.diag([f, f, 1.0]) for f in (10.0, 12, 14)])
    normals = losses.normals_from_depth(depth, K)
    for i in range(3):
        expected = losses.normals_from_depth(depth[i], K[i])
        np.testing.assert_allclose(normals[i], expected, atol=1e-14)
    one = losses.normals_from_depth(depth, K[0])
    np.testing.assert_allclose(one[1], losses.normals_from_depth(depth[1], K[0]), atol=1e-14)


def test_sparse_points_of_a_batch(x64):
    rng = np.random.default_rng(3)
    depth = rng.uniform(1, 3, (3, *SHAPE))
    points, target = rng.uniform(0, 12, (3, 5, 2)), rng.uniform(1, 3, (3, 5))
    weights = np.array([[1.0, 2, 0, 0, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]])
    each = [losses.sparse_depth_l1(*x) for x in zip(depth, points, target, weights, strict=True)]
    assert each[2] == 0 < each[0] != each[1] > 0
    found = losses.sparse_depth_l1(depth, points, target, weights)
    np.testing.assert_allclose(found, (each[0] + each[1]) / 2, rtol=1e-12)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda a, b: losses.depth_l1(a, b), "target has shape (3, 5), expected (3, 4)"),
        (lambda a, b: losses.pearson(a, a, b), "mask has shape (3, 5), expected (3, 4)"),
        (lambda a, b: losses.pearson_patches(a, a, size=4), "size = 4"),
        (lambda a, b: losses.pearson_patches(a, a, size=1), "size at least 2"),
        (lambda a, b: losses.sparse_depth_l1(a, b, b[0]), "points2d has shape (3, 5)"),
        (lambda a, b: losses.sparse_depth_l1(a, b[:, :2], b[0]), "target has shape (5,)"),
        (lambda a, b: losses.sparse_depth_l1(a[0], b[:, :2], b[:, 0]), "depth has shape (4,)"),
        (
            lambda a, b: losses.edge_aware_smoothness(a, b),
            "expected (..., H, W) and (..., H, W, C)",
        ),
        (lambda a, b: losses.normals_from_depth(a, a), "K has shape (3, 4), expected (3, 3)"),
        (lambda a, b: losses.normals_from_depth(a[:1], a), "H and W at least 2"),
        (
            lambda a, b: losses.normals_from_depth(jnp.stack([a, a]), jnp.ones((3, 3, 3))),
            "K has shape (3, 3, 3), expected (3, 3) or (2, 3, 3)",
        ),
        (
            lambda a, b: losses.sparse_depth_l1(jnp.stack([a, a]), b[:, :2], b[0]),
            "points2d has shape (3, 2), expected (2, M, 2) for depth of shape (2, 3, 4)",
        ),
        (lambda a, b: losses.normal_consistency(a, b), "target has shape (3, 5)"),
        (lambda a, b: losses.mask_loss(a, b), "target has shape (3, 5), expected (3, 4)"),
    ],
)
def test_wrong_shapes(call, words):
    with pytest.raises(ValueError) as error:
        call(jnp.ones((3, 4)), jnp.ones((3, 5)))
    assert words in str(error.value)
