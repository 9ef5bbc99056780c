"""Tests where the viewer looks from, its controls of the camera, and its colour bar."""

import dataclasses
import math

import numpy as np
import pytest
from helpers.browser import Client, turned
from helpers.splats import box_of_gaussians

pytest.importorskip("matplotlib")

import jax_gsplat_depth as jgd
from jax_gsplat_depth import frames
from jax_gsplat_depth.datasets import camera_centers
from jax_gsplat_depth.viewer._color_bar import color_bar
from jax_gsplat_depth.viewer._navigation import Navigation
from jax_gsplat_depth.viewer._picture import Pose
from jax_gsplat_depth.viewer._places import Tour, scene_cameras_of

CENTER = (1.0, -2.0, 0.5)


POSES = {
    "level": turned((0, 0, 1), (1, -6, 0.5)),
    "looks down": turned((0, 0, 1), (4, -5, 3)),
    "rolled": turned((0.3, 0, 1), (1, -6, 0.5)),
    "straight down": turned((0, 1, 0), (1, -2, 5)),
    "on its side": turned((1, 0, 0), (1, -6, 0.5)),
    "upside down": turned((0.1, 0, -1), (1, -6, 1)),
    "looks away": turned((0, 0, 1), (1, -6, 0.5), (1, -9, 0.5)),
}


def views(**changes):
    """Return those poses; the first is held out."""
    n = len(POSES)
    fields = {
        "names": list(POSES),
        "viewmats": np.stack([*POSES.values()]),
        "Ks": np.tile([[100.0, 0, 48], [0, 100, 40], [0, 0, 1]], (n, 1, 1)),
        "width": np.full(n, 96),
        "height": np.full(n, 64),
        "up": np.eye(3)[2],
        "held_out": np.arange(n) == 0,
    }
    return frames.SceneCameras(**fields | changes)


@pytest.mark.parametrize(("unit", "origin"), [(1.0, (0, 0, 0)), (1e4, (5e6, -2e6, 0))])
def test_views_are_kept_exactly(unit, origin):
    """Whatever the units of the world, the browser sees what the camera saw."""
    viewmats = views().viewmats
    centers = unit * camera_centers(viewmats)
    viewmats[:, :3, 3] = -np.einsum("vij,vj->vi", viewmats[:, :3, :3], centers + origin)
    gaussians = box_of_gaussians()
    scaled = dataclasses.replace(
        gaussians, means=unit * gaussians.means, scales=unit * gaussians.scales
    )
    scene = frames.LocalScene.of(scaled, origin)
    tour = Tour.of(scene, views(viewmats=viewmats), None)
    assert tour.first.label == "looks down"
    assert tour.places[0].label == "level (held out)"
    for place, viewmat, center in zip(tour.places, POSES.values(), centers, strict=True):
        np.testing.assert_allclose(
            scene.frame.world_points(place.position), center + origin, atol=1e-6 * unit
        )
        # As viser finds the rotation.
        again = turned(place.up, place.position, place.look_at)
        np.testing.assert_allclose(again[:3, :3], viewmat[:3, :3], atol=1e-9)
        turn = scene.frame.world_points(place.look_at, origin) / unit
        if place.label == "looks away":
            assert 0.1 < np.linalg.norm(turn - center / unit) < 1
        else:
            # The scene turns around its middle; of a random one that is about the box's.
            assert np.linalg.norm(turn - CENTER) < 0.4
    # The mouse turns the camera around what is up in the scene, unless the picture forbids it.
    same = [place.up @ tour.up for place in tour.places]
    np.testing.assert_allclose([same[0], same[1], same[6]], 1)
    assert 0.9 < same[2] < 0.99 and abs(same[3]) < 1e-9


def test_canvas_shows_the_whole_photo():
    place = Tour.of(frames.LocalScene.of(box_of_gaussians()), views(), None).first
    # Of 96x64 pixels with the middle at (48, 40): 48 pixels across, 40 down.
    assert place.fov_y(600, 400) == pytest.approx(2 * math.atan(0.4))
    assert place.fov_y(1000, 100) == pytest.approx(2 * math.atan(0.4))
    assert place.fov_y(400, 400) == pytest.approx(2 * math.atan(0.48))
    assert place.fov_y(300, 600) == pytest.approx(2 * math.atan(0.96))
    assert place.fov_y(0, 0) == place.fov_y(0, 400) == pytest.approx(2 * math.atan(0.4))
    assert place.fov_y(1, 16384) == pytest.approx(math.radians(150))


def test_cameras_of_any_kind():
    expected = views()
    Ks = expected.Ks.astype(np.float32)
    path = frames.CameraPath(expected.names, expected.viewmats, Ks, 96, 64)
    batch = jgd.Camera(expected.viewmats.astype(np.float32), Ks, width=96, height=64)
    one_by_one = [
        jgd.Camera(viewmat.astype(np.float32), K, width=96, height=64)
        for viewmat, K in zip(expected.viewmats, Ks, strict=True)
    ]
    for cameras in (path, batch, one_by_one, (batch,), expected):
        found = scene_cameras_of(cameras)
        np.testing.assert_allclose(found.viewmats, expected.viewmats, atol=1e-6)
        np.testing.assert_array_equal(found.Ks, expected.Ks)
        assert found.width.tolist() == [96] * 7 and found.height.tolist() == [64] * 7
        assert len(found.names) == 7 and np.linalg.norm(found.up) == pytest.approx(1)
    sizes = [one_by_one[0], dataclasses.replace(one_by_one[1], width=64, height=96)]
    assert scene_cameras_of(sizes).width.tolist() == [96, 64]


@pytest.mark.parametrize(
    ("cameras", "up", "words"),
    [
        ("photos", None, "cameras: expected a Camera, a list of them, .* got str"),
        ([], None, "cameras: expected at least one"),
        (views(viewmats=np.full((7, 4, 4), np.nan)), None, "cameras: view level has a pose"),
        (views(viewmats=2 * views().viewmats), None, "cameras: view level .* not a rotation"),
        (views(Ks=np.zeros((7, 3, 3))), None, "cameras: view level has focal lengths"),
        (None, (0, 0, 0), "up: expected 3 finite numbers, not all zero"),
        (None, "-y", "up: expected 3 finite numbers, not all zero, got '-y'"),
        (None, (0, np.nan, 1), "up: expected"),
    ],
)
def test_what_is_no_camera(cameras, up, words):
    scene = frames.LocalScene.of(box_of_gaussians())
    with pytest.raises(ValueError, match=words):
        Tour.of(scene, cameras, up)


def test_camera_goes_where_the_controls_say():
    scene = frames.LocalScene.of(box_of_gaussians())
    tour = Tour.of(scene, views(), None)
    client = Client(Pose(np.zeros(3), np.eye(4)[0], 0.8, 300, 600))
    moves = []
    navigation = Navigation(client, tour, lambda: moves.append(client.fov))
    navigation.add_help()
    assert "drag with the left button" in client.texts[0]
    assert {"View", "Go", "Field of view", "Level the horizon", "Reset view"} == client.visible()
    controls = client.controls
    # Known when the browser is: its canvas is narrow.
    assert controls["View"].value == "looks down"
    assert client.fov == pytest.approx(2 * math.atan(0.96))
    assert controls["Field of view"].value == pytest.approx(np.degrees(client.fov), abs=0.05)

    def is_at(name):
        place = next(p for p in tour.places if p.label == name)
        np.testing.assert_allclose(client.position, place.position)
        np.testing.assert_allclose(client.look_at, place.look_at)
        np.testing.assert_allclose(client.up_direction, place.up)
        assert controls["View"].value == name
        return True

    controls["View"].set("rolled")
    assert is_at("rolled")
    controls["Level the horizon"].changed(None)
    np.testing.assert_allclose(client.up_direction, (0, 0, 1))
    client.position = np.array([9.0, 9, 9])
    controls["View"].changed(None)  # By the program, not by the user.
    assert client.position[0] == 9
    for step, name in (("again", "rolled"), ("next", "straight down"), ("previous", "rolled")):
        controls["Go"].set(step)
        assert is_at(name)
    controls["View"].set("looks away")
    controls["Go"].set("next")
    assert is_at("level (held out)")

    fov = client.fov
    controls["Field of view"].changed(None)  # Rounded.
    assert client.fov == fov
    controls["Field of view"].set(40.0)
    assert client.fov == pytest.approx(math.radians(40))
    controls["Reset view"].changed(None)
    assert is_at("looks down") and client.fov == fov
    assert controls["Field of view"].value == pytest.approx(np.degrees(fov), abs=0.05)
    # Straight down, nothing is the horizon.
    controls["View"].set("straight down")
    controls["Level the horizon"].changed(None)
    assert is_at("straight down")
    assert len(moves) == 10


def test_without_cameras_there_is_no_list():
    tour = Tour.of(frames.LocalScene.of(box_of_gaussians()), None, (0, 0, 2))
    client = Client(Pose(np.zeros(3), np.eye(4)[0], 0.8, 300, 600))
    Navigation(client, tour, lambda: None)
    assert {"Field of view", "Level the horizon", "Reset view"} == client.visible()
    client.controls["Reset view"].changed(None)
    np.testing.assert_allclose(client.position, tour.first.position)
    assert tour.up.tolist() == [0, 0, 1]


def test_color_bar():
    bar = color_bar(2.0, 10.0)
    assert bar.dtype == np.uint8 and bar.shape[2] == 4 and (bar[..., 3] == 255).all()
    row = bar[10, :, :3].astype(int)
    columns = np.flatnonzero((row != 255).any(axis=1))
    depth = np.linspace(2, 10, len(columns) + 1)[:-1] + 4 / len(columns)
    expected = frames.depth_picture(depth[None], np.ones((1, len(depth))), 2.0, 10.0, 0.5)[0]
    # The next colour, at most, where the rounding decides.
    assert np.abs(row[columns] - expected).max() <= 4
    # The labels differ, and there are some.
    other = color_bar(3.0, 11.0)
    assert (other[:30] == bar[:30]).all() and (other[50:] != bar[50:]).any()
    assert (bar[50:, :, :3] < 100).any() and (bar[-1, :, :3] == 255).all()
    # A range that was turned round is no error.
    for low, high in ((4.0, 4.0), (4.0, 1.0), (0.0, 1e-7), (1e6, 1e6 + 1)):
        assert color_bar(low, high).shape == bar.shape
