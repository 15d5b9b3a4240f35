"""What is found: codes, findings, the report."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any, Final

BROKEN: Final = "broken"
LOSS: Final = "loss"
WARNING: Final = "warning"
MAX_LISTED: Final = 200  # findings of one code that are listed; the others are counted

CODES: Final[dict[str, tuple[str, str]]] = {
    "archive": (BROKEN, "a file cannot be read, is not what its name says, or is too large"),
    "frame": (BROKEN, "the file breaks off before the records that were noted, or a record's lengths do not fit"),
    "core": (BROKEN, "a record says another ledger, partition, version or nonce than its place allows"),
    "kind": (BROKEN, "a record of a kind that does not belong here"),
    "control": (BROKEN, "a record that steers the verification cannot be read, or contradicts another"),
    "genesis": (BROKEN, "a chain does not begin as the registry says it does"),
    "link": (BROKEN, "a record does not link to the one before it in its chain"),
    "sequence": (BROKEN, "numbers of a chain are missing and the registry does not name them"),
    "order": (BROKEN, "a number of a chain comes after a higher one"),
    "duplicate": (BROKEN, "the same record stands there twice"),
    "fork": (BROKEN, "two records have the same number in one chain"),
    "after_close": (BROKEN, "a chain goes on after it was closed"),
    "unregistered": (BROKEN, "the writer epoch is not in the registry"),
    "mac": (BROKEN, "the MAC is not that of the record under the key of its MAC epoch"),
    "mac_missing": (BROKEN, "the record has no MAC"),
    "mac_epoch": (BROKEN, "the MAC epoch goes back, or beyond its bound"),
    "backdated": (BROKEN, "the record was sealed with a later key than its timestamp allows"),
    "key_mismatch": (BROKEN, "a MAC key that was given is not the one that the registry commits to"),
    "env_hash": (BROKEN, "the env is not the one that was sealed"),
    "part_hash": (BROKEN, "a part is not the one that was sealed"),
    "env_missing": (BROKEN, "the env was removed and nothing in the ledger justifies it"),
    "part_missing": (BROKEN, "a part was removed and nothing in the ledger justifies it"),
    "early_removal": (BROKEN, "something was removed before its day"),
    "held": (BROKEN, "something was removed while a hold covered it"),
    "prune": (BROKEN, "a prefix was removed in another way than the registry says"),
    "root": (BROKEN, "the records have another root than a note says"),
    "size": (BROKEN, "a note speaks of more records than there are"),
    "note": (BROKEN, "a note cannot be read, or is of another ledger"),
    "note_missing": (BROKEN, "no note says how long this is, so its end could be cut off"),
    "note_signature": (BROKEN, "a note is not signed by a key that is trusted"),
    "split_view": (BROKEN, "two notes of one size have different roots: two histories were shown"),
    "rolled_back": (BROKEN, "there is less than a remembered note speaks of"),
    "proof": (BROKEN, "a noted size inside a pruned prefix is not proven to be a beginning of what is there"),
    "proof_file": (BROKEN, "a proof cannot be read"),
    "inclusion": (BROKEN, "a proof does not lead from the record to the signed checkpoint"),
    "quorum": (BROKEN, "no note is cosigned by enough witnesses"),
    "head_missing": (BROKEN, "a writer named a record that is not there"),
    "head_mismatch": (BROKEN, "a writer named another record than the one that is there"),
    "index": (BROKEN, "the store finds the record by something else than it says; an export does not show that"),
    "resume": (BROKEN, "sealing would go on elsewhere than the records end; an export does not show that"),
    "witness": (BROKEN, "a witness that was asked does not know the ledger, or its key; an export does not show that"),
    "silent": (BROKEN, "a writer fell silent without closing, and nothing says why"),
    "state": (BROKEN, "the remembered state cannot be read"),
    "gap": (LOSS, "records were lost, and the registry names the loss"),
    "key_lost": (
        LOSS,
        "the key ring lacks a key of the record, and no erasure says why: put its newest copy back; an export does not show that",
    ),
    "late": (WARNING, "a record came after later ones; the registry names the gap that it fills"),
    "head_pending": (WARNING, "a writer named a record that is not there yet; its partition may only lag"),
    "mac_key_lost": (
        WARNING,
        "the key ring lacks the MAC key of the writer epoch that is admitted here: put its newest copy back; an export does not show that",
    ),
    "removal_unlogged": (WARNING, "something was removed after its day, and no retention record names it"),
    "withheld": (WARNING, "a part that is not sealed was left out of the export, and who verifies agreed to that"),
    "witness_away": (WARNING, "a witness could not be asked; an export does not show that"),
    "unknown_file": (WARNING, "a file that is no part of the format was not read"),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that was found: where, as far as it has a place. ``index`` counts records of the partition, ``seq`` of the chain."""

    code: str
    partition: int | None
    index: int | None
    seq: int | None
    detail: str

    @property
    def severity(self) -> str:
        """``broken``, ``loss`` or ``warning``."""
        return CODES[self.code][0]


@dataclass
class Findings:
    """Collects findings, a bounded number of each code."""

    listed: list[Finding] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, code: str, partition: int | None = None, index: int | None = None, seq: int | None = None, detail: str = "") -> None:
        """One more. A detail may come from a hostile file and end up on a terminal, so what cannot be printed is not kept."""
        self.counts[code] += 1
        if self.counts[code] <= MAX_LISTED:
            self.listed.append(Finding(code, partition, index, seq, "".join(one if one.isprintable() else "?" for one in detail)))


@dataclass(frozen=True)
class Report:
    """What a verification found, and what it covers.

    ``valid`` means: nothing broken, nothing lost. ``coverage`` says what that rests on; a verdict without signatures, MAC keys,
    a witness or a remembered note rests on less, and names it.
    """

    findings: tuple[Finding, ...]
    counts: dict[str, int]
    coverage: dict[str, Any]

    @property
    def broken(self) -> bool:
        """Whether anything is wrong."""
        return any(CODES[code][0] == BROKEN for code in self.counts)

    @property
    def lossy(self) -> bool:
        """Whether records are lost, and named."""
        return any(CODES[code][0] == LOSS for code in self.counts)

    @property
    def valid(self) -> bool:
        """Whether everything that was ever noted is there, or its absence justified."""
        return not self.broken and not self.lossy

    def as_dict(self) -> dict[str, object]:
        """The report as JSON values."""
        return {
            "valid": self.valid,
            "broken": self.broken,
            "findings": [{**asdict(finding), "severity": finding.severity} for finding in self.findings],
            "counts": dict(sorted(self.counts.items())),
            "coverage": self.coverage,
        }
