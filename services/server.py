"""What Redis and NATS have in common here: one process, one port on 127.0.0.1, one question asked until it is ready."""

from __future__ import annotations

import signal
import socket
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path
from typing import ClassVar, Self

from services.errors import ServiceError, StartError
from services.ports import free_ports, is_free
from services.process import (
    Process,
    last_lines,
    read_json,
    refuse_second_owner,
    save_running,
    wait_until,
    write_json,
)

_READY_S = 30.0  # a start takes some hundredths of a second; a loaded machine gets the rest
_PORT_TRIES = 3  # as in kafka.py


class Server(ABC):
    """One server process. The same `data_dir` later brings back what it kept and, while it is free, the same port.

    Usable as a context manager: started inside, ended after. Not promised: thread safety.
    """

    name: ClassVar[str]

    def __init__(self, data_dir: Path, *, die_with_parent: bool = True) -> None:
        """Nothing is started yet. `die_with_parent`: killed when this process is gone, however it ends."""
        self.data_dir = data_dir.absolute()
        self.log = self.data_dir / f"{self.name}.log"
        self._die_with_parent = die_with_parent
        self._port = 0
        self._process: Process | None = None

    @property
    @abstractmethod
    def url(self) -> str:
        """What a client connects to."""

    @abstractmethod
    def _command(self, port: int) -> list[str]:
        """The command line of a server in the foreground on 127.0.0.1:`port`."""

    @abstractmethod
    def _answers(self, port: int) -> bool:
        """Whether the server there is ready. Raises nothing."""

    def __enter__(self) -> Self:
        """Started and ready."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Ended."""
        self.close()

    @property
    def port(self) -> int:
        """Its port on 127.0.0.1. Raises ServiceError before the first start."""
        if not self._port:
            raise ServiceError(f"{self.name} has no port before start()")
        return self._port

    @property
    def process(self) -> Process:
        """The process of the last start; it may have ended since."""
        if self._process is None:
            raise ServiceError(f"{self.name} was never started")
        return self._process

    @property
    def pid(self) -> int:
        """Process id of the last start."""
        return self.process.pid

    def start(self, *, timeout_s: float = _READY_S) -> None:
        """The server answers when this returns. Raises StartError; then nothing is left running."""
        if self._process is not None:
            raise ServiceError(f"{self.name} is started already; restart() brings it back")
        self.data_dir.mkdir(parents=True, exist_ok=True)
        refuse_second_owner(self.data_dir)
        for attempt in range(1, _PORT_TRIES + 1):
            self._choose_port()
            try:
                self._launch(timeout_s)
            except StartError:
                self.close()
                if attempt == _PORT_TRIES or is_free(self._port):
                    raise
            except BaseException:
                self.close()
                raise
            else:
                return

    def restart(self, *, timeout_s: float = _READY_S) -> None:
        """It runs again on the same port and folder, and answers; one that still runs is stopped first."""
        self.stop()
        self._launch(timeout_s)

    def kill(self) -> None:
        """Gone without a word (SIGKILL) when this returns."""
        self.process.kill()

    def stop(self, *, grace_s: float = 10.0) -> None:
        """Ended in order (SIGTERM) when this returns, by SIGKILL after `grace_s`; a frozen one is thawed for it."""
        self.thaw()
        self.process.stop(grace_s=grace_s)

    def freeze(self) -> None:
        """It stands still (SIGSTOP) when this returns: connections stay open and nothing answers, until `thaw`."""
        self.process.send(signal.SIGSTOP)
        wait_until(lambda: _stands_still(self.pid), timeout_s=_READY_S)  # its threads stop one by one, some while they run

    def thaw(self) -> None:
        """It goes on (SIGCONT)."""
        self.process.send(signal.SIGCONT)

    def close(self) -> None:
        """Gone (SIGKILL) when this returns; what it wrote stays. Safe to call twice."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    def _choose_port(self) -> None:
        file = self.data_dir / "port.json"
        self._port = int(read_json(file).get("port", 0))
        if not self._port or not is_free(self._port):
            (self._port,) = free_ports(1)
        write_json(file, {"port": self._port})

    def _launch(self, timeout_s: float) -> None:
        command = self._command(self._port)
        process = Process(command, log=self.log, cwd=self.data_dir, die_with_parent=self._die_with_parent)
        self._process = process
        save_running(self.data_dir, {self.name: process.id})

        def ready() -> bool:
            if not process.alive():
                raise self._failed(f"ended during start (exit code {process.exit_code})")
            return self._answers(self._port)

        if not wait_until(ready, timeout_s=timeout_s):
            raise self._failed(f"did not answer within {timeout_s} s")

    def _failed(self, reason: str) -> StartError:
        return StartError(server=self.name, reason=reason, log=self.log, last_lines=last_lines(self.log))


def _stands_still(pid: int) -> bool:
    """Whether every thread is stopped, or gone."""
    states = []
    for task in Path(f"/proc/{pid}/task").glob("*/stat"):
        with suppress(OSError):
            states.append(task.read_text().rpartition(")")[2].split()[0])
    return all(state in "TtZX" for state in states)


def ask(port: int, question: bytes, beginning: bytes) -> bool:
    """Whether 127.0.0.1:`port` answers `question` (sent when not empty) with a line that has this beginning."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2.0) as sock:
            if question:
                sock.sendall(question)
            return sock.makefile("rb").readline(4_096).startswith(beginning)
    except OSError:
        return False
