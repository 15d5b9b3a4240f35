"""Whether entries that somebody holds link to each other: a look at hashes, for programs that keep entries of their own. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, TypedDict

from tallyroll.audit.ledger.contents import AuditEntry


class ChainCheck(TypedDict):
    """What ``AuditChain.verify_chain`` finds. ``broken_links`` and ``integrity_failures`` are ids of entries."""

    valid: bool
    total_entries: int
    verified_entries: int
    broken_links: list[str]
    integrity_failures: list[str]


class _Place(NamedTuple):
    writer: str
    epoch: int
    partition: int
    seq: int


class AuditChain:
    """Entries, in any order, and whether the neighbours among them link to each other.

    An entry is verified when the entry before it in its chain is here and has the hash that it names; a broken link names
    another one. An integrity failure is a number of a chain that two different entries claim.
    Not promised: that an entry is what was sealed, or that none is missing: its bytes are not here. ``verify_audit_integrity``
    reads them.
    """

    def __init__(self) -> None:
        self._entries: list[AuditEntry] = []

    def add_entry(self, entry: AuditEntry) -> str:
        """Remembers an entry; returns its hash."""
        self._entries.append(entry)
        return entry.current_hash

    def verify_chain(self, entries: Iterable[AuditEntry] | None = None) -> ChainCheck:
        """Of these entries, or of those that were added."""
        given = self._entries if entries is None else list(entries)
        places: dict[_Place, AuditEntry] = {}
        failures = []
        for entry in given:
            first = places.setdefault(_place(entry), entry)
            if first.current_hash != entry.current_hash:
                failures.append(entry.audit_id)
        broken, verified = [], 0
        for place, entry in places.items():
            before = places.get(place._replace(seq=place.seq - 1))
            if before is not None and before.current_hash != entry.previous_hash:
                broken.append(entry.audit_id)
            verified += before is not None and before.current_hash == entry.previous_hash
        return {
            "valid": not broken and not failures, "total_entries": len(given), "verified_entries": verified,
            "broken_links": broken, "integrity_failures": failures,
        }  # fmt: skip


def _place(entry: AuditEntry) -> _Place:
    writer, epoch, partition, seq = entry.chain.split("/")
    return _Place(writer, int(epoch), int(partition), int(seq))
