"""A filter at work: cheap checks before anything is decoded, the event itself only where it has to be looked at. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Final

import msgspec

from tallyroll.errors import ReducerFailed, Undecodable
from tallyroll.events.codec import decode
from tallyroll.events.moments import us_of
from tallyroll.events.rows import Rows
from tallyroll.replay.plan import ReplayFilter

_encode: Final = msgspec.json.Encoder().encode


class Selection:
    """Applies a filter to rows. ``whole``: rows must carry whole records, since members of the envelope are asked for."""

    def __init__(self, wanted: ReplayFilter) -> None:
        self._wanted = wanted
        self._from_us = _micros(wanted.start_time)
        self.until_us = _micros(wanted.end_time)
        self._texts = [_needles(names) for names in (wanted.user_ids, wanted.correlation_ids) if names is not None]
        self.whole = bool(self._texts) or wanted.custom_predicate is not None
        self.keys = wanted.keys
        self.types = None if wanted.event_types is None else frozenset(wanted.event_types)

    def select(self, rows: Rows) -> Rows | None:
        """The rows that pass; None if there are none. Raises ReducerFailed when the predicate does."""
        kept = [index for index in range(len(rows)) if self._passes(rows, index)]
        if len(kept) == len(rows):
            return rows
        return take_rows(rows, kept) if kept else None

    def _passes(self, rows: Rows, index: int) -> bool:
        wanted, of, time_us = self._wanted, rows.subjects[index], rows.times_us[index]
        if (
            (self.types is not None and rows.types[index] not in self.types)
            or (wanted.aggregate_types is not None and of.aggregatetype not in wanted.aggregate_types)
            or (wanted.aggregate_ids is not None and of.aggregateid not in wanted.aggregate_ids)
            or (self._from_us is not None and time_us < self._from_us)
            or (self.until_us is not None and time_us > self.until_us)
        ):
            return False
        return not self.whole or self._looks_right(rows, index)

    def _looks_right(self, rows: Rows, index: int) -> bool:
        assert rows.values is not None  # noqa: S101  # asked for by ``whole``
        value = rows.values[index]
        if not all(any(needle in value for needle in needles) or b"\\" in value for needles in self._texts):
            return False  # the text is nowhere in the record, so it is not in the member either
        try:
            event = decode(value)
        except Undecodable:
            return False  # no object as its payload: the fold would not count it either
        try:
            return self._wanted.matches(event)
        except Exception as error:
            raise ReducerFailed("custom_predicate", str(rows.position(index)), type(error).__name__) from error


def take_rows(rows: Rows, indexes: Sequence[int]) -> Rows:
    """The rows with these indexes, at least one, in the order given."""
    columns = (rows.offsets, rows.times_us, rows.types, rows.versions, rows.subjects, rows.data, rows.agents, rows.ids, rows.values)
    return Rows(rows.topic, rows.partition, *(None if one is None else [one[index] for index in indexes] for one in columns))  # type: ignore[arg-type]  # the last two may be None


def concat_rows(some: Sequence[Rows]) -> Rows:
    """Rows of one partition one after the other; at least one of them."""
    if len(some) == 1:
        return some[0]
    columns = [
        None if getattr(some[0], name) is None else [item for rows in some for item in getattr(rows, name)]
        for name in ("offsets", "times_us", "types", "versions", "subjects", "data", "agents", "ids", "values")
    ]
    return Rows(some[0].topic, some[0].partition, *columns)  # type: ignore[arg-type]  # the last two may be None


def merge_rows(some: Sequence[Rows]) -> Rows:
    """Rows of one partition in offset order, each once."""
    together = concat_rows(some)
    first_at = {offset: index for index, offset in reversed(list(enumerate(together.offsets)))}
    return take_rows(together, [first_at[offset] for offset in sorted(first_at)])


def _needles(names: Collection[str]) -> list[bytes]:
    return [_encode(name)[1:-1] for name in names]


def _micros(moment: datetime | None) -> int | None:
    return None if moment is None else us_of(moment)
