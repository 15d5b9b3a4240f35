"""doctor looks at the ledger: its keys, and how far it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tallyroll.cli.app import app

SECRET = {"AUDIT_SECRET_KEY": "5f" * 32}


def checks(folder: Path, environ: dict[str, str], *words: str) -> dict[str, dict[str, str]]:
    done = CliRunner().invoke(app, [*words, "--url", f"sqlite:///{folder}", "--json"], env=environ)
    return {one["name"]: one for one in json.loads(done.stdout)["checks"]} if words[0] == "doctor" else {}


@pytest.mark.slow
def test_keys_and_ledger_are_looked_at_where_there_are_some(tmp_path: Path) -> None:
    assert "audit" not in checks(tmp_path, SECRET, "doctor")
    log = ["audit", "log", "customer.read", "--category", "data_access", "--action", "read"]
    checks(tmp_path, SECRET, *log)
    assert checks(tmp_path, SECRET, "doctor")["audit"]["verdict"] == "warn"
    checks(tmp_path, SECRET, "run", "audit", "--once")
    looked = checks(tmp_path, SECRET, "doctor")
    assert (looked["audit"]["verdict"], looked["keys"]["verdict"]) == ("ok", "ok")
    checks(tmp_path, SECRET, *log)
    assert "behind" in checks(tmp_path, SECRET, "doctor")["audit"]["says"]
    wrong = checks(tmp_path, {"AUDIT_SECRET_KEY": "6e" * 32}, "doctor")["audit"]
    assert wrong["verdict"] == "fail"
    assert "6e6e" not in str(wrong)


@pytest.mark.slow
def test_a_damaged_store_is_no_matter_of_a_broker(tmp_path: Path) -> None:
    checks(tmp_path, SECRET, "publish", "agent.started", "a-1")
    (tmp_path / "state.db").write_bytes(b"x" * 3_000)
    found = checks(tmp_path, SECRET, "doctor")["stores"]
    assert found["verdict"] == "fail"
    assert "state.db" in found["says"]
    assert "broker" not in found["next"]


@pytest.mark.slow
def test_files_that_others_may_use_are_told_of(tmp_path: Path) -> None:
    folder = tmp_path / "log"

    def told() -> list[str]:
        done = CliRunner().invoke(app, ["doctor", "--url", f"sqlite:///{folder}", "--json"], env=SECRET)
        return [one["says"] for one in json.loads(done.stdout)["checks"] if one["name"] == "files"]

    assert told() == []
    checks(folder, SECRET, "audit", "log", "customer.read", "--category", "data_access", "--action", "read")
    checks(folder, SECRET, "run", "audit", "state", "--once")
    ledger = folder / "audit" / "ledger.sqlite"
    assert told() == []
    ledger.chmod(0o640)
    assert told() == [f"others than its owner may use {ledger} (mode 0640)"]
    ledger.chmod(0o600)
    (folder / "state.db").chmod(0o666)
    assert told() == [f"everybody on this machine may write to 1 of the files and folders, first {folder / 'state.db'} (mode 0666)"]
    (folder / "state.db").chmod(0o644)
    folder.chmod(0o1777)  # as of /tmp: nobody may take away what is not theirs
    assert told() == []
    folder.chmod(0o777)
    assert len(told()) == 1
