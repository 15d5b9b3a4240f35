"""What blocks goes on beside the event loop: the importing for a first use, the closing of files."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import pytest
from tests.patience import PATIENCE_S

from tallyroll.events.event import AgentEvent
from tallyroll.roll import Roll

pytestmark = pytest.mark.slow

PROGRAM = """
import asyncio, json, sys, threading
from tallyroll import AgentEvent, Roll

here, sought = threading.get_ident(), {}

class Watching:
    def __init__(self, what):
        self.places = sought.setdefault(what, {"loop": [], "beside": []})

    def find_spec(self, name, *_):
        self.places["loop" if threading.get_ident() == here else "beside"].append(name)

async def watched(what, begin):
    sys.meta_path.insert(0, Watching(what))
    await begin()
    sys.meta_path.pop(0)

async def carelessly():
    import tallyroll.cli.app

async def main():
    async with Roll.open(sys.argv[1]) as roll:
        receipt = await roll.publish(AgentEvent("agent.started", "a", "agent"))
        await watched("audit", lambda: roll.audit.create_audit_entry("a.read", "data_access", "read", "first use"))
        await watched("audit", lambda: roll.audit.query_audit_trail(event_type="a.read"))
        await watched("archive", lambda: roll.follow("archive"))
        assert await roll.caught_up(receipt.position, float(sys.argv[2]), follower="archive")
        await watched("archive", roll.replay_engine)
        await watched("analytics", lambda: roll.follow("analytics"))
        await watched("control", carelessly)

def found(names):
    return [name for name in names if name in sys.modules]

asyncio.run(main())
print(json.dumps({what: {place: found(names) for place, names in places.items()} for what, places in sought.items()}))
"""


Imported = Mapping[str, Mapping[str, Sequence[str]]]
"""By what was used: the modules that were imported on the event loop, and those beside it."""

FEW = 8  # what does the work is a hundred modules and more


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Imported:
    words = [sys.executable, "-c", PROGRAM, f"sqlite:///{tmp_path_factory.mktemp('log')}", str(PATIENCE_S)]
    return json.loads(subprocess.run(words, capture_output=True, text=True, check=True, timeout=2 * PATIENCE_S).stdout)


@pytest.mark.parametrize("used", ["audit", "archive", "analytics"])
def test_a_first_use_imports_next_to_nothing_on_the_event_loop(imported: Imported, used: str) -> None:
    assert len(imported[used]["beside"]) > FEW, "there was something to import"
    assert len(imported[used]["loop"]) <= FEW, imported[used]["loop"]


def test_what_is_imported_on_the_event_loop_is_seen(imported: Imported) -> None:
    assert len(imported["control"]["loop"]) > FEW
    assert imported["control"]["beside"] == []


@contextmanager
def closed_here() -> Iterator[list[object]]:
    """The connections that are closed by this thread."""
    closed: list[object] = []

    def notice(_: object, event: str, called: object) -> None:
        connection = getattr(called, "__self__", None)
        if event == "c_call" and isinstance(connection, sqlite3.Connection) and called.__name__ == "close":
            closed.append(connection)

    before = sys.getprofile()
    sys.setprofile(notice)
    try:
        yield closed
    finally:
        sys.setprofile(before)


async def test_no_database_is_closed_on_the_event_loop(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        roll = await stack.enter_async_context(Roll.open(f"sqlite:///{tmp_path}"))
        receipt = await roll.publish(AgentEvent("task.started", "t", "task", {"agent_id": "a"}))
        for follower in ("state", "archive", "analytics", "audit"):
            assert await roll.caught_up(receipt.position, PATIENCE_S, follower=follower)
        await roll.replay_engine()
        await roll.agents(object())
        with closed_here() as closed:
            await stack.aclose()
    assert closed == []


async def test_a_database_that_is_closed_on_the_event_loop_is_seen() -> None:
    connection = sqlite3.connect(":memory:")
    with closed_here() as closed:
        connection.close()
    assert closed == [connection]
