"""A program that accepts events and then leaves in one of several ways; run by the tests of leaving.

``python exiting.py WAY URL FOLDER COUNT`` prints the id of every accepted event, then ``ready``.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import sys
from pathlib import Path
from typing import Any

from tallyroll.adapters.kafka.log import KafkaLog
from tallyroll.adapters.sqlite.log import SqliteLog
from tallyroll.adapters.sqlite.spool import SqliteSpool
from tallyroll.adapters.system import SystemClock
from tallyroll.events.event import AgentEvent, EventMetadata
from tallyroll.events.ids import new_id
from tallyroll.events.topics import catalogue_of
from tallyroll.publish.publisher import EventPublisher
from tallyroll.settings import Settings
from tallyroll.telemetry import Counters


def say(line: str) -> None:
    """One line, whole, also when several processes write."""
    os.write(1, f"{line}\n".encode())


def event(number: int, key: str) -> AgentEvent:
    """A numbered event of one key."""
    return AgentEvent("task.completed", key, "task", {"number": number}, EventMetadata(correlation_id="c"), new_id())


async def open_publisher(settings: Settings) -> EventPublisher:
    """Over the log that the settings name, with a spool before Kafka."""
    catalogue, clock, telemetry = catalogue_of(settings), SystemClock(), Counters()
    if settings.is_kafka:
        log: Any = await KafkaLog.open(settings, catalogue, clock=clock, telemetry=telemetry)
    else:
        log = await SqliteLog.open(settings.data_dir, catalogue, clock=clock)
    folder = settings.data_dir / "spool"
    spool = (lambda: SqliteSpool(folder, max_bytes=settings.spool_max_bytes)) if settings.is_kafka else None
    return EventPublisher(log, catalogue, settings, clock=clock, telemetry=telemetry, open_spool=spool)


async def accept(publisher: EventPublisher, count: int, key: str) -> list[asyncio.Task[Any]]:
    """Events that are accepted and that nobody waits for."""
    events = [event(number, key) for number in range(count)]
    waiting = [asyncio.create_task(publisher.publish(item)) for item in events]
    await asyncio.sleep(0)  # noqa: TID251  # each task takes its first step, which accepts
    for item in events:
        say(item.event_id)
    return waiting


async def plain(settings: Settings, count: int, key: str) -> None:
    """Returns without a close."""
    await accept(await open_publisher(settings), count, key)


async def system_exit(settings: Settings, count: int, key: str) -> None:
    """sys.exit in the middle."""
    await accept(await open_publisher(settings), count, key)
    sys.exit(7)


async def wait_for_signal(settings: Settings, count: int, key: str) -> None:
    """Waits for somebody to end it; publishing from inside a lock-holding thread is not needed to be drained."""
    waiting = await accept(await open_publisher(settings), count, key)
    say("ready")
    await asyncio.gather(*waiting, return_exceptions=True)
    await asyncio.Event().wait()


async def host_handler(settings: Settings, count: int, key: str) -> None:
    """The host has a handler of its own for SIGTERM; it stays, and closes."""
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    before = signal.getsignal(signal.SIGTERM)
    publisher = await open_publisher(settings)
    await accept(publisher, count, key)
    assert signal.getsignal(signal.SIGTERM) is before
    say("ready")
    await stopping.wait()
    await publisher.close()
    sys.exit(5)


async def acknowledged(settings: Settings, count: int, key: str) -> None:
    """Says an id only when publish has returned; goes on until it is killed."""
    publisher = await open_publisher(settings)
    for number in range(count):
        item = event(number, key)
        await publisher.publish(item)
        say(item.event_id)
    say("ready")
    await asyncio.Event().wait()


def child(settings: Settings, count: int, key: str) -> None:
    """What a child of multiprocessing does."""
    asyncio.run(plain(settings, count, key))


def by_multiprocessing(settings: Settings, count: int, method: str) -> None:
    """Two children, which leave by os._exit."""
    context = multiprocessing.get_context(method)
    children = [context.Process(target=child, args=(settings, count, f"task-{number}")) for number in range(2)]
    for process in children:
        process.start()
    for process in children:
        process.join()
        assert process.exitcode == 0


def by_fork(settings: Settings, count: int) -> None:
    """Parent and forked child publish with the publisher that the parent made."""

    async def parent() -> EventPublisher:
        publisher = await open_publisher(settings)
        await accept(publisher, count, "task-parent")
        await publisher.flush(1.0)  # something in flight or in the spool: the child must leave it alone
        return publisher

    async def forked(publisher: EventPublisher) -> None:
        await accept(publisher, count, "task-child")
        await publisher.close()

    publisher = asyncio.run(parent())
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            asyncio.run(forked(publisher))
            code = 0
        finally:
            os._exit(code)
    asyncio.run(accept(publisher, count, "task-parent-2"))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


WAYS = {
    "plain": plain,
    "system_exit": system_exit,
    "wait_for_signal": wait_for_signal,
    "host_handler": host_handler,
    "acknowledged": acknowledged,
}


def main() -> None:
    """See the module."""
    way, url, folder, count, options = sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]), sys.argv[5:]
    where = {} if url.startswith("sqlite") else {"data_dir": folder}
    overrides = Settings.from_env(dict(option.split("=", 1) for option in options), url=url, **where)
    if way in ("spawn", "fork_children"):
        by_multiprocessing(overrides, count, "spawn" if way == "spawn" else "fork")
    elif way == "fork":
        by_fork(overrides, count)
    else:
        asyncio.run(WAYS[way](overrides, count, "task-1"))


if __name__ == "__main__":
    main()
