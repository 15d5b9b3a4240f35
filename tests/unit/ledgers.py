"""Ledgers for tests, and exports taken apart, changed and put together again, as an attacker would."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256

from msgspec.structs import replace

from tallyroll.adapters.crypto import AesGcm, Ed25519Signer, is_signed
from tallyroll.audit.ledger import exporting, layout, note
from tallyroll.audit.ledger.chain import Part
from tallyroll.audit.ledger.layout import META, PartType, Record
from tallyroll.audit.ledger.note import Checkpoint
from tallyroll.audit.ledger.tree import CompactRange
from tallyroll.audit.verify import Checkpoint as Seen
from tallyroll.audit.verify import Report, Trust, verify_files
from tallyroll.testing.ledger import DAY_US, MemoryLedger, MemoryWitness, NonceWatch

LOG_ID = bytes(range(16))
ORIGIN = f"example.com/audit/{LOG_ID.hex()}"
HANDLE = b"handle-of-anna  "
DEK = sha256(b"dek of anna").digest()


def signer(name: str = ORIGIN, seed: bytes = b"log") -> Ed25519Signer:
    return Ed25519Signer(name, sha256(seed).digest())


def personal(text: bytes = b'{"user_id":"anna"}', handle: bytes = HANDLE) -> Part:
    return Part(PartType.SUBJECT, handle, DEK, text)


def new_ledger(**options: object) -> MemoryLedger:
    ledger = MemoryLedger(NonceWatch(AesGcm()), signer(), log_id=LOG_ID, **options)
    ledger.witnesses.append(MemoryWitness(Ed25519Signer("witness.example/w1", sha256(b"witness").digest()), ledger.key, is_signed))
    return ledger


def fill(ledger: MemoryLedger, seconds: int = 30, *, action: bytes = b"read") -> MemoryLedger:
    """Two writers, a heartbeat every five seconds, a checkpoint every ten."""
    anna, bert = ledger.enrol(b"writer-a"), ledger.enrol(b"writer-b")
    for second in range(seconds):
        ledger.write(anna, second % 2, b'{"action":"%s","n":%d}' % (action, second), personal())
        ledger.write(bert, 0, b'{"action":"write","n":%d}' % second)
        if second % 5 == 4:
            ledger.beat(anna, 0)
            ledger.beat(bert, 0)
        if second % 10 == 9:
            ledger.checkpoint()
        ledger.wait(1)
    return ledger


@cache
def standard() -> tuple[MemoryLedger, dict[str, bytes]]:
    ledger = fill(new_ledger())
    ledger.checkpoint()
    return ledger, ledger.export()


def trust_of(ledger: MemoryLedger, *, days: int = 0, quorum: int = 1, macs: bool = True, remembered: Sequence[Seen] = ()) -> Trust:
    """Everything an auditor can bring along."""
    return Trust(
        today=ledger.now_us // DAY_US + days,
        keys=(str(ledger.key),),
        witnesses=tuple(str(witness.key) for witness in ledger.witnesses),
        quorum=quorum,
        mac_keys=ledger.k0 if macs else {},
        remembered=tuple(remembered),
    )


def report_on(files: dict[str, bytes], trust: Trust) -> Report:
    return verify_files(files, trust, check=is_signed)[0]


def codes(files: dict[str, bytes], trust: Trust) -> set[str]:
    return set(report_on(files, trust).counts)


@dataclass
class Opened:
    """An export, taken apart. ``build`` puts it together again; ``resign`` makes notes anew with keys that were stolen."""

    files: dict[str, bytes]
    records: dict[int, list[Record]]
    heads: dict[int, bytes]

    @classmethod
    def of(cls, files: dict[str, bytes]) -> Opened:
        records, heads = {}, {}
        for name, raw in files.items():
            if name.endswith(".records"):
                at = 19 + 32 * raw[18]
                records[int(name[:5])] = [layout.unpack_record(frame) for frame in framed(raw, at)]
                heads[int(name[:5])] = raw[:at]
        return cls(dict(files), records, heads)

    def change(self, partition: int, index: int, change: Callable[[Record], Record]) -> Opened:
        self.records[partition][index] = change(self.records[partition][index])
        return self

    def core(self, partition: int, index: int) -> layout.Core:
        return layout.unpack_core(self.records[partition][index].core)

    def find(self, partition: int, *, writer: bytes | None = None, kind: int | None = None, parts: int | None = None) -> list[int]:
        """The indexes of records like these."""
        return [
            index
            for index, record in enumerate(self.records[partition])
            if (core := layout.unpack_core(record.core))
            and writer in (None, core.chain.writer.rstrip(b"\0"))
            and kind in (None, core.kind)
            and parts in (None, len(core.parts))
        ]

    def build(self) -> dict[str, bytes]:
        files = dict(self.files)
        for partition, records in self.records.items():
            pieces = [layout.pack_record(record) for record in records]
            body = b"".join(len(piece).to_bytes(4) + piece for piece in pieces)
            files[exporting.name_of(partition, "records")] = self.heads[partition] + body
        return files

    def resign(self, with_key: Ed25519Signer) -> Opened:
        """What a thief of the log's key makes: new notes that fit whatever the records are now."""
        texts = []
        for partition, records in sorted(self.records.items()):
            tree = CompactRange()
            tree.extend([layout.leaf_hash(record.core) for record in records])
            texts.append(Checkpoint(note.origin_of(ORIGIN, partition), tree.size, tree.root()).text())
            packed = note.sign(texts[-1], [with_key]).packed()
            self.files[exporting.name_of(partition, "notes")] = b"".join(exporting.notes_file([packed]))
        meta = CompactRange()
        meta.extend([sha256(b"\0" + text.encode()).digest() for text in texts])
        signed = note.sign(Checkpoint(ORIGIN, meta.size, meta.root()).text(), [with_key])
        self.files[exporting.name_of(META, "leaves")] = b"".join(exporting.leaves_file(texts))
        self.files[exporting.name_of(META, "notes")] = b"".join(exporting.notes_file([signed.packed()]))
        return self


def framed(raw: bytes, at: int) -> list[bytes]:
    found = []
    while at < len(raw):
        stop = at + 4 + int.from_bytes(raw[at : at + 4])
        found.append(raw[at + 4 : stop])
        at = stop
    return found


def with_core(record: Record, **fields: object) -> Record:
    """The record with fields of its core replaced."""
    core = replace(layout.unpack_core(record.core), **fields)
    marks = [layout._PART.pack(*mark) for mark in core.parts]
    packed = layout.pack_core(
        core.kind,
        core.chain.packed(),
        seq=core.seq,
        ts_us=core.ts_us,
        mac_epoch=core.mac_epoch,
        retention_class=core.retention_class,
        keep_until_day=core.keep_until_day,
        prev=core.prev,
        env_hash=core.env_hash,
        marks=marks,
    )
    return record._replace(core=packed)


def relink(opened: Opened, partition: int, writer: bytes, mac: Callable[[layout.Core, bytes], bytes], **fields: object) -> Opened:
    """Makes a chain's links whole again after a change, with MACs by whoever has a key; ``fields`` are set in records after genesis."""
    prev = None
    for index in opened.find(partition, writer=writer):
        record = opened.records[partition][index]
        core = layout.unpack_core(record.core)
        changed = {} if prev is None else {"prev": prev, **(fields if core.seq else {})}
        record = with_core(record, **changed, env_hash=sha256(record.env or b"").digest())
        prev = layout.leaf_hash(record.core)
        opened.records[partition][index] = record._replace(mac=mac(layout.unpack_core(record.core), prev))
    return opened
