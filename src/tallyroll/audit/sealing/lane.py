"""One partition of the log and the ledger's partition that it goes to, as far as this process has taken it in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count, repeat

from msgspec.structs import replace

from tallyroll.audit.ledger.chain import Run
from tallyroll.audit.ledger.layout import Kind, unpack_core, unpack_record
from tallyroll.audit.ledger.partition import LedgerPartition, Offered, Tip, pack_tip, unpack_tip
from tallyroll.audit.ledger.tree import CompactRange
from tallyroll.audit.sealing.publishers import Publishers
from tallyroll.audit.sealing.registry import ChainKey, Registry
from tallyroll.errors import LedgerTampered
from tallyroll.events.position import Position, TopicPartition
from tallyroll.ports import LedgerAppend, LedgerFacts, LedgerRow, LedgerTail, LedgerTip

FindTip = Callable[[int, bytes, int], LedgerTip | None]


class Lane:
    """See the module. ``stored`` is the position as stored, ``next`` the one behind what was taken in.

    ``seen_us`` is when the newest record of somebody else's was sealed, ``seen_s`` when it was taken in.

    Not promised: that anything is stored before ``taken`` is.
    """

    def __init__(  # noqa: PLR0913  # where it stands
        self, log_id: bytes, where: TopicPartition, number: int, stored: int | None, tail: LedgerTail | None, find: FindTip
    ) -> None:
        tail = tail or LedgerTail(0, ())
        tips = {(tip.writer, tip.epoch): unpack_tip(tip) for tip in tail.tips}
        self.where = where
        self.number = number
        self.stored = stored
        self.next = stored or 0
        self.ledger = LedgerPartition(log_id, number, tree=CompactRange(tail.size, tail.peaks), tips=tips)
        self.publishers = Publishers()
        self.seen_us = 0
        self.seen_s = float("-inf")
        self._find = find
        self._rows: list[LedgerRow] = []
        self._facts: list[LedgerFacts] = []
        self._moved: set[ChainKey] = set()
        self._ready: list[LedgerAppend] = []

    @property
    def has_pending(self) -> bool:
        """Whether records wait to be stored."""
        return bool(self._rows or self._ready)

    @property
    def end(self) -> int:
        """The number that the next record gets."""
        return self.ledger.tree.size + len(self._rows)

    def know(self, chain: ChainKey) -> None:
        """Sees to it that the chain's tip is known, also where the chain has been closed."""
        if chain not in self.ledger.tips and (stored := self._find(self.number, *chain)) is not None:
            self.ledger.tips[chain] = unpack_tip(stored)

    def settle(self, registry: Registry) -> None:
        """Closes the chains of which the registry says that nothing more comes.

        Raises LedgerTampered for a chain of nobody's: its writer's records would be taken for repeats when they come.
        """
        for chain, tip in self.ledger.tips.items():
            if chain not in registry.admitted:
                raise LedgerTampered("resume", self.number, self.end, f"writer {chain[0].hex()}, epoch {chain[1]}")
            ends = registry.ended.get(chain)
            if ends is not None and tip.open and not tip.holes and ends.get(self.number) == tip.seq:
                self.ledger.tips[chain] = replace(tip, closed=True)
                self._moved.add(chain)

    def take(self, offered: Offered, raw: bytes, facts: LedgerFacts, source: Position, now_us: int) -> None:
        """A record of somebody else's, judged; ``raw`` is the same packed."""
        core = offered.core
        assert core is not None  # noqa: S101  # a broken record is not taken
        self.ledger.move(offered)
        self._moved.add((core.chain.writer, core.chain.epoch))
        self._add(raw, offered.leaf, facts, source, now_us)

    def take_own(self, run: Run, facts: Sequence[LedgerFacts], sources: Sequence[Position | None], now_us: int, mac_epoch: int) -> None:
        """Records of this process's writer, the genesis of its chain before them where there is one: it has no facts and no source."""
        if len(facts) != len(sources):
            raise ValueError("there are not as many places as facts")
        own = len(run.packed) - len(facts)
        for raw, leaf in zip(run.packed[:own], run.leaves, strict=False):
            core = unpack_core(unpack_record(raw).core)
            opening = LedgerFacts(core.kind, core.ts_us, core.retention_class, core.keep_until_day)
            self._add(raw, leaf, opening, sources[0], now_us)
        self._rows += map(LedgerRow, repeat(self.number), count(self.end), run.packed[own:], run.leaves[own:], repeat(now_us), sources)
        self._facts += facts
        chain = (run.chain.writer, run.chain.epoch)
        self.ledger.tips[chain] = Tip(run.last, run.leaves[-1], mac_epoch, facts[-1].kind == Kind.CLOSE, (), now_us)
        self._moved.add(chain)

    def pending(self) -> Sequence[LedgerAppend]:
        """What is to be stored; the same, and what has come since, when it is asked for again."""
        if self._rows:
            tree, size = self.ledger.tree, self.ledger.tree.size
            nodes = tree.extend([row.leaf for row in self._rows])
            tips = [pack_tip(chain, self.ledger.tips[chain]) for chain in self._moved]
            self._ready.append(LedgerAppend(self.number, size, self._rows, self._facts, nodes, tree.peaks, tips))
            self._rows, self._facts = [], []
            self._moved.clear()
        return self._ready

    def taken(self, position: int) -> None:
        """What ``pending`` gave is stored, as far as ``position``."""
        self.stored = position
        self._ready = []
        for chain in [chain for chain, tip in self.ledger.tips.items() if not tip.open and chain not in self._moved]:
            del self.ledger.tips[chain]  # asked for again where something of it comes

    def _add(self, raw: bytes, leaf: bytes, facts: LedgerFacts, source: Position | None, now_us: int) -> None:
        self._rows.append(LedgerRow(self.number, self.end, raw, leaf, now_us, source))
        self._facts.append(facts)
