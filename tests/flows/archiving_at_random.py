"""A program that archives a random log, and dies where it is told to; run by the tests of the archive."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from random import Random

from tests.unit.archiving import archive_in, files_in, following
from tests.unit.replay_histories import cuts, random_log

from tallyroll.adapters.system.segment_files import LocalSegmentFiles


def dying_at(point: str, nth: int) -> object:
    """A fault that ends the process as a power button would."""
    seen = 0

    def fault(reached: str) -> None:
        nonlocal seen
        if reached == point:
            seen += 1
            if seen == nth:
                os.kill(os.getpid(), signal.SIGKILL)

    return fault


def main(folder: Path, seed: int, count: int, point: str = "", nth: int = 1) -> None:
    """Kills itself at the nth time it comes to ``point``; prints topic, partition and next offset after each flush, for all partitions."""
    asyncio.run(_archive(folder, seed, count, point, nth))


async def _archive(folder: Path, seed: int, count: int, point: str, nth: int) -> None:
    rng, log, fault = Random(seed), random_log(Random(seed), count), dying_at(point, nth)  # noqa: S311  # a fixed history
    with archive_in(folder, fault=fault, open_files=lambda place: LocalSegmentFiles(files_in(folder, place), fault=fault)) as archive:
        follower = await following(archive, log)
        stored = await follower.positions(list(log))
        for batch in cuts(Random(seed + 1), log):  # noqa: S311  # a fixed history
            fresh = batch.since(stored.get(batch.topic_partition, 0))
            if fresh is None:
                continue
            follower.apply(fresh)
            if rng.random() < 0.3:
                for place, following_offset in (await follower.flush()).items():
                    os.write(1, f"{place.topic} {place.partition} {following_offset}\n".encode())
            if rng.random() < 0.15:
                archive.keeper.seal(batch.topic_partition)
        await follower.flush()
        archive.keeper.seal_all(list(log))
