"""A redis-server of its own for a test."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.install import tool
from services.server import Server, ask

if TYPE_CHECKING:
    from pathlib import Path


class RedisServer(Server):
    """redis-server on 127.0.0.1. Nothing outlives it unless `appendonly`: then a write is on disk once acknowledged.

    Not promised: a password, TLS, more than one node.
    """

    name = "redis"

    def __init__(self, data_dir: Path, *, appendonly: bool = False, die_with_parent: bool = True) -> None:
        """Nothing is started yet; see `Server`."""
        super().__init__(data_dir, die_with_parent=die_with_parent)
        self._appendonly = appendonly

    @property
    def url(self) -> str:
        """`redis://…` with database 0."""
        return f"redis://127.0.0.1:{self.port}/0"

    def _command(self, port: int) -> list[str]:
        settings = {
            "bind": "127.0.0.1",
            "port": str(port),
            "dir": str(self.data_dir),
            "daemonize": "no",
            "save": "",
            "appendonly": "yes" if self._appendonly else "no",
            "appendfsync": "always",
        }
        return [str(tool("redis-server")), *(part for key, value in settings.items() for part in (f"--{key}", value))]

    def _answers(self, port: int) -> bool:
        return answers(port)


def answers(port: int) -> bool:
    """Whether a Redis there answers PING; one that still loads its data does not."""
    return ask(port, b"PING\r\n", b"+PONG")
