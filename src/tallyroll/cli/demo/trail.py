"""The demo's end: the audit trail proves itself, a forgery of it is found, and a person is forgotten."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Final, NamedTuple
from zipfile import ZipFile

from tallyroll.audit.ledger.contents import AuditEntry
from tallyroll.audit.removal.erasure import ErasureReceipt
from tallyroll.audit.verify import Finding, Trust, verify_files
from tallyroll.cli.printing import counted, number, paint, plain, say, spread
from tallyroll.roll import AUDIT_FOLLOWER, Roll

CUSTOMER: Final = "cust-123"
_CAUGHT_UP_S: Final = 30.0
_TRUE: Final = b'"outcome":"success"'
_FALSE: Final = b'"outcome":"failure"'
_DAY_S: Final = 86_400


class Proven(NamedTuple):
    """How many entries the trail has, whether an export of it verifies, and what was found in a forged one."""

    entries: int
    valid: bool
    forged: Finding | None


class Forgotten(NamedTuple):
    """An entry about a person before and after they were forgotten, and whether the trail still verifies."""

    before: AuditEntry
    after: AuditEntry
    receipt: ErasureReceipt
    valid: bool


async def prove(roll: Roll, folder: Path) -> Proven:
    """Verifies the trail, exports it, and verifies the export as an auditor does: offline, with the public key alone.

    Then the outcome of one entry is changed in the export, and it is verified again.
    """
    await _caught_up(roll)
    entries = (await roll.audit.verify_audit_integrity())["total_entries"]
    path = folder / "ledger.zip"
    await roll.audit.export_ledger(path)
    key = (await roll.audit.keys()).public_key
    return await asyncio.to_thread(_examine, path, entries, Trust(roll.clock.now_us() // 1_000_000 // _DAY_S, (key,), withheld=True))


def _examine(path: Path, entries: int, trust: Trust) -> Proven:
    with ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    valid = verify_files(files, trust)[0].valid
    longest = max((name for name in files if name.endswith(".records")), key=lambda name: files[name].count(_TRUE))
    raw = files[longest]
    at = raw.find(_TRUE, len(raw) // 2)
    if at < 0:
        return Proven(entries, valid, None)
    report, _ = verify_files({**files, longest: raw[:at] + _FALSE + raw[at + len(_TRUE) :]}, trust)
    return Proven(entries, valid, report.findings[0] if report.broken else None)


async def forget(roll: Roll, agent: str) -> Forgotten:
    """Records that an agent read about a customer, then forgets the customer."""
    made = await roll.audit.create_audit_entry(
        "data.accessed", "data_access", "read", "a customer's record was read",
        agent_id=agent, payload={"customer_id": CUSTOMER, "fields": ["name", "balance"]}, compliance_frameworks={"gdpr"},
    )  # fmt: skip
    await _caught_up(roll)
    before = await roll.audit.get_audit_entry(made.audit_id)
    receipt = await roll.audit.anonymize_subject_data(CUSTOMER)
    after = await roll.audit.get_audit_entry(made.audit_id)
    await _caught_up(roll)
    integrity = await roll.audit.verify_audit_integrity()
    return Forgotten(before or made, after or made, receipt, integrity["valid"])


async def _caught_up(roll: Roll) -> None:
    for position in roll.publisher.last_positions():
        await roll.caught_up(position, _CAUGHT_UP_S, follower=AUDIT_FOLLOWER)


def show_proof(found: Proven) -> None:
    """The verdict on the trail and on its forgery."""
    verdict = paint("valid", "green") if found.valid else paint("NOT valid", "bold red")
    say(f"{counted(found.entries, 'entry')}, one for each event without anybody asking.")
    say(f"An export of them, verified offline: {verdict}.")
    if found.forged is not None:
        change = f"success {paint('→', 'dim')} {paint('failure', 'red')}"
        where = f"partition {found.forged.partition}, record {number(found.forged.index or 0)}"
        say(f"One outcome changed in it, {change}: {paint('found out', 'green')}, {where}: {found.forged.code}")


def show_forgotten(found: Forgotten) -> None:
    """The entry before and after."""
    rows: dict[str, Any] = {
        "the entry said": plain(str(found.before.payload)),
        "sealed": f"under this customer's own key, kept until {found.before.retention_date:%Y-%m-%d}",
        "forgotten": f"{counted(found.receipt.keys_destroyed, 'key')} destroyed, {counted(found.receipt.parts_removed, 'part')} removed",
        "the entry says": plain(str(found.after.payload)),
        "the proofs": "still hold" if found.valid else "DO NOT HOLD",
    }
    spread(rows.items())
