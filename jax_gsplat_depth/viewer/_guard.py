"""Starts a viser server that answers no web pages but its own.

A web page may send requests to any address that its browser can reach, this machine's included, and
viser answers them all. Here a request has to name the viewer as its host, as no name does that
somebody else owns, and has to come from a page of that host and port, if from a page at all. viser
has no setting for this, so that its call of ``serve`` is changed on the way; whether that worked is
asked of the server itself, before anybody hears of it.
"""

import contextlib
import dataclasses
import http
import http.client
import importlib
import importlib.metadata
import ipaddress
import re
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from jax_gsplat_depth._common.extras import require

SAFE = (1, 0, 26)
"""The first version of viser that serves no other files than its own."""

_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
_STRANGER = "stranger.invalid"
_SECONDS = 30.0

_patching = threading.Lock()


@dataclasses.dataclass(frozen=True)
class Guard:
    """Says which requests are those of the user.

    Attributes:
        names: What the server may be called, lower case, IPv6 addresses in brackets. Its port is
            no matter: a tunnel may have another one at the end of the browser.
        by_address: Whether it may be called by any IP address: it listens at all of this machine.
    """

    names: frozenset[str]
    by_address: bool = False

    @classmethod
    def of(cls, host: str, address: str) -> "Guard":
        """Return that of a server.

        Args:
            host: What the user calls the interface.
            address: The IP address of it.
        """
        names = {_as_in_headers(host), _as_in_headers(address)}
        ip = ipaddress.ip_address(address.partition("%")[0])
        if ip.is_loopback or ip.is_unspecified:
            names.update(_LOOPBACK)
        if ip.is_unspecified:
            name = socket.gethostname().lower()
            short = name.partition(".")[0]
            names.update({name, short, f"{short}.local", socket.getfqdn().lower()})
        return cls(frozenset(names), ip.is_unspecified)

    def admits(self, hosts: Sequence[str], origins: Sequence[str]) -> bool:
        """Return whether to answer a request.

        Args:
            hosts: Its ``Host`` headers.
            origins: Its ``Origin`` headers; programs other than browsers send none.
        """
        if len(hosts) != 1 or len(origins) > 1:
            return False
        place = _place(hosts[0])
        if place is None or not self._is_ours(place[0]):
            return False
        # Both may be ours and yet not the same server, such as two addresses where any will do.
        return all(
            origin.startswith("http://") and _place(origin.removeprefix("http://")) == place
            for origin in origins
        )

    def _is_ours(self, name: str) -> bool:
        return name in self.names or (self.by_address and _is_address(name))


def require_safe_viser() -> Any:
    """Return the module viser, of a version that is known to be safe.

    Raises:
        ImportError: It is not installed, or older.
    """
    viser = require("viser", "viewer")
    version = importlib.metadata.version("viser")
    if tuple(int(number) for number in re.findall(r"\d+", version)[:3]) < SAFE:
        raise ImportError(
            f"viser {version} is not safe: install a newer version with: python -m pip install "
            "'jax-gsplat-depth[viewer]'"
        )
    return viser


def start_server(host: str, address: str, port: int) -> Any:
    """Return a running ``viser.ViserServer``, guarded, without a way to a public address.

    Args:
        host: What the user calls the interface.
        address: The IP address of it.
        port: A free port.

    Raises:
        OSError: The port is no longer free.
        ImportError: viser is not installed, or of a version that cannot be guarded.
    """
    viser = require_safe_viser()

    class Server(viser.ViserServer):
        def request_share_url(self, verbose: bool = True) -> None:
            """Do nothing: a public address would go through somebody else's server."""

    with _guarded(Guard.of(host, address), address, port):
        server = Server(host=address, port=port, label="jax-gsplat-depth", verbose=False)
    with contextlib.ExitStack() as stack:
        stack.callback(server.stop)
        if server.get_port() != port:
            raise OSError(f"{host}:{port} cannot be used: another program took it")
        if not _sends_strangers_away(address, port) or not _forget_tunnel(server):
            version = importlib.metadata.version("viser")
            raise ImportError(
                f"viser {version} cannot be kept from answering other web pages: install another "
                "version of viser"
            )
        stack.pop_all()
    return server


@contextlib.contextmanager
def _guarded(guard: Guard, address: str, port: int) -> Iterator[None]:
    """Have the server that viser starts in the block at a place ask the guard first."""
    module: Any = importlib.import_module("websockets.asyncio.server")
    with _patching:
        original = module.serve
        ours: set[int] = set()

        def serve(handler: Any, *places: Any, **options: Any) -> Any:
            # Other threads may start servers too, of viser and of others.
            package = str(getattr(handler, "__module__", "")).partition(".")[0]
            if package == "viser" and places == (address, port):
                ours.add(threading.get_ident())
            # The thread of our server tries the next port if somebody takes this one.
            if threading.get_ident() in ours:
                options["process_request"] = _asking(guard, options.get("process_request"))
            return original(handler, *places, **options)

        module.serve = serve
        try:
            yield
        finally:
            module.serve = original


def _asking(guard: Guard, answer: Callable[[Any, Any], Any] | None) -> Callable[[Any, Any], Any]:
    def process_request(connection: Any, request: Any) -> Any:
        headers = request.headers
        if not guard.admits(headers.get_all("Host"), headers.get_all("Origin")):
            text = "Open the viewer under the address that it printed, in a page of its own.\n"
            return connection.respond(http.HTTPStatus.FORBIDDEN, text)
        return None if answer is None else answer(connection, request)

    return process_request


def _sends_strangers_away(address: str, port: int) -> bool:
    """Return whether the server refuses a request that asks for somebody else."""
    here = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)
    connection = http.client.HTTPConnection(here, port, timeout=_SECONDS)
    with contextlib.closing(connection):
        try:
            connection.request("GET", "/", headers={"Host": f"{_STRANGER}:{port}"})
            return connection.getresponse().status == http.HTTPStatus.FORBIDDEN
        except (OSError, http.client.HTTPException):
            return False


def _forget_tunnel(server: Any) -> bool:
    """Return whether the server handles no messages, or no longer, that ask for a tunnel."""
    try:
        messages = importlib.import_module("viser._messages")
        unregister = server._websock_server.unregister_handler
    except (ImportError, AttributeError):
        return False
    for name in ("ShareUrlRequest", "ShareUrlDisconnect"):
        # A version without tunnels has neither handlers nor messages.
        if hasattr(messages, name):
            with contextlib.suppress(AssertionError, KeyError):
                unregister(getattr(messages, name))
    return True


def _place(text: str) -> tuple[str, int] | None:
    """Return name and port, as a header gives them without the scheme of http, or None."""
    found = re.fullmatch(r"(\[[0-9a-f:.]+\]|[^][/@:]+)(?::(\d{1,5}))?", text.lower())
    return None if found is None else (found[1], int(found[2] or 80))


def _as_in_headers(host: str) -> str:
    """Return a name or an address as browsers write it."""
    if ":" in host:
        return f"[{host.partition('%')[0].lower()}]"
    return host.lower() if host.isascii() else host.lower().encode("idna").decode()


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
