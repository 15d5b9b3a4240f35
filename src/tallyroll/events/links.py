"""One record's place in its publisher's chain, and what is asked of a head that tells it. ``events.chain`` says what it means."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, Self


class Link(NamedTuple):
    """One record's place in its publisher's chain."""

    session: str
    number: int
    previous: str
    voids: str = ""


class Linked(Protocol):
    """What a head says of its record's place in the chain. Not promised: that it is a valid one."""

    @property
    def id(self) -> str:
        """The event's id."""

    @property
    def chainsession(self) -> str:
        """Empty if the record has no link."""

    @property
    def chainnumber(self) -> str:
        """Decimal text, if it is a link."""


class Counted(Linked, Protocol):
    """What a head says as well of whether its record counts. Not promised: as of ``Linked``."""

    @property
    def aggregatetype(self) -> str:
        """What kind of thing it is about."""

    @property
    def aggregateid(self) -> str:
        """Which one."""

    @property
    def expects(self) -> str:
        """Empty if it counts in any case, else what its author had seen; see ``events.expected``."""


class Told(NamedTuple):
    """What the heads of some records say of whether these count, as columns of equal length.

    ``types`` and ``aggregates``, which a thing is named by, may be empty where nothing is expected.
    """

    ids: Sequence[str]
    sessions: Sequence[str]
    numbers: Sequence[str]
    expects: Sequence[str]
    types: Sequence[str] = ()
    aggregates: Sequence[str] = ()

    @classmethod
    def by(cls, heads: Sequence[Counted]) -> Self:
        """The columns of some heads."""
        expects = [head.expects for head in heads]
        named = heads if any(expects) else ()
        return cls(
            [head.id for head in heads],
            [head.chainsession for head in heads],
            [head.chainnumber for head in heads],
            expects,
            [head.aggregatetype for head in named],
            [head.aggregateid for head in named],
        )

    def part(self, start: int, stop: int) -> Told:
        """Those of the records from ``start`` to ``stop`` (exclusive)."""
        return Told(*[column[start:stop] for column in self])


class Chained(Linked, Protocol):
    """All that a head says of it. Not promised: as of ``Linked``."""

    @property
    def chainprev(self) -> str:
        """The digest of the record before, if it is one."""

    @property
    def chainvoids(self) -> str:
        """Which numbers of other sessions were refused."""

    def link(self) -> Link | None:
        """The place, None if the record has none."""
