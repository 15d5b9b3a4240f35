"""The default roll in programs with several event loops: scripts, threads, notebooks."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.patience import PATIENCE_S, READ_WAIT_MS, SESSION_MS

import tallyroll
from tallyroll import AgentEvent, Roll, close_default, configure, current_roll, publish_agent_event, replay_agent_state, reset_defaults


@pytest.fixture(autouse=True)
def _default(tmp_path: Path) -> Iterator[None]:
    configure(f"sqlite:///{tmp_path}")
    yield
    reset_defaults()


def test_each_call_of_asyncio_run_has_a_roll_of_its_own_and_leaves_no_thread() -> None:
    threads = threading.active_count()
    for _ in range(3):
        asyncio.run(publish_agent_event("agent.started", "a"))
    state = asyncio.run(replay_agent_state("a"))
    assert state is not None
    assert state["version"] == 3
    assert threading.active_count() == threads


def test_what_followed_in_a_call_of_asyncio_run_leaves_its_partitions_to_the_next_one(tmp_path: Path) -> None:
    configure(f"sqlite:///{tmp_path}", session_timeout_ms=SESSION_MS, read_wait_ms=READ_WAIT_MS)

    async def started(agent: str) -> str | None:
        await publish_agent_event("agent.started", agent)
        state = await (await current_roll()).agent_state(agent)
        return None if state is None else state["status"]

    assert [asyncio.run(started(f"agent-{number}")) for number in range(3)] == ["running"] * 3


async def test_other_threads_with_loops_of_their_own_leave_the_roll_of_this_one_alone() -> None:
    roll = await current_roll()
    await asyncio.to_thread(asyncio.run, publish_agent_event("agent.started", "elsewhere"))
    assert await current_roll() is roll
    await publish_agent_event("agent.started", "here")
    await close_default()


def test_two_loops_that_open_theirs_at_the_same_moment_do_not_get_each_others() -> None:
    opened: dict[str, list[tallyroll.Roll]] = {"first": [], "second": []}
    asked, go_on = threading.Event(), threading.Event()

    async def open_slowly() -> None:
        opening = asyncio.ensure_future(current_roll())
        await asyncio.sleep(0)  # noqa: TID251  # it has begun to open
        asked.set()
        assert await asyncio.to_thread(go_on.wait, PATIENCE_S)
        opened["first"] += [await opening, await current_roll()]
        await publish_agent_event("agent.started", "first")

    async def open_meanwhile() -> None:
        assert await asyncio.to_thread(asked.wait, PATIENCE_S)
        opening = asyncio.ensure_future(current_roll())
        await asyncio.sleep(0)  # noqa: TID251  # as above
        go_on.set()
        opened["second"] += [await opening, await current_roll()]
        await publish_agent_event("agent.started", "second")

    other = threading.Thread(target=asyncio.run, args=(open_meanwhile(),))
    other.start()
    asyncio.run(open_slowly())
    other.join(PATIENCE_S)
    assert not other.is_alive()
    assert opened["first"][0] is opened["first"][1]
    assert opened["second"][0] is opened["second"][1]
    assert opened["first"][0] is not opened["second"][0]


async def test_a_roll_that_a_notebook_opened_in_an_earlier_cell_stays_open(tmp_path: Path) -> None:
    roll = await Roll.open(f"sqlite:///{tmp_path / 'cells'}").__aenter__()
    gc.collect()
    await asyncio.sleep(0)  # noqa: TID251  # what ends a generator that nobody holds would have begun
    await asyncio.gather(*(task for task in asyncio.all_tasks() if "athrow" in type(task.get_coro()).__name__))
    await roll.publish(AgentEvent("agent.started", "a", "agent"))
    state = await roll.agent_state("a")
    assert state is not None
    assert state["status"] == "running"
    del roll
    gc.collect()
    await asyncio.sleep(0)  # noqa: TID251  # as above
    await asyncio.gather(*(task for task in asyncio.all_tasks() if "athrow" in type(task.get_coro()).__name__))


async def test_new_settings_beside_an_open_default_roll_are_not_taken_without_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    roll = await current_roll()
    with caplog.at_level(logging.WARNING, "tallyroll"):
        configure(roll.settings)
        assert caplog.messages == []
        configure(f"sqlite:///{tmp_path / 'other'}")
    assert caplog.messages == [
        "the default roll is open, and stays as it is; 'await close_default()' first, then the new settings are used"
    ]
    assert await current_roll() is roll
    await close_default()
    assert (await current_roll()).settings.url.endswith("other")
    await close_default()
