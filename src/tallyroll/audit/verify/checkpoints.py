"""Notes over trees: what they say of sizes and roots, who signed them, and whether what was remembered is still a beginning.

Two kinds of tree: one per partition, whose leaves are records, and one over all, whose leaves are the partitions' note texts.
The newest note of the tree over all is what a verification rests on; everything else hangs below it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Final, NamedTuple

from .merkle import EMPTY, Growing, begins
from .notes import ED25519, CheckSignature, Key, Note, parse_checkpoint, parse_key, parse_note, signers
from .reading import META, REGISTRY, Buffer, frames, header_of
from .report import Findings
from .trust import Checkpoint

MAX_NOTES: Final = 4_096  # of one file; a signature takes some milliseconds to check
_PARTITION: Final = re.compile(r"0|[1-9][0-9]{0,4}")
_BATCH: Final = 4_096


class Signed(NamedTuple):
    """A note that could be read, and what it says."""

    note: Note
    checkpoint: Checkpoint


class Noted:
    """Which root each size of a tree must have, and where that was said."""

    def __init__(self, partition: int, findings: Findings) -> None:
        self.partition = partition
        self.sizes: dict[int, bytes] = {}
        self.size = 0
        self._findings = findings

    def say(self, size: int, root: bytes) -> None:
        """A note, or a leaf of the tree over all, says so. The largest size said is how far the tree is read."""
        if self.sizes.setdefault(size, root) != root:
            self._findings.add("split_view", self.partition, size)
        self.size = max(self.size, size)

    def remember(self, size: int, root: bytes) -> None:
        """Somebody saw this earlier."""
        if size > self.size:
            self._findings.add("rolled_back", self.partition, self.size, detail=f"{size} were seen")
        elif self.sizes.setdefault(size, root) != root:
            self._findings.add("split_view", self.partition, size, detail="another root was seen")

    def compare(self, start: int, roots: Mapping[int, bytes], proofs: list[tuple[int, int, list[bytes]]]) -> None:
        """Every noted size against the root of what is there; sizes before ``start`` through proofs. The first mismatch is named."""
        wrong = [size for size, root in sorted(self.sizes.items()) if size in roots and roots[size] != root]
        if wrong:
            good = max((size for size in self.sizes if size in roots and size < wrong[0]), default=start)
            self._findings.add("root", self.partition, wrong[0], detail=f"the records from {good} to {wrong[0]} are not those noted")
        proven = {size: root for size, root in self.sizes.items() if size in roots}
        for old, new, path in sorted(proofs, key=lambda proof: proof[0], reverse=True):
            target = proven.get(new, roots.get(new))
            if old in self.sizes and target is not None:
                if begins(old, self.sizes[old], new, target, path):
                    proven[old] = self.sizes[old]
                else:
                    self._findings.add("proof", self.partition, old, detail=f"to {new}")
        for size in self.sizes:
            if size < start and size and size not in proven:
                self._findings.add("proof", self.partition, size, detail="none leads to what is there")


class Ledger:
    """The notes of one ledger: over all, and per partition."""

    def __init__(self, keys: Iterable[Key], check: CheckSignature, findings: Findings) -> None:
        self.origin: str | None = None
        self.leaves = 0
        self.leaves_end = 0
        self.noted: dict[int, Noted] = {}
        self.notes: list[Signed] = []
        self._partition_notes: list[Signed] = []
        self._keys = list(keys)
        self._check = check
        self._findings = findings
        self._admitted = sorted({key.name for key in self._keys})
        self._registry_at: list[tuple[int, int]] = []  # (leaves, size of the registry as of there)

    def of(self, partition: int) -> Noted:
        """What is noted of a tree."""
        if partition not in self.noted:
            self.noted[partition] = Noted(partition, self._findings)
        return self.noted[partition]

    def read_notes(self, buffer: Buffer) -> None:
        """The notes over all. The last one says how far this verification reads, and which ledger it is."""
        self.notes = read_notes(buffer, META, self._findings)
        if self.notes:
            self.origin = self.notes[-1].checkpoint.origin
        if self.origin is not None and self._admitted and self.origin not in self._admitted:
            self._findings.add("note", META, detail="the keys that were given are of another ledger")
        for signed in self.notes:
            if signed.checkpoint.origin == self.origin:
                self.of(META).say(signed.checkpoint.size, signed.checkpoint.root)
            else:
                self._findings.add("note", META, signed.checkpoint.size, detail="it is of another ledger")

    def read_leaves(self, buffer: Buffer, proofs: list[tuple[int, int, list[bytes]]]) -> tuple[int, tuple[bytes, ...]]:
        """The leaves: what each partition's notes said. Returns where the tree is cut, and its peaks there."""
        header, meta = header_of(buffer, b"AUDLLEA1"), self.of(META)
        if header is None or header.partition != META:
            if meta.size:
                self._findings.add("archive", META, detail="the leaves of the tree over all are missing, or are something else")
            return 0, ()
        tree, roots = Growing(header.start, header.peaks), {header.start: b""}
        roots[header.start] = tree.root()
        wanted = {*meta.sizes, *(new for _, new, _ in proofs)}
        batch: list[bytes] = []
        index, self.leaves_end = header.start, header.at
        for frame in frames(buffer, header.at):
            if index == meta.size:
                break
            if frame is None:
                break
            batch.append(sha256(b"\0" + frame).digest())
            self._leaf(index, frame)
            self.leaves_end += 4 + len(frame)
            index += 1
            if index in wanted or len(batch) >= _BATCH:
                tree.extend(batch)
                batch = []
                roots[index] = tree.root()
        self.leaves = index
        if index < meta.size:
            self._findings.add("size", META, index, detail=f"{meta.size} were noted")
        meta.compare(header.start, roots, proofs)
        return header.start, header.peaks

    def read_partition(self, partition: int, buffer: Buffer) -> list[Signed]:
        """The notes of one partition, for ``check_signatures``."""
        found = []
        for signed in read_notes(buffer, partition, self._findings):
            self.origin = self.origin or signed.checkpoint.origin.rpartition("/")[0]
            if signed.checkpoint.origin == f"{self.origin}/{partition}":
                self.of(partition).say(signed.checkpoint.size, signed.checkpoint.root)
                found.append(signed)
                self._partition_notes.append(signed)
            else:
                self._findings.add("note", partition, signed.checkpoint.size, detail="it is of another ledger or partition")
        return found

    def trust_announced(self, announced: Iterable[tuple[int, str]]) -> None:
        """Checks who signed the notes over all, in their order; a key the registry announces counts from the note that covers it."""
        waiting = sorted(announced)
        for signed in self.notes:
            self.check_signature(signed, META)
            registry = max((size for leaves, size in self._registry_at if leaves <= signed.checkpoint.size), default=0)
            while waiting and waiting[0][0] < registry:
                key = parse_key(waiting.pop(0)[1])
                if key is None or key.kind != ED25519 or key.name != self.origin:
                    self._findings.add("control", REGISTRY, detail="a checkpoint key that is announced cannot be read")
                elif self._keys:
                    self._keys.append(key)

    def check_signature(self, signed: Signed, partition: int) -> bool:
        """Whether a trusted key signed the note, and no line under a trusted name is false."""
        if not self._keys:
            return False
        good, bad = signers(signed.note, self._keys, self._check)
        if bad or not good:
            self._findings.add("note_signature", partition, signed.checkpoint.size)
        return bool(good) and not bad

    def cosigned(self, witnesses: list[Key], quorum: int) -> int | None:
        """The size of the newest note that enough witnesses cosigned, None if there is none."""
        newest = None
        for signed in self.notes if witnesses else ():
            good, bad = signers(signed.note, witnesses, self._check)
            if bad:
                self._findings.add("note_signature", META, signed.checkpoint.size, detail="of a witness")
            elif len({key.public for key in good}) >= max(quorum, 1):
                newest = signed.checkpoint.size
        if quorum and newest is None:
            self._findings.add("quorum", META)
        return newest

    def signed(self, witnesses: Iterable[Key]) -> tuple[int, int]:
        """How many notes were read, and how many lines under them are of keys that nobody gave: those are not looked at."""
        known = {(key.name, key.key_id) for key in (*self._keys, *witnesses)}
        notes = [*self.notes, *self._partition_notes]
        return len(notes), sum((name, key_id) not in known for signed in notes for name, key_id, _ in signed.note.lines)

    def remember(self, checkpoints: Iterable[Checkpoint]) -> None:
        """What was seen earlier, of any of the trees."""
        for origin, size, root in checkpoints:
            ledger, _, number = origin.rpartition("/")
            if origin == self.origin:
                self.of(META).remember(size, root)
            elif ledger == self.origin and _PARTITION.fullmatch(number) and int(number) <= REGISTRY:
                self.of(int(number)).remember(size, root)
            else:
                self._findings.add("state", detail="it remembers another ledger")

    def newest(self) -> list[Checkpoint]:
        """What to remember of this verification."""
        found = []
        for partition, noted in sorted(self.noted.items()):
            if noted.size:
                origin = str(self.origin) if partition == META else f"{self.origin}/{partition}"
                found.append(Checkpoint(origin, noted.size, noted.sizes[noted.size]))
        return found

    def _leaf(self, index: int, frame: bytes) -> None:
        try:
            checkpoint = parse_checkpoint(frame.decode())
        except UnicodeDecodeError:
            checkpoint = None
        ledger, _, number = checkpoint.origin.rpartition("/") if checkpoint else ("", "", "")
        if checkpoint is None or ledger != self.origin or not _PARTITION.fullmatch(number) or int(number) > REGISTRY:
            self._findings.add("note", META, index, detail="a leaf that is no note of a partition")
            return
        noted = self.of(int(number))
        if checkpoint.size < noted.size:
            self._findings.add("rolled_back", int(number), checkpoint.size, detail=f"{noted.size} were noted before")
        noted.say(checkpoint.size, checkpoint.root)
        if noted.partition == REGISTRY:
            self._registry_at.append((index + 1, checkpoint.size))


def read_notes(buffer: Buffer, partition: int, findings: Findings) -> list[Signed]:
    """The notes of a file, by rising size as they have to be."""
    found: list[Signed] = []
    if not buffer:
        return found
    if buffer[:8] != b"AUDLNOT1":
        findings.add("archive", partition, detail="its notes are something else")
        return found
    for frame in frames(buffer, 8):
        note = None if frame is None else parse_note(frame)
        checkpoint = parse_checkpoint(note.text) if note else None
        if note is None or checkpoint is None or len(found) >= MAX_NOTES:
            findings.add("note", partition, detail=f"number {len(found)} cannot be read, or is one too many")
            return found
        if (found and checkpoint.size <= found[-1].checkpoint.size) or (not checkpoint.size and checkpoint.root != EMPTY):
            findings.add("note", partition, checkpoint.size, detail="sizes do not rise")
        found.append(Signed(note, checkpoint))
    return found


def read_proofs(buffer: Buffer, partition: int, findings: Findings) -> list[tuple[int, int, list[bytes]]]:
    """Consistency proofs as (old size, new size, path)."""
    found: list[tuple[int, int, list[bytes]]] = []
    if not buffer:
        return found
    good = buffer[:8] == b"AUDLPRF1"
    for frame in frames(buffer, 8) if good else ():
        if frame is None or len(frame) < 16 or (len(frame) - 16) % 32 or len(frame) > 16 + 32 * 128:
            good = False
            break
        path = [frame[at : at + 32] for at in range(16, len(frame), 32)]
        found.append((int.from_bytes(frame[:8]), int.from_bytes(frame[8:16]), path))
        good = len(found) < 2 or found[-2][0] < found[-1][0]
        if not good:
            break
    if not good:
        findings.add("archive", partition, detail="its proofs cannot be read, or do not rise")
    return found
