"""The publisher's chain: each session numbers its events per partition and carries the hash of the one before.

Anyone who reads the topic finds loss, reorder, repetition and alteration between publisher and reader, with no
coordination between publishers. The link is four CloudEvents extensions at the end of every record:

==============  =====================================================================================================
chainsession    32 hex digits, one per publisher process and partition run; a new one after a refusal by the log
chainnumber     decimal text, from 1, without holes inside a session
chainprev       SHA-256 in hex of the value bytes of number - 1; 64 zeros for number 1
chainvoids      only on number 1: ``session/number`` of events that were numbered and then refused, comma-separated
==============  =====================================================================================================

``sha256sum`` over one record's value must print the next record's ``chainprev``. Pure: no clock, no randomness, no I/O.

Not promised: to notice that the newest records of a session are missing; nobody who only reads the log can. Nor to find
an attacker who rewrites a whole session; the audit ledger is for that.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from hashlib import sha256
from itertools import groupby, islice
from typing import Final, Literal, NamedTuple

import msgspec

from tallyroll.events.expected import Contest
from tallyroll.events.links import Chained, Counted, Link, Told

GENESIS: Final = "0" * 64
MAX_SESSIONS: Final = 4_096  # per partition; a session that silent for so long is forgotten, about 1 MB at the most
MAX_MISSING: Final = 1_024  # numbers of one session that may still arrive late
MAX_RECENT_IDS: Final = 256  # per partition; some 10 KB that every flush writes
MAX_NUMBER_DIGITS: Final = 18  # fits 64 bits; Python refuses to read thousands of digits, and a forger would send them


class Chain:
    """The writing side for one partition: turns bodies into linked values.

    Not thread-safe: one publisher owns it. The session name comes from outside, since randomness does.
    """

    __slots__ = ("_number", "_pending_voids", "_previous", "_voids", "session")

    def __init__(self, session: str) -> None:
        self.session = session
        self._number = 0
        self._previous = GENESIS
        self._voids = ""
        self._pending_voids: list[str] = []

    @property
    def number(self) -> int:
        """How many records of this session have been linked."""
        return self._number

    def link(self, body: bytes, sequence: int) -> bytes:
        """The value to append: ``body`` (a JSON object) with sequence and link spliced in before its closing brace."""
        self._number = number = self._number + 1
        tail = (
            f',"sequence":"{sequence}","chainsession":"{self.session}","chainnumber":"{number}"'
            f',"chainprev":"{self._previous}"{self._voids}}}'
        )
        value = body[:-1] + tail.encode()
        self._voids = ""
        self._previous = sha256(value).hexdigest()
        return value

    def void(self, session: str, number: int, new_session: str) -> None:
        """After the log refused ``session/number``: a new session begins and names what it stands in for."""
        if self._number or not self._pending_voids:
            # If the refused record is the one that carried the voids, nobody has read them: they are said again.
            if (session, number) != (self.session, 1):
                self._pending_voids = []
            self.session = new_session
            self._number = 0
            self._previous = GENESIS
        # A new session that has sent nothing yet only names one more.
        self._pending_voids.append(f"{session}/{number}")
        self._voids = f',"chainvoids":"{",".join(self._pending_voids)}"'


ChainState = tuple[list[tuple[str, int, str]], list[tuple[str, int, int]], list[tuple[str, int]], bool]
"""What ``ChainChecker.dump`` gives: sessions, open gaps as (session, number, offset), voids, whether one may begin late."""


class ChainFinding(NamedTuple):
    """What a reader found: the rule that is broken, the offset where it showed, session and number."""

    kind: Literal["gap", "altered", "reordered"]
    offset: int
    session: str
    number: int


class ChainChecker:
    """The reading side for one partition: feed it every record in offset order, then ask for what is open.

    A repeated record (the same number again) is counted, not reported: re-sending is how nothing gets lost. A gap is
    reported by ``open_gaps`` at the end, since a late re-send or a void may still close it. ``from_start`` is false when
    retention has removed the partition's start: then a session may begin in its middle.

    Not promised: to tell a session that was forgotten (see MAX_SESSIONS) from one whose start was removed, to name more
    than MAX_MISSING numbers of one gap, or to compare a late repeat with its first copy; followers drop it unread.
    """

    def __init__(self, *, from_start: bool = True) -> None:
        self._sessions: OrderedDict[str, tuple[int, str]] = OrderedDict()  # session -> highest number, its digest
        self._gaps: dict[tuple[str, int], int] = {}  # (session, number) -> offset where it was missed
        self._voids: dict[tuple[str, int], None] = {}
        self._may_begin_late = not from_start
        self.linked = 0
        self.unlinked = 0
        self.repeats = 0

    @property
    def sessions(self) -> int:
        """How many publisher sessions are remembered."""
        return len(self._sessions)

    def feed_all(
        self, offsets: Sequence[int], values: Sequence[bytes | None], heads: Sequence[Chained | None]
    ) -> list[tuple[int, ChainFinding]]:
        """As ``feed`` of each record with the link in its head, quicker; what is wrong, by index."""
        found, start = [], 0
        for session, same in groupby(["" if head is None else head.chainsession for head in heads]):
            stop = start + len(list(same))
            if not session or not self._feed_run(session, values[start:stop], heads[start:stop]):  # type: ignore[arg-type]  # who has a session is a head
                for index in range(start, stop):
                    head = heads[index]
                    finding = self.feed(offsets[index], values[index] or b"", None if head is None else head.link())
                    if finding is not None:
                        found.append((index, finding))
            start = stop
        return found

    def _feed_run(self, session: str, values: Sequence[bytes | None], heads: Sequence[Chained]) -> bool:
        """Takes records of one session if they are the usual case: the numbers that come next, each true to the one before."""
        high, digest = self._sessions.get(session, (0, ""))
        last = high + len(heads)
        if not high or [head.chainnumber for head in heads] != list(map(str, range(high + 1, last + 1))):
            return False
        digests = [digest, *(sha256(value or b"").hexdigest() for value in values)]
        if [head.chainprev for head in heads] != digests[:-1] or any(head.chainvoids for head in heads):
            return False
        self.linked += len(heads)
        self._sessions[session] = (last, digests[-1])
        self._sessions.move_to_end(session)
        return True

    def feed(self, offset: int, value: bytes, link: Link | None) -> ChainFinding | None:
        """Takes one record; returns what is wrong with it, or None."""
        if link is None:
            self.unlinked += 1
            return None
        session, number = link.session, link.number
        if link.voids:
            self._voids.update(dict.fromkeys(_parse_voids(link.voids)))
        known = self._sessions.get(session)
        high, digest = known if known is not None else (0, GENESIS)
        own = sha256(value).hexdigest()
        if number <= high:
            return self._old(offset, link, altered=number == high and own != digest)
        self.linked += 1
        if known is None and number > 1 and self._may_begin_late:
            altered = False
        else:
            altered = number == high + 1 and link.previous != digest
            for missing in range(high + 1, min(number, high + 1 + MAX_MISSING)):
                self._gaps[session, missing] = offset
        self._sessions[session] = (number, own)
        self._sessions.move_to_end(session)
        if len(self._sessions) > MAX_SESSIONS:
            self._sessions.popitem(last=False)
            self._may_begin_late = True
        return ChainFinding("altered", offset, session, number) if altered else None

    def _old(self, offset: int, link: Link, *, altered: bool) -> ChainFinding | None:
        if self._gaps.pop((link.session, link.number), None) is not None:
            self.linked += 1
            return ChainFinding("reordered", offset, link.session, link.number)
        self.repeats += 1
        return ChainFinding("altered", offset, link.session, link.number) if altered else None

    def open_gaps(self) -> list[ChainFinding]:
        """Numbers that never arrived and that no later session declared refused."""
        return [
            ChainFinding("gap", offset, session, number)
            for (session, number), offset in self._gaps.items()
            if (session, number) not in self._voids
        ]

    def settle(self, *, keep: int = MAX_MISSING) -> list[ChainFinding]:
        """Forgets all but ``keep`` open gaps and voids, the oldest first; returns the gaps: nothing will close them now."""
        for void in self._voids.keys() & self._gaps.keys():
            del self._gaps[void]
        while len(self._voids) > keep:
            del self._voids[next(iter(self._voids))]
        settled = []
        while len(self._gaps) > keep:
            session, number = oldest = next(iter(self._gaps))
            settled.append(ChainFinding("gap", self._gaps.pop(oldest), session, number))
        return settled

    def dump(self) -> ChainState:
        """The state as plain values; the counts are not in it."""
        sessions = [(session, number, digest) for session, (number, digest) in self._sessions.items()]
        gaps = [(session, number, offset) for (session, number), offset in self._gaps.items()]
        return sessions, gaps, list(self._voids), self._may_begin_late

    @classmethod
    def load(cls, dumped: ChainState) -> ChainChecker:
        """The checker that ``dump`` described; it counts from 0."""
        sessions, gaps, voids, may_begin_late = dumped
        result = cls(from_start=not may_begin_late)
        result._sessions.update((session, (number, digest)) for session, number, digest in sessions)  # own class
        result._gaps.update(((session, number), offset) for session, number, offset in gaps)  # own class
        result._voids.update(dict.fromkeys((session, number) for session, number in voids))  # own class
        return result


def _parse_voids(text: str) -> Iterator[tuple[str, int]]:
    for void in text.split(","):
        session, _, number = void.rpartition("/")
        if number.isdecimal() and len(number) <= MAX_NUMBER_DIGITS:
            yield session, int(number)


class RepeatState(msgspec.Struct, array_like=True, omit_defaults=True):
    """What ``RepeatFilter.dump`` gives: (session, highest number, missing numbers), recent event ids, and of the contest."""

    sessions: list[tuple[str, int, list[int]]]
    recent: list[str]
    contest: list[tuple[str, int]] = []


_encode_repeats: Final = msgspec.json.Encoder().encode
_decode_repeats: Final = msgspec.json.Decoder(RepeatState).decode


Copy = Literal["repeat", "duplicate", "conflict"]


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

    __slots__ = ("_contest", "_recent", "_sessions")

    def __init__(self) -> None:
        self._contest = Contest()
        self._sessions: OrderedDict[str, _Run] = OrderedDict()
        self._recent: dict[str, None] = {}

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

    def all_count(self, runs: Sequence[tuple[str, int, int]], ids: Sequence[str]) -> bool:
        """Whether all records of a batch that expects nothing count, by the usual case; remembers them then, and else nothing.

        ``runs``: session (empty for none), first number and how many numbers that follow it, in order. Of False ``copies_told``
        has to find which, if any, do not.
        """
        highs: dict[str, int] = {}
        for session, first, count in runs:
            if session:
                known = self._sessions.get(session)
                if first != highs.pop(session, 0 if known is None else known.high) + 1:
                    return False
                highs[session] = first + count - 1  # behind those that it was silent for
        opened = len(highs.keys() - self._sessions.keys())
        if (opened and len(self._sessions) + opened > MAX_SESSIONS) or not self._are_new(ids):
            return False  # which one has to go depends on the order
        for session, high in highs.items():
            known = self._sessions.get(session)
            if known is not None:
                known.high = high
            self._sessions[session] = known or _Run(high, None)
            self._sessions.move_to_end(session)
        return True

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
        recent = self._recent
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

    def _are_new(self, event_ids: Sequence[str]) -> bool:
        """Whether no id is a duplicate; only then they are remembered."""
        recent, fresh = self._recent, dict.fromkeys(event_ids)
        if len(fresh) < len(event_ids) or not recent.keys().isdisjoint(fresh):
            return False
        if len(fresh) >= MAX_RECENT_IDS:
            self._recent = dict.fromkeys(event_ids[-MAX_RECENT_IDS:])
            return True
        recent.update(fresh)
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
        return RepeatState(sessions, list(self._recent), self._contest.dump())

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
        result._recent = dict.fromkeys(dumped.recent)  # own class
        result._contest = Contest(dumped.contest)  # own class
        for session, high, missing in dumped.sessions:
            result._sessions[session] = _Run(high, dict.fromkeys(missing) if missing else None)  # own class
        return result
