"""Rivals for the versions of one aggregate: what must hold on any log, however many write at once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from tallyroll.errors import VersionConflict
from tallyroll.events.event import AgentEvent
from tallyroll.events.ids import new_id
from tallyroll.publish.receipt import Receipt
from tallyroll.replay.views import TASK
from tallyroll.roll import Roll
from tallyroll.testing.contract import expect_equal


def _event(task_id: str, writer: int) -> AgentEvent:
    return AgentEvent("task.progressed", task_id, "task", {"progress_percent": writer})


async def rivals(rolls: Sequence[Roll], *, writers: int) -> None:
    """All expect the same version at the same moment: one has it, all others get VersionConflict and leave no trace in the state."""
    task_id = f"task-{new_id()}"
    calls = [rolls[number % len(rolls)].publish(_event(task_id, number), expected_version=0) for number in range(writers)]
    results = await asyncio.gather(*calls, return_exceptions=True)
    winners = [number for number, result in enumerate(results) if isinstance(result, Receipt)]
    expect_equal(len(winners), 1, "winners")
    losers = [result for result in results if isinstance(result, VersionConflict)]
    expect_equal(len(losers), writers - 1, "errors that say so")
    expect_equal({(error.expected, error.actual) for error in losers}, {(0, 1)}, "what the errors say")
    await _expect_state(rolls, task_id, version=1, last=winners[0])


async def compete(rolls: Sequence[Roll], *, writers: int, versions: int) -> None:
    """Each reads the version and tries for the next one until all are taken: each version has one owner, none is left out."""
    task_id = f"task-{new_id()}"
    owners: dict[int, int] = {}

    async def write(number: int) -> None:
        roll = rolls[number % len(rolls)]
        while (version := await roll.version("task", task_id)) < versions:
            try:
                await roll.publish(_event(task_id, number), expected_version=version)
            except VersionConflict:
                continue
            expect_equal(version + 1 in owners, False, f"version {version + 1} taken before")
            owners[version + 1] = number

    await asyncio.gather(*(write(number) for number in range(writers)))
    expect_equal(sorted(owners), list(range(1, versions + 1)), "versions taken")
    await _expect_state(rolls, task_id, version=versions, last=owners[versions])


async def _expect_state(rolls: Sequence[Roll], task_id: str, *, version: int, last: int) -> None:
    for roll in rolls:
        expect_equal(await roll.version("task", task_id), version, "the version as every process sees it")
    state = await rolls[0].replayed_state(TASK, task_id) or {}
    expect_equal((state.get("version"), state.get("progress_percent")), (version, last), "events in the replayed state, and the last one")
