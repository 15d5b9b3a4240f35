"""The processes of a run that are ours: publishers and followers. Started, killed, frozen, and brought back under a new name."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from services.process import Process

ROOT: Final = Path(__file__).resolve().parent.parent
TALLYROLL: Final = (sys.executable, "-m", "tallyroll")
_DUMP_S: Final = 5.0
_STARTED_S: Final = 20.0  # until then it may still import what it needs, and SIGTERM ends it as it ends any program
_DRAIN_S: Final = 40.0  # two graces of the publisher, and what a loaded machine adds


class Program:
    """One role that is played by one process after another. What they print goes to ``logs/NAME.log``."""

    def __init__(self, name: str, command: Sequence[str], *, logs: Path, ends_with: int) -> None:
        """``command`` may hold ``{life}``; ``ends_with`` is the exit code after SIGTERM. Nothing is started yet."""
        self.name = name
        self.life = 0
        self.frozen = False
        self.unexpected: list[str] = []
        """What it did that no fault explains."""
        self._command = command
        self._log = logs / f"{name}.log"
        self._ends_with = ends_with
        self._process: Process | None = None
        self._began = 0.0

    @property
    def alive(self) -> bool:
        """Whether one of its processes runs, frozen or not."""
        return self._process is not None and self._process.alive()

    def start(self) -> None:
        """The next life."""
        self.life += 1
        command = [part.format(life=self.life) for part in self._command]
        self._began = time.monotonic()
        self._process = Process(command, log=self._log, cwd=ROOT, die_with_parent=True)

    def look(self) -> None:
        """Notes when it has ended by itself, and starts it again."""
        if self._process is not None and not self._process.alive():
            self.unexpected.append(f"{self.name} (life {self.life}) ended by itself with {self._process.exit_code}: see {self._log.name}")
            self.start()

    def kill(self) -> None:
        """Gone without a word."""
        if self._process is not None:
            self._process.kill()
            self._process = None
            self.frozen = False

    def drain(self) -> None:
        """Told to stop (SIGTERM), and gone when this returns; notes when it did not end as it should."""
        if self._process is None:
            return
        self.thaw()
        young = time.monotonic() < self._began + _STARTED_S
        self._process.send(signal.SIGTERM)
        if not self._process.wait(_DRAIN_S):
            self.unexpected.append(f"{self.name} (life {self.life}) still runs {_DRAIN_S} s after SIGTERM: see {self._log.name}")
            self._process.send(signal.SIGABRT)  # what each thread does goes into the log: see PYTHONFAULTHANDLER
            self._process.wait(_DUMP_S)
            self._process.kill()
        elif self._process.exit_code != self._ends_with and not (young and self._process.exit_code == -signal.SIGTERM):
            self.unexpected.append(
                f"{self.name} (life {self.life}) ended with {self._process.exit_code} after SIGTERM, expected {self._ends_with}: "
                f"see {self._log.name}"
            )
        self._process = None

    def freeze(self) -> None:
        """It stands still."""
        if self._process is not None:
            self._process.freeze()
            self.frozen = True

    def thaw(self) -> None:
        """It goes on."""
        if self._process is not None and self.frozen:
            self._process.thaw()
        self.frozen = False


class Said(NamedTuple):
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str


def tallyroll(*words: str, timeout_s: float = 300.0, environ: Mapping[str, str] | None = None) -> Said:
    """Runs one command to its end, with these settings beside those of the run. Raises subprocess.TimeoutExpired."""
    settings = {**os.environ, **(environ or {})}
    done = subprocess.run([*TALLYROLL, *words], capture_output=True, text=True, cwd=ROOT, timeout=timeout_s, check=False, env=settings)
    return Said(done.returncode, done.stdout, done.stderr)


def publishers(seed: int, diary: Path, logs: Path) -> list[Program]:
    """Those of a run: two fleets with the same agents, odd ids, two racers, one that records entries."""
    roles = {"fleet-a": "batches", "fleet-b": "batches", "odd": "single", "racer-a": "races", "racer-b": "races", "clerk": "entries"}
    return [
        Program(
            name,
            [sys.executable, "-m", "soak.publisher", role, f"{name}.{{life}}", f"{seed}{place}{{life}}", str(diary)],
            logs=logs,
            ends_with=-signal.SIGTERM,
        )
        for place, (name, role) in enumerate(roles.items(), 1)
    ]


def follower(name: str, logs: Path) -> Program:
    """One process with every follower."""
    return Program(name, [*TALLYROLL, "run", "all", "--http", "off", "--interval", "5s", "--json"], logs=logs, ends_with=0)
