"""A consumer that is going to be killed; run by the tests of consumers.

``python consuming.py HOW BOOTSTRAP PREFIX FOLDER SESSION_MS INSTANCE`` writes its effects to ``FOLDER/effects.db``.
"""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import sys
from pathlib import Path

from confluent_kafka import Consumer
from tests.flows.following import SqliteAccountant
from tests.patience import PATIENCE_S

from tallyroll.adapters.kafka.log import KafkaLog
from tallyroll.adapters.system import SystemClock
from tallyroll.events.codec import decode_head
from tallyroll.events.topics import catalogue_of
from tallyroll.follow.deadletter import DeadLetters
from tallyroll.follow.loop import FollowLoop
from tallyroll.settings import Settings
from tallyroll.telemetry import Counters

_APPLIED_BEFORE_DEATH = 50


async def follow(settings: Settings, path: Path) -> None:
    """The loop with a store that is one transaction; ends in order on SIGTERM."""
    catalogue, clock, telemetry = catalogue_of(settings), SystemClock(), Counters()
    log = await KafkaLog.open(settings, catalogue, clock=clock, telemetry=telemetry)
    letters = DeadLetters(log, catalogue, clock=clock, telemetry=telemetry, max_record_bytes=settings.max_record_bytes)
    follower = SqliteAccountant(path)
    loop = FollowLoop(
        log, [follower], catalogue, settings, group=settings.group("f"), dead_letters=letters, clock=clock, telemetry=telemetry
    )
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    print("ready", flush=True)  # noqa: T201  # to be told to end
    loop.start()
    waiting = asyncio.ensure_future(stopping.wait())
    await asyncio.wait([waiting, asyncio.ensure_future(loop.finished())], return_when=asyncio.FIRST_COMPLETED)
    await loop.stop()
    await log.close()


def auto_commit(settings: Settings, path: Path, *, die: bool) -> None:
    """A consumer as one would write it without us: offsets are committed by the client's clock. ``die``: in mid-batch."""
    consumer = Consumer(
        {
            "bootstrap.servers": settings.bootstrap_servers,
            "group.id": settings.group("f"),
            "group.instance.id": settings.instance_id,
            "session.timeout.ms": settings.session_timeout_ms,
            "max.poll.interval.ms": max(300_000, settings.session_timeout_ms),  # the client wants no less
            "auto.offset.reset": "earliest",
            "enable.auto.commit": True,
            "auto.commit.interval.ms": 100,
        }
    )
    consumer.subscribe([f"{settings.topic_prefix}task-events"])
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("CREATE TABLE IF NOT EXISTS effect (topic TEXT, partition INT, place INT, id TEXT)")
    applied = 0
    while True:
        for message in consumer.consume(500, 0.2):
            if message.error() is not None:
                continue
            row = (message.topic(), message.partition(), message.offset(), decode_head(message.value()).id)
            connection.execute("INSERT INTO effect VALUES (?, ?, ?, ?)", row)
            applied += 1
            while die and applied == _APPLIED_BEFORE_DEATH:
                # In the middle of a batch, for as long as the client needs to commit what it handed out: then we are killed.
                if any(item.offset > 0 for item in consumer.committed(consumer.assignment(), timeout=PATIENCE_S)):
                    print("committed", flush=True)  # noqa: T201  # the signal for the one who kills
                    signal.pause()


def main() -> None:
    """See the module."""
    how, bootstrap, prefix, folder, session_ms, instance = sys.argv[1:]
    settings = Settings(
        url=f"kafka://{bootstrap}", data_dir=Path(folder), topic_prefix=prefix, instance_id=instance, session_timeout_ms=int(session_ms),
        batch_records=200, flush_interval_ms=50,
    )  # fmt: skip
    path = Path(folder) / "effects.db"
    if how == "follow":
        asyncio.run(follow(settings, path))
    else:
        auto_commit(settings, path, die=how == "die")


if __name__ == "__main__":
    main()
