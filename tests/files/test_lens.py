"""Checks the OPENCV lens: formula and inverse against COLMAP, and captures that need it."""

import numpy as np
import pytest
from helpers.captures import CX, CY, FX, FY, HEIGHT, WIDTH, K, Scene, load, nerf_folder, refusal
from helpers.captures import write_depths as write_depths_of
from helpers.captures import write_json as write
from PIL import Image

from jax_gsplat_depth.datasets._lens import Lens, LensError

TERMS = {"k1": 0.06, "k2": -0.08, "p1": -0.002, "p2": 0.003}


def lens(width=WIDTH, height=HEIGHT, fx=FX, fy=FY, cx=CX, cy=CY, **terms):
    return Lens(width, height, fx, fy, cx, cy, **{"k1": 0, "k2": 0, "p1": 0, "p2": 0} | terms)


def rays(n=500, reach=0.7):
    return np.random.default_rng(0).uniform(-reach, reach, (n, 2))


@pytest.mark.parametrize(
    "terms", [TERMS, {"k1": 0.3}, {"k1": -0.3, "k2": 0.1}, {"p1": 0.02}, {"p2": -0.02}, {}]
)
def test_inverse_is_exact(terms):
    xy = rays()
    one = lens(**terms)
    np.testing.assert_allclose(one.undistort(one.distort(xy)), xy, atol=1e-13)
    seen = rays(reach=0.4)
    np.testing.assert_allclose(one.distort(one.undistort(seen)), seen, atol=1e-12)


def test_formula_and_inverse_as_colmap():
    pycolmap = pytest.importorskip("pycolmap")
    params = [FX, FY, CX, CY, *TERMS.values()]
    camera = pycolmap.Camera(model="OPENCV", width=WIDTH, height=HEIGHT, params=params)
    xy, one = rays(), lens(**TERMS)
    pixels = np.array([camera.img_from_cam(np.array([*ray, 1.0])) for ray in xy])
    np.testing.assert_allclose(one.distort(xy) * [FX, FY] + [CX, CY], pixels, atol=1e-12)
    back = np.array([camera.cam_from_img(pixel) for pixel in pixels])[:, :2]
    np.testing.assert_allclose(one.undistort(one.distort(xy)), back, atol=1e-8)


def test_jacobian_is_the_derivative():
    xy, one, step = rays(), lens(**TERMS), 1e-6
    for axis in range(2):
        shift = step * np.eye(2)[axis]
        slope = (one.distort(xy + shift) - one.distort(xy - shift)) / (2 * step)
        np.testing.assert_allclose(one.jacobian(xy)[..., axis], slope, atol=1e-8)


@pytest.mark.parametrize("terms", [{"k1": -5.0}, {"k1": -0.9, "k2": -9.0}, {"k1": 1e200}])
def test_a_lens_that_folds_the_picture(terms):
    with pytest.raises(LensError, match="cannot be undone|nothing"):
        _ = lens(**terms).pinhole_size


@pytest.mark.parametrize("terms", [TERMS, {"k1": 0.2}, {"k1": -0.2}, {"p1": 0.01, "p2": 0.01}])
def test_every_pixel_comes_from_inside_the_photo(terms):
    one = lens(140, 110, 155.0, 162.5, 67.5, 55.0, **terms)
    (width, height), (cx, cy) = one.pinhole_size, one.pinhole_center
    corners = np.array([[x, y] for x in (0, width) for y in (0, height)], float)
    pixels = one.distort((corners - [cx, cy]) / [155.0, 162.5]) * [155.0, 162.5] + [67.5, 55.0]
    assert (pixels > -1e-5).all() and (pixels < np.array([140, 110]) + 1e-5).all()
    assert width > 100 and height > 80


def test_removal_of_a_known_picture():
    """A picture that is linear in the pinhole pixel comes out linear, but for rounding."""
    one = lens(140, 110, 155.0, 162.5, 67.5, 55.0, **TERMS)
    columns, rows = np.meshgrid(np.arange(140) + 0.5, np.arange(110) + 0.5)
    seen = (np.stack([columns, rows], -1) - [67.5, 55.0]) / [155.0, 162.5]
    ray = one.undistort(seen)
    (width, height), (cx, cy) = one.pinhole_size, one.pinhole_center
    x = (np.arange(width) + 0.5 - cx) / 155.0
    y = (np.arange(height) + 0.5 - cy) / 162.5
    picture = np.stack([100 + 90 * ray[..., 0], 100 + 90 * ray[..., 1]], -1).astype(np.float32)
    result = one.remove(picture)
    assert result.shape == (height, width, 2) and result.dtype == np.float32
    expected = np.stack(np.broadcast_arrays(100 + 90 * x, 100 + 90 * y[:, None]), -1)
    np.testing.assert_allclose(result[1:-1, 1:-1], expected[1:-1, 1:-1], atol=2e-3)
    rounded = one.remove(np.rint(picture).astype(np.uint8))
    assert rounded.dtype == np.uint8 and np.abs(rounded - expected)[1:-1, 1:-1].max() < 1.01
    nearest = one.remove(picture[..., 0], nearest=True)
    assert set(nearest.ravel()) <= set(picture[..., 0].ravel())


# Captures


@pytest.fixture
def nerf(tmp_path):
    return tmp_path, nerf_folder(tmp_path, Scene())


def test_capture_with_a_lens(nerf):
    folder, data = nerf
    data.update(TERMS, camera_model="OPENCV")
    rng = np.random.default_rng(0)
    steps = rng.integers(1, 5, (len(data["frames"]), HEIGHT, WIDTH)) * 1000
    write_depths_of(folder, data, steps)
    write(folder / "transforms.json", data)
    capture, one = load(folder), lens(**TERMS)
    assert (capture.width, capture.height) == one.pinhole_size
    assert capture.width >= WIDTH - 2 and capture.height >= HEIGHT - 2
    expected = [[FX, 0, one.pinhole_center[0]], [0, FY, one.pinhole_center[1]], [0, 0, 1]]
    np.testing.assert_allclose(capture.Ks[3], expected, rtol=1e-6)
    for i, name in enumerate(capture.names):
        photo = np.asarray(Image.open(folder / "images" / f"{name}.png"))
        np.testing.assert_array_equal(capture.images[i], one.remove(photo))
        depth = one.remove(steps[i].astype(np.float32), nearest=True) / 1000
        np.testing.assert_allclose(capture.depths[i], depth, rtol=1e-6)
    assert capture.depth_masks.all()
    smaller = load(folder, downscale=2)
    assert smaller.images.shape[1:3] == (capture.height // 2, capture.width // 2)
    np.testing.assert_allclose(smaller.Ks[0][:2], capture.Ks[0][:2] / 2)


def test_frames_with_lenses_of_their_own_are_cut_to_one_size(nerf):
    folder, data = nerf
    data["frames"][3].update(k1=0.3)
    data["frames"][4].update(k1=1e-9)  # Too little to take a row away.
    write(folder / "transforms.json", data)
    capture, one = load(folder), lens(k1=0.3)
    width, height = one.pinhole_size
    assert capture.images.shape[1:3] == (height, width) and width < WIDTH
    photos = [np.asarray(Image.open(folder / "images" / f"{n}.png")) for n in capture.names]
    np.testing.assert_array_equal(capture.images[3], one.remove(photos[3]))
    np.testing.assert_array_equal(capture.images[4:6], [p[:height, :width] for p in photos[4:6]])
    np.testing.assert_allclose(capture.Ks[4:6], [K, K], rtol=1e-6)
    assert capture.Ks[3, 0, 2] == np.float32(one.pinhole_center[0])


@pytest.mark.parametrize(
    "change, text",
    [
        ({"k1": -5.0}, "frame 0 (0000.png) cannot be used: its lens terms fold"),
        ({"k1": 1e300}, "cannot be used"),
        ({"k1": float("nan")}, "k1 'nan': expected a finite number"),
        ({"p1": "much"}, "p1 'much'"),
        ({"k1": 0.1, "k3": 0.1}, "neither pinhole nor OPENCV (k3 not zero)"),
        ({"k1": 0.1, "is_fisheye": True}, "fisheye is neither"),
        ({"k1": 0.1, "w": WIDTH + 1}, f"is {WIDTH}x{HEIGHT} pixels but its camera"),
        ({"k1": 0.1, "w": 10**12, "h": 10**12}, f"is {WIDTH}x{HEIGHT} pixels but its camera"),
    ],
)
def test_lens_refused(nerf, change, text):
    folder, data = nerf
    data.update(change)
    write(folder / "transforms.json", data)
    assert text in refusal(folder)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*keys without use here")
def test_fox_becomes_fox_pinhole(shared):
    """Undistorted here and by COLMAP, apart from a fraction of a pixel and JPEG."""
    from scipy.ndimage import shift

    folders = [shared / "data" / name for name in ("fox", "fox_pinhole")]
    if not all(folder.is_dir() for folder in folders):
        pytest.skip(f"{folders[0]} is absent")
    ours, theirs = (load(folder) for folder in folders)
    assert ours.names == theirs.names
    np.testing.assert_allclose(ours.viewmats, theirs.viewmats, atol=1e-5)
    np.testing.assert_array_equal(ours.points, theirs.points)
    np.testing.assert_allclose(np.diagonal(ours.Ks[0]), np.diagonal(theirs.Ks[0]), rtol=1e-6)
    assert abs(ours.width - theirs.width) <= 3 and abs(ours.height - theirs.height) <= 3
    offset = (ours.Ks[0] - theirs.Ks[0])[[1, 0], 2]
    h, w = min(ours.height, theirs.height), min(ours.width, theirs.width)
    for view in (0, 20, 40):
        one, other = (c.images[view, :h, :w].astype(np.float32) for c in (ours, theirs))
        moved = shift(other, (*offset, 0), order=1, mode="nearest")
        error = np.abs(moved - one)[8:-8, 8:-8]
        assert error.mean() < 2.0  # Measured: 1.2 to 1.4; 6 to 7 if the lens is ignored.
        beside = np.abs(np.roll(moved, 1, axis=1) - one)[8:-8, 8:-8]
        assert error.mean() < 0.6 * beside.mean()
