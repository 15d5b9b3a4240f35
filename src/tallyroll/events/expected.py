"""Events that count only if nothing came between: published with the version that their author had seen. Pure.

Kafka has no compare-and-set, so the log decides by its order, and every reader finds the same by this rule. Such a record
says ``expects``: ``VERSION/OFFSET``, the version of its aggregate that its author saw, and up to which offset of the
partition. It counts, and its aggregate is at the next version, unless

- an event of the aggregate that was published so and counts lies at or behind that offset, or
- the record lies more than ``WINDOW`` offsets behind it.

The window bounds what a reader has to remember, and what a frozen author or a spool can still bring into the log.
"""

from __future__ import annotations

from typing import Final, NamedTuple

WINDOW: Final = 4_096
"""Offsets between what an author has seen and its record. At 50,000 records/s in one partition it is 80 ms."""

_MAX_DIGITS: Final = 18


class Expected(NamedTuple):
    """What the author of a record has seen: the aggregate's version, and that of everything before ``as_of``."""

    version: int
    as_of: int

    def __str__(self) -> str:
        return f"{self.version}/{self.as_of}"

    @classmethod
    def parse(cls, text: str) -> Expected | None:
        """What ``expects`` says; None for text that says nothing of the kind."""
        version, _, as_of = text.partition("/")
        if not all(part.isascii() and part.isdecimal() and len(part) <= _MAX_DIGITS for part in (version, as_of)):
            return None
        return cls(int(version), int(as_of))


class Contest:
    """Decides which records of one partition count, in constant memory. Feed it first copies, in offset order.

    Not promised: a right answer of a reader that begins in the middle, for the first ``WINDOW`` offsets.
    """

    __slots__ = ("_last",)

    def __init__(self, last: list[tuple[str, int]] | None = None) -> None:
        self._last: dict[str, int] = dict(last or ())  # where each aggregate's last event that counts lies, in offset order

    def wins(self, aggregate: str, expects: str, offset: int) -> bool:
        """Whether the record counts; remembers it if it does. One whose ``expects`` cannot be read never does."""
        expected = Expected.parse(expects)
        if expected is None or not 0 <= offset - expected.as_of <= WINDOW:
            return False
        last = self._last
        while last and last[first := next(iter(last))] < offset - WINDOW:
            del last[first]
        if last.get(aggregate, -1) >= expected.as_of:
            return False
        last.pop(aggregate, None)
        last[aggregate] = offset
        return True

    def dump(self) -> list[tuple[str, int]]:
        """The state as plain values."""
        return list(self._last.items())
