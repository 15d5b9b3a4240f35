"""The taking side of the ledger: whether a record that arrives continues its chain, and what the partition's tree becomes.

Pure: no clock, no randomness, no I/O. The sealer keeps records, nodes and heads in a store, in one transaction with its
position, and asks here what they mean.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from enum import Enum
from hashlib import sha256
from typing import Final

import msgspec
from msgspec.structs import replace

from tallyroll.audit.ledger import layout, note
from tallyroll.audit.ledger.layout import Core, Kind, Record
from tallyroll.audit.ledger.note import Checkpoint
from tallyroll.audit.ledger.records import Hole, OpenHead
from tallyroll.audit.ledger.tree import CompactRange
from tallyroll.errors import Undecodable
from tallyroll.ports import LedgerTip

_pack: Final = msgspec.msgpack.Encoder().encode


class Verdict(Enum):
    """What is to be done with a record that arrived."""

    APPEND = "it continues its chain"
    LATE = "it fills the start of a gap: append it"
    GAP = "numbers before it are missing: have them recorded, then append it"
    REPEAT = "it is here already: drop it"
    FORK = "its number is taken by another record: alarm, do not append"
    FOREIGN = "it belongs to another ledger, partition or chain: alarm, do not append"
    UNREGISTERED = "its writer epoch is not in the registry: alarm, do not append"
    CLOSED = "its chain has been closed: alarm, do not append"
    BROKEN = "its bytes contradict themselves: alarm, do not append"


# Looking a member up takes longer than comparing it, and each record is compared with several.
_APPEND: Final = Verdict.APPEND
_LATE: Final = Verdict.LATE
GAP: Final = Verdict.GAP
REPEAT: Final = Verdict.REPEAT
_GENESIS: Final = Kind.GENESIS
_CLOSE: Final = Kind.CLOSE
TAKEN: Final = (_APPEND, _LATE, GAP)
"""Verdicts on records that are appended."""


class Tip(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """Where a chain stands: its newest number and leaf, the MAC epoch it has reached, holes that are still open.

    ``ts_us`` is the latest moment that one of its records names.
    """

    seq: int
    leaf: bytes
    mac_epoch: int
    closed: bool = False
    holes: tuple[Hole, ...] = ()
    ts_us: int = 0

    @property
    def open(self) -> bool:
        """Whether more of the chain may come."""
        return not self.closed or bool(self.holes)


class Offered(msgspec.Struct, frozen=True, gc=False):
    """A record, read and judged. ``missing`` is the first number that is not there when the verdict is GAP."""

    verdict: Verdict
    record: Record
    core: Core | None
    leaf: bytes
    missing: int = 0

    @property
    def place(self) -> str:
        """Where in which chain it claims to be, as findings name it; empty where it cannot be read."""
        core = self.core
        return "" if core is None else f"writer {core.chain.writer.hex()}, epoch {core.chain.epoch}, seq {core.seq}"


class LedgerPartition:
    """One partition of the ledger: its tree and the tips of its chains.

    Not promised: to keep the records; nor to recognise a repeat that is older than its chain's newest record by more than
    its number. Such a record is dropped as a repeat although its bytes are not compared.
    """

    def __init__(
        self, log_id: bytes, partition: int, *, tree: CompactRange | None = None, tips: Mapping[tuple[bytes, int], Tip] | None = None
    ) -> None:
        self.log_id = log_id
        self.partition = partition
        self.tree = tree or CompactRange()
        self.tips = dict(tips or {})

    def judge(self, record: Record, admitted: Container[tuple[bytes, int]]) -> Offered:
        """What a record is. ``admitted`` are the writer epochs of the registry. Changes nothing.

        It is judged against what was appended: judge the next one of a chain only after appending this one.
        """
        try:
            core = layout.unpack_core(record.core)
        except Undecodable:
            return Offered(Verdict.BROKEN, record, None, b"")
        leaf = layout.leaf_hash(record.core)
        chain = core.chain
        key = (chain.writer, chain.epoch)
        if chain.log_id != self.log_id or chain.partition != self.partition:
            return Offered(Verdict.FOREIGN, record, core, leaf)
        if not _is_whole(record, core):
            return Offered(Verdict.BROKEN, record, core, leaf)
        if key not in admitted:
            return Offered(Verdict.UNREGISTERED, record, core, leaf)
        tip = self.tips.get(key) or Tip(-1, layout.genesis_prev(chain), 0)
        verdict = _judge(tip, core, leaf)
        return Offered(verdict, record, core, leaf, tip.seq + 1)

    def append(self, offered: Sequence[Offered]) -> int:
        """Appends what was judged APPEND, LATE or GAP, in this order; returns the index of the first."""
        first = self.tree.size
        for item in offered:
            self.move(item)
        self.tree.extend([item.leaf for item in offered])
        return first

    def move(self, item: Offered) -> None:
        """Moves the chain's tip to what was judged; the tree is the caller's to extend, many leaves at a time."""
        if item.core is None:
            raise ValueError("a broken record is not appended")
        chain = item.core.chain
        key = (chain.writer, chain.epoch)
        tip = self.tips.get(key) or Tip(-1, layout.genesis_prev(chain), 0)
        self.tips[key] = _moved(tip, item)

    def checkpoint(self, ledger: str) -> Checkpoint:
        """What the partition's note says now."""
        return Checkpoint(note.origin_of(ledger, self.partition), self.tree.size, self.tree.root())


_NO_RECORD: Final = Record(b"", None, (), b"")
_unpack: Final = msgspec.msgpack.Decoder(Tip).decode


def open_heads(tips: Iterable[tuple[tuple[bytes, int], Tip]]) -> list[OpenHead]:
    """What a retention record says of the chains that go on behind a pruned prefix."""
    return [OpenHead(*key, tip.seq, tip.leaf, tip.mac_epoch, tip.closed, tip.holes) for key, tip in sorted(tips) if tip.open]


def tips_from(heads: Iterable[OpenHead]) -> dict[tuple[bytes, int], Tip]:
    """The tips that a pruning has written down."""
    return {(head.writer, head.epoch): Tip(head.seq, head.leaf, head.mac_epoch, head.closed, head.holes) for head in heads}


def tips_after(tips: Mapping[tuple[bytes, int], Tip], cores: Iterable[bytes]) -> dict[tuple[bytes, int], Tip]:
    """Where the chains stand behind further records of a partition, which were judged when they came; their bodies may be gone."""
    moved = dict(tips)
    for raw in cores:
        core = layout.unpack_core(raw)
        key = (core.chain.writer, core.chain.epoch)
        moved[key] = tip_after(moved.get(key), core, layout.leaf_hash(raw))
    return moved


def tip_after(tip: Tip | None, core: Core, leaf: bytes) -> Tip:
    """Where a chain stands behind one more record, which was judged when it came. Raises LookupError where it fills no hole."""
    before = tip or Tip(-1, layout.genesis_prev(core.chain), 0)
    verdict = Verdict.LATE if core.seq <= before.seq else Verdict.GAP if core.seq > before.seq + 1 else Verdict.APPEND
    if verdict == Verdict.LATE and all(hole.start != core.seq for hole in before.holes):
        raise LookupError("no hole begins there")
    return _moved(before, Offered(verdict, _NO_RECORD, core, leaf))


def pack_tip(key: tuple[bytes, int], tip: Tip) -> LedgerTip:
    """The tip as a store keeps it."""
    return LedgerTip(*key, _pack(tip), tip.open)


def unpack_tip(packed: LedgerTip) -> Tip:
    """The tip that ``pack_tip`` packed. Raises Undecodable for another."""
    try:
        return _unpack(packed.packed)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise Undecodable("ledger-tip", "no stand of a chain") from None


def _judge(tip: Tip, core: Core, leaf: bytes) -> Verdict:
    if core.seq <= tip.seq:
        if any((hole.start, hole.before) == (core.seq, core.prev) for hole in tip.holes):
            return Verdict.LATE
        return Verdict.FORK if core.seq == tip.seq and leaf != tip.leaf else Verdict.REPEAT
    if tip.closed:
        return Verdict.CLOSED
    if core.mac_epoch < tip.mac_epoch or (core.kind == _GENESIS) != (core.seq == 0):
        return Verdict.BROKEN
    if core.seq > tip.seq + 1:
        return Verdict.GAP
    return _APPEND if core.prev == tip.leaf else Verdict.FORK


def _moved(tip: Tip, item: Offered) -> Tip:
    core = item.core
    assert core is not None  # noqa: S101  # checked by the caller
    if item.verdict is _LATE:
        hole = next(hole for hole in tip.holes if hole.start == core.seq)
        shorter = [hole._replace(start=hole.start + 1, before=item.leaf)] if hole.start + 1 < hole.end else []
        return replace(tip, holes=(*(other for other in tip.holes if other != hole), *shorter))
    holes = tip.holes
    if item.verdict is GAP:
        holes = (*holes, Hole(tip.seq + 1, core.seq, tip.leaf, core.prev))
    return Tip(core.seq, item.leaf, core.mac_epoch, core.kind == _CLOSE, holes, max(tip.ts_us, core.ts_us))


def _is_whole(record: Record, core: Core) -> bool:
    env, parts = record.env, record.parts
    if env is None or sha256(env).digest() != core.env_hash or len(parts) != len(core.parts):
        return False
    for body, mark in zip(parts, core.parts, strict=True):  # noqa: SIM110  # a loop costs less than a generator
        if body is None or sha256(body).digest() != mark.ct_hash:
            return False
    return True
