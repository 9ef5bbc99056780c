"""Tests the viewer: its picture as a function, its loop with a client of ours, a real server."""

import dataclasses
import http.client
import importlib
import itertools
import os
import pathlib
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import tomllib
import urllib.error
import urllib.request
from io import BytesIO

import numpy as np
import pytest
from helpers.browser import Client, no_threads_left, pose_at
from helpers.commands import run
from helpers.splats import box_of_gaussians

pytest.importorskip("optax")
pytest.importorskip("matplotlib")

import jax.numpy as jnp
import PIL.Image

import jax_gsplat_depth as jgd
from jax_gsplat_depth import frames, io
from jax_gsplat_depth.viewer import _guard, _session
from jax_gsplat_depth.viewer._color_bar import color_bar
from jax_gsplat_depth.viewer._guard import Guard
from jax_gsplat_depth.viewer._picture import SIZES, DrawnView, Look, draw, picture_size
from jax_gsplat_depth.viewer._server import Viewer, url_of
from jax_gsplat_depth.viewer._session import Session

BAR = "Depth, world units (grey: none)"
LOOK = Look("image", (1.0, 4.0), 0.5, (0.0, 0.0, 0.0))


POSE, CAMERA = pose_at((2.5, -4.0, 1.5), (1.0, -2.0, 0.5))


def test_pictures_are_those_of_the_renderer():
    gaussians = box_of_gaussians()
    out = jgd.render(gaussians, CAMERA, background=jnp.array([1.0, 0.5, 0.0]))
    image = np.round(255 * np.clip(out.image, 0, 1))
    view = draw(gaussians, POSE, Look("image", (1, 4), 0.5, (1.0, 0.5, 0.0)))
    assert view.picture.dtype == np.uint8
    # The poses agree to rounding.
    assert np.abs(view.picture - image).max() <= 1
    np.testing.assert_allclose(view.weight, out.weight, atol=1e-4)
    solid = out.weight > 0.6
    assert 50 < solid.sum() < solid.size - 50
    np.testing.assert_allclose(view.depth[solid], out.depth[solid], rtol=1e-4)

    look = Look("depth", (1.0, 4.0), 0.3, (0.0, 0.0, 0.0))
    view = draw(gaussians, POSE, look)
    expected = frames.depth_picture(view.depth, view.weight, 1.0, 4.0, 0.3)
    np.testing.assert_array_equal(view.picture, expected)
    grey = (view.picture == 153).all(axis=-1)
    np.testing.assert_array_equal(grey, (view.weight < 0.3) | (view.depth == 0))

    view = draw(gaussians, POSE, Look("weight", (1.0, 4.0), 0.3, (0.0, 0.0, 0.0)))
    weight = np.where(view.weight < 0.3, 0, np.round(255 * view.weight))
    np.testing.assert_array_equal(view.picture, np.repeat(weight[..., None], 3, axis=-1))


def test_nearer_is_the_first_colour():
    depth, weight = np.array([[1.0, 2.5, 4.0, 9.0, 0.0]]), np.ones((1, 5))
    picture = frames.depth_picture(depth, weight, 1.0, 4.0, 0.5)[0]
    assert picture.tolist()[0] == [68, 1, 84]  # Of viridis.
    assert picture.tolist()[2:] == [[253, 231, 36], [253, 231, 36], [153, 153, 153]]
    # A range that was turned round is no error: the controls may say so for a moment.
    assert len(np.unique(frames.depth_picture(depth, weight, 4.0, 1.0, 0.5)[0], axis=0)) == 3


@pytest.mark.parametrize(
    "size", [(64, 48), (1000, 613), (7, 3), (4000, 3000), (0, 600), (10**9, 1), (10**9, 10**9)]
)
def test_picture_fills_the_canvas(size):
    pose = dataclasses.replace(POSE, width=size[0], height=size[1])
    for factor in (1.0, 0.5, 0.25):
        width, height = picture_size(pose, factor)
        assert (width, height) in SIZES and width * height <= 2048 * 1024
    from jax_gsplat_depth.viewer._picture import camera_of

    K = camera_of(pose, width, height)[1]
    # The corner of the picture is where the corner of the canvas is.
    across, down = K[0, 2] / K[0, 0], K[1, 2] / K[1, 1]
    assert down == pytest.approx(np.tan(0.4), rel=1e-5)
    shape = np.clip(size[0], 1, 16384) / np.clip(size[1], 1, 16384)
    assert across == pytest.approx(np.tan(0.4) * shape, rel=1e-5)


def test_windows_of_any_size_need_few_programs():
    sizes = set()
    for width in range(300, 2000, 37):
        for height in range(max(200, width // 2), min(2 * width, 2_000_000 // width), 31):
            pose = dataclasses.replace(POSE, width=width, height=height)
            for factor in (1.0, 0.5, 0.25):
                size = picture_size(pose, factor)
                sizes.add(size)
                # No side is blurred or sharpened by more than half an octave in all.
                scales = [s / (factor * n) for s, n in zip(size, (width, height), strict=True)]
                assert all(1 / 1.42 < scale < 1.42 for scale in scales)
    assert sizes <= set(SIZES) and len(SIZES) == 45


@dataclasses.dataclass
class Clock:
    """Seconds, and how many of them a pixel takes."""

    now: float = 100.0
    pace: float = 1e-6

    def __call__(self):
        return self.now


def test_controls():
    client, woken = Client(POSE), []
    session = Session(client, box_of_gaussians(), (1.234, 4.2), lambda: woken.append(1), Clock())
    assert client.controls["Near"].value == pytest.approx(1.23)
    assert client.controls["Far"].value == pytest.approx(4.2)
    assert client.controls["Far"].max == pytest.approx(12.6)
    assert client.visible() == {"Show", "Background", "Save picture", "Drawn"}
    assert session.step() is None and len(client.pictures) == 1
    assert session.step() is None and len(client.pictures) == 1  # Nothing has changed.
    assert re.fullmatch(r"96x64, 0 ms, -", client.controls["Drawn"].value)

    client.controls["Show"].set("depth")
    assert client.visible() >= {"Near", "Far", "Fit range to view", "Least weight"}
    client.controls["Near"].set(2.0)
    client.controls["Far"].set(3.0)
    client.controls["Least weight"].set(0.25)
    client.controls["Background"].set((255, 51, 0))
    look = Look("depth", (2.0, 3.0), 0.25, (1.0, 0.2, 0.0))
    assert len(woken) == 5 and session.look() == look
    assert session.step() is None and len(client.pictures) == 2
    np.testing.assert_array_equal(
        client.pictures[-1][0], draw(box_of_gaussians(), POSE, look).picture
    )
    assert BAR in client.visible()
    np.testing.assert_array_equal(client.controls[BAR].image, color_bar(2.0, 3.0))

    client.controls["Save picture"].changed(None)
    assert session.step() is None and len(client.pictures) == 2
    ((file, content),) = client.files
    with PIL.Image.open(BytesIO(content)) as picture:
        assert file == "depth.png" and picture.size == (96, 64)
        np.testing.assert_array_equal(np.asarray(picture), client.pictures[-1][0])

    client.controls["Fit range to view"].changed(None)
    view = draw(box_of_gaussians(), POSE, look)
    solid = view.depth[(view.weight >= 0.25) & (view.depth > 0)]
    near, far = client.controls["Near"].value, client.controls["Far"].value
    np.testing.assert_allclose((near, far), np.quantile(solid, (0.01, 0.99)))
    client.controls["Show"].set("weight")
    assert client.visible() == {"Show", "Least weight", "Background", "Save picture", "Drawn"}
    client.controls["Show"].set("image")
    assert client.visible() == {"Show", "Background", "Save picture", "Drawn"}


def test_coarse_while_moving_and_sharp_at_rest(monkeypatch):
    clock, client = Clock(), Client(pose_at((2, -4, 1), (1, -2, 0), 512, 384)[0])
    sizes = []

    def slow_draw(gaussians, pose, look, factor, *, config):
        width, height = picture_size(pose, factor)
        clock.now += clock.pace * width * height
        sizes.append((width, height))
        return DrawnView(np.zeros((height, width, 3), np.uint8), *np.zeros((2, height, width)))

    monkeypatch.setattr(_session, "draw", slow_draw)
    session = Session(client, None, (1.0, 4.0), lambda: None, clock)
    assert session.step() is None and sizes == [(512, 384)]
    client.move()  # The time of the first picture is not known, as it was compiled.
    assert 0 < session.step() <= 0.25 and sizes[-1] == (256, 192)
    client.move()
    session.step()
    assert sizes[-1] == (256, 192)  # 0.05 s
    client.move()
    wait = session.step()
    assert sizes[-1] == (256, 192) and client.pictures[-1][1] < 90
    clock.now += wait + 0.01
    assert session.step() is None and sizes[-1] == (512, 384) and client.pictures[-1][1] > 90
    assert session.step() is None and len(sizes) == 5

    for clock.pace, size in ((1e-5, (128, 96)), (1e-7, (512, 384))):
        for _ in range(3):
            client.move()
            session.step()
        assert sizes[-1] == size
    # Sharp enough or not, the last picture is one of a camera at rest.
    clock.now += 1
    n = len(sizes)
    assert session.step() is None and len(sizes) == n + 1


def serve(port=0, say=pytest.fail):
    return Viewer(box_of_gaussians(), up=np.eye(3)[2], say=say, host="127.0.0.1", port=port)


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("localhost", "http://localhost:8080"),
        ("127.0.0.1", "http://127.0.0.1:8080"),
        ("::1", "http://[::1]:8080"),
    ],
)
def test_url(host, url):
    assert url_of(host, 8080) == url


def test_server_starts_and_stops():
    pytest.importorskip("viser")
    with no_threads_left():
        viewer = serve()
        port = int(viewer.url.rpartition(":")[2])
        with urllib.request.urlopen(viewer.url, timeout=30) as answer:
            assert b"<html" in answer.read()
        # A port that is taken is an error, not the next one.
        with pytest.raises(OSError, match=rf"127.0.0.1:{port} cannot be used: "):
            serve(port)
        viewer.stop()
        viewer.stop()
        viewer.wait()
        with socket.socket() as free:
            free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            free.bind(("127.0.0.1", port))


CAMERA_MESSAGE = {
    "type": "ViewerCameraMessage",
    "wxyz": POSE.wxyz.tolist(),
    "position": POSE.position.tolist(),
    "image_height": 64,
    "image_width": 96,
    "fov": POSE.fov_y,
    "near": 0.01,
    "far": 100.0,
    "look_at": [1.0, -2.0, 0.5],
    "up_direction": [0.0, 0.0, 1.0],
}


def browser_of(viewer, **options):
    """Connect as the page of viser does."""
    viser = pytest.importorskip("viser")
    # What viser itself speaks with: every version that the extra allows brings it.
    from websockets.sync.client import connect

    url = viewer.url.replace("http", "ws")
    return connect(url, subprotocols=[f"viser-v{viser.__version__}"], **options)


def messages_of(browser, timeout):
    """Return the messages of the next frame."""
    import msgspec
    import zstandard

    seen = browser.recv(timeout=timeout)
    size, n_compressed = struct.unpack("<QQ", seen[:16])
    packed = seen[16 : 16 + n_compressed]
    unpacked = zstandard.ZstdDecompressor().decompress(packed, max_output_size=size)
    return msgspec.msgpack.decode(unpacked)["messages"]


def test_browser_gets_pictures():
    """A client that speaks as the page of viser does: it says where its camera is."""
    pytest.importorskip("viser")
    import msgspec

    with (
        no_threads_left(),
        serve() as viewer,
    ):
        end = time.monotonic() + 60
        with browser_of(viewer, origin=viewer.url) as browser:
            browser.send(msgspec.msgpack.encode(CAMERA_MESSAGE))
            jpegs, texts = [], []
            # The picture, and then the text that says how long it took: after it all is quiet.
            while not (jpegs and any("96x64, " in text for text in texts)):
                for message in messages_of(browser, end - time.monotonic()):
                    if message["type"] == "BackgroundImageMessage" and message["rgb_data"]:
                        jpegs.append(message["rgb_data"])
                    texts.append(str(message.get("updates")))
            assert len(viewer._sessions) == 1
        while viewer._sessions:
            assert time.monotonic() < end
            time.sleep(0.02)
        # What is in view at first fits into every canvas.
        pose = dataclasses.replace(POSE, fov_y=viewer._tour.first.fov_y(96, 64))
    with PIL.Image.open(BytesIO(jpegs[-1])) as picture:
        assert picture.size == (96, 64)
        error = np.asarray(picture).astype(float) - draw(box_of_gaussians(), pose, LOOK).picture
    assert np.sqrt(np.mean(error**2)) < 6  # Of JPEG; measured 3.0.


def admits(guard, host, *origins):
    hosts = [host] if isinstance(host, str) else host
    return guard.admits(hosts, origins)


def test_who_is_answered(monkeypatch):
    local = Guard.of("localhost", "127.0.0.1")
    for name in ("localhost", "127.0.0.1", "[::1]", "LOCALHOST"):
        assert admits(local, f"{name}:8080")
        assert admits(local, f"{name}:8080", f"http://{name}:8080")
    # Through a tunnel with another port at the end of the browser.
    assert admits(local, "localhost:9000", "http://localhost:9000")
    for host in (
        *("evil.example:8080", "localhost.evil.example:8080", "evil.example", ""),
        *("127.0.0.1.nip.example:8080", "[::1%25lo]:8080"),
        *("user@localhost:8080", "localhost:8080/", "localhost:", "localhost:08080x", ":8080"),
        *([], ["localhost:8080", "evil.example:8080"], "192.168.1.5:8080", "0.0.0.0:8080"),
    ):
        assert not admits(local, host), host
    for origin in (
        *("https://evil.example", "http://evil.example:8080", "null", "", "localhost:8080"),
        *("http://localhost:3000", "https://localhost:8080", "http://localhost", "file://"),
        *("http://localhost:8080.evil.example", "http://localhost:8080@evil.example:8080"),
        *("http://127.0.0.1:8080", "http://[::1]:8080"),
    ):
        assert not admits(local, "localhost:8080", origin), origin
    assert not admits(local, "localhost:8080", "http://localhost:8080", "http://evil.example")
    assert admits(Guard.of("::1", "::1"), "[::1]", "http://[::1]:80")
    assert admits(local, "LOCALHOST:80", "http://localhost")

    named = Guard.of("Scene.example", "192.168.1.5")
    assert admits(named, "scene.example:8080", "http://scene.example:8080")
    assert admits(named, "192.168.1.5:8080")
    assert not admits(named, "localhost:8080") and not admits(named, "192.168.1.6:8080")

    link = Guard.of("FE80::1%eth0", "fe80::1%eth0")
    assert admits(link, "[fe80::1]:8080", "http://[fe80::1]:8080")
    accents = Guard.of("Bücher.example", "192.168.1.5")
    assert admits(accents, "xn--bcher-kva.example:8080", "http://xn--bcher-kva.example:8080")

    monkeypatch.setattr(socket, "getfqdn", lambda: "Scene.Lab.Example")
    everywhere = Guard.of("0.0.0.0", "0.0.0.0")
    assert admits(everywhere, "scene.lab.example:8080", "http://scene.lab.example:8080")
    for host in ("localhost", "192.168.1.5", "[fe80::1]", "0.0.0.0", socket.gethostname()):
        assert admits(everywhere, f"{host}:8080", f"http://{host}:8080")
    # No name that somebody else can give to this machine, and no page of another one.
    assert not admits(everywhere, "evil.example:8080")
    for host, page in itertools.permutations(
        ["localhost:8080", "127.0.0.1:8080", "203.0.113.5:8080", "[2001:db8::5]:8080"], 2
    ):
        assert not admits(everywhere, host, f"http://{page}"), (host, page)


def test_no_other_files_are_served():
    pytest.importorskip("viser")
    with no_threads_left(), serve() as viewer:
        connection = http.client.HTTPConnection(viewer.url.removeprefix("http://"), timeout=30)
        for up in ("../", "..%2f", "%2e%2e/", "/../", "x/../../"):
            for levels in range(1, 14):
                connection.request("GET", f"/{up * levels}etc/passwd")
                answer = connection.getresponse()
                assert answer.status >= 400 and b"root:" not in answer.read()
        connection.close()


def test_pages_of_others_are_refused(monkeypatch):
    """And a page of our own cannot make the scene public."""
    viser = pytest.importorskip("viser")
    import msgspec
    from websockets.exceptions import InvalidStatus

    tunnels = []
    monkeypatch.setattr(viser._viser, "ViserTunnel", lambda *place: tunnels.append(place))
    with no_threads_left(), serve() as viewer:
        port = int(viewer.url.rpartition(":")[2])
        for host, status in (
            (f"127.0.0.1:{port}", 200),
            (f"localhost:{port}", 200),
            (f"evil.example:{port}", 403),
            ("127.0.0.1", 200),
        ):
            request = urllib.request.Request(viewer.url, headers={"Host": host})
            try:
                with urllib.request.urlopen(request, timeout=30) as answer:
                    assert answer.status == status
            except urllib.error.HTTPError as error:
                with error:
                    assert error.code == status and b"address that it printed" in error.read()
        strangers = ("https://evil.example", f"http://evil.example:{port}", "null")
        for origin in (*strangers, f"http://localhost:{port}", "http://127.0.0.1:1"):
            with pytest.raises(InvalidStatus, match="403"), browser_of(viewer, origin=origin):
                pass
        assert not viewer._sessions
        with browser_of(viewer, origin=viewer.url) as browser:
            browser.send(msgspec.msgpack.encode({"type": "ShareUrlRequest"}))
            browser.send(msgspec.msgpack.encode(CAMERA_MESSAGE))
            end = time.monotonic() + 60
            types = set()
            while "BackgroundImageMessage" not in types:
                types |= {m["type"] for m in messages_of(browser, end - time.monotonic())}
        assert viewer._server.request_share_url() is None
        assert "ShareUrlUpdated" not in types and not tunnels


@pytest.mark.parametrize(
    ("name", "value"),
    [
        # What viser asks of a server, if it comes to ask it of another one.
        ("_asking", lambda guard, answer: answer),
        ("_forget_tunnel", lambda server: False),
    ],
)
def test_no_server_without_guard(monkeypatch, tmp_path, capsys, name, value):
    pytest.importorskip("viser")
    io.save(tmp_path / "a.ply", box_of_gaussians())
    monkeypatch.setattr(_guard, name, value)
    with no_threads_left():
        assert run("view", tmp_path / "a.ply", "--port", 0) == 2
    error = capsys.readouterr().err
    assert "cannot be kept from answering other web pages" in error and error.count("\n") == 1


def test_a_version_without_tunnels_is_fine(monkeypatch):
    pytest.importorskip("viser")
    messages = importlib.import_module("viser._messages")
    with no_threads_left(), serve() as viewer:
        # No handler is left; nor need there be messages.
        assert _guard._forget_tunnel(viewer._server)
        monkeypatch.delattr(messages, "ShareUrlRequest")
        monkeypatch.delattr(messages, "ShareUrlDisconnect")
        assert _guard._forget_tunnel(viewer._server)
        assert not _guard._forget_tunnel(object())


def test_other_servers_stay_as_they_are(monkeypatch):
    """Those of other places and programs, started by other threads in the same moment."""
    pytest.importorskip("viser")
    module = importlib.import_module("websockets.asyncio.server")
    monkeypatch.setattr(module, "serve", lambda *_, **options: options)

    def handler():
        pass

    def serve_at(package, *place):
        handler.__module__ = package
        return bool(module.serve(handler, *place))

    with _guard._guarded(Guard.of("localhost", "127.0.0.1"), "127.0.0.1", 8080):
        assert not serve_at("viser.infra", "127.0.0.1", 9000)
        assert not serve_at("viser.infra", "0.0.0.0", 8080)
        assert not serve_at("other", "127.0.0.1", 8080)
        assert serve_at("viser.infra", "127.0.0.1", 8080)
        # The next try of the same thread.
        assert serve_at("viser.infra", "127.0.0.1", 8081)
        guarded = []
        other = threading.Thread(
            target=lambda: guarded.append(serve_at("viser.infra", "127.0.0.1", 8081))
        )
        other.start()
        other.join()
        assert guarded == [False]


def test_a_viewer_that_cannot_start_leaves_nothing():
    pytest.importorskip("viser")

    def say(text):
        raise RuntimeError("the terminal is gone")

    with no_threads_left(), pytest.raises(RuntimeError, match="terminal is gone"):
        Viewer(box_of_gaussians(), up=np.eye(3)[2], say=say, host="0.0.0.0", port=0)


def test_versions_that_serve_any_file_are_refused(monkeypatch, capsys):
    pytest.importorskip("viser")
    monkeypatch.setattr(_guard.importlib.metadata, "version", lambda _: "1.0.25")
    with pytest.raises(ImportError, match=r"viser 1.0.25 is not safe: .*jax-gsplat-depth\[viewer"):
        serve()
    # Before the file is read.
    assert run("view", "none.ply") == 2
    assert "viser 1.0.25 is not safe" in capsys.readouterr().err
    project = pathlib.Path(__file__).resolve().parents[2] / "pyproject.toml"
    extras = tomllib.loads(project.read_text())["project"]["optional-dependencies"]
    assert f"viser>={'.'.join(map(str, _guard.SAFE))},<2" in extras["viewer"]


def test_letting_others_in_is_said(capsys):
    pytest.importorskip("viser")
    said = []
    with Viewer(box_of_gaussians(), up=np.eye(3)[2], say=said.append, host="0.0.0.0", port=0) as v:
        assert said == [
            f"warning: everybody who reaches this machine can look at the scene at {v.url}"
        ]


def test_errors_of_drawing_end_one_session(monkeypatch):
    pytest.importorskip("viser")
    said, drawn = [], threading.Semaphore(0)

    class Broken:
        def __init__(self, error):
            self.error = error

        def step(self):
            raise self.error

    class Fine:
        def step(self):
            drawn.release()

    with (
        no_threads_left(),
        serve(say=said.append) as viewer,
    ):
        viewer._sessions.update(
            {0: Broken(MemoryError()), 1: Broken(ValueError("first\nsecond")), 2: Fine()}
        )
        # The second time all that was broken is gone.
        for _ in range(2):
            viewer._changed.set()
            assert drawn.acquire(timeout=60)
        assert list(viewer._sessions) == [2]
        viewer._sessions.clear()
    assert said == [
        "browser 0 gets no more pictures until it reloads (there is not enough "
        "memory: try a smaller window)",
        "browser 1 gets no more pictures until it reloads (ValueError: first)",
    ]


@pytest.mark.slow
def test_ctrl_c_ends_the_command(tmp_path):
    pytest.importorskip("viser")
    io.save(tmp_path / "a.ply", box_of_gaussians())
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "jax_gsplat_depth.cli", "view", tmp_path / "a.ply"]
        + ["--port", "0", "--host", "127.0.0.1"],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "PYTHONWARNINGS": "error::ResourceWarning", "XLA_FLAGS": ""},
    )
    deadline = threading.Timer(120, process.kill)
    deadline.start()
    try:
        seen = b""
        while b"Ctrl-C ends)\n" not in seen:
            chunk = process.stderr.read1()
            assert chunk, f"ended, or was not ready within 120 s: {seen.decode()!r}"
            seen += chunk
        process.send_signal(signal.SIGINT)
        seen += process.communicate(timeout=60)[1]
    finally:
        deadline.cancel()
        process.kill()
        process.wait()
    assert process.returncode == 0, seen.decode()
    assert "60 Gaussians at http://127.0.0.1:" in seen.decode()
    assert seen.decode().splitlines()[-1] == "jax-gsplat-depth: stopped"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["none.ply"], "none.ply: No such file"),
        (["a.obj"], "unknown suffix"),
        (["a.ply", "--port", "70000"], "--port: expected a whole number between 0 and 65535"),
        (["a.ply", "--host", "no.such.host.invalid"], "no.such.host.invalid:8080 cannot be used"),
        (["a.ply", "--up", "w"], "invalid choice: 'w'"),
        ([], "SPLATS"),
    ],
)
def test_errors_of_the_user(tmp_path, monkeypatch, capsys, arguments, words):
    pytest.importorskip("viser")
    monkeypatch.chdir(tmp_path)
    io.save(tmp_path / "a.ply", box_of_gaussians())
    assert run("view", *arguments) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_missing_extra(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "viser", None)
    assert run("view", tmp_path / "none.ply") == 2
    assert "pip install 'jax-gsplat-depth[viewer]'" in capsys.readouterr().err
