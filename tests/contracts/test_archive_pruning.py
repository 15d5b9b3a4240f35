"""An archive that was pruned answers what snapshots stand for as before, and refuses the rest; nothing is pruned unproven."""

from __future__ import annotations

import sqlite3
import tempfile
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tests.contracts.test_archive import archive_at_random
from tests.contracts.test_archive_edges import one_agent
from tests.unit.archiving import ALL, archive_in, archived, files_in, following, raw
from tests.unit.pruning import left_holds, prune_at_random, up_to
from tests.unit.replay_histories import CATALOGUE, Log, Publisher, ReadOnlyLog, batch_of, event, random_log

from tallyroll.adapters.sqlite.state_store import SqliteStateStore
from tallyroll.archive.opening import OpenArchive
from tallyroll.archive.pruning import older
from tallyroll.errors import PositionConflict, SegmentDamaged, SnapshotMismatch, SpanGone, UnknownSchema
from tallyroll.events.position import TopicPartition
from tallyroll.ports import Segment
from tallyroll.replay.fold import Fold
from tallyroll.replay.kinds import StateType
from tallyroll.replay.plan import ReplayMode, as_of_event_time, as_of_offsets
from tallyroll.replay.projector import StateProjector
from tallyroll.replay.replayer import Ask, Replayer
from tallyroll.replay.restore import Restored, fingerprint, replayed_fingerprint, restore
from tallyroll.replay.snapshots import checksum
from tallyroll.replay.verify import Verified, verify_sample
from tallyroll.replay.views import AGENT, FOLD, TASK
from tallyroll.testing.clock import T0, FakeClock

INCREMENTAL, POINT_IN_TIME = ReplayMode.INCREMENTAL, ReplayMode.POINT_IN_TIME


async def in_segments(archive: OpenArchive, place: TopicPartition, values: list[bytes], size: int, *, first: int = 0) -> None:
    """Some records of one partition, in segments of that size."""
    follower = await following(archive, {place: values})
    for start in range(first, len(values), size):
        follower.apply(batch_of(place, values[start : start + size], start))
        await follower.flush()
        archive.keeper.seal(place)


def replayer(archive: OpenArchive, log: Log) -> Replayer:
    """On a log that has forgotten everything."""
    removed = {place: len(values) for place, values in log.items()}
    return Replayer(ReadOnlyLog(log, removed=removed), CATALOGUE, clock=FakeClock(), archive=archive.reader)


@settings(max_examples=15, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32), count=st.integers(1, 150))
@example(seed=2060, count=97)  # a repeat and what follows it, once in one batch and once in two
@pytest.mark.slow
async def test_what_is_left_comes_to_what_everything_came_to(seed: int, count: int) -> None:
    rng = Random(seed)  # noqa: S311  # a fixed history
    log = random_log(rng, count)
    early = {place: values[: rng.randint(0, len(values))] for place, values in log.items()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        await archive_at_random(folder, rng, early)
        with archive_in(folder) as archive:
            prune_at_random(archive, rng, log)
            left_holds(archive, early)
        await archive_at_random(folder, rng, log)  # goes on from the snapshots
        with archive_in(folder) as archive:
            archive.keeper.seal_all(list(log))
            left_holds(archive, log)
            prune_at_random(archive, rng, log)  # and once more, from where the first one ended
            left_holds(archive, log)
            for place, mark in archive.reader.marks(list(log)).items():
                archive.keeper.rebuild(place)
                assert archive.reader.marks([place])[place] == mark
            left_holds(archive, log)


async def test_the_check_notices_a_snapshot_that_is_not_what_was_pruned(tmp_path: Path) -> None:
    place, values = one_agent(40, tasks=3)
    with archive_in(tmp_path) as archive:
        await in_segments(archive, place, values, 20)
        archive.pruner.prune(up_to(archive, place, 1))
        left_holds(archive, {place: values})
        with pytest.raises(AssertionError):
            left_holds(archive, {place: [values[1], *values[1:]]})


async def test_answers_rest_on_snapshots_or_are_refused(tmp_path: Path) -> None:
    place, values = one_agent(60, tasks=3)
    log = {place: values}
    with archive_in(tmp_path) as archive:
        await in_segments(archive, place, values, 20)
        ours = replayer(archive, log)
        before = await ours.replay(Ask(TASK))
        then = as_of_event_time(T0.replace(minute=0, second=45))
        at_45 = await ours.replay(Ask(TASK, mode=POINT_IN_TIME, target=then))
        archive.pruner.prune(up_to(archive, place, 2))

        found = await ours.replay(Ask(TASK, mode=INCREMENTAL))
        assert (found.states, found.coverage) == (before.states, "from_snapshot")
        alone = await ours.replay(Ask(AGENT, "a-1", INCREMENTAL))
        assert (alone.coverage, alone.states["a-1"]["version"]) == ("from_snapshot", 60)
        assert (await ours.replay(Ask(TASK, mode=POINT_IN_TIME, target=then))).states == at_45.states
        inside = as_of_event_time(T0.replace(minute=0, second=30))
        refused = [
            Ask(TASK),
            Ask(TASK, mode=INCREMENTAL, validate="chain"),
            Ask(TASK, mode=POINT_IN_TIME, target=as_of_offsets({place: 39})),
            Ask(TASK, mode=POINT_IN_TIME, target=inside),
            Ask(TASK, "t-0", POINT_IN_TIME, inside),
        ]
        for one in refused:
            with pytest.raises(SpanGone, match=r"pruned.*incrementally") as caught:
                await ours.replay(one)
            assert caught.value.missing[str(place)] in (39, 40)
        assert (await ours.replay(Ask(TASK, allow_truncated=True))).missing == {place: [(0, 40)]}


async def test_reducers_of_users_are_refused_where_their_events_are_gone(tmp_path: Path) -> None:
    place, values = one_agent(40)
    projector = StateProjector()
    projector.register_initializer(StateType.TASK_STATE, lambda _: {"n": 0})
    projector.register_projection(StateType.TASK_STATE, "tool.invoked", lambda state, _: {"n": state["n"] + 1})
    with archive_in(tmp_path) as archive:
        await in_segments(archive, place, values, 20)
        archive.pruner.prune(up_to(archive, place, 1))
        late = as_of_event_time(T0.replace(hour=1))
        for ask in (Ask(TASK), Ask(TASK, mode=POINT_IN_TIME, target=late)):
            with pytest.raises(SpanGone, match="pruned"):
                await replayer(archive, {place: values}).project(projector, ask)
        left = await replayer(archive, {place: values}).project(projector, Ask(TASK, allow_truncated=True))
        assert left.events == 20


async def test_a_reader_on_its_way_is_told_that_its_start_is_gone(tmp_path: Path) -> None:
    place, values = one_agent(60)
    with archive_in(tmp_path) as archive, archive_in(tmp_path) as operator:
        await in_segments(archive, place, values, 20)
        first = archive.reader.segments(place)[0]
        rows = archive.reader.rows(place, 0, ALL)
        assert len(next(rows)) == 20
        operator.pruner.prune(up_to(operator, place, 2))
        for one in (lambda: list(rows), lambda: archive.reader.owner_rows(place, "@a-1", 0, ALL)):
            with pytest.raises(SpanGone, match="pruned"):
                one()
    with archive_in(tmp_path) as archive, pytest.raises(SpanGone, match="pruned"):
        archive.reader.columns(place, first, ["tokens"])


@pytest.mark.parametrize("damage", ["bytes", "one missing", "not what the events come to", "another reducer"])
async def test_nothing_is_pruned_where_a_snapshot_is_not_there_and_valid(tmp_path: Path, damage: str) -> None:
    place, values = one_agent(40, tasks=3)
    other = Fold([replace(view, version=view.version + (view.name == "task")) for view in FOLD.views], FOLD.schemas)
    with archive_in(tmp_path) as archive:
        await in_segments(archive, place, values, 20)
    path = tmp_path / place.topic / str(place.partition) / "index.db"
    with sqlite3.connect(path) as index:
        if damage == "bytes":
            index.execute("UPDATE snap SET part = x'00' WHERE view = 'task'")
        elif damage == "one missing":
            index.execute("DELETE FROM snap WHERE view = 'task' AND owner = 't-0'")
    index.close()
    if damage == "not what the events come to":
        _swap_parts(path, place)
    with archive_in(tmp_path, fold=other if damage == "another reducer" else FOLD) as archive:
        wanted = up_to(archive, place, 2)
        for attempt in (archive.pruner.check, archive.pruner.prune):
            with pytest.raises(SnapshotMismatch, match="task at"):
                attempt(wanted)
        assert len(archive.reader.segments(place)) == len(list(files_in(tmp_path, place).iterdir())) == 2
        assert archive.reader.marks([place])[place].kept == 0
        archive.keeper.rebuild(place)  # makes them anew, as the advice says
        archive.pruner.prune(up_to(archive, place, 2))
        assert archive.reader.marks([place])[place].kept == 40


def _swap_parts(path: Path, place: TopicPartition) -> None:
    """Gives a task the last snapshot of another one, under a checksum of its own."""
    index = sqlite3.connect(path, isolation_level=None)
    [(part, until, reducer)] = index.execute("SELECT part, max(until), reducer_id FROM snap WHERE view = 'task' AND owner <> 't-0'")
    mine = index.execute("SELECT owner, until FROM snap WHERE view = 'task' AND owner <> 't-0'").fetchall()
    for owner, end in mine:
        made = checksum("task", owner, place, reducer, end, part)
        index.execute("UPDATE snap SET part = ?, checksum = ? WHERE view = 'task' AND owner = ? AND until = ?", (part, made, owner, end))
    index.close()
    assert until


async def test_a_damaged_segment_is_not_pruned(tmp_path: Path) -> None:
    place, values = one_agent(40)
    with archive_in(tmp_path) as archive:
        await in_segments(archive, place, values, 20)
        path = files_in(tmp_path, place) / archive.reader.segments(place)[0].name
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 3] + b"\xff" + content[len(content) // 3 + 1 :])
    with archive_in(tmp_path) as archive:
        with pytest.raises(SegmentDamaged):
            archive.pruner.prune(up_to(archive, place, 1))
        assert len(archive.reader.segments(place)) == 2


async def test_what_a_newer_version_wrote_is_not_pruned_by_an_older_one(tmp_path: Path) -> None:
    place, values = one_agent(20)
    publisher = Publisher("newer")
    newer = [
        publisher.record(event("tool.invoked", "task:t-0", {"agent_id": "a-1", "tool_name": "t"}, at_s=60 + at, version=version))[1]
        for at, version in enumerate(["1.0.0"] * 9 + ["9.0.0"])
    ]
    with archive_in(tmp_path) as archive:
        await in_segments(archive, place, [*values, *newer], 10)
        for attempt in (archive.pruner.check, archive.pruner.prune):
            with pytest.raises(UnknownSchema, match=r"tool\.invoked 9\.0\.0"):
                attempt(up_to(archive, place, 3))
        assert len(archive.reader.segments(place)) == 3
        archive.pruner.prune(up_to(archive, place, 2))  # what lies before it may go
        assert archive.reader.marks([place])[place].kept == 20


async def test_what_stands_for_the_pruned_part_is_looked_after(tmp_path: Path) -> None:
    place, values = one_agent(40)
    with archive_in(tmp_path) as archive:
        await in_segments(archive, place, values, 20)
        archive.pruner.prune(up_to(archive, place, 1))
        [anchor] = files_in(tmp_path, place).glob("*.anchor")
        content = anchor.read_bytes()
        anchor.write_bytes(content[:-1] + b"x")
        assert [one.segment for one in archive.keeper.verify(place)] == [anchor.name]
        for attempt in (lambda: archive.keeper.rebuild(place), lambda: archive.pruner.prune(up_to(archive, place, 1))):
            with pytest.raises(SegmentDamaged, match="anchor"):
                attempt()
        anchor.unlink()
        assert [one.reason for one in archive.keeper.verify(place)] == ["the file is missing"]
        anchor.write_bytes(content)
        assert archive.keeper.verify(place) == []


async def test_a_changed_reducer_takes_no_snapshots_where_its_events_are_gone(tmp_path: Path) -> None:
    place, full = one_agent(100, tasks=3)
    values = [*full[:20], *full[21:80:3], *full[80:]]  # two of the tasks do nothing while the other reducer is in force
    other = Fold([replace(view, version=view.version + (view.name == "task")) for view in FOLD.views], FOLD.schemas)
    with archive_in(tmp_path) as archive:
        await in_segments(archive, place, values[:20], 20)
        archive.pruner.prune(up_to(archive, place, 1))
    with archive_in(tmp_path, fold=other) as archive:
        await in_segments(archive, place, values[:40], 20, first=20)
        assert list(archive.reader.parts(place, "task", other.reducer_ids["task"], end=ALL)) == []
        taken = archive.reader.segments(place)[-1].reducers
        assert (other.reducer_ids["agent"] in taken, other.reducer_ids["task"] in taken) == (True, False)
        theirs = Replayer(
            ReadOnlyLog({place: values}, removed={place: 60}), CATALOGUE, clock=FakeClock(), archive=archive.reader, fold=other
        )
        with pytest.raises(SpanGone, match="pruned"):
            await theirs.replay(Ask(other.views[other.index("task")], mode=INCREMENTAL))
    with archive_in(tmp_path) as archive:  # the reducer that has them goes on from them
        await in_segments(archive, place, values, 20, first=40)
        left_holds(archive, {place: values})


async def test_a_seal_that_has_not_seen_the_pruning_does_not_count(tmp_path: Path) -> None:
    place, values = one_agent(60)
    with archive_in(tmp_path) as operator:
        await in_segments(operator, place, values[:40], 20)

        def prune(point: str) -> None:
            if point == "before commit":
                operator.pruner.prune(up_to(operator, place, 2))

        with archive_in(tmp_path, fault=prune) as archive:
            follower = await following(archive, {place: values})
            follower.apply(batch_of(place, values[40:], 40))
            await follower.flush()
            with pytest.raises(PositionConflict):
                archive.keeper.seal(place)
        with archive_in(tmp_path) as archive:
            archive.keeper.seal(place)
            left_holds(archive, {place: values})


async def test_of_two_pruners_one_wins(tmp_path: Path) -> None:
    place, values = one_agent(60)
    with archive_in(tmp_path) as other:
        await in_segments(other, place, values, 20)

        def overtake(point: str) -> None:
            if point == "anchor put":
                other.pruner.prune(up_to(other, place, 2))

        with archive_in(tmp_path, fault=overtake) as archive:
            with pytest.raises(PositionConflict):
                archive.pruner.prune(up_to(archive, place, 1))
            assert archive.reader.marks([place])[place].kept == 40
            left_holds(archive, {place: values})


async def test_an_anchor_that_somebody_swept_before_the_commit_is_not_relied_upon(tmp_path: Path) -> None:
    place, values = one_agent(40)
    with archive_in(tmp_path) as other:
        await in_segments(other, place, values, 20)

        def sweep(point: str) -> None:
            if point == "anchor put":
                for path in files_in(tmp_path, place).glob("*.anchor"):
                    path.unlink()

        with archive_in(tmp_path, fault=sweep) as archive:
            with pytest.raises(PositionConflict):
                archive.pruner.prune(up_to(archive, place, 1))
            assert raw(list(archive.reader.records(place, 0, ALL))) == raw([batch_of(place, values)])


async def test_a_lost_store_is_restored_from_what_stands_for_the_pruned_part(tmp_path: Path) -> None:
    log = random_log(Random(7), 200)  # noqa: S311  # a fixed history
    with archive_in(tmp_path) as archive:
        await archived(archive, log)
        before = await replayed_fingerprint(replayer(archive, log), {place: len(values) for place, values in log.items()})
        assert before.coverage == "complete"
        assert prune_at_random(archive, Random(1), log) > 3  # noqa: S311  # repeatable
        ours = replayer(archive, log)
        store, restored = await SqliteStateStore.open(None), Restored()
        async for _ in restore(ours, store, restored):
            pass
        assert restored.snapshots
        assert (await fingerprint(ours, store)).views == before.views
        await store.close()
        again = await replayed_fingerprint(ours, {place: len(values) for place, values in log.items()})
        assert (again.views, again.coverage) == (before.views, "from_snapshot")
        verified = Verified()
        async for _ in verify_sample(ours, verified, sample=50, seed=0):
            pass
        assert (verified.wrong, verified.pruned > 0) == ([], True)


def test_the_run_of_old_segments_ends_with_one_that_has_an_old_event() -> None:
    def segment(number: int, last_us: int | None) -> Segment:
        return Segment(str(number), number, number + 1, 1, last_us, last_us, 0, 0, "", "", "")

    segments = [segment(number, last_us) for number, last_us in enumerate([5, None, 9, None, 12, 3])]
    assert [len(older(segments, moment)) for moment in (0, 5, 6, 9, 10, 13)] == [0, 0, 1, 1, 3, 6]
    assert older(segments[1:2], 100) == []
