"""Events of the log that are in no pane: how many, why, and of about what time, so that answers can say so. Pure.

Unreadable records have no event time of their own: that of the record stands for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from tallyroll.analytics.windows import Stretch

LEFT_OUT: Final = "analytics-left-out"
"""The kind of documents: one per partition that has any."""

TOO_OLD: Final = "too_old"
"""They came when panes of their time were not kept any more."""

UNREADABLE: Final = "unreadable"
"""They are no event, have no readable time, or are of a schema version that is not known here."""


class Some(msgspec.Struct, array_like=True, frozen=True):
    """So many, of event times from first to last, µs."""

    count: int
    first_us: int
    last_us: int


_Kept = tuple[str, int | None, dict[str, Some]]
_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(_Kept).decode


class LeftOut:
    """What the panes of one partition lack so far, by reason. ``changed``: since it was stored.

    ``oldest_us`` is the smallest event time that was met, None before the first: what is not kept any more begins there.
    """

    __slots__ = ("_by_reason", "changed", "oldest_us")

    def __init__(self, oldest_us: int | None = None, by_reason: Mapping[str, Some] | None = None) -> None:
        self._by_reason = dict(by_reason or {})
        self.oldest_us = oldest_us
        self.changed = False

    @classmethod
    def of(cls, document: bytes | None, spec_id: str) -> LeftOut:
        """As it was stored under these metrics; else nothing so far."""
        kept = _decode(document) if document is not None else ("", None, {})
        return cls(*kept[1:]) if kept[0] == spec_id else cls()

    def add(self, reason: str, times_us: Sequence[int]) -> None:
        """Some more."""
        if times_us:
            known = self._by_reason.get(reason, Some(0, min(times_us), max(times_us)))
            first, last = min(known.first_us, *times_us), max(known.last_us, *times_us)
            self._by_reason[reason] = Some(known.count + len(times_us), first, last)
            self.changed = True

    def met(self, oldest_us: int) -> None:
        """Events were read, none older than that."""
        if self.oldest_us is None or oldest_us < self.oldest_us:
            self.oldest_us = oldest_us
            self.changed = True

    def dump(self, spec_id: str) -> bytes:
        """What ``of`` reads."""
        return _encode((spec_id, self.oldest_us, self._by_reason))

    def of_time(self, stretch: Stretch) -> Mapping[str, int]:
        """How many may be of that time, by reason: all that were left out for it, if any could be."""
        return {
            reason: some.count
            for reason, some in self._by_reason.items()
            if some.last_us >= stretch.start * 1_000_000 and some.first_us < stretch.end * 1_000_000
        }
