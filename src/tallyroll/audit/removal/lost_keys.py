"""Keys that are lost, told from those that were destroyed: what the ledger says of a key that the ring does not have.

A key goes by an erasure, which the registry names before it goes, or, if it sealed one part alone, with the part when its time
is over. Where neither is so, nobody was forgotten: an older copy of the ring is in its place, or somebody took the key away.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping
from typing import Final

from tallyroll.audit.ledger.layout import REGISTRY, PartType
from tallyroll.audit.ledger.stored import Read
from tallyroll.audit.removal.standing import Standing
from tallyroll.ports import KeyRing, LedgerStore

_PAGE: Final = 2_000
_OF_PLAIN: Final = bytes(16)

Lost = Mapping[tuple[int, int], Collection[int]]
"""The numbers of parts, by partition and number of their record."""


class LostKeys:
    """Of one ledger and its ring. As long as the ring has every key, the registry is not read for it; then what is new in it.

    Not promised: to see a lost key under which nothing is left; nor one that is lost and was named by an erasure as well.
    """

    def __init__(self, store: LedgerStore, ring: KeyRing) -> None:
        self._store = store
        self._ring = ring
        self._standing = Standing()

    async def lacking(self, handles: Iterable[bytes]) -> frozenset[bytes]:
        """Those of the handles of parts whose key the ring does not have, whatever the reason. Raises KeyRingUnavailable."""
        asked = {*handles} - {_OF_PLAIN}
        return frozenset(await asyncio.to_thread(self._ring.missing, asked)) if asked else frozenset()

    async def of(self, read: Collection[Read]) -> Lost:
        """Parts of these records that are there and do not open, while nothing in the ledger says why.

        The ring is asked before the registry, which names an erasure before the key goes: so none that is under way looks lost.
        Raises StoreUnavailable, KeyRingUnavailable, LedgerTampered.
        """
        missing = await self.lacking(mark.handle for _, _, core in read for mark in core.parts)
        if not missing or not any(_keyless(one, missing) for one in read):
            return {}
        while rows := await self._store.rows(REGISTRY, self._standing.size, _PAGE):
            self._standing.read(rows)
        found = {(one[0].partition, one[0].number): self._unexplained(one, missing) for one in read}
        return {place: parts for place, parts in found.items() if parts}

    def _unexplained(self, one: Read, missing: Collection[bytes]) -> list[int]:
        row, _, core = one
        said = self._standing
        return [
            part
            for part in _keyless(one, missing)
            if core.parts[part].handle not in said.destroyed
            and (row.partition, row.number, part) not in said.erased_parts
            and not (core.parts[part].part_type == PartType.UNKNOWN and said.expired(row.partition, core.retention_class, row.number))
        ]


def _keyless(one: Read, missing: Collection[bytes]) -> list[int]:
    """The parts of a record that are there, and whose key is not."""
    _, record, core = one
    return [part for part, mark in enumerate(core.parts) if mark.handle in missing and record.parts[part] is not None]
