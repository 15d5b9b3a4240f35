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
from itertools import groupby
from typing import Final, Literal, NamedTuple

from tallyroll.events.links import Chained, Link

GENESIS: Final = "0" * 64
MAX_SESSIONS: Final = 4_096  # per partition; a session that silent for so long is forgotten, about 1 MB at the most
MAX_MISSING: Final = 1_024  # numbers of one session that may still arrive late
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
