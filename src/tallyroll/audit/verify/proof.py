"""Proofs: one record, proven to be in the ledger, or one checkpoint, proven to continue another. Read and checked without the rest.

A proof of a record is a file as c2sp.org/tlog-proof describes it. What is proven to be in the tree over all partitions is
the note of a partition; the extra data say which record, and lead from it to that note. Nothing in it is believed that does
not lead to the signed checkpoint.
"""

from __future__ import annotations

import re
import struct
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Final, NamedTuple

from .ed25519 import is_signed
from .merkle import EMPTY, begins, root_over
from .notes import COSIGNATURE, ED25519, CheckSignature, Note, keys_of, parse_checkpoint, parse_note, signers
from .reading import CORE, MAGIC, MAX_JSON, META, PART, base64_of, read_json, split
from .report import Findings, Report
from .trust import Checkpoint, Trust

PROOF: Final = "c2sp.org/tlog-proof@v1"
CONTINUES: Final = "tallyroll/continuation@v1"
MAX_PROOF: Final = 1 << 26
_EXTRA: Final = struct.Struct(">8sQB")
_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,18}")
_IDENT: Final = struct.Struct(">16sH16sIQQ")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class _ProofFile(NamedTuple):
    """The lines of a proof: a number and hashes under it, and the note below them."""

    extra: bytes
    number: int
    path: list[bytes]
    note: Note
    checkpoint: Checkpoint


class _Extra(NamedTuple):
    """What leads from a record to the note of its partition."""

    place: int
    path: list[bytes]
    note: bytes
    record: bytes


def verify_proof(raw: bytes, trust: Trust, *, check: CheckSignature = is_signed) -> Report:
    """The report on a proof, of either kind. ``coverage["proven"]`` says what it proves, and is None where it proves nothing.

    Total: whatever the bytes are, the answer is a report. Rests on ``keys``, ``witnesses`` and ``quorum`` of the trust; that one
    checkpoint continues another rests on ``remembered`` or ``notes``, which must hold the older one.
    Not promised: that the ledger as a whole is in order; that what the record says is true.
    """
    findings = Findings()
    first = raw[:64].partition(b"\n")[0]
    continues = first == CONTINUES.encode()
    proof = _read(raw, CONTINUES if continues else PROOF, "old" if continues else "index")
    coverage: dict[str, object] = {"proven": None, "signatures_checked": bool(trust.keys), "quorum": trust.quorum}
    if proof is None:
        findings.add("proof_file", detail="it cannot be read")
        return _report(findings, coverage)
    coverage["ledger"], coverage["leaves"] = proof.checkpoint.origin, proof.checkpoint.size
    _check_signatures(proof, trust, check, findings)
    if continues:
        coverage["proven"] = _continuation(proof, trust, findings)
    else:
        coverage["proven"] = _record(proof, findings)
    return _report(findings, coverage)


def _report(findings: Findings, coverage: dict[str, object]) -> Report:
    report = Report(tuple(findings.listed), dict(findings.counts), coverage)
    if report.broken:
        coverage["proven"] = None
    return report


def _check_signatures(proof: _ProofFile, trust: Trust, check: CheckSignature, findings: Findings) -> None:
    keys, witnesses = keys_of(trust.keys, ED25519), keys_of(trust.witnesses, COSIGNATURE)
    if keys is None or witnesses is None:
        findings.add("state", detail="a key that was given cannot be read")
        return
    size = proof.checkpoint.size
    good, bad = signers(proof.note, keys, check)
    if keys and (bad or not any(key.name == proof.checkpoint.origin for key in good)):
        findings.add("note_signature", META, size)
    good, bad = signers(proof.note, witnesses, check)
    if bad:
        findings.add("note_signature", META, size, detail="of a witness")
    if len({key.public for key in good}) < trust.quorum:
        findings.add("quorum", META, size)


def _record(proof: _ProofFile, findings: Findings) -> dict[str, object] | None:
    extra = _read_extra(proof.extra)
    note = parse_checkpoint(_text(extra.note)) if extra else None
    record = split(extra.record, 0, len(extra.record)) if extra and len(extra.record) >= CORE else None
    if extra is None or note is None or record is None or record[0][:5] != MAGIC:
        findings.add("proof_file", detail="its extra data cannot be read")
        return None
    core, env, parts, _ = record
    log_id, partition, writer, epoch, seq, ts_us = _IDENT.unpack_from(core, 6)
    origin = proof.checkpoint.origin
    if note.origin != f"{origin}/{partition}" or not origin.endswith(log_id.hex()):
        findings.add("core", partition, extra.place, seq, "another ledger or partition")
    if root_over(sha256(b"\0" + core).digest(), extra.place, note.size, extra.path) != note.root:
        findings.add("inclusion", partition, extra.place, seq, "in its partition")
    leaf = sha256(b"\0" + extra.note).digest()
    if root_over(leaf, proof.number, proof.checkpoint.size, proof.path) != proof.checkpoint.root:
        findings.add("inclusion", META, proof.number, detail="of the note of its partition")
    if env is not None and sha256(env).digest() != core[103:135]:
        findings.add("env_hash", partition, extra.place, seq)
    for number, body in enumerate(parts):
        at = CORE + number * PART + 29
        if body is not None and sha256(body).digest() != core[at : at + 32]:
            findings.add("part_hash", partition, extra.place, seq, f"part {number}")
    return {
        "what": "record", "partition": partition, "index": extra.place, "of": note.size, "kind": core[5], "writer": writer.hex(),
        "epoch": epoch, "seq": seq, "timestamp": _moment(ts_us), "leaf": sha256(b"\0" + core).hexdigest(),
        "parts": len(parts), "env": None if env is None or len(env) > MAX_JSON else read_json(env),
    }  # fmt: skip


def _continuation(proof: _ProofFile, trust: Trust, findings: Findings) -> dict[str, object] | None:
    old, new = proof.number, proof.checkpoint
    known = [one for one in trust.remembered if one.origin == new.origin and one.size == old]
    for raw in trust.notes:
        note = parse_note(raw)
        checkpoint = parse_checkpoint(note.text) if note else None
        if checkpoint is not None and (checkpoint.origin, checkpoint.size) == (new.origin, old):
            known.append(checkpoint)
    if not known:
        findings.add("state", detail=f"the checkpoint of size {old} was not given")
        return None
    for one in known:
        if old == new.size:
            same = not proof.path and one.root == new.root
        elif old == 0:
            same = not proof.path and one.root == EMPTY
        else:
            same = begins(old, one.root, new.size, new.root, proof.path)
        if not same:
            findings.add("split_view" if old == new.size else "proof", META, old, detail=f"to {new.size}")
    return {"what": "continuation", "from": old, "to": new.size}


def _read(raw: bytes, magic: str, word: str) -> _ProofFile | None:
    head, found, packed = raw[:MAX_PROOF].partition(b"\n\n")
    lines = _text(head).split("\n")
    extra: bytes | None = b""
    if not found or lines[0] != magic or len(lines) < 2:
        return None
    if lines[1].startswith("extra "):
        extra = base64_of(lines.pop(1).removeprefix("extra "))
    numbered = lines[1] if len(lines) > 1 else ""
    number = numbered.removeprefix(f"{word} ")
    path = [base64_of(line) for line in lines[2:]]
    note = parse_note(packed)
    checkpoint = parse_checkpoint(note.text) if note else None
    if extra is None or number == numbered or not _NUMBER.fullmatch(number) or len(path) > 64 or note is None or checkpoint is None:
        return None
    hashes = [one for one in path if one is not None and len(one) == 32]
    return _ProofFile(extra, int(number), hashes, note, checkpoint) if len(hashes) == len(path) else None


def _read_extra(raw: bytes) -> _Extra | None:
    if len(raw) < _EXTRA.size or raw[:8] != b"AUDLPRV1":
        return None
    _, index, length = _EXTRA.unpack_from(raw)
    at = _EXTRA.size + 32 * length
    path = [raw[place : place + 32] for place in range(_EXTRA.size, at, 32)]
    stop = at + 4 + int.from_bytes(raw[at : at + 4])
    if length > 64 or len(raw) < stop:
        return None
    return _Extra(index, path, raw[at + 4 : stop], raw[stop:])


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return ""


def _moment(ts_us: int) -> str | None:
    try:
        return (_EPOCH + timedelta(microseconds=ts_us)).isoformat()
    except OverflowError:
        return None
