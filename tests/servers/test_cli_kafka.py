"""The commands against a real broker: topics are planned, applied and compared, and the rest works as on the embedded log."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.patience import SESSION_MS
from typer.testing import CliRunner

from tallyroll.cli.app import app

pytestmark = [pytest.mark.server, pytest.mark.slow]

Run = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def run(kafka: str, prefix: str, tmp_path: Path) -> Run:
    environment = {"TALLYROLL_URL": f"kafka://{kafka}", "TALLYROLL_TOPIC_PREFIX": prefix, "TALLYROLL_DATA_DIR": str(tmp_path)}
    environment["TALLYROLL_SESSION_TIMEOUT_MS"] = str(SESSION_MS)
    runner = CliRunner(env=environment)

    def invoke(*words: str, code: int = 0) -> list[dict[str, Any]]:
        result = runner.invoke(app, [*words, "--json"])
        assert result.exit_code == code, f"{words}: {result.output}"
        return [json.loads(line) for line in result.stdout.splitlines()]

    return invoke


def test_topics_are_made_once_and_then_as_the_catalogue_says(run: Run, prefix: str) -> None:
    (plan,) = run("topics", "plan")
    assert {change["create"].removeprefix(prefix) for change in plan["changes"]} >= {"agent-events", "task-events", "dead-letters"}
    assert run("topics", "drift", code=1)[0]["differences"]
    assert not run("doctor", code=1)[0]["ok"]
    run("topics", "apply", code=2)  # nobody is there to be asked
    assert run("topics", "apply", "--yes")[0]["applied"] == 7
    assert run("topics", "plan") == [{"changes": [], "refusals": []}]
    assert run("topics", "drift") == [{"differences": []}]
    assert all(topic["actual"]["partitions"] == topic["partitions"] for topic in run("topics", "describe"))
    assert run("doctor")[0]["ok"]


def test_a_fleet_is_published_followed_listed_and_verified(run: Run) -> None:
    run("topics", "apply", "--yes")
    assert run("simulate", "--events", "400", "--agents", "3", "--seed", "1")[0]["published"] == 400
    assert run("lag")[0]["records"] > 300
    assert run("agents", "ls") == []  # only a look: no member of the group, nothing stored yet
    assert run("run", "--once")[0]["behind"] == 0
    agents = run("agents", "ls")
    assert len(agents) == 3
    name = agents[0]["agent_id"]
    assert run("agents", "state", name)[0]["version"] == run("agents", "state", name, "--at", "2100-01-01T00:00:00Z")[0]["version"]
    assert len(run("tail", "--all")) == 400
    assert run("verify", "chain")[0]["linked"] == 400
