"""A TCP proxy that knows nothing of what passes: it cuts, holds, and lets answers get lost."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

from services.links import Link, Proxy

if TYPE_CHECKING:
    import socket

_PIECE = 65_536


class TcpProxy(Proxy):
    """Stands before a server on 127.0.0.1:`server_port`; a server that is away refuses at once.

    Not promised: where in a message something gets lost.
    """

    def __init__(self, server_port: int) -> None:
        """Listening."""
        self._upstream = server_port
        self._held = self._deaf = False
        self.passed_bytes = 0
        """So much has come through, both ways."""
        self.held_bytes = 0
        """So much was taken from who sent it and waits for the release; the rest waits in the network."""
        self.lost_bytes = 0
        """So much of what the server answered got lost."""
        super().__init__()

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
            torn = [link for link in self._links if isinstance(link, _TcpLink) and link.torn]
            self._changed.notify_all()
        for link in torn:
            link.close()

    def _server_port(self) -> int:
        return self._upstream

    def _linked(self, client: socket.socket, server: socket.socket) -> Link:
        return _TcpLink(self, client, server)

    def _passes(self, link: _TcpLink, size: int, *, answer: bool) -> bool:
        """Waits while everything is held; false for what gets lost. Raises ConnectionAbortedError where the link ends before."""
        with self._changed:
            self.held_bytes += size
            try:
                self._wait_while(lambda: self._held, link)
            finally:
                self.held_bytes -= size
            if answer and self._deaf:
                link.torn = True
            if link.torn and answer:
                self.lost_bytes += size
                return False
            self.passed_bytes += size
            return True


class _TcpLink(Link):
    """A thread for each direction."""

    _proxy: TcpProxy
    torn = False
    """Whether something got lost, so that nothing may follow it."""

    def start(self) -> None:
        for source, sink in ((self._client, self._server), (self._server, self._client)):
            threading.Thread(target=self._pump, args=(source, sink), name="proxy-pump", daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):  # either side has gone: the other goes too
            while piece := source.recv(_PIECE):
                if self._proxy._passes(self, len(piece), answer=source is self._server):  # noqa: SLF001  # one class in two, split by lifetime
                    sink.sendall(piece)
        self.close()
