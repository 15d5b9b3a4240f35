"""A nats-server of its own for a test."""

from __future__ import annotations

from services.install import tool
from services.server import Server, ask


class NatsServer(Server):
    """nats-server on 127.0.0.1 with JetStream, whose streams lie in `data_dir` and outlive a restart.

    Not promised: accounts, TLS, more than one node; JetStream's last writes after a crash of the machine.
    """

    name = "nats"

    @property
    def url(self) -> str:
        """`nats://…`, for core NATS and JetStream."""
        return f"nats://127.0.0.1:{self.port}"

    def _command(self, port: int) -> list[str]:
        store = self.data_dir / "jetstream"
        return [str(tool("nats-server")), "--addr", "127.0.0.1", "--port", str(port), "-js", "-sd", str(store)]

    def _answers(self, port: int) -> bool:
        return answers(port)


def answers(port: int) -> bool:
    """Whether a NATS server there sends its INFO line."""
    return ask(port, b"", b"INFO ")
