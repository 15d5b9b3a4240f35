"""Every kind of violation, from the call that records it to the handlers and monitors of a roll, and into the ledger."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.apart import die_of
from tests.flows import recording_program
from tests.patience import PATIENCE_S, READ_WAIT_MS

from tallyroll import Roll
from tallyroll.audit.compliance.rules import RuleViolation
from tallyroll.audit.ledger.chain import Draft, Writer
from tallyroll.audit.ledger.contents import AuditEntry, env_of
from tallyroll.audit.ledger.envelope import document_of
from tallyroll.audit.ledger.layout import Kind
from tallyroll.ports import Encoded
from tallyroll.settings import Secret, Settings
from tallyroll.testing.clock import FakeClock

LOG = logging.getLogger(__name__)
FRAMEWORKS = "sox,gdpr,hipaa,pci_dss,iso27001"


class Watched:
    """What handlers and monitors of one roll were told, and how long after ``begin``."""

    def __init__(self, roll: Roll, *rule_ids: str) -> None:
        self.handled: list[tuple[str, str]] = []
        self.monitored: list[tuple[str, AuditEntry]] = []
        self._told = asyncio.Event()
        self._began = time.monotonic()
        self.took_s = 0.0
        roll.audit.add_violation_handler(self._handle)
        for rule_id in rule_ids:
            roll.audit.add_real_time_monitor(rule_id, lambda entry, rule_id=rule_id: self._tell(rule_id, entry))

    def _tell(self, rule_id: str, entry: AuditEntry) -> None:
        self.took_s = time.monotonic() - self._began
        self.monitored.append((rule_id, entry))
        self._told.set()

    def _handle(self, _: AuditEntry, found: Sequence[RuleViolation]) -> None:
        self.handled += [(one.rule_id, one.code) for one in found]
        self._told.set()

    def begin(self) -> None:
        self._began = time.monotonic()

    async def handled_that(self, rule_id: str, code: str) -> None:
        """Once a handler was told of the breach."""
        async with asyncio.timeout(PATIENCE_S):
            while (rule_id, code) not in self.handled:
                await self._told.wait()
                self._told.clear()

    async def told(self, rule_id: str, code: str) -> AuditEntry:
        """The entry that the monitor of that rule was given last, once handlers know of the breach."""
        await self.handled_that(rule_id, code)
        async with asyncio.timeout(PATIENCE_S):
            while not any(one == rule_id for one, _ in self.monitored):
                await self._told.wait()
                self._told.clear()
        LOG.info("%s reached the monitor of %s after %.1f ms", code, rule_id, self.took_s * 1_000)
        return next(entry for one, entry in reversed(self.monitored) if one == rule_id)


def settings_of(folder: Path, **more: object) -> Settings:
    return Settings(
        url=f"sqlite:///{folder}", audit_secret_key=Secret("5f" * 32), audit_frameworks=FRAMEWORKS, stall_ms=100,
        read_wait_ms=READ_WAIT_MS, **more,
    )  # fmt: skip


@asynccontextmanager
async def sealing(folder: Path, **more: object) -> AsyncIterator[Roll]:
    async with Roll.open(settings_of(folder, **more)) as roll:
        await roll.follow("audit")
        yield roll


INLINE = {
    "missing_field": ("SOX-001", {"category": "data_access", "user_id": "anna"}),
    "card_number_in_clear": ("PCI-010", {"category": "privacy", "agent_id": "4111111111111111", "user_id": "anna"}),
    "one_person_decides": (
        "SOX-003", {"category": "authorization", "user_id": "anna", "payload": {"requested_by": "anna", "approved_by": "anna"}},
    ),
    "forbidden": ("PCI-006", {"event_type": "audit.stopped", "category": "audit_system", "agent_id": "agent-1"}),
    "tool_outside_grant": (
        "AGT-001",
        {
            "event_type": "tool.invoked", "category": "authorization", "agent_id": "agent-1", "tool": "rm", "user_id": "anna",
            "payload": {"granted_tools": ["ls"]}, "compliance_frameworks": ["custom"],
        },
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("code", INLINE)
async def test_what_one_entry_breaks(tmp_path: Path, code: str) -> None:
    rule_id, fields = INLINE[code]
    async with sealing(tmp_path / "log") as roll:
        watched = Watched(roll, rule_id)
        await roll.audit.create_audit_entry("a.first", "system_access", "read", "opens what is needed")
        watched.begin()
        made = await roll.audit.create_audit_entry(
            fields.get("event_type", "thing.done"), fields["category"], "do", "a thing is done",
            **{name: value for name, value in fields.items() if name not in ("event_type", "category")},
        )  # fmt: skip
        assert (await watched.told(rule_id, code)).audit_id == made.audit_id
        stored = await roll.audit.get_audit_entry(made.audit_id)
        assert (rule_id, code) in {(one["rule_id"], one["code"]) for one in stored.violations}


@pytest.mark.slow
async def test_a_burst_of_refusals(tmp_path: Path) -> None:
    async with sealing(tmp_path / "log") as roll:
        watched = Watched(roll, "AGT-004")
        for _ in range(10):
            watched.begin()
            await roll.audit.create_audit_entry("authz.denied", "authorization", "open", "refused", agent_id="agent-9", outcome="denied")
        await watched.told("AGT-004", "denied_burst")


async def finding(roll: Roll, watched: Watched, rule_id: str, code: str) -> None:
    """Somebody is told of the finding, the ledger has it under the rules that it breaks, and the report counts it."""
    told = await watched.told(rule_id, code)
    stored = await roll.audit.get_audit_entry(told.audit_id)
    assert (stored.event_type, stored.action, stored.outcome) == ("audit.finding.recorded", code, "failure")
    (broken,) = [one for one in stored.violations if one["rule_id"] == rule_id]
    assert broken["code"] == code
    framework = {"ISO": "iso27001", "PCI": "pci_dss", "HIP": "hipaa"}[rule_id[:3]]
    report = await roll.audit.generate_compliance_report(framework)
    assert (rule_id, code) in {(one["rule_id"], one["code"]) for one in report["violations"]}


@pytest.mark.slow
async def test_a_clock_that_is_ahead(tmp_path: Path) -> None:
    """On a machine whose clock was five minutes ahead when it began: said, and its entries are kept."""
    ahead = FakeClock(datetime.now(UTC) + timedelta(minutes=5))
    async with sealing(tmp_path / "log") as roll, Roll.open(settings_of(tmp_path / "log"), clock=ahead) as other:
        watched = Watched(roll, "ISO-003")
        recording = asyncio.ensure_future(other.audit.create_audit_entry("a.thing", "system_access", "read", "by a clock that is ahead"))
        await finding(roll, watched, "ISO-003", "drift")
        while not recording.done():
            ahead.advance(0.1)
            await asyncio.sleep(0)  # noqa: TID251  # its turn
        made = await recording
        assert (await roll.audit.get_audit_entry(made.audit_id)).timestamp == made.timestamp


@pytest.mark.slow
async def test_a_log_that_stopped(tmp_path: Path) -> None:
    async with sealing(tmp_path / "log", audit_heartbeat_seconds=1) as roll:
        watched = Watched(roll, "PCI-006")
        await asyncio.to_thread(die_of, recording_program.main, "kill", f"sqlite:///{tmp_path / 'log'}", "-", "1")
        watched.begin()
        await finding(roll, watched, "PCI-006", "silent")


@pytest.mark.slow
async def test_records_that_are_missing(tmp_path: Path) -> None:
    async with sealing(tmp_path / "log") as roll:
        watched = Watched(roll, "PCI-009", "AGT-008")
        opened = await roll.audit._opened()  # a writer that loses one
        clock = opened.clock
        writer = Writer(opened.keys.log_id, opened.keys.ring.enrol(clock.now_us()), opened.keys.new_cipher(), rule_set="1")
        env = env_of({"audit_id": "0198c0de-0000-7000-8000-000000000001", "event_type": "a.thing", "category": "system_access"})
        sealed = [one for _ in range(3) for one in writer.seal(0, Draft(Kind.ENTRY, env, (), 0, 40_000), clock.now_us())]
        documents = [
            document_of(one.packed(), f"id-{number}", "audit:x", "test", b"2026-01-01T00:00:00Z") for number, one in enumerate(sealed)
        ]
        kept = [
            Encoded(f"id-{number}", "audit-events", 0, b"audit:x", value, [], 0) for number, value in enumerate(documents) if number != 2
        ]
        watched.begin()
        await roll.log.append(kept).settled()
        await finding(roll, watched, "PCI-009", "gap")
        await watched.told("AGT-008", "gap")


@pytest.mark.slow
async def test_a_review_that_is_overdue(tmp_path: Path) -> None:
    async with Roll.open(settings_of(tmp_path / "log"), clock=FakeClock()) as roll:  # long ago
        recording = roll.audit.create_audit_entry("a.thing", "system_access", "read", "the first one")
        await asyncio.wait_for(recording, PATIENCE_S)
    async with Roll.open(settings_of(tmp_path / "log", audit_heartbeat_seconds=1)) as roll:
        watched = Watched(roll, "AGT-008")
        await roll.follow("audit")
        await watched.handled_that("HIPAA-002", "overdue")  # no monitor watches that rule
        page = await roll.audit.query_audit_trail(event_type="audit.finding.recorded", compliance_framework="hipaa")
        assert ("overdue", "HIPAA-002") in [(one["action"], one["violations"][0]["rule_id"]) for one in page["entries"]]
        report = await roll.audit.generate_compliance_report("hipaa")
        assert ("HIPAA-002", "overdue") in {(one["rule_id"], one["code"]) for one in report["violations"]}
