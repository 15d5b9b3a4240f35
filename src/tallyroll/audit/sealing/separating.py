"""The sealer's look at who asked and who approved: opens the few entries that count, and says where one person did both."""

from __future__ import annotations

import asyncio
import os
from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

import msgspec

from tallyroll.audit.compliance.rules import ComplianceRule, RuleViolation
from tallyroll.audit.compliance.separation import Pair, Separation
from tallyroll.audit.ledger.contents import SALT, AuditEntry, entry_of
from tallyroll.audit.ledger.facts import facts_of
from tallyroll.audit.ledger.layout import Kind, PartType, Record, unpack_core
from tallyroll.audit.ledger.stored import record_in
from tallyroll.audit.ledger.subjects import text_of
from tallyroll.audit.sealing.finding import Breach, Finding
from tallyroll.errors import KeyGone, KeyRingUnavailable, SealBroken, StoreUnavailable
from tallyroll.events.position import Position
from tallyroll.ports import Cipher, Clock, KeyRing, LedgerFacts, LedgerStore, LedgerWanted

CODE: Final = "one_person_decides"
_REMEMBERED: Final = 1_000  # entries of one type that are read back from the ledger: seconds at the most
_SEEN: Final = 20_000  # ids of entries that are not opened again: more than are read back of all types


class Separating:
    """One sealer's memory of requests and approvals; ``remember`` reads it back from the ledger, which other processes fill too.

    Not promised: that a pair is found at once of which another process seals one half; ``look_around`` finds it later.
    """

    def __init__(
        self,
        rules: Iterable[ComplianceRule],
        store: LedgerStore,
        ring: KeyRing,
        cipher: Cipher,
        *,
        clock: Clock,
    ) -> None:
        self._separation = Separation(rules, secret=os.urandom(32))
        self._store = store
        self._ring = ring
        self._cipher = cipher
        self._clock = clock
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._unsaid: list[Finding] = []

    async def remember(self) -> None:
        """Reads back what was sealed, by whomever. Safe to do again. Raises StoreUnavailable, also for the key ring; LedgerTampered."""
        self._seen.clear()
        self._unsaid = await self._read_back()

    async def look_around(self, log_id: bytes, *, alone: bool) -> list[Finding]:
        """What nobody has found yet, in what was read back; unless this process is ``alone`` it is read again. Raises as ``remember``."""
        shown = self._unsaid if alone else [*self._unsaid, *await self._read_back()]
        found, self._unsaid = {one.audit_id(log_id): one for one in shown}, []
        known = await asyncio.to_thread(self._store.known, [*found]) if found else {}
        return [finding for audit_id, finding in found.items() if audit_id not in known]

    async def _read_back(self) -> list[Finding]:
        findings = []
        for event_type, within_us in self._separation.within_us.items():
            wanted = LedgerWanted(event_type=event_type, start_us=self._clock.now_us() - within_us)
            _, rows = await self._store.find(wanted, limit=_REMEMBERED)
            for row in reversed(rows):
                record, core = record_in(row)
                if facts_of(record, core).audit_id in self._seen:
                    continue
                try:
                    entry, pairs = self._see(record)
                except KeyRingUnavailable as error:
                    raise StoreUnavailable(error.where, error.reason) from error  # to be tried again
                where = f"ledger/{row.partition}/{row.number}" if row.source is None else str(row.source)
                findings += [_finding(pair, entry, where) for pair in pairs if entry is not None]
        return findings

    def look(self, record: Record, facts: LedgerFacts, where: Position) -> list[Finding]:
        """What a record that has come at ``where`` shows together with those before it. Raises KeyRingUnavailable."""
        if facts.kind != Kind.ENTRY or facts.event_type not in self._separation.within_us:
            return []
        entry, pairs = self._see(record)
        return [_finding(pair, entry, str(where)) for pair in pairs] if entry is not None else []

    def _see(self, record: Record) -> tuple[AuditEntry | None, list[Pair]]:
        try:
            entry = entry_of(record, [self._text(record, number) for number in range(len(record.parts))])
        except msgspec.MsgspecError:  # an entry of another shape is about nothing that we know of
            return None, []
        self._seen[entry.audit_id] = None
        if len(self._seen) > _SEEN:
            self._seen.popitem(last=False)
        return entry, self._separation.see(entry.audit_id, unpack_core(record.core).ts_us, msgspec.structs.asdict(entry))

    def _text(self, record: Record, number: int) -> bytes | None:
        try:
            text = text_of(self._ring, self._cipher, record, number)
        except (KeyGone, LookupError, SealBroken):  # erased, removed, or for the verifier to name
            return None
        return text[SALT:] if unpack_core(record.core).parts[number].part_type == PartType.PLAIN else text


def _finding(pair: Pair, entry: AuditEntry, where: str) -> Finding:
    rule = pair.rule
    violation = RuleViolation(rule.rule_id, CODE, rule.severity, ("user_id",))
    return Finding(CODE, where, f"{rule.rule_id}: {pair.approved} approves {pair.asked}", breaches=(Breach(rule, violation, entry),))
