"""Tests that commands show a scene whatever its units, its origin and its size are."""

import dataclasses
import json
from typing import Any

import numpy as np
import pytest

pytest.importorskip("optax")
pytest.importorskip("dm_pix")

import jax.numpy as jnp
from helpers.captures import Scene, write_colmap, write_photos
from helpers.commands import run
from helpers.similarity import PLACE, moved_capture, moved_viewmats, scaled_gaussians
from helpers.splats import box_of_gaussians
from PIL import Image

import jax_gsplat_depth as jgd
from jax_gsplat_depth import datasets, frames, io
from jax_gsplat_depth.cli._common import AXES
from jax_gsplat_depth.frames import LocalScene
from jax_gsplat_depth.viewer._picture import DrawnView, Look, Pose, draw, range_of
from jax_gsplat_depth.viewer._server import Viewer

FAR = 1e8 * PLACE
PLACES = [(1e-6, 0 * FAR), (1e6, FAR), (1.0, FAR), (3e-3, 1e3 * PLACE)]
SIZE = ("--width", 40, "--height", 30, "--depth-format", "npy")


def saved(path, gaussians, scale=1.0, origin=(0, 0, 0)):
    tags = io.Tags(origin=tuple(map(float, origin)))
    io.save(path, scaled_gaussians(gaussians, scale), tags=tags)
    return path


def pictures(out):
    """Return images and depths of all frames, and the cameras."""
    cameras = frames.read_cameras(out / "cameras.json")
    images = [np.asarray(Image.open(out / f"image/{n}.png")).astype(int) for n in cameras.names]
    depths = [np.load(out / f"depth_raw/{name}.npy") for name in cameras.names]
    return np.stack(images), np.stack(depths), cameras


def assert_same_pictures(out, expected, scale):
    (images, depths, _), (known_images, known_depths, _) = pictures(out), pictures(expected)
    assert known_images.max() > 50
    # Rounding of float32 in the file and in the renderer.
    assert np.abs(images - known_images).max() <= 1
    np.testing.assert_allclose(depths, scale * known_depths, rtol=1e-4, atol=1e-4 * scale)


@pytest.mark.parametrize(("scale", "origin"), PLACES)
@pytest.mark.quick(scale=[1e6])
def test_render_does_not_depend_on_units_and_origin(tmp_path, scale, origin):
    ply = saved(tmp_path / "a.ply", box_of_gaussians())
    moved = saved(tmp_path / "b.ply", box_of_gaussians(), scale, origin)
    out, expected = tmp_path / "b", tmp_path / "a"
    assert run("render", ply, "--out", expected, "--frames", 3, *SIZE) == 0
    assert run("render", moved, "--out", out, "--frames", 3, *SIZE) == 0
    assert_same_pictures(out, expected, scale)
    metrics, known = (json.loads((o / "metrics.json").read_text()) for o in (out, expected))
    np.testing.assert_allclose(metrics["depth_range"], scale * np.array(known["depth_range"]), 1e-4)

    # Its cameras again, and those of the other world, moved by hand.
    again = tmp_path / "again"
    assert run("render", moved, "--cameras", out / "cameras.json", "--out", again, *SIZE) == 0
    assert_same_pictures(again, expected, scale)
    cameras = frames.read_cameras(expected / "cameras.json")
    by_hand = tmp_path / "cameras.json"
    viewmats = moved_viewmats(rigid(cameras.viewmats), scale, origin)
    frames.write_cameras(by_hand, dataclasses.replace(cameras, viewmats=viewmats))
    assert run("render", moved, "--cameras", by_hand, "--out", again, *SIZE) == 0
    assert_same_pictures(again, expected, scale)


def rigid(viewmats):
    """Poses of which far away cameras can be made."""
    u, _, vt = np.linalg.svd(viewmats[:, :3, :3])
    return np.concatenate(
        [np.concatenate([u @ vt, viewmats[:, :3, 3:]], axis=2), viewmats[:, 3:]], axis=1
    )


@pytest.mark.parametrize(("scale", "origin"), PLACES)
@pytest.mark.quick(scale=[3e-3])
def test_render_and_eval_of_a_capture(tmp_path, monkeypatch, capsys, scale, origin):
    capture = datasets.builtin_capture(n_views=9, width=40, height=30, n_points=100)
    world = dataclasses.replace(
        box_of_gaussians(300, center=(0, 0, 0.4), half=(1, 1, 0.4), scale=0.1)
    )
    printed = []
    for name, move in (("a", (1.0, 0 * FAR)), ("b", (scale, origin))):
        ply = saved(tmp_path / f"{name}.ply", world, *move)
        moved = moved_capture(capture, *move)
        monkeypatch.setattr("jax_gsplat_depth.cli._common.builtin_capture", lambda m=moved: m)
        data = ("--data", "builtin", "--depth-format", "npy", "--out")
        assert run("render", ply, *data, tmp_path / name, "--views", "heldout") == 0
        assert run("render", ply, *data, tmp_path / f"path_{name}", "--frames", 3) == 0
        capsys.readouterr()
        assert run("eval", ply, "--data", "builtin") == 0
        rows = capsys.readouterr().out.splitlines()[1:]
        printed.append(np.array([[float(x) for x in row.split()[1:]] for row in rows]))
    assert_same_pictures(tmp_path / "b", tmp_path / "a", scale)
    assert_same_pictures(tmp_path / "path_b", tmp_path / "path_a", scale)
    np.testing.assert_allclose(printed[1], printed[0], atol=2e-3)


@pytest.mark.parametrize("text", [True, False])
def test_readers_keep_every_digit_of_map_coordinates(tmp_path, text):
    scene = Scene()
    scene.viewmats = moved_viewmats(scene.viewmats, 1.0, FAR)
    scene.points = scene.points + FAR
    write_photos(tmp_path / "images", scene)
    write_colmap(tmp_path / "sparse" / "0", scene, text=text)
    capture = datasets.load_capture(tmp_path)
    assert capture.points is not None
    np.testing.assert_array_equal(capture.points, scene.points)
    np.testing.assert_allclose(
        datasets.camera_centers(capture.viewmats),
        datasets.camera_centers(scene.viewmats),
        atol=1e-6,
    )


@pytest.mark.slow
@pytest.mark.parametrize(("scale", "origin"), [(1e-3, 0 * FAR), (1.0, FAR)])
def test_fit_command_far_away(tmp_path, monkeypatch, capsys, scale, origin):
    capture = datasets.builtin_capture(n_views=9, width=40, height=30, n_points=300)
    psnrs = []
    for move in ((1.0, 0 * FAR), (scale, origin)):
        moved = moved_capture(capture, *move)
        monkeypatch.setattr(datasets, "builtin_capture", lambda m=moved: m)
        monkeypatch.setattr("jax_gsplat_depth.cli._common.builtin_capture", lambda m=moved: m)
        out = tmp_path / f"out{len(psnrs)}"
        assert run("fit", "--out", out, "--steps", 25, "--max-gaussians", 400) == 0
        said = capsys.readouterr().err
        of_fit = json.loads((out / "metrics.json").read_text())
        assert ("relative to its origin" in said) == any(of_fit["origin"]) == move[1].any()
        assert list(io.read(out / "splats.ply").tags.origin) == of_fit["origin"]
        views = frames.load_scene_cameras(out / "splats.ply")
        assert views is not None
        np.testing.assert_allclose(views.viewmats, moved.viewmats, rtol=0, atol=1e-6)
        assert run("eval", out / "splats.ply", "--out", tmp_path / f"eval{len(psnrs)}") == 0
        of_eval = json.loads((tmp_path / f"eval{len(psnrs)}" / "metrics.json").read_text())
        assert of_eval["psnr"] == pytest.approx(of_fit["psnr"], rel=1e-5)
        assert of_eval["depth_error"] == pytest.approx(of_fit["depth_error"], rel=1e-4)
        psnrs.append(of_fit["psnr"])
    assert psnrs[1] == pytest.approx(psnrs[0], abs=0.1)


# Orbits


def cluster(means, scales, opacities=0.9):
    n = len(means)
    return jgd.Gaussians(
        jnp.asarray(means, jnp.float32),
        jnp.asarray(np.tile([1.0, 0, 0, 0], (n, 1)), jnp.float32),
        jnp.asarray(np.broadcast_to(np.asarray(scales, float).reshape(-1, 1), (n, 3)), jnp.float32),
        jnp.asarray(np.broadcast_to(opacities, n), jnp.float32),
        sh=jnp.full((n, 1, 3), 1.0, jnp.float32),
    )


NEAR = np.random.default_rng(0).uniform(-0.5, 0.5, (80, 3))
CLUSTERS = {
    "one": (cluster([[1.0, 2, 3]], 0.1), [0]),
    "one, tiny": (cluster([[1.0, 2, 3]], 1e-6), [0]),
    "one, huge": (cluster([[1.0, 2, 3]], 1e6), [0]),
    "one, faint": (cluster([[0.0, 0, 0]], 0.1, 0.05), [0]),
    "one, flat": (
        dataclasses.replace(cluster([[0.0, 0, 0]], 1.0), scales=jnp.array([[1, 1, 1e-4]])),
        [0],
    ),
    "two": (cluster([[0.0, 0, 0], [3, 0, 1]], 0.1), [0, 1]),
    "two, above each other": (cluster([[0.0, 0, 0], [0, 0, 5]], 0.1), [0, 1]),
    "two of several sizes": (cluster([[0.0, 0, 0], [3, 0, 1]], [0.02, 1.0]), [0, 1]),
    "all in one place": (cluster(np.ones((80, 3)), 0.01), range(80)),
    "tight": (cluster(1 + 1e-6 * NEAR, 0.01), range(80)),
    "huge scales": (cluster(NEAR, 1e4), range(80)),
    "many without opacity": (cluster(NEAR, 0.1, np.arange(80) % 2 * 0.9), range(1, 80, 2)),
    "a stray among few": (cluster([*NEAR[:5], [1e6, 0, 0]], 0.1), range(5)),
    "a stray among many": (cluster([*NEAR, [1e6, 0, 0]], 0.1), range(80)),
    "a huge stray": (cluster([*NEAR, [1e6, 0, 0]], [*[0.1] * 80, 1e3]), range(80)),
}


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e6])
@pytest.mark.parametrize("name", CLUSTERS)
@pytest.mark.quick(scale=[1.0])
def test_orbits_show_everything(name, scale):
    gaussians, shown = CLUSTERS[name]
    scene = LocalScene.of(scaled_gaussians(gaussians, scale))
    path = frames.orbit(
        scene, up=np.eye(3)[2], n_frames=3, width=64, height=48, fov_x=1.0, elevation=0.3
    )
    for viewmat, K in zip(scene.frame.local_viewmats(path.viewmats), path.Ks, strict=True):
        camera = jgd.Camera(jnp.asarray(viewmat, jnp.float32), jnp.asarray(K), width=64, height=48)
        splats = jgd.project(scene.gaussians, camera)
        means2d, radii = np.asarray(splats.means2d)[shown], np.asarray(splats.radii)[shown]
        assert (radii > 0).all()
        # Up to three standard deviations; a few of many may be cut off.
        inside = ((means2d >= radii[:, None] - 3) & (means2d <= [64, 48] - radii[:, None] + 3)).all(
            1
        )
        assert inside.mean() >= (1.0 if len(shown) < 50 else 0.8)
    for frame in frames.render_frames(scene, path, np.zeros(3)):
        assert frame.image.max() > (5 if "faint" in name else 60)
        assert frame.weight[5:-5, 5:-5].max() > (0.04 if "faint" in name else 0.3)


@pytest.mark.parametrize(("axis", "up"), [("z", "z"), ("x", "-y"), ("y", "x")])
@pytest.mark.parametrize("degrees", [90, 180])
@pytest.mark.quick(degrees=[90])
def test_orbits_turn_with_the_scene(axis, up, degrees):
    if axis != "z" and degrees == 180:
        up = "-z"
    transform = pytest.importorskip("scipy.spatial.transform")
    gaussians: Any = box_of_gaussians(200)
    gaussians = dataclasses.replace(gaussians, sh=gaussians.sh[:, :1])
    turn = transform.Rotation.from_euler(axis, degrees, degrees=True)
    own = transform.Rotation.from_quat(np.asarray(gaussians.quats)[:, [1, 2, 3, 0]])
    turned = dataclasses.replace(
        gaussians,
        means=jnp.asarray(turn.apply(np.asarray(gaussians.means)), jnp.float32),
        quats=jnp.asarray((turn * own).as_quat()[:, [3, 0, 1, 2]], jnp.float32),
    )

    def images(gaussians, up):
        path = frames.orbit(gaussians, up=AXES[up], n_frames=4, width=48, height=36, fov_x=1.0)
        return [frame.image for frame in frames.render_frames(gaussians, path, np.zeros(3))]

    difference = np.subtract(images(gaussians, "z"), images(turned, up), dtype=int)
    assert np.abs(difference).max() <= 2


def test_orbit_of_nothing_is_refused():
    with pytest.raises(ValueError, match="none of the Gaussians can be drawn"):
        frames.orbit(
            cluster(NEAR, 0.1, 0.0), up=np.eye(3)[2], n_frames=1, width=8, height=8, fov_x=1.0
        )


def test_single_gaussian_is_in_the_picture(tmp_path):
    io.save(tmp_path / "a.ply", cluster([[5.0, 5, 5]], 0.002))
    out = tmp_path / "out"
    assert run("render", tmp_path / "a.ply", "--out", out, "--frames", 2, *SIZE) == 0
    images, depths, _ = pictures(out)
    assert (images.max(axis=(1, 2, 3)) > 150).all() and (depths.max(axis=(1, 2)) > 0).all()
    assert (images[:, :3] < 20).all() and (images[:, :, :3] < 20).all()


# The viewer


@pytest.mark.parametrize("name", ["one", "two of several sizes", "tight", "a stray among few"])
@pytest.mark.parametrize(("scale", "origin"), PLACES)
@pytest.mark.quick(scale=[1e6], name=["one"])
def test_viewer_starts_with_the_scene_in_view(name, scale, origin):
    pytest.importorskip("viser")
    transform = pytest.importorskip("scipy.spatial.transform")

    def first_view(scene):
        with Viewer(scene, up=np.eye(3)[2], say=pytest.fail, host="127.0.0.1", port=0) as viewer:
            start, depths = viewer._server.initial_camera, viewer._depth_range
        camera = jgd.Camera.look_at(
            np.float32(start.position), np.float32(start.look_at), fov_y=1.0, width=64, height=48
        )
        to_scene = np.asarray(camera.viewmat, np.float64)[:3, :3].T
        quat = transform.Rotation.from_matrix(to_scene).as_quat()[[3, 0, 1, 2]]
        pose = Pose(np.asarray(start.position), quat, float(start.fov), 64, 48)
        return draw(scene, pose, Look("depth", depths, 0.3, (0.0, 0.0, 0.0))), depths

    gaussians, _ = CLUSTERS[name]
    known, known_depths = first_view(LocalScene.of(gaussians))
    view, depths = first_view(LocalScene.of(scaled_gaussians(gaussians, scale), origin))
    assert known.weight.max() > 0.3
    np.testing.assert_allclose(view.weight, known.weight, atol=5e-3)
    np.testing.assert_allclose(view.depth, scale * known.depth, rtol=1e-3, atol=1e-3 * scale)
    np.testing.assert_allclose(depths, scale * np.array(known_depths), rtol=1e-3)


def test_a_view_without_anything_solid_keeps_its_range():
    view = DrawnView(np.zeros((4, 6, 3), np.uint8), np.ones((4, 6)), np.full((4, 6), 0.1))
    assert range_of(view, 0.5) is None
    assert range_of(view, 0.05) == (1.0, 1.001)


def test_frame_of_colours_for_each_camera_and_of_none():
    rng = np.random.default_rng(0)
    n = 12
    scene = jgd.Gaussians(
        means=jnp.asarray(rng.normal(0, 1e3, (n, 3)), jnp.float32),
        quats=jnp.ones((n, 4), jnp.float32),
        scales=jnp.full((n, 3), 10.0, jnp.float32).at[3].set(1e5),
        opacities=jnp.full(n, 0.9, jnp.float32),
        colors=jnp.zeros((n, 0), jnp.float32),
    )

    def unit(colors):
        return LocalScene.of(dataclasses.replace(scene, colors=jnp.asarray(colors))).frame.unit

    one = np.full((n, 3), 0.5, np.float32)
    assert unit(one) == LocalScene.of(scene).frame.unit
    one[3, 1] = np.nan  # not drawn, and so no part of the detail
    assert unit(np.stack([np.nan_to_num(one), one])) == unit(one)
