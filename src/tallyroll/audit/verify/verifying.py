"""The verification from end to end: notes, registry, heads, partitions, memory, witnesses; and what it covers."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from .checkpoints import Ledger, read_proofs
from .ed25519 import is_signed
from .heads import Heads
from .notes import COSIGNATURE, ED25519, CheckSignature, Key, keys_of, parse_checkpoint, parse_note, signers
from .partition import Walk
from .reading import META, REGISTRY, Buffer, Scan, header_of, read_folder, read_zip, scan
from .registry import Prune, Registry
from .report import Findings, Report
from .trust import Checkpoint, Trust

_Proofs = list[tuple[int, int, list[bytes]]]


def open_archive(path: Path) -> tuple[dict[str, Buffer], Findings]:
    """The files of an export, a folder or a zip, and what was wrong with them. Raises FileNotFoundError if there is neither."""
    findings = Findings()
    if path.is_dir():
        return read_folder(path, findings), findings
    if not path.is_file():
        raise FileNotFoundError(path)
    return read_zip(path, findings), findings


def verify(path: Path, trust: Trust, *, check: CheckSignature = is_signed) -> tuple[Report, list[Checkpoint]]:
    """The report on an exported folder or zip, and what to remember for the next time.

    Total: whatever the files hold, the answer is a report. Reads notes first and then only as far as they say, so that a
    ledger that grows meanwhile gives no false alarm. Raises FileNotFoundError for a path where nothing is.
    Not promised: to notice that a tail was cut together with every note about it, by somebody without memory, heads or
    witness; nor that what an honest writer said was true.
    """
    files, findings = open_archive(path)
    return verify_files(files, trust, check=check, findings=findings)


def verify_files(
    files: Mapping[str, Buffer], trust: Trust, *, check: CheckSignature = is_signed, findings: Findings | None = None
) -> tuple[Report, list[Checkpoint]]:
    """The same for files that are in memory already, by name."""
    return _Verification(files, trust, check, findings or Findings()).run()


class _Verification:
    def __init__(self, files: Mapping[str, Buffer], trust: Trust, check: CheckSignature, findings: Findings) -> None:
        self._files = files
        self._trust = trust
        self._check = check
        self._findings = findings
        self._keys = self._known(trust.keys, ED25519)
        self._witnesses = self._known(trust.witnesses, COSIGNATURE)
        self._ledger = Ledger(self._keys, check, findings)
        self._registry = Registry()
        self._heads = Heads()
        self._scans: dict[int, tuple[Buffer, Scan]] = {}
        self._sizes: dict[int, int] = {}
        self._walks: dict[int, Walk] = {}
        self._cuts: dict[int, int] = {}
        self._log_id = bytes(16)
        self._proofs = 0

    def run(self) -> tuple[Report, list[Checkpoint]]:
        ledger = self._ledger
        ledger.read_notes(self._file(META, "notes"))
        meta_proofs = self._read_proofs(META)
        remembered = [*self._trust.remembered, *self._other_notes()]
        ledger.remember(checkpoint for checkpoint in remembered if checkpoint.origin == ledger.origin)
        meta_start, meta_peaks = ledger.read_leaves(self._file(META, "leaves"), meta_proofs)
        partitions = sorted({*self._partitions(), *ledger.noted} - {META})
        signed = {partition: ledger.read_partition(partition, self._file(partition, "notes")) for partition in partitions}
        ledger.remember(checkpoint for checkpoint in remembered if checkpoint.origin != ledger.origin)
        self._identify()
        self._scan(sorted({*partitions, *ledger.noted, REGISTRY} - {META}))
        self._read_registry()
        ledger.trust_announced(self._registry.vkeys)
        for partition, notes in signed.items():
            for note in notes:
                ledger.check_signature(note, partition)
        if meta_start:
            self._pruned(META, meta_start, meta_peaks)
        self._read_heads()
        mac_keys = self._mac_keys()
        for partition in sorted(self._scans):
            self._walk(partition, mac_keys)
        self._heads.judge(self._walks, self._cuts, self._registry, self._findings)
        witnessed = ledger.cosigned(self._witnesses, self._trust.quorum)
        return self._report(witnessed, mac_keys), ledger.newest()

    def _known(self, texts: tuple[str, ...], kind: int) -> list[Key]:
        keys = keys_of(texts, kind)
        if keys is None:
            self._findings.add("state", detail="a key that was given cannot be read")
        return keys or []

    def _file(self, partition: int, what: str) -> Buffer:
        return self._files.get(f"meta.{what}" if partition == META else f"{partition:05}.{what}", b"")

    def _read_proofs(self, partition: int) -> _Proofs:
        proofs = read_proofs(self._file(partition, "proofs"), partition, self._findings)
        self._proofs += len(proofs)
        return proofs

    def _partitions(self) -> set[int]:
        numbers = {int(name[:5]) for name in self._files if name[:5].isdigit()}
        for number in sorted(numbers):
            if number > REGISTRY or number == META:
                self._findings.add("archive", number, detail="there is no such partition")
        return {number for number in numbers if number <= REGISTRY and number != META}

    def _other_notes(self) -> list[Checkpoint]:
        """Notes from elsewhere count if a trusted key or a witness signed them; an unsigned one proves nothing."""
        found = []
        for raw in self._trust.notes:
            note = parse_note(raw)
            checkpoint = parse_checkpoint(note.text) if note else None
            if note is None or checkpoint is None:
                self._findings.add("state", detail="a note that was given cannot be read")
            elif not signers(note, [*self._keys, *self._witnesses], self._check)[0] and self._keys:
                self._findings.add("state", detail="a note that was given is not signed by a trusted key")
            else:
                found.append(checkpoint)
        return found

    def _identify(self) -> None:
        origin = self._ledger.origin
        try:
            self._log_id = bytes.fromhex((origin or "").rpartition("/")[2])
        except ValueError:
            self._log_id = b""
        if origin is None or len(self._log_id) != 16 or not origin.endswith(self._log_id.hex()):
            self._findings.add("note_missing", detail="no note says which ledger this is")
            self._log_id = bytes(16)

    def _scan(self, partitions: list[int]) -> None:
        for partition in partitions:
            buffer, noted = self._file(partition, "records"), self._ledger.of(partition)
            header = header_of(buffer, b"AUDLREC1")
            if header is None or header.partition != partition:
                self._findings.add("archive", partition, detail="its records are missing, or are something else")
                continue
            found = scan(buffer, header)
            self._scans[partition] = buffer, found
            there = header.start + found.whole
            if not noted.sizes:
                self._findings.add("note_missing", partition)
            elif noted.size > there:
                torn = "the rest cannot be read" if found.last < 0 or len(buffer) > header.at else ""
                self._findings.add("size", partition, there, detail=f"{noted.size} were noted; {torn}")
            self._sizes[partition] = min(noted.size, there) if noted.sizes else there
            if noted.sizes and noted.size < header.start:
                self._findings.add("prune", partition, header.start, detail="more was pruned than was noted")
                self._sizes[partition] = header.start
            self._heads.see_times(buffer, found, self._sizes[partition])

    def _read_registry(self) -> None:
        if REGISTRY in self._scans:
            buffer, found = self._scans[REGISTRY]
            self._registry.read(buffer, found, self._sizes[REGISTRY], self._findings)

    def _read_heads(self) -> None:
        for partition, (buffer, found) in self._scans.items():
            self._heads.read(partition, buffer, found, self._sizes[partition], self._registry, self._findings)

    def _pruned(self, partition: int, start: int, peaks: tuple[bytes, ...]) -> Prune | None:
        prune = self._registry.prunes.get((partition, start))
        if prune is None or prune.peaks != peaks or partition == REGISTRY:
            self._findings.add("prune", partition, start, detail="the registry does not say so")
        elif prune.day <= prune.keep_until_day:
            self._findings.add("early_removal", partition, start, detail="a prefix")
        elif partition != META and self._registry.held(partition, 0, start, None, prune.logged):
            self._findings.add("held", partition, start, detail="a prefix")
        if prune is not None:
            self._cuts[partition] = prune.ts_us
        return prune

    def _mac_keys(self) -> dict[tuple[bytes, int], bytes]:
        good = {}
        for key, k0 in self._trust.mac_keys.items():
            admitted = self._registry.admitted.get(key)
            if admitted is not None and sha256(b"aud1/k0" + k0).digest() == admitted.commitment:
                good[key] = k0
            elif admitted is not None:
                self._findings.add("key_mismatch", detail=f"writer {key[0].hex()}, epoch {key[1]}")
        return good

    def _walk(self, partition: int, mac_keys: Mapping[tuple[bytes, int], bytes]) -> None:
        buffer, found = self._scans[partition]
        size, noted, header = self._sizes[partition], self._ledger.of(partition), found.header
        proofs = self._read_proofs(partition)
        prune = self._pruned(partition, header.start, header.peaks) if header.start else None
        walk = self._walks[partition] = Walk(
            partition, self._log_id, self._registry, self._findings, today=self._trust.today, withheld=self._trust.withheld
        )
        walk.begin(prune, mac_keys, self._heads.watched(partition))
        walk.run(buffer, found, size, {*noted.sizes, *(new for _, new, _ in proofs)})
        noted.compare(header.start, walk.roots, proofs)

    def _report(self, witnessed: int | None, mac_keys: Mapping[tuple[bytes, int], bytes]) -> Report:
        walks, ledger = self._walks, self._ledger
        unsealed = sum(found.header.start + found.whole - self._sizes[partition] for partition, (_, found) in self._scans.items())
        beyond = sum(len(self._scans[partition][0]) - walk.end for partition, walk in walks.items())
        beyond += len(self._file(META, "leaves")) - ledger.leaves_end
        notes, unknown = ledger.signed(self._witnesses)
        coverage: dict[str, object] = {
            "ledger": ledger.origin,
            "entries": sum(walk.entries for walk in walks.values()),
            "partitions": {str(partition): self._sizes[partition] for partition in sorted(self._sizes)},
            "pruned": {str(partition): found.header.start for partition, (_, found) in self._scans.items() if found.header.start},
            "beyond_notes": unsealed,
            "bytes_beyond_notes": beyond,
            "leaves": ledger.leaves,
            "notes": notes,
            "unknown_signatures": unknown,
            "proofs": self._proofs,
            "signatures_checked": bool(self._keys),
            "macs_checked": sum(walk.macs for walk in walks.values()),
            "writer_epochs": len(self._registry.admitted),
            "writer_epochs_with_keys": len(mac_keys),
            "bodies_removed": sum(walk.removals.bodies for walk in walks.values()),
            "parts_removed": sum(walk.removals.parts for walk in walks.values()),
            "witnesses": len(self._witnesses),
            "quorum": self._trust.quorum,
            "witnessed_size": witnessed,
            "remembered": bool(self._trust.remembered or self._trust.notes),
            "newest_us": self._heads.newest_us,
        }
        findings = self._findings
        return Report(tuple(findings.listed), dict(findings.counts), coverage)
