"""``tallyroll replay`` and ``tallyroll archive`` as people and scripts call them."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.flows.test_cli import runner_for

from tallyroll.cli.replay.changed import both_shown
from tallyroll.replay.differences import MISSING

pytestmark = pytest.mark.slow


def run(folder: Path, *words: str, code: int = 0) -> str:
    done = runner_for(folder / "log")(*words, code=code)
    return done.stdout + (done.stderr if code else "")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("cli")
    run(made, "simulate", "--seed", "3", "--agents", "4", "--events", "1500", "--start", "2026-01-05T08:00:00Z")
    run(made, "archive", "seal")
    run(made, "simulate", "--seed", "4", "--agents", "4", "--events", "200", "--start", "2026-01-05T09:00:00Z")
    return made


@pytest.fixture
def own(folder: Path, tmp_path: Path) -> Path:
    """A copy for who changes something in it, so that tests may come in any order."""
    return shutil.copytree(folder, tmp_path / "own")


def test_every_mode_gives_the_same_hash(folder: Path) -> None:
    found = [
        json.loads(run(folder, "replay", "run", "agent", "--json", *options))
        for options in ([], ["--mode", "incremental"], ["--workers", "2"], ["--columnar"], ["--validate", "chain"])
    ]
    assert len({one["state_hash"] for one in found}) == 1
    assert [one["mode"] for one in found] == ["full", "incremental", "parallel", "full", "full"]
    assert found[1]["snapshot"] != "none"
    assert found[1]["events_processed"] < found[0]["events_processed"]
    again = json.dumps(found[0]["as_of"])
    assert json.loads(run(folder, "replay", "run", "agent", "--as-of", again, "--json"))["state_hash"] == found[0]["state_hash"]


def test_a_state_then_its_steps_and_what_changed(folder: Path) -> None:
    then = json.loads(run(folder, "replay", "state", "agent", "researcher-001", "--at", "2026-01-05T08:05:00Z", "--json"))
    assert (then["coverage"], then["final"], then["status"]) == ("complete", True, "running")
    steps = [
        json.loads(line)
        for line in run(folder, "replay", "step", "agent", "researcher-001", "--at", "2026-01-05T08:05:00Z", "--json").splitlines()
    ]
    assert len(steps) == then["version"] == steps[-1]["state"]["version"]
    changed = [
        json.loads(line)
        for line in run(folder, "replay", "diff", "agent", "researcher-001", "--since", "2026-01-05T08:05:00Z", "--json").splitlines()
    ]
    version = next(one for one in changed if one["path"] == "version")
    assert version["old"] == then["version"]
    assert len(version["events"]) == version["new"] - version["old"]
    first = json.loads(run(folder, "replay", "find", "agent", "researcher-001", "tasks_started >= 2", "--json"))
    assert (first["state"]["tasks_started"], first["exact"]) == (2, True)
    halved = json.loads(run(folder, "replay", "find", "agent", "researcher-001", "tasks_started >= 2", "--monotone", "--json"))
    assert halved["position"] == first["position"]
    dropped = json.loads(run(folder, "replay", "what-if", "agent", "researcher-001", "--drop", first["event_id"], "--json"))
    assert dropped["hypothetical"] is True
    assert dropped["truth"]["tasks_started"] == dropped["state"]["tasks_started"] + 1


def test_people_see_times_and_amounts_as_a_shown_state_has_them(folder: Path) -> None:
    now = json.loads(run(folder, "replay", "state", "agent", "researcher-001", "--json"))
    said = run(folder, "replay", "diff", "agent", "researcher-001", "--since", "2026-01-05T08:05:00Z")
    lines = {line.split()[0]: line.split() for line in said.splitlines() if line.strip()}
    assert lines["last_updated"][2] == now["last_updated"]
    assert not any(name.endswith(("_us", "_micro")) for name in lines)
    assert lines["cost"][2] == f"{now['cost_micro'] / 1e6:,.4f}"
    step = run(folder, "replay", "step", "agent", "researcher-001", "--last", "1")
    assert "_us=" not in step
    told = run(folder, "replay", "diff", "agent", "researcher-001", "--since", "2026-01-05T08:05:00Z", "--json").splitlines()
    assert {type(one["new"]) for one in map(json.loads, told) if one["path"].endswith("_us")} == {int}


@pytest.mark.parametrize(
    ("path", "old", "new", "shown"),
    [
        ("execution_time_us", 720_000_000, 721_000_000, ("720.000000 s", "721.000000 s")),
        ("execution_time_us", None, 720_000_000, ("-", "12 min")),
        ("cost_micro", 1_000_000, 1_000_010, ("1.000000", "1.000010")),
        ("progress_micro_percent", 500_000, 50_000_000, ("0.5 %", "50 %")),
        ("created_at_us", None, 1_767_225_600_000_000, ("-", "2026-01-01T00:00:00.000000Z")),
        ("last_seen.DATA_ACCESS", MISSING, ["t/0/1", 1_767_225_600_000_000], ("-", "t/0/1 2026-01-01T00:00:00.000000Z")),
    ],
)
def test_two_values_that_differ_look_different(path: str, old: object, new: object, shown: tuple[str, str]) -> None:
    assert both_shown(path, old, new) == shown


def test_the_stored_state_is_compared(own: Path) -> None:
    assert json.loads(run(own, "replay", "state", "agent", "researcher-001", "--live", "--json"))["differences"] == []


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["replay", "state", "agent", "nobody"], 4, "no event names"),
        (["replay", "state", "agent", "researcher-001", "--at", "2020-01-01T00:00:00Z"], 4, "its first one is of"),
        (["replay", "run", "planet"], 2, "no kind of state"),
        (["replay", "run", "agent", "--mode", "point_in_time"], 2, "needs a target"),
        (["replay", "run", "agent", "--policy", "gap"], 2, "FINDING=ACTION"),
        (["replay", "find", "agent", "researcher-001", "tokens >"], 2, "next:"),
        (["replay", "find", "agent", "researcher-001", "tokens < 0"], 4, "never true"),
        (["replay", "state", "agent", "researcher-001", "--version", "2"], 2, "many partitions"),
        (["replay", "run", "agent", "--as-of", '{"agent-events/0": 99999}'], 2, "it ends at"),
        (["replay", "state", "agent", "researcher-001", "--as-of", '{"agent-events/0": -1}'], 2, "has no offset -1"),
        (["replay", "run", "agent", "--as-of", '{"elsewhere/0": 1}'], 2, "no partition of this view"),
        (["replay", "step", "agent", "researcher-001", "--as-of", '{"task-events/0": 99999}'], 2, "it ends at"),
        (["replay", "diff", "agent", "researcher-001", "--since", "2026-01-05T08:05:00Z", "--until", "2026-01-05T08:01:00Z"], 2, "--until"),
        (["replay", "state", "task", "nobody"], 4, "replay run task --states"),
        (["archive", "query", "DROP TABLE records"], 2, "nothing can be written"),
        (["archive", "query", "SELECT nothing_like_it FROM events"], 2, "nothing_like_it"),
        (["archive", "query", "SELECT error('of the statement') FROM events"], 2, "of the statement"),
        (["archive", "rebuild", "nowhere/3"], 4, "nothing archived"),
        (["run", "nobody"], 2, "no follower"),
    ],
)
def test_what_cannot_be_done_says_why_and_what_next(folder: Path, words: list[str], code: int, says: str) -> None:
    said = run(folder, *words, code=code)
    assert says in said
    assert "next:" in said


def test_the_archive_answers_in_sql(folder: Path) -> None:
    rows = [
        json.loads(line)
        for line in run(folder, "archive", "query", "SELECT type, count(*) AS n FROM events GROUP BY type", "--json").splitlines()
    ]
    assert sum(row["n"] for row in rows) == 1_500
    tokens = json.loads(
        run(folder, "archive", "query", "SELECT sum(tokens) AS t, sum((data->>'tokens')::BIGINT) AS u FROM events", "--json")
    )
    assert tokens["t"] == tokens["u"] > 0


def test_a_lost_installation_is_restored_and_shown_to_be_the_same(own: Path) -> None:
    run(own, "run", "--once", "state", "analytics")
    (own / "before.json").write_text(run(own, "replay", "verify", "--sample", "5", "--metrics", "--json"))
    for path in [*own.glob("log/state.db*"), *own.glob("log/analytics.db*"), *own.glob("log/archive/*/*/index.db*")]:
        path.unlink()
    found = json.loads(run(own, "replay", "restore", "--expect", str(own / "before.json"), "--json"))
    assert (found["restored"], found["equals_full_replay"], found["equals_lost"]) == (["states", "metrics"], True, True)
    assert found["indexes_rebuilt"] > 0
    assert found["behind"]["audit"] > 0, "nobody has sealed it, and the answer does not pass over it"
    assert "analytics" not in found["behind"]
    again, before = json.loads(run(own, "replay", "verify", "--metrics", "--json")), json.loads((own / "before.json").read_text())
    assert again["metrics"] == before["metrics"]
    assert "not empty" in run(own, "replay", "restore", code=2)


def test_a_store_that_is_not_the_lost_one_is_called_so(own: Path) -> None:
    run(own, "run", "--once", "state", "analytics")
    lost = json.loads(run(own, "replay", "verify", "--json"))
    run(own, "simulate", "--seed", "5", "--agents", "4", "--events", "100", "--start", "2026-01-05T10:00:00Z")

    def restored(code: int, *options: str) -> dict[str, Any]:
        (own / "lost.json").write_text(json.dumps(lost))
        for path in [*own.glob("log/state.db*"), *own.glob("log/analytics.db*")]:
            path.unlink()
        said = run(own, "replay", "restore", "--expect", str(own / "lost.json"), "--json", *options, code=code)
        return json.loads(said.splitlines()[0])

    right, lost["metrics"]["hash"] = lost["metrics"]["hash"], "0" * 64
    found = restored(1)
    assert (found["equals_full_replay"], found["metrics"]["equals_lost"], found["equals_lost"]) == (True, False, False)
    found = restored(0, "--no-metrics")
    assert (found["restored"], found["metrics"], found["equals_lost"]) == (["states"], None, True)
    said = run(own, "replay", "restore", "--expect", str(own / "lost.json"), code=1)
    assert "the state store is not empty, and was left alone" in said
    assert "they do not equal the lost ones" in said
    lost["metrics"]["metrics"] = "of other metrics"
    assert restored(0)["metrics"]["equals_lost"] is None
    lost["metrics"]["metrics"], lost["metrics"]["hash"] = right, right
    lost["views"]["agent"]["hash"] = "0" * 64
    assert restored(1)["equals_lost"] is False
    (own / "lost.json").write_text("{}")
    assert "not what 'replay verify --json' prints" in run(own, "replay", "restore", "--expect", str(own / "lost.json"), code=2)


def test_metrics_that_the_records_do_not_come_to_are_found(own: Path) -> None:
    run(own, "run", "--once", "analytics")
    assert json.loads(run(own, "replay", "verify", "--metrics", "--json"))["sound"]
    with closing(sqlite3.connect(own / "log" / "analytics.db")) as connection, connection:
        connection.execute("DELETE FROM pane WHERE rowid = (SELECT max(rowid) FROM pane)")
    found = json.loads(run(own, "replay", "verify", "--metrics", "--json", code=1).splitlines()[0])
    assert [one["kind"] for one in found["wrong"]] == ["metrics_differ"]
    found = json.loads(run(own, "replay", "verify", "--json"))
    assert (found["sound"], found["metrics"]["panes"] > 0) == (True, True), "who does not ask does not count anew"
    assert json.loads(run(own, "replay", "verify", "--no-metrics", "--json"))["metrics"] is None


def test_what_no_state_has_is_not_looked_for(folder: Path) -> None:
    said = run(folder, "replay", "find", "agent", "researcher-001", "tokenz > 4 or tasks_started >= 2", code=2)
    assert "have no tokenz" in said
    assert "tokens, cost_micro" in said
    assert "never true" in run(folder, "replay", "find", "agent", "researcher-001", "tools.nothing > 4", code=4)


def test_a_damaged_segment_is_named(own: Path) -> None:
    segment = max(own.glob("log/archive/task-events/*/segments/*.parquet"), key=lambda path: path.stat().st_size)
    content = bytearray(segment.read_bytes())
    content[len(content) // 3] ^= 0xFF
    segment.write_bytes(bytes(content))
    found = json.loads(run(own, "replay", "verify", "--sample", "0", "--json", code=1).splitlines()[0])
    assert [one["kind"] for one in found["wrong"]] == ["segment_damaged"]
    assert segment.name in found["wrong"][0]["where"]
    assert not any(one["damaged"] for one in json.loads(run(own, "archive", "status", "--json"))["partitions"])
    segment.write_bytes(content[:-1])
    [short] = [one for one in json.loads(run(own, "archive", "status", "--json", code=1).splitlines()[0])["partitions"] if one["damaged"]]
    assert short["damaged"] == [{"segment": segment.name, "reason": f"it has {len(content) - 1} bytes, not {len(content)}"}]
    segment.write_bytes(content)
    assert [one["kind"] for one in json.loads(run(own, "replay", "verify", "--json", code=1).splitlines()[0])["wrong"]] == [
        "segment_damaged"
    ]
    segment.write_bytes(bytes(byte ^ 0xFF if 100 < at < len(content) - 2_000 else byte for at, byte in enumerate(content)))
    assert segment.name in run(own, "archive", "query", "SELECT max(data::VARCHAR) FROM events", code=1)
    segment.unlink()
    assert "the file is missing" in run(own, "archive", "query", "SELECT count(*) FROM events", code=1)
    found = json.loads(run(own, "replay", "verify", "--json", code=1).splitlines()[0])
    assert {(one["kind"], one["detail"]) for one in found["wrong"]} == {("segment_damaged", "the file is missing")}
    assert f"{segment.name}" in run(own, "archive", "status", code=1)
    [check] = [one for one in json.loads(run(own, "doctor", "--json", code=1).splitlines()[0])["checks"] if one["name"] == "archive"]
    assert check["verdict"] == "fail"
    assert segment.name in check["says"]
    other = next(path for path in own.glob("log/archive/agent-events/*") if any(path.glob("segments/*.parquet")))
    for path in other.glob("index.db*"):
        path.unlink()
    told = json.loads(run(own, "archive", "status", "--json", code=1).splitlines()[0])["partitions"]
    damaged = {one["partition"]: one["damaged"][0]["segment"] for one in told if one["damaged"]}
    assert damaged == {f"task-events/{segment.parent.parent.name}": segment.name, f"agent-events/{other.name}": "index.db"}
