"""One record's place in its publisher's chain, and what is asked of a head that tells it. ``events.chain`` says what it means."""

from __future__ import annotations

from typing import NamedTuple, Protocol


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
