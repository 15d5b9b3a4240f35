"""Which records of a partition count: repeats of the chain, events published twice, and losers of a contest do not. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import groupby, islice
from typing import Final, Literal, NamedTuple, Self

import msgspec

from tallyroll.events.chain import MAX_MISSING, MAX_NUMBER_DIGITS, MAX_SESSIONS
from tallyroll.events.expected import Contest
from tallyroll.events.links import Counted, Told

MAX_RECENT_IDS: Final = 256  # per partition; some 10 KB that every flush writes


class RepeatState(msgspec.Struct, array_like=True, omit_defaults=True):
    """What ``RepeatFilter.dump`` gives: (session, highest number, missing numbers), recent event ids, and of the contest."""

    sessions: list[tuple[str, int, list[int]]]
    recent: list[str]
    contest: list[tuple[str, int]] = []


_encode_repeats: Final = msgspec.json.Encoder().encode
_decode_repeats: Final = msgspec.json.Decoder(RepeatState).decode


Copy = Literal["repeat", "duplicate", "conflict"]


class Counting(NamedTuple):
    """What some heads tell of whether their records count, looked at once for all filters that they are shown to.

    ``runs``: of each session, in the order of their last records, its first number and how many follow it; None where numbers do
    not follow each other as they are written. ``ids``: those that are told; None where two are alike. ``asks``: some
    record expects something.
    """

    told: Told
    runs: Sequence[tuple[str, int, int]] | None
    ids: AbstractSet[str] | None
    asks: bool

    @classmethod
    def of(cls, told: Told) -> Self:
        """What these columns tell."""
        ids = frozenset(told.ids)
        return cls(told, _runs(told.sessions, told.numbers), ids if len(ids) == len(told.ids) else None, any(told.expects))


def _runs(sessions: Sequence[str], numbers: Sequence[str]) -> list[tuple[str, int, int]] | None:
    found: dict[str, tuple[int, int]] = {}  # first number, and the one that follows the last
    start = 0
    for session, same in groupby(sessions):
        stop = start + len(list(same))
        if session:
            text = numbers[start]
            first = int(text) if text.isdecimal() and len(text) <= MAX_NUMBER_DIGITS else 0
            begun, follows = found.pop(session, (first, first))
            end = first + stop - start
            # All of it in C.
            if not first or first != follows or list(numbers[start:stop]) != list(map(str, range(first, end))):
                return None
            found[session] = (begun, end)
        start = stop
    return [(session, first, end - first) for session, (first, end) in found.items()]


class _Run:
    """What is remembered of a session: its highest number, and those below that may still come."""

    __slots__ = ("high", "missing")

    def __init__(self, high: int, missing: dict[int, None] | None) -> None:
        self.high = high
        self.missing = missing


class RepeatFilter:
    """Tells records that count from others in one partition, in constant memory: what makes effects happen once.

    A repeat is a (session, number) at or below the session's high mark that is not among its missing numbers; records
    without a link are always first copies to ``is_first``. A duplicate is an event that was published twice: the same id
    among the last 256 of the partition. A conflict is a first copy that expects a version which another event has taken, see
    ``events.expected``. The decisions depend on the records alone, in offset order, so live and replayed
    folds agree. ``dump`` and ``load`` carry it across restarts, beside the position it belongs to.

    Not promised: to recognise a session again after 4,096 other sessions wrote to the partition.
    """

    __slots__ = ("_contest", "_prints", "_recent", "_sessions")

    def __init__(self) -> None:
        self._contest = Contest()
        self._sessions: OrderedDict[str, _Run] = OrderedDict()
        self._recent: dict[str, None] | Sequence[str] = {}  # a sequence, as long as nobody has to look at the ids
        self._prints: Sequence[int] | None = ()  # of the recent ids, where they are known

    def copies(self, heads: Sequence[Counted], offsets: Sequence[int]) -> dict[int, Copy]:
        """Which records of a batch do not count, by index, usually none; remembers all.

        As ``is_first`` of each that has a link, ``is_duplicate`` of each that it let pass, and ``wins`` of each of those
        that expects something, at half the cost.
        """
        return self.copies_told(Told.by(heads), offsets)

    def copies_told(self, told: Told, offsets: Sequence[int]) -> dict[int, Copy]:
        """As ``copies``, of heads that are columns."""
        found: dict[int, Copy] = {}
        start = 0
        for session, same in groupby(told.sessions):
            stop = start + len(list(same))
            run = self._sessions.get(session)
            # The usual case, and all of it in C: the numbers that come next, written as they are written.
            if run is not None and list(told.numbers[start:stop]) == list(map(str, range(run.high + 1, run.high + 1 + stop - start))):
                run.high += stop - start
                self._sessions.move_to_end(session)
            elif session:
                self._one_by_one(session, told.numbers[start:stop], start, found)
            start = stop
        if found or not self._are_new(told.ids):
            for index, event_id in enumerate(told.ids):
                if index not in found and self.is_duplicate(event_id):
                    found[index] = "duplicate"
        if any(told.expects):
            asking = zip(told.types, told.aggregates, told.expects, offsets, strict=True)
            for index, (kind, aggregate, expects, offset) in enumerate(asking):
                if expects and index not in found and not self._contest.wins(f"{kind}:{aggregate}", expects, offset):
                    found[index] = "conflict"
        return found

    def copies_among(self, counting: Counting, offsets: Sequence[int]) -> dict[int, Copy]:
        """As ``copies``, of heads that were looked at for several filters."""
        if not counting.asks and counting.runs is not None and counting.ids is not None:
            highs = self._following(counting.runs)
            if highs is not None and self._are_new(counting.told.ids, counting.ids):
                self._reach(highs)
                return {}
        return self.copies_told(counting.told, offsets)

    @property
    def recent_prints(self) -> Sequence[int]:
        """Of the recent ids the numbers that ``all_count`` was given; none where it was not given all."""
        return self._prints or ()

    def all_count(self, runs: Sequence[tuple[str, int, int]], ids: Sequence[str], prints: Sequence[int], *, distinct: bool = False) -> bool:
        """Whether all records of a batch that expects nothing count, by the usual case; remembers them then, and else nothing.

        ``runs``: session (empty for none), first number and how many numbers that follow it, in order. ``prints``: of each id a
        number, the same for the same id in every batch, so that ids, which may be made when asked for, are seldom looked at;
        ``distinct``: no two of these and of ``recent_prints`` are alike. Of False ``copies_told`` has to find which, if any, do
        not.
        """
        highs = self._following(runs)
        if highs is None or not self._are_new_by(prints, ids, distinct=distinct):
            return False
        self._reach(highs)
        return True

    def _following(self, runs: Sequence[tuple[str, int, int]]) -> Mapping[str, int] | None:
        """The highest numbers once these runs are met, if each begins with the number that comes next; changes nothing."""
        highs: dict[str, int] = {}
        for session, first, count in runs:
            if session:
                known = self._sessions.get(session)
                if first != highs.pop(session, 0 if known is None else known.high) + 1:
                    return None
                highs[session] = first + count - 1  # behind those that it was silent for
        opened = len(highs.keys() - self._sessions.keys())
        # Which one has to go depends on the order.
        return None if opened and len(self._sessions) + opened > MAX_SESSIONS else highs

    def _reach(self, highs: Mapping[str, int]) -> None:
        for session, high in highs.items():
            known = self._sessions.get(session)
            if known is not None:
                known.high = high
            self._sessions[session] = known or _Run(high, None)
            self._sessions.move_to_end(session)

    def wins(self, head: Counted, offset: int) -> bool:
        """Whether a first copy that expects something counts; remembers it if it does."""
        return self._contest.wins(f"{head.aggregatetype}:{head.aggregateid}", head.expects, offset)

    def _one_by_one(self, session: str, digits: Sequence[str], first: int, found: dict[int, Copy]) -> None:
        """Numbers of one session, the index of the first one being ``first``; adds the repeats."""
        run = _Run(-2, None)  # follows nothing
        for index, text in enumerate(digits, first):
            number = int(text) if text.isdecimal() and len(text) <= MAX_NUMBER_DIGITS else 0
            if number == run.high + 1:
                run.high = number
                self._sessions.move_to_end(session)  # a repeat before it has not done so
            elif number:
                if not self.is_first(session, number):
                    found[index] = "repeat"
                run = self._sessions[session]

    def is_duplicate(self, event_id: str) -> bool:
        """Whether one of the last 256 records had this id; remembers it. Feed the records that ``is_first`` let pass."""
        self._prints = None
        recent = self._ids()
        if event_id in recent:
            return True
        recent[event_id] = None
        if len(recent) > MAX_RECENT_IDS:
            del recent[next(iter(recent))]
        return False

    def is_first(self, session: str, number: int) -> bool:
        """Whether this is the first copy; remembers it. Feed records in offset order, each once."""
        known = self._sessions.get(session)
        if known is not None and number == known.high + 1:
            known.high = number
            self._sessions.move_to_end(session)
            return True
        return self._unusual(session, number, known)

    def _ids(self) -> dict[str, None]:
        """The recent ids, the oldest first."""
        if not isinstance(self._recent, dict):
            self._recent = dict.fromkeys(self._recent)
        return self._recent

    def _are_new_by(self, prints: Sequence[int], event_ids: Sequence[str], *, distinct: bool) -> bool:
        """As ``_are_new``, by numbers where those say it; two ids with one number are looked at."""
        many, known = len(prints) >= MAX_RECENT_IDS, self._prints
        if many and known is not None and (distinct or len({*prints, *known}) == len(prints) + len(known)):
            self._recent = event_ids[-MAX_RECENT_IDS:]
        elif not self._are_new(event_ids):
            return False
        self._prints = prints[-MAX_RECENT_IDS:] if many else None
        return True

    def _are_new(self, event_ids: Sequence[str], distinct: AbstractSet[str] | None = None) -> bool:
        """Whether no id is a duplicate; only then they are remembered. ``distinct``: a set of them, if no two are alike."""
        fresh = set(event_ids) if distinct is None else distinct
        self._prints = None
        if len(fresh) < len(event_ids) or not fresh.isdisjoint(self._recent):
            return False
        if len(fresh) >= MAX_RECENT_IDS:
            self._recent = event_ids[-MAX_RECENT_IDS:]
            return True
        recent = self._ids()
        recent.update(dict.fromkeys(event_ids))
        for event_id in list(islice(recent, max(0, len(recent) - MAX_RECENT_IDS))):
            del recent[event_id]
        return True

    def _unusual(self, session: str, number: int, known: _Run | None) -> bool:
        high, missing = (known.high, known.missing) if known is not None else (0, None)
        if number <= high:
            if missing is None or number not in missing:
                return False
            del missing[number]
            return True
        # A session first met far in its middle misses nothing: what came before was removed by retention.
        if number > high + 1 and (known is not None or number <= MAX_MISSING):
            missing = dict(missing or {})
            missing.update(dict.fromkeys(range(max(high + 1, number - MAX_MISSING), number)))
            while len(missing) > MAX_MISSING:
                del missing[next(iter(missing))]
        self._sessions[session] = _Run(number, missing)
        self._sessions.move_to_end(session)
        if len(self._sessions) > MAX_SESSIONS:
            self._sessions.popitem(last=False)
        return True

    def dump(self) -> RepeatState:
        """The state as plain values: sessions, the one that was silent longest first, recent ids, the oldest first, and more."""
        sessions = [(session, run.high, list(run.missing or ())) for session, run in self._sessions.items()]
        return RepeatState(sessions, list(self._ids()), self._contest.dump())

    def to_bytes(self) -> bytes:
        """The state as a store keeps it, beside the position it belongs to."""
        return _encode_repeats(self.dump())

    @classmethod
    def from_bytes(cls, kept: bytes) -> RepeatFilter:
        """The filter that ``to_bytes`` kept; one that has seen nothing for no bytes."""
        return cls.load(_decode_repeats(kept)) if kept else cls()

    @classmethod
    def load(cls, dumped: RepeatState) -> RepeatFilter:
        """The filter that ``dump`` described."""
        result = cls()
        result._recent, result._prints = dict.fromkeys(dumped.recent), None  # own class
        result._contest = Contest(dumped.contest)  # own class
        for session, high, missing in dumped.sessions:
            result._sessions[session] = _Run(high, dict.fromkeys(missing) if missing else None)  # own class
        return result
