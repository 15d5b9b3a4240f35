"""Entries and findings as drafts, and what they will be found by. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import Final

from tallyroll.audit.ledger.chain import Drafts, Part
from tallyroll.audit.ledger.layout import Kind
from tallyroll.audit.sealing.deriving import Derived, Sentence
from tallyroll.audit.sealing.finding import Finding
from tallyroll.ports import LedgerFacts

DAY_US: Final = 86_400_000_000
OWN_KEEP_DAYS: Final = 365


def drafts_of(
    items: Sequence[Derived | Finding], parts: Iterator[Part], *, log_id: bytes, now_us: int, keep_days: int
) -> tuple[Drafts, list[LedgerFacts]]:
    """A draft and the facts of each; ``parts`` are those of their sentences, in order. An entry is kept so many days, a finding a year."""
    today = now_us // DAY_US
    entries = [item for item in items if isinstance(item, Derived)]
    days = [today + keep_days] * len(items)
    if len(entries) < len(items):
        entries = [_entry_of(item, log_id) if isinstance(item, Finding) else item for item in items]
        days = [today + (OWN_KEEP_DAYS if isinstance(item, Finding) else keep_days) for item in items]
    own, handles = list[Sequence[Part]](repeat((), len(items))), list[tuple[bytes, ...]](repeat((), len(items)))
    for at, sentences in enumerate([entry.sentences for entry in entries]):
        if sentences:
            own[at] = some = [next(parts) for _ in sentences]
            handles[at] = tuple([part.handle for part in some])
    found_by = zip(*[entry.found_by for entry in entries], strict=True)
    facts = list(map(LedgerFacts, repeat(int(Kind.ENTRY)), repeat(now_us), repeat(0), days, handles, *found_by))
    return Drafts([entry.env for entry in entries], own, days), facts


def _entry_of(finding: Finding, log_id: bytes) -> Derived:
    sentences = tuple([Sentence(*sentence) for sentence in finding.sentences])
    return Derived(finding.found_by(log_id), finding.env(log_id), sentences, ("", None), fits=True)
