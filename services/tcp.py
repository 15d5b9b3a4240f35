"""A TCP proxy that knows nothing of what passes: it cuts, holds, and lets answers get lost."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Self

from services.ports import bound_sockets

_PIECE = 65_536
_LOOK_S = 0.2  # how soon a pump that waits sees that its connection was cut


class TcpProxy:
    """Stands on 127.0.0.1:`port` before a server on 127.0.0.1:`server_port`; a server that is away refuses at once.

    All methods may be called from any thread, at any time. Not promised: where in a message something gets lost.
    """

    def __init__(self, server_port: int) -> None:
        """Listening."""
        (self._listener,) = bound_sockets(1)
        self._listener.listen(128)
        self.port: int = self._listener.getsockname()[1]
        self._server_port = server_port
        self._changed = threading.Condition()
        self._links: set[_Link] = set()
        self._held = self._deaf = self._closed = False
        self.passed_bytes = 0
        """So much has come through, both ways."""
        self.lost_bytes = 0
        """So much of what the server answered got lost."""
        threading.Thread(target=self._accept, name=f"proxy-{self.port}", daemon=True).start()

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closed."""
        self.close()

    def close(self) -> None:
        """No connection is left and the port is free when this returns. Safe to call twice."""
        with self._changed:
            self._closed = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # close() alone would leave accept() waiting
        self._listener.close()
        self.release()
        self.cut()

    def cut(self) -> None:
        """Every connection of this moment ends; new ones are taken."""
        with self._changed:
            links = list(self._links)
        for link in links:
            link.close()

    def hold(self) -> None:
        """Nothing passes until `release`; connections stay open and new ones are taken, as on a network that drops every packet."""
        with self._changed:
            self._held = True

    def lose_answers(self) -> None:
        """The server does what it is asked and nobody hears of it, until `release`, which cuts the connections that lost something."""
        with self._changed:
            self._deaf = True

    def release(self) -> None:
        """What was held goes on, in order; where something got lost the connection ends."""
        with self._changed:
            self._held = self._deaf = False
            torn = [link for link in self._links if link.torn]
            self._changed.notify_all()
        for link in torn:
            link.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return  # closed
            try:
                server = socket.create_connection(("127.0.0.1", self._server_port), timeout=5.0)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            link = _Link(self, client, server)
            with self._changed:
                if self._closed:
                    link.close()
                    return
                self._links.add(link)
            link.start()

    def _passes(self, link: _Link, size: int, *, answer: bool) -> bool:
        """Waits while everything is held; false for what gets lost."""
        with self._changed:
            while self._held and not link.closed.is_set():
                self._changed.wait(_LOOK_S)
            if answer and self._deaf:
                link.torn = True
            if link.torn and answer:
                self.lost_bytes += size
                return False
            self.passed_bytes += size
            return True

    def _forget(self, link: _Link) -> None:
        with self._changed:
            self._links.discard(link)


class _Link:
    """One client's connection and its twin to the server, with a thread for each direction."""

    def __init__(self, proxy: TcpProxy, client: socket.socket, server: socket.socket) -> None:
        self.closed = threading.Event()
        self.torn = False
        self._proxy = proxy
        self._client = client
        self._server = server
        for sock in (client, server):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def start(self) -> None:
        for source, sink in ((self._client, self._server), (self._server, self._client)):
            threading.Thread(target=self._pump, args=(source, sink), name="proxy-pump", daemon=True).start()

    def close(self) -> None:
        self.closed.set()
        for sock in (self._client, self._server):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)  # wakes the thread that reads it
            sock.close()
        self._proxy._forget(self)  # noqa: SLF001  # one class in two, split by lifetime

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):  # either side has gone: the other goes too
            while piece := source.recv(_PIECE):
                if self._proxy._passes(self, len(piece), answer=source is self._server):  # noqa: SLF001  # as above
                    sink.sendall(piece)
        self.close()
