"""Tests the viewer as Python, notebooks and the command start it: what it shows, and at first."""

import http.client
import subprocess
import sys
import threading
import urllib.request

import jax
import numpy as np
import pytest
from helpers.browser import no_threads_left, turned
from helpers.commands import run
from helpers.splats import box_of_gaussians, random_gaussians

pytest.importorskip("matplotlib")
pytest.importorskip("viser")

import jax.numpy as jnp

import jax_gsplat_depth as jgd
from jax_gsplat_depth import datasets, frames, io, viewer


def two_views():
    """Return two cameras in front of the box, of which the first is held out."""
    return frames.SceneCameras(
        names=["a", "b"],
        viewmats=np.stack([turned((0, 0.6, 0.8), eye) for eye in ((1, -6, 0.5), (4, -5, 2))]),
        Ks=np.tile([[50.0, 0, 32], [0, 50, 24], [0, 0, 1]], (2, 1, 1)),
        width=np.array([64, 64]),
        height=np.array([48, 48]),
        up=np.array([0.0, 0.6, 0.8]),
        held_out=np.array([True, False]),
    )


def starts_at(handle, scene, cameras, view):
    """Check that browsers start where a camera of the capture was, with its up."""
    first = handle._server.initial_camera
    eye = datasets.camera_centers(cameras.viewmats)[view]
    np.testing.assert_allclose(scene.frame.world_points(first.position), eye, atol=1e-5)
    np.testing.assert_allclose(handle._tour.up, cameras.up, atol=1e-6)
    axis = np.subtract(first.look_at, first.position)
    np.testing.assert_allclose(
        axis / np.linalg.norm(axis), cameras.viewmats[view, 2, :3], atol=1e-5
    )
    return True


def test_show_runs_beside_the_program():
    gaussians, cameras = box_of_gaussians(), two_views()
    with no_threads_left():
        with jgd.viewer.show(gaussians, cameras=cameras) as handle:
            # A training step that donates its buffers does no harm.
            for leaf in jax.tree.leaves(gaussians):
                leaf.delete()
            assert handle.running and handle.url.startswith("http://localhost:")
            assert starts_at(handle, frames.LocalScene.of(box_of_gaussians()), cameras, 1)
            frame = handle._repr_html_()
            assert f'<iframe src="{handle.url}"' in frame and repr(handle) == (
                f"<Viewer at {handle.url}>"
            )
            with urllib.request.urlopen(handle.url, timeout=30) as answer:
                assert b"<html" in answer.read()
            # The guard of the command.
            port = int(handle.url.rpartition(":")[2])
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            for headers in (
                {"Host": f"evil.example:{port}"},
                {"Host": f"localhost:{port}", "Origin": "https://evil.example"},
            ):
                connection.request("GET", "/", headers=headers)
                answer = connection.getresponse()
                assert answer.read() and answer.status == 403
            connection.close()
        assert not handle.running and "iframe" not in handle._repr_html_()
        assert handle.stop() is None


def test_show_takes_a_file_and_what_lies_beside(tmp_path, capsys):
    path, cameras = tmp_path / "a.ply", two_views()
    io.save(path, box_of_gaussians(), io.Tags(antialiased=True))
    frames.save_scene_cameras(tmp_path / "cameras.json", cameras)
    with no_threads_left():
        waiting = threading.Event()

        def stop_when_shown(url):
            waiting.set()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("webbrowser.open", stop_when_shown)
            handle = jgd.viewer.show(str(path), open_browser=True)
        assert waiting.is_set() and handle._config == jgd.Config(antialiased=True)
        assert starts_at(handle, frames.LocalScene.of(box_of_gaussians()), cameras, 1)
        handle.stop()
        # Damaged ones, that nobody asked for, are no reason to show nothing.
        (tmp_path / "cameras.json").write_text("[{}]")
        with jgd.viewer.show(path) as handle:
            assert [place.label for place in handle._tour.places] == ["start"]
    said = capsys.readouterr().err
    assert "its cameras are not used: " in said and "cameras.json, camera 0" in said


def test_show_blocks_until_it_is_stopped(monkeypatch, capsys):
    def wait(handle):
        raise KeyboardInterrupt

    monkeypatch.setattr(viewer.Viewer, "wait", wait)
    with no_threads_left():
        handle = jgd.viewer.show(box_of_gaussians(), block=True)
    assert not handle.running
    assert capsys.readouterr().err == f"60 Gaussians at {handle.url} (Ctrl-C ends)\n"


@pytest.mark.parametrize(
    ("gaussians", "options", "error", "words"),
    [
        (None, {}, ValueError, "gaussians: expected Gaussians or the path of a file, got NoneType"),
        ("none.ply", {}, OSError, "none.ply"),
        ("features", {}, ValueError, r"gaussians: expected 3 colour channels, got .*\(60, 5\)"),
        ("box", {"cameras": []}, ValueError, "cameras: expected at least one"),
        ("box", {"up": (0, 0)}, ValueError, "up: expected 3 finite numbers"),
    ],
)
def test_what_cannot_be_shown(gaussians, options, error, words):
    box = box_of_gaussians()
    made = {"box": box, "features": jgd.Gaussians(box.means, colors=jnp.ones((60, 5)))}
    with no_threads_left(), pytest.raises(error, match=words):
        jgd.viewer.show(made.get(gaussians, gaussians), **options)


@pytest.mark.slow
def test_the_end_of_the_program_ends_it(tmp_path):
    io.save(tmp_path / "a.ply", random_gaussians(5))
    code = "import jax_gsplat_depth as jgd; print(jgd.viewer.show('a.ply'))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0 and done.stderr == ""
    assert "<Viewer at http://localhost:" in done.stdout  # viser prints something too.


@pytest.fixture
def started(monkeypatch):
    """Return with what the command starts the viewer, which then ends at once."""
    found = []

    class Fake:
        def __init__(self, gaussians, **options):
            found.append(options)
            raise ValueError("enough")

    monkeypatch.setattr(viewer, "Viewer", Fake)
    return found


def test_command_finds_cameras(tmp_path, monkeypatch, started, capsys):
    views = two_views()
    capture = datasets.Capture(
        names=["c", "d"],
        images=np.zeros((2, 48, 64, 3), np.uint8),
        viewmats=views.viewmats[::-1],
        Ks=views.Ks.astype(np.float32),
        points=None,
        point_colors=None,
        depths=None,
        alphas=None,
        test_indices=np.array([1]),
        background=np.zeros(3, np.float32),
    )
    monkeypatch.setattr("jax_gsplat_depth.cli._common.builtin_capture", lambda: capture)
    path = tmp_path / "a.ply"
    io.save(path, box_of_gaussians())
    assert run("view", path) == 2 and started[-1]["cameras"] is None and started[-1]["up"] is None
    frames.save_scene_cameras(tmp_path / "cameras.json", views)
    assert run("view", path) == 2
    np.testing.assert_allclose(started[-1]["cameras"].viewmats, views.viewmats)
    assert run("view", path, "--data", "builtin", "--up", "y") == 2
    np.testing.assert_array_equal(started[-1]["cameras"].viewmats, capture.viewmats)
    assert started[-1]["cameras"].held_out.tolist() == [False, True]
    assert started[-1]["up"].tolist() == [0, 1, 0]
    capsys.readouterr()
    assert run("view", path, "--data", tmp_path / "none") == 2
    assert len(started) == 3 and capsys.readouterr().err.count("\n") == 1
    (tmp_path / "cameras.json").write_text("[")
    assert run("view", path) == 2
    warning, _ = capsys.readouterr().err.splitlines()
    assert "warning: its cameras are not used: " in warning and started[-1]["cameras"] is None
