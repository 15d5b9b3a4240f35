"""``tallyroll audit log`` as people and scripts call it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from tests.flows.recording import arrived_in, entries_in
from tests.flows.test_cli_replay import run

from tallyroll import Roll
from tallyroll.adapters.sqlite.ledger_store import SqliteLedgerStore

pytestmark = pytest.mark.slow

CALL = ("audit", "log", "customer.read", "--category", "data_access", "--action", "read", "--framework", "sox")


def test_an_entry_is_recorded_and_what_it_breaks_is_said(tmp_path: Path) -> None:
    out = run(tmp_path, *CALL, "--user", "anna-canary", "--subject", "cust-canary", "--payload", '{"n": 1}', "--agent", "crm-1", "--json")
    shown = json.loads(out.splitlines()[0])
    assert shown["encrypted"]
    assert [violation["fields"] for violation in shown["violations"]] == [["resource"]]
    assert "canary" not in out

    async def recorded() -> list[str]:
        async with Roll.open(f"sqlite:///{tmp_path / 'log'}") as roll:
            return [one.event_id for one in entries_in(await arrived_in(roll.log))]

    assert asyncio.run(recorded()) == [shown["audit_id"]]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--category", "fun"), "category"),
        (("--payload", "[1]"), "--payload"),
        (("--severity", "loud"), "severity"),
        (("--framework", "x"), "frameworks"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, words: tuple[str, ...], says: str) -> None:
    assert says in run(tmp_path, *CALL, *words, code=2)


def test_a_lost_secret_is_named_and_none_is_made_in_its_place(tmp_path: Path) -> None:
    run(tmp_path, *CALL)
    secret = tmp_path / "log" / "audit" / "secret"
    kept = secret.rename(tmp_path / "kept")
    said = run(tmp_path, *CALL, code=3)
    assert f"{secret}: it is missing" in said
    assert not secret.exists()
    kept.rename(secret)
    run(tmp_path, *CALL)


def test_a_lost_key_ring_is_named_and_none_is_made_in_its_place(tmp_path: Path) -> None:
    run(tmp_path, *CALL)
    run(tmp_path, "audit", "verify")  # from now on there is a ledger
    folder = tmp_path / "log" / "audit"
    for lost in folder.glob("keys*"):
        lost.unlink()
    assert f"{folder / 'keys'}: it is missing" in run(tmp_path, *CALL, code=3)
    (folder / "secret").unlink()
    assert f"{folder / 'keys'}: it is missing" in run(tmp_path, "audit", "verify", code=3)
    assert [one.name for one in folder.iterdir()] == ["ledger.sqlite"]


def test_a_ledger_in_which_nothing_was_sealed_needs_no_ring(tmp_path: Path) -> None:
    async def looked_at() -> None:
        store = await SqliteLedgerStore.open(tmp_path / "log" / "audit" / "ledger.sqlite", lambda record, _: record)
        await store.close()

    asyncio.run(looked_at())
    run(tmp_path, *CALL)
    run(tmp_path, "audit", "verify")


def test_ids_are_shown_whole(tmp_path: Path) -> None:
    made = run(tmp_path, *CALL, "--agent", "an-agent-of-a-name-that-takes-much-room-in-a-line-" * 2, "--json")
    assert json.loads(made.splitlines()[0])["audit_id"] in run(tmp_path, "audit", "query")
