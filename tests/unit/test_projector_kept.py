"""A projector that goes on from its last run comes to what a full fold comes to, whatever came late; and reads only what came after."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.archiving import archive_in, following
from tests.unit.replay_histories import CATALOGUE, T0, Log, ReadOnlyLog, batch_of, event, log_of, random_log
from tests.unit.test_replay_modes import Pruned, archived_in_halves, partly_archived

from tallyroll.adapters.system.segment_files import LocalSegmentFiles
from tallyroll.archive.opening import OpenArchive
from tallyroll.errors import ReducerFailed, SnapshotMismatch, SpanGone
from tallyroll.events.position import TopicPartition
from tallyroll.replay.kinds import StateType
from tallyroll.replay.plan import ReplayMode, as_of_event_time, as_of_offsets
from tallyroll.replay.policy import Policy
from tallyroll.replay.projecting import ProjectedAll
from tallyroll.replay.projector import StateProjector
from tallyroll.replay.replayer import Ask, Replayer
from tallyroll.replay.views import AGENT, AUDIT, TASK
from tallyroll.testing.clock import FakeClock

INCREMENTAL = ReplayMode.INCREMENTAL
KINDS = (StateType.AGENT_STATE, StateType.TASK_STATE, StateType.AUDIT_STATE)
VIEWS = (AGENT, TASK, AUDIT)


def blank(owner: str) -> dict[str, Any]:
    return {"owner": owner, "came": [], "by_type": {}}


def came(state: dict[str, Any], event: Any) -> dict[str, Any]:
    """Everything there is to know of the order; changes the state in place, as a handler may."""
    state["came"].append(str(event.position))
    state["by_type"][str(event.event_type)] = len(state["came"])
    return state


def came_otherwise(state: dict[str, Any], event: Any) -> dict[str, Any]:
    return came(state, event)


def fails(state: dict[str, Any], event: Any) -> dict[str, Any]:  # noqa: ARG001  # a handler
    raise KeyError


def projector(version: int | None = 1, handler: Any = came, event_type: str | None = None) -> StateProjector:
    made = StateProjector(version=version)
    for kind in KINDS:
        made.register_initializer(kind, blank)
        made.register_projection(kind, event_type, handler)
    return made


def replayer(log: Log, archive: OpenArchive | None, folder: Path | None, **more: Any) -> Replayer:
    kept = None if folder is None else LocalSegmentFiles(folder / "projections")
    reader = archive.reader if archive is not None else None
    return Replayer(ReadOnlyLog(log, **more), CATALOGUE, clock=FakeClock(), archive=reader, kept=kept)


def told(found: ProjectedAll) -> Mapping[str, tuple[Any, int]]:
    return {owner: (one.state, one.version) for owner, one in found.states.items()}


@settings(max_examples=15, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32), count=st.integers(0, 160))
@pytest.mark.slow
async def test_going_on_from_any_vector_is_a_full_fold(seed: int, count: int) -> None:
    rng = Random(seed)  # noqa: S311  # repeatable
    log = random_log(rng, count)
    made = projector(event_type=rng.choice((None, "task.started")))
    with tempfile.TemporaryDirectory() as name, archive_in(Path(name) / "archive") as archive:
        if rng.random() < 0.8:
            await partly_archived(rng, archive, log)
        one = replayer(log, archive, Path(name))
        for view in VIEWS:
            full = await one.project(made, Ask(view))
            at = dict.fromkeys(full.as_of, 0)
            for _ in range(3):
                at = {where: rng.randint(offset, full.as_of[where]) for where, offset in at.items()}
                there = Ask(view, target=as_of_offsets(at))
                want = await one.project(made, there)
                found = await one.project(made, Ask(view, mode=INCREMENTAL, target=as_of_offsets(at)))
                assert (told(found), found.as_of, found.kept) == (told(want), want.as_of, True)
            found = await one.project(made, Ask(view, mode=INCREMENTAL))
            assert (told(found), found.events, found.set_hash) == (told(full), full.events, full.set_hash)
            again = await one.project(made, Ask(view, mode=INCREMENTAL))
            assert (told(again), again.folded, again.late) == (told(full), 0, 0)


def history(count: int, *, since: int = 0) -> list[Any]:
    return [
        event("task.progressed", f"task:t{n % 7}", {"agent_id": f"a{n % 3}", "tokens": 1}, at_s=n, event_id=str(n))
        for n in range(since, since + count)
    ]


@pytest.mark.slow
async def test_the_second_run_reads_and_folds_what_came_after_the_first(tmp_path: Path) -> None:
    log, more = log_of(history(200)), log_of([*history(200), *history(9, since=200)])
    with archive_in(tmp_path / "archive") as archive:
        await archived_in_halves(archive, log)
        first = await replayer(log, archive, tmp_path).project(projector(), Ask(AGENT, mode=INCREMENTAL))
        assert (first.folded, first.snapshot, first.kept) == (200, "none", True)
        read: list[int] = []
        one = replayer(more, archive, tmp_path)
        second = await one.project(projector(), Ask(AGENT, mode=INCREMENTAL), on_progress=lambda _, total: read.append(total))
        assert (second.folded, second.events, second.snapshot, second.late) == (9, 209, "3", 0)
        assert set(read) == {9}
        assert told(second) == told(await replayer(more, None, None).project(projector(), Ask(AGENT)))


async def test_an_owner_of_whom_something_came_late_is_folded_anew_and_nobody_else(tmp_path: Path) -> None:
    early = history(60)
    late = event("agent.heartbeat", "agent:a1", at_s=10.5, event_id="late")  # in another partition than the tasks
    log, more = log_of(early), log_of([*early, late])
    await replayer(log, None, tmp_path).project(projector(), Ask(AGENT, mode=INCREMENTAL))
    found = await replayer(more, None, tmp_path).project(projector(), Ask(AGENT, mode=INCREMENTAL))
    assert told(found) == told(await replayer(more, None, None).project(projector(), Ask(AGENT)))
    assert (found.late, found.snapshot) == (1, "3")
    positions = found.states["a1"].state["came"]
    assert any(one.startswith("agent-events") for one in positions)
    assert not positions[-1].startswith("agent-events")  # where it would be, had it been put behind the kept state


@pytest.mark.parametrize("other", [projector(2), projector(1, came_otherwise)], ids=["version", "function"])
async def test_another_reducer_does_not_begin_with_these_states_nor_lose_them(tmp_path: Path, other: StateProjector) -> None:
    one = replayer(log_of(history(30)), None, tmp_path)
    await one.project(projector(), Ask(AGENT, mode=INCREMENTAL))
    assert (await one.project(other, Ask(AGENT, mode=INCREMENTAL))).snapshot == "none"
    assert (await one.project(projector(), Ask(TASK, mode=INCREMENTAL))).snapshot == "none"
    assert (await one.project(projector(), Ask(AGENT, mode=INCREMENTAL))).folded == 0


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-1] + bytes([b[-1] ^ 1]), lambda b: b[: len(b) // 2], lambda _: b"", lambda b: b"x" + b[1:]]
)
async def test_a_damaged_file_is_named_and_an_older_one_is_gone_on_from(tmp_path: Path, damage: Any) -> None:
    log = log_of(history(60))
    one = replayer(log, None, tmp_path)
    ends = {where: len(values) for where, values in log.items() if where.topic in AGENT.topics}
    half = {where: end // 2 for where, end in ends.items()}
    older = await one.project(projector(), Ask(AGENT, mode=INCREMENTAL, target=as_of_offsets(half)))
    full = await one.project(projector(), Ask(AGENT, mode=INCREMENTAL))
    [_, newest] = sorted((tmp_path / "projections").iterdir())
    newest.write_bytes(damage(newest.read_bytes()))
    with pytest.raises(SnapshotMismatch, match=r"\.states"):
        await one.project(projector(), Ask(AGENT, mode=INCREMENTAL, policy=Policy.strict()))
    found = await one.project(projector(), Ask(AGENT, mode=INCREMENTAL))
    assert (told(found), found.damaged, found.folded) == (told(full), (newest.name,), full.events - older.events)
    assert (await one.project(projector(), Ask(AGENT, mode=INCREMENTAL))).damaged == ()  # written anew meanwhile


async def test_only_the_newest_two_stay(tmp_path: Path) -> None:
    for count in (10, 20, 30, 40):
        await replayer(log_of(history(count)), None, tmp_path).project(projector(), Ask(AGENT, mode=INCREMENTAL))
    assert len(list((tmp_path / "projections").iterdir())) == 2  # a folder of the test


async def test_what_is_kept_of_more_than_there_is_now_is_not_used(tmp_path: Path) -> None:
    await replayer(log_of(history(60)), None, tmp_path).project(projector(), Ask(AGENT, mode=INCREMENTAL))
    found = await replayer(log_of(history(20)), None, tmp_path).project(projector(), Ask(AGENT, mode=INCREMENTAL))
    assert (found.snapshot, found.events) == ("none", 20)


async def test_where_nothing_can_be_kept_nothing_is(tmp_path: Path) -> None:
    one = replayer(log_of(history(30)), None, tmp_path)
    assert not (await one.project(projector(None), Ask(AGENT, mode=INCREMENTAL))).kept
    assert not (await one.project(projector(), Ask(AGENT))).kept
    moment = as_of_event_time(T0 + timedelta(seconds=9))
    assert not (await one.project(projector(), Ask(AGENT, mode=INCREMENTAL, target=moment))).kept
    with pytest.raises(ReducerFailed):
        await one.project(projector(1, fails), Ask(AGENT, mode=INCREMENTAL))
    with pytest.raises(ValueError, match="define it"):
        await one.project(projector(1, lambda state, _: state), Ask(AGENT, mode=INCREMENTAL))
    with pytest.raises(ValueError, match="one process"):
        await one.project(projector(), Ask(AGENT, mode=INCREMENTAL, workers=2))
    assert not (tmp_path / "projections").exists()


async def test_a_full_disk_costs_the_next_run_and_not_this_one(tmp_path: Path) -> None:
    class Full(LocalSegmentFiles):
        def put(self, name: str, content: bytes) -> None:  # noqa: ARG002  # as the port
            raise OSError(28, "no space")

    log = log_of(history(30))
    one = Replayer(ReadOnlyLog(log), CATALOGUE, clock=FakeClock(), kept=Full(tmp_path))
    found = await one.project(projector(), Ask(AGENT, mode=INCREMENTAL))
    assert (found.kept, found.events) == (False, 30)


@pytest.mark.slow
async def test_what_was_pruned_is_gone_on_from_unless_somebody_was_late(tmp_path: Path) -> None:
    log = log_of(history(120))
    with archive_in(tmp_path / "archive") as archive:
        await archived_in_halves(archive, log)
        await replayer(log, archive, tmp_path).project(projector(), Ask(AGENT, mode=INCREMENTAL))

        def gone(log: Log) -> Replayer:
            removed = {partition: len(values) for partition, values in log_of(history(120)).items()}
            kept = LocalSegmentFiles(tmp_path / "projections")
            return Replayer(ReadOnlyLog(log, removed=removed), CATALOGUE, clock=FakeClock(), archive=Pruned(archive.reader), kept=kept)

        more = log_of([*history(120), *history(5, since=120)])
        with pytest.raises(SpanGone):
            await gone(more).project(projector(), Ask(AGENT))
        found = await gone(more).project(projector(), Ask(AGENT, mode=INCREMENTAL))
        assert (found.coverage, found.folded, found.missing) == ("from_snapshot", 5, {})
        assert told(found) == told(await replayer(more, None, None).project(projector(), Ask(AGENT)))
        late = log_of([*history(120), *history(5, since=120), event("agent.heartbeat", "agent:a1", at_s=1.5, event_id="late")])
        with pytest.raises(SpanGone):
            await gone(late).project(projector(), Ask(AGENT, mode=INCREMENTAL))
        left = await gone(late).project(projector(), Ask(AGENT, mode=INCREMENTAL, allow_truncated=True))
        assert (left.coverage, left.kept, left.late) == ("truncated", False, 1)


async def test_repeats_are_known_across_what_is_kept(tmp_path: Path) -> None:
    log = log_of(history(40))
    where: TopicPartition = max(log, key=lambda one: len(log[one]))
    again = {**log, where: [*log[where], *log[where][-3:]]}
    for archived_first in (False, True):
        folder = tmp_path / str(archived_first)
        with archive_in(folder / "archive") as archive:
            if archived_first:
                follower = await following(archive, log)
                for partition, values in log.items():
                    if values:
                        follower.apply(batch_of(partition, values))
                await follower.flush()
            await replayer(log, archive, folder).project(projector(), Ask(AGENT, mode=INCREMENTAL))
            found = await replayer(again, archive, folder).project(projector(), Ask(AGENT, mode=INCREMENTAL))
            assert (found.folded, found.events) == (0, 40)
