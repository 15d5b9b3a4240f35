"""``tallyroll audit`` as people, scripts and auditors call it."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import io
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.flows.test_cli import Run, runner_for
from tests.patience import PATIENCE_S

from tallyroll import Roll
from tallyroll.audit.verify.__main__ import main

pytestmark = pytest.mark.slow


class Desk:
    """A folder with a log, and who types commands there."""

    def __init__(self, folder: Path, **environ: str) -> None:
        self.folder = folder
        self._run: Run = runner_for(folder / "log", **environ)

    def run(self, *words: str, code: int = 0) -> str:
        """What is printed; with another exit code than 0 also what is said about it."""
        done = self._run("audit", *words, code=code)
        return done.stdout + (done.stderr if code else "")

    def asked(self, *words: str, code: int = 0) -> dict:
        return json.loads(self.run(*words, "--json", code=code).splitlines()[0])

    def file(self, name: str) -> str:
        return str(self.folder / name)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    made = tmp_path_factory.mktemp("audit")
    asyncio.run(record(made))
    return Desk(made)


def test_a_ledger_that_is_lost_is_missed_and_begun_anew_only_when_somebody_says_so(tmp_path: Path) -> None:
    asyncio.run(record(tmp_path))
    desk = Desk(tmp_path)
    assert "nothing is missing" in desk.run("begin-anew", "--who", "operations", "--why", "none", "--yes", code=4)
    assert "no witness is configured" in desk._run("audit", "verify").stderr
    for path in (tmp_path / "log" / "audit").glob("ledger.sqlite*"):
        path.unlink()
    for _ in range(2):  # it stays missing
        said = desk.run("verify", code=1)
        assert "tallyroll audit begin-anew" in said
        assert "and here up to nothing" in said
        assert "0 of 0 entries" in said
    begun = desk.asked("begin-anew", "--who", "operations", "--why", "ticket-4711", "--yes")
    assert begun["partitions"]
    assert desk.asked("verify")["valid"]
    assert {"rewound", "begin_anew"} <= {one["action"] for one in desk.asked("query")["entries"]}
    assert "nothing is missing" in desk.run("begin-anew", "--who", "operations", "--why", "again", "--yes", code=4)


def test_nothing_is_sealed_of_a_log_that_is_an_older_copy_than_the_ledger(tmp_path: Path) -> None:
    asyncio.run(record(tmp_path))
    desk = Desk(tmp_path)
    assert desk._run("run", "audit", "state", "--once").stdout
    kept = shutil.copytree(tmp_path / "log", tmp_path / "kept", ignore=shutil.ignore_patterns("audit*", "state*"))
    desk._run("publish", "task.completed", "task-7", "--agent", "coder-1")
    desk._run("run", "audit", "state", "--once")
    newest = shutil.copytree(tmp_path / "log", tmp_path / "newest", ignore=shutil.ignore_patterns("audit*", "state*"))
    put_back(kept, tmp_path / "log")
    said = desk._run("run", "audit", "state", "--once", code=1).stderr
    assert "what audit, state has stored is ahead of the log" in said
    desk._run("publish", "task.completed", "task-8", "--agent", "coder-1")
    assert "put the newest copy of the log back" in desk._run("doctor", code=1).stdout
    assert "put the newest back" in desk._run("run", "audit", "--once", code=1).stderr
    put_back(newest, tmp_path / "log")
    desk._run("run", "audit", "state", "--once")
    assert desk.asked("verify")["valid"]


def put_back(copy: Path, folder: Path) -> None:
    for path in folder.glob("log.db*"):
        path.unlink()
    for path in copy.glob("log.db*"):
        shutil.copy(path, folder / path.name)


def test_a_witness_is_asked_about_a_ledger_that_was_deleted_and_begun_anew(tmp_path: Path) -> None:
    asyncio.run(record(tmp_path))
    run = runner_for(tmp_path / "log", AUDIT_WITNESS=f"file:{tmp_path / 'witness'}")
    for _ in range(2):
        assert "tallyroll/witness has seen" in run("audit", "verify").stderr
    for path in (tmp_path / "log" / "audit").glob("ledger.sqlite*"):
        path.unlink()
    run("audit", "begin-anew", "--who", "operations", "--why", "ticket-4711", "--yes")
    found = json.loads(run("audit", "verify", "--json", code=1).stdout)
    (code,) = found["counts"]  # which of the two depends on how often the ones before and this one were signed
    assert code in {"rolled_back", "split_view"}
    assert not found["valid"]


def unreadable(folder: Path) -> None:
    folder.chmod(0)


def without_its_key(folder: Path) -> None:
    (folder / "key").write_bytes(b"no key")


@pytest.mark.parametrize(
    ("spoil", "why"), [(unreadable, "Permission denied"), (without_its_key, "it holds no secret; restore it from a copy")]
)
def test_a_witness_in_a_folder_that_who_verifies_may_not_read_is_away(tmp_path: Path, spoil: Callable[[Path], None], why: str) -> None:
    asyncio.run(record(tmp_path))
    folder, environ = tmp_path / "witness", {"AUDIT_WITNESS": f"file:{tmp_path / 'witness'}"}
    assert "tallyroll/witness has seen" in runner_for(tmp_path / "log", **environ)("audit", "verify").stderr
    asyncio.run(record(tmp_path))  # there is something to be sealed, too
    spoil(folder)
    try:
        command = [*denied(), sys.executable, "-m", "tallyroll", "audit", "verify", "--json"]
        environ |= {**os.environ, "TALLYROLL_URL": f"sqlite:///{tmp_path / 'log'}"}
        done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    finally:
        folder.chmod(0o700)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert (found["valid"], found["counts"]) == (True, {"witness_away": 1})
    assert found["verified_entries"] == found["total_entries"] >= 10
    assert found["coverage"]["witnesses"] == {"tallyroll/witness": None}
    assert [one["detail"] for one in found["findings"]] == [f"witness tallyroll/witness: {folder / 'key'}: {why}"]


def denied() -> list[str]:
    """Before a command: what files allow counts for it, also where root runs the tests."""
    rights = "-dac_override,-dac_read_search"
    return ["setpriv", f"--bounding-set={rights}", f"--inh-caps={rights}"] if os.geteuid() == 0 else []


async def record(folder: Path) -> None:
    async with Roll.open(f"sqlite:///{folder / 'log'}") as roll:
        for number in range(4):
            await roll.audit.create_audit_entry(
                "customer.changed", "data_modification", "update", f"changed the address of cust-{number}-canary",
                user_id="anna-canary", agent_id=f"crm-{number % 2}", resource="address-canary", source_ip="203.0.113.9",
                payload={"customer_id": f"cust-{number}-canary"}, compliance_frameworks={"gdpr"},
            )  # fmt: skip
        await roll.audit.create_audit_entry("agent.paused", "agent_lifecycle", "pause", "", agent_id="crm-0")


def test_who_does_not_ask_for_more_sees_no_personal_data(desk: Desk) -> None:
    page = desk.asked("query", "--agent", "crm-0", "--type", "customer.changed")
    assert page["total_count"] == 2
    audit_id = page["entries"][0]["audit_id"]
    commands = (
        ("query",), ("show", audit_id), ("show", audit_id, "--json"), ("export", "--format", "csv"), ("export", "--format", "ocsf"),
        ("export",), ("report", "gdpr"), ("report", "gdpr", "--json"), ("proof", audit_id), ("verify",), ("keys", "status"),
    )  # fmt: skip
    shown = [json.dumps(page), *(desk.run(*words) for words in commands)]
    assert all("canary" not in text and "203.0.113" not in text for text in shown)
    assert desk.asked("query", "--type", "audit.read")["total_count"] == 0


def test_sealed_fields_are_opened_for_who_says_so_and_that_is_recorded(desk: Desk) -> None:
    page = desk.asked("query", "--user", "anna-canary", "--personal", "--purpose", "case 12", "--reader", "auditor-7")
    assert {entry["user_id"] for entry in page["entries"]} == {"anna-canary"}
    assert page["entries"][0]["payload"] == {"customer_id": "cust-3-canary"}
    reads = desk.asked("query", "--type", "audit.read", "--personal", "--reader", "auditor-8")["entries"]
    (read,) = [one for one in reads if one["purpose"] == "case 12"]  # other tests read as well
    assert (read["user_id"], read["purpose"], read["payload"]["filters"]) == ("auditor-7", "case 12", ["user_id"])
    assert "add --personal" in desk.run("query", "--user", "anna-canary", code=2)


def test_pages_of_one_moment(desk: Desk) -> None:
    first = desk.asked("query", "--limit", "2")
    second = desk.asked("query", "--limit", "2", "--offset", "2", "--as-of", json.dumps(first["as_of"]))
    assert first["total_count"] == second["total_count"]
    assert not {one["audit_id"] for one in first["entries"]} & {one["audit_id"] for one in second["entries"]}
    assert "--as-of" in desk.run("query", "--as-of", "17", code=2)


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["query", "--category", "fun"], 2, "category"),
        (["query", "--since", "yesterday"], 2, "--since"),
        (["show", "nobody"], 4, "no such entry"),
        (["proof", "nobody"], 4, "no such entry"),
        (["proof"], 2, "AUDIT_ID"),
        (["proof", "--from-size", "1000000"], 2, "--from-size"),
        (["export", "--format", "xml"], 2, "xml"),
        (["export", "--format", "ledger"], 2, "whole"),
        (["report", "fun"], 2, "sox, gdpr, hipaa, pci_dss, soc2, iso27001, nist, eu_ai_act, custom"),
        (["evidence", "fun", "/nowhere/at/all.zip"], 2, "there is no framework fun"),
        (["rules", "--framework", "fun"], 2, "fun"),
        (["keys", "rotate"], 2, "--yes"),
        (["hold", "--who", "a", "--why", "b", "--partition", "3", "--start", "5", "--end", "2"], 2, "end: expected more than 5"),
        (["hold", "--who", "a", "--why", "b", "--start", "5"], 2, "of a partition"),
    ],
)
def test_what_cannot_be_done_says_why(desk: Desk, words: list[str], code: int, says: str) -> None:
    said = desk.run(*words, code=code)
    assert says in said
    assert "next:" in said


def test_verify_and_proofs(desk: Desk) -> None:
    found = desk.asked("verify")
    assert found["valid"]
    assert found["verified_entries"] == found["total_entries"] >= 5
    assert desk.run("verify", "--save-note", desk.file("then.note")).startswith("intact")
    assert desk.asked("verify", "--note", desk.file("then.note"))["coverage"]["remembered_note"]
    key = desk.asked("keys", "status")["public_key"]
    audit_id = desk.asked("query", "--type", "agent.paused")["entries"][0]["audit_id"]
    desk.run("proof", audit_id, "--output", desk.file("one.tlog-proof"))
    assert offline(desk.file("one.tlog-proof"), "--key", key)["coverage"]["proven"]["env"]["audit_id"] == audit_id
    desk.run("export", "--format", "ledger", desk.file("ledger.zip"))
    report = offline(desk.file("ledger.zip"), "--key", key, "--state", desk.file("seen.json"))
    assert report["coverage"]["signatures_checked"]
    seen = json.loads((desk.folder / "seen.json").read_text())["checkpoints"]
    size = next(size for origin, size, _ in seen if origin == report["coverage"]["ledger"])
    desk.run("proof", "--from-size", str(size), "--output", desk.file("later.tlog-proof"))
    assert offline(desk.file("later.tlog-proof"), "--key", key, "--state", desk.file("seen.json"))["coverage"]["proven"]["from"] == size


def offline(*words: str) -> dict:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main([*words, "--json"]) == 0, out.getvalue()
    return json.loads(out.getvalue())


def test_report_and_evidence(desk: Desk) -> None:
    report = desk.asked("report", "gdpr", "--html", desk.file("report.html"), "--sample", "2")
    assert report["compliance_summary"]["GDPR-001"]["applicable_events"] == 4
    assert report["integrity_certificate"]["valid"]
    assert len(report["sample"]) == 2
    assert "<h1>Compliance report: GDPR</h1>" in (desk.folder / "report.html").read_text()
    packed = desk.asked("evidence", "gdpr", desk.file("evidence.zip"), "--sample", "2")
    assert (packed["entries"], packed["valid"]) == (4, True)
    with zipfile.ZipFile(desk.folder / "evidence.zip") as pack:
        pack.extractall(desk.folder / "pack")
    done = subprocess.run(
        [sys.executable, "-I", "-S", "verify.pyz", "--json"], cwd=desk.folder / "pack", capture_output=True, text=True, check=False, env={}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["coverage"]["proofs_of_records"] == 2
    everything = b"".join(path.read_bytes() for path in (desk.folder / "pack").rglob("*") if path.is_file())
    assert b"canary" not in everything
    exported = desk.asked("query", "--type", "audit.exported")["entries"]
    assert exported[0]["category"] == "data_export"


def test_exports_for_other_tools(desk: Desk) -> None:
    desk.run("export", "--format", "csv", "--framework", "gdpr", desk.file("entries.csv"))
    with (desk.folder / "entries.csv").open(newline="", encoding="utf-8") as file:
        rows = [*csv.DictReader(file)]
    assert len(rows) == 4
    assert {row["user_id"] for row in rows} == {""}
    events = [json.loads(line) for line in desk.run("export", "--format", "ocsf", "--framework", "gdpr").splitlines()]
    assert [event["class_uid"] for event in events] == [6003] * 4
    assert {event["ai_agent"]["uid"] for event in events} == {"crm-0", "crm-1"}


def test_rules_and_keys(desk: Desk) -> None:
    listed = desk.asked("rules", "--framework", "sox")
    assert {rule["framework"] for rule in listed["rules"]} == {"sox"}
    assert "Nobody has checked the citations of any of these rules" in listed["unchecked"]
    assert "Nobody has checked the citations" in desk.run("rules").replace("\n", " ")
    (desk.folder / "own.toml").write_text(
        'version = "house 3"\n[[rules]]\nrule_id = "HOUSE-002"\nframework = "custom"\ntitle = "Refunds"\nretention_days = 10\n'
    )
    assert [rule["rule_id"] for rule in desk.asked("rules", "--check", desk.file("own.toml"))["rules"]] == ["HOUSE-002"]
    (desk.folder / "bad.toml").write_text("version = 3")
    assert "bad.toml" in desk.run("rules", "--check", desk.file("bad.toml"), code=2)
    assert desk.asked("keys", "rotate", "--yes")["number"] >= 1
    assert desk.asked("query", "--user", "anna-canary", "--personal")["total_count"] == 4, "old entries stay readable"
    assert desk.asked("query", "--type", "audit.keys_rotated")["total_count"] == 1


def changed_copy(desk: Desk, folder: Path, *statements: str, **environ: str) -> Desk:
    """A copy of the desk in whose ledger somebody has written."""
    shutil.copytree(desk.folder / "log", folder / "log")
    with contextlib.closing(sqlite3.connect(folder / "log" / "audit" / "ledger.sqlite")) as store, store:
        for statement in statements:
            assert store.execute(statement).rowcount == 1, statement
    return Desk(folder, **environ)


def test_a_store_that_was_changed_is_found(desk: Desk, tmp_path: Path) -> None:
    desk.run("verify")  # somebody has sealed it
    changed = changed_copy(
        desk,
        tmp_path,
        "UPDATE record SET raw = CAST(replace(raw, 'customer.changed', 'customer.chANGED') AS BLOB) WHERE id = "
        "(SELECT record.id FROM record JOIN fact USING (id) WHERE audit_id IS NOT NULL AND instr(raw, CAST('customer.changed' AS BLOB)))",
    )
    found = changed.asked("verify", code=1)
    assert set(found["counts"]) == {"env_hash"}
    assert found["verified_entries"] == found["total_entries"] - 1
    assert found["first_bad_position"].startswith("audit-events/")
    assert "does not verify" in changed.run("report", "gdpr", code=1)


def test_a_ledger_whose_file_was_cut_is_evidence_and_not_away(desk: Desk, tmp_path: Path) -> None:
    assert desk.asked("verify")["coverage"]["unsealed"] == 0
    shutil.copytree(desk.folder / "log", tmp_path / "log")
    ledger = tmp_path / "log" / "audit" / "ledger.sqlite"
    ledger.write_bytes(ledger.read_bytes()[: ledger.stat().st_size // 3])
    said = Desk(tmp_path).run("verify", code=1)
    assert "keep it as it is, it may be evidence" in said
    assert "disk space" not in said


def test_a_ledger_that_no_sealer_starts_on_is_verified_and_read(desk: Desk, tmp_path: Path) -> None:
    desk.run("verify")  # somebody has sealed it
    change = "UPDATE tail SET size = size + 1 WHERE partition = (SELECT min(partition) FROM tail)"
    changed = changed_copy(desk, tmp_path, change, TALLYROLL_READ_WAIT_MS="1000")  # what is sealed is waited for in vain
    asyncio.run(record(tmp_path))  # there is something to be sealed
    found = changed.asked("verify", code=1)
    assert "index" in found["counts"]
    assert found["coverage"]["unsealed"] > 0
    assert "of the log not in the ledger yet" in changed._run("audit", "verify", code=1).stderr
    page = changed.asked("query", "--type", "customer.changed")
    assert page["total_count"] == 4
