"""Whether records bear the MAC of their writer, under the key of their own second, which nobody else had."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Final

from tallyroll.audit.ledger.chain import Ratchet
from tallyroll.audit.ledger.layout import MAC_LABEL, MAX_MAC_EPOCH, META, REGISTRY, Core, leaf_hash
from tallyroll.audit.ledger.stored import record_in
from tallyroll.errors import KeyGone, LedgerTampered
from tallyroll.ports import KeyRing, LedgerRow, LedgerStore

_RATCHETS: Final = 10_000  # writer epochs whose MAC keys are kept; making one anew costs up to 86,400 hashes
_PAGE: Final = 1_000


class Macs:
    """Checks MACs with the first keys of a ring. Blocks for a look into it. Not promised: use by several threads."""

    def __init__(self, ring: KeyRing) -> None:
        self._ring = ring
        self._ratchets: dict[tuple[bytes, int], Ratchet] = {}

    def is_authentic(self, core: Core, leaf: bytes, mac: bytes) -> bool:
        """Whether its writer made it; not where the ring has no key of the writer epoch. Raises KeyRingUnavailable."""
        chain = (core.chain.writer, core.chain.epoch)
        if core.mac_epoch > MAX_MAC_EPOCH:
            return False
        ratchet = self._ratchets.pop(chain, None)
        if ratchet is None or ratchet.epoch > core.mac_epoch:
            try:
                ratchet = Ratchet(self._ring.k0(*chain))
            except KeyGone:
                return False
        ratchet.advance(core.mac_epoch)
        self._ratchets[chain] = ratchet
        if len(self._ratchets) > _RATCHETS:
            del self._ratchets[next(iter(self._ratchets))]
        return ratchet.mac(MAC_LABEL + leaf) == mac


async def forged_behind(store: LedgerStore, ring: KeyRing, noted: Mapping[int, int]) -> AsyncIterator[tuple[int, int]]:
    """Places (partition, number) of records behind the noted sizes, of these partitions, that their writer did not make.

    No signature covers these yet, so whoever can write the store could have added them. Raises StoreUnavailable, KeyRingUnavailable.
    """
    macs = Macs(ring)
    for partition, tail in sorted((await store.tails()).items()):
        if partition == META or partition not in noted or not 0 <= partition <= REGISTRY:
            continue
        at = max(tail.start, noted[partition])
        while at < tail.size and (rows := await store.rows(partition, at, _PAGE)):
            for number in await asyncio.to_thread(_forged, rows, macs):
                yield partition, number
            at = rows[-1].number + 1


def _forged(rows: Sequence[LedgerRow], macs: Macs) -> list[int]:
    found = []
    for row in rows:
        try:
            record, core = record_in(row)
        except LedgerTampered:
            found.append(row.number)
            continue
        if not macs.is_authentic(core, leaf_hash(record.core), record.mac):
            found.append(row.number)
    return found
