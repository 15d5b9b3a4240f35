"""The commands against a real broker: topics are planned, applied and compared, and the rest works as on the embedded log."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import OFFSET_END, TopicPartition
from confluent_kafka.admin import AdminClient
from tests.patience import PATIENCE_S, SESSION_MS
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


def test_what_the_topics_have_deleted_is_restored_from_the_archive(run: Run, kafka: str, prefix: str, tmp_path: Path) -> None:
    run("topics", "apply", "--yes")
    run("simulate", "--events", "900", "--agents", "4", "--seed", "5", "--start", "2026-01-05T08:00:00Z")
    run("run", "--once", "state", "archive", "analytics")
    run("archive", "seal")
    forget_records(kafka, prefix)
    run("simulate", "--events", "300", "--agents", "4", "--seed", "6", "--start", "2026-01-05T09:00:00Z")
    run("run", "--once", "state", "analytics")
    (before,) = run("replay", "verify", "--metrics")
    assert before["metrics"]["panes"] > 100
    assert {first for first, _ in before["metrics"]["as_of"].values()} == {0}
    (tmp_path / "before.json").write_text(json.dumps(before))
    run("simulate", "--events", "100", "--agents", "4", "--seed", "7", "--start", "2026-01-05T10:00:00Z")
    for path in [*tmp_path.glob("state.db*"), *tmp_path.glob("analytics.db*"), *tmp_path.glob("archive/*/*/index.db*")]:
        path.unlink()
    (found,) = run("replay", "restore", "--expect", str(tmp_path / "before.json"))
    assert (found["restored"], found["equals_full_replay"], found["equals_lost"]) == (["states", "metrics"], True, True)
    assert (found["coverage"], found["metrics"]["equals_lost"]) == ("complete", True)
    assert found["metrics"]["hash"] != before["metrics"]["hash"], "what came after the loss is in the store"
    assert sum(following for _, following in found["metrics"]["as_of"].values()) == 1_300
    assert run("run", "--once", "analytics")[0]["behind"] == 0
    assert run("replay", "verify", "--metrics")[0]["sound"]


def forget_records(kafka: str, prefix: str) -> None:
    """Deletes everything that the topics have so far, as retention would."""
    client = AdminClient({"bootstrap.servers": kafka})
    topics = client.list_topics(timeout=PATIENCE_S).topics.items()
    ends = [TopicPartition(name, number, OFFSET_END) for name, about in topics if name.startswith(prefix) for number in about.partitions]
    deleted = client.delete_records(ends)
    assert any(future.result(PATIENCE_S).low_watermark for future in deleted.values())
