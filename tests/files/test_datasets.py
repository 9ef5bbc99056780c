"""Checks the readers of posed photos: every layout against its scene, and real captures."""

import numpy as np
import pytest
from helpers.captures import (
    CX,
    CY,
    FX,
    FY,
    HEIGHT,
    N_VIEWS,
    WIDTH,
    K,
    assert_same_cameras,
    load,
    refusal,
    write_blender,
    write_colmap,
    write_depths,
    write_json,
    write_photos,
)
from PIL import Image

from jax_gsplat_depth.datasets import CaptureWarning

# transforms.json


def test_transforms(nerf, scene):
    capture = load(nerf[0])
    assert_same_cameras(capture, scene)
    assert capture.points is None and capture.point_colors is None
    assert capture.depths is None and capture.alphas is None
    assert capture.test_indices.tolist() == [0, 8]
    assert capture.train_indices.tolist() == [1, 2, 3, 4, 5, 6, 7, 9]
    assert capture.background.tolist() == [0, 0, 0]


def test_transforms_frames_in_any_order_are_sorted(nerf, scene):
    folder, data = nerf
    data["frames"].reverse()
    write_json(folder / "transforms.json", data)
    assert_same_cameras(load(str(folder)), scene)


def test_transforms_with_cameras_per_frame(nerf, scene):
    folder, data = nerf
    camera = {key: data.pop(key) for key in ("w", "h", "fl_x", "fl_y", "cx", "cy")}
    for i, frame in enumerate(data["frames"]):
        frame.update(camera, fl_x=FX + i)
    write_json(folder / "transforms.json", data)
    capture = load(folder)
    np.testing.assert_allclose(capture.Ks[:, 0, 0], FX + np.arange(N_VIEWS))
    np.testing.assert_allclose(capture.Ks[:, 1, 1], FY)


def test_transforms_with_a_field_of_view_and_no_size(nerf):
    folder, data = nerf
    for key in ("w", "h", "fl_x", "fl_y", "cx", "cy"):
        del data[key]
    data["camera_angle_x"] = 1.0
    write_json(folder / "transforms.json", data)
    focal = 0.5 * WIDTH / np.tan(0.5)
    expected = [[focal, 0, WIDTH / 2], [0, focal, HEIGHT / 2], [0, 0, 1]]
    np.testing.assert_allclose(load(folder).Ks[3], expected, rtol=1e-6)


def test_transforms_accept_a_lens_model_whose_terms_are_zero(nerf, scene):
    folder, data = nerf
    data.update(camera_model="OPENCV", k1=0, k2=0.0, p1=0, p2=0)
    write_json(folder / "transforms.json", data)
    assert_same_cameras(load(folder), scene)


def test_transforms_pose_rounded_to_four_digits_becomes_rigid(nerf):
    folder, data = nerf
    for frame in data["frames"]:
        frame["transform_matrix"] = np.round(frame["transform_matrix"], 4).tolist()
    write_json(folder / "transforms.json", data)
    rotation = load(folder).viewmats[:, :3, :3]
    identity = np.tile(np.eye(3), (N_VIEWS, 1, 1))
    np.testing.assert_allclose(rotation @ rotation.swapaxes(1, 2), identity, atol=1e-6)


@pytest.mark.parametrize("text", [False, True])
def test_transforms_take_points_of_a_model_with_the_same_poses(nerf, scene, text):
    write_colmap(nerf[0] / "sparse" / "0", scene, text=text)
    capture = load(nerf[0])
    assert_same_cameras(capture, scene)
    np.testing.assert_allclose(capture.points, scene.points, rtol=1e-6)
    np.testing.assert_array_equal(capture.point_colors, scene.colors)


def test_transforms_ignore_points_of_another_world(nerf, scene):
    scene.viewmats[:, :3, 3] *= 1.1
    write_colmap(nerf[0] / "sparse", scene)
    with pytest.warns(CaptureWarning, match="sparse are not used: its poses are not those of"):
        assert load(nerf[0]).points is None


def test_transforms_ignore_a_broken_model_beside_them(nerf, scene):
    write_colmap(nerf[0] / "sparse", scene)
    (nerf[0] / "sparse" / "points3D.bin").write_bytes(b"\xff" * 20)
    with pytest.warns(CaptureWarning, match="sparse are not used: .*points3D.bin says that it"):
        assert load(nerf[0]).points is None


@pytest.mark.parametrize(
    "key, scale", [("depth_unit_scale_factor", 0.002), ("integer_depth_scale", 0.25), (None, 0.001)]
)
def test_depth_maps(nerf, key, scale):
    folder, data = nerf
    steps = np.random.default_rng(1).integers(0, 60000, (N_VIEWS, HEIGHT, WIDTH))
    steps[:, :3] = 0
    write_depths(folder, data, steps)
    del data["frames"][4]["depth_file_path"]
    steps[4] = 0
    if key:
        data[key] = scale
    write_json(folder / "transforms.json", data)
    depths = load(folder).depths
    assert depths.dtype == np.float32
    np.testing.assert_allclose(depths, steps * scale, rtol=1e-6)


def test_smaller_depth_maps_hold_values_of_the_file_and_no_mixture_with_holes(nerf):
    folder, data = nerf
    steps = np.random.default_rng(2).integers(0, 4, (N_VIEWS, HEIGHT, WIDTH))
    write_depths(folder, data, steps)
    data["depth_unit_scale_factor"] = 1.0
    write_json(folder / "transforms.json", data)
    depths = load(folder, downscale=3).depths
    assert depths.shape == (N_VIEWS, 3, 4)
    for row, column in np.ndindex(3, 4):
        block = steps[2, 3 * row : 3 * row + 3, 3 * column : 3 * column + 3]
        known = np.sort(block[block > 0])
        expected = known[(len(known) - 1) // 2] if len(known) else 0
        assert depths[2, row, column] == expected


# The Blender pair


def test_blender_pair(tmp_path):
    rgba = np.random.default_rng(3).integers(0, 256, (3, HEIGHT, WIDTH, 4), np.uint8)
    scene = write_blender(tmp_path, rgba)
    capture = load(tmp_path)
    assert capture.names == ["test_r_0", "train_r_0", "train_r_1"]
    assert capture.test_indices.tolist() == [0]
    np.testing.assert_allclose(capture.viewmats, scene.viewmats, atol=1e-6)
    focal = 0.5 * WIDTH / np.tan(0.35)
    expected = [[focal, 0, WIDTH / 2], [0, focal, HEIGHT / 2], [0, 0, 1]]
    np.testing.assert_allclose(capture.Ks[1], expected, rtol=1e-6)
    alpha = rgba[..., 3:] / 255
    np.testing.assert_allclose(capture.alphas, alpha[..., 0], atol=1e-6)
    on_white = rgba[..., :3] * alpha + 255 * (1 - alpha)
    np.testing.assert_allclose(capture.images, on_white, atol=1)
    assert capture.background.tolist() == [1, 1, 1]


def test_smaller_photos_with_alpha_mix_colours_by_their_weight(tmp_path):
    rgba = np.zeros((3, HEIGHT, WIDTH, 4), np.uint8)
    rgba[:, ::2, :, :] = (200, 40, 0, 255)
    write_blender(tmp_path, rgba)
    capture = load(tmp_path, downscale=2)
    np.testing.assert_allclose(capture.alphas, 0.5, atol=0.003)
    expected = np.broadcast_to((np.array([200, 40, 0]) + 255) / 2, capture.images.shape)
    np.testing.assert_allclose(capture.images, expected, atol=1)


def test_opaque_rgba_photos_have_no_alpha(nerf, scene):
    write_photos(nerf[0] / "images", scene, mode="RGBA")
    capture = load(nerf[0])
    assert_same_cameras(capture, scene)
    assert capture.alphas is None and capture.background.tolist() == [0, 0, 0]


# COLMAP


@pytest.mark.parametrize("text", [False, True], ids=["binary", "text"])
@pytest.mark.parametrize("where", ["sparse/0", "sparse"])
def test_colmap(tmp_path, scene, text, where):
    write_photos(tmp_path / "images", scene)
    write_colmap(tmp_path / where, scene, text=text)
    capture = load(tmp_path)
    assert_same_cameras(capture, scene)
    np.testing.assert_allclose(capture.points, scene.points, rtol=1e-6)
    np.testing.assert_array_equal(capture.point_colors, scene.colors)
    assert capture.points.dtype == np.float64 and capture.point_colors.dtype == np.uint8
    assert capture.test_indices.tolist() == [0, 8]


@pytest.mark.parametrize("text", [False, True], ids=["binary", "text"])
def test_colmap_simple_pinhole(tmp_path, scene, text):
    write_photos(tmp_path / "images", scene)
    write_colmap(tmp_path / "sparse", scene, text=text, model="SIMPLE_PINHOLE")
    expected = [[FX, 0, CX], [0, FX, CY], [0, 0, 1]]
    np.testing.assert_allclose(load(tmp_path).Ks[0], expected)


@pytest.mark.parametrize("text", [False, True], ids=["binary", "text"])
def test_colmap_photos_in_folders_with_equal_stems_and_spaces(tmp_path, scene, text):
    names = [f"cam {i // 5}/{i % 5}.png" for i in range(N_VIEWS)]
    for name, pixels in zip(names, scene.images, strict=True):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "images" / name)
    write_colmap(tmp_path / "sparse", scene, text=text, names=names)
    expected = [f"images_cam {i // 5}_{i % 5}" for i in range(N_VIEWS)]
    assert_same_cameras(load(tmp_path), scene, expected)


@pytest.mark.parametrize("text", [False, True], ids=["binary", "text"])
def test_colmap_drops_points_that_are_not_finite(tmp_path, scene, text):
    write_photos(tmp_path / "images", scene)
    scene.points[2, 1], scene.points[5, 0] = np.nan, np.inf
    write_colmap(tmp_path / "sparse", scene, text=text)
    capture = load(tmp_path)
    keep = [0, 1, 3, 4, 6]
    np.testing.assert_allclose(capture.points, scene.points[keep], rtol=1e-6)
    np.testing.assert_array_equal(capture.point_colors, scene.colors[keep])


@pytest.mark.parametrize("text", [False, True], ids=["binary", "text"])
def test_colmap_without_points(tmp_path, scene, text):
    write_photos(tmp_path / "images", scene)
    scene.points = scene.points[:0]
    scene.colors = scene.colors[:0]
    write_colmap(tmp_path / "sparse", scene, text=text)
    capture = load(tmp_path)
    assert capture.points is None and capture.point_colors is None


def test_exif_orientation_is_not_applied(colmap, scene):
    for name, pixels in zip(scene.names, scene.images, strict=True):
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(pixels).save(colmap / "images" / f"{name}.png", exif=exif)
    assert_same_cameras(load(colmap), scene)


def test_pycolmap_agrees(tmp_path, scene):
    """The reader against COLMAP's own code, both forms written by it."""
    pycolmap = pytest.importorskip("pycolmap")
    write_colmap(tmp_path / "ours", scene, observations=False)  # COLMAP insists on a web of them.
    model = pycolmap.Reconstruction(tmp_path / "ours")
    write_photos(tmp_path / "images", scene)
    folder = tmp_path / "sparse"
    folder.mkdir()
    for write in (model.write_text, model.write_binary):  # The binary files go first when read.
        write(folder)
        assert_same_cameras(load(tmp_path), scene)
        capture = load(tmp_path)
        order = np.argsort(capture.points[:, 0])
        expected = scene.points[np.argsort(scene.points[:, 0])]
        np.testing.assert_allclose(capture.points[order], expected, rtol=1e-6)


# Downscale


@pytest.mark.parametrize("downscale", [2, 3, 5])
def test_downscale_averages_whole_pixels_and_scales_the_camera(nerf, scene, downscale):
    capture = load(nerf[0], downscale=downscale)
    h, w = HEIGHT // downscale, WIDTH // downscale
    whole = scene.images[:, : h * downscale, : w * downscale].astype(float)
    expected = whole.reshape(N_VIEWS, h, downscale, w, downscale, 3).mean(axis=(2, 4))
    np.testing.assert_allclose(capture.images, expected, atol=0.6)  # Pillow divides in fixed point.
    np.testing.assert_allclose(capture.Ks[0][:2], K[:2] / downscale, rtol=1e-6)
    assert capture.Ks[0][2].tolist() == [0, 0, 1]


def test_downscale_keeps_points_on_their_pixels(nerf, scene):
    """A bright 2 x 2 patch, projected with the smaller camera, is the one bright pixel."""
    scene.images[:] = 0
    scene.images[:, 6:8, 4:6] = 255
    write_photos(nerf[0] / "images", scene)
    capture = load(nerf[0], downscale=2)
    direction = np.linalg.inv(K) @ [5.0, 7.0, 1.0]  # The centre of the patch.
    u, v, _ = capture.Ks[0] @ direction
    np.testing.assert_allclose([u, v], [2.5, 3.5], rtol=1e-6)
    assert np.argwhere(capture.images[0, :, :, 0]).tolist() == [[3, 2]]


@pytest.mark.parametrize("downscale, text", [(0, "downscale is 0"), (-1, "downscale"), (12, "12")])
def test_downscale_out_of_range(nerf, downscale, text):
    assert text in refusal(nerf[0], downscale=downscale)


# Real captures, where the folder with data is present


def data_folder(shared, name):
    folder = shared / "data" / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent")
    return folder


def project(capture, view):
    """Return the pixels of the sparse points in one view, and which are in the picture."""
    in_camera = capture.points @ capture.viewmats[view, :3, :3].T + capture.viewmats[view, :3, 3]
    uvw = in_camera @ capture.Ks[view].T
    pixels = uvw[:, :2] / np.where(np.abs(uvw[:, 2:]) < 1e-6, 1e-6, uvw[:, 2:])
    inside = (in_camera[:, 2] > 0) & (pixels >= 0).all(axis=1)
    inside &= (pixels < [capture.width, capture.height]).all(axis=1)
    return np.floor(pixels[inside]).astype(int).T, in_camera[inside, 2], inside


@pytest.mark.parametrize(
    "name, downscale, in_frame",
    [("fox_pinhole", 2, 0.6), ("banana", 4, 0.7), ("rgbd_redkitchen", 2, 0.4)],
)
def test_sparse_points_land_on_their_colours(shared, name, downscale, in_frame):
    """Half of the visible points match closely, though some are hidden behind others."""
    capture = load(data_folder(shared, name), downscale=downscale)
    right, mirrored, upside_down, fractions = [], [], [], []
    for view in range(len(capture.names)):
        (columns, rows), _, inside = project(capture, view)
        picture, colors = capture.images[view].astype(float), capture.point_colors[inside]
        fractions.append(inside.mean())
        for errors, j, i in (
            (right, columns, rows),
            (mirrored, capture.width - 1 - columns, rows),
            (upside_down, columns, capture.height - 1 - rows),
        ):
            errors.append(np.abs(picture[i, j] - colors).mean(axis=1))
    right, mirrored, upside_down = map(np.concatenate, (right, mirrored, upside_down))
    assert np.median(right) < 24
    assert np.median(right) < 0.6 * min(np.median(mirrored), np.median(upside_down))
    assert np.mean(fractions) > in_frame


def test_transforms_and_colmap_of_the_same_photos_agree(shared, tmp_path):
    folder = data_folder(shared, "fox_pinhole")
    for part in ("images", "sparse"):
        (tmp_path / part).symlink_to(folder / part)
    one, other = load(folder, downscale=4), load(tmp_path, downscale=4)
    assert one.names == other.names
    np.testing.assert_allclose(one.viewmats, other.viewmats, atol=1e-5)
    np.testing.assert_allclose(one.Ks, other.Ks, rtol=1e-5)
    np.testing.assert_array_equal(one.points, other.points)
    np.testing.assert_array_equal(one.images, other.images)


@pytest.mark.parametrize("downscale", [1, 3])
def test_sensor_depth_agrees_with_sparse_points(shared, downscale):
    capture = load(data_folder(shared, "rgbd_redkitchen"), downscale=downscale)
    errors = []
    for view in range(0, len(capture.names), 5):
        (columns, rows), z, _ = project(capture, view)
        measured = capture.depths[view][rows, columns]
        errors.append(np.abs(measured / z - 1)[measured > 0])
    assert np.median(np.concatenate(errors)) < 0.015
    assert 0.2 < (capture.depths == 0).mean() < 0.35


def test_distorted_models_are_refused(shared):
    assert "SIMPLE_RADIAL" in refusal(data_folder(shared, "sceaux_castle"))


def test_lego(shared):
    capture = load(data_folder(shared, "lego_mini"))
    assert capture.images.shape[1:] == (400, 400, 3)
    assert capture.alphas is not None and capture.background.tolist() == [1, 1, 1]
    assert (capture.images[capture.alphas == 0] == 255).all()


@pytest.mark.parametrize("name", ["fox_pinhole", "banana", "rgbd_redkitchen"])
def test_real_models_as_pycolmap_reads_them(shared, name):
    pycolmap = pytest.importorskip("pycolmap")
    from jax_gsplat_depth.datasets._colmap import read_model

    folder = data_folder(shared, name) / "sparse" / "0"
    ours, theirs = read_model(folder), pycolmap.Reconstruction(folder)
    viewmats = ours.viewmats()
    assert sorted(viewmats) == sorted(image.name for image in theirs.images.values())
    for image in theirs.images.values():
        expected = image.cam_from_world().matrix()
        np.testing.assert_allclose(viewmats[image.name][:3], expected, atol=1e-9)
    expected = np.array([point.xyz for point in theirs.points3D.values()])
    np.testing.assert_array_equal(np.sort(ours.points[:, 0]), np.sort(expected[:, 0]))
