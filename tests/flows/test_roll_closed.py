"""A roll after its block: every public call says that it is closed, and opens nothing anew."""

from __future__ import annotations

import inspect
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from tallyroll.audit.trail import AuditTrail
from tallyroll.errors import RollClosed, StoreUnavailable
from tallyroll.events.event import AgentEvent
from tallyroll.roll import Roll

CALLS = sorted(name for name in dir(Roll) if not name.startswith("_") and name not in ("open", "audit"))
OF_AUDIT = sorted(name for name in dir(AuditTrail) if inspect.iscoroutinefunction(getattr(AuditTrail, name)) and not name.startswith("_"))


async def _used(folder: Path) -> Roll:
    """A closed roll that has opened its stores."""
    async with Roll.open(f"sqlite:///{folder}") as roll:
        await roll.publish(AgentEvent("agent.started", "a-1", "agent"))
        assert await roll.agent_state("a-1")
        await roll.open_alerts()
        assert isinstance(roll.audit, AuditTrail)
    return roll


async def _unused(folder: Path) -> Roll:
    async with Roll.open(f"sqlite:///{folder}") as roll:
        return roll


async def _call(of: object, name: str) -> None:
    call: Any = getattr(of, name)
    needed = [one for one in inspect.signature(call).parameters.values() if one.default is one.empty]
    given = [object() for one in needed if one.kind is one.POSITIONAL_OR_KEYWORD]
    found = call(*given, **{one.name: object() for one in needed if one.kind is one.KEYWORD_ONLY})
    if inspect.isawaitable(found):
        await found
    elif isinstance(found, AsyncGenerator):
        await anext(found)
    elif isinstance(found, AbstractAsyncContextManager):
        async with found:
            pass


@pytest.mark.parametrize("made", [_used, _unused])
async def test_every_call_of_a_closed_roll_says_that_it_is_closed(tmp_path: Path, made: Callable[[Path], Awaitable[Roll]]) -> None:
    roll, before = await made(tmp_path / "log"), threading.active_count()
    for name in CALLS:
        with pytest.raises(RollClosed, match="use it inside of the block"):
            await _call(roll, name)
    assert threading.active_count() == before
    assert not RollClosed.retriable


async def test_so_does_its_audit_trail(tmp_path: Path) -> None:
    roll = await _used(tmp_path / "log")
    for name in OF_AUDIT:
        with pytest.raises(RollClosed):
            await _call(roll.audit, name)
    with pytest.raises(RollClosed):
        _ = (await _unused(tmp_path / "other")).audit


async def test_an_engine_that_outlives_its_roll_says_that_its_store_is_closed(tmp_path: Path) -> None:
    async with Roll.open(f"sqlite:///{tmp_path / 'log'}") as roll:
        engine = await roll.analytics(follow=False)
    with pytest.raises(StoreUnavailable, match="it is closed"):
        await engine.get_system_analytics()
