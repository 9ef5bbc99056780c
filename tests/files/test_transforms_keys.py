"""Checks the keys of ``transforms.json`` beyond the cameras: points, splits, units, the rest."""

import warnings

import numpy as np
import pytest
from helpers.captures import (
    HEIGHT,
    N_VIEWS,
    WIDTH,
    Scene,
    load,
    refusal,
    write_colmap,
    write_depths,
    write_json,
)
from PIL import Image

from jax_gsplat_depth import frames
from jax_gsplat_depth.datasets import CaptureWarning

TURN = np.array([[0.0, 1.0, 0.0, 0.5], [1.0, 0.0, 0.0, -2.0], [0.0, 0.0, -1.0, 3.0]])
"""A rotation and a shift, as nerfstudio applies one to the world of COLMAP."""


def saved(folder, data, **keys):
    data.update(keys)
    write_json(folder / "transforms.json", data)
    return folder


def write_ply(path, points, colors=None, kind="uchar"):
    lines = ["ply", "format ascii 1.0", f"element vertex {len(points)}"]
    lines += [f"property double {axis}" for axis in "xyz"]
    rows = points.tolist()
    if colors is not None:
        lines += [f"property {kind} {name}" for name in ("red", "green", "blue")]
        rows = [[*row, *color] for row, color in zip(rows, colors.tolist(), strict=True)]
    lines += ["end_header", *(" ".join(map(str, row)) for row in rows), ""]
    path.write_text("\n".join(lines))


# Points


def test_points_of_a_ply_are_in_the_world_of_the_poses(nerf, scene):
    folder, data = nerf
    write_ply(folder / "sparse_pc.ply", scene.points, scene.colors)
    # The transform is in the poses and in the points; a model beside them is not read.
    write_colmap(folder / "sparse" / "0", Scene(seed=1))
    capture = load(
        saved(folder, data, ply_file_path="sparse_pc.ply", applied_transform=TURN.tolist())
    )
    np.testing.assert_allclose(capture.points, scene.points, rtol=1e-6)
    np.testing.assert_array_equal(capture.point_colors, scene.colors)


def test_points_whose_colours_have_another_type(nerf, scene):
    folder, data = nerf
    saved(folder, data, ply_file_path="./points.ply")
    for kind, white in (("float", 1.0), ("double", 255.0), ("ushort", 65535)):
        colors = scene.colors / 255 * white
        write_ply(
            folder / "points.ply", scene.points, colors.astype(int) if white > 300 else colors, kind
        )
        found = load(folder).point_colors.astype(int)
        assert np.abs(found - scene.colors).max() <= 1
    write_ply(folder / "points.ply", scene.points)
    assert (load(folder).point_colors == 128).all()


def test_points_that_are_not_finite_are_left_out(nerf, scene):
    folder, data = nerf
    scene.points[2, 1] = np.nan
    write_ply(folder / "points.ply", scene.points, scene.colors)
    capture = load(saved(folder, data, ply_file_path="points.ply"))
    kept = [0, 1, 3, 4, 5, 6]
    np.testing.assert_allclose(capture.points, scene.points[kept], rtol=1e-6)
    np.testing.assert_array_equal(capture.point_colors, scene.colors[kept])


@pytest.mark.parametrize("text", [True, False], ids=["text", "binary"])
@pytest.mark.parametrize("eol", ["\n", "\r\n"], ids=["unix", "windows"])
def test_points_of_a_mesh_are_its_vertices(nerf, scene, text, eol):
    folder, data = nerf
    kind = "ascii" if text else "binary_little_endian"
    lines = ["ply", f"format {kind} 1.0", f"element vertex {len(scene.points)}"]
    lines += [f"property double {axis}" for axis in "xyz"]
    lines += ["element face 2", "property list uchar int vertex_indices", "end_header", ""]
    faces = [[0, 1, 2], [1, 2, 3, 4]]
    if text:
        rows = [*scene.points.tolist(), *([len(face), *face] for face in faces)]
        content = "".join(" ".join(map(str, row)) + eol for row in rows).encode()
    else:
        content = scene.points.astype("<f8").tobytes()
        content += b"".join(bytes([len(f)]) + np.array(f, "<i4").tobytes() for f in faces)
    (folder / "mesh.ply").write_bytes(eol.join(lines).encode() + content)
    capture = load(saved(folder, data, ply_file_path="mesh.ply"))
    np.testing.assert_allclose(capture.points, scene.points, rtol=1e-6)


@pytest.mark.parametrize(
    "name, content, text",
    [
        ("none.ply", None, "none.ply is missing: expected sparse points"),
        ("a.ply", "ply", "a.ply is not a PLY file"),
        ("a.ply", "lists", "has the lists 'property list uchar int x': expected sparse points"),
        ("a.ply", "no_positions", "a.ply has vertices without x, y and z"),
        (3, None, "'ply_file_path' that is not a string"),
    ],
)
def test_points_refused(nerf, name, content, text):
    folder, data = nerf
    if content == "no_positions":
        content = "ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nend_header\n0\n"
    elif content == "lists":
        content = (
            "ply\nformat ascii 1.0\nelement vertex 1\nproperty list uchar int x\nend_header\n0\n"
        )
    if content is not None:
        (folder / name).write_text(content)
    assert text in refusal(saved(folder, data, ply_file_path=name))


@pytest.mark.parametrize("where", ["sparse/0", "colmap/sparse/0"])
@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_points_of_the_model_from_which_the_poses_were_moved(nerf, scene, where, scale):
    folder, data = nerf
    write_colmap(folder / where, scene)
    for frame in data["frames"]:
        pose = np.array(frame["transform_matrix"])
        pose[:3] = TURN @ pose
        pose[:3, 3] *= scale
        frame["transform_matrix"] = pose.tolist()
    capture = load(saved(folder, data, applied_transform=TURN.tolist(), applied_scale=scale))
    wanted = scale * (scene.points @ TURN[:, :3].T + TURN[:, 3])
    np.testing.assert_allclose(capture.points, wanted, rtol=1e-5, atol=1e-6)


def test_a_transform_that_flattens_the_world_leads_to_no_model(nerf):
    folder, data = nerf
    write_colmap(folder / "sparse" / "0", Scene(seed=1))
    saved(folder, data, applied_transform=np.zeros((3, 4)).tolist())
    with pytest.warns(CaptureWarning, match="its poses are not those of transforms.json"):
        assert load(folder).points is None


def test_points_of_a_model_whose_photos_share_their_last_names(nerf, scene):
    folder, data = nerf
    names = [f"cam{i % 2}/{i // 2}.png" for i in range(N_VIEWS)]
    for frame, name in zip(data["frames"], names, strict=True):
        photo = folder / "images" / name
        photo.parent.mkdir(exist_ok=True)
        (folder / frame["file_path"]).rename(photo)
        frame["file_path"] = f"images/{name}"
    saved(folder, data)
    # Names of a model are relative to a folder that it does not state.
    for prefix in ("", "images/", "scans/images/"):
        write_colmap(folder / "sparse" / "0", scene, names=[prefix + name for name in names])
        np.testing.assert_allclose(load(folder).points, scene.points, rtol=1e-6)
    write_colmap(folder / "sparse" / "0", scene, names=[name.replace("/", "\\") for name in names])
    np.testing.assert_allclose(load(folder).points, scene.points, rtol=1e-6)
    # Last names alone would pair photos of one camera with the poses of the other.
    names = [f"{i // 2}.png" for i in range(0, N_VIEWS, 2)]
    some = Scene()
    some.names, some.viewmats, some.quats = some.names[::2], some.viewmats[::2], some.quats[::2]
    write_colmap(folder / "sparse" / "0", some, names=names)
    with pytest.warns(CaptureWarning, match="points of .* are not used"):
        assert load(folder).points is None


# Splits


def photos(*numbers):
    return [f"images/{i:04d}.png" for i in numbers]


ALL = range(N_VIEWS)


@pytest.mark.parametrize(
    "lists, names, held_out",
    [
        ({"test": [3, 7]}, ALL, [3, 7]),
        ({"test": [3, 7], "train": [i for i in ALL if i not in (3, 7)]}, ALL, [3, 7]),
        ({"val": [2], "train": [i for i in ALL if i != 2]}, ALL, [2]),
        ({"val": [2], "test": [], "train": [i for i in ALL if i != 2]}, ALL, [2]),
        ({"train": [i for i in ALL if i > 1]}, ALL, [0, 1]),
        ({"train": list(ALL), "test": []}, ALL, []),
        # What is for validation only is neither trained on nor reported.
        ({"val": [2], "test": [4]}, [i for i in ALL if i != 2], [4]),
        ({"train": [0, 1, 5], "test": [4]}, [0, 1, 4, 5], [4]),
    ],
)
def test_lists_of_file_names_divide_the_photos(nerf, scene, lists, names, held_out):
    folder, data = nerf
    saved(folder, data, **{f"{key}_filenames": photos(*value) for key, value in lists.items()})
    with warnings.catch_warnings():
        if len(names) < N_VIEWS:
            warnings.simplefilter("ignore", CaptureWarning)
        capture = load(folder)
    assert capture.names == [scene.names[i] for i in names]
    assert [capture.names[i] for i in capture.test_indices] == [scene.names[i] for i in held_out]


def test_lists_of_file_names_are_paths(nerf):
    folder, data = nerf
    other = folder / "other"
    other.mkdir()
    for i, frame in enumerate(data["frames"]):
        if i % 2:
            (folder / frame["file_path"]).rename(other / f"{i - 1:04d}.png")
            frame["file_path"] = f"other/{i - 1:04d}.png"
    listed = ["./images/0004.png", "images/../other/0006.png", "other\\0002"]
    capture = load(saved(folder, data, test_filenames=listed))
    held_out = [capture.names[i] for i in capture.test_indices]
    assert held_out == ["images_0004", "other_0002", "other_0006"]


def test_what_lists_leave_out_or_hold_out_twice_is_said(nerf):
    folder, data = nerf
    saved(folder, data, train_filenames=photos(0, 1, 2), test_filenames=photos(3))
    with pytest.warns(CaptureWarning, match="lists 6 of its photos neither for training nor"):
        load(folder)
    saved(folder, data, train_filenames=photos(*ALL), test_filenames=photos(3))
    with pytest.warns(CaptureWarning, match="lists 1 photos as both for training and for evalu"):
        assert load(folder).test_indices.tolist() == [3]


@pytest.mark.parametrize(
    "names, text",
    [
        (["images/none.png"], "lists 'images/none.png' in test_filenames"),
        (["0003.png"], "lists '0003.png' in test_filenames"),
        ("images/0003.png", "test_filenames that is no list of file names"),
        ([3], "test_filenames that is no list of file names"),
    ],
)
def test_lists_refused(nerf, names, text):
    assert text in refusal(saved(*nerf, test_filenames=names))


# Units


def test_depth_and_points_are_brought_to_the_scale_of_the_poses(nerf, scene):
    folder, data = nerf
    steps = np.random.default_rng(1).integers(1, 60000, (N_VIEWS, HEIGHT, WIDTH))
    write_depths(folder, data, steps)
    write_ply(folder / "points.ply", scene.points, scene.colors)
    saved(folder, data, applied_scale=0.5, depth_unit_scale_factor=0.01, ply_file_path="points.ply")
    capture = load(folder)
    np.testing.assert_allclose(capture.depths, 0.005 * steps, rtol=1e-6)
    np.testing.assert_allclose(capture.points, 0.5 * scene.points, rtol=1e-6)


def test_depth_maps_of_instant_ngp_need_its_scale(nerf):
    folder, data = nerf
    steps = np.random.default_rng(1).integers(1, 60000, (N_VIEWS, HEIGHT, WIDTH))
    write_depths(folder, data, steps)
    for frame in data["frames"]:
        frame["depth_path"] = frame.pop("depth_file_path")
    capture = load(saved(folder, data, integer_depth_scale=0.25))
    np.testing.assert_allclose(capture.depths, 0.25 * steps, rtol=1e-6)
    del data["integer_depth_scale"]
    saved(folder, data)
    with pytest.warns(CaptureWarning, match=r"keys without use here \(depth_path\)"):
        assert load(folder).depths is None


def test_field_of_view_in_degrees(nerf):
    folder, data = nerf
    for key in ("fl_x", "fl_y"):
        del data[key]
    capture = load(saved(folder, data, x_fov=60.0, y_fov=45.0))
    focal = np.array([WIDTH, HEIGHT]) / 2 / np.tan(np.radians([30.0, 22.5]))
    np.testing.assert_allclose(capture.Ks[0, [0, 1], [0, 1]], focal, rtol=1e-6)
    assert "expected degrees between 0 and 180" in refusal(saved(folder, data, x_fov=180))


# The rest


OPTIONAL = ("applied_scale", "applied_transform", "ply_file_path", "integer_depth_scale")
OPTIONAL += ("depth_unit_scale_factor", "train_filenames", "val_filenames", "test_filenames")
OPTIONAL += ("camera_model", "is_fisheye", "k1", "k2", "p1", "p2", "k3", "latlong", "x_fov")


@pytest.mark.parametrize("key", OPTIONAL)
def test_null_means_absent(nerf, key):
    folder, data = nerf
    wanted = load(folder)
    capture = load(saved(folder, data, **{key: None}))
    np.testing.assert_array_equal(capture.Ks, wanted.Ks)
    np.testing.assert_array_equal(capture.test_indices, wanted.test_indices)


def test_null_in_a_frame_means_absent(nerf):
    folder, data = nerf
    wanted = load(folder)
    for frame in data["frames"]:
        frame.update(fl_x=None, k1=None, cx=None, depth_file_path=None, mask_path=None)
    np.testing.assert_array_equal(load(saved(folder, data)).Ks, wanted.Ks)


def test_what_is_not_used_is_said_in_one_sentence(nerf):
    folder, data = nerf
    for frame in data["frames"]:
        frame.update(sharpness=1.5, colour_of_mood="blue", colmap_im_id=3, rotation=0.1)
    saved(folder, data, aabb_scale=16, offset=[0, 0, 0], date="today")
    with pytest.warns(CaptureWarning) as said:
        load(folder)
    assert [str(each.message) for each in said] == [
        f"{folder / 'transforms.json'} has keys without use here (aabb_scale, offset, sharpness) "
        "and has unknown keys (colour_of_mood, date), which are left out"
    ]


def test_the_sentence_about_keys_is_short(nerf):
    folder, data = nerf
    saved(folder, data, **{f"key\n{i:03d}" + 1000 * "x": 1 for i in range(500)})
    with pytest.warns(CaptureWarning, match="and 488 more") as said:
        load(folder)
    message = str(said[0].message)
    assert "\n" not in message and len(message) < 1000


@pytest.mark.parametrize("key", ["latlong", "equirectangular", "ftheta_p0"])
def test_lenses_of_instant_ngp_are_refused(nerf, key):
    assert f"{key} is neither pinhole nor OPENCV" in refusal(saved(*nerf, **{key: 1}))


@pytest.mark.parametrize("transform", [[[1, 2], [3]], np.eye(3).tolist(), "none", [[1e40] * 4] * 3])
def test_applied_transform_refused(nerf, transform):
    assert "no 'applied_transform' of 3x4" in refusal(saved(*nerf, applied_transform=transform))


def test_json_in_the_encodings_of_editors(nerf, scene):
    path = nerf[0] / "transforms.json"
    content = path.read_text()
    for encoding in ("utf-8-sig", "utf-16"):
        path.write_bytes(content.encode(encoding))
        assert load(nerf[0]).names == scene.names


def test_names_with_other_separators_and_accents(nerf):
    folder, data = nerf
    (folder / "images" / "0003.png").rename(folder / "images" / "Bi\u0301ld.png")
    data["frames"][3]["file_path"] = ".\\images\\B\u00edld.png"
    capture = load(saved(folder, data))
    np.testing.assert_array_equal(
        capture.images[-1], np.asarray(Image.open(folder / "images" / "Bi\u0301ld.png"))
    )


def test_photos_whose_joined_names_collide_have_names_of_their_own(nerf):
    folder, data = nerf
    for i, name in enumerate(("a_b/c.png", "a/b_c.png", "a/c.png", "x/c.png")):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / data["frames"][i]["file_path"]).rename(folder / name)
        data["frames"][i]["file_path"] = name
    names = load(saved(folder, data)).names
    assert len(set(names)) == N_VIEWS
    assert {"a_b_c_png", "a_b_c_png_2", "a_c_png", "x_c_png"} < set(names)


def test_a_photo_listed_twice_by_two_paths_is_refused(nerf):
    folder, data = nerf
    data["frames"][4]["file_path"] = "images/../images/0003.png"
    assert "0003.png is listed twice" in refusal(saved(folder, data))


# As cameras


def test_cameras_tell_only_what_is_unknown(nerf):
    folder, data = nerf
    data["frames"][0]["mask_path"] = "none.png"
    path = saved(folder, data, aabb_scale=4, ply_file_path="none.ply") / "transforms.json"
    assert len(frames.read_cameras(path).names) == N_VIEWS
    saved(folder, data, speed=3, k1=0.1)
    with pytest.warns(CaptureWarning) as said:
        frames.read_cameras(path)
    assert [str(each.message) for each in said] == [
        f"{path} has unknown keys (speed), which are left out",
        f"{path} has cameras with lens distortion, which is left out",
    ]


def test_cameras_of_our_own_layout_tell_what_is_unknown(tmp_path):
    camera = {"viewmat": np.eye(4).tolist(), "K": np.eye(3).tolist(), "colour": 3}
    path = tmp_path / "cameras.json"
    write_json(path, {"width": 4, "height": 3, "cameras": [camera]})
    with pytest.warns(CaptureWarning, match=r"has unknown keys \(colour\), which are left out"):
        frames.read_cameras(path)
