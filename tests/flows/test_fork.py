"""A forked child publishes on its own; the parent's buffer stays the parent's."""

from __future__ import annotations

import subprocess
import sys

import pytest
from tests.flows.leaving import find, leave, spooled
from tests.patience import PATIENCE_S

from tallyroll.settings import Settings

pytestmark = pytest.mark.slow


def test_on_the_embedded_log_parent_and_child_both_publish_once(tmp_path):
    url = f"sqlite:///{tmp_path}"
    left = leave("fork", url, tmp_path, 50)
    assert left.code == 0, left.errors
    found = find(Settings(url=url))
    assert sorted(left.ids) == sorted(record.event_id for records in found.seen.values() for record in records)
    for key in ("task-parent", "task-child", "task-parent-2"):
        assert found.numbers(key) == list(range(50))
    assert found.findings == []


def test_while_the_broker_is_away_each_has_a_spool_of_its_own(tmp_path):
    left = leave("fork", "kafka://127.0.0.1:1", tmp_path, 50, "TALLYROLL_EXIT_GRACE_MS=200")
    assert left.code == 0, left.errors
    waiting = spooled(tmp_path)
    assert sorted(set(waiting)) == sorted(left.ids)


FOLLOWING = """
import asyncio, multiprocessing, sys
from tallyroll import AgentEvent, Roll, TallyrollError
from tallyroll.replay.views import AGENT

async def tried(roll):
    asked = {
        "state": lambda: roll.agent_state("a"),
        "look": lambda: roll.state(AGENT, "a", follow=False),
        "archive": lambda: roll.archive_report(),
        "metrics": lambda: roll.open_alerts(),
    }
    for name, ask in asked.items():
        try:
            print(name, "answered", await asyncio.wait_for(ask(), float(sys.argv[2])), flush=True)
        except (RuntimeError, TallyrollError) as error:
            print(name, type(error).__name__, "fork" in str(error), flush=True)
    await roll.publish(AgentEvent("agent.started", "child", "agent"))

def child(roll):
    asyncio.run(tried(roll))

async def main():
    async with Roll.open(sys.argv[1]) as roll:
        receipt = await roll.publish(AgentEvent("agent.started", "a", "agent"))
        for follower in ("state", "archive", "analytics"):
            assert await roll.caught_up(receipt.position, float(sys.argv[2]), follower=follower)
        process = multiprocessing.get_context("fork").Process(target=child, args=(roll,))
        process.start()
        await asyncio.to_thread(process.join)
        assert process.exitcode == 0
        print((await roll.agent_state("a"))["status"], len(await roll.agent_timeline("child")))

asyncio.run(main())
"""


def test_what_follows_and_reads_stores_is_refused_to_a_forked_child_and_the_parent_goes_on(tmp_path):
    words = [sys.executable, "-c", FOLLOWING, f"sqlite:///{tmp_path}", str(PATIENCE_S)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=2 * PATIENCE_S)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "state RuntimeError True",
        "look StoreUnavailable True",
        "archive StoreUnavailable True",
        "metrics StoreUnavailable True",
        "running 1",
    ]
