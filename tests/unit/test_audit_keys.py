"""Where the keys of the ledger come from, and what happens where they cannot be had."""

from __future__ import annotations

import base64
import logging
import stat
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.patience import PATIENCE_S, READ_WAIT_MS

from tallyroll import AgentEvent, Roll
from tallyroll.adapters.crypto import secret_in
from tallyroll.errors import KeyRingUnavailable, SettingsError
from tallyroll.opening import compliance_rules_of, open_audit_keys
from tallyroll.settings import Secret, Settings, key_bytes

KEY = bytes(range(32))
CANARY = "canary-secret"


def folders_in(folder: Path) -> list[Path]:
    return list(folder.iterdir())


def at(folder: Path, **options: object) -> Settings:
    return Settings(url=f"sqlite:///{folder}", read_wait_ms=READ_WAIT_MS, **options)


@pytest.mark.parametrize(
    "text", [KEY.hex(), KEY.hex().upper(), base64.b64encode(KEY).decode(), base64.urlsafe_b64encode(KEY).decode().rstrip("=")]
)
def test_hex_and_base64_are_the_same_key(text: str) -> None:
    assert key_bytes(Secret(text)) == KEY


@pytest.mark.parametrize("text", [CANARY, KEY.hex()[:-2], base64.b64encode(KEY[:31]).decode(), "", KEY.hex() + "\u00fc"])
def test_what_is_too_short_or_no_key_is_refused_and_not_shown(text: str) -> None:
    with pytest.raises(SettingsError, match="AUDIT_SECRET_KEY") as caught:
        Settings(audit_secret_key=Secret(text))
    assert not text or text not in str(caught.value)


def test_the_secret_may_be_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(KEY.hex() + "\n")
    settings = Settings.from_env({"AUDIT_SECRET_KEY_FILE": str(tmp_path / "key")})
    assert key_bytes(settings.audit_secret_key or Secret("")) == KEY
    assert KEY.hex() not in repr(settings)


def test_everything_comes_from_the_root_and_is_the_same_next_time(tmp_path: Path) -> None:
    keys = [open_audit_keys(at(tmp_path, audit_secret_key=Secret(KEY.hex()))) for _ in range(2)]
    assert keys[0].log_id == keys[1].log_id
    assert keys[0].signer.public == keys[1].signer.public
    assert keys[0].origin == f"tallyroll/{keys[0].log_id.hex()}"
    other = open_audit_keys(at(tmp_path / "other", audit_secret_key=Secret("00" + KEY.hex())))
    assert other.log_id != keys[0].log_id
    assert other.signer.public != keys[0].signer.public
    assert KEY not in (keys[0].log_id, keys[0].signer.public)
    for one in (*keys, other):
        one.close()
        one.close()


def test_a_wrong_secret_is_refused_and_makes_no_new_ring(tmp_path: Path) -> None:
    open_audit_keys(at(tmp_path, audit_secret_key=Secret(KEY.hex()))).close()
    before = (tmp_path / "audit" / "keys").read_bytes()
    with pytest.raises(SettingsError, match="AUDIT_SECRET_KEY"):
        open_audit_keys(at(tmp_path, audit_secret_key=Secret("00" * 32)))
    assert (tmp_path / "audit" / "keys").read_bytes() == before


def test_without_a_secret_the_embedded_log_makes_one_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "tallyroll.audit")
    first, second = open_audit_keys(at(tmp_path)), open_audit_keys(at(tmp_path))
    assert first.log_id == second.log_id
    path = tmp_path / "audit" / "secret"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len([one for one in caplog.records if "secret" in one.getMessage()]) == 1
    assert path.read_text().strip() not in caplog.text
    path.chmod(0o640)
    with pytest.raises(KeyRingUnavailable):
        open_audit_keys(at(tmp_path))
    path.chmod(0o600)
    path.write_text("nothing")
    with pytest.raises(KeyRingUnavailable):
        open_audit_keys(at(tmp_path))


def test_a_made_secret_that_is_another_one_is_named_by_its_file(tmp_path: Path) -> None:
    open_audit_keys(at(tmp_path)).close()
    path = tmp_path / "audit" / "secret"
    path.write_text("00" * 32)
    with pytest.raises(KeyRingUnavailable) as caught:
        open_audit_keys(at(tmp_path))
    assert str(path) in str(caught.value)
    assert "AUDIT_SECRET_KEY" not in str(caught.value)


def test_who_comes_at_the_same_time_gets_the_same_secret(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(lambda _: secret_in(tmp_path / "secret"), range(8)))) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]


def test_on_kafka_a_secret_is_needed(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="AUDIT_SECRET_KEY"):
        open_audit_keys(Settings(url="kafka://127.0.0.1:1", data_dir=tmp_path))
    assert not (tmp_path / "audit" / "keys").exists()


def test_the_ring_may_be_elsewhere(tmp_path: Path) -> None:
    open_audit_keys(at(tmp_path, audit_keyring=f"file:{tmp_path}/elsewhere/ring")).close()
    assert (tmp_path / "elsewhere" / "ring").exists()
    assert not (tmp_path / "audit" / "keys").exists()


async def test_a_log_in_memory_leaves_no_keys_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    async with Roll.open("sqlite://:memory:") as roll:
        made = await roll.audit.create_audit_entry("x.done", "data_access", "read", "read it")
        assert made.encrypted
        assert folders_in(tmp_path)
    assert not folders_in(tmp_path)


DERIVED = """
version = "house 4"

[derived]
payload_types = ["tool."]
categories = { "tool" = "data_modification", "task.completed" = "ai_decision" }
retention_days = { "task-events" = 40, "system-events" = 3650 }
"""


def test_how_entries_are_derived_stands_beside_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(DERIVED)
    usual, rules = compliance_rules_of(at(tmp_path)), compliance_rules_of(at(tmp_path, audit_rules=path))
    assert (rules.version, rules.rules) == (f"{usual.version}+house 4", usual.rules)
    assert usual.derived.days_of == {"performance-events": 30, "system-events": 90}
    assert rules.derived.days_of == {"performance-events": 30, "system-events": 3650, "task-events": 40}
    assert rules.derived.category_of == {**usual.derived.category_of, "tool": "data_modification", "task.completed": "ai_decision"}
    assert (usual.derived.payload_types, rules.derived.payload_types) == (("auth.", "authz.", "data.accessed"), ("tool.",))


async def test_derived_entries_are_made_as_the_rules_file_says(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(DERIVED)
    events = [
        AgentEvent("tool.invoked", "t-1", "task", {"amount": 7}),
        AgentEvent("auth.failure", "s-1", "session", {"why": "expired"}),
        AgentEvent("task.completed", "t-1", "task", {"ms": 5}),
        AgentEvent("task.started", "t-1", "task", {"ms": 5}),
    ]
    async with Roll.open(at(tmp_path / "log", audit_rules=path)) as roll:
        await roll.follow("audit")
        for event in events:
            await roll.caught_up((await roll.publish(event)).position, PATIENCE_S, follower="audit")
        found = {one.event_type: one for one in (await roll.audit.query()).entries if one.origin == "derived" and one.event_id}
    days = {name: (one.retention_date - one.timestamp).days for name, one in found.items()}
    assert {name: one.category for name, one in found.items() if name in days} == {
        "tool.invoked": "data_modification", "auth.failure": "authentication", "task.completed": "ai_decision",
        "task.started": "task_execution",
    }  # fmt: skip
    assert days == {"tool.invoked": 40, "auth.failure": 3650, "task.completed": 40, "task.started": 40}
    assert {name: one.payload for name, one in found.items() if one.payload} == {"tool.invoked": {"amount": 7}}


def test_own_rules_stand_beside_the_library(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text('version = "house 3"\n[[rules]]\nrule_id = "HOUSE-002"\nframework = "custom"\ntitle = "Refunds"\nretention_days = 30\n')
    rules = compliance_rules_of(at(tmp_path, audit_rules=path))
    assert rules.version == f"{compliance_rules_of(at(tmp_path)).version}+house 3"
    assert {"HOUSE-002", "SOX-001"} <= {rule.rule_id for rule in rules.rules}
    path.write_text('version = "house 3"\n[[rules]]\nrule_id = "SOX-001"\nframework = "sox"\ntitle = "Weaker"\nretention_days = 1\n')
    for text in (path.read_text(), "version =", 'version = "1"\nrules = [{rule_id = "x"}]\n'):
        path.write_text(text)
        with pytest.raises(SettingsError, match="AUDIT_RULES"):
            compliance_rules_of(at(tmp_path, audit_rules=path))
    with pytest.raises(SettingsError, match="AUDIT_RULES"):
        compliance_rules_of(at(tmp_path, audit_rules=tmp_path / "nothing.toml"))
