"""Contenders that read an archive: everybody's states, one agent's state, and what the archive itself costs."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any, Final

from bench.replay_access import CATALOGUE, NEVER, ask, follower_of, open_archive, projected, replays_of
from bench.replay_data import History, Wire, batch_of
from bench.replay_projector import hash_of
from bench.replay_site import BATCH, Figures, Site, Step, Timed, owners
from bench.workload import percentile
from tallyroll.events.moments import moment_at
from tallyroll.events.position import TopicPartition
from tallyroll.events.types import TASK_TOPIC
from tallyroll.replay.fold import State, states_hash
from tallyroll.replay.plan import ReplayMode, as_of_event_time

CHECKED: Final = 20  # lookups whose states are held against a whole replay up to the same moment
SEALED: Final = 262_144  # records of a segment when nothing else is set


def archived(**asked: Any) -> Step:  # noqa: ANN401  # members of Ask
    """Every agent's state from the archive."""

    async def run(site: Site) -> Figures:
        async with replays_of(site.full) as replayer:
            with Timed() as timed:
                found = await replayer.replay(ask(**asked))
        assert not found.finding_counts, found.finding_counts
        assert found.coverage == "complete", found.coverage
        if asked.get("mode") is ReplayMode.INCREMENTAL:
            assert found.tally.snapshots, "no snapshot was used"
        else:
            assert found.records == site.read, (found.records, site.read)
        if asked.get("columnar"):
            assert found.tally.columns >= site.read - site.meta.tail, "not folded as columns"
        return timed.figures(
            site.read,
            hashes={"agents": states_hash(found.states), "agents in a few fields": hash_of(found.states)},
            records_read=found.records,
            snapshots=found.tally.snapshots,
        )

    return run


def by_projector(workers: int) -> Step:
    """Every agent's state by a user's handlers, as plain Python functions."""

    async def run(site: Site) -> Figures:
        async with replays_of(site.full) as replayer:
            with Timed() as timed:
                states = await projected(replayer, workers)
        return timed.figures(site.read, hashes={"agents in a few fields": hash_of(states)})

    return run


async def at_one_moment(site: Site) -> Figures:
    """Every agent's state at one moment, from all events, for the lookups to be held against."""
    chosen, moment_us = _checked(site)
    async with replays_of(site.full) as replayer:
        with Timed() as timed:
            found = await replayer.replay(ask(target=as_of_event_time(moment_at(moment_us))))
    states = {owner: found.states[owner] for owner in chosen if owner in found.states}
    return timed.figures(found.records, hashes={"agents at one moment": states_hash(states)})


def lookups(half: bool = False) -> Step:  # noqa: FBT001, FBT002  # which archive
    """One agent at one moment, again and again, at random."""

    async def run(site: Site) -> Figures:
        folder = site.folder / ("half" if half else "full")
        end_us = (site.meta.first_us + site.meta.last_us) // 2 if half else site.meta.last_us
        random, hashes = Random(7), {}  # noqa: S311  # lookups have to be the same each time
        async with replays_of(folder) as replayer:
            known = owners(site)
            walls = []
            for number in range(site.lookups + site.lookups // 10):
                owner = known[int(random.random() * len(known))]
                moment = moment_at(site.meta.first_us + int(random.random() * (end_us - site.meta.first_us)))
                begin = time.perf_counter()
                found = await replayer.replay(ask(owner=owner, mode=ReplayMode.POINT_IN_TIME, target=as_of_event_time(moment)))
                if number >= site.lookups // 10:  # those before only warm it up
                    walls.append(time.perf_counter() - begin)
                    assert len(found.states) <= 1
            if not half:
                chosen, moment_us = _checked(site)
                target = as_of_event_time(moment_at(moment_us))
                states: dict[str, State] = {}
                for owner in chosen:
                    states.update((await replayer.replay(ask(owner=owner, mode=ReplayMode.POINT_IN_TIME, target=target))).states)
                hashes = {"agents at one moment": states_hash(states)}
        ordered = sorted(wall * 1e3 for wall in walls)
        return {
            "events": len(walls), "wall_s": sum(walls), "cpu_s": 0.0, "hashes": hashes,
            "p50_ms": percentile(ordered, 50), "p99_ms": percentile(ordered, 99), "max_ms": ordered[-1],
        }  # fmt: skip

    return run


async def cold_lookup(site: Site) -> Figures:
    """The first lookup of a process, the archive opened for it, its files not in the system's cache."""
    for path in site.full.rglob("*"):
        if path.is_file():
            handle = os.open(path, os.O_RDONLY)
            os.fsync(handle)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)
    owner = owners(site)[len(owners(site)) // 2]
    moment = moment_at((site.meta.first_us + site.meta.last_us) // 2)
    with Timed() as timed:
        async with replays_of(site.full) as replayer:
            found = await replayer.replay(ask(owner=owner, mode=ReplayMode.POINT_IN_TIME, target=as_of_event_time(moment)))
    assert len(found.states) == 1
    return timed.figures(1)


async def whole_history(site: Site) -> Figures:
    """One agent's whole history out of the archive, folded from its first event."""
    owner = owners(site)[0]
    async with replays_of(site.full) as replayer:
        await replayer.replay(ask(owner=owners(site)[1]))
        with Timed() as timed:
            found = await replayer.replay(ask(owner=owner))
    return timed.figures(found.events_applied)


def _checked(site: Site) -> tuple[list[str], int]:
    """Whose lookups are checked, and at which moment."""
    return Random(11).sample(owners(site), CHECKED), (site.meta.first_us * 2 + site.meta.last_us) // 3  # noqa: S311  # as above


# What the archive costs


async def sizes(site: Site) -> Figures:
    """Bytes on disk, by what they are for."""
    told = {"segments": 0, "locator": 0, "snapshots": 0, "tail": 0, "index, the rest": 0, "free pages": 0}
    for path in site.full.rglob("*"):
        if path.suffix == ".parquet":
            told["segments"] += path.stat().st_size
        elif path.name == "index.db":
            connection = sqlite3.connect(path)
            for name, size in connection.execute("SELECT name, sum(pgsize) FROM dbstat GROUP BY name"):
                told[_purpose(name)] += size
            pages, page = connection.execute("PRAGMA freelist_count").fetchone()[0], connection.execute("PRAGMA page_size").fetchone()[0]
            told["free pages"] += pages * page
            connection.close()
    async with open_archive(site.full) as archive:
        status = archive.keeper.status(CATALOGUE.partitions(topic.base for topic in CATALOGUE.topics))
    records, sealed = sum(one.records for one in status), sum(one.records - one.tail_records for one in status)
    assert records == site.meta.count, (records, site.meta.count)
    told["raw"] = sum(one.raw_bytes for one in status)
    per = {"segments": sealed, "locator": sealed, "snapshots": sealed, "index, the rest": sealed, "free pages": sealed, "raw": records}
    return {
        "events": records, "wall_s": 0.0, "cpu_s": 0.0, "files": sum(one.segments for one in status), "sealed": sealed, "bytes": told,
        "bytes_per_event": {name: told[name] / count for name, count in per.items()},
    }  # fmt: skip


def _purpose(table: str) -> str:
    for part, purpose in (("loc", "locator"), ("snap", "snapshots"), ("sqlite_autoindex_snap", "snapshots"), ("tail", "tail")):
        if table.startswith(part):
            return purpose
    return "index, the rest"


async def seal(site: Site) -> Figures:
    """One partition of task events: into the tail, sealed, and its index made anew from the file."""
    records = list(islice(_of_partition(site, TopicPartition(CATALOGUE[TASK_TOPIC].name, 0)), SEALED))
    partition = TopicPartition(CATALOGUE[TASK_TOPIC].name, 0)
    with tempfile.TemporaryDirectory(dir=site.folder) as folder:
        async with open_archive(Path(folder)) as archive:
            follower = follower_of(archive, NEVER)
            await follower.positions([partition])
            with Timed() as appended:
                for start in range(0, len(records), BATCH):
                    follower.apply(batch_of(partition, records[start : start + BATCH], start))
                    if start % (BATCH * 10) == 0:
                        await follower.flush()
                await follower.flush()
            with Timed() as sealed:
                made = await asyncio.to_thread(archive.keeper.seal, partition)
            assert made is not None
            assert made.records == len(records)
            with Timed() as rebuilt:
                again = await asyncio.to_thread(archive.keeper.rebuild, partition)
            assert [one.digest for one in again] == [made.digest]
    return sealed.figures(len(records), append_s=appended.wall_s, rebuild_s=rebuilt.wall_s)


def _of_partition(site: Site, partition: TopicPartition) -> Iterator[Wire]:
    for some in History(site.meta.count, CATALOGUE, site.meta.agents).rounds():
        yield from some.get(partition, ())
