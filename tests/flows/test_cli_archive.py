"""``tallyroll archive prune`` as people and scripts call it."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path

import pytest
from tests.flows.test_cli_replay import run

pytestmark = pytest.mark.slow
BEFORE = ("--before", "2026-01-06T00:00:00Z")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("cli")
    for seed, day in (("3", "05"), ("4", "06")):
        run(made, "simulate", "--seed", seed, "--agents", "4", "--events", "300", "--start", f"2026-01-{day}T08:00:00Z")
        run(made, "archive", "seal")
    return made


def test_a_prune_says_what_it_would_do_asks_and_does_it(folder: Path) -> None:
    before = json.loads(run(folder, "replay", "run", "agent", "--source", "archive", "--json"))
    looked = json.loads(run(folder, "archive", "prune", *BEFORE, "--dry-run", "--json"))
    assert sum(one["records"] for one in looked["partitions"]) == 300
    assert not any(one["pruned"] or one["refused"] for one in looked["partitions"])
    assert "add --yes" in run(folder, "archive", "prune", *BEFORE, code=2)
    assert "no sealed segment is that old as a whole" in run(folder, "archive", "prune", "--older-than", "36500d", "--yes")
    assert json.loads(run(folder, "replay", "run", "agent", "--source", "archive", "--json"))["coverage"] == "complete"

    some = looked["partitions"][0]["partition"]
    done = json.loads(run(folder, "archive", "prune", some, *BEFORE, "--yes", "--json"))
    assert [(one["partition"], one["pruned"]) for one in done["partitions"]] == [(some, True)]
    said = run(folder, "archive", "prune", *BEFORE, "--yes")
    assert "removed" in said
    assert "the start of" in run(folder, "archive", "status")
    kept = {one["partition"]: one["kept"] for one in json.loads(run(folder, "archive", "status", "--json"))["partitions"]}
    assert {name: kept[name] for name in kept if kept[name]} == {one["partition"]: one["kept"] for one in looked["partitions"]}

    after = json.loads(run(folder, "replay", "run", "agent", "--source", "archive", "--mode", "incremental", "--json"))
    assert (after["state_hash"], after["coverage"]) == (before["state_hash"], "from_snapshot")
    gone = run(folder, "replay", "run", "agent", "--source", "archive", code=4)
    assert "the archive was pruned" in gone
    assert "run --mode incremental" in gone
    assert json.loads(run(folder, "replay", "verify", "--json"))["sound"] is True


def test_what_may_not_go_is_named_and_stays(folder: Path) -> None:
    for path in folder.glob("log/archive/task-events/*/index.db"):
        index = sqlite3.connect(path, isolation_level=None)
        index.execute("UPDATE snap SET checksum = x'00'")
        index.close()
    found = json.loads(run(folder, "archive", "prune", "--older-than", "1ms", "--yes", "--json", code=1).splitlines()[0])["partitions"]
    refused = {one["partition"] for one in found if one["refused"]}
    assert refused == {one["partition"] for one in found if one["partition"].startswith("task-events/")}
    assert all("archive rebuild" in one["refused"] for one in found if one["refused"])
    assert all(one["pruned"] != bool(one["refused"]) for one in found)


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ([], 2, "one of --before and --older-than"),
        (["--before", "2026-01-01T00:00:00Z", "--older-than", "1d"], 2, "one of --before and --older-than"),
        (["--older-than", "1 year"], 2, "no duration"),
        (["nowhere/3", "--older-than", "1d"], 4, "nothing archived of nowhere/3"),
    ],
)
def test_what_cannot_be_pruned_says_why(folder: Path, words: list[str], code: int, says: str) -> None:
    said = run(folder, "archive", "prune", *words, code=code)
    assert says in said
    assert "next:" in said


def test_a_log_that_is_an_older_copy_than_the_archive_is_not_up_to_date(tmp_path: Path) -> None:
    def publish(task: str) -> None:
        run(tmp_path, "publish", "task.completed", task, "--agent", "coder-1")

    publish("task-7")
    log = tmp_path / "log"
    kept = shutil.copytree(log, tmp_path / "kept")
    publish("task-7")
    run(tmp_path, "run", "archive", "state", "--once")
    run(tmp_path, "archive", "status")
    assert run(tmp_path, "lag") == "state: up to date\n"
    for path in [*log.glob("log.db*")]:
        path.unlink()
    for path in kept.glob("log.db*"):
        shutil.copy(path, log)
    said = run(tmp_path, "run", "archive", "state", "--once", code=1)
    assert "archive and state ahead of the log" in said
    assert "what archive, state has stored is ahead of the log" in said
    found = json.loads(run(tmp_path, "archive", "status", "--json", code=1))
    assert [one["alarm"] for one in found["partitions"] if one["alarm"] != "ok"] == ["ahead"]
    assert "an older copy than the archive" in run(tmp_path, "archive", "status", code=1)
    doctor = [one for one in json.loads(run(tmp_path, "doctor", "--json", code=1))["checks"] if one["name"] == "archive"]
    assert [one["verdict"] for one in doctor] == ["fail"]
    assert "ahead of the log" in doctor[0]["says"]
    assert "state: ahead of the log" in run(tmp_path, "lag", "--max", "0", code=1)
