"""Proofs for who has nothing but a file: that a record is in the ledger, and that one checkpoint continues another."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from tallyroll.audit.ledger import note, tree
from tallyroll.audit.ledger.layout import META, Record, pack_record
from tallyroll.audit.ledger.note import Checkpoint
from tallyroll.audit.ledger.stored import record_in
from tallyroll.audit.ledger.tree import Nodes
from tallyroll.errors import LedgerTampered, Undecodable
from tallyroll.ports import LedgerNote, LedgerRow, LedgerStore

PROOF_SUFFIX: Final = ".tlog-proof"
_PAGE: Final = 1_000


class Noted(NamedTuple):
    """What the newest signed note covers: the note, its checkpoint, and per partition the text and the leaf of its newest note."""

    signed: bytes
    checkpoint: Checkpoint
    partitions: dict[int, tuple[int, Checkpoint]]

    @property
    def sizes(self) -> dict[int, int]:
        """Per partition how many records are noted."""
        return {partition: checkpoint.size for partition, (_, checkpoint) in self.partitions.items()}


async def signed_notes(store: LedgerStore, known: Noted) -> list[LedgerNote]:
    """The signed notes that who verifies what is ``known`` needs: its own, the newest cosigned one, the last one of each older key.

    There is one a second: those that were made since do not count, and they are not all read; where a key took over is
    found by halves.
    """
    last = LedgerNote(META, known.checkpoint.size, known.signed)
    kept = {last.size: last}
    recent = await store.notes(META, max(0, last.size - _PAGE), _PAGE)
    kept |= {one.size: one for one in [one for one in recent if one.size <= last.size and _keys(one)[1]][-1:]}
    older: LedgerNote | None = last
    while older is not None:
        older = await _last_of_another_key(store, older)
        if older is not None:
            kept[older.size] = older
    return [kept[size] for size in sorted(kept)]


async def _last_of_another_key(store: LedgerStore, newer: LedgerNote) -> LedgerNote | None:
    keys, found, low, high = _keys(newer)[0], None, 0, newer.size
    while low < high:
        middle = (low + high) // 2
        page = await store.notes(META, middle, 1)
        if page and page[0].size < newer.size and _keys(page[0])[0] != keys:
            found, low = page[0], page[0].size
        else:
            high = middle
    return found


def _keys(signed: LedgerNote) -> tuple[frozenset[bytes], bool]:
    """The ids of the ledger's own keys under a note, and whether somebody else signed it too."""
    read_signed(signed.text)
    read = note.parse(signed.text)
    own = read.text.partition("\n")[0]
    return frozenset(line.key_id for line in read.signatures if line.name == own), any(line.name != own for line in read.signatures)


async def noted(store: LedgerStore) -> Noted | None:
    """See ``Noted``; None before anything was signed."""
    signed = await newest(store)
    if signed is None:
        return None
    checkpoint = read_signed(signed)
    wanted, partitions = set(await store.sizes()) - {META}, dict[int, tuple[int, Checkpoint]]()
    end, page = checkpoint.size, _PAGE
    while end and wanted - set(partitions):
        start = max(0, end - page)
        texts = (await store.leaves(start))[: end - start]
        for index, text in reversed([*enumerate(texts, start)]):
            number, found = read_leaf(text, index)
            partitions.setdefault(number, (index, found))
        end, page = start, page * 8  # a partition that is idle was noted long ago; the leaves are read about once all the same
    return Noted(signed, checkpoint, partitions)


def read_signed(signed: bytes) -> Checkpoint:
    """The checkpoint of a signed note that a store has kept. Raises LedgerTampered."""
    try:
        return Checkpoint.parse(note.parse(signed).text)
    except Undecodable as error:
        raise LedgerTampered("note", META, 0, error.reason) from None


def read_leaf(text: str, index: int) -> tuple[int, Checkpoint]:
    """A leaf of the tree over all partitions: which one it is of, and what was noted. Raises LedgerTampered."""
    try:
        found = Checkpoint.parse(text)
        return int(found.origin.rpartition("/")[2]), found
    except (Undecodable, ValueError):
        raise LedgerTampered("note", META, index, "a leaf that is no note of a partition") from None


async def newest(store: LedgerStore) -> bytes | None:
    """The newest signed note over all partitions."""
    found = await _newest(store)
    return None if found is None else found.text


async def _newest(store: LedgerStore) -> LedgerNote | None:
    tail = (await store.tails()).get(META)
    size = 0 if tail is None else tail.size
    if size and (found := await store.notes(META, size - 1, 1)):
        return found[0]
    low, high, last = 0, size, None  # somebody has removed it: what is there is for who verifies
    while low < high:
        middle = (low + high) // 2
        page = await store.notes(META, middle, 1)
        if page:
            last, low = page[0], page[0].size
        else:
            high = middle
    return last


async def proof_of(store: LedgerStore, row: LedgerRow, known: Noted | None = None) -> bytes | None:
    """A proof as c2sp.org/tlog-proof says, that ``verify`` checks; None as long as no signed note covers the record.

    It holds what the record says in clear and the hashes of its parts, not the parts. Raises LookupError where the nodes
    that lead to the record were pruned, LedgerTampered where what is stored does not lead to the note.
    """
    known = known or await noted(store)
    place = known.partitions.get(row.partition) if known else None
    if known is None or place is None or place[1].size <= row.number:
        return None
    leaf, partition_note = place
    inside = await _with_nodes(store, row.partition, lambda nodes: tree.inclusion(row.number, partition_note.size, nodes))
    above = await _with_nodes(store, META, lambda nodes: tree.inclusion(leaf, known.checkpoint.size, nodes))
    record, _ = record_in(row)
    bare = Record(record.core, record.env, (None,) * len(record.parts), record.mac)
    if tree.root_from_inclusion(row.leaf, row.number, partition_note.size, inside) != partition_note.root:
        raise LedgerTampered("root", row.partition, row.number, "what is stored proves it no more")
    text = partition_note.text().encode()
    extra = [
        b"AUDLPRV1", row.number.to_bytes(8), len(inside).to_bytes(1), *inside,
        len(text).to_bytes(4), text, pack_record(bare),
    ]  # fmt: skip
    head = ["c2sp.org/tlog-proof@v1", f"extra {b64encode(b''.join(extra)).decode()}", f"index {leaf}"]
    return _lines([*head, *(b64encode(one).decode() for one in above)]) + known.signed


async def continuation(store: LedgerStore, old_size: int) -> bytes | None:
    """A proof that the newest signed checkpoint continues the one of ``old_size``; None before anything was signed.

    Raises ValueError for a size that is larger than the newest.
    """
    known = await noted(store)
    if known is None:
        return None
    path = await _with_nodes(store, META, lambda nodes: tree.consistency(old_size, known.checkpoint.size, nodes))
    return _lines(["tallyroll/continuation@v1", f"old {old_size}", *(b64encode(one).decode() for one in path)]) + known.signed


async def consistency(store: LedgerStore, partition: int, old: int, new: int) -> list[bytes]:
    """The proof that the first ``old`` records of a partition begin its first ``new``. Raises LookupError where nodes were pruned."""
    return await _with_nodes(store, partition, lambda nodes: tree.consistency(old, new, nodes))


async def peaks(store: LedgerStore, partition: int, size: int) -> list[bytes]:
    """The complete nodes that the first ``size`` leaves make, the largest first."""
    return await _with_nodes(store, partition, lambda nodes: tree.peaks(size, nodes))


async def _with_nodes(store: LedgerStore, partition: int, make: Callable[[Nodes], Sequence[bytes]]) -> list[bytes]:
    """Asks for the nodes in one go: the proof is made once to see which it needs, and once of them."""
    wanted: list[tuple[int, int]] = []

    def note_down(height: int, number: int) -> bytes:
        wanted.append((height, number))
        return bytes(32)

    make(note_down)
    found = dict(zip(wanted, await store.nodes(partition, wanted), strict=True))
    return [*make(lambda height, number: found[height, number])]


def _lines(lines: Sequence[str]) -> bytes:
    return "".join(f"{line}\n" for line in (*lines, "")).encode()
