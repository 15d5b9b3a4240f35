"""What the records of a batch say to a fold, whatever was folded before them: read once for all who fold the batch. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Final, NamedTuple, cast

import msgspec

from tallyroll.errors import Undecodable
from tallyroll.events.batch import Batch
from tallyroll.events.codec import Head
from tallyroll.replay.fields import Of
from tallyroll.replay.fold import Fold, Unfoldable, upcast
from tallyroll.replay.program import Met, Program, Values

Reading = tuple[int, Program, Values]
# A plain tuple of a record's offset, program and values, since there is one per record: a named one costs 0.2 µs more.

Refused = tuple[int, Unfoldable]
"""The offset of a record that cannot be folded, and why."""

_OFFSET: Final[Callable[[tuple[Any, ...]], int]] = itemgetter(0)
UNFOLDABLE: Final = (Unfoldable, Undecodable, msgspec.MsgspecError, ValueError, RecursionError)
"""What reading a record may raise."""


class Readings(NamedTuple):
    """Of a batch, in offset order, without those that concern nobody. ``owners``: by view whom they concern.

    A record of an old version may stand for several, one behind the other: then there are more ``readings`` than ``records``.
    """

    readings: Sequence[Reading]
    refused: Sequence[Refused]
    owners: Met
    records: int


@dataclass(frozen=True)
class TopicReader:
    """Reads batches of a topic (base name) for a fold, or for one view of it; a ``Reader``. Equal for all who fold alike."""

    fold: Fold
    base: str
    view: int | None = None

    def read(self, batch: Batch) -> Readings:
        """What the batch says."""
        readings: list[Reading] = []
        refused: list[Refused] = []
        met: Met = [{} for _ in self.fold.views]
        heads = cast("Sequence[Head]", batch.heads())  # of no type that is counted, where there is none
        programs, several = self.fold.programs(self.base, self.view), 0
        for program, head, offset, time_us in zip(map(programs.get, batch.types()), heads, batch.offsets, batch.times_us(), strict=True):
            if program is None:
                continue
            if isinstance(time_us, Undecodable):
                refused.append((offset, unfoldable(time_us)))
                continue
            try:
                if head.schemaversion == program.current_version:
                    values = program.read(head.data, head, time_us, met)
                    if values is not None:
                        readings.append((offset, program, values))
                else:
                    old = read_old(program, head.schemaversion, head.data, head, time_us, self.fold, met)
                    readings += [(offset, program, values) for values in old]
                    several += max(0, len(old) - 1)
            except UNFOLDABLE as error:
                refused.append((offset, unfoldable(error)))
        return Readings(readings, refused, met, len(readings) - several)

    def part(self, made: Readings, of: Batch) -> Readings:
        """What a part of it says."""
        first, end = of.offsets[0], of.offsets[-1] + 1
        readings = made.readings[bisect_left(made.readings, first, key=_OFFSET) : bisect_left(made.readings, end, key=_OFFSET)]
        refused = made.refused[bisect_left(made.refused, first, key=_OFFSET) : bisect_left(made.refused, end, key=_OFFSET)]
        met: Met = [{} for _ in self.fold.views]
        for _, program, values in readings:
            for view, at in program.owners_at:
                if values[at] is not None:
                    met[view][values[at]] = None
        return Readings(readings, refused, met, len({offset for offset, _, _ in readings}))


def read_old(  # noqa: PLR0913  # what a record says, in pieces, since heads and rows keep them differently
    program: Program, version: str, data: bytes | msgspec.Raw, of: Of, time_us: int, fold: Fold, met: Met
) -> list[Values]:
    """As ``program.read``, of a payload of another version than the current one, which may amount to several."""
    many = upcast(program.event_type, version, data, fold.schemas)
    return [values for one in many if (values := program.read(one, of, time_us, met)) is not None]


def unfoldable(error: Exception) -> Unfoldable:
    """Why a record cannot be folded, of what reading it has raised."""
    if isinstance(error, Unfoldable):
        return Unfoldable(error.reason, error.error)  # without the frames that it came through
    return Unfoldable(error.reason if isinstance(error, Undecodable) else "bad_payload", type(error).__name__)
