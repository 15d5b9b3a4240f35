"""A whole ledger in memory, made of the same pure core as the real one: writers, registry, notes, witnesses, removal, exports.

For tests of verifiers and of what reads exports. Deterministic: same calls, same bytes, as long as the cipher and the signers
are. Time stands still until ``wait``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256
from itertools import pairwise
from typing import Final

from tallyroll.audit.ledger import exporting, note, records, tree
from tallyroll.audit.ledger.chain import Draft, Part, Sealed, Writer
from tallyroll.audit.ledger.layout import META, REGISTRY, Kind, Record, unpack_core
from tallyroll.audit.ledger.note import Checker, Checkpoint, Note, NoteKey
from tallyroll.audit.ledger.partition import LedgerPartition, Offered, Tip, Verdict, open_heads
from tallyroll.audit.ledger.records import Head, Missing, Stretch
from tallyroll.audit.ledger.tree import Tree
from tallyroll.audit.sealing import witness
from tallyroll.ports import Cipher, Enrolment, Signer

START_US: Final = 1_800_000_000_000_000
DAY_US: Final = 86_400_000_000
REGISTRAR: Final = b"registrar"
CLASSES: Final = {0: None, 1: None, 2: 30}
"""Retention classes and the days after which their personal parts must be gone."""


class NonceReused(AssertionError):
    """A key has sealed twice under one nonce: both texts are given away."""


class NonceWatch:
    """A ``Cipher`` that raises NonceReused. No check of integrity notices this, so tests of writers seal through it."""

    def __init__(self, cipher: Cipher) -> None:
        self._cipher = cipher
        self._seen: set[tuple[bytes, bytes]] = set()

    def seal(self, key: bytes, nonce: bytes, plain: bytes, aad: bytes) -> bytes:
        if (key, nonce) in self._seen:
            raise NonceReused
        self._seen.add((key, nonce))
        return self._cipher.seal(key, nonce, plain, aad)

    def open(self, key: bytes, nonce: bytes, sealed: bytes, aad: bytes) -> bytes:
        return self._cipher.open(key, nonce, sealed, aad)


class MemoryWitness:
    """Remembers the newest checkpoint of a ledger, and cosigns what continues it."""

    def __init__(self, signer: Signer, log_key: NoteKey, check: Checker) -> None:
        self.known: dict[str, Checkpoint] = {}
        self._signer = signer
        self._trusted = {log_key.name: [log_key]}
        self._check = check

    @property
    def key(self) -> NoteKey:
        """Its public key."""
        return NoteKey(self._signer.name, note.COSIGNATURE, self._signer.public)

    def trust(self, key: NoteKey) -> None:
        """Takes a further key of a ledger."""
        self._trusted[key.name].append(key)

    def add(self, old_size: int, offered: Note, proof: Sequence[bytes], time_s: int) -> note.Signature | witness.Refusal:
        """A cosignature, or why not."""
        judged = witness.judge(self._trusted, self.known, old_size, offered, proof, self._check)
        if judged.checkpoint is None:
            return judged.refusal or witness.Refusal.MALFORMED
        self.known[judged.checkpoint.origin] = judged.checkpoint
        return note.cosign(offered.text, self._signer, time_s)


class Partition:
    """What is kept of one partition: records as stored, every node, and what was noted and pruned."""

    def __init__(self, log_id: bytes, number: int) -> None:
        self.number = number
        self.ledger = LedgerPartition(log_id, number)
        self.records: list[Record] = []
        self.arrived: list[Offered] = []
        self.tree = Tree()
        self.start = 0
        self.noted: list[int] = []

    @property
    def kept(self) -> list[Record]:
        """The records behind the pruned prefix."""
        return self.records[self.start :]

    def tips_at(self, size: int) -> dict[tuple[bytes, int], Tip]:
        """Where the chains stood after so many records."""
        then = LedgerPartition(self.ledger.log_id, self.number)
        then.append(self.arrived[:size])
        return then.tips

    def proofs(self) -> list[tuple[int, int, Sequence[bytes]]]:
        """From each size noted inside the pruned prefix to the next."""
        sizes = sorted({size for size in self.noted if size})
        return [(old, new, tree.consistency(old, new, self.tree.node)) for old, new in pairwise(sizes) if old < self.start]


class MemoryLedger:
    """See the module. ``signer``'s name becomes the ledger's origin: it ends with the log id in hex."""

    def __init__(self, cipher: Cipher, signer: Signer, *, log_id: bytes, partitions: Sequence[int] = (0, 1), heartbeat_s: int = 5) -> None:
        self.log_id = log_id
        self.now_us = START_US
        self.cipher = cipher
        self.signers = [signer]
        self.witnesses: list[MemoryWitness] = []
        self.partitions = {number: Partition(log_id, number) for number in (*partitions, REGISTRY)}
        self.leaves: list[str] = []
        self.meta = Tree()
        self.notes: list[Note] = []
        self.k0: dict[tuple[bytes, int], bytes] = {}
        self.verdicts: list[Verdict] = []
        self._heartbeat_s = heartbeat_s
        self._admitted: set[tuple[bytes, int]] = set()
        self._ended = False
        self._registrar = self.writer(REGISTRAR)
        self._admit(self._registrar)
        self.registry(Kind.KEY, records.rule_set("1", CLASSES))

    @property
    def origin(self) -> str:
        """The origin of the checkpoints over all partitions."""
        return self.signers[0].name

    @property
    def key(self) -> NoteKey:
        """The public key it began with."""
        return NoteKey(self.signers[0].name, note.ED25519, self.signers[0].public)

    def wait(self, seconds: float) -> None:
        """Lets time pass. Where it is longer than a writer epoch lasts, the registrar ends its epoch before and begins one after."""
        renew = seconds * 1_000_000 + self.now_us - self._registrar.opened_us > DAY_US and not self._ended
        if renew:
            self.close(self._registrar)
        self.now_us += int(seconds * 1_000_000)
        if renew:
            last = self._registrar
            self._registrar = self.writer(REGISTRAR, last.epoch + 1, (last.epoch, last.heads))
            self._admit(self._registrar)

    def writer(self, name: bytes, epoch: int = 1, previous: tuple[int, Sequence[Head]] | None = None) -> Writer:
        """A writer that nobody has admitted."""
        writer_id = name.ljust(16, b"\0")
        k0 = sha256(b"test/k0" + writer_id + bytes((epoch,))).digest()
        self.k0[writer_id, epoch] = k0
        enrolment = Enrolment(writer_id, epoch, k0, f"token-{epoch}", self.now_us)
        return Writer(self.log_id, enrolment, self.cipher, rule_set="1", previous=previous)

    def enrol(self, name: bytes, epoch: int = 1, previous: tuple[int, Sequence[Head]] | None = None) -> Writer:
        """A writer that the registry has admitted."""
        writer = self.writer(name, epoch, previous)
        self._admit(writer)
        return writer

    def seal(self, writer: Writer, partition: int, draft: Draft) -> list[Sealed]:
        """Seals and does not send."""
        writer.advance((self.now_us - writer.opened_us) // 1_000_000)
        return writer.seal(partition, draft, self.now_us)

    def write(self, writer: Writer, partition: int, env: bytes, *parts: Part, retention_class: int = 1, keep_days: int = 365) -> int:
        """Seals an entry, sends it, and returns its index."""
        draft = Draft(Kind.ENTRY, env, parts, retention_class, self.now_us // DAY_US + keep_days)
        self.offer(*self.seal(writer, partition, draft))
        return len(self.partitions[partition].records) - 1

    def offer(self, *sealed: Sealed, partition: int | None = None) -> Verdict:
        """What a sealer does with records that arrive; the last verdict."""
        verdict = Verdict.REPEAT
        for item in sealed:
            target = self.partitions[item.chain.partition if partition is None else partition]
            offered = target.ledger.judge(item.record, self._admitted)
            verdict = offered.verdict
            self.verdicts.append(verdict)
            if verdict == Verdict.GAP:
                chain = item.chain
                self.registry(
                    Kind.GAP, records.gap(Missing(target.number, chain.writer, chain.epoch, offered.missing, item.seq), "not delivered")
                )
            if verdict in (Verdict.APPEND, Verdict.LATE, Verdict.GAP):
                self.append(target, offered)
        return verdict

    def append(self, target: Partition, offered: Offered) -> None:
        """Appends without judging: what a sealer that colludes could do."""
        target.ledger.append([offered])
        target.arrived.append(offered)
        target.records.append(offered.record)
        target.tree.extend([offered.leaf])

    def beat(self, writer: Writer, partition: int) -> None:
        """A heartbeat."""
        self.offer(*self.seal(writer, partition, Draft(Kind.HEADS, records.heads(writer.heads), (), 1, self.now_us // DAY_US + 365)))

    def close(self, *writers: Writer) -> None:
        """Ends every chain of the writers, and the registry's when none is named."""
        self._ended = self._ended or not writers
        for writer in writers or (self._registrar,):
            for head in writer.heads:
                self.offer(*self.seal(writer, head.partition, Draft(Kind.CLOSE, records.close("shutdown"))))

    def registry(self, kind: Kind, env: bytes) -> int:
        """Appends to the registry; returns the index."""
        self.offer(*self.seal(self._registrar, REGISTRY, Draft(kind, env)))
        return len(self.partitions[REGISTRY].records) - 1

    def checkpoint(self) -> Note:
        """Notes every partition that has grown, signs one note over all, and has it witnessed. The registry is noted last.

        The registrar's heartbeat goes into the first partition: the registry is kept for ever, and should stay small.
        """
        if not self._ended:
            self.beat(self._registrar, min(self.partitions))
        for _, target in sorted(self.partitions.items()):
            if target.noted[-1:] != [target.tree.size]:
                target.noted.append(target.tree.size)
                self.leaves.append(target.ledger.checkpoint(self.origin).text())
                self.meta.extend([sha256(b"\0" + self.leaves[-1].encode()).digest()])
        signed = note.sign(Checkpoint(self.origin, self.meta.size, self.meta.root()).text(), self.signers[-1:])
        cosigned = []
        for each in self.witnesses:
            known = each.known.get(self.origin, Checkpoint(self.origin, 0, b"")).size
            answer = each.add(known, signed, tree.consistency(known, self.meta.size, self.meta.node), self.now_us // 1_000_000)
            cosigned += [answer] if isinstance(answer, note.Signature) else []
        self.notes.append(Note(signed.text, (*signed.signatures, *cosigned)))
        return self.notes[-1]

    def rotate(self, signer: Signer) -> None:
        """The old key announces the new one; checkpoints from the next but one on are signed by that."""
        key = NoteKey(signer.name, note.ED25519, signer.public)
        self.registry(Kind.KEY, records.checkpoint_key(str(key)))
        self.checkpoint()
        self.signers.append(signer)
        for each in self.witnesses:
            each.trust(key)

    def change(self, partition: int, index: int, change: Callable[[Record], Record]) -> None:
        """Replaces a stored record."""
        stored = self.partitions[partition].records
        stored[index] = change(stored[index])

    def drop_body(self, partition: int, index: int) -> None:
        """Leaves the stub of a record: core and MAC."""
        self.change(partition, index, lambda record: record._replace(env=None, parts=(None,) * len(record.parts)))

    def drop_part(self, partition: int, index: int, part: int) -> None:
        """Removes one part."""
        self.change(
            partition,
            index,
            lambda record: record._replace(parts=tuple(None if at == part else body for at, body in enumerate(record.parts))),
        )

    def retain(self, what: str, stretch: Stretch) -> None:
        """Records that bodies or personal parts of a stretch were removed."""
        self.registry(Kind.RETENTION, records.retention(what, stretch, "1", "operator-1"))

    def prune(self, partition: int, size: int) -> None:
        """Removes a prefix whole, and records what is needed to go on without it."""
        target = self.partitions[partition]
        day = max(unpack_core(record.core).keep_until_day for record in target.records[:size])
        heads = open_heads(target.tips_at(size).items())
        self.registry(Kind.RETENTION, records.pruned(partition, size, target.tree.peaks(size), heads, day, "operator-1"))
        target.start = size

    def export(self) -> dict[str, bytes]:
        """The files an auditor is given."""
        files = {}
        for number, target in self.partitions.items():
            peaks = target.tree.peaks(target.start)
            files[exporting.name_of(number, "records")] = b"".join(
                exporting.records_file(number, target.kept[: target.tree.size], start=target.start, peaks=peaks)
            )
            latest = Checkpoint(note.origin_of(self.origin, number), target.noted[-1], target.tree.root(target.noted[-1]))
            files[exporting.name_of(number, "notes")] = b"".join(
                exporting.notes_file([note.sign(latest.text(), self.signers[-1:]).packed()])
            )
            if proofs := target.proofs():
                files[exporting.name_of(number, "proofs")] = b"".join(exporting.proofs_file(proofs))
        files[exporting.name_of(META, "leaves")] = b"".join(exporting.leaves_file(self.leaves))
        files[exporting.name_of(META, "notes")] = b"".join(exporting.notes_file(signed.packed() for signed in self.notes))
        return files

    def _admit(self, writer: Writer) -> None:
        self._admitted.add((writer.writer, writer.epoch))
        env = records.writer_key(writer.writer, writer.epoch, writer.commitment, writer.opened_us, self._heartbeat_s)
        self.registry(Kind.KEY, env)
