"""The audit trail of one log: what programs call. Each method delegates; what is needed is opened at the first call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tallyroll.audit.entry import AuditEventCategory
from tallyroll.audit.ledger.contents import AuditEntry
from tallyroll.audit.ledger.note import ED25519, NoteKey
from tallyroll.audit.reading.query import KEY_HOLDER, Answer, AuditPage, Reader, Wanted
from tallyroll.audit.recording.new_entry import NewEntry

if TYPE_CHECKING:  # what does the work is imported by who opens it, beside the event loop
    from tallyroll.audit.opening import OpenAudit
    from tallyroll.audit.reading.evidence import Packed, Progress
    from tallyroll.audit.reading.facade import AuditReading
    from tallyroll.audit.reading.integrity import Integrity
    from tallyroll.audit.reading.report import ComplianceReport
    from tallyroll.audit.recording.violations import Monitor, ViolationHandler, Violations
    from tallyroll.audit.removal.erasure import ErasureReceipt
    from tallyroll.audit.removal.retention import RetentionRun
    from tallyroll.audit.removal.standing import Standing
    from tallyroll.events.position import TopicPartition


class KeyFacts(NamedTuple):
    """The ledger's name, the public key of its checkpoints as ``NAME+ID+BASE64``, and the version of the rules in force."""

    ledger: str
    public_key: str
    rule_set: str


class AuditTrail:
    """Records entries into the ledger, and answers questions about them. Made by ``Roll.audit``; used from its event loop.

    Every method that waits raises SettingsError where the keys cannot be had (``AUDIT_SECRET_KEY``), KeyRingUnavailable,
    MissingExtra. Not promised: that an entry is in the ledger when it was recorded; it is on its way, and durable.
    """

    def __init__(self, opened: Callable[[], Awaitable[OpenAudit]], violations: Violations) -> None:
        self._opened = opened
        self._violations = violations

    async def create_audit_entry(
        self,
        event_type: str,
        category: str,
        action: str,
        description: str,
        **fields: Any,  # noqa: ANN401  # see NewEntry
    ) -> AuditEntry:
        """The entry, recorded; see ``audit.recording.recorder.Recorder.record``."""
        return await (await self._opened()).recorder.record(NewEntry.of(event_type, category, action, description, **fields))

    async def create_audit_entries(self, entries: Sequence[NewEntry]) -> list[AuditEntry]:
        """Many at once, in their order; see ``audit.recording.recorder.Recorder.record_batch``."""
        return await (await self._opened()).recorder.record_batch(entries)

    async def anonymize_subject_data(
        self, subject_id: str, *, reason: str = "request", operator: str | None = None, deep: bool = True
    ) -> ErasureReceipt:
        """Forgets a person: their keys are destroyed, what was sealed about them is removed, and every proof stays valid.

        Where a hold or a law stands against it, nothing is destroyed and no reader sees it any more: the receipt says so.
        ``deep`` also looks for the id in everything that can still be opened. ``reason`` and ``operator`` go into an entry of
        the trail, sealed; the id goes nowhere. See ``audit.removal.erasure``. Raises ValueError for a reason that names the person.
        """
        opened = await self._opened()
        receipt = await (await opened.eraser()).erase(subject_id, deep=deep)
        await self._say(
            opened, "privacy.erasure", "erase", operator, {"request": receipt.request_id, "state": receipt.state, "reason": reason}
        )
        return receipt

    async def resume_erasures(self) -> list[str]:
        """Ends erasures that were cut short, or undone by a backup that was put back; their request ids."""
        return await (await (await self._opened()).eraser()).resume()

    async def apply_retention(self, *, operator: str = "retention", prune: bool = False) -> RetentionRun:
        """Removes what is past its day, and with ``prune`` whole beginnings of the ledger; see ``audit.removal.retention``."""
        return await (await (await self._opened()).retention()).run(operator=operator, prune=prune)

    async def cleanup_expired_entries(self) -> int:
        """As ``apply_retention``; the number of bodies removed."""
        return (await self.apply_retention()).bodies

    async def set_hold(  # noqa: PLR0913  # what it covers, and who says so
        self, *, who: str, why: str, subject_id: str | None = None, partition: int | None = None, start: int = 0, end: int | None = None
    ) -> list[str]:
        """From now on nothing it covers is removed or erased; see ``audit.removal.retention.Retention.set_hold``."""
        retention = await (await self._opened()).retention()
        return await retention.set_hold(who=who, why=why, subject=subject_id, partition=partition, start=start, end=end)

    async def release_hold(self, hold_id: str, *, who: str, why: str) -> list[str]:
        """Ends a hold. Raises LookupError where none of this id is set."""
        return await (await (await self._opened()).retention()).release_hold(hold_id, who=who, why=why)

    async def standing(self) -> Standing:
        """What is held, erased, restricted and pruned now."""
        return await (await (await self._opened()).eraser()).standing()

    async def _say(self, opened: OpenAudit, event_type: str, action: str, operator: str | None, payload: dict[str, str]) -> None:
        """What was done to the trail, in the trail."""
        entry = NewEntry.of(event_type, "privacy", action, "done to the audit trail", user_id=operator, payload=payload)
        await opened.recorder.record(entry)

    def add_violation_handler(self, handler: ViolationHandler) -> None:
        """From now on ``handler`` is told of every breach of a rule in what this process records."""
        self._violations.add_handler(handler)

    def add_real_time_monitor(self, rule_id: str, monitor: Monitor) -> None:
        """From now on ``monitor`` is given every entry that the rule applies to, at once; if the rule has ``real_time_monitoring``."""
        self._violations.add_monitor(rule_id, monitor)

    # Reading

    async def query_audit_trail(  # noqa: PLR0913  # one argument a filter, in the order that earlier callers know
        self,
        start_time: datetime | None = None,
        end_time: datetime | None = None,
        user_id: str | None = None,
        agent_id: str | None = None,
        task_id: str | None = None,
        category: str | None = None,
        severity: str | None = None,
        outcome: str | None = None,
        compliance_framework: str | None = None,
        limit: int = 1_000,
        offset: int = 0,
        *,
        workflow_id: str | None = None,
        event_type: str | None = None,
        as_of: Mapping[str, int] | None = None,
        reader: Reader = KEY_HOLDER,
    ) -> AuditPage:
        """A page of entries as plain JSON values, newest first; every filter that is given has to hold.

        Both ends of the period are included. ``as_of`` of an earlier page keeps further ones stable. ``reader`` says who reads:
        who has the scope ``personal`` gets sealed fields opened, and that is recorded; others get fields in clear only. Waits,
        at most ``read_wait_ms``, for what this process has recorded. Raises ValueError for naive moments, unknown names and a
        limit above 10,000.
        """
        wanted = Wanted(
            start_time, end_time, user_id, agent_id, task_id, workflow_id, category, severity, outcome, event_type, compliance_framework
        )
        return (await self.query(wanted, limit=limit, offset=offset, as_of=as_of, reader=reader)).page()

    async def query(
        self,
        wanted: Wanted | None = None,
        *,
        limit: int = 1_000,
        offset: int = 0,
        as_of: Mapping[str, int] | None = None,
        reader: Reader = KEY_HOLDER,
    ) -> Answer:
        """The same as objects."""
        return await (await self._reading()).reader.query(wanted or Wanted(), limit=limit, offset=offset, as_of=as_of, reader=reader)

    async def entries(self, wanted: Wanted | None = None, *, reader: Reader = KEY_HOLDER) -> AsyncIterator[AuditEntry]:
        """Every entry that matches, newest first, however many there are."""
        async for entry in (await self._reading()).reader.each(wanted or Wanted(), reader=reader):
            yield entry

    async def get_audit_entry(self, audit_id: str, *, reader: Reader = KEY_HOLDER) -> AuditEntry | None:
        """One entry, or None. Erased fields are None, and an erased payload is ``{"erased": true}``; see ``AuditEntry`` for lost keys."""
        return await (await self._reading()).reader.entry(audit_id, reader=reader)

    async def get_clear_text(self, audit_id: str, *, reader: Reader = KEY_HOLDER) -> AuditEntry | None:
        """One entry with everything that was sealed in it. Raises SubjectErased where something is gone, KeyLost where a key is."""
        return await (await self._reading()).reader.clear_text(audit_id, reader=reader)

    # Proving

    async def verify_audit_integrity(
        self, start_time: datetime | None = None, end_time: datetime | None = None, *, notes: Sequence[bytes] = ()
    ) -> Integrity:
        """Verifies the whole ledger; the period says which entries are counted. See ``audit.reading.integrity.Verification``.

        ``notes`` are signed checkpoints that were kept (``snapshot["note"]``): a ledger that was cut or rewritten since shows.
        """
        return await (await self._reading()).verification.verify(start_time, end_time, notes=notes)

    async def proof(self, audit_id: str) -> bytes:
        """A ``.tlog-proof`` that the entry is in the ledger, for ``python -m tallyroll.audit.verify``; no part of it is inside.

        Raises LookupError for an unknown entry, StoreUnavailable while no signed checkpoint covers it.
        """
        return await (await self._reading()).proof(audit_id)

    async def continuation(self, old_size: int) -> bytes:
        """A proof that the newest checkpoint continues the one of ``old_size``. Raises as ``proof``; ValueError for a larger size."""
        return await (await self._reading()).continuation(old_size)

    async def generate_compliance_report(
        self,
        framework: str,
        start_time: datetime | None = None,
        end_time: datetime | None = None,
        *,
        seed: str | None = None,
        sample: int = 5,
    ) -> ComplianceReport:
        """What the rules of a framework made of a period, with proofs; nothing personal is in it. See ``audit.reading.report``."""
        return await (await self._reading()).reporting.report(framework, start_time, end_time, seed=seed, sample=sample)

    async def write_evidence(  # noqa: PLR0913  # what a pack is about
        self,
        path: Path,
        framework: str,
        start_time: datetime | None = None,
        end_time: datetime | None = None,
        *,
        seed: str | None = None,
        sample: int = 20,
        plain: bool = False,
        progress: Progress | None = None,
    ) -> Packed:
        """Writes a zip for an auditor who has plain Python and nothing of ours; see ``audit.reading.evidence``."""
        reading = await self._reading()
        return await reading.pack(path, framework, start_time, end_time, progress, seed=seed, sample=sample, plain=plain)

    async def export_ledger(self, path: Path, *, plain: bool = False, progress: Progress | None = None) -> int:
        """Writes the ledger as a zip for the verifier; how many bytes. Parts that are not sealed are left out unless ``plain``."""
        return await (await self._reading()).export(path, plain=plain, progress=progress)

    # Keys

    async def keys(self) -> KeyFacts:
        """What may be known of the ledger's keys: its name, and the public key to give to auditors."""
        opened = await self._opened()
        signer = opened.keys.signer
        return KeyFacts(signer.name, str(NoteKey(signer.name, ED25519, signer.public)), opened.rules.version)

    async def rotate_keys(self) -> int:
        """Seals the key ring under a new key and destroys the old one; the number of the new key. Recorded.

        What is in the ring stays, so old entries stay readable; copies of it from before cannot be read any more.
        """
        opened = await self._opened()
        number = await asyncio.to_thread(opened.keys.ring.rotate)
        await self.create_audit_entry(
            "audit.keys_rotated", AuditEventCategory.AUDIT_SYSTEM, "rotate", "the key ring was sealed anew", payload={"number": number}
        )
        return number

    async def begin_anew(self, *, who: str, why: str) -> list[TopicPartition]:
        """Accepts that the ledger is lost: the sealer, which stops where it is missing, makes another one of what the log has.

        Which partitions that are; none where nothing is missing, and then nothing is changed. Recorded, and the sealer says in
        the new ledger that it is one (finding ``rewound``). Raises StoreUnavailable, LogUnavailable.
        """
        gone = await (await self._opened()).begin_anew()
        if gone:
            await self.create_audit_entry(
                "audit.begun_anew", AuditEventCategory.AUDIT_SYSTEM, "begin_anew", "a ledger that is lost was begun anew", reason=why,
                payload={"who": who, "partitions": [str(one) for one in gone]},
            )  # fmt: skip
        return gone

    async def _reading(self) -> AuditReading:
        return await (await self._opened()).reading()
