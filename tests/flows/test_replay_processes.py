"""A replay in several processes is the same replay: same states, same findings, no answer from a part of the work."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.flows.agreeing import all_agree
from tests.patience import PATIENCE_S

from tallyroll.errors import ReducerFailed, ReplayCancelled, SettingsError, WorkerFailed
from tallyroll.events.event import AgentEvent
from tallyroll.events.position import Position
from tallyroll.replay.kinds import StateType
from tallyroll.replay.plan import ReplayFilter, ReplayMode
from tallyroll.replay.projector import StateProjector
from tallyroll.replay.replayer import Ask
from tallyroll.replay.views import AGENT, TASK
from tallyroll.roll import Roll
from tallyroll.simulate.fleet import Fleet

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    target = f"sqlite:///{tmp_path_factory.mktemp('fleet')}"

    async def fill() -> None:
        async with Roll.open(target) as roll:
            await roll.publish_batch(list(Fleet(seed=5, agents=12).run(events=4_000)))

    asyncio.run(fill())
    return target


def only_failures(event: AgentEvent) -> bool:
    return event.event_type == "task.failed"


def raising(event: AgentEvent) -> bool:
    raise KeyError(event.event_id)


def dying_elsewhere(event: AgentEvent) -> bool:  # noqa: ARG001  # a predicate
    if Path(sys.argv[0]).stem == "worker":
        os.kill(os.getpid(), signal.SIGKILL)
    return True


def raising_here(event: AgentEvent) -> bool:
    return Path(sys.argv[0]).stem == "worker" or raising(event)


def raising_elsewhere(event: AgentEvent) -> bool:
    return Path(sys.argv[0]).stem != "worker" or raising(event)


@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize("view", [AGENT, TASK], ids=lambda view: view.name)
async def test_any_number_of_processes_gives_the_same_states(url: str, view: object, workers: int) -> None:
    async with Roll.open(url) as roll:
        engine = await roll.replay_engine()
        alone = await engine.replay(Ask(view))
        many = await engine.replay(Ask(view, mode=ReplayMode.PARALLEL, workers=workers))
    assert many.states == alone.states
    assert (many.set_hash, many.as_of, many.events_applied) == (alone.set_hash, alone.as_of, alone.events_applied)
    assert len(many.processes) == workers
    assert os.getpid() in many.processes


@settings(max_examples=3, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32), count=st.integers(1, 160))
async def test_any_history_comes_to_the_same_states_in_any_number_of_processes(seed: int, count: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with Roll.open(f"sqlite:///{folder}") as roll:
            await all_agree(roll, seed, count)


async def test_a_filter_travels_with_its_predicate(url: str) -> None:
    async with Roll.open(url) as roll:
        engine = await roll.replay_engine()
        wanted = ReplayFilter(aggregate_types={"task"}, custom_predicate=only_failures)
        alone = await engine.replay(Ask(TASK, mode=ReplayMode.SELECTIVE, only=wanted))
        many = await engine.replay(Ask(TASK, mode=ReplayMode.SELECTIVE, only=wanted, workers=2))
    assert alone.states
    assert many.states == alone.states
    assert (many.events_skipped, many.partial_state) == (alone.events_skipped, True)


async def test_a_predicate_without_a_name_is_refused_before_anything_starts(url: str) -> None:
    async with Roll.open(url) as roll:
        engine = await roll.replay_engine()
        wanted = ReplayFilter(custom_predicate=lambda _: True)
        with pytest.raises(ValueError, match="define it by name"):
            await engine.replay(Ask(TASK, mode=ReplayMode.SELECTIVE, only=wanted, workers=2))


async def test_a_predicate_that_raises_is_the_same_error_from_every_process(url: str) -> None:
    async with Roll.open(url) as roll:
        engine = await roll.replay_engine()
        for workers, predicate in ((1, raising), (2, raising), (2, raising_here), (2, raising_elsewhere)):
            with pytest.raises(ReducerFailed, match=r"custom_predicate failed at .*KeyError"):
                await engine.replay(Ask(TASK, mode=ReplayMode.SELECTIVE, only=ReplayFilter(custom_predicate=predicate), workers=workers))


async def test_a_killed_process_gives_an_error_and_no_answer(url: str) -> None:
    async with Roll.open(url) as roll:
        engine = await roll.replay_engine()
        with pytest.raises(WorkerFailed, match="signal 9"):
            await engine.replay(Ask(TASK, mode=ReplayMode.SELECTIVE, only=ReplayFilter(custom_predicate=dying_elsewhere), workers=2))


async def test_a_replay_tells_how_far_it_is_and_can_be_cancelled(url: str) -> None:
    async with Roll.open(url) as roll:
        engine = await roll.replay_engine()
        told = []
        engine.add_replay_callback(told.append)
        found = await engine.replay_events("agent_state")
        assert told[-1].percent == 100
        assert [one.done for one in told] == sorted(one.done for one in told)
        assert engine.get_replay_progress(found["replay_id"]).finished
        assert engine.get_replay_progress("unknown") is None
        engine.add_replay_callback(lambda progress: engine.cancel_replay(progress.replay_id))
        for workers in (1, 2):
            with pytest.raises(ReplayCancelled):
                await engine.replay(Ask(AGENT, workers=workers, mode=ReplayMode.PARALLEL if workers > 1 else ReplayMode.FULL))
        assert engine.cleanup_old_replays(max_age_hours=0) == 3


async def test_a_callback_that_raises_changes_nothing(url: str) -> None:
    async with Roll.open(url) as roll:
        engine = await roll.replay_engine()

        def broken(progress: object) -> None:
            raise RuntimeError(progress)

        engine.add_replay_callback(broken)
        assert (await engine.replay(Ask(AGENT))).states


async def test_a_log_in_memory_says_why_it_stays_in_one_process() -> None:
    async with Roll.open("sqlite://:memory:") as roll:
        await roll.publish(AgentEvent("agent.started", "a", "agent"))
        with pytest.raises(SettingsError, match="stays with the process"):
            await (await roll.replay_engine()).replay(Ask(AGENT, mode=ReplayMode.PARALLEL, workers=2))


SCRIPT = """
import asyncio, sys
from tallyroll.replay.plan import ReplayMode
from tallyroll.replay.projector import StateProjector
from tallyroll.replay.replayer import Ask
from tallyroll.replay.views import AGENT
from tallyroll.roll import Roll

async def main():
    async with Roll.open(sys.argv[1]) as roll:
        found = await (await roll.replay_engine()).replay(Ask(AGENT, mode=ReplayMode.PARALLEL, workers=2))
        print(len(found.states), len(found.processes))

print("begins")
asyncio.run(main())
"""


@pytest.mark.parametrize("how", ["script", "-m", "-c"])
def test_a_program_needs_no_guard_and_its_main_module_runs_once(url: str, tmp_path: Path, how: str) -> None:
    (tmp_path / "unguarded.py").write_text(SCRIPT)
    command = {"script": ["unguarded.py"], "-m": ["-m", "unguarded"], "-c": ["-c", SCRIPT]}[how]
    absolute = url.replace("sqlite:///", "sqlite:////", 1) if not url.startswith("sqlite:////") else url
    done = subprocess.run(
        [sys.executable, *command, absolute], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=PATIENCE_S
    )
    assert done.stdout.split() == ["begins", "12", "2"]


def blank(owner: str) -> dict:
    return {"owner": owner, "kinds": [], "tokens": 0}


def count(state: dict, event: object) -> dict:
    state["kinds"] = [*state["kinds"][-9:], str(event.event_type)]
    state["tokens"] += event.payload.get("tokens", 0)
    return state


def broken(state: dict, event: object) -> dict:  # noqa: ARG001  # a handler
    raise KeyError(event.event_id)


def projector(handler: object = count) -> StateProjector:
    made = StateProjector(version=1)
    made.register_initializer(StateType.AGENT_STATE, blank)
    made.register_projection(StateType.AGENT_STATE, None, handler)
    return made


async def test_own_reducers_come_to_the_same_in_any_number_of_processes_with_and_without_an_archive(url: str) -> None:
    async with Roll.open(url) as roll:
        engine = await roll.replay_engine()
        alone = await engine.project(projector(), StateType.AGENT_STATE)
        view = await engine.replay(Ask(AGENT))
        for workers in (2, 3):
            many = await engine.project(projector(), StateType.AGENT_STATE, workers=workers)
            assert (many.states, many.events, many.as_of) == (alone.states, alone.events, alone.as_of)
        loop = await roll.follow("archive")
        for partition, end in alone.as_of.items():
            assert not end or await loop.caught_up(Position(*partition, end - 1), PATIENCE_S)
        await loop.stop()
        roll.archive().keeper.seal_all(await roll.archive_partitions())
        engine = await roll.replay_engine()
        assert (await engine.project(projector(), StateType.AGENT_STATE)).states == alone.states
        assert (await engine.project(projector(), StateType.AGENT_STATE, workers=2)).states == alone.states
        assert (await engine.replay(Ask(AGENT))).set_hash == view.set_hash
        moment = Fleet(seed=5, agents=12).start + timedelta(minutes=3)
        early = await engine.project(projector(), StateType.AGENT_STATE, moment, workers=2)
        assert early.events == sum(one.version for one in early.states.values()) < alone.events
    assert sum(state.state["tokens"] for state in alone.states.values()) == sum(state["tokens"] for state in view.states.values())


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_reducer_that_raises_says_at_which_event(url: str, workers: int) -> None:
    async with Roll.open(url) as roll:
        engine = await roll.replay_engine()
        with pytest.raises(ReducerFailed, match="KeyError"):
            await engine.project(projector(broken), StateType.AGENT_STATE, workers=workers)


async def test_a_reducer_without_a_name_stays_in_this_process(url: str) -> None:
    async with Roll.open(url) as roll:
        engine = await roll.replay_engine()
        unnamed = projector(lambda state, _: state)
        assert (await engine.project(unnamed, StateType.AGENT_STATE)).states
        with pytest.raises(ValueError, match="define it"):
            await engine.project(unnamed, StateType.AGENT_STATE, workers=2)
