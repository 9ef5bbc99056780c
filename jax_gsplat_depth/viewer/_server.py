"""Serves the viewer: one thread draws for all browsers, and viser shows the pictures."""

import atexit
import contextlib
import html
import ipaddress
import socket
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from jax_gsplat_depth._common.local_scene import LocalScene
from jax_gsplat_depth._common.memory import is_out_of_memory
from jax_gsplat_depth._types import Config, Gaussians
from jax_gsplat_depth.frames import depth_range
from jax_gsplat_depth.viewer._guard import start_server
from jax_gsplat_depth.viewer._places import Cameras, Tour
from jax_gsplat_depth.viewer._session import Session

_FRAME_HEIGHT = 600
"""Height in a notebook, pixels."""


class Viewer:
    """A running viewer; ``stop`` ends it and all of its threads, as the end of the program does.

    All of its work is done by threads of its own. A notebook shows its page where it is the value
    of a cell.

    Attributes:
        url: Address for a browser.
    """

    def __init__(
        self,
        gaussians: Gaussians | LocalScene,
        *,
        up: np.ndarray | None = None,
        cameras: Cameras | None = None,
        say: Callable[[str], None],
        host: str = "localhost",
        port: int = 8080,
        config: Config | None = None,
    ) -> None:
        """Start serving.

        Args:
            gaussians: Activated Gaussians with 3 colour channels.
            up: ``[3]`` upward direction, world frame; None takes that of the cameras, else z.
            cameras: The views of the list, of which the first that was not held out is shown at
                first: ``frames.SceneCameras``, a capture, a ``CameraPath``, a ``Camera``, or a
                list of these last. None starts in front of the scene.
            say: Called, from any thread, with a sentence about a browser that cannot be served, or
                a warning.
            host: Name or address of a network interface of this machine. Browsers have to call the
                server by this name, or by those of the loopback interface if it listens there.
            port: Port to listen at; 0 takes any free one.
            config: Settings of the renderer; None for its defaults.

        Raises:
            OSError: The address cannot be used; the message is one sentence.
            ValueError: No Gaussian can be drawn, ``up`` is no direction, or a camera is none.
            ImportError: viser is not installed, or not of a version that can be made safe.
        """
        address, port = _free_address(host, port)
        scene = LocalScene.of(gaussians)
        tour = Tour.of(scene, cameras, up)
        start = tour.first.small_view(scene.frame)
        depths = depth_range(scene, start, np.zeros(3), 0.5, config=config)
        self._scene = scene
        self._config = config
        self._tour = tour
        self._depth_range = depths.low, depths.high
        self._sessions: dict[int, Session] = {}
        self._changed = threading.Event()
        self._done = threading.Event()
        self._say = say
        self._server: Any = start_server(host, address, port)
        with contextlib.ExitStack() as stack:
            stack.callback(self._stop_server)
            self.url = url_of(host, port)
            if not ipaddress.ip_address(address.partition("%")[0]).is_loopback:
                say(
                    "warning: everybody who reaches this machine can look at the scene at "
                    f"{self.url}"
                )
            self._server.gui.configure_theme(show_logo=False, show_share_button=False)
            self._server.scene.set_up_direction(tuple(float(x) for x in tour.up))
            # The world of the browser is the local frame, whatever the units of the scene.
            first, place = self._server.initial_camera, tour.first
            first.position = place.position
            first.look_at = place.look_at
            first.up = place.up
            first.fov = place.fov_y(0, 0)  # Until it says how large its canvas is.
            self._server.on_client_connect(self._connect)
            self._server.on_client_disconnect(self._disconnect)
            self._thread = threading.Thread(target=self._work, name="viewer", daemon=True)
            self._thread.start()
            atexit.register(self.stop)
            stack.pop_all()

    @property
    def running(self) -> bool:
        """Whether it was not stopped."""
        return not self._done.is_set()

    def wait(self) -> None:
        """Wait until the viewer is stopped."""
        self._done.wait()

    def stop(self) -> None:
        """Close all connections and end all threads; further calls do nothing."""
        atexit.unregister(self.stop)
        self._done.set()
        self._changed.set()
        self._thread.join()
        self._stop_server()

    def _stop_server(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.stop()
            # Older versions of viser leave the threads that wait for callbacks.
            server._thread_executor.shutdown(wait=False)

    def __enter__(self) -> "Viewer":
        """Return the viewer itself."""
        return self

    def __exit__(self, *_: Any) -> None:
        """Stop the viewer."""
        self.stop()

    def __repr__(self) -> str:
        """Return where it is."""
        return f"<Viewer at {self.url}>" if self.running else "<Viewer, stopped>"

    def _repr_html_(self) -> str:
        """Return the page in a frame, for notebooks."""
        if not self.running:
            return html.escape(repr(self))
        url = html.escape(self.url, quote=True)
        return (
            f'<iframe src="{url}" width="100%" height="{_FRAME_HEIGHT}" '
            f'style="border: 0"></iframe><br><a href="{url}" target="_blank">{url}</a>'
        )

    # Coroutines, because viser keeps their order: no session outlives its browser.
    async def _connect(self, client: Any) -> None:
        self._sessions[client.client_id] = Session(
            client,
            self._scene,
            self._depth_range,
            self._changed.set,
            config=self._config,
            tour=self._tour,
        )
        self._changed.set()

    async def _disconnect(self, client: Any) -> None:
        self._sessions.pop(client.client_id, None)

    def _work(self) -> None:
        """Draw for all browsers in turn until the end."""
        while not self._done.is_set():
            self._changed.clear()
            waits = [self._step(number) for number in list(self._sessions)]
            self._changed.wait(min((w for w in waits if w is not None), default=None))

    def _step(self, number: int) -> float | None:
        """Draw for one browser; an error ends its session, but not those of the others."""
        try:
            session = self._sessions.get(number)
            return None if session is None else session.step()
        except Exception as error:
            # The error is dropped if the browser has left meanwhile.
            if self._sessions.pop(number, None) is not None:
                reason = f"{type(error).__name__}: {error}".splitlines()[0].removesuffix(": ")
                if is_out_of_memory(error):
                    reason = "there is not enough memory: try a smaller window"
                self._say(f"browser {number} gets no more pictures until it reloads ({reason})")
            return None


def url_of(host: str, port: int) -> str:
    """Return the address for a browser; an IPv6 host has colons of its own, hence the brackets."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _free_address(host: str, port: int) -> tuple[str, int]:
    """Return address and port to listen at, if the port is free; 0 stands for any that is.

    Not left to viser, which tries the next ports if one is taken, and hangs if the host is wrong.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        # A machine may have IPv6 names without IPv6.
        family, *_, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
        with socket.create_server(address[:2], family=family) as free:
            return str(address[0]), free.getsockname()[1]
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise OSError(f"{host}:{port} cannot be used: {reason}") from error
