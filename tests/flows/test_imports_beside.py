"""What blocks goes on beside the event loop: the importing for a first use, the closing of files."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from tests.patience import PATIENCE_S

from tallyroll.events.event import AgentEvent
from tallyroll.roll import Roll

pytestmark = pytest.mark.slow

PROGRAM = """
import asyncio, json, sys, threading
from tallyroll import AgentEvent, Roll

here, on_loop = threading.get_ident(), {}

class Watching:
    def __init__(self, names):
        self.names = names

    def find_spec(self, name, *_):
        if threading.get_ident() == here:
            self.names.append(name)

async def watched(what, begin):
    sys.meta_path.insert(0, Watching(on_loop.setdefault(what, [])))
    await begin()
    sys.meta_path.pop(0)

async def main():
    async with Roll.open(sys.argv[1]) as roll:
        receipt = await roll.publish(AgentEvent("agent.started", "a", "agent"))
        await watched("audit", lambda: roll.audit.create_audit_entry("a.read", "data_access", "read", "first use"))
        await watched("audit", lambda: roll.audit.query_audit_trail(event_type="a.read"))
        await watched("archive", lambda: roll.follow("archive"))
        assert await roll.caught_up(receipt.position, float(sys.argv[2]), follower="archive")
        await watched("archive", roll.replay_engine)
        await watched("analytics", lambda: roll.follow("analytics"))

asyncio.run(main())
print(json.dumps({what: [name for name in names if name in sys.modules] for what, names in on_loop.items()}))
"""


@pytest.fixture(scope="module")
def imported_on_the_loop(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Sequence[str]]:
    words = [sys.executable, "-c", PROGRAM, f"sqlite:///{tmp_path_factory.mktemp('log')}", str(PATIENCE_S)]
    return json.loads(subprocess.run(words, capture_output=True, text=True, check=True, timeout=2 * PATIENCE_S).stdout)


@pytest.mark.parametrize("used", ["audit", "archive", "analytics"])
def test_a_first_use_imports_next_to_nothing_on_the_event_loop(imported_on_the_loop: Mapping[str, Sequence[str]], used: str) -> None:
    assert "tallyroll.audit.trail" in imported_on_the_loop["audit"]  # which is so little that it may: it was watched
    assert len(imported_on_the_loop[used]) <= 8, imported_on_the_loop[used]  # what does the work is a hundred modules and more


async def test_no_database_is_closed_on_the_event_loop(tmp_path: Path) -> None:
    closed: list[object] = []

    def notice(_: object, event: str, called: object) -> None:
        if event == "c_call" and isinstance(getattr(called, "__self__", None), sqlite3.Connection) and called.__name__ == "close":
            closed.append(called)

    async with Roll.open(f"sqlite:///{tmp_path}") as roll:
        receipt = await roll.publish(AgentEvent("task.started", "t", "task", {"agent_id": "a"}))
        for follower in ("state", "archive", "analytics", "audit"):
            assert await roll.caught_up(receipt.position, PATIENCE_S, follower=follower)
        await roll.replay_engine()
        await roll.agents(object())
        sys.setprofile(notice)
    sys.setprofile(None)
    assert closed == []
