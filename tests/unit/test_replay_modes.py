"""Every mode, source and number of seals comes to the states that a full replay of the log comes to; and reads what it should."""

from __future__ import annotations

import asyncio
import gc
import json
import sqlite3
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tests.patience import PATIENCE_S
from tests.unit.archiving import archive_in, following
from tests.unit.replay_histories import CATALOGUE, T0, Log, Publisher, ReadOnlyLog, batch_of, empty_log, event, log_of, random_log

from tallyroll.archive.opening import OpenArchive
from tallyroll.errors import BrokenHistory, ReplayCancelled, SnapshotMismatch, SpanGone
from tallyroll.ports import StoredPart
from tallyroll.replay.engine import ReplayEngine
from tallyroll.replay.fold import Fold, state_hash, states_hash
from tallyroll.replay.gather import bucketed, owners_by
from tallyroll.replay.plan import ReplayFilter, ReplayMode, as_of_event_time, as_of_offsets
from tallyroll.replay.policy import Policy
from tallyroll.replay.replayer import Ask, Replayer, Stop
from tallyroll.replay.snapshots import StateSnapshot, stored_part
from tallyroll.replay.views import AGENT, FOLD, TASK, VIEWS, WORKFLOW
from tallyroll.testing.clock import FakeClock

LENIENT = Policy().but(unknown_schema="warn", altered="warn", reordered="warn")
INCREMENTAL, MOMENT, SELECTIVE = ReplayMode.INCREMENTAL, ReplayMode.POINT_IN_TIME, ReplayMode.SELECTIVE


async def partly_archived(rng: Random, archive: OpenArchive, log: Log) -> None:
    """A part of each partition is archived, in random flushes and seals; the rest is in the log only."""
    follower = await following(archive, log)
    for partition, values in log.items():
        at = 0
        while at < len(values) and rng.random() < 0.85:
            until = min(len(values), at + rng.randint(1, 25))
            follower.apply(batch_of(partition, values[at:until], at))
            at = until
            if rng.random() < 0.5:
                await follower.flush()
                if rng.random() < 0.5:
                    archive.keeper.seal(partition)
    await follower.flush()


def replayer(log: Log, archive: OpenArchive | None, **more: object) -> Replayer:
    return Replayer(ReadOnlyLog(log, **more), CATALOGUE, clock=FakeClock(), archive=archive.reader if archive is not None else None)


async def ask(of: Replayer, view: object, *given: object, **more: object) -> object:
    return await of.replay(Ask(view, *given, policy=LENIENT, **more))


@settings(max_examples=20, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32), count=st.integers(0, 160))
@example(seed=37139, count=136)
@pytest.mark.slow
async def test_all_modes_agree_whatever_is_archived(seed: int, count: int) -> None:
    rng = Random(seed)  # noqa: S311  # repeatable
    log = random_log(rng, count)
    with tempfile.TemporaryDirectory() as name, archive_in(Path(name), snapshot_every=rng.choice((2, 8, 512))) as archive:
        await partly_archived(rng, archive, log)
        alone, both = replayer(log, None), replayer(log, archive)
        moment = as_of_event_time(T0 + timedelta(seconds=rng.uniform(-10, count * 2 + 10)))
        for view in VIEWS:
            full, cut = await ask(alone, view), await ask(alone, view, target=moment)
            ends = as_of_offsets({partition: rng.randint(0, end) for partition, end in full.as_of.items()})
            at_ends = await ask(alone, view, target=ends)
            for wanted, options in (
                (full, ({}, {"columnar": True}, {"mode": INCREMENTAL}, {"mode": INCREMENTAL, "columnar": True}, {"validate": "chain"},
                        {"validate": "off"})),
                (cut, ({"target": moment}, {"mode": MOMENT, "target": moment}, {"target": moment, "columnar": True},
                       {"target": moment, "validate": "chain"})),
                (at_ends, ({"target": ends}, {"mode": MOMENT, "target": ends}, {"target": ends, "columnar": True})),
            ):  # fmt: skip
                for one in options:
                    found = await ask(both, view, **one)
                    assert (found.states, found.as_of) == (wanted.states, wanted.as_of), one
                    assert found.finding_counts.get("unknown_schema", 0) == wanted.finding_counts.get("unknown_schema", 0), one
            for owner, state in rng.sample(sorted(full.states.items()), min(2, len(full.states))):
                for mode in (ReplayMode.FULL, INCREMENTAL):
                    assert (await ask(both, view, owner, mode)).states == {owner: state}
                then = (await ask(both, view, owner, MOMENT, moment)).states
                assert then == {name: one for name, one in cut.states.items() if name == owner}
        tasks = await ask(alone, TASK)
        for owner, state in rng.sample(sorted(tasks.states.items()), min(2, len(tasks.states))):
            only = ReplayFilter(aggregate_types={"task"}, aggregate_ids={owner})
            chosen = await ask(both, TASK, mode=SELECTIVE, only=only)
            assert (dict(chosen.states), chosen.partial_state) == ({owner: state}, False)
        some = ReplayFilter(event_types={"task.started", "task.completed", "tool.invoked"}, start_time=T0 + timedelta(seconds=20))
        selected = [await ask(one, AGENT, mode=SELECTIVE, only=some) for one in (alone, both)]
        assert selected[0].states == selected[1].states


def progress(count: int) -> Log:
    made = [event("task.progressed", f"task:t{n % 7}", {"agent_id": "a", "tokens": 1}, at_s=n, event_id=str(n)) for n in range(count)]
    return log_of(made)


async def archived_in_halves(archive: OpenArchive, log: Log) -> None:
    """Everything, in two segments a partition."""
    follower = await following(archive, log)
    for half in (0, 1):
        for partition, values in log.items():
            cut = len(values) // 2
            part = values[cut:] if half else values[:cut]
            if part:
                follower.apply(batch_of(partition, part, half * cut))
        await follower.flush()
        archive.keeper.seal_all(list(log))


async def test_who_cancels_waits_for_the_thread_that_reads_and_hears_of_it_once(tmp_path: Path) -> None:
    log, stop, began = progress(40), Stop(), threading.Event()

    class Slow(Pruned):
        def rows(self, *given: object, **more: object) -> object:
            began.wait(PATIENCE_S)
            yield from self._reader.rows(*given, **more)

        def marks(self, partitions: object) -> dict:
            return self._reader.marks(partitions)  # nothing is pruned here

    unheard: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, told: unheard.append(told))

    def cancel(_done: int, _total: int) -> None:
        stop.asked = True
        asyncio.get_running_loop().call_soon(began.set)  # when it is told already

    with archive_in(tmp_path) as archive:
        await archived_in_halves(archive, log)
        slow = Replayer(ReadOnlyLog(log), CATALOGUE, clock=FakeClock(), archive=Slow(archive.reader))
        with pytest.raises(ReplayCancelled):
            await slow.replay(Ask(TASK), on_progress=cancel, stop=stop)
    await asyncio.get_running_loop().shutdown_default_executor()
    gc.collect()
    assert not unheard


@pytest.mark.parametrize("seals", [False, True], ids=["in the tail", "below a snapshot"])
async def test_no_state_is_silent_about_an_event_of_a_newer_version(tmp_path: Path, *, seals: bool) -> None:
    newer = event("task.completed", "task:t-new", {"agent_id": "a1"}, at_s=3, version="9.0.0")
    others = [event("task.progressed", f"task:t{n}", {"agent_id": f"a{n % 3}", "note": "\n"}, at_s=n, event_id=str(n)) for n in range(12)]
    log = log_of([*others, newer])
    with archive_in(tmp_path) as archive:
        if seals:
            await archived_in_halves(archive, log)
        of = replayer(log, archive)
        early = as_of_event_time(T0 + timedelta(seconds=2))
        for mode in (ReplayMode.FULL, INCREMENTAL):
            for blind in (Ask(AGENT, mode=mode), Ask(AGENT, "a1", mode), Ask(TASK, "t-new", mode), Ask(AGENT, mode=mode, validate="off")):
                with pytest.raises(BrokenHistory, match="newer version"):
                    await of.replay(blind)
            assert (await ask(of, AGENT, "a1", mode)).finding_counts == {"unknown_schema": 1}
            assert not (await of.replay(Ask(AGENT, "a2", mode))).finding_counts
            assert not (await of.replay(Ask(TASK, "t1", mode))).finding_counts
        assert (await of.replay(Ask(AGENT, "a1", MOMENT, early))).finding_counts == {}


@pytest.mark.parametrize("seals", [False, True], ids=["in the tail", "below a snapshot"])
async def test_a_view_tells_of_events_that_it_reads_and_of_no_others(tmp_path: Path, *, seals: bool) -> None:
    bad, newer = {"agent_id": "a", "tokens": "many"}, {"version": "9.0.0"}
    log = log_of(
        [
            event("message.sent", "workflow:w", {"agent_id": "a"}),
            event("message.sent", "task:t", bad, at_s=1),  # all three read it
            event("workflow.started", "workflow:w", bad, at_s=2),  # the task view reads none of these
            event("workflow.completed", "workflow:w", {"agent_id": "a"}, at_s=3, **newer),
            event("message.sent", "task:t", {"agent_id": "a"}, at_s=4),
        ]
    )
    wanted = {TASK.name: {"poison": 1}, AGENT.name: {"poison": 2, "unknown_schema": 1}, WORKFLOW.name: {"poison": 2, "unknown_schema": 1}}
    with archive_in(tmp_path) as archive:
        follower = await following(archive, log)
        for partition, values in log.items():
            if values:
                follower.apply(batch_of(partition, values, 0))
        await follower.flush()
        if seals:
            archive.keeper.seal_all(list(log))
        alone, both = replayer(log, None), replayer(log, archive)
        asked = [(alone, {}), (both, {}), (both, {"columnar": True}), (both, {"mode": INCREMENTAL}), (both, {"validate": "chain"})]
        for view in (TASK, AGENT, WORKFLOW):
            for of, options in asked:
                assert (await ask(of, view, **options)).finding_counts == wanted[view.name], (view.name, options)


async def test_incremental_reads_the_tail_and_nothing_else(tmp_path: Path) -> None:
    log = progress(200)
    kept = {partition: len(values) * 9 // 10 for partition, values in log.items()}
    with archive_in(tmp_path) as archive:
        await archived_in_halves(archive, {partition: values[: kept[partition]] for partition, values in log.items()})
        found = await replayer(log, archive).replay(Ask(TASK, mode=INCREMENTAL))
        full = await replayer(log, None).replay(Ask(TASK))
    tail = sum(len(values) - kept[partition] for partition, values in log.items())
    assert (found.events_applied, found.records, found.tally.archived) == (tail, tail, 0)
    assert found.snapshot == "7"
    assert found.set_hash == states_hash(full.states)
    assert (await replayer(log, None).replay(Ask(TASK, mode=INCREMENTAL))).snapshot == "none"


async def test_what_the_log_has_forgotten_comes_from_the_archive(tmp_path: Path) -> None:
    log = progress(60)
    partition = max(log, key=lambda one: len(log[one]))
    with archive_in(tmp_path) as archive:
        await archived_in_halves(archive, log)
        found = await replayer(log, archive, removed={partition: len(log[partition])}).replay(Ask(TASK))
        assert (found.states, found.coverage) == ((await replayer(log, None).replay(Ask(TASK))).states, "complete")


async def test_what_neither_has_is_told(tmp_path: Path) -> None:
    log = progress(60)
    partition = max(log, key=lambda one: len(log[one]))
    with archive_in(tmp_path) as archive:
        follower = await following(archive, log)
        follower.apply(batch_of(partition, log[partition][:3]))
        await follower.flush()
        gap = replayer(log, archive, removed={partition: 5})
        with pytest.raises(SpanGone):
            await gap.replay(Ask(TASK))
        found = await gap.replay(Ask(TASK, allow_truncated=True))
        assert (found.coverage, found.missing) == ("truncated", {partition: [(3, 5)]})


async def test_a_newer_event_stops_a_replay_unless_the_policy_lets_it_go_on() -> None:
    log = log_of([event("task.created", "task:t"), event("task.started", "task:t", version="99.0.0", at_s=1)])
    with pytest.raises(BrokenHistory, match="upgrade"):
        await replayer(log, None).replay(Ask(TASK))
    assert (await ask(replayer(log, None), TASK)).states["t"]["version"] == 1
    assert not (await replayer(log, None).replay(Ask(TASK, "u"))).states  # somebody else's newer event is not ours


async def test_an_altered_record_stops_a_replay_that_checks_the_chain() -> None:
    log = progress(40)
    partition = max(log, key=lambda one: len(log[one]))
    log[partition][1] = log[partition][1].replace(b'"tokens":1', b'"tokens":2')
    with pytest.raises(BrokenHistory, match="altered"):
        await replayer(log, None).replay(Ask(TASK, validate="chain"))
    assert (await replayer(log, None).replay(Ask(TASK))).states


def one_at_work(count: int) -> Log:
    """One agent, every event of it in one partition."""
    return log_of([event("tool.invoked", "agent:a-1", {"agent_id": "a-1", "tool_name": "t"}, at_s=number) for number in range(count)])


@pytest.mark.slow
async def test_a_moment_inside_a_segment_is_near_a_snapshot(tmp_path: Path) -> None:
    log = one_at_work(1_000)
    with archive_in(tmp_path, snapshot_every=100) as archive:
        await partly_sealed(archive, log, 900)
        both, alone = replayer(log, archive), replayer(log, None)
        for second in (250, 777, 890):
            wanted = {"owner": "a-1", "target": as_of_event_time(T0 + timedelta(seconds=second))}
            found = await both.replay(Ask(AGENT, mode=MOMENT, **wanted))
            assert found.states == (await alone.replay(Ask(AGENT, **wanted))).states
            assert (found.tally.snapshots, found.tally.archived <= 200) == (1, True), found.tally
        assert (await both.replay(Ask(AGENT, mode=INCREMENTAL))).tally.archived == 100
    # Damaged, it is told, and the one before it stands in.
    for path in tmp_path.glob("*/*/index.db"):  # noqa: ASYNC240  # a folder of the test
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("UPDATE snap SET part = x'00' WHERE until = (SELECT max(until) FROM snap WHERE until <= 777)")
        assert connection.execute("SELECT changes()").fetchone() == (1,)
        connection.close()
    with archive_in(tmp_path) as archive:
        wanted = {"owner": "a-1", "target": as_of_event_time(T0 + timedelta(seconds=777))}
        found = await replayer(log, archive).replay(Ask(AGENT, mode=MOMENT, **wanted))
        assert found.states == (await replayer(log, None).replay(Ask(AGENT, **wanted))).states
        assert found.finding_counts["snapshot_corrupt"] == 1
        assert 100 < found.tally.archived <= 300
        # Another version of the view takes none of them.
        newer = replace(AGENT, version=AGENT.version + 1)
        other = Replayer(ReadOnlyLog(log), CATALOGUE, clock=FakeClock(), archive=archive.reader, fold=Fold([newer], FOLD.schemas))
        found = await other.replay(Ask(newer, mode=MOMENT, **wanted))
        assert (found.tally.snapshots, found.tally.archived, dict(found.finding_counts)) == (0, 778, {})


async def partly_sealed(archive: OpenArchive, log: Log, sealed: int) -> None:
    """The first records of the only partition sealed, the rest in the tail."""
    [(partition, values)] = ((partition, values) for partition, values in log.items() if values)
    follower = await following(archive, log)
    for start, stop in ((0, sealed), (sealed, len(values))):
        follower.apply(batch_of(partition, values[start:stop], start))
        await follower.flush()
        if not start:
            archive.keeper.seal(partition)


async def test_a_damaged_snapshot_is_told_and_passed_over(tmp_path: Path) -> None:
    log = progress(120)
    with archive_in(tmp_path) as archive:
        await archived_in_halves(archive, log)
        whole = (await replayer(log, None).replay(Ask(TASK))).states
    for path in tmp_path.glob("*/*/index.db"):  # noqa: ASYNC240  # a folder of the test
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute(
            "UPDATE snap SET part = CAST(replace(CAST(part AS TEXT), 'running', 'stopped') AS BLOB) "
            "WHERE until = (SELECT max(until) FROM snap)"
        )
        connection.close()
    with archive_in(tmp_path) as archive:
        both = replayer(log, archive)
        found = await both.replay(Ask(TASK, mode=INCREMENTAL))
        assert found.states == whole
        assert found.finding_counts["snapshot_corrupt"] > 0
        assert (await both.replay(Ask(TASK, "t1", INCREMENTAL))).states == {"t1": whole["t1"]}
        with pytest.raises(SnapshotMismatch):
            await both.replay(Ask(TASK, mode=INCREMENTAL, policy=Policy.strict()))


async def test_rows_without_ids_survive_a_spill(tmp_path: Path) -> None:
    log = progress(80)
    with archive_in(tmp_path) as archive:
        await archived_in_halves(archive, log)
        rows = [one for partition, values in log.items() for one in archive.reader.rows(partition, 0, len(values))]
    gathered = [dict(bucketed(rows, owners_by("task"), tmp_path, max_bytes=limit)) for limit in (0, 10**9)]
    assert gathered[0].keys() == gathered[1].keys() == {f"t{n}" for n in range(7)}
    for owner, history in gathered[0].items():
        assert [list(one.data) for one in history.values()] == [list(one.data) for one in gathered[1][owner].values()]


def test_asks_that_make_no_sense_are_refused() -> None:
    for wrong in ({"mode": MOMENT}, {"mode": SELECTIVE}, {"only": ReplayFilter()}, {"workers": 0}):
        with pytest.raises(ValueError, match=r"\w"):
            Ask(TASK, **wrong)
    assert replace(Ask(TASK), mode=ReplayMode.PARALLEL).processes >= 1


async def test_only_so_many_replays_are_remembered() -> None:
    engine = ReplayEngine(replayer(progress(5), None), clock=FakeClock())
    for number in range(1_005):
        await engine.replay(Ask(TASK, "t1"), replay_id=str(number))
    assert [engine.get_replay_progress(str(number)) is None for number in (0, 4, 5, 1_004)] == [True, True, False, False]


async def test_an_answer_says_of_which_kind_of_moment_it_is() -> None:
    engine = ReplayEngine(replayer(progress(5), None), clock=FakeClock())
    assert (await engine.replay_events("task_state"))["target"] == "now"
    assert (await engine.replay_events("task_state", target_time=T0))["target"] == "event_time"
    ends = as_of_offsets((await engine.replay(Ask(TASK))).as_of)
    assert (await engine.replay(Ask(TASK, target=ends))).target == "offsets"


class Pruned:
    """An archive that says its segments are gone up to its last seal, for the reducers it has snapshots of."""

    def __init__(self, reader: object) -> None:
        self._reader = reader

    def marks(self, partitions: object) -> dict:
        ids = tuple(FOLD.reducer_ids.values())
        return {where: mark._replace(kept=mark.sealed, kept_for=ids) for where, mark in self._reader.marks(partitions).items()}

    def __getattr__(self, name: str) -> object:
        return getattr(self._reader, name)


class Exchanged(Pruned):
    """An archive in which the newest snapshots of two owners were exchanged, checksums and all: only folding everything tells."""

    def marks(self, partitions: object) -> dict:
        return self._reader.marks(partitions)

    def parts(self, *args: object, **options: object) -> Iterator[StoredPart]:
        kept = list(self._reader.parts(*args, **options))
        told = {(one.owner, one.end): one.part for one in kept}
        for one in kept:
            part = told.get(({"t1": "t2", "t2": "t1"}.get(one.owner, one.owner), one.end), one.part)
            yield stored_part(*one[:7], part)


async def test_everybodys_states_and_whether_snapshots_come_to_the_same(tmp_path: Path) -> None:
    log = log_of([event("task.progressed", f"task:t{n % 3}", {"tokens": n}, at_s=n, event_id=str(n)) for n in range(60)])
    whole = await replayer(log, None).replay(Ask(TASK))
    with archive_in(tmp_path) as archive:
        await archived_in_halves(archive, log)
        engine = ReplayEngine(replayer(log, archive), clock=FakeClock())
        states = await engine.get_all_reconstructed_states("task_state")
        assert {owner: state["tokens"] for owner, state in states.items()} == {o: whole.shown(o)["tokens"] for o in whole.states}
        found = await engine.validate_reconstructed_states("task_state")
        assert (found["valid"], found["total_states"], found["valid_states"], found["mismatches"]) == (True, 3, 3, [])
        assert found["snapshots"] > 0
        wrong = ReplayEngine(Replayer(ReadOnlyLog(log), CATALOGUE, clock=FakeClock(), archive=Exchanged(archive.reader)), clock=FakeClock())
        found = await wrong.validate_reconstructed_states("task_state")
        assert (found["valid"], found["valid_states"], found["mismatches"]) == (False, 1, ["t1", "t2"])


async def test_a_state_that_is_kept_comes_back_as_it_was_or_not_at_all() -> None:
    found = await replayer(progress(40), None).replay(Ask(TASK))
    kept = found.snapshot_of("t1", T0).to_dict()
    back = StateSnapshot.from_dict(json.loads(json.dumps(kept)))
    assert (back.state, back.checksum) == (found.states["t1"], state_hash(found.states["t1"]))
    assert back.as_of == {str(partition): end for partition, end in found.as_of.items()}
    assert back.event_position == sum(found.as_of.values())
    assert found.snapshot_of("nobody", T0) is None
    with pytest.raises(SnapshotMismatch, match="t1"):
        StateSnapshot.from_dict({**kept, "state": {**kept["state"], "version": 99}})


async def test_the_chain_is_checked_whatever_the_filter() -> None:
    log = progress(40)
    partition = max(log, key=lambda one: len(log[one]))
    log[partition][1] = log[partition][1].replace(b'"tokens":1', b'"tokens":2')
    only = ReplayFilter(event_types={"task.created"})
    with pytest.raises(BrokenHistory, match="altered"):
        await replayer(log, None).replay(Ask(TASK, mode=SELECTIVE, only=only, validate="chain"))


async def test_findings_are_told_also_where_a_snapshot_stands_for_the_events(tmp_path: Path) -> None:
    publisher, log = Publisher("p"), empty_log()
    for number in range(6):
        place, value = publisher.record(event("task.progressed", "task:t", {"tokens": 1}, event_id=str(number)), skip=2 * (number == 3))
        log[place].append(value)
    with archive_in(tmp_path) as archive:
        await archived_in_halves(archive, log)
        found = await replayer(log, archive).replay(Ask(TASK, mode=INCREMENTAL))
        assert (found.finding_counts["gap"], found.tally.archived) == (1, 0)


async def test_what_was_pruned_is_made_of_snapshots_or_refused(tmp_path: Path) -> None:
    log = progress(120)
    with archive_in(tmp_path) as archive:
        await archived_in_halves(archive, log)
        whole = (await replayer(log, None).replay(Ask(TASK))).states
        removed = {partition: len(values) for partition, values in log.items()}
        gone = Replayer(ReadOnlyLog(log, removed=removed), CATALOGUE, clock=FakeClock(), archive=Pruned(archive.reader))
        found = await gone.replay(Ask(TASK, mode=INCREMENTAL))
        assert (found.states, found.coverage) == (whole, "from_snapshot")
        one = await gone.replay(Ask(TASK, "t1", INCREMENTAL))
        assert (one.states, one.coverage) == ({"t1": whole["t1"]}, "from_snapshot")
        for ask_for_all in (Ask(TASK), Ask(TASK, mode=INCREMENTAL, validate="chain")):
            with pytest.raises(SpanGone):
                await gone.replay(ask_for_all)
    for path in tmp_path.glob("*/*/index.db"):  # noqa: ASYNC240  # a folder of the test
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("UPDATE snap SET checksum = x'00'")
        connection.close()
    with archive_in(tmp_path) as archive:
        gone = Replayer(ReadOnlyLog(log, removed=removed), CATALOGUE, clock=FakeClock(), archive=Pruned(archive.reader))
        for ask_of_one in (Ask(TASK, mode=INCREMENTAL), Ask(TASK, "t1", INCREMENTAL)):
            with pytest.raises(SnapshotMismatch, match="pruned"):
                await gone.replay(ask_of_one)
