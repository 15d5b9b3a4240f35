"""Checkpoints: what every partition has grown to is noted, one signed note covers all of it, and witnesses cosign that.

One process makes them, the one that holds partition 0 of ``audit-events``; the store settles who, by comparing sizes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from hashlib import sha256
from typing import Final

from tallyroll.audit.ledger import layout, note, proving, tree
from tallyroll.audit.ledger.authentic import forged_behind
from tallyroll.audit.ledger.layout import META, unpack_record
from tallyroll.audit.ledger.note import Checker, Checkpoint, Note, NoteKey, Signature
from tallyroll.audit.ledger.partition import unpack_tip
from tallyroll.audit.ledger.stored import record_in
from tallyroll.audit.ledger.tree import CompactRange
from tallyroll.audit.sealing.witness import Refusal
from tallyroll.errors import LedgerTampered, PositionConflict, Undecodable, WitnessRefused, WitnessUnavailable
from tallyroll.ports import KeyRing, LedgerAppend, LedgerCommit, LedgerNote, LedgerRow, LedgerStore, LedgerTail, Signer, Witness
from tallyroll.telemetry import AUDIT_CHECKPOINTS, AUDIT_WITNESS, Counters, Telemetry

_NONE: Final[Mapping[int, CompactRange]] = {}
log: Final = logging.getLogger("tallyroll.audit")

_TAIL: Final = 1_000  # records of a partition that are compared with the tree at the start; a verification compares all


class Checkpoints:
    """Makes checkpoints of one ledger. ``refused`` is told of a witness that will not cosign, ``forged`` of a partition's first.

    A record that its writer did not make is not signed, and nothing behind it in its partition. Where nobody is told of it,
    ``note`` raises LedgerTampered.
    Not promised: that a checkpoint is cosigned at once; what a witness has not seen it is offered again with the next one.
    """

    def __init__(  # noqa: PLR0913  # what is noted, by whom, and who is told
        self,
        store: LedgerStore,
        signer: Signer,
        ring: KeyRing,
        witnesses: Sequence[Witness] = (),
        *,
        telemetry: Telemetry | None = None,
        refused: Callable[[str], None] | None = None,
        forged: Callable[[int, int], None] | None = None,
    ) -> None:
        self._store = store
        self._signer = signer
        self._ring = ring
        self._witnesses = witnesses
        self._telemetry = telemetry or Counters()
        self._refused = refused or (lambda _: None)
        self._forged = forged
        self._told: set[int] = set()
        self._noted: dict[int, int] | None = None
        self._witnessed: dict[str, int] = {}

    async def note(self, own: Mapping[int, CompactRange] = _NONE, *, only: Collection[int] | None = None) -> bool:
        """Notes what has grown, or ``only`` these partitions where they have, and signs.

        False where nothing has, or somebody else was faster. Raises StoreUnavailable.

        ``own`` are the trees of the partitions that this process seals. What is stored there and is not in them is not signed:
        another sealer has taken the partition over, or somebody has written who is none, and the next flush finds out. Of
        others the MACs are checked. Raises KeyRingUnavailable.
        """
        tails = {number: tail for number, tail in (await self._store.tails()).items() if not _is_foreign(tail, own.get(number))}
        noted = await self._noted_sizes() if self._noted is None else self._noted
        asked = tails.keys() - {META} if only is None else tails.keys() & only
        grown = {number: tails[number] for number in sorted(asked) if tails[number].size > noted.get(number, 0)}
        await self._leave_out_forged(grown, {number: noted.get(number, 0) for number in grown if number not in own})
        if not grown:
            return False
        texts = [_checkpoint(self._signer.name, number, tail).text() for number, tail in grown.items()]
        known = tails.get(META) or LedgerTail(0, ())
        above = CompactRange(known.size, known.peaks)
        nodes = above.extend([sha256(b"\0" + text.encode()).digest() for text in texts])
        signed = note.sign(Checkpoint(self._signer.name, above.size, above.root()).text(), [self._signer])
        notes = [LedgerNote(number, tail.size, text.encode()) for (number, tail), text in zip(grown.items(), texts, strict=True)]
        notes.append(LedgerNote(META, above.size, signed.packed()))
        try:
            await self._store.commit(LedgerCommit([LedgerAppend(META, known.size, (), (), nodes, above.peaks)], notes=notes))
        except PositionConflict:
            self._noted = None  # another process makes them too; one of us is about to stop
            return False
        self._noted = {**noted, **{number: tail.size for number, tail in grown.items()}}
        self._telemetry.count(AUDIT_CHECKPOINTS)
        return True

    async def witness(self) -> None:
        """Has the newest checkpoint cosigned by every witness that has not seen it. Raises StoreUnavailable."""
        newest = await proving.newest(self._store) if self._witnesses else None
        if newest is None:
            return
        signed = note.parse(newest)
        size = Checkpoint.parse(signed.text).size
        for witness in self._witnesses:
            if self._witnessed.get(witness.name) == size:
                continue
            cosigned = await self._ask(witness, signed, size)
            if cosigned is not None:
                self._witnessed[witness.name] = size
                others = [line for line in signed.signatures if (line.name, line.key_id) != (cosigned.name, cosigned.key_id)]
                signed = Note(signed.text, (*others, cosigned))
                await self._store.commit(LedgerCommit(notes=[LedgerNote(META, size, signed.packed())]))

    async def check_noted(self, check: Checker) -> None:
        """Whether the newest signed note is ours, and the tree over all is what it says. Raises LedgerTampered."""
        tail = (await self._store.tails()).get(META)
        newest = await proving.newest(self._store)  # as new as that tail: the two are stored together
        if tail is None or newest is None:
            if tail is not None or newest is not None:
                raise LedgerTampered("note_missing", META, 0)
            return
        try:
            signed = note.parse(newest)
            checkpoint = Checkpoint.parse(signed.text)
        except Undecodable:
            raise LedgerTampered("note", META, tail.size) from None
        if not signed.signed_by(NoteKey(self._signer.name, note.ED25519, self._signer.public), check):
            raise LedgerTampered("note_signature", META, checkpoint.size)
        if tail.size > checkpoint.size:
            raise LedgerTampered("note_missing", META, checkpoint.size, "what was noted last is there, and its note is not")
        await _compare(self._store, META, tail, checkpoint)
        texts = await self._store.leaves(max(0, tail.size - _TAIL))
        leaves = [sha256(b"\0" + text.encode()).digest() for text in texts]
        await _compare_leaves(self._store, META, max(0, tail.size - _TAIL), tail.size, leaves)

    async def check_partition(self, number: int) -> None:
        """Whether a partition's end is what was noted, and its newest records are those of its tree. Raises LedgerTampered."""
        tail = (await self._store.tails()).get(number)
        known = await proving.noted(self._store)
        noted = [] if known is None or number not in known.partitions else [known.partitions[number][1]]
        if tail is None:
            if noted:
                raise LedgerTampered("size", number, 0, f"{noted[0].size} were noted")
            return
        if noted:
            await _compare(self._store, number, tail, noted[0])
        start = max(tail.start, tail.size - _TAIL)
        rows = await self._store.rows(number, start, tail.size - start)  # no further: somebody else may be appending
        if [row.number for row in rows] != list(range(start, tail.size)):
            raise LedgerTampered("size", number, start, "records are missing")
        await _compare_leaves(self._store, number, start, tail.size, [_leaf_of(row.raw) for row in rows])

    async def check_chains(self, number: int) -> None:
        """Whether a partition's chains stand where its newest records, checked before, have brought them. Raises LedgerTampered."""
        tail = (await self._store.tails(ended=True)).get(number)
        if tail is not None:
            start = max(tail.start, tail.size - _TAIL)
            _compare_tips(number, tail, await self._store.rows(number, start, tail.size - start))

    async def check_unnoted(self, only: Collection[int] | None = None) -> None:
        """Whether what would be noted first, everywhere or in ``only`` these partitions, was made by its writers.

        Raises LedgerTampered, KeyRingUnavailable.
        """
        noted = await self._noted_sizes()
        numbers = await self._store.sizes() if only is None else only
        async for place in forged_behind(self._store, self._ring, {number: noted.get(number, 0) for number in numbers}):
            raise LedgerTampered("mac", *place)

    async def _leave_out_forged(self, grown: dict[int, LedgerTail], behind: Mapping[int, int]) -> None:
        if not behind:
            return
        async for place in forged_behind(self._store, self._ring, behind):
            if self._forged is None:
                raise LedgerTampered("mac", *place)
            grown.pop(place[0], None)
            if place[0] not in self._told:
                self._told.add(place[0])
                self._forged(*place)

    async def _ask(self, witness: Witness, signed: Note, size: int) -> Signature | None:
        old = self._witnessed.get(witness.name, 0)
        for _ in range(2):  # a second time where it says that it knows another size
            try:
                answer = await witness.add(old, signed.packed(), await proving.consistency(self._store, META, old, size))
                cosigned = note.cosignature_in(answer)
            except WitnessRefused as refusal:
                if refusal.status == Refusal.CONFLICT and refusal.known_size not in (None, old) and (refusal.known_size or 0) <= size:
                    old = refusal.known_size or 0
                    continue
                self._telemetry.count(AUDIT_WITNESS, outcome="refused")
                self._refused(f"{witness.name}: {refusal}")
                return None
            except (WitnessUnavailable, Undecodable) as error:
                self._telemetry.count(AUDIT_WITNESS, outcome="unavailable")
                log.warning("%s; the checkpoint is offered again", error)
                return None
            self._telemetry.count(AUDIT_WITNESS, outcome="cosigned")
            return cosigned
        return None

    async def _noted_sizes(self) -> dict[int, int]:
        known = await proving.noted(self._store)
        return {} if known is None else known.sizes


def _is_foreign(tail: LedgerTail, own: CompactRange | None) -> bool:
    return own is not None and (tail.size > own.size or (tail.size == own.size and [*tail.peaks] != own.peaks))


def _checkpoint(ledger: str, number: int, tail: LedgerTail) -> Checkpoint:
    return Checkpoint(note.origin_of(ledger, number), tail.size, CompactRange(tail.size, tail.peaks).root())


async def _compare(store: LedgerStore, number: int, tail: LedgerTail, noted: Checkpoint) -> None:
    """The stored nodes against a note, and against the stored end."""
    if tail.size < noted.size:
        raise LedgerTampered("size", number, tail.size, f"{noted.size} were noted")
    try:
        then, now = await proving.peaks(store, number, noted.size), await proving.peaks(store, number, tail.size)
    except LookupError:
        raise LedgerTampered("root", number, noted.size, "nodes are missing") from None
    if CompactRange(noted.size, then).root() != noted.root:
        raise LedgerTampered("root", number, noted.size)
    if tuple(now) != tuple(tail.peaks):
        raise LedgerTampered("root", number, tail.size, "the end that is stored is another one")


async def _compare_leaves(store: LedgerStore, number: int, start: int, end: int, leaves: Sequence[bytes]) -> None:
    """Records against the tree: those from ``start`` on make up the nodes above them as far as these cover no others."""
    if len(leaves) != end - start:
        raise LedgerTampered("size", number, start, "records are missing")
    nodes = {(0, start + at): leaf for at, leaf in enumerate(leaves)}
    height = 0
    while True:
        pairs = {at >> 1: node for (level, at), node in nodes.items() if level == height and at & 1 and (height, at - 1) in nodes}
        if not pairs:
            break
        nodes |= {(height + 1, at): tree.node_hash(nodes[height, 2 * at], right) for at, right in pairs.items()}
        height += 1
    places = sorted(nodes)
    stored = await store.nodes(number, places)
    for place, found in zip(places, stored, strict=True):
        if found != nodes[place]:
            raise LedgerTampered("root", number, place[1] << place[0], "a record is not the one that was appended")


def _compare_tips(number: int, tail: LedgerTail, rows: Sequence[LedgerRow]) -> None:
    """Where chains are said to stand, against the newest of their records. A verification compares all of them, with all."""
    newest: dict[tuple[bytes, int], tuple[int, bytes]] = {}
    for row in rows:
        record, core = record_in(row)
        key = (core.chain.writer, core.chain.epoch)
        newest[key] = max(newest.get(key, (-1, b"")), (core.seq, layout.leaf_hash(record.core)))
    try:
        said = {(tip.writer, tip.epoch): unpack_tip(tip) for tip in tail.tips}
    except Undecodable as error:
        raise LedgerTampered("resume", number, tail.size, error.detail) from None
    for key, stands in newest.items():
        if key not in said or (said[key].seq, said[key].leaf) != stands:
            raise LedgerTampered("resume", number, tail.size, f"writer {key[0].hex()}, epoch {key[1]} stands at {stands[0]}")


def _leaf_of(raw: bytes) -> bytes:
    try:
        return layout.leaf_hash(unpack_record(raw).core)
    except Undecodable:
        return b""
