"""Tests the constructors of ``Camera`` against hand-computed poses and float64 NumPy."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy.spatial.transform import Rotation

import jax_gsplat_depth as jgd

SIZE = {"width": 64, "height": 48}


def project(camera, points):
    """Pixel positions and depths of world points, in NumPy."""
    viewmat, K = np.asarray(camera.viewmat, np.float64), np.asarray(camera.K, np.float64)
    local = points @ viewmat[:3, :3].T + viewmat[:3, 3]
    return local[:, :2] / local[:, 2:] * K[[0, 1], [0, 1]] + K[:2, 2], local[:, 2]


def assert_rigid(viewmat):
    rotation = np.asarray(viewmat, np.float64)[..., :3, :3]
    identity = np.broadcast_to(np.eye(3), rotation.shape)
    np.testing.assert_allclose(rotation @ rotation.mT, identity, atol=1e-6)
    np.testing.assert_allclose(np.linalg.det(rotation), 1, atol=1e-6)
    last = np.broadcast_to([0, 0, 0, 1], (*rotation.shape[:-2], 4))
    np.testing.assert_array_equal(np.asarray(viewmat)[..., 3, :], last)


def random_pose(seed):
    pose = np.eye(4)
    pose[:3, :3] = Rotation.random(rng=np.random.default_rng(seed)).as_matrix()
    pose[:3, 3] = np.random.default_rng(seed).normal(size=3)
    return pose


def test_look_at_by_hand():
    camera = jgd.Camera.look_at((0, -5, 0), (0, 2, 0), K=np.diag([7.0, 8, 1]), **SIZE)
    expected = [[1, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 5], [0, 0, 0, 1]]
    np.testing.assert_array_equal(camera.viewmat, expected)
    np.testing.assert_array_equal(camera.K, np.diag([7.0, 8, 1]))
    assert (camera.width, camera.height) == (64, 48)


@pytest.mark.parametrize("seed", range(5))
def test_look_at(seed, x64):
    rng = np.random.default_rng(seed)
    eye, target, up = rng.normal(size=(3, 3))
    K = np.array([[50.0, 0, 20], [0, 60, 30], [0, 0, 1]])
    camera = jgd.Camera.look_at(eye, target, up, K=K, **SIZE)
    assert camera.viewmat.dtype == np.float64
    assert_rigid(camera.viewmat)
    np.testing.assert_allclose(camera.center, eye, atol=1e-14)
    pixel, depth = project(camera, np.stack([target, target + 0.01 * up]))
    np.testing.assert_allclose(pixel[0], [20, 30], atol=1e-11)
    np.testing.assert_allclose(depth[0], np.linalg.norm(target - eye), atol=1e-14)
    # A step along up moves the point straight up in the image: no roll.
    np.testing.assert_allclose(pixel[1, 0], 20, atol=1e-11)
    assert pixel[1, 1] < 30


@pytest.mark.quick(up=[(0, 0, 1)])
@pytest.mark.parametrize("up", [(0, 0, 1), (0, 0, -2), (0, 0, 0), (1e-8, 0, 1)])
@pytest.mark.parametrize("direction", [1.0, -1.0])
def test_look_at_along_up(up, direction):
    def viewmat(eye):
        return jgd.Camera.look_at(eye, (1.0, 2.0, 0.0), up, fov_x=1.0, **SIZE).viewmat

    eye = jnp.array([1.0, 2.0, 3.0 * direction])
    assert_rigid(viewmat(eye))
    np.testing.assert_allclose(viewmat(eye) @ jnp.array([1.0, 2, 0, 1]), [0, 0, 3, 1], atol=1e-6)
    assert np.isfinite(jax.jacrev(viewmat)(eye)).all()


@pytest.mark.parametrize("seed", range(3))
def test_from_opengl(seed, x64):
    pose = random_pose(seed)
    K = np.array([[50.0, 0, 20], [0, 60, 30], [0, 0, 1]])
    camera = jgd.Camera.from_opengl(pose, K, **SIZE)
    expected = np.linalg.inv(pose @ np.diag([1.0, -1, -1, 1]))
    np.testing.assert_allclose(camera.viewmat, expected, atol=1e-14)
    np.testing.assert_array_equal(camera.K, K)
    np.testing.assert_allclose(camera.center, pose[:3, 3], atol=1e-14)


def test_from_opengl_directions():
    pose = np.eye(4)
    pose[:3, 3] = [1, 2, 3]
    camera = jgd.Camera.from_opengl(pose, fov_x=1.0, **SIZE)
    # The camera looks along -z, with +x right and +y up.
    pixel, depth = project(camera, np.array([[1, 2, -7], [2, 2, -7], [1, 3, -7]], float))
    np.testing.assert_allclose(depth, 10)
    np.testing.assert_allclose(pixel[0], [32, 24])
    assert pixel[1, 0] > 32 and pixel[2, 1] < 24


@pytest.mark.parametrize("name, side", [("fov_x", 0), ("fov_y", 1)])
@pytest.mark.parametrize("fov", [0.4, 1.3, 2.9])
def test_from_fov(name, side, fov, x64):
    camera = jgd.Camera.from_fov(np.eye(4), **{name: fov}, **SIZE)
    K = np.asarray(camera.K)
    focal = (64, 48)[side] / (2 * np.tan(fov / 2))
    expected = [[focal, 0, 32], [0, focal, 24], [0, 0, 1]]
    np.testing.assert_allclose(K, expected, rtol=1e-14)
    edge = np.zeros(3)
    edge[side], edge[2] = np.tan(fov / 2), 1
    pixel, _ = project(camera, edge[None])
    np.testing.assert_allclose(pixel[0, side], (64, 48)[side], rtol=1e-13)


@pytest.mark.parametrize("name", ["fov_x", "fov_y"])
def test_every_constructor_takes_an_angle(name):
    expected = jgd.Camera.from_fov(np.eye(4), **{name: 0.7}, **SIZE).K
    look = jgd.Camera.look_at((0, 1, 0), (0, 0, 0), **{name: 0.7}, **SIZE)
    opengl = jgd.Camera.from_opengl(np.eye(4), **{name: 0.7}, **SIZE)
    np.testing.assert_array_equal(look.K, expected)
    np.testing.assert_array_equal(opengl.K, expected)


def test_from_colmap_by_hand():
    # A quarter turn about z takes the world's x axis to the camera's y axis.
    camera = jgd.Camera.from_colmap(
        [2, 0, 0, 2], [1, 2, 3], [50, 60, 20, 30], model="PINHOLE", **SIZE
    )
    expected = [[0, -1, 0, 1], [1, 0, 0, 2], [0, 0, 1, 3], [0, 0, 0, 1]]
    np.testing.assert_allclose(camera.viewmat, expected, atol=1e-6)
    np.testing.assert_array_equal(camera.K, [[50, 0, 20], [0, 60, 30], [0, 0, 1]])


@pytest.mark.parametrize("seed", range(5))
def test_from_colmap_rotation(seed, x64):
    rng = np.random.default_rng(seed)
    qvec, tvec = rng.normal(size=4), rng.normal(size=3)
    camera = jgd.Camera.from_colmap(qvec, tvec, [50.0, 20, 30], model="SIMPLE_PINHOLE", **SIZE)
    rotation = Rotation.from_quat(qvec, scalar_first=True).as_matrix()
    np.testing.assert_allclose(camera.viewmat[:3, :3], rotation, atol=1e-14)
    np.testing.assert_allclose(camera.viewmat[:3, 3], tvec)
    np.testing.assert_array_equal(camera.K, [[50, 0, 20], [0, 50, 30], [0, 0, 1]])


@pytest.mark.parametrize("model", ["OPENCV", "SIMPLE_RADIAL", "pinhole", "", None])
def test_from_colmap_refuses_other_models(model):
    with pytest.raises(ValueError, match=f"camera model {model!r} is not a pinhole"):
        jgd.Camera.from_colmap(np.ones(4), np.ones(3), np.ones(4), model=model, **SIZE)


def test_center():
    poses = np.stack([random_pose(seed) for seed in range(3)]).astype(np.float32)
    camera = jgd.Camera(jnp.asarray(poses), jnp.zeros((3, 3, 3)), **SIZE)
    expected = np.linalg.inv(poses.astype(np.float64))[:, :3, 3]
    np.testing.assert_allclose(camera.center, expected, atol=1e-6)
    single = dataclasses.replace(camera, viewmat=poses[1])
    np.testing.assert_array_equal(single.center, camera.center[1])


def constructor_calls():
    """Name -> (constructor of float arguments, arguments of one camera)."""
    rng = np.random.default_rng(3)
    K = np.array([[50.0, 0, 20], [0, 60, 30], [0, 0, 1]])
    look_at, colmap = jgd.Camera.look_at, jgd.Camera.from_colmap
    opengl, from_fov = jgd.Camera.from_opengl, jgd.Camera.from_fov
    colmap_params = {
        "PINHOLE": np.array([50.0, 60, 20, 30]),
        "SIMPLE_PINHOLE": np.array([50.0, 20, 30]),
    }
    calls = {
        "look_at": (
            lambda eye, target, up, K: look_at(eye, target, up, K=K, **SIZE),
            (*rng.normal(size=(3, 3)), K),
        ),
        "look_at_fov": (
            lambda eye, target, fov: look_at(eye, target, fov_y=fov, **SIZE),
            (*rng.normal(size=(2, 3)), np.array(0.8)),
        ),
        "from_opengl": (lambda pose, K: opengl(pose, K, **SIZE), (random_pose(4), K)),
        "from_fov": (
            lambda viewmat, fov: from_fov(viewmat, fov_x=fov, **SIZE),
            (random_pose(5), np.array(1.1)),
        ),
    }
    for model, params in colmap_params.items():
        calls[f"from_colmap_{model}"] = (
            functools.partial(colmap, model=model, **SIZE),
            (rng.normal(size=4), rng.normal(size=3), params),
        )
    return calls


CONSTRUCTORS = sorted(constructor_calls())


@pytest.mark.quick(name=["look_at", "from_colmap_PINHOLE"])
@pytest.mark.parametrize("name", CONSTRUCTORS)
def test_constructor_gradients(name, x64):
    f, args = constructor_calls()[name]
    check_grads(f, tuple(map(jnp.asarray, args)), order=1, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", CONSTRUCTORS)
def test_constructor_dtype(name, dtype):
    f, args = constructor_calls()[name]
    for camera in (
        f(*(jnp.asarray(x, dtype) for x in args)),
        jax.jit(f)(*(jnp.asarray(x, dtype) for x in args)),
        # One JAX array decides over NumPy's float64 and Python's numbers.
        f(jnp.asarray(args[0], dtype), *args[1:-1], args[-1].tolist()),
    ):
        assert camera.viewmat.dtype == camera.K.dtype == dtype
        assert not camera.viewmat.weak_type and not camera.K.weak_type


def test_constructor_dtype_from_numpy_and_python(x64):
    def look_at_dtype(eye):
        return jgd.Camera.look_at(eye, (0, 0, 0), fov_x=np.float64(1), **SIZE).viewmat.dtype

    assert look_at_dtype(np.ones(3, np.float32)) == np.float32
    assert look_at_dtype(np.ones(3)) == np.float64
    assert look_at_dtype([1, 2, 3]) == np.float64
    with jax.enable_x64(False):
        assert look_at_dtype(np.ones(3)) == np.float32
        assert look_at_dtype(np.ones(3, np.int64)) == np.float32


@pytest.mark.parametrize("name", CONSTRUCTORS)
def test_constructor_camera_axis(name):
    f, args = constructor_calls()[name]
    args = [x.astype(np.float32) for x in args]
    batched = [np.stack([x, x + np.float32(0.1)]) for x in args]
    loop = [f(*(x[c] for x in batched)) for c in range(2)]
    for cameras in (f(*batched), jax.vmap(f)(*batched)):
        for c in range(2):
            np.testing.assert_allclose(cameras.viewmat[c], loop[c].viewmat, atol=1e-6)
            np.testing.assert_allclose(cameras.K[c], loop[c].K, rtol=1e-6)
    # One argument with the axis is enough: the others are repeated.
    for i in range(len(args)):
        mixed = [batched[k] if k == i else args[k] for k in range(len(args))]
        cameras = f(*mixed)
        assert cameras.viewmat.shape == (2, 4, 4) and cameras.K.shape == (2, 3, 3)
        expected = f(*(batched[k][1] if k == i else args[k] for k in range(len(args))))
        np.testing.assert_allclose(cameras.viewmat[1], expected.viewmat, atol=1e-6)
        np.testing.assert_allclose(cameras.K[1], expected.K, rtol=1e-6)


def test_constructor_takes_nested_lists_of_tracers():
    def focal(fx):
        K = [[fx, 0, 3], [0, 2 * fx, 4], [0, 0, 1]]
        return jgd.Camera.from_opengl(np.eye(4), K, **SIZE).K

    expected = [[5, 0, 3], [0, 10, 4], [0, 0, 1]]
    np.testing.assert_array_equal(jax.jit(focal)(jnp.float32(5)), expected)
    np.testing.assert_array_equal(
        jax.jacfwd(focal)(jnp.float32(5)), [[1, 0, 0], [0, 2, 0], [0, 0, 0]]
    )


eye4, one3, K3 = np.eye(4), np.ones(3), np.eye(3)
CONSTRUCTOR_ERRORS = {
    "eye": (
        lambda: jgd.Camera.look_at(np.ones(4), one3, K=K3, **SIZE),
        "eye has shape (4,), expected (3,) or (C, 3)",
    ),
    "two camera axes": (
        lambda: jgd.Camera.look_at(np.ones((2, 2, 3)), one3, K=K3, **SIZE),
        "eye has shape (2, 2, 3), expected (3,) or (C, 3)",
    ),
    "target": (
        lambda: jgd.Camera.look_at(np.ones((2, 3)), np.ones((4, 3)), K=K3, **SIZE),
        "target has shape (4, 3), expected (3,) or (C, 3) with C = 2 (from eye)",
    ),
    "fov": (
        lambda: jgd.Camera.look_at(one3, np.ones((2, 3)), fov_x=np.ones(3), **SIZE),
        "fov_x has shape (3,), expected () or (C,) with C = 2 (from target)",
    ),
    "K": (
        lambda: jgd.Camera.from_opengl(eye4, np.ones(4), **SIZE),
        "K has shape (4,), expected (3, 3) or (C, 3, 3)",
    ),
    "pose": (
        lambda: jgd.Camera.from_opengl(eye4[:3], K3, **SIZE),
        "camera_to_world has shape (3, 4), expected (4, 4) or (C, 4, 4)",
    ),
    "viewmat": (
        lambda: jgd.Camera.from_fov(eye4[:3, :3], fov_x=1.0, **SIZE),
        "viewmat has shape (3, 3), expected (4, 4) or (C, 4, 4)",
    ),
    "params": (
        lambda: jgd.Camera.from_colmap(np.ones(4), one3, np.ones(3), model="PINHOLE", **SIZE),
        "params has shape (3,), expected (4,) or (C, 4)",
    ),
    "two lenses": (
        lambda: jgd.Camera.look_at(one3, -one3, K=K3, fov_y=1.0, **SIZE),
        "expected exactly one of K, fov_x and fov_y, got K and fov_y",
    ),
    "no lens": (
        lambda: jgd.Camera.from_opengl(eye4, **SIZE),
        "expected exactly one of K, fov_x and fov_y, got none of them",
    ),
    "no angle": (
        lambda: jgd.Camera.from_fov(eye4, **SIZE),
        "expected exactly one of fov_x and fov_y, got none of them",
    ),
}


def rigid(**changes):
    pose = np.eye(4)
    for index, value in changes.items():
        pose[tuple(int(digit) for digit in index[1:])] = value
    return pose


def from_colmap(qvec=(1, 0, 0, 0), tvec=(0, 0, 1), params=(50, 50, 32, 24)):
    return jgd.Camera.from_colmap(qvec, tvec, params, model="PINHOLE", **SIZE)


def seen_from(eye=(0, -3, 0), target=(0, 0, 0), up=(0, 0, 1), **lens):
    return jgd.Camera.look_at(eye, target, up, **(lens or {"fov_x": 1.0}), **SIZE)


UNUSABLE_VALUES = {
    "degrees": (lambda: seen_from(fov_x=60), "fov_x is 60, expected radians between 0 and pi"),
    "no angle at all": (lambda: seen_from(fov_y=0.0), "fov_y is 0, expected radians"),
    "negative angle": (lambda: jgd.Camera.from_fov(eye4, fov_y=-1.0, **SIZE), "fov_y is -1,"),
    "half a turn": (lambda: jgd.Camera.from_opengl(eye4, fov_x=np.pi, **SIZE), "fov_x is 3.14159"),
    "one of several": (
        lambda: seen_from(np.ones((2, 3)), fov_x=jnp.array([1.0, 60.0])),
        "fov_x is [ 1., 60.]",
    ),
    "same point": (lambda: seen_from((1, 2, 3), (1, 2, 3)), "eye and target are the same point"),
    "same in float32": (
        lambda: seen_from((1e8, 0, 0), (1e8 + 1, 0, 0)),
        "eye and target are the same point, or too close or too far apart for float32",
    ),
    "squares to zero": (lambda: seen_from((0, 0, 0), (0, 1e-30, 0)), "too close"),
    "squares to infinity": (lambda: seen_from((0, 0, 0), (0, 1e30, 0)), "too far apart"),
    "eye": (lambda: seen_from((np.nan, 0, 0)), "eye holds NaN or infinity"),
    "up": (lambda: seen_from(up=(0, 0, np.inf)), "up holds NaN or infinity"),
    "focal length": (
        lambda: seen_from(K=np.diag([50.0, -50, 1])),
        "K has the focal lengths [ 50., -50.], expected positive pixels",
    ),
    "no focal length": (
        lambda: jgd.Camera.from_opengl(eye4, np.diag([0.0, 5, 1]), **SIZE),
        "K has the focal lengths",
    ),
    "principal point": (
        lambda: seen_from(K=np.array([[5.0, 0, np.nan], [0, 5, 1], [0, 0, 1]])),
        "the principal point of K holds NaN",
    ),
    "params": (lambda: from_colmap(params=(50, 0, 32, 24)), "params has the focal lengths"),
    "qvec": (lambda: from_colmap(qvec=(0, 0, 0, 0)), "qvec is zero, which is no rotation"),
    "tvec": (lambda: from_colmap(tvec=(0, 0, np.nan)), "tvec holds NaN or infinity"),
    "pose that is not finite": (
        lambda: jgd.Camera.from_fov(rigid(_03=np.nan), fov_x=1.0, **SIZE),
        "viewmat holds NaN or infinity",
    ),
}


@pytest.mark.parametrize("name", UNUSABLE_VALUES)
def test_values_that_make_no_camera(name):
    call, message = UNUSABLE_VALUES[name]
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


@pytest.mark.parametrize("low", [jnp.bfloat16, jnp.float16])
def test_cameras_of_few_digits(low):
    camera = seen_from(jnp.array([0, -3, 0], low))
    assert camera.viewmat.dtype == low


def test_values_are_checked_where_they_are_known():
    """Also while a function is traced; what is traced itself cannot be."""
    with pytest.raises(ValueError, match="fov_x is 60"):
        jax.jit(lambda eye: seen_from(eye, fov_x=60).viewmat)(jnp.ones(3))
    assert jax.jit(lambda fov: seen_from(fov_x=fov).K)(60.0).shape == (3, 3)


def test_what_is_not_read_may_be_anything():
    K = np.diag([50.0, 50, 1])
    K[0, 1], K[2] = np.nan, np.inf
    pose = rigid()
    pose[3] = np.nan
    assert jgd.Camera.from_opengl(pose, K, **SIZE).viewmat[3].tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize("name", CONSTRUCTOR_ERRORS)
def test_constructor_error(name):
    call, message = CONSTRUCTOR_ERRORS[name]
    with pytest.raises(ValueError, match=re.escape(message)):
        call()
