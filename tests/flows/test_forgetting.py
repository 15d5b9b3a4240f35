"""Forgetting, holding and retention on a ledger in a file, beside the service and without it; whoever verifies, it is valid at once."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest
from tests.patience import PATIENCE_S, READ_WAIT_MS
from typer.testing import CliRunner

from tallyroll.adapters.crypto import is_signed
from tallyroll.adapters.sqlite.ledger_schema import place_of
from tallyroll.audit.ledger import note
from tallyroll.audit.ledger.note import NoteKey
from tallyroll.audit.recording.new_entry import NewEntry
from tallyroll.cli.app import app
from tallyroll.errors import SubjectErased
from tallyroll.events.codec import encode
from tallyroll.events.event import AgentEvent
from tallyroll.events.position import Position
from tallyroll.opening import open_field_sealer
from tallyroll.ports import Encoded
from tallyroll.publish.privacy import sealing
from tallyroll.roll import ANALYTICS_FOLLOWER, ARCHIVE_FOLLOWER, AUDIT_FOLLOWER, STATE_FOLLOWER, Roll
from tallyroll.settings import Settings
from tallyroll.testing.clock import FakeClock

BOUND = """
version = "house-1"
[[rules]]
rule_id = "HOUSE-001"
framework = "custom"
title = "Kept by order"
category = "data_modification"
retention_days = 365
binding = true
citation = "an order"
"""


def entry(customer: str, note: str = "asked for a refund") -> NewEntry:
    return NewEntry.of(
        "customer.read", "data_access", "read", "read a record", agent_id="support-1", payload={"customer_id": customer, "note": note}
    )


async def fill(url: str | Settings, *entries: NewEntry) -> None:
    """As a recorder and a service would, which then end."""
    async with Roll.open(url) as roll:
        await roll.audit.create_audit_entries(entries)
        await roll.follow(AUDIT_FOLLOWER)
        for position in roll.publisher.last_positions():
            assert await roll.caught_up(position, PATIENCE_S, follower=AUDIT_FOLLOWER)


def files_with(text: bytes, folder: Path) -> list[Path]:
    return [file for file in folder.rglob("*") if file.is_file() and text in file.read_bytes()]


@pytest.mark.slow
async def test_who_is_forgotten_while_no_service_runs_is_forgotten_and_the_ledger_verifies(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'log'}"
    await fill(url, entry("cust-123"), entry("cust-77", "a friend of cust-123"), entry("cust-77"))
    async with Roll.open(url) as roll:
        assert (await roll.audit.verify_audit_integrity())["findings"] == []
        hold = await roll.audit.set_hold(who="counsel", why="case 7", subject_id="cust-123")
        assert (await roll.audit.anonymize_subject_data("cust-123")).state == "restricted"
        assert (await roll.audit.verify_audit_integrity())["findings"] == []
        await roll.audit.release_hold(hold[0], who="counsel", why="closed")
        receipt = await roll.audit.anonymize_subject_data("cust-123")
        assert (receipt.state, receipt.entries, receipt.parts_removed) == ("done", 2, 2)
        assert (await roll.audit.verify_audit_integrity())["findings"] == []
        page = await roll.audit.query_audit_trail(event_type="customer.read")
        assert sorted(str(one["payload"].get("customer_id")) for one in page["entries"]) == ["None", "None", "cust-77"]
    assert files_with(b"cust-123", tmp_path) == []


DAMAGES = {
    "frame": lambda raw: raw[:20],
    "core": lambda raw: raw[:100] + bytes([raw[100] ^ 1]) + raw[101:],
    "part": lambda raw: raw.replace(raw[-40:-32], bytes(8)),
    "nothing": lambda raw: raw,
}


async def damage(folder: Path, audit_id: str, how: str) -> str:
    """Alters the record of an entry in the file of a ledger that nobody has open; where it is."""
    with sqlite3.connect(folder / "audit" / "ledger.sqlite") as connection:
        [(number, raw)] = connection.execute("SELECT id, raw FROM record JOIN fact USING (id) WHERE audit_id = ?", (audit_id,)).fetchall()
        connection.execute("UPDATE record SET raw = ? WHERE id = ?", (DAMAGES[how](raw), number))
    connection.close()
    return "ledger/{}/{}".format(*place_of(number))


@pytest.mark.slow
@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("about", ["cust-123", "cust-77"])
async def test_a_damaged_record_is_named_by_an_erasure_that_reaches_all_else(tmp_path: Path, how: str, about: str) -> None:
    url = f"sqlite:///{tmp_path / 'log'}"
    bad = entry(about, "a receipt")
    await fill(url, entry("cust-123"), bad, entry("cust-77", "a friend of cust-123"), entry("cust-77"))
    async with Roll.open(url) as roll:
        [audit_id] = [
            one["audit_id"]
            for one in (await roll.audit.query_audit_trail(event_type="customer.read"))["entries"]
            if one["payload"]["note"] == "a receipt"
        ]
    where = await damage(tmp_path / "log", audit_id, how)
    missed = how != "nothing" and (about, how) != ("cust-123", "part")  # a part of the person's own goes, whatever is in it
    async with Roll.open(url) as roll:
        receipt = await roll.audit.anonymize_subject_data("cust-123")
        mine = 2 if about == "cust-123" else 1
        assert receipt.keys_destroyed == 1
        assert receipt.entries == mine + 1
        told = ("incomplete", 1, (where,)) if missed else ("done", 0, ())
        assert (receipt.state, receipt.unread, receipt.unread_at) == told
        assert ("records unread 1" in str(receipt.certificate)) == missed
        page = await roll.audit.query_audit_trail(event_type="customer.read")
        assert not any("cust-123" in str(one) for one in page["entries"])
        again = await roll.audit.anonymize_subject_data("cust-123")
        assert again.state == ("incomplete" if missed else "nothing_found")
        counts = (await roll.audit.verify_audit_integrity())["counts"]
        assert bool(counts) == missed
        await roll.audit.resume_erasures()
    result = await asyncio.to_thread(CliRunner().invoke, app, ["audit", "erase", "cust-123", "--yes", "--url", url])
    assert (result.exit_code, where in result.output) == ((1, True) if missed else (0, False))


@pytest.mark.slow
async def test_a_damaged_record_that_a_law_may_bind_stands_against_an_erasure(tmp_path: Path) -> None:
    rules = tmp_path / "rules.toml"
    rules.write_text(BOUND)
    settings = Settings(url=f"sqlite:///{tmp_path / 'log'}", audit_rules=rules)
    await fill(settings, entry("cust-123"))
    async with Roll.open(settings) as roll:
        [one] = (await roll.audit.query_audit_trail(event_type="customer.read"))["entries"]
    where = await damage(tmp_path / "log", one["audit_id"], "frame")
    async with Roll.open(settings) as roll:
        receipt = await roll.audit.anonymize_subject_data("cust-123")
        assert receipt.state == "restricted"
        assert where in str(receipt.restricted)
        assert receipt.keys_destroyed == 0


@pytest.mark.slow
async def test_what_is_past_its_day_goes_beside_the_service_and_the_ledger_verifies(tmp_path: Path) -> None:
    settings = Settings(url=f"sqlite:///{tmp_path / 'log'}", audit_default_retention_days=10, read_wait_ms=READ_WAIT_MS)
    async with Roll.open(settings, clock=FakeClock()) as roll:  # long ago
        old = await roll.audit.create_audit_entries([entry("cust-7")])
    async with Roll.open(settings) as roll:
        new = await roll.audit.create_audit_entries([entry("cust-8")])
        await roll.follow(AUDIT_FOLLOWER)
        for (topic, partition), end in (await roll.log.ends(["audit-events"])).items():
            assert end == 0 or await roll.caught_up(Position(topic, partition, end - 1), PATIENCE_S, follower=AUDIT_FOLLOWER)
        run = await roll.audit.apply_retention(operator="night job")
        assert run.bodies == 1
        expired, kept = [await roll.audit.get_audit_entry(one[0].audit_id) for one in (old, new)]
        assert expired is None or expired.payload in (None, {"erased": True})
        assert kept is not None
        assert kept.payload == {"customer_id": "cust-8", "note": "asked for a refund"}
        assert (await roll.audit.verify_audit_integrity())["findings"] == []
        assert (await roll.audit.get_clear_text(new[0].audit_id)).payload == kept.payload
        with pytest.raises(SubjectErased):
            await roll.audit.get_clear_text(old[0].audit_id)
        assert await roll.audit.cleanup_expired_entries() == 0


@pytest.mark.slow
async def test_the_certificate_that_is_printed_is_the_note_that_was_signed(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'log'}"
    await fill(url, entry("cust-123"))
    done = await asyncio.to_thread(CliRunner().invoke, app, ["audit", "erase", "cust-123", "--yes", "--url", url])
    assert done.exit_code == 0, done.output
    async with Roll.open(url) as roll:
        key = NoteKey.parse((await roll.audit.keys()).public_key)
    printed = note.parse(done.stdout[done.stdout.index(f"{key.name}\n") :].encode())
    assert printed.signed_by(key, is_signed)
    assert "cust-123" not in done.output


CANARY = "canary-of-a-customer"


@pytest.mark.slow
async def test_no_topic_letter_archive_or_store_gives_back_who_was_forgotten(tmp_path: Path) -> None:
    settings = Settings(url=f"sqlite:///{tmp_path / 'log'}", archive_dir=tmp_path / "archive", read_wait_ms=READ_WAIT_MS)
    sealer, close = open_field_sealer(settings)
    async with Roll.open(settings, processors=[sealing(sealer)]) as roll:
        for number in range(3):
            payload = {"agent_id": "agent-1", "customer_id": "cust-9", "name": CANARY, "step": number}
            await roll.publish(AgentEvent("task.started", f"t-{number}", "task", payload))
        published, *_ = [seen.event async for seen in roll.tail(last=1)]  # the last of each partition
        assert sealer.open_fields(published.payload, published.event_id)["name"] == CANARY
        broken = Encoded(published.event_id, "task-events", 0, b"task:t-0", b"{" + encode(published), [], 0)
        (outcome,) = await roll.log.append([broken]).settled()
        await roll.audit.create_audit_entries([entry("cust-9", f"is {CANARY}"), entry("cust-77", f"a friend of cust-9, {CANARY}")])
        for name in (STATE_FOLLOWER, ARCHIVE_FOLLOWER, ANALYTICS_FOLLOWER, AUDIT_FOLLOWER):
            await roll.follow(name)
            for position in (outcome.position, *roll.publisher.last_positions()):
                assert await roll.caught_up(position, PATIENCE_S, follower=name)
        assert [letter.value async for letter in roll.dead_letters(STATE_FOLLOWER)] == [broken.value]
        receipt = await roll.audit.anonymize_subject_data("cust-9", reason="ticket 4711")
        assert (receipt.state, receipt.parts_removed) == ("done", 5), "of the two entries and of the three events"
        assert (await roll.audit.verify_audit_integrity())["findings"] == []
    close()
    assert files_with(published.event_id.encode(), tmp_path / "archive"), "there is an archive with the event in it"
    assert files_with(CANARY.encode(), tmp_path) == []
    sealer, close = open_field_sealer(settings)
    assert sealer.open_fields(published.payload, published.event_id)["name"] is None, "what lies in the topics opens to nobody"
    close()
