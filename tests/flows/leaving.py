"""Runs ``exiting.py`` and looks at what is left behind."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from tests.flows.publishing import Seen, chain_findings, copies, firsts, seen_in
from tests.patience import PATIENCE_S

from tallyroll.adapters.kafka.log import KafkaLog
from tallyroll.adapters.sqlite.log import SqliteLog
from tallyroll.adapters.sqlite.spool import SqliteSpool
from tallyroll.adapters.system import SystemClock
from tallyroll.events.chain import ChainFinding
from tallyroll.events.position import TopicPartition
from tallyroll.events.topics import catalogue_of
from tallyroll.publish.publisher import EventPublisher
from tallyroll.settings import Settings
from tallyroll.telemetry import Counters

PROGRAM = Path(__file__).with_name("exiting.py")


class Left(NamedTuple):
    """How a program ended, and which ids it said."""

    code: int
    ids: list[str]
    errors: str


class Found(NamedTuple):
    """What is in the log after the next publisher has sent what was left in the spool."""

    seen: dict[TopicPartition, list[Seen]]
    findings: list[ChainFinding]
    taken_over: int

    @property
    def ids(self) -> set[str]:
        """Every event id in the log."""
        return set(copies(self.seen))

    def numbers(self, key: str = "task-1") -> list[int]:
        """The first copies of one key, in order."""
        return firsts(self.seen, key)


def leave(  # noqa: PLR0913
    way: str, url: str, folder: Path, count: int = 200, *options: str, send: signal.Signals | None = None, after: int | None = None
) -> Left:
    """Runs the program to its end; ``send`` is sent after ``ready``, or after so many ids."""
    arguments = [sys.executable, "-W", "error", str(PROGRAM), way, url, str(folder), str(count), *options]
    with (
        (folder / "errors.txt").open("w+") as errors,
        subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        lines: list[str] = []
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line.strip())
            if send is not None and (line == "ready\n" or len(lines) == after):
                process.send_signal(send)
        process.wait(PATIENCE_S)
        errors.seek(0)
        said = errors.read()
    return Left(process.returncode, [line for line in lines if line != "ready"], said)


def find(settings: Settings) -> Found:
    """Lets a new publisher take over the spool, if there is one, and reads the log."""
    return asyncio.run(_find(settings))


async def _find(settings: Settings) -> Found:
    catalogue, clock, telemetry = catalogue_of(settings), SystemClock(), Counters()
    if settings.is_kafka:
        log = await KafkaLog.open(settings, catalogue, clock=clock, telemetry=telemetry)
        folder = settings.data_dir / "spool"
        publisher = EventPublisher(
            log, catalogue, settings, clock=clock, telemetry=telemetry, open_spool=lambda: SqliteSpool(folder, max_bytes=1 << 30)
        )
        taken_over = publisher.spool_depth
        assert await publisher.flush(PATIENCE_S) == 0
        await publisher.close()
    else:
        log, taken_over = await SqliteLog.open(settings.data_dir, catalogue, clock=clock), 0
    try:
        return Found(await seen_in(log, catalogue), (await chain_findings(log, catalogue))[0], taken_over)
    finally:
        await log.close()


def spooled(folder: Path) -> list[str]:
    """The event ids that wait in the spools of dead processes, in order; they are taken over by this."""
    return asyncio.run(_spooled(folder))


async def _spooled(folder: Path) -> list[str]:
    spool = SqliteSpool(folder / "spool", max_bytes=1 << 30)
    try:
        return [item.record.event_id for lane in spool.lanes() for item in await spool.take(lane, 100_000)]
    finally:
        await spool.close()
