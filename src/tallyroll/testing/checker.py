"""Whether a history is one that a log with our promises may have: eight checks, after Jepsen's analysis of Kafka.

====================  ================================================================================================
aborted read          an event that definitely failed was read
inconsistent offset   two events at one offset of a partition
lost                  an acknowledged event lies below what was read of its partition, and was never read
duplicate             one event at several offsets of a partition
poll                  a reader went back, or skipped an offset that holds a record
order                 first copies of one sender's events of one key lie in another order than they were sent
transaction           a record of a transaction was read before it was committed, or only a part of a committed one
unseen                an acknowledged event was not read by the end
====================  ================================================================================================

Pure, and total: any sequence of entries gives a report. Whether repeats are findings is for the caller to say: what a
publisher sends again under its id is no error to a reader who drops repeats.

Not promised: to find what the history does not show. A reader must have read to the end for ``unseen`` to mean anything.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, Literal, NamedTuple, get_args

from tallyroll.testing.history import Assign, End, Entry, Fail, Info, Invoke, Ok, Poll, Read

Check = Literal["aborted read", "inconsistent offset", "lost", "duplicate", "poll", "order", "transaction", "unseen"]
CHECKS: Final[tuple[Check, ...]] = get_args(Check)
_SHOWN: Final = 5  # findings per check in a printed report


class Finding(NamedTuple):
    """One broken promise: which check, which event, and how it shows."""

    check: Check
    id: str
    what: str


class Report(NamedTuple):
    """What the checks found, and how large the history was."""

    findings: Sequence[Finding]
    sent: int
    acknowledged: int
    failed: int
    unknown: int
    read: int

    @property
    def clean(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    def of(self, check: Check) -> list[Finding]:
        """The findings of one check."""
        return [finding for finding in self.findings if finding.check == check]

    def __str__(self) -> str:
        lines = [
            f"{self.sent} sent: {self.acknowledged} acknowledged, {self.failed} failed, {self.unknown} unknown; {self.read} records read",
        ]
        for check in CHECKS:
            found = self.of(check)
            if found:
                lines.append(f"{check}: {len(found)}")
                lines += [f"  {finding.id}: {finding.what}" for finding in found[:_SHOWN]]
        return "\n".join(lines if self.findings else [*lines, "clean"])


class _History:
    """The entries, sorted once for all checks."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self.entries = list(entries)
        self.invokes: dict[str, Invoke] = {}
        self.rank: dict[str, int] = {}
        self.acked: dict[str, Ok] = {}
        self.failed: set[str] = set()
        self.unknown: set[str] = set()
        self.reads: dict[str, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
        self.read_ids: set[str] = set()
        self.members: dict[str, list[str]] = defaultdict(list)
        for entry in self.entries:
            self._take(entry)

    def _take(self, entry: Entry) -> None:
        match entry:
            case Invoke():
                self.invokes.setdefault(entry.id, entry)
                self.rank.setdefault(entry.id, len(self.rank))
                if entry.transaction is not None:
                    self.members[entry.transaction].append(entry.id)
            case Ok():
                self.acked.setdefault(entry.id, entry)
            case Fail():
                self.failed.add(entry.id)
            case Info():
                self.unknown.add(entry.id)
            case Poll():
                for read in entry.records:
                    self.reads[read.partition][read.offset].add(read.id)
                    self.read_ids.add(read.id)
            case Assign() | End():
                pass

    def at_offsets(self) -> Iterator[tuple[str, int, set[str]]]:
        """Partition, offset and who is said to lie there, in order."""
        for partition, offsets in self.reads.items():
            for offset in sorted(offsets):
                yield partition, offset, offsets[offset]


def check(entries: Iterable[Entry], *, repeats_allowed: bool = False, settled: bool = True) -> Report:
    """The report. ``settled``: the readers have read to the end, so that ``unseen`` counts.

    ``repeats_allowed``: a publisher may send an unknown event again, so one event at several offsets is no finding.
    """
    history = _History(entries)
    left_out: set[Check] = {"duplicate"} if repeats_allowed else set()
    if not settled:
        left_out.add("unseen")
    findings = [finding for name, rule in _RULES.items() if name not in left_out for finding in rule(history)]
    return Report(
        findings,
        len(history.invokes),
        len(history.acked),
        len(history.failed),
        len(history.unknown),
        sum(len(offsets) for offsets in history.reads.values()),
    )


def _aborted_reads(history: _History) -> Iterator[Finding]:
    for event in sorted(history.failed & history.read_ids):
        yield Finding("aborted read", event, "failed for certain, and was read")


def _inconsistent_offsets(history: _History) -> Iterator[Finding]:
    there: dict[tuple[str, int], set[str]] = defaultdict(set)
    for partition, offset, ids in history.at_offsets():
        there[partition, offset] |= ids
    for event, ok in history.acked.items():
        there[ok.partition, ok.offset].add(event)
    for (partition, offset), ids in there.items():
        if len(ids) > 1:
            first, *others = sorted(ids)
            yield Finding("inconsistent offset", first, f"shares {partition}/{offset} with {', '.join(others)}")


def _lost(history: _History) -> Iterator[Finding]:
    highest = {partition: max(offsets) for partition, offsets in history.reads.items() if offsets}
    for event, ok in history.acked.items():
        if event not in history.read_ids and ok.offset <= highest.get(ok.partition, -1):
            yield Finding("lost", event, f"acknowledged at {ok.partition}/{ok.offset}, read up to {highest[ok.partition]}, never seen")


def _duplicates(history: _History) -> Iterator[Finding]:
    offsets: dict[tuple[str, str], list[int]] = defaultdict(list)
    for partition, offset, ids in history.at_offsets():
        for event in ids:
            offsets[partition, event].append(offset)
    for (partition, event), found in offsets.items():
        if len(found) > 1:
            yield Finding("duplicate", event, f"at offsets {', '.join(map(str, found))} of {partition}")


def _polls(history: _History) -> Iterator[Finding]:
    known: dict[str, list[int]] = {partition: sorted(offsets) for partition, offsets in history.reads.items()}
    rank = {partition: {offset: index for index, offset in enumerate(offsets)} for partition, offsets in known.items()}
    last: dict[tuple[str, str], int] = {}
    for entry in history.entries:
        if isinstance(entry, Assign):
            for partition in entry.partitions:
                last.pop((entry.process, partition), None)
        elif isinstance(entry, Poll):
            for read in entry.records:
                before = last.get((entry.process, read.partition))
                if before is not None:
                    yield from _step(entry.process, read, before, known[read.partition], rank[read.partition])
                last[entry.process, read.partition] = read.offset


def _step(process: str, read: Read, before: int, known: Sequence[int], rank: dict[int, int]) -> Iterator[Finding]:
    if read.offset <= before:
        yield Finding("poll", read.id, f"{process} read {read.partition}/{read.offset} after {before}")
    elif rank[read.offset] > rank[before] + 1:
        skipped = known[rank[before] + 1]
        yield Finding("poll", read.id, f"{process} went from {before} to {read.offset} of {read.partition} over {skipped}")


def _order(history: _History) -> Iterator[Finding]:
    newest: dict[tuple[str, str, str], int] = {}
    seen: set[str] = set()
    for partition, offset, ids in history.at_offsets():
        for event in sorted(ids, key=lambda one: history.rank.get(one, -1)):  # two at one offset are not in any order
            invoke = history.invokes.get(event)
            if invoke is None or event in seen:
                continue
            seen.add(event)
            sender = (partition, invoke.process, invoke.key)
            rank = history.rank[event]
            if rank < newest.get(sender, -1):
                yield Finding("order", event, f"at {partition}/{offset}, behind a later event of {invoke.key}")
            newest[sender] = max(rank, newest.get(sender, -1))


def _transactions(history: _History) -> Iterator[Finding]:
    committed: set[str] = set()
    aborted: set[str] = set()
    for entry in history.entries:
        if isinstance(entry, End):
            (committed if entry.committed else aborted).add(entry.transaction)
        elif isinstance(entry, Poll):
            for read in entry.records:
                invoke = history.invokes.get(read.id)
                if invoke is not None and invoke.transaction is not None and invoke.transaction not in committed:
                    state = "aborted" if invoke.transaction in aborted else "not committed yet"
                    yield Finding("transaction", read.id, f"read while {invoke.transaction} was {state}")
    highest = {partition: max(offsets) for partition, offsets in history.reads.items() if offsets}
    for transaction in sorted(committed):
        members = history.members[transaction]
        if any(event in history.read_ids for event in members):
            for event in members:
                ok = history.acked.get(event)
                if event not in history.read_ids and ok is not None and ok.offset <= highest.get(ok.partition, -1):
                    yield Finding("transaction", event, f"{transaction} was read without it")


def _unseen(history: _History) -> Iterator[Finding]:
    for event, ok in history.acked.items():
        if event not in history.read_ids:
            yield Finding("unseen", event, f"acknowledged at {ok.partition}/{ok.offset}, not read by the end")


_RULES: Final[dict[Check, Callable[[_History], Iterator[Finding]]]] = {
    "aborted read": _aborted_reads,
    "inconsistent offset": _inconsistent_offsets,
    "lost": _lost,
    "duplicate": _duplicates,
    "poll": _polls,
    "order": _order,
    "transaction": _transactions,
    "unseen": _unseen,
}
