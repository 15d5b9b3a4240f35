"""The files of an export, made from a ledger's store: what was noted when it began, whatever is written meanwhile."""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from tallyroll.audit.ledger import exporting, proving
from tallyroll.audit.ledger.layout import META, Kind, PartType, Record, pack_record, unpack_core, unpack_record
from tallyroll.errors import LedgerTampered, Undecodable
from tallyroll.ports import LedgerRow, LedgerStore, LedgerTail

_PAGE: Final = 2_000
_TS: Final = slice(52, 60)
_KIND: Final = slice(5, 6)
_ENTRY: Final = bytes([Kind.ENTRY])


@dataclass
class Counted:
    """What went by while files were made: entries of a period, by partition, as their indexes; and parts that were withheld."""

    start_us: int = 0
    end_us: int = (1 << 64) - 1
    entries: defaultdict[int, array[int]] = field(default_factory=lambda: defaultdict(lambda: array("Q")))
    withheld: int = 0

    def see(self, row: LedgerRow) -> None:
        """Counts a record."""
        if row.raw[_KIND] == _ENTRY and self.start_us <= int.from_bytes(row.raw[_TS]) <= self.end_us:
            self.entries[row.partition].append(row.number)


async def ledger_files(
    store: LedgerStore, known: proving.Noted, counted: Counted, *, withhold_plain: bool = False
) -> AsyncIterator[tuple[str, bytes]]:
    """The files as (name, piece), the pieces of a file one after the other. ``known`` is how far they go.

    ``withhold_plain`` leaves out parts that are not sealed; who verifies has to be told. Raises StoreUnavailable.
    """
    for number, tail in sorted((await store.tails()).items()):
        checkpoint = known.partitions.get(number)
        if checkpoint is None or number == META:
            continue
        name = exporting.name_of(number, "records")
        for piece in exporting.records_file(number, (), start=tail.start, peaks=await _pruned_peaks(store, number, tail)):
            yield name, piece
        async for piece in _records(store, number, tail.start, checkpoint[1].size, counted, withhold_plain=withhold_plain):
            yield name, piece
        if tail.start:
            for piece in exporting.proofs_file(await _proofs(store, number, tail.start, known.checkpoint.size)):
                yield exporting.name_of(number, "proofs"), piece
    for piece in exporting.leaves_file((await store.leaves(0))[: known.checkpoint.size]):
        yield exporting.name_of(META, "leaves"), piece
    signed = await proving.signed_notes(store, known)
    for piece in exporting.notes_file(one.text for one in signed):
        yield exporting.name_of(META, "notes"), piece


async def _pruned_peaks(store: LedgerStore, number: int, tail: LedgerTail) -> Sequence[bytes]:
    if not 0 <= tail.start <= tail.size:
        raise LedgerTampered("size", number, max(0, tail.start), "its beginning is behind its end, or before the first")
    try:
        return await proving.peaks(store, number, tail.start)
    except LookupError:
        raise LedgerTampered("prune", number, tail.start, "nodes that stand for what was pruned are not there") from None


async def _records(  # noqa: PLR0913  # one partition, and what becomes of its records
    store: LedgerStore, partition: int, start: int, end: int, counted: Counted, *, withhold_plain: bool
) -> AsyncIterator[bytes]:
    while start < end:
        rows = (await store.rows(partition, start, min(_PAGE, end - start)))[: end - start]
        if not rows:
            return
        pieces: list[bytes] = []
        for row in rows:
            counted.see(row)
            raw = _without_plain(row.raw, counted) if withhold_plain else row.raw
            pieces += (len(raw).to_bytes(4), raw)
        start = rows[-1].number + 1
        yield b"".join(pieces)


def _without_plain(raw: bytes, counted: Counted) -> bytes:
    try:
        record = unpack_record(raw)
        marks = unpack_core(record.core).parts
    except Undecodable:  # whoever verifies is to see that
        return raw
    if not record.parts:
        return raw
    kept = tuple(None if mark.part_type == PartType.PLAIN else body for mark, body in zip(marks, record.parts, strict=True))
    counted.withheld += sum(one is not two for one, two in zip(kept, record.parts, strict=True))
    return pack_record(Record(record.core, record.env, kept, record.mac))


async def _proofs(store: LedgerStore, partition: int, start: int, leaves: int) -> list[tuple[int, int, list[bytes]]]:
    """From each size noted inside the pruned prefix to the next, as far as the nodes are still there."""
    texts = (await store.leaves(0))[:leaves]
    noted = (proving.read_leaf(text, index) for index, text in enumerate(texts))
    sizes = sorted({one.size for number, one in noted if one.size and number == partition})
    found = []
    for old, new in pairwise(sizes):
        if old >= start:
            break
        try:
            found.append((old, new, await proving.consistency(store, partition, old, new)))
        except LookupError:
            continue
    return found
