"""The archive gives back what the log had, however it was flushed, sealed and opened again."""

from __future__ import annotations

import tempfile
from functools import partial
from operator import eq
from pathlib import Path
from random import Random

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.archiving import (
    ALL,
    all_findings,
    all_rows,
    archive_in,
    cells,
    first_copies,
    following,
    full_fold,
    owners_of,
    raw,
)
from tests.unit.replay_histories import CATALOGUE, Log, batch_of, cuts, random_log

from tallyroll.archive.opening import OpenArchive
from tallyroll.events.batch import Batch
from tallyroll.replay.columnar import project
from tallyroll.replay.partition import PartitionFold
from tallyroll.replay.reading import owner_key
from tallyroll.replay.selection import take_rows
from tallyroll.replay.snapshots import is_sound
from tallyroll.replay.unfolded import noted
from tallyroll.replay.views import FOLD


async def archive_at_random(folder: Path, rng: Random, log: Log) -> None:
    """Random batches, flushes, seals, and ends of the process that lose what was not flushed."""
    batches, last = cuts(rng, log), None
    while batches:
        with archive_in(folder) as archive:
            follower = await following(archive, log)
            stored = await follower.positions(list(log))
            for batch in batches:
                fresh = batch.since(stored.get(batch.topic_partition, 0))
                if fresh is not None:
                    follower.apply(fresh)
                if (dice := rng.random()) < 0.2:
                    await follower.flush()
                elif dice < 0.3:
                    archive.keeper.seal(batch.topic_partition)
                elif dice < 0.33 and last is not batch:
                    last = batch
                    break
            else:
                await follower.flush()
                batches = []


def holds(archive: OpenArchive, log: Log) -> None:
    """Everything that the archive promises about a log that it has as a whole."""
    for partition, values in log.items():
        if values:
            whole = batch_of(partition, values)
            assert raw(list(archive.reader.records(partition, 0, ALL))) == raw([whole])
            rows_hold(archive, whole)
            snapshots_hold(archive, whole)
            found = [one for one in archive.reader.findings(partition, 0, ALL) if noted(one) is None]
            assert sorted(found) == sorted(all_findings(whole))
            assert archive.keeper.verify(partition) == []


def rows_hold(archive: OpenArchive, whole: Batch) -> None:
    partition, expected = whole.topic_partition, first_copies(whole)
    assert cells(all_rows(archive, partition, whole=True)) == cells(expected)
    for key, indexes in owners_of(expected).items():
        found = archive.reader.owner_rows(partition, key, 0, ALL, whole=True)
        assert cells(found) == cells(expected, indexes)
    for segment in archive.reader.segments(partition):
        rows = all_rows(archive, partition, segment.base, segment.next)
        if rows is not None:
            agent_by_agent_holds(archive, partition, segment, rows)
        if segment.projection and rows is not None:
            columns_hold(archive, partition, segment, rows)


def agent_by_agent_holds(archive, partition, segment, rows) -> None:
    by_agent = sorted(range(len(rows)), key=lambda index: (rows.agents[index] or "", rows.offsets[index]))
    assert cells(all_rows(archive, partition, segment.base, segment.next, by_agent=True)) == cells(rows, by_agent)
    for chosen in (rows.agents[0], "nobody is called this"):
        mine = [index for index in by_agent if rows.agents[index] == chosen]
        found = all_rows(archive, partition, segment.base, segment.next, by_agent=True, agents=partial(eq, chosen))
        assert cells(found) == cells(rows, mine)


def columns_hold(archive, partition, segment, rows) -> None:
    def shown(column):
        if hasattr(column, "words"):
            return [column.words[code] if code >= 0 else None for code in column.codes.tolist()]
        return [value if valid else None for value, valid in zip(column.values.tolist(), column.valid.tolist(), strict=True)]

    # Agent by agent, nobody first.
    by_agent = sorted(range(len(rows)), key=lambda index: (rows.agents[index] or "", rows.offsets[index]))
    expected = project(FOLD, CATALOGUE.named(partition.topic).base, take_rows(rows, by_agent))
    assert expected is not None
    got = archive.reader.columns(partition, segment, expected.values.keys())
    assert got.offsets.tolist() == expected.offsets.tolist()
    assert got.times_us.tolist() == expected.times_us.tolist()
    for name in ("types", "agents", "aggregates"):
        assert shown(getattr(got, name)) == shown(getattr(expected, name))
    assert {name: shown(column) for name, column in got.values.items()} == {name: shown(column) for name, column in expected.values.items()}
    bare = archive.reader.columns(partition, segment, (), aggregates=False)
    assert (shown(bare.agents), shown(bare.aggregates)) == (shown(expected.agents), [None] * len(rows))


decode = msgspec.json.decode  # parts are equal whatever order their maps are in


def snapshots_hold(archive: OpenArchive, whole: Batch) -> None:
    """The newest snapshot and the rows behind it come to what everything comes to; and all snapshots do, at their end."""
    partition, base = whole.topic_partition, CATALOGUE.named(whole.topic).base
    full = full_fold(whole)
    for number, view in enumerate(FOLD.views):
        if base not in view.topics:
            continue
        reducer_id = FOLD.reducer_ids[view.name]
        for owner, part in full.parts(number).items():
            kept = list(archive.reader.parts(partition, view.name, reducer_id, end=ALL, owner=owner))
            assert all(map(is_sound, kept))
            assert [one.end for one in kept] == sorted({one.end for one in kept}, reverse=True)
            for newest in [*kept, None]:
                ours = PartitionFold(FOLD, whole.topic, base, whole.partition, view=number, owner=owner)
                if newest is not None:
                    ours.restore(number, owner, newest.part)
                rows = archive.reader.owner_rows(partition, owner_key(view, owner), newest.end if newest else 0, ALL)
                if rows is not None:
                    ours.apply_rows(rows)
                assert decode(ours.parts(number)[owner].dump()) == decode(part.dump())
        newest_of_all = {one.owner: one for one in archive.reader.parts(partition, view.name, reducer_id, end=ALL)}
        segments = archive.reader.segments(partition)
        if segments:
            at_seal = full_fold(b) if (b := whole.slice(0, segments[-1].next)) else None
            parts = {owner: decode(part.dump()) for owner, part in at_seal.parts(number).items() if part.version}
            assert {owner: decode(one.part) for owner, one in newest_of_all.items()} == parts


@settings(max_examples=12, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32), count=st.integers(0, 150))
@pytest.mark.slow
async def test_any_log_comes_back_as_it_was(seed: int, count: int) -> None:
    rng = Random(seed)  # noqa: S311  # a fixed history
    log = random_log(rng, count)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        await archive_at_random(folder, rng, log)
        with archive_in(folder) as archive:
            holds(archive, log)
            archive.keeper.seal_all(list(log))
            holds(archive, log)
        with archive_in(folder) as archive:
            before = {partition: archive.reader.segments(partition) for partition in log}
            for partition, segments in before.items():
                if segments:
                    mark = archive.reader.marks([partition])
                    assert archive.keeper.rebuild(partition) == segments
                    assert archive.reader.marks([partition]) == mark
            holds(archive, log)


async def test_a_part_of_the_rows_is_the_rows_that_pass(tmp_path: Path) -> None:
    rng = Random(5)  # noqa: S311  # a fixed history
    log = random_log(rng, 300)
    await archive_at_random(tmp_path, rng, log)
    with archive_in(tmp_path) as archive:
        for partition, values in log.items():
            every = cells(all_rows(archive, partition, whole=True))
            for _ in range(20):
                start, end = sorted((rng.randint(0, len(values)), rng.randint(0, len(values))))
                types = set(rng.sample(sorted({row[2] for row in every}), 2)) if len({row[2] for row in every}) > 1 else None
                until_us = rng.choice([None, *(row[1] for row in every)])
                expected = [
                    row
                    for row in every
                    if start <= row[0] < end and (types is None or row[2] in types) and (until_us is None or row[1] <= until_us)
                ]
                assert cells(all_rows(archive, partition, start, end, types=types, until_us=until_us, whole=True)) == expected
                key = rng.choice(list(owners_of(all_rows(archive, partition))) or ["@nobody"])
                found = archive.reader.owner_rows(partition, key, start, end, until_us=until_us, whole=True)
                mine = [
                    row
                    for row in every
                    if start <= row[0] < end and (until_us is None or row[1] <= until_us) and key in (row[4].key, f"@{row[6]}")
                ]
                assert cells(found) == mine


@pytest.mark.parametrize("change", ["byte", "dropped", "swapped", "doubled"])
async def test_a_log_that_is_not_what_was_archived_is_told_from_it(tmp_path: Path, change: str) -> None:
    log = random_log(Random(3), 60)  # noqa: S311  # a fixed history
    await archive_at_random(tmp_path, Random(3), log)  # noqa: S311  # a fixed history
    partition = max(log, key=lambda one: len(log[one]))
    values = list(log[partition])
    at = next(index for index in range(len(values) - 1) if values[index] and values[index] != values[index + 1])
    if change == "byte":
        values[at] = values[at][:-1] + b" "
    elif change == "dropped":
        del values[at]
    elif change == "swapped":
        values[at : at + 2] = reversed(values[at : at + 2])
    else:
        values.insert(at, values[at])
    with archive_in(tmp_path) as archive:
        holds(archive, log)
        with pytest.raises(AssertionError):
            holds(archive, {**log, partition: values})
