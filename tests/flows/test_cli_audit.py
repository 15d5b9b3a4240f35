"""``tallyroll audit`` as people, scripts and auditors call it."""

from __future__ import annotations

import asyncio
import csv
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from tests.flows.test_cli_replay import run

from tallyroll import Roll

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("audit")
    asyncio.run(record(made))
    return made


async def record(folder: Path) -> None:
    async with Roll.open(f"sqlite:///{folder / 'log'}") as roll:
        for number in range(4):
            await roll.audit.create_audit_entry(
                "customer.changed", "data_modification", "update", f"changed the address of cust-{number}-canary",
                user_id="anna-canary", agent_id=f"crm-{number % 2}", resource="address-canary", source_ip="203.0.113.9",
                payload={"customer_id": f"cust-{number}-canary"}, compliance_frameworks={"gdpr"},
            )  # fmt: skip
        await roll.audit.create_audit_entry("agent.paused", "agent_lifecycle", "pause", "", agent_id="crm-0")


def asked(folder: Path, *words: str, code: int = 0) -> dict:
    return json.loads(run(folder, "audit", *words, "--json", code=code).splitlines()[0])


def test_who_does_not_ask_for_more_sees_no_personal_data(folder: Path) -> None:
    page = asked(folder, "query", "--agent", "crm-0", "--type", "customer.changed")
    assert page["total_count"] == 2
    audit_id = page["entries"][0]["audit_id"]
    commands = (
        ("query",), ("show", audit_id), ("show", audit_id, "--json"), ("export", "--format", "csv"), ("export", "--format", "ocsf"),
        ("export",), ("report", "gdpr"), ("report", "gdpr", "--json"), ("proof", audit_id), ("verify",), ("keys", "status"),
    )  # fmt: skip
    shown = [json.dumps(page), *(run(folder, "audit", *words) for words in commands)]
    assert all("canary" not in text and "203.0.113" not in text for text in shown)
    assert asked(folder, "query", "--type", "audit.read")["total_count"] == 0


def test_sealed_fields_are_opened_for_who_says_so_and_that_is_recorded(folder: Path) -> None:
    page = asked(folder, "query", "--user", "anna-canary", "--personal", "--purpose", "case 12", "--reader", "auditor-7")
    assert {entry["user_id"] for entry in page["entries"]} == {"anna-canary"}
    assert page["entries"][0]["payload"] == {"customer_id": "cust-3-canary"}
    (read,) = asked(folder, "query", "--type", "audit.read", "--personal", "--reader", "auditor-8")["entries"]
    assert (read["user_id"], read["purpose"], read["payload"]["filters"]) == ("auditor-7", "case 12", ["user_id"])
    assert "add --personal" in run(folder, "audit", "query", "--user", "anna-canary", code=2)


def test_pages_of_one_moment(folder: Path) -> None:
    first = asked(folder, "query", "--limit", "2")
    second = asked(folder, "query", "--limit", "2", "--offset", "2", "--as-of", json.dumps(first["as_of"]))
    assert first["total_count"] == second["total_count"]
    assert not {one["audit_id"] for one in first["entries"]} & {one["audit_id"] for one in second["entries"]}
    assert "--as-of" in run(folder, "audit", "query", "--as-of", "17", code=2)


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
        (["report", "fun"], 2, "fun"),
        (["rules", "--framework", "fun"], 2, "fun"),
        (["keys", "rotate"], 2, "--yes"),
    ],
)
def test_what_cannot_be_done_says_why(folder: Path, words: list[str], code: int, says: str) -> None:
    said = run(folder, "audit", *words, code=code)
    assert says in said
    assert "next:" in said


def test_verify_and_proofs(folder: Path) -> None:
    found = asked(folder, "verify")
    assert found["valid"]
    assert found["verified_entries"] == found["total_entries"] >= 5
    assert run(folder, "audit", "verify", "--save-note", "then.note").startswith("intact")
    assert asked(folder, "verify", "--note", "then.note")["coverage"]["remembered_note"]
    key = asked(folder, "keys", "status")["public_key"]
    audit_id = asked(folder, "query", "--type", "agent.paused")["entries"][0]["audit_id"]
    run(folder, "audit", "proof", audit_id, "--output", "one.tlog-proof")
    assert offline(folder, "one.tlog-proof", "--key", key)["coverage"]["proven"]["env"]["audit_id"] == audit_id
    run(folder, "audit", "export", "--format", "ledger", "ledger.zip")
    report = offline(folder, "ledger.zip", "--key", key, "--state", "seen.json")
    assert report["coverage"]["signatures_checked"]
    seen = json.loads((folder / "seen.json").read_text())["checkpoints"]
    size = next(size for origin, size, _ in seen if origin == report["coverage"]["ledger"])
    run(folder, "audit", "proof", "--from-size", str(size), "--output", "later.tlog-proof")
    assert offline(folder, "later.tlog-proof", "--key", key, "--state", "seen.json")["coverage"]["proven"]["from"] == size


def offline(folder: Path, *words: str) -> dict:
    done = subprocess.run(
        [sys.executable, "-m", "tallyroll.audit.verify", *words, "--json"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def test_report_and_evidence(folder: Path) -> None:
    report = asked(folder, "report", "gdpr", "--html", "report.html", "--sample", "2")
    assert report["compliance_summary"]["GDPR-001"]["applicable_events"] == 4
    assert report["integrity_certificate"]["valid"]
    assert len(report["sample"]) == 2
    assert "<h1>Compliance report: GDPR</h1>" in (folder / "report.html").read_text()
    packed = asked(folder, "evidence", "gdpr", "evidence.zip", "--sample", "2")
    assert (packed["entries"], packed["valid"]) == (4, True)
    with zipfile.ZipFile(folder / "evidence.zip") as pack:
        pack.extractall(folder / "pack")
    done = subprocess.run(
        [sys.executable, "-I", "-S", "verify.pyz", "--json"], cwd=folder / "pack", capture_output=True, text=True, check=False, env={}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["coverage"]["proofs_of_records"] == 2
    everything = b"".join(path.read_bytes() for path in (folder / "pack").rglob("*") if path.is_file())
    assert b"canary" not in everything
    exported = asked(folder, "query", "--type", "audit.exported")["entries"]
    assert exported[0]["category"] == "data_export"


def test_exports_for_other_tools(folder: Path) -> None:
    run(folder, "audit", "export", "--format", "csv", "--framework", "gdpr", "entries.csv")
    with (folder / "entries.csv").open(newline="", encoding="utf-8") as file:
        rows = [*csv.DictReader(file)]
    assert len(rows) == 4
    assert {row["user_id"] for row in rows} == {""}
    events = [json.loads(line) for line in run(folder, "audit", "export", "--format", "ocsf", "--framework", "gdpr").splitlines()]
    assert [event["class_uid"] for event in events] == [6003] * 4
    assert {event["ai_agent"]["uid"] for event in events} == {"crm-0", "crm-1"}


def test_rules_and_keys(folder: Path) -> None:
    listed = asked(folder, "rules", "--framework", "sox")
    assert {rule["framework"] for rule in listed["rules"]} == {"sox"}
    (folder / "own.toml").write_text(
        'version = "house 3"\n[[rules]]\nrule_id = "HOUSE-002"\nframework = "custom"\ntitle = "Refunds"\nretention_days = 10\n'
    )
    assert [rule["rule_id"] for rule in asked(folder, "rules", "--check", "own.toml")["rules"]] == ["HOUSE-002"]
    (folder / "bad.toml").write_text("version = 3")
    assert "bad.toml" in run(folder, "audit", "rules", "--check", "bad.toml", code=2)
    assert asked(folder, "keys", "rotate", "--yes")["number"] >= 1
    assert asked(folder, "query", "--user", "anna-canary", "--personal")["total_count"] == 4, "old entries stay readable"
    assert asked(folder, "query", "--type", "audit.keys_rotated")["total_count"] == 1


def test_a_store_that_was_changed_is_found(folder: Path, tmp_path: Path) -> None:
    import shutil
    import sqlite3

    shutil.copytree(folder / "log", tmp_path / "log")
    store = sqlite3.connect(tmp_path / "log" / "audit" / "ledger.sqlite")
    record_id, raw = store.execute(
        "SELECT record.id, raw FROM record JOIN fact USING (id) WHERE audit_id IS NOT NULL AND instr(raw, 'customer.changed') LIMIT 1"
    ).fetchone()
    with store:
        store.execute("UPDATE record SET raw = ? WHERE id = ?", (raw.replace(b"customer.changed", b"customer.chANGED"), record_id))
    store.close()
    found = asked(tmp_path, "verify", code=1)
    assert set(found["counts"]) == {"env_hash"}
    assert found["verified_entries"] == found["total_entries"] - 1
    assert found["first_bad_position"].startswith("audit-events/")
    assert "does not verify" in run(tmp_path, "audit", "report", "gdpr", code=1)
