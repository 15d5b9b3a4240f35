"""What all TCP proxies of these services do: take connections, pass each on, cut them, and leave no trace."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING, Self

from services.ports import bound_sockets

if TYPE_CHECKING:
    from collections.abc import Callable

LOOK_S = 0.2
"""How soon a pump that waits sees that its connection was cut."""


class Link:
    """One client's connection and its twin to the server."""

    def __init__(self, proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
        """Not pumping yet."""
        self.closed = threading.Event()
        self._proxy = proxy
        self._client = client
        self._server = server
        for sock in (client, server):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def start(self) -> None:
        """Begins to pass on what comes, in threads of its own."""
        raise NotImplementedError

    def close(self) -> None:
        """Ends both connections. Safe to call twice, from any thread."""
        self.closed.set()
        for sock in (self._client, self._server):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)  # wakes the thread that reads it
            sock.close()
        self._proxy.forget(self)


class Proxy:
    """Stands on 127.0.0.1:`port`, listening from the start. All methods may be called from any thread, at any time.

    What a kind of proxy remembers is guarded by `_changed`, and set before `__init__` of this class begins to accept.
    """

    def __init__(self) -> None:
        """Listening."""
        (self._listener,) = bound_sockets(1)
        # Connections inherit it, and while they wind down they do not keep the port after `close`.
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.listen(128)
        self.port: int = self._listener.getsockname()[1]
        self._changed = threading.Condition()
        self._links: set[Link] = set()
        self._closed = False
        self._accepting = threading.Thread(target=self._accept, name=f"proxy-{self.port}", daemon=True)
        self._accepting.start()

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closed."""
        self.close()

    def close(self) -> None:
        """No connection is left, nothing that was held has passed, and the port is free when this returns. Safe to call twice."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # close() alone would leave accept() waiting
        self._listener.close()
        self._accepting.join()
        self.cut()

    def cut(self) -> None:
        """Every connection of this moment ends, and what was held of it never passes; new ones are taken."""
        with self._changed:
            links = list(self._links)
        for link in links:
            link.close()

    def forget(self, link: Link) -> None:
        """A link has ended."""
        with self._changed:
            self._links.discard(link)

    def _wait_while(self, held: Callable[[], object], link: Link) -> None:
        """Returns when nothing is held any more; called under `_changed`. Raises ConnectionAbortedError where the link ends before."""
        while held():
            if self._closed or link.closed.is_set():
                raise ConnectionAbortedError
            self._changed.wait(LOOK_S)

    def _server_port(self) -> int | None:
        """Where a new connection goes on to; None: it is refused, as by a server that is down."""
        raise NotImplementedError

    def _linked(self, client: socket.socket, server: socket.socket) -> Link:
        """The link for a new connection; called under `_changed`."""
        raise NotImplementedError

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return  # closed
            try:
                port = self._server_port()
                if port is None:
                    raise ConnectionRefusedError
                server = socket.create_connection(("127.0.0.1", port), timeout=5.0)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            with self._changed:
                link = self._linked(client, server)
                if self._closed:
                    link.close()
                    return
                self._links.add(link)
                self._changed.notify_all()
            link.start()
