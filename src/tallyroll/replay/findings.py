"""What a replay finds wrong with the records it reads, apart from the state that it makes of the rest.

``sequence`` counts one aggregate's events in one topic within a publisher's session, from 1; an aggregate's events lie in
one partition, so its numbers need nothing from other partitions. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Final, Literal, NamedTuple

import msgspec

from tallyroll.errors import Undecodable
from tallyroll.events.batch import Batch
from tallyroll.events.codec import Head
from tallyroll.events.position import Position

MAX_LISTED: Final = 1_000  # findings kept with their position; all are counted
_MAX_DIGITS: Final = 18
_RECENT_IDS: Final = 8  # of one aggregate and session, to tell a repeated event from another one with its number
_MAX_MISSING: Final = 1_024  # numbers of one run that may still arrive late
_MAX_RUNS: Final = 4_096  # of a checker that is carried on; some 250 bytes each when dumped

FindingKind = Literal[
    "poison", "unknown_schema", "repeat", "duplicate", "conflict", "skew_exceeded", "gap", "fork", "session_gap", "altered", "reordered",
    "snapshot_corrupt",
]  # fmt: skip


class Finding(NamedTuple):
    """One thing that is wrong with a record.

    ``poison``: cannot be read, ``reason`` says why. ``unknown_schema``: written by a newer version. ``repeat``: sent
    again by its publisher. ``duplicate``: published again under its id. ``conflict``: another event took the version that it
    was published for, so it does not count. ``skew_exceeded``: it came later than the
    expected disorder allows. ``gap``: the numbers of its aggregate jump here, ``missing`` of them never came. ``fork``:
    its number was used before by another event, so the aggregate had two writers. ``session_gap``, ``altered``,
    ``reordered``: the publisher's chain says so, see ``events.chain``. ``snapshot_corrupt``: a snapshot at the position is
    not what was kept; an older one or the events were used.
    """

    kind: FindingKind
    position: Position
    reason: str = ""
    aggregate: str = ""
    missing: int = 0


@dataclass(slots=True)
class Findings:
    """All findings of a replay: how many of each kind, and the first 1,000 of them."""

    counts: Counter[str] = field(default_factory=Counter)
    listed: list[Finding] = field(default_factory=list)

    def add(self, finding: Finding, *, listed: bool = True) -> None:
        """Counts one, and lists it while there is room, unless it is only to be counted."""
        self.counts[finding.kind] += 1
        if listed and len(self.listed) < MAX_LISTED:
            self.listed.append(finding)


_Key = tuple[str, str, str]  # session, kind and id of the aggregate

_Dumped = tuple[str, str, str, int, int, list[tuple[int, int]], msgspec.Raw]

SequenceState = list[_Dumped]
"""What ``SequenceCheck.dump`` gives of each run: its key, highest number, last offset, (missing number, offset), recent ids.

The ids as JSON, since most runs of a state that is loaded are never met again.
"""

_encode: Final = msgspec.json.Encoder().encode
_decode_recent: Final = msgspec.json.Decoder(list[str]).decode


class _Run:
    """One aggregate's numbers in one session: the highest, the offset of the last record, what lacks, the last ids."""

    __slots__ = ("high", "last", "missing", "recent")

    def __init__(self, number: int, recent: list[str], offset: int, missing: dict[int, Position] | None = None) -> None:
        self.high = number
        self.last = offset
        self.missing = missing  # None is the usual case, and there are thousands of runs
        # So short that looking through it is quicker than keeping a set, and a list much smaller than a deque.
        self.recent = recent

    def met(self, event_id: str, offset: int) -> None:
        """One more record."""
        self.last = offset
        self.recent.append(event_id)
        if len(self.recent) > _RECENT_IDS:
            del self.recent[0]


class SequenceCheck:
    """Follows the sequence numbers of one partition; its batches in offset order.

    A run met in its middle starts there, since its start may have been removed by retention.
    Not promised: to notice that the newest events of a run are missing.
    """

    def __init__(self, topic: str, partition: int) -> None:
        self._topic = topic
        self._partition = partition
        self._runs: dict[_Key, _Run] = {}
        self._asleep: dict[_Key, _Dumped] = {}  # those of a loaded state that nothing was met of, and that lack nothing
        self._closed: list[tuple[str, dict[int, Position]]] = []
        self._forks: list[Finding] = []

    def read(self, batch: Batch, copies: Container[int] = ()) -> None:
        """Takes the records of a batch that can be read, except those whose indexes are among the ``copies``."""
        self.read_heads(batch.offsets, batch.heads(), copies)

    def read_heads(self, offsets: Sequence[int], heads: Sequence[Head | Undecodable], copies: Container[int] = ()) -> None:
        """As ``read``, of records whose heads are at hand without a batch."""
        if copies:
            kept = [index for index in range(len(heads)) if index not in copies]
            offsets, heads = [offsets[index] for index in kept], [heads[index] for index in kept]
        runs, asleep = self._runs, self._asleep
        for head, offset in zip(heads, offsets, strict=True):
            if isinstance(head, Undecodable):
                continue
            key = (head.chainsession, head.aggregatetype, head.aggregateid)
            run = runs.get(key)
            # The two usual cases, without reading the number and without a call: the one that comes next, and the first.
            if run is not None:
                if head.sequence == str(run.high + 1) and run.high and head.id not in run.recent:
                    run.high += 1
                    run.last = offset
                    run.recent.append(head.id)
                    if len(run.recent) > _RECENT_IDS:
                        del run.recent[0]
                    continue
            elif head.sequence == "1" and key not in asleep and key[0]:
                runs[key] = _Run(1, [head.id], offset)
                continue
            self._read(key, head.sequence, head.id, offset)

    def _read(self, key: _Key, digits: str, event_id: str, offset: int) -> None:
        """One record of any kind."""
        if not digits.isdecimal() or len(digits) > _MAX_DIGITS or not key[0]:
            return
        number = int(digits)
        run = self._runs.get(key) or self._woken(key)
        if run is None:
            self._runs[key] = _Run(number, [event_id], offset)
        elif event_id in run.recent:
            return
        elif number == 1:
            if run.missing:
                self._closed.append((_name(key), run.missing))
            self._runs[key] = _Run(number, [event_id], offset)
        else:
            run.met(event_id, offset)
            if number == run.high + 1:
                run.high = number
            else:
                self._jump(run, key, number, offset)

    def _jump(self, run: _Run, key: _Key, number: int, offset: int) -> None:
        place = Position(self._topic, self._partition, offset)
        if number > run.high:
            run.missing = run.missing or {}
            run.missing.update(dict.fromkeys(range(max(run.high + 1, number - _MAX_MISSING), number), place))
            run.high = number
        elif run.missing is None or run.missing.pop(number, None) is None:
            self._forks.append(Finding("fork", place, aggregate=_name(key)))

    def findings(self) -> list[Finding]:
        """Forks, and the jumps that no late record has filled, in offset order."""
        opened = [(_name(key), run.missing) for key, run in self._runs.items() if run.missing]
        return sorted([*self._forks, *_gaps([*self._closed, *opened])], key=_offset)

    def settle(self, *, keep: int = _MAX_RUNS) -> list[Finding]:
        """Forks, and jumps that nothing fills any more, in offset order; forgets them, and all but ``keep`` runs.

        Those go that were silent for longest. Called now and then it bounds the checker; a run that comes back after it was
        forgotten starts in its middle.
        """
        excess = len(self._runs) + len(self._asleep) - keep
        if excess > 0:
            ages = [(one[4], key) for key, one in self._asleep.items()] + [(run.last, key) for key, run in self._runs.items()]
            for _, key in sorted(ages)[:excess]:
                if self._asleep.pop(key, None) is None and (missing := self._runs.pop(key).missing):
                    self._closed.append((_name(key), missing))
        found = sorted([*self._forks, *_gaps(self._closed)], key=_offset)
        self._forks, self._closed = [], []
        return found

    def dump(self) -> SequenceState:
        """The state behind ``settle``, the runs by their last offset: the same however often it was loaded in between."""
        awake = [
            (*key, run.high, run.last, [(number, place.offset) for number, place in (run.missing or {}).items()], _raw(run.recent))
            for key, run in self._runs.items()
        ]
        return sorted([*self._asleep.values(), *awake], key=itemgetter(4))

    @classmethod
    def load(cls, topic: str, partition: int, dumped: SequenceState) -> SequenceCheck:
        """The checker that ``dump`` described."""
        result = cls(topic, partition)
        result._asleep = {one[:3]: one for one in dumped}  # own class
        for one in dumped:
            if one[5]:  # these are told also if nothing is met of them
                result._woken(one[:3])
        return result

    def _woken(self, key: _Key) -> _Run | None:
        dumped = self._asleep.pop(key, None)
        if dumped is None:
            return None
        _, _, _, high, last, missing, recent = dumped
        places = {number: Position(self._topic, self._partition, offset) for number, offset in missing}
        run = self._runs[key] = _Run(high, _decode_recent(recent), last, places)
        return run


def _raw(ids: list[str]) -> msgspec.Raw:
    return msgspec.Raw(_encode(ids))


def _gaps(runs: Iterable[tuple[str, dict[int, Position]]]) -> list[Finding]:
    """One finding for each place where a run jumped."""
    return [
        Finding("gap", place, aggregate=aggregate, missing=count)
        for aggregate, missing in runs
        for place, count in Counter(missing.values()).items()
    ]


def _offset(finding: Finding) -> int:
    return finding.position.offset


def _name(key: _Key) -> str:
    return f"{key[1]}:{key[2]}"
