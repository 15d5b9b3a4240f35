"""Entries and findings as drafts, and what they will be found by. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import Final

from tallyroll.audit.ledger.chain import Draft, Part
from tallyroll.audit.ledger.layout import Kind
from tallyroll.audit.sealing.deriving import Derived
from tallyroll.audit.sealing.finding import Finding
from tallyroll.ports import LedgerFacts

DAY_US: Final = 86_400_000_000
OWN_KEEP_DAYS: Final = 365
_ENTRY: Final = Kind.ENTRY  # looking a member up costs as much as a small hash


def drafts_of(
    items: Sequence[Derived | Finding], parts: Iterator[Part], *, log_id: bytes, now_us: int, keep_days: int
) -> tuple[list[Draft], list[LedgerFacts]]:
    """A draft and the facts of each; ``parts`` are those of their sentences, in order. An entry is kept so many days, a finding a year."""
    today = now_us // DAY_US
    own: list[Sequence[Part]] = [[next(parts) for _ in item.sentences] if item.sentences else () for item in items]
    handles = [tuple([part.handle for part in some]) if some else () for some in own]
    days = [today + (OWN_KEEP_DAYS if isinstance(item, Finding) else keep_days) for item in items]
    envs = [item.env(log_id) if isinstance(item, Finding) else item.env for item in items]
    found_by = zip(*[item.found_by(log_id) if isinstance(item, Finding) else item.found_by for item in items], strict=True)
    drafts = list(map(Draft, repeat(_ENTRY), envs, own, repeat(0), days))
    return drafts, list(map(LedgerFacts, repeat(int(_ENTRY)), repeat(now_us), repeat(0), days, handles, *found_by))
