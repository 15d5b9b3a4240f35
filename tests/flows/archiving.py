"""A program that archives a log and is killed at a named place; run by the tests of the archive."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from pathlib import Path

from tests.unit.archiving import NEVER, files_in, following
from tests.unit.pruning import up_to
from tests.unit.replay_histories import CATALOGUE, Log, batch_of, event, log_of

from tallyroll.adapters.parquet.codec import ParquetCodec
from tallyroll.adapters.sqlite.archive_index import SqliteArchiveIndexes
from tallyroll.adapters.system.segment_files import LocalSegmentFiles
from tallyroll.archive.opening import OpenArchive
from tallyroll.archive.sealing import SealLimits
from tallyroll.events.position import TopicPartition
from tallyroll.testing.clock import FakeClock


def history() -> Log:
    made = [event("task.progressed", f"task:t{n % 5}", {"agent_id": f"a{n % 3}", "tokens": 1}, at_s=n, event_id=str(n)) for n in range(400)]
    return log_of(made)


def main(folder: Path, point: str, count: int, mode: str = "") -> None:
    """``archive`` as a program; the mode is ``prune`` or ``beside``."""
    asyncio.run(archive(folder, point, count, prune=mode == "prune", beside=mode == "beside"))


async def archive(folder: Path, point: str, count: int, *, prune: bool = False, beside: bool = False) -> None:
    """Goes on where the archive is, flushes, seals, and prunes if told to; dies the ``count``-th time it passes ``point``.

    ``beside``: seals come by themselves while flushing goes on, and each takes less than there is by then.
    """
    left, flushed = [count], threading.Event()

    def fault(passed: str) -> None:
        if beside and passed == "tail read":
            flushed.clear()
            flushed.wait(0.1)  # the last one of all has none behind it
        if passed == point:
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)

    def files(partition: TopicPartition) -> LocalSegmentFiles:
        return LocalSegmentFiles(files_in(folder, partition), fault=fault)

    opened = OpenArchive(SqliteArchiveIndexes(folder), files, ParquetCodec(), CATALOGUE, clock=FakeClock(), fault=fault)
    log = history()
    follower = await following(opened, log, limits=SealLimits(records=40) if beside else NEVER)
    stored = await follower.positions(list(log))
    for partition, values in sorted(log.items()):
        for start in range(stored.get(partition, 0), len(values), 20):
            follower.apply(batch_of(partition, values[start : start + 20], start))
            await follower.flush()
            flushed.set()
            fault("flushed")
            if start % 40 and not beside:
                opened.keeper.seal(partition)
                if prune and len(opened.reader.segments(partition)) > 1:
                    opened.pruner.prune(up_to(opened, partition, 1))
    await follower.close()
    opened.keeper.seal_all(list(log))
    opened.close()
