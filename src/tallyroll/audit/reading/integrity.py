"""Whether the ledger is what was written: the auditor's verifier, run over the store's own bytes, with the MAC keys of the ring."""

from __future__ import annotations

import asyncio
import mmap
import tempfile
from base64 import b64encode
from bisect import bisect_left
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import IO, Any, Final, Self, TypedDict

import msgspec

from tallyroll.audit.ledger.authentic import forged_behind
from tallyroll.audit.ledger.layout import META, REGISTRY
from tallyroll.audit.ledger.proving import Noted, noted
from tallyroll.audit.reading.index import index_findings
from tallyroll.audit.reading.ledger_files import Counted, ledger_files
from tallyroll.audit.reading.mac_keys import mac_keys
from tallyroll.audit.reading.query import zoned_us
from tallyroll.audit.reading.witnessed import Answer, AskWitnesses
from tallyroll.audit.removal.lost_keys import LostKeys
from tallyroll.audit.sealing.hearing import AskLog, unsealed
from tallyroll.audit.sealing.lost import fallen_behind
from tallyroll.audit.verify import Report, Trust, verify_files
from tallyroll.audit.verify.report import BROKEN, CODES, MAX_LISTED, Finding, Findings
from tallyroll.errors import LedgerTampered
from tallyroll.events.position import TopicPartition
from tallyroll.ports import Clock, KeyRing, LedgerStore

Check = Callable[[bytes, bytes, bytes], bool]
"""(public key, message, signature) -> whether it is an Ed25519 signature of the message."""

LINK_CODES: Final = frozenset({"link", "sequence", "order", "duplicate", "fork", "after_close", "genesis", "gap"})
"""What breaks a chain; every other finding that is broken is a failure of integrity."""

_OF_ONE: Final = frozenset(
    {"env_hash", "part_hash", "mac", "mac_missing", "core", "env_missing", "part_missing", "early_removal", "held", "backdated", "index"}
)
"""What is wrong with the one record that it names; the records around it are proven all the same."""

_OF_NONE: Final = frozenset({"silent", "head_missing", "quorum", "resume"})
"""What is missing, or is to come, which says nothing against what is there."""

_DAY_US: Final = 86_400_000_000
_PAGE: Final = 1_000
_FOREVER: Final = (1 << 64) - 1
_env: Final = msgspec.json.Decoder(dict[str, Any])


class Integrity(TypedDict):
    """What a verification found. ``findings`` lists at most 200 of each code, ``counts`` says how many there are.

    ``valid``: nothing is broken, nothing lost; a key that is lost (``key_lost``) counts as that, and is no failure of integrity.
    ``total_entries`` are the entries of the period that are noted; ``verified_entries`` those of them with nothing against them.
    ``coverage`` says what that rests on; ``unsealed`` in it, how many records of the log are not in the ledger, is None where
    the log could not be asked. ``first_bad_position`` is in the log (``audit-events/3/17``), or in the ledger (``ledger/3/17``)
    where a record came with none.
    """

    valid: bool
    total_entries: int
    verified_entries: int
    broken_links: int
    integrity_failures: int
    findings: list[dict[str, Any]]
    counts: dict[str, int]
    first_bad_position: str | None
    snapshot: dict[str, Any] | None
    coverage: dict[str, Any]


def keys_alone(found: Integrity | Mapping[str, Any]) -> bool:
    """Whether lost keys are all there is against a ledger: what was recorded is all there, and proven, and some of it opens to nobody."""
    return not found["valid"] and not found["broken_links"] and not found["integrity_failures"]


@dataclass(frozen=True, slots=True)
class Trusted:
    """What a verification rests on besides the store: the ledger's public keys, witnesses, and what was seen before."""

    keys: tuple[str, ...]
    witnesses: tuple[str, ...] = ()
    quorum: int = 0
    notes: tuple[bytes, ...] = ()


class Verification:
    """Verifies one ledger as it is stored. ``check`` checks signatures, ``checkpoint`` has what is there noted and signed first.

    ``log_spans`` says what the log has, so that a position behind its end shows, and what is not sealed yet; ``committed`` up to
    where the log knows the ledger to have been stored, which it has to be still; ``witnesses`` what those remember who were to
    cosign, without which a ledger that was replaced as a whole, or made anew from a kept log, verifies like any other.

    Not promised: what the verifier does not promise. Who runs this has the keys and could have forged with them: an outsider
    verifies an export, and keeps what they have seen.
    """

    def __init__(  # noqa: PLR0913  # what a verification needs
        self,
        store: LedgerStore,
        ring: KeyRing,
        trusted: Trusted,
        check: Check,
        *,
        clock: Clock,
        checkpoint: Callable[[], Awaitable[object]],
        log_spans: AskLog | None = None,
        witnesses: AskWitnesses | None = None,
        committed: Callable[[], Awaitable[Mapping[TopicPartition, int]]] | None = None,
    ) -> None:
        self._store = store
        self._ring = ring
        self._trusted = trusted
        self._check = check
        self._clock = clock
        self._checkpoint = checkpoint
        self._log_spans = log_spans
        self._witnesses = witnesses
        self._committed = committed

    async def verify(
        self, start_time: datetime | None = None, end_time: datetime | None = None, *, notes: Sequence[bytes] = ()
    ) -> Integrity:
        """Verifies the whole ledger, in its own order; the period says which entries are counted.

        A record is proven by those around it, so there is no verifying of a part. The newest signed note is read first, and
        everything only that far. ``notes`` are signed notes that somebody kept: what they saw must still be there, and so must
        what the witnesses have seen; these cosign the newest note where it continues that. Copies the
        ledger to a temporary file that has no name. Raises ValueError for naive moments,
        StoreUnavailable, KeyRingUnavailable.
        """
        counted = Counted(
            0 if start_time is None else zoned_us("start_time", start_time),
            _FOREVER if end_time is None else zoned_us("end_time", end_time),
        )
        tampered, known = None, None
        lost = await self._lost()
        answers: Sequence[Answer] = ()
        with _Files() as files:
            try:
                with suppress(LedgerTampered):  # a sealer of this process stopped at it; here all of it comes to light
                    await self._checkpoint()
                answers = [] if self._witnesses is None else await self._witnesses()
                known = await noted(self._store)
                if known is None and not any((await self._store.sizes()).values()):
                    return _empty(_beside(Report((), {}, {"entries": 0}), answers, lost, {}))
                if known is not None:
                    await files.take(ledger_files(self._store, known, counted))
            except LedgerTampered as error:
                tampered = error  # what could be read till then is verified; it cannot come out whole
            macs = await mac_keys(self._store, self._ring)
            trust = Trust(
                today=self._clock.now_us() // _DAY_US,
                keys=self._trusted.keys,
                witnesses=self._trusted.witnesses,
                quorum=self._trusted.quorum,
                mac_keys=macs.found,
                notes=(*self._trusted.notes, *notes, *(one.confirmed for one in answers if one.confirmed)),
            )
            report, _ = await asyncio.to_thread(verify_files, files.mapped(), trust, check=self._check)
        if tampered is not None:
            report = _with(report, tampered)
        if known is not None:
            report = await self._with_index(report, known)
        report = _beside(report, answers, lost, macs.lost)
        return await self._shown(report, counted, known)

    async def _lost(self) -> list[str]:
        """What was sealed once and is not there now: the log remembers up to where it was."""
        committed = {} if self._committed is None else await self._committed()
        stored = await self._store.progress()  # asked behind it: who seals meanwhile stores first
        return [f"{said}: lost, an older copy, or another ledger" for said in fallen_behind(committed, stored).values()]

    async def _with_index(self, report: Report, known: Noted) -> Report:
        """The report, what was added behind the newest note, and what questions would miss, or find though it is not there."""
        named = {(one.partition, one.index) for one in report.findings if one.severity == BROKEN}
        sizes = await self._store.sizes()
        behind = {partition: known.sizes.get(partition, 0) for partition in sizes}
        forged = [place async for place in forged_behind(self._store, self._ring, behind)]
        spans = None if self._log_spans is None else await self._log_spans()
        found = await index_findings(
            self._store,
            named.union(forged),
            {partition: end for partition, (_, end) in (spans or {}).items()},
            LostKeys(self._store, self._ring),
        )
        for place in forged:
            found.add("mac", *place, detail="behind the newest note")
        beyond = sum(max(0, size - behind[partition]) for partition, size in sizes.items())
        waiting = None if spans is None else unsealed(spans, await self._store.progress())
        coverage = {**report.coverage, "beyond_notes": beyond, "unsealed": waiting}
        return Report((*report.findings, *found.listed), report.counts | found.counts, coverage)

    async def _shown(self, report: Report, counted: Counted, known: Noted | None) -> Integrity:
        broken = [finding for finding in report.findings if finding.severity == BROKEN]
        counts: Counter[bool] = Counter()
        for code, count in report.counts.items():
            if code in LINK_CODES or CODES[code][0] == BROKEN:
                counts[code in LINK_CODES] += count
        total = sum(len(indexes) for indexes in counted.entries.values())
        return {
            "valid": report.valid,
            "total_entries": total,
            "verified_entries": total - _in_doubt(broken, report.counts, counted),
            "broken_links": counts[True],
            "integrity_failures": counts[False],
            "findings": _shown_findings(report),
            "counts": dict(report.counts),
            "first_bad_position": await self._first(broken),
            "snapshot": None if known is None else {
                "size": known.checkpoint.size, "root": b64encode(known.checkpoint.root).decode(),
                "partitions": {str(number): size for number, size in sorted(known.sizes.items())}, "note": known.signed.decode(),
            },
            "coverage": {**report.coverage, "macs": bool(report.coverage["macs_checked"]),
                         "witness": report.coverage["witnessed_size"] is not None, "remembered_note": report.coverage["remembered"]},
        }  # fmt: skip

    async def _first(self, broken: Sequence[Finding]) -> str | None:
        places = sorted((one.partition, one.index) for one in broken if one.partition not in (None, META) and one.index is not None)
        if not places:
            return None
        partition, index = places[0]
        rows = await self._store.rows(int(partition or 0), int(index), 1)
        source = rows[0].source if rows and rows[0].number == index else None
        return f"ledger/{partition}/{index}" if source is None else str(source)


class _Files:
    """Files of an export that have no name: only this process reaches them, and they are gone with it."""

    def __init__(self) -> None:
        self._open: dict[str, IO[bytes]] = {}
        self._maps: list[mmap.mmap] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for one in self._maps:
            one.close()
        for file in self._open.values():
            file.close()

    async def take(self, pieces: AsyncIterator[tuple[str, bytes]]) -> None:
        async for name, piece in pieces:
            if name not in self._open:
                self._open[name] = tempfile.TemporaryFile()  # noqa: SIM115  # closed on exit
            await asyncio.to_thread(self._open[name].write, piece)

    def mapped(self) -> dict[str, bytes | mmap.mmap]:
        found: dict[str, bytes | mmap.mmap] = {}
        for name, file in self._open.items():
            file.flush()
            found[name] = made = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self._maps.append(made)
        return found


def _with(report: Report, tampered: LedgerTampered) -> Report:
    """The report, and what kept the rest from being read."""
    found = Findings([*report.findings], Counter(report.counts))
    found.add(tampered.code, tampered.partition, tampered.index, detail=tampered.detail)
    return Report(tuple(found.listed), dict(found.counts), report.coverage)


def _beside(report: Report, answers: Sequence[Answer], lost: Sequence[str], keyless: Mapping[int, tuple[bytes, int]]) -> Report:
    """The report, and what witnesses and the log have against it; and which writer epochs have lost their MAC key, by their place."""
    found = Findings([*report.findings], Counter(report.counts))
    for one in answers:
        if one.code:
            found.add(one.code, META, one.size, detail=one.detail)
    for detail in lost:
        found.add("resume", detail=detail)
    for number in keyless:
        found.add("mac_key_lost", REGISTRY, number)
    return Report(tuple(found.listed), dict(found.counts), {**report.coverage, "witnesses": {one.name: one.size for one in answers}})


def _shown_findings(report: Report) -> list[dict[str, Any]]:
    return [
        {"code": one.code, "severity": one.severity, "partition": one.partition, "index": one.index, "seq": one.seq,
         "detail": one.detail or CODES[one.code][1]}
        for one in report.findings
    ]  # fmt: skip


def _in_doubt(broken: Sequence[Finding], counts: Mapping[str, int], counted: Counted) -> int:
    """Entries with something against them: those named, and all of a partition where what is wrong has no single place."""
    whole: set[int | None] = {None} if any(count > MAX_LISTED for count in counts.values()) else set()
    named: set[tuple[int, int]] = set()
    for one in broken:
        if one.code in _OF_ONE and one.index is not None and one.partition is not None:
            named.add((one.partition, one.index))
        elif one.code not in _OF_NONE:
            whole.add(one.partition)
    if whole & {None, META, REGISTRY}:
        return sum(len(indexes) for indexes in counted.entries.values())
    doubtful = sum(len(indexes) for partition, indexes in counted.entries.items() if partition in whole)
    return doubtful + sum(_has(counted.entries[partition], index) for partition, index in named if partition not in whole)


def _has(indexes: Sequence[int], index: int) -> bool:
    at = bisect_left(indexes, index)
    return at < len(indexes) and indexes[at] == index


def _empty(report: Report) -> Integrity:
    failures = sum(count for code, count in report.counts.items() if CODES[code][0] == BROKEN)
    return {
        "valid": report.valid, "total_entries": 0, "verified_entries": 0, "broken_links": 0, "integrity_failures": failures,
        "findings": _shown_findings(report), "counts": dict(report.counts), "first_bad_position": None, "snapshot": None,
        "coverage": report.coverage,
    }  # fmt: skip
