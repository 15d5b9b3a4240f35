"""The compliance report: what the rules of a framework asked for in a period, what became of it, and the proofs that go with it.

Made of what the ledger says in clear; nothing is opened for it, so anybody may read it who may know the ids of agents.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Final, TypedDict

import msgspec

from tallyroll.audit.compliance.rules import REVIEWED, ComplianceRule, RuleSet
from tallyroll.audit.entry import AuditSeverity, ComplianceFramework
from tallyroll.audit.ledger.contents import AuditEntry, clear_entry, in_clear
from tallyroll.audit.ledger.layout import REGISTRY, Kind
from tallyroll.audit.ledger.proving import Noted, noted, proof_of
from tallyroll.audit.ledger.stored import read_of, record_in, steering
from tallyroll.audit.reading.integrity import Integrity, Verification
from tallyroll.audit.reading.query import MAX_LIMIT, Wanted, zoned_us
from tallyroll.audit.reading.reader import pages
from tallyroll.audit.reading.recommending import recommendations
from tallyroll.audit.removal.lost_keys import Lost, LostKeys
from tallyroll.errors import LedgerTampered
from tallyroll.events.moments import moment_at
from tallyroll.ports import Clock, LedgerRow, LedgerStore

MAX_LISTED: Final = 1_000
"""Violations, reads and reviews that a report lists; it counts all of them."""

_PAGE: Final = 2_000
_env: Final = msgspec.json.Decoder(dict[str, Any])


class ComplianceReport(TypedDict):
    """A report. Times are UTC; rates in percent.

    ``compliance_summary`` and ``population`` are per rule. A population names the entries that a rule applied to, and in which
    stretch of which partition they lie: that stretch is without holes if ``gaps`` is empty and the integrity certificate is
    valid, which a verifier shows from the export. ``sample`` are entries with their proofs, drawn by ``sample_seed``: those
    whose SHA-256 of seed and audit id is smallest; the seed is the signed root unless one was given, so nobody chose them.
    """

    framework: str
    report_period: dict[str, str | None]
    rule_set: str
    total_events: int
    rules_analyzed: int
    compliance_summary: dict[str, dict[str, Any]]
    overview: dict[str, dict[str, int]]
    violations: list[dict[str, Any]]
    violations_total: int
    recommendations: list[str]
    generated_at: str
    population: dict[str, dict[str, Any]]
    integrity_certificate: dict[str, Any]
    review_record: dict[str, Any]
    reads: dict[str, Any]
    retention_runs: list[dict[str, Any]]
    erasures: list[dict[str, Any]]
    holds: list[dict[str, Any]]
    key_events: list[dict[str, Any]]
    gaps: list[dict[str, Any]]
    sample_seed: str
    sample: list[dict[str, Any]]


@dataclass
class _Population:
    """Where the entries of one rule lie."""

    entries: int = 0
    breached: int = 0
    stretches: dict[int, list[int]] = field(default_factory=dict)

    def see(self, entry: AuditEntry, *, breached: bool) -> None:
        self.entries += 1
        self.breached += breached
        number = entry.index or 0
        first, last, count = self.stretches.get(entry.partition, [number, number, 0])
        self.stretches[entry.partition] = [min(first, number), max(last, number), count + 1]

    def shown(self, gaps: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return {
            "entries": self.entries,
            "stretches": [
                {"partition": partition, "first": first, "last": last, "records": last - first + 1, "entries": count}
                for partition, (first, last, count) in sorted(self.stretches.items())
            ],
            "gaps": [gap["index"] for gap in gaps if gap["gap"]["partition"] in self.stretches],
        }


@dataclass
class _Seen:
    """What went by of the period's entries."""

    seed: str
    rules: Mapping[str, ComplianceRule]
    sample_size: int
    total: int = 0
    populations: dict[str, _Population] = field(default_factory=dict)
    severities: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    categories: Counter[str] = field(default_factory=Counter)
    violations: list[dict[str, Any]] = field(default_factory=list)
    violations_total: int = 0
    codes: Counter[str] = field(default_factory=Counter)
    drawn: list[tuple[int, LedgerRow, AuditEntry]] = field(default_factory=list)

    def see(self, row: LedgerRow, entry: AuditEntry) -> None:
        self.total += 1
        self.severities[entry.severity] += 1
        self.outcomes[entry.outcome] += 1
        self.categories[entry.category] += 1
        ours = [found for found in entry.violations if found.get("rule_id") in self.rules]
        for rule_id in entry.rule_ids:
            if rule_id in self.rules:
                breached = any(found["rule_id"] == rule_id for found in ours)
                self.populations.setdefault(rule_id, _Population()).see(entry, breached=breached)
        for found in ours:
            self.violations_total += 1
            self.codes[str(found.get("code"))] += 1
            if len(self.violations) < MAX_LISTED:
                self.violations.append({**found, **place_of(entry)})
        rank = -int.from_bytes(sha256(f"{self.seed}{entry.audit_id}".encode()).digest())
        if len(self.drawn) < self.sample_size:
            heapq.heappush(self.drawn, (rank, row, entry))
        elif self.sample_size and rank > self.drawn[0][0]:
            heapq.heapreplace(self.drawn, (rank, row, entry))


class Reporting:
    """Makes reports on one ledger.

    ``rules`` are those in force; ``lost`` tells which keys are; ``keys`` are the ledger's public keys, for the certificate.

    Not promised: that a framework is complied with. A report says what was recorded, what the rules made of it, and that the
    record is whole; what it means a person judges.
    """

    def __init__(  # noqa: PLR0913  # what a report is made of
        self,
        store: LedgerStore,
        verification: Verification,
        rules: Callable[[], RuleSet],
        *,
        lost: LostKeys,
        keys: Collection[str],
        clock: Clock,
    ) -> None:
        self._store = store
        self._verification = verification
        self._rules = rules
        self._lost = lost
        self._keys = tuple(keys)
        self._clock = clock

    async def report(
        self,
        framework: ComplianceFramework | str,
        start_time: datetime | None = None,
        end_time: datetime | None = None,
        *,
        seed: str | None = None,
        sample: int = 5,
    ) -> ComplianceReport:
        """The report on a framework and a period, both ends included. Verifies the whole ledger first.

        Raises ValueError for naive moments, an unknown framework, or a sample below 0 or above 1,000; StoreUnavailable.
        """
        name = ComplianceFramework(framework)
        if not 0 <= sample <= MAX_LISTED:
            raise ValueError(f"sample: expected 0 to {MAX_LISTED}")
        wanted = Wanted(start_time=start_time, end_time=end_time, compliance_framework=name)
        integrity = await self._verification.verify(start_time, end_time)
        known = None
        with suppress(LedgerTampered):  # the certificate says so, and nothing can be proven
            known = await noted(self._store)
        rules = {rule.rule_id: rule for rule in self._rules().rules if rule.framework == name}
        seen = _Seen(seed or (integrity["snapshot"] or {}).get("root", "unsigned"), rules, sample)
        sizes = dict(await self._store.sizes())
        async for row, entry in self._entries(wanted, sizes):
            seen.see(row, entry)
        registry = await self._registry(start_time, end_time)
        reads = await self._kind("audit.read", wanted, sizes)
        reviews = await self._kind(REVIEWED, wanted, sizes)
        return self._joined(name, wanted, seen, integrity, registry, {
            "reads": reads, "review_record": reviews, "sample": await self._sample(seen, known),
        })  # fmt: skip

    def _joined(  # noqa: PLR0913  # the pieces of a report
        self,
        name: ComplianceFramework,
        wanted: Wanted,
        seen: _Seen,
        integrity: Integrity,
        registry: Mapping[str, list[dict[str, Any]]],
        found: Mapping[str, Any],
    ) -> ComplianceReport:
        return {
            "framework": str(name),
            "report_period": {"start": _iso(wanted.start_time), "end": _iso(wanted.end_time)},
            "rule_set": self._rules().version,
            "total_events": seen.total,
            "rules_analyzed": len(seen.rules),
            "compliance_summary": {rule_id: _summary(rule, seen.populations.get(rule_id)) for rule_id, rule in seen.rules.items()},
            "overview": {"severity": _counts(seen.severities), "outcome": _counts(seen.outcomes), "category": _counts(seen.categories)},
            "violations": seen.violations,
            "violations_total": seen.violations_total,
            "recommendations": recommendations(
                seen.codes,
                integrity,
                seen.rules.values(),
                reviews=found["review_record"],
                gaps=registry["gaps"],
                now_us=self._clock.now_us(),
            ),
            "generated_at": moment_at(self._clock.now_us()).isoformat(),
            "population": {rule_id: one.shown(registry["gaps"]) for rule_id, one in sorted(seen.populations.items())},
            "integrity_certificate": {**integrity, "public_keys": [*self._keys]},
            "review_record": found["review_record"],
            "reads": found["reads"],
            "retention_runs": registry["retention_runs"],
            "erasures": registry["erasures"],
            "holds": registry["holds"],
            "key_events": registry["key_events"],
            "gaps": registry["gaps"],
            "sample_seed": seen.seed,
            "sample": found["sample"],
        }

    async def entries(self, wanted: Wanted) -> AsyncIterator[AuditEntry]:
        """Entries as they are in clear, newest first."""
        async for _, entry in self._entries(wanted, dict(await self._store.sizes())):
            yield entry

    async def _entries(self, wanted: Wanted, sizes: Mapping[int, int]) -> AsyncIterator[tuple[LedgerRow, AuditEntry]]:
        async for rows in pages(self._store, wanted.of_store(), sizes, MAX_LIMIT):
            read, _ = read_of(rows)  # of the others nothing can be read; the certificate names them
            lost: Lost = {}
            with suppress(LedgerTampered):  # as above, of the registry
                lost = await self._lost.of(read)
            for row, record, _ in read:
                yield row, clear_entry(row, record, lost.get((row.partition, row.number), ()))

    async def _kind(self, event_type: str, wanted: Wanted, sizes: Mapping[int, int]) -> dict[str, Any]:
        """Entries of a type in the period, of any framework."""
        asked = Wanted(start_time=wanted.start_time, end_time=wanted.end_time, event_type=event_type)
        total, rows = await self._store.find(asked.of_store(), limit=MAX_LISTED, as_of=sizes)
        listed = [in_clear(row) for row in rows]
        return {"total": total, "newest": [{**place_of(one), "action": one.action, "purpose": one.purpose} for one in listed]}

    async def _registry(self, start_time: datetime | None, end_time: datetime | None) -> dict[str, list[dict[str, Any]]]:
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in set(_REGISTRY.values())}
        start_us = 0 if start_time is None else zoned_us("start_time", start_time)
        end_us = None if end_time is None else zoned_us("end_time", end_time)
        at = 0
        while rows := await self._store.rows(REGISTRY, at, _PAGE):
            at = rows[-1].number + 1
            for row in rows:
                with suppress(LedgerTampered), steering(row):  # the certificate says so
                    record, core = record_in(row)
                    name = _REGISTRY.get(core.kind)
                    if name is None or record.env is None or core.ts_us < start_us or (end_us is not None and core.ts_us > end_us):
                        continue
                    moment = moment_at(core.ts_us).isoformat()
                    found[name].append({"index": row.number, "timestamp": moment, **_env.decode(record.env)})
        return found

    async def _sample(self, seen: _Seen, known: Noted | None) -> list[dict[str, Any]]:
        found = []
        for _, row, entry in sorted(seen.drawn, key=lambda one: one[0], reverse=True):
            proof = None
            with suppress(LedgerTampered):  # as above
                proof = await proof_of(self._store, row, known)
            found.append({**place_of(entry), "rule_ids": [*entry.rule_ids], "proof": None if proof is None else proof.decode()})
        return found


_REGISTRY: Final[Mapping[int, str]] = {
    Kind.ERASURE: "erasures", Kind.RETENTION: "retention_runs", Kind.HOLD: "holds", Kind.KEY: "key_events", Kind.GAP: "gaps",
}  # fmt: skip


def place_of(entry: AuditEntry) -> dict[str, Any]:
    """Which entry it is and where it lies."""
    return {
        "audit_id": entry.audit_id, "timestamp": entry.timestamp.isoformat(), "event_type": entry.event_type,
        "partition": entry.partition, "index": entry.index, "position": entry.position,
    }  # fmt: skip


def _summary(rule: ComplianceRule, found: _Population | None) -> dict[str, Any]:
    entries, breached = (found.entries, found.breached) if found else (0, 0)
    return {
        "title": rule.title, "citation": rule.citation, "severity": str(rule.severity), "applicable_events": entries,
        "violating_events": breached, "compliance_rate_percent": round(100 * (entries - breached) / entries, 2) if entries else None,
    }  # fmt: skip


def _counts(counter: Counter[str]) -> dict[str, int]:
    order = [*AuditSeverity]
    return dict(sorted(((str(name), count) for name, count in counter.items()), key=lambda one: (one[0] not in order, one[0])))


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.astimezone(UTC).isoformat()
