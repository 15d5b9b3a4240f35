"""The archive at its edges: odd records, damaged files, full disks, second writers, lost history."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

import msgspec
import pyarrow.parquet as pq
import pytest
from tests.unit.archiving import ALL, CodecBeforePieces, all_rows, archive_in, archived, cells, files_in, following, full_fold, raw
from tests.unit.replay_histories import CATALOGUE, Publisher, ReadOnlyLog, batch_of, empty_log, event, random_log

from tallyroll.adapters.parquet.codec import ParquetCodec
from tallyroll.adapters.system.segment_files import LocalSegmentFiles
from tallyroll.archive.sealing import SealLimits
from tallyroll.archive.segment import PIECE_ROWS
from tallyroll.errors import PositionConflict, SegmentDamaged, SpanGone, StoreUnavailable
from tallyroll.events.batch import Batch
from tallyroll.events.codec import HEADERS
from tallyroll.events.position import TopicPartition
from tallyroll.ports import Span
from tallyroll.replay.fold import Fold
from tallyroll.replay.unfolded import noted
from tallyroll.replay.views import AGENT, FOLD, TASK, WORKFLOW
from tallyroll.telemetry import (
    ARCHIVE_HEADROOM,
    ARCHIVE_SEAL_FAILURES,
    ARCHIVE_SEALED,
    ARCHIVE_UNARCHIVED,
    ARCHIVED,
    Counters,
)
from tallyroll.testing.clock import FakeClock

TASKS = TopicPartition("task-events", 0)
SYSTEM = TopicPartition("system-events", 0)


def one_agent(count: int, *, tasks: int = 1) -> tuple[TopicPartition, list[bytes]]:
    """Events of one agent's tasks, all in one partition."""
    publisher = Publisher("p")
    place = CATALOGUE.place("tool.invoked", b"task:t-0")
    names = [name for number in range(100) if CATALOGUE.place("tool.invoked", (name := f"task:t-{number}").encode()) == place]
    made = [
        publisher.record(event("tool.invoked", names[number % tasks], {"agent_id": "a-1", "tool_name": "t", "tokens": number}, at_s=number))
        for number in range(count)
    ]
    return place, [value for _, value in made]


async def test_nothing_is_archived_and_nothing_is_sealed_of_an_empty_log(tmp_path: Path) -> None:
    with archive_in(tmp_path) as archive:
        follower = await following(archive, empty_log())
        assert await follower.flush() == {}
        assert archive.keeper.seal(TASKS) is None
        assert archive.reader.marks([TASKS]) == {}
        assert (list(archive.reader.segments(TASKS)), list(archive.reader.rows(TASKS, 0, ALL))) == ([], [])
        assert list(archive.reader.records(TASKS, 0, ALL)) == list(archive.reader.findings(TASKS, 0, ALL)) == []
        assert archive.reader.owner_rows(TASKS, "@a-1", 0, ALL) is None
        assert archive.keeper.status([TASKS]) == []
    assert not any(tmp_path.iterdir())  # noqa: ASYNC240  # nobody waits


async def test_one_record_makes_a_segment(tmp_path: Path) -> None:
    place, values = one_agent(1)
    with archive_in(tmp_path) as archive:
        await archived(archive, {place: values})
        [segment] = archive.reader.segments(place)
        assert (segment.base, segment.next, segment.records) == (0, 1, 1)
        assert archive.keeper.seal(place) is None
        assert len(archive.reader.owner_rows(place, "@a-1", 0, ALL)) == 1


async def test_records_that_are_no_events_come_back_as_they_were(tmp_path: Path) -> None:
    payload = b'{"specversion":"1.0","id":"%d","source":"s","type":"task.started","subject":"task:t","time":"2026-01-01T00:00:00Z"%s}'
    values = [
        None,
        b"",
        b"\xff\x00",
        payload % (1, b',"data":{"agent_id":"a-1","x":"\xff"}'),
        payload % (2, b""),
        payload % (3, b',"data": { "agent_id" : "a-1" } ,"sequence":"99999999999999999999"'),
        payload % (4, b',"userid":7,"data":[1]'),
        (payload % (5, b',"data":{}')).replace(b"2026", b"soon"),
        payload % (6, b',"data":{"agent_id":"a:b"},"aggregatetype":"x:y","aggregateid":"z:1"'),
    ]
    count = len(values)
    batch = Batch(
        *TASKS,
        offsets=[3, 4, 5, 9, 10, 11, 12, 13, 40],
        keys=[None, b"", b"task:t", b"task:t", None, b"other", b"task:t", b"task:t", b"x:y:z:1"],
        values=values,
        timestamps_ms=range(-1, count - 1),
        headers=[HEADERS, [], [("a", None)], [("a", b""), ("a", b"\xff")], HEADERS, HEADERS, HEADERS, HEADERS, HEADERS],
    )
    with archive_in(tmp_path) as archive:
        follower = await following(archive, {TASKS: []})
        follower.apply(batch)
        await follower.flush()
        tail = (raw(list(archive.reader.records(TASKS, 0, ALL))), cells(all_rows(archive, TASKS, whole=True)))
        assert tail[0] == raw([batch])
        assert [row[0] for row in tail[1]] == [9, 10, 11, 12, 40]
        assert [row[6] for row in tail[1]] == ["a-1", None, "a-1", None, "a:b"]
        archive.keeper.seal(TASKS)
        assert (raw(list(archive.reader.records(TASKS, 0, ALL))), cells(all_rows(archive, TASKS, whole=True))) == tail
        assert archive.reader.segments(TASKS)[0].projection == ""
        found = archive.reader.findings(TASKS, 0, ALL)
        assert [one.reason for one in found if noted(one) is None] == ["empty", "empty", "not_json", "bad_time"]
        assert archive.keeper.verify(TASKS) == []


async def test_the_run_of_an_owner_crosses_row_groups(tmp_path: Path) -> None:
    place, values = one_agent(9_000)
    with archive_in(tmp_path) as archive:
        await archived(archive, {place: values})
        found = archive.reader.owner_rows(place, "task:t-0", 4_000, 8_500)
        assert list(found.offsets) == list(range(4_000, 8_500))
        assert list(archive.reader.owner_rows(place, "@a-1", 0, ALL).offsets) == list(range(9_000))
        assert sum(len(batch) for batch in archive.reader.records(place, 0, ALL)) == 9_000


@pytest.mark.parametrize("damage", ["byte", "truncated", "deleted", "emptied", "other"])
async def test_a_damaged_file_is_told_and_no_answer_is_made_of_the_rest(tmp_path: Path, damage: str) -> None:
    place, values = one_agent(400, tasks=20)
    with archive_in(tmp_path) as archive:
        await archived(archive, {place: values[:200]})
        follower = await following(archive, {place: values})
        follower.apply(batch_of(place, values[200:], 200))
        await follower.flush()
        archive.keeper.seal(place)
        first, second = archive.reader.segments(place)
    path = files_in(tmp_path, place) / first.name
    content = path.read_bytes()
    if damage == "byte":
        at = content.index(b"PAR1") + len(content) // 3
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    elif damage == "truncated":
        path.write_bytes(content[:-10])
    elif damage == "deleted":
        path.unlink()
    elif damage == "emptied":
        path.write_bytes(b"")
    else:
        path.write_bytes((files_in(tmp_path, place) / second.name).read_bytes())
    with archive_in(tmp_path) as archive:
        assert [one.segment for one in archive.keeper.verify(place)] == [first.name]
        with pytest.raises(SegmentDamaged, match=first.name):
            list(archive.reader.records(place, 0, ALL))
        with pytest.raises(SegmentDamaged):
            archive.keeper.rebuild(place)
        assert len(all_rows(archive, place, 200)) == len(values) - 200


async def test_every_flipped_byte_is_noticed_or_changes_nothing(tmp_path: Path) -> None:
    place, values = one_agent(30)
    with archive_in(tmp_path) as archive:
        await archived(archive, {place: values})
        [segment] = archive.reader.segments(place)
        expected = raw(list(archive.reader.records(place, 0, ALL)))
    path = files_in(tmp_path, place) / segment.name
    content = path.read_bytes()
    noticed = 0
    for at in Random(1).sample(range(len(content)), 150):  # noqa: S311  # a fixed history
        path.write_bytes(content[:at] + bytes([content[at] ^ 64]) + content[at + 1 :])
        with archive_in(tmp_path) as archive:
            if archive.keeper.verify(place):
                noticed += 1
            else:
                assert raw(list(archive.reader.records(place, 0, ALL))) == expected
    assert noticed > 20


class FullDisk(LocalSegmentFiles):
    """A folder whose disk is full for some time."""

    full = True

    def put(self, name: str, content: bytes) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        super().put(name, content)


async def test_a_full_disk_leaves_everything_in_the_tail_until_there_is_room(tmp_path: Path) -> None:
    place, values = one_agent(50)
    files = FullDisk(files_in(tmp_path, place))
    counters, clock = Counters(), FakeClock()
    with archive_in(tmp_path, open_files=lambda _: files, clock=clock) as archive:
        follower = archive.follower(ReadOnlyLog({place: values}), limits=SealLimits(records=10), telemetry=counters)
        await follower.positions([place])
        follower.apply(batch_of(place, values[:40]))
        assert await follower.flush() == {place: 40}
        await follower.sealed()
        with pytest.raises(StoreUnavailable, match="No space left"):
            archive.keeper.seal(place)
        assert (list(archive.reader.segments(place)), counters.value(ARCHIVE_SEAL_FAILURES)) == ([], 1)
        files.full = False
        follower.apply(batch_of(place, values[40:], 40))
        assert await follower.flush() == {place: 50}
        await clock.until_asleep()
        clock.advance(30)
        await follower.sealed()
        assert [one.records for one in archive.reader.segments(place)] == [50]
        assert (counters.value(ARCHIVED), counters.value(ARCHIVE_SEALED)) == (50, 1)
        assert raw(list(archive.reader.records(place, 0, ALL))) == raw([batch_of(place, values)])


async def test_two_followers_fence_each_other(tmp_path: Path) -> None:
    place, values = one_agent(20)
    with archive_in(tmp_path) as one, archive_in(tmp_path) as other:
        first, second = await following(one, {place: values}), await following(other, {place: values})
        first.apply(batch_of(place, values[:10]))
        second.apply(batch_of(place, values[:15]))
        await first.flush()
        with pytest.raises(PositionConflict):
            await second.flush()
        assert await second.positions([place]) == {place: 10}
        second.apply(batch_of(place, values[10:], 10))
        assert await second.flush() == {place: 20}
        assert raw(list(one.reader.records(place, 0, ALL))) == raw([batch_of(place, values)])


async def test_what_is_written_before_another_partition_fails_counts(tmp_path: Path) -> None:
    place, values = one_agent(20)
    before, behind = TopicPartition(place.topic, 0), TopicPartition(place.topic, 1)
    log = {before: values, behind: values, SYSTEM: values}
    with archive_in(tmp_path) as one, archive_in(tmp_path) as other:
        first, second = await following(one, log), await following(other, {behind: values})
        for partition in log:
            first.apply(batch_of(partition, values))
        second.apply(batch_of(behind, values[:5]))
        await second.flush()
        with pytest.raises(PositionConflict):
            await first.flush()
        assert await first.stored(list(log)) == {before: 20, behind: 5}
        assert await first.positions([behind]) == {behind: 5}
        first.apply(batch_of(behind, values[5:], 5))
        assert await first.flush() == dict.fromkeys(log, 20)
        assert raw(list(one.reader.records(before, 0, ALL))) == raw([batch_of(before, values)])


async def test_the_archive_is_flushed_once_a_second_unless_much_waits(tmp_path: Path) -> None:
    place, values = one_agent(20)
    clock = FakeClock()
    with archive_in(tmp_path, clock=clock) as archive:
        follower = await following(archive, {place: values * 1_000})
        assert follower.wants_flush(interval_over=True)
        follower.apply(batch_of(place, values))
        await follower.flush()
        clock.advance(0.9)
        assert not follower.wants_flush(interval_over=True)
        clock.advance(0.1)
        assert follower.wants_flush(interval_over=True)
        assert not follower.wants_flush(interval_over=False)
        await follower.flush()
        follower.apply(batch_of(place, values * 500, 20))
        assert follower.wants_flush(interval_over=True)


async def test_of_two_sealers_one_wins_and_the_files_of_the_other_are_no_loss(tmp_path: Path) -> None:
    place, values = one_agent(20)
    with archive_in(tmp_path) as winner:
        await archived(winner, {place: values}, seal=False)

        def overtake(point: str) -> None:
            if point == "before commit":
                winner.keeper.seal(place)

        with archive_in(tmp_path, fault=overtake) as loser, pytest.raises(PositionConflict):
            loser.keeper.seal(place)
        assert winner.keeper.verify(place) == []
        assert raw(list(winner.reader.records(place, 0, ALL))) == raw([batch_of(place, values)])


@pytest.mark.parametrize("when", ["file put", "before commit"])
async def test_a_file_that_somebody_swept_before_the_commit_is_not_taken_in(tmp_path: Path, when: str) -> None:
    place, values = one_agent(20)
    times = iter([True, True])

    def sweep(point: str) -> None:
        if point == when and next(times, False):
            for path in files_in(tmp_path, place).iterdir():
                path.unlink()

    with archive_in(tmp_path, fault=sweep) as archive:
        await archived(archive, {place: values}, seal=False)
        with pytest.raises(PositionConflict):
            archive.keeper.seal(place)
        assert raw(list(archive.reader.records(place, 0, ALL))) == raw([batch_of(place, values)])
        sealed = archive.keeper.seal_all([place])[place]  # who seals everything tries again
        assert (sealed.base, sealed.next) == (0, 20)
        assert archive.keeper.verify(place) == []


async def test_what_retention_took_stops_the_follower_until_the_loss_is_accepted(tmp_path: Path) -> None:
    place, values = one_agent(30)
    with archive_in(tmp_path) as archive:
        await archived(archive, {place: values[:10]}, seal=False)
        cut = ReadOnlyLog({place: values}, removed={place: 15})
        follower = archive.follower(cut)
        with pytest.raises(SpanGone):
            await follower.positions([place])
        with pytest.raises(ValueError, match="archived up to 10"):
            archive.keeper.accept_hole(place, 10)
        assert archive.keeper.accept_hole(place, 15) == Span(*place, 10, 15)
        assert await follower.positions([place]) == {place: 15}
        follower.apply(batch_of(place, values[15:], 15))
        await follower.flush()
        archive.keeper.seal(place)
        mark = archive.reader.marks([place])[place]
        assert (mark.holes, mark.sealed) == ((Span(*place, 10, 15),), 30)
        assert [(one.base, one.next) for one in archive.reader.segments(place)] == [(0, 10), (15, 30)]
        assert archive.keeper.rebuild(place) == archive.reader.segments(place)
        assert archive.reader.marks([place])[place] == mark
        assert archive.keeper.verify(place) == []


async def test_a_jump_of_offsets_is_a_loss_only_where_the_log_starts_behind_it(tmp_path: Path) -> None:
    place, values = one_agent(30)
    with archive_in(tmp_path) as archive:
        log = ReadOnlyLog({place: values})
        follower = archive.follower(log)
        await follower.positions([place])
        follower.apply(batch_of(place, values[:10]))
        follower.apply(batch_of(place, values[12:15], 12))
        assert await follower.flush() == {place: 15}
        log.removed[place] = 20
        follower.apply(batch_of(place, values[20:], 20))
        with pytest.raises(SpanGone):
            await follower.flush()
        assert archive.reader.marks([place])[place].next == 15


async def test_a_log_whose_start_is_gone_is_archived_from_there(tmp_path: Path) -> None:
    place, values = one_agent(30)
    with archive_in(tmp_path) as archive:
        follower = await following(archive, {place: values}, removed={place: 12})
        follower.apply(batch_of(place, values[12:], 12))
        await follower.flush()
        assert archive.reader.marks([place])[place].first == 12


async def test_a_tail_is_sealed_when_it_is_long_or_large(tmp_path: Path) -> None:
    place, values = one_agent(12)
    for number, limits in enumerate((SealLimits(records=10), SealLimits(raw_bytes=5_000))):
        with archive_in(tmp_path / str(number)) as archive:
            follower = await following(archive, {place: values}, limits=limits)
            follower.apply(batch_of(place, values[:1]))
            await follower.flush()
            assert list(archive.reader.segments(place)) == []
            follower.apply(batch_of(place, values[1:], 1))
            await follower.flush()
            await follower.sealed()
            assert [one.records for one in archive.reader.segments(place)] == [12]


async def test_a_tail_is_sealed_when_it_is_old_also_if_nothing_follows(tmp_path: Path) -> None:
    place, values = one_agent(12)
    clock = FakeClock()
    with archive_in(tmp_path, clock=clock) as archive:
        follower = await following(archive, {place: values}, limits=SealLimits())
        follower.apply(batch_of(place, values[:1]))
        await follower.flush()
        await clock.until_asleep()
        clock.advance(6 * 3_600 - 1)
        await follower.sealed()
        assert list(archive.reader.segments(place)) == []
        clock.advance(1)
        await follower.sealed()
        assert [one.records for one in archive.reader.segments(place)] == [1]
        follower.apply(batch_of(place, values[1:], 1))
        await follower.flush()
        await follower.sealed()
        assert [one.records for one in archive.reader.segments(place)] == [1], "what has just come is not old"


async def test_another_reducer_gets_snapshots_of_the_whole_history(tmp_path: Path) -> None:
    log = random_log(Random(8), 400)  # noqa: S311  # a fixed history
    other = Fold([replace(AGENT, version=2), *FOLD.views[1:]], FOLD.schemas)
    for fold, part in ((FOLD, slice(0, 15)), (other, slice(15, 30)), (FOLD, slice(30, None))):
        with archive_in(tmp_path, fold=fold) as archive:
            follower = await following(archive, log)
            for place, values in log.items():
                start = part.start
                if values[part]:
                    follower.apply(batch_of(place, values[part], start))
            await follower.flush()
            archive.keeper.seal_all(list(log))
            compared = [
                _snapshots_are_of_everything(archive, place, values[: part.stop], fold) for place, values in log.items() if values[part]
            ]
            assert sum(compared) > 10


def _snapshots_are_of_everything(archive, place, values: Sequence[bytes], fold: Fold) -> int:
    """How many snapshots were compared."""

    whole, compared = full_fold(batch_of(place, values), fold=fold), 0
    for number, view in enumerate(fold.views):
        if CATALOGUE.named(place.topic).base in view.topics:
            parts = {owner: msgspec.json.decode(part.dump()) for owner, part in whole.parts(number).items()}
            kept = list(archive.reader.parts(place, view.name, fold.reducer_ids[view.name], end=ALL))
            ours = {one.owner: msgspec.json.decode(one.part) for one in kept if one.end == len(values)}
            assert all(parts[owner] == part for owner, part in ours.items())
            compared += len(ours)
    return compared


async def test_a_damaged_snapshot_is_made_anew_from_the_events(tmp_path: Path) -> None:
    place, values = one_agent(60, tasks=3)
    with archive_in(tmp_path) as archive:
        await archived(archive, {place: values[:30]})
    with sqlite3.connect(tmp_path / place.topic / str(place.partition) / "index.db") as index:
        index.execute("UPDATE snap SET part = x'00'")
    index.close()
    with archive_in(tmp_path) as archive:
        follower = await following(archive, {place: values})
        follower.apply(batch_of(place, values[30:], 30))
        await follower.flush()
        archive.keeper.seal(place)
        assert _snapshots_are_of_everything(archive, place, values, FOLD) == 4


async def test_reprojecting_changes_columns_and_no_record(tmp_path: Path) -> None:
    place, values = one_agent(40)
    narrow = Fold([WORKFLOW, replace(TASK, fields={"tokens": TASK.fields["tokens"]})], FOLD.schemas)
    with archive_in(tmp_path, fold=narrow) as archive:
        await archived(archive, {place: values})
        [old] = archive.reader.segments(place)
    with archive_in(tmp_path) as archive:
        before = cells(all_rows(archive, place, whole=True))
        [new] = archive.keeper.reproject(place)
        assert (new.digest, new.base, new.next) == (old.digest, old.base, old.next)
        assert new.projection not in ("", old.projection)
        assert list(archive.reader.segments(place)) == [new]
        assert cells(all_rows(archive, place, whole=True)) == before
        assert "tokens" in archive.reader.columns(place, new, ["tokens"]).values
        assert archive.keeper.reproject(place) == []
        assert [path.name for path in files_in(tmp_path, place).iterdir()] == [new.name]
        assert archive.keeper.rebuild(place)[0].name == new.name


async def test_files_from_before_look_ups_had_columns_are_read_and_rewritten(tmp_path: Path) -> None:
    place, values = one_agent(700, tasks=3)
    with archive_in(tmp_path, codec=CodecBeforePieces()) as archive:
        await archived(archive, {place: values})
        [old] = archive.reader.segments(place)
        assert not ParquetCodec().open(LocalSegmentFiles(files_in(tmp_path, place)).open(old.name)).has_pieces
    with archive_in(tmp_path) as archive:
        before = archive.reader.owner_rows(place, "@a-1", 100, 650)
        assert archive.keeper.rebuild(place)[0].name == old.name
        [new] = archive.keeper.reproject(place)
        assert (new.digest, new.projection) == (old.digest, old.projection)
        assert ParquetCodec().open(LocalSegmentFiles(files_in(tmp_path, place)).open(new.name)).has_pieces
        after = archive.reader.owner_rows(place, "@a-1", 100, 650)
        assert before is not None
        assert after is not None
        assert cells(before) == cells(after)
        assert len(after) == 550
        assert archive.keeper.reproject(place) == []


async def test_a_look_up_of_a_few_rows_reads_their_pieces_only(tmp_path: Path) -> None:
    place = CATALOGUE.place("agent.started", b"agent:a-0")
    publisher, names = Publisher("p"), [f"a-{number}" for number in range(2_000)]
    owners = [name for name in names if CATALOGUE.place("agent.started", f"agent:{name}".encode()) == place]
    events = [event("agent.started", f"agent:{name}", {"agent_type": "t"}, at_s=number) for number in range(20) for name in owners]
    log = {place: [value for _, value in map(publisher.record, events)]}
    with archive_in(tmp_path) as archive:
        await archived(archive, log)
        [segment] = archive.reader.segments(place)
    file = files_in(tmp_path, place) / segment.name
    content = file.read_bytes()
    # Every piece but the first is overwritten, and so is the first group's data; one owner's rows still come.
    start, rows, _, lengths, *_ = msgspec.json.decode(pq.read_metadata(file).metadata[b"pieces"])
    assert (rows, len(lengths) > 10) == (PIECE_ROWS, True)
    file.write_bytes(
        content[:4]
        + bytes(start + lengths[0] - 4 - lengths[0])
        + content[start : start + lengths[0]]
        + bytes(sum(lengths[1:]))
        + content[start + sum(lengths) :]
    )
    with archive_in(tmp_path) as archive:
        found = archive.reader.owner_rows(place, f"@{min(owners)}", 0, ALL)
        assert found is not None
        assert len(found) == 20
        with pytest.raises(SegmentDamaged, match="a piece is not what was written"):
            archive.reader.owner_rows(place, f"@{max(owners)}", 0, ALL)
        assert [one.segment for one in archive.keeper.verify(place)] == [segment.name]


async def test_a_corrupt_index_says_what_to_run_and_rebuild_mends_it(tmp_path: Path) -> None:
    place, values = one_agent(40)
    with archive_in(tmp_path) as archive:
        await archived(archive, {place: values})
        segments = archive.reader.segments(place)
    path = tmp_path / place.topic / str(place.partition) / "index.db"
    path.write_bytes(b"garbage" * 1_000)
    with archive_in(tmp_path) as archive:
        with pytest.raises(StoreUnavailable, match="tallyroll archive rebuild"):
            archive.reader.marks([place])
        assert archive.keeper.rebuild(place) == segments
        assert len(all_rows(archive, place)) == 40
        assert path.with_name("index.db.aside").read_bytes().startswith(b"garbage")


async def test_gauges_tell_what_is_behind_and_for_how_long_the_log_has_it(tmp_path: Path) -> None:
    place, values = one_agent(30)
    counters = Counters()
    with archive_in(tmp_path) as archive:
        follower = archive.follower(ReadOnlyLog({place: values}), telemetry=counters)
        await follower.positions([place])
        clock_ms = FakeClock().now_us() // 1_000
        follower.apply(Batch(*place, offsets=[0], keys=[None], values=values[:1], timestamps_ms=[clock_ms - 3_600_000]))
        await follower.flush()
        labels = {"topic": place.topic, "partition": str(place.partition)}
        assert counters.value(ARCHIVE_UNARCHIVED, **labels) == 29
        assert counters.value(ARCHIVE_HEADROOM, **labels) == (90 * 24 - 1) * 3_600
        [status] = archive.keeper.status([place], starts={place: 0}, ends={place: 30})
        assert (status.lag, status.headroom, status.tail_records, status.records) == (29, 1, 1, 1)
        follower.drop([place])
        gauges = {metric.name: rows for metric, rows in counters.readings() if metric in (ARCHIVE_UNARCHIVED, ARCHIVE_HEADROOM)}
        assert list(gauges.values()) == [[], []], "another member tells of the partition now"
