"""Tests the cameras that a fit saves beside its Gaussians: the file, and the paths made of it."""

import dataclasses
import json

import numpy as np
import pytest
from helpers.commands import run
from helpers.splats import box_of_gaussians

from jax_gsplat_depth import datasets, frames, io
from jax_gsplat_depth.frames import _write

UP = np.array([0.0, 0.6, 0.8])
EXACT = {"rtol": 0, "atol": 1e-12}


def looking(eyes, targets, up=UP):
    """Return poses, world to camera, of cameras that are held level."""
    poses = []
    for eye, target in zip(np.asarray(eyes, float), np.asarray(targets, float), strict=True):
        forward = (target - eye) / np.linalg.norm(target - eye)
        right = np.cross(forward, up) / np.linalg.norm(np.cross(forward, up))
        rotation = np.stack([right, np.cross(forward, right), forward])
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = rotation, -rotation @ eye
        poses.append(pose)
    return np.stack(poses)


def ring(n, point, radius=2.0, height=0.7, turns=1.0):
    """Return eyes on a circle around a point, above it in the direction of ``UP``."""
    east = np.array([1.0, 0, 0])
    angles = 2 * np.pi * turns * np.arange(n)[:, None] / n
    around = np.cos(angles) * east + np.sin(angles) * np.cross(UP, east)
    return point + radius * around + height * UP


def cameras_of(viewmats, **changed):
    n = len(viewmats)
    values = {
        "names": [f"photo {i}" for i in range(n)],
        "viewmats": viewmats,
        "Ks": np.tile([[50.0, 0, 21], [0, 52, 14], [0, 0, 1]], (n, 1, 1)),
        "width": np.full(n, 40),
        "height": np.full(n, 30),
        "up": UP,
        "held_out": np.arange(n) % 8 == 0,
        "data": "/some/photos",
        "downscale": 3,
        "background": np.array([1.0, 0.5, 0]),
    }
    return frames.SceneCameras(**values | changed)


@pytest.mark.parametrize("origin", [(0.0, 0, 0), (4e5, -3e6, 120)])
def test_file_is_that_of_other_programs_and_comes_back(tmp_path, origin):
    eyes = ring(3, np.array(origin))
    viewmats = looking(eyes, np.tile(origin, (3, 1)))
    sizes = {"width": np.array([40, 30, 41]), "height": np.array([30, 40, 30])}
    saved = cameras_of(viewmats, **sizes)
    frames.save_scene_cameras(tmp_path / "cameras.json", saved, origin=origin)

    entries = json.loads((tmp_path / "cameras.json").read_text())
    for i, entry in enumerate(entries):
        assert (entry["id"], entry["img_name"]) == (i, f"photo {i}")
        assert (entry["width"], entry["height"]) == (sizes["width"][i], sizes["height"][i])
        assert (entry["fx"], entry["fy"], entry["cx"], entry["cy"]) == (50, 52, 21, 14)
        # In the coordinates of the PLY, from camera to world: the third column looks forward.
        np.testing.assert_allclose(entry["position"], eyes[i] - origin, rtol=0, atol=1e-8)
        forward = (origin - eyes[i]) / np.linalg.norm(origin - eyes[i])
        np.testing.assert_allclose(np.array(entry["rotation"])[:, 2], forward, rtol=0, atol=1e-9)

    read = frames.load_scene_cameras(tmp_path / "splats.ply")
    assert read is not None
    for field in dataclasses.fields(saved):
        one, other = getattr(saved, field.name), getattr(read, field.name)
        if isinstance(one, np.ndarray):
            np.testing.assert_allclose(other, one, rtol=1e-14, atol=1e-8, err_msg=field.name)
        else:
            assert one == other, field.name
    assert read.train_indices.tolist() == [1, 2]
    (tmp_path / "sog").mkdir()
    for name in ("sog", "sog/meta.json"):  # two names of one scene
        beside = frames.load_scene_cameras(tmp_path / name)
        assert beside is not None and beside.names == saved.names


def test_files_of_other_trainers(tmp_path):
    """They lie two folders above the PLY, and say neither the principal point nor what is up."""
    viewmats = looking(ring(5, np.zeros(3)), np.zeros((5, 3)))
    frames.save_scene_cameras(tmp_path / "cameras.json", cameras_of(viewmats))
    entries = json.loads((tmp_path / "cameras.json").read_text())
    known = ("id", "img_name", "width", "height", "position", "rotation", "fx", "fy")
    bare = [{key: entry[key] for key in known} for entry in entries]
    (tmp_path / "cameras.json").write_text(json.dumps(bare))
    ply = tmp_path / "point_cloud" / "iteration_30000" / "point_cloud.ply"
    read = frames.load_scene_cameras(ply)
    assert read is not None and read.data is None and not read.held_out.any()
    np.testing.assert_allclose(read.viewmats, viewmats, **EXACT)
    np.testing.assert_allclose(read.Ks[0], [[50, 0, 20], [0, 52, 15], [0, 0, 1]], **EXACT)
    np.testing.assert_allclose(read.up, UP, **EXACT)
    path = frames.read_cameras(tmp_path / "cameras.json")
    assert path.names == read.names and (path.width, path.height) == (40, 30)

    # No file, and one of cameras that somebody wrote for --cameras.
    assert frames.load_scene_cameras(tmp_path / "other" / "a.ply") is None
    frames.write_cameras(tmp_path / "cameras.json", path)
    assert frames.load_scene_cameras(tmp_path / "a.ply") is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rotation": [[2, 0, 0], [0, 1, 0], [0, 0, 1]]}, "camera 1 has a pose whose 3x3 part"),
        ({"rotation": [1, 2]}, "camera 1 has no 'rotation' of 3x3 finite numbers"),
        ({"position": [0, float("nan"), 0]}, "camera 1 has no 'position' of 3 finite numbers"),
        ({"position": ["0", "1", "2"]}, "camera 1 has no 'position' of 3 finite numbers"),
        ({"fx": None}, "camera 1 has no 'fx' of one finite number"),
        ({"fy": -1}, "camera 1 has focal lengths"),
        ({"width": 1.5}, "camera 1 has width '1.5': expected a whole number"),
        ({"height": 10**9}, "camera 1 has height '1000000000': expected a whole number between 1"),
        (
            {"jax_gsplat_depth": {"version": 7}},
            "has version '7': this version of the",
        ),
        ({"jax_gsplat_depth": {"version": 1, "up": [0, 0, 0]}}, "an 'up' of length 0"),
        ({"jax_gsplat_depth": {"version": 1, "origin": 3}}, "no 'origin' of 3 finite numbers"),
    ],
)
def test_bad_files_are_one_sentence(tmp_path, change, words):
    path = tmp_path / "cameras.json"
    frames.save_scene_cameras(path, cameras_of(looking(ring(3, np.zeros(3)), np.zeros((3, 3)))))
    entries = json.loads(path.read_text())
    del entries[0]["jax_gsplat_depth"]
    entries[1] |= change
    path.write_text(json.dumps(entries))
    with pytest.raises(datasets.CaptureError) as error:
        frames.load_scene_cameras(tmp_path / "a.ply")
    assert words in str(error.value) and str(error.value).startswith(str(path))


def rolled(viewmats, quarters):
    """Return the poses of cameras that are turned about their axes by right angles."""
    turned = viewmats.copy()
    for i, quarter in enumerate(quarters):
        c, s = np.cos(quarter * np.pi / 2), np.sin(quarter * np.pi / 2)
        turned[i, :2] = np.array([[c, -s], [s, c]]) @ viewmats[i, :2]
    return turned


@pytest.mark.parametrize("name", ["around", "ahead", "portraits", "from above"])
def test_upward_direction(name):
    point = np.array([3.0, -1, 2])
    eyes = ring(12, point, height=1.5)
    viewmats = looking(eyes, np.tile(point, (12, 1)))
    if name == "ahead":  # All at the same wall, which says less.
        viewmats = looking(eyes, eyes + [[0, 0.8, -0.6]])
    elif name == "portraits":
        viewmats = rolled(viewmats, [1, 0, 0] * 4)
    elif name == "from above":  # Of a drone that flies to and fro.
        north = np.cross(UP, [1.0, 0, 0])
        viewmats = looking(eyes, eyes - UP, north)
        viewmats = rolled(viewmats, [0, 2] * 6)
    np.testing.assert_allclose(frames.up_of(viewmats), UP, rtol=0, atol=1e-9)


@pytest.mark.parametrize("order", ["recording", "shuffled"])
def test_path_follows_the_training_views(order):
    point = np.array([3.0, -1, 2])
    indices = np.arange(60)
    if order == "shuffled":
        indices = np.random.default_rng(0).permutation(indices)
    eyes = ring(60, point, turns=0.9)[indices]
    cameras = cameras_of(looking(eyes, np.tile(point, (60, 1))))
    path = frames.training_path(cameras, 40)
    assert len(path.names) == 40 and (path.width, path.height) == (40, 30)
    first = cameras.viewmats[cameras.train_indices[0]]
    np.testing.assert_allclose(path.viewmats[0], first, rtol=0, atol=1e-9)
    found = datasets.camera_centers(path.viewmats)
    # It stays on the circle of the views instead of crossing it, and looks where they look.
    assert np.abs(np.linalg.norm(found - point, axis=1) - np.hypot(2, 0.7)).max() < 0.3
    forward = path.viewmats[:, 2, :3]
    toward = (point - found) / np.linalg.norm(point - found, axis=1)[:, None]
    assert (forward * toward).sum(axis=1).min() > 0.95
    # Once along it, or, from the middle, to one end and across.
    length = np.linalg.norm(np.diff(found, axis=0), axis=1).sum()
    assert 9 < length < (12.5 if order == "recording" else 20)


def test_path_of_one_view_and_of_sizes_that_differ():
    viewmats = looking(ring(3, np.zeros(3)), np.zeros((3, 3)))
    one = cameras_of(viewmats[:1], held_out=np.array([True]))
    assert frames.training_path(one, 9).names == ["photo 0"]
    # A portrait photo of the same camera is wholly in the landscape picture, in its middle.
    several = cameras_of(viewmats, width=np.array([40, 30, 80]), height=np.array([30, 40, 60]))
    path = frames.views_path(several, np.arange(3))
    assert (path.width, path.height) == (40, 30)
    np.testing.assert_allclose(path.Ks[0], several.Ks[0], **EXACT)
    np.testing.assert_allclose(path.Ks[1, :2], [[37.5, 0, 24.5], [0, 39, 10.5]], rtol=0, atol=2.5)
    np.testing.assert_allclose(path.Ks[2, :2], several.Ks[2, :2] / 2, rtol=1e-6)


def test_orbit_around_what_the_views_look_at():
    point = np.array([3.0, -1, 2])
    eyes = ring(10, point, turns=0.3)
    cameras = cameras_of(looking(eyes, np.tile(point, (10, 1))))
    size = {"width": 40, "height": 30, "fov_x": 1.0}
    path = frames.views_orbit(cameras, n_frames=8, **size)
    assert path is not None
    found = datasets.camera_centers(path.viewmats)
    np.testing.assert_allclose(found[0], eyes[1], rtol=0, atol=1e-9)  # The first trained on.
    np.testing.assert_allclose((found - point) @ UP, 0.7, rtol=0, atol=1e-9)
    np.testing.assert_allclose(path.viewmats, looking(found, [point] * 8), rtol=0, atol=1e-9)
    turned = frames.views_orbit(cameras, n_frames=4, **size, elevation=0.0, distance=2.0)
    assert turned is not None
    away = datasets.camera_centers(turned.viewmats) - point
    np.testing.assert_allclose(away @ UP, 0, rtol=0, atol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(away, axis=1), 2 * np.hypot(2, 0.7), rtol=1e-9)
    # Of a room, seen from its middle, and of a wall, seen straight ahead, there is no such point.
    for targets in (eyes + (eyes - point), eyes + [[0, 0.8, -0.6]]):
        assert frames.views_orbit(cameras_of(looking(eyes, targets)), n_frames=8, **size) is None


@pytest.mark.parametrize(
    ("arguments", "n_frames", "words"),
    [
        ([], 120, "through the training views of cameras.json beside"),
        (["--frames", 5], 5, "through the training views"),
        (["--orbit", "--frames", 7], 7, ""),
        (["--up", "-y", "--frames", 7], 7, ""),
        (["--views", "heldout"], 2, ""),
    ],
)
def test_render_takes_the_views_beside_the_gaussians(
    tmp_path, monkeypatch, capsys, arguments, n_frames, words
):
    io.save(tmp_path / "a.ply", box_of_gaussians())
    cameras = cameras_of(looking(ring(9, np.zeros(3)), np.zeros((9, 3))))
    frames.save_scene_cameras(tmp_path / "cameras.json", cameras)
    seen = []

    def render_to(out, scene, path, settings, **_):
        seen.append((path, settings))
        return {"depth_range": None}

    monkeypatch.setattr(frames, "render_to", render_to)
    assert run("render", tmp_path / "a.ply", "--out", tmp_path / "v1.0", *arguments) == 0
    ((path, settings),) = seen
    assert words in capsys.readouterr().err
    assert len(path.names) == n_frames and settings.background == (1.0, 0.5, 0.0)
    eyes = datasets.camera_centers(path.viewmats)
    first = cameras.viewmats[0 if "heldout" in arguments else 1][None]
    if "--up" not in arguments:
        np.testing.assert_allclose(eyes[:1], datasets.camera_centers(first), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["v1.0", "2024.05.01", "a.b", ".hidden"])
def test_a_folder_may_have_a_dot_in_its_name(tmp_path, name):
    _write.check_output(tmp_path / name)
