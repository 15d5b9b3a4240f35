"""An evidence pack: an exported ledger with proofs, a report, and the public keys it came with; checked file by file."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple

from .ed25519 import is_signed
from .notes import ED25519, MAX_NOTE, CheckSignature, Note, keys_of, parse_note, signers
from .proof import CONTINUES, PROOF, verify_proof
from .reading import read_json
from .report import Findings, Report
from .trust import Checkpoint, Trust
from .verifying import verify

FORMAT: Final = "tallyroll-evidence/1"
TRUST_FILE: Final = "trust.json"
_SUMS: Final = "SHA256SUMS"
_NOTE: Final = "SHA256SUMS.note"
_TITLE: Final = "tallyroll/evidence@v1"
_PACKED: Final = (TRUST_FILE, "report.json", "report.html", "viewer.html", "entries.csv", "entries.ocsf.jsonl", "verify.pyz", "README.txt")
_FOLDERS: Final = ("ledger", "proofs")
_MAX_LISTED: Final = 1_000_000  # lines of a list, and files of a folder: a report has up to 1,000 proofs
_CHUNK: Final = 1 << 20


class Pack(NamedTuple):
    """Where a pack lies, and the keys that came with it: good for a first look, but compare them with what you got elsewhere."""

    folder: Path
    keys: tuple[str, ...]
    witnesses: tuple[str, ...]
    quorum: int
    withheld: bool


def is_proof(path: Path) -> bool:
    """Whether the file is a proof of one record or of a continued checkpoint."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(64).partition(b"\n")[0].decode(errors="replace") in (PROOF, CONTINUES)


def read_pack(folder: Path) -> Pack | None:
    """The pack in a folder, or None where there is none."""
    try:
        said = read_json((folder / TRUST_FILE).read_bytes()) if (folder / TRUST_FILE).is_file() else None
    except OSError:
        return None
    if not isinstance(said, dict) or said.get("format") != FORMAT or not (folder / "ledger").is_dir():
        return None
    quorum = said.get("quorum")
    bound = quorum if isinstance(quorum, int) and 0 <= quorum < 1 << 16 else 0
    return Pack(folder, _texts(said.get("keys")), _texts(said.get("witnesses")), bound, said.get("withheld") is True)


def verify_pack(pack: Pack, trust: Trust, *, check: CheckSignature = is_signed) -> tuple[Report, list[Checkpoint]]:
    """The report on everything in the pack: the ledger, each proof, and that the files are those that were packed.

    That nobody exchanged files and made their list anew rests on ``keys`` of the trust.
    """
    report, checkpoints = verify(pack.folder / "ledger", replace(trust, withheld=trust.withheld or pack.withheld), check=check)
    findings = Findings(list(report.findings))
    findings.counts.update(report.counts)
    proven = 0
    for path in sorted((pack.folder / "proofs").glob("*.tlog-proof")):
        found = verify_proof(path.read_bytes() if path.is_file() else b"", trust, check=check)
        proven += not found.broken
        for one in found.findings:
            findings.add(one.code, one.partition, one.index, one.seq, f"{path.name}: {one.detail}")
    if trust.keys:
        _check_list(pack.folder, str(report.coverage.get("ledger")), trust, check, findings)
    files, listed = 0, {_SUMS, _NOTE}
    for name, good in _sums(pack.folder):
        files += good
        listed.add(name)
        if not good:
            findings.add("archive", detail=f"{name[:80]} is missing, or is not what was packed")
    for name in _unlisted(pack.folder, listed):
        if name in _PACKED or name.partition("/")[0] in _FOLDERS:
            findings.add("archive", detail=f"{name[:80]} is not in {_SUMS}")
        else:
            findings.add("unknown_file", detail=name[:80])
    coverage = {**report.coverage, "proofs_of_records": proven, "files": files}
    return Report(tuple(findings.listed), dict(findings.counts), coverage), checkpoints


def _check_list(folder: Path, ledger: str, trust: Trust, check: CheckSignature, findings: Findings) -> None:
    """Whether a key of the ledger signed the list: else whoever had the pack in hand may have made it anew."""
    note = _note(folder / _NOTE)
    if note is None:
        findings.add("archive", detail=f"{_NOTE} is missing, or cannot be read")
        return
    good, bad = signers(note, keys_of(trust.keys, ED25519) or (), check)
    if bad or not good:
        findings.add("note_signature", detail=_NOTE)
    elif note.text != f"{_TITLE}\n{ledger}\n{_digest(folder / _SUMS)}\n":
        findings.add("archive", detail=f"{_NOTE} was signed for another list")


def _note(path: Path) -> Note | None:
    try:
        if not path.is_file():
            return None
        with path.open("rb") as file:
            return parse_note(file.read(MAX_NOTE + 1))
    except OSError:
        return None


def _sums(folder: Path) -> Iterator[tuple[str, bool]]:
    """The files that the pack lists. By itself the list only finds a transfer that went wrong."""
    try:
        lines = (folder / _SUMS).read_text("utf-8").splitlines() if (folder / _SUMS).is_file() else [""]
    except (OSError, UnicodeDecodeError):
        lines = [""]
    if lines == [""]:
        yield _SUMS, False
        return
    seen: set[str] = set()
    for line in lines[:_MAX_LISTED]:
        digest, _, name = line.partition("  ")
        inside = bool(name) and not Path(name).is_absolute() and ".." not in Path(name).parts and name not in seen
        seen.add(name)
        yield name, inside and _digest(folder / name) == digest


def _unlisted(folder: Path, listed: Collection[str]) -> list[str]:
    """Files of the folder that the list does not name."""
    try:
        there = (path.relative_to(folder).as_posix() for path in islice(folder.rglob("*"), _MAX_LISTED) if path.is_file())
        return sorted(name for name in there if name not in listed)
    except OSError:
        return []


def _digest(path: Path) -> str | None:
    made = hashlib.sha256()
    try:
        if not path.is_file():  # what is read from a device or a pipe may have no end
            return None
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                made.update(chunk)
    except (OSError, ValueError):  # it is not there, or its name is none
        return None
    return made.hexdigest()


def _texts(value: object) -> tuple[str, ...]:
    items: Sequence[object] = value if isinstance(value, list) else ()
    return tuple(one for one in items if isinstance(one, str))
