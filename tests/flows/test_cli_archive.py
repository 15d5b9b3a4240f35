"""``tallyroll archive prune`` as people and scripts call it."""

from __future__ import annotations

import json
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
