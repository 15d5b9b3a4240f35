"""What a fold takes out of payloads, kept as columns: which columns there are, and the values of one event.

The archive does this once per record, when it seals a segment; ``replay.columnar`` then folds the columns without looking
at a payload again. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from hashlib import sha256
from operator import itemgetter
from typing import Any, Final

import msgspec

from tallyroll.events.event import agent_of
from tallyroll.events.rows import Subject
from tallyroll.replay.fields import Value
from tallyroll.replay.fold import Fold, Unfoldable, upcast
from tallyroll.replay.judge import agent_in
from tallyroll.replay.program import Program
from tallyroll.replay.values import AGENT_ID, EVENT_TIME

Taken = tuple[Any, ...]
"""Whose deed an event is, then its values in the order of ``Projection.columns``: integers or text, None where there is none."""


_AGENT: Final = 1  # where ``Program.take`` puts the agent
_ABSENT: Final = -1


class Projection:
    """The columns that a fold needs of one topic (base name), and how an event fills them.

    ``columns`` tells names and whether they hold integers, or else text. ``id`` names what they mean: columns of equal ids
    may be folded, others may not. Raises ValueError for a view whose values do not name columns, or share one that cannot
    be shared. Not promised: integers within 64 bits, where a Value does not bound them; who makes the array finds that.
    """

    def __init__(self, fold: Fold, base: str) -> None:
        self._schemas = fold.schemas
        self._programs = fold.programs(base)
        self.columns: Mapping[str, bool] = _columns(self._programs)
        self._picks = {event_type: _pick(program, self.columns) for event_type, program in self._programs.items()}
        self._nothing = (None,) * len(self.columns)
        meaning = {
            event_type: [[value.name, value.column, value.whole] for value in program.values]
            for event_type, program in self._programs.items()
        }
        described = msgspec.json.encode([meaning, self._schemas.fingerprint(self._programs)], order="sorted")
        self.id = sha256(described).hexdigest()

    def take(self, event_type: str, version: str, data: bytes | msgspec.Raw, subject: Subject, time_us: int) -> Taken | None:
        """The values of one event; of a type that no view reads, only the agent. None if columns cannot say what a fold would do.

        That is so where the event cannot be folded, where upcasting makes not exactly one payload of it, and where the
        type of its aggregate holds a colon, so that ``type:id`` would be ambiguous.
        """
        if ":" in subject.aggregatetype:
            return None
        program = self._programs.get(event_type)
        if program is None:
            return (agent_of(subject.aggregatetype, subject.aggregateid, agent_in(data)), *self._nothing)
        try:
            if version == program.current_version:
                facts = program.decode(data)
            else:
                many = [program.decode(one) for one in upcast(event_type, version, data, self._schemas)]
                if len(many) != 1:
                    return None
                facts = many[0]
            agent = agent_of(subject.aggregatetype, subject.aggregateid, facts.agent_id)
            return self._picks[event_type]((*program.take(facts, subject, time_us, agent), None))
        except (Unfoldable, msgspec.MsgspecError, ValueError, RecursionError):
            return None


def needs_column(value: Value) -> bool:
    """Whether a value has to be kept; the others are the same for all events, or kept with every record."""
    return value.constant is None and value not in (EVENT_TIME, AGENT_ID)


def _columns(programs: Mapping[str, Program]) -> dict[str, bool]:
    """The columns of all types, by name. What one type reads must lie apart; of several types a column holds one kind."""
    columns: dict[str, bool] = {}
    for event_type, program in programs.items():
        own: set[str] = set()
        for value in filter(needs_column, program.values):
            if not value.column or value.column in own or columns.setdefault(value.column, value.whole) != value.whole:
                raise ValueError(f"{event_type}: value {value.name!r} has no column of its own")
            own.add(value.column)
    return dict(sorted(columns.items()))


def _pick(program: Program, columns: Mapping[str, bool]) -> Callable[[Taken], Taken]:
    """Puts what ``Program.take`` gives, with a None behind it, into the order of the columns."""
    place = {value.column: at for at, value in enumerate(program.values) if value.column}
    picked = [_AGENT, *(place.get(name, _ABSENT) for name in columns)]
    # With one argument itemgetter gives no tuple.
    return itemgetter(*picked) if len(picked) > 1 else itemgetter(slice(_AGENT, _AGENT + 1))
