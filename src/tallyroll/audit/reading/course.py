"""How a partition of the ledger came to be: where its chains stand behind its records, and where in the log these came from.

A sealer goes on from what is stored of both; whoever moves that makes it drop records as repeats, or pass them over. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from tallyroll.audit.ledger.layout import REGISTRY, Core, Kind, Record
from tallyroll.audit.ledger.partition import Tip, tip_after, unpack_tip
from tallyroll.audit.sealing.registry import ChainKey, Registry
from tallyroll.errors import Undecodable
from tallyroll.events.position import TopicPartition
from tallyroll.ports import LedgerRow, LedgerTail

_DERIVED: Final = b'"origin":"derived"'


class _Stand(NamedTuple):
    """``newest_us`` is None for a chain of which nothing is left: a pruning does not write down when its last record was made."""

    tip: Tip
    newest_us: int | None


class Course:
    """Follows the records of one partition, in order. ``tips`` are those of the chains that go on behind what was pruned.

    ``where`` is the partition of the log that is sealed there, None where only the records say so.
    Not promised: to tell an offset from another one that lies between those of the neighbours; nor anything of chains that
    were closed in a prefix that was pruned, but that their writers were admitted, nor when one that goes on was heard of last
    if all its records were pruned.
    """

    def __init__(self, partition: int, where: TopicPartition | None, tips: Mapping[ChainKey, Tip]) -> None:
        self.where = where
        self.next = 0
        """One past the last offset from which a record came."""
        self._partition = partition
        self._stands = {chain: _Stand(tip, None) for chain, tip in tips.items()}
        self._explicit = -1

    def see(self, row: LedgerRow, record: Record, core: Core, leaf: bytes) -> str:
        """Takes the next record; what is wrong with its place in the log, or nothing. Raises Undecodable for one that fills no gap."""
        key = (core.chain.writer, core.chain.epoch)
        before = self._stands.get(key)
        try:
            tip = tip_after(None if before is None else before.tip, core, leaf)
        except LookupError:
            raise Undecodable("ledger-chain", "a number that is there already") from None
        self._stands[key] = _Stand(tip, core.ts_us)
        return "" if self._partition == REGISTRY else self._of_log(row, record, core)

    def wrong_tips(self, tail: LedgerTail, registry: Registry) -> Iterator[tuple[int | None, str]]:
        """What is stored of chains and is not what their records say: sequence number and detail. ``tail`` with ended chains."""
        stored = {(tip.writer, tip.epoch): tip for tip in tail.tips}
        for chain, (tip, newest_us) in self._stands.items():
            found = stored.get(chain)
            if found is None:
                yield tip.seq, f"where {_named(chain)} stands is not stored"
                continue
            try:
                said = unpack_tip(found)
            except Undecodable:
                yield tip.seq, f"where {_named(chain)} stands cannot be read"
                continue
            ended = tip.closed or registry.ended.get(chain, {}).get(self._partition) == tip.seq
            same = (said.seq, said.leaf, said.mac_epoch, said.holes) == (tip.seq, tip.leaf, tip.mac_epoch, tip.holes)
            timed = newest_us is None or said.ts_us in (tip.ts_us, newest_us)  # its own records a sealer dates by the last
            if not same or not timed or found.open != said.open or said.closed not in (tip.closed, ended):
                yield tip.seq, f"{_named(chain)} is said to stand at {said.seq}{'' if said.open else ', closed'}"
        for chain in stored.keys() - self._stands.keys():
            if not tail.start or stored[chain].open or chain not in registry.admitted:
                yield None, f"{_named(chain)} is said to stand somewhere, and has no record"

    def wrong_progress(self, stored: int | None, end: int | None) -> str:
        """What is wrong with how far the log is said to be taken in; ``end`` is where the log ends, if that is known."""
        if stored is None:
            return "that the log was taken in is not stored" if self.next else ""
        if stored < self.next:
            return f"the log is said to be taken in to {stored}, and records came from {self.next - 1}"
        if end is not None and stored > end:
            return f"the log is said to be taken in to {stored}, and it ends at {end}"
        return ""

    def _of_log(self, row: LedgerRow, record: Record, core: Core) -> str:
        derived = record.env is not None and _DERIVED in record.env
        explicit = core.kind == Kind.ENTRY and record.env is not None and not derived
        source = row.source
        if source is None:
            named = self.where is not None and derived and f'"position":"{self.where}/'.encode() in (record.env or b"")
            return "where it came from is not stored" if explicit or named else ""
        where = TopicPartition(source.topic, source.partition)
        if self.where is None and source.partition == self._partition:
            self.where = where
        in_order = source.offset >= max(0, self.next - 1) and not (explicit and source.offset <= self._explicit)
        told = not derived or f'"position":"{source}"'.encode() in (record.env or b"")
        if where != self.where or not in_order or not told:
            return f"it is said to have come from {source}"
        self.next = source.offset + 1
        if explicit:
            self._explicit = source.offset
        return ""


def _named(chain: ChainKey) -> str:
    return f"writer {chain[0].hex()}, epoch {chain[1]}"
