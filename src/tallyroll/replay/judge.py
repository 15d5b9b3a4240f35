"""Raw records of one partition judged as a fold judges them: repeats dropped, heads decoded, garbage noted. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from tallyroll.errors import Undecodable
from tallyroll.events.batch import Batch
from tallyroll.events.codec import Head
from tallyroll.events.event import agent_of
from tallyroll.events.repeats import RepeatFilter
from tallyroll.events.rows import Rows, Subject
from tallyroll.replay.applied import Found


class _Deed(msgspec.Struct, gc=False):
    agent_id: Any = None


_decode_deed = msgspec.json.Decoder(_Deed).decode


@dataclass(slots=True)
class Judge:
    """Turns the batches of one partition into rows; ``repeats`` is its whole state. ``found`` are of the last batch.

    Not promised: to notice payloads that no fold can read; folding the rows does.
    """

    repeats: RepeatFilter = field(default_factory=RepeatFilter)
    found: list[Found] = field(default_factory=list)
    _subjects: dict[tuple[str, str], Subject] = field(default_factory=dict)

    def rows(self, batch: Batch) -> Rows | None:
        """The first copies of readable records with a valid time, whole; None if there are none."""
        self.found = []
        kept: list[tuple[int, int, str, str, Subject, bytes, str | None, str, bytes]] = []
        heads = batch.heads()
        copies = batch.copies(self.repeats)
        for index, (head, time_us) in enumerate(zip(heads, batch.times_us(), strict=True)):
            if isinstance(head, Undecodable):
                self.found.append(Found(index, "poison", head.reason, "Undecodable"))
                continue
            if index in copies:
                self.found.append(Found(index, copies[index]))
                continue
            if isinstance(time_us, Undecodable):
                self.found.append(Found(index, "poison", time_us.reason, "Undecodable"))
                continue
            of, data = self._subject(head.aggregatetype, head.aggregateid), bytes(head.data)
            agent = agent_of(of.aggregatetype, of.aggregateid, agent_in(data))
            kept.append(
                (batch.offsets[index], time_us, head.type, head.schemaversion, of, data, agent, head.id, batch.values[index] or b"")
            )
        return Rows(batch.topic, batch.partition, *zip(*kept, strict=True)) if kept else None

    def _subject(self, aggregate_type: str, aggregate_id: str) -> Subject:
        key = (aggregate_type, aggregate_id)
        subject = self._subjects.get(key)
        if subject is None:
            if len(self._subjects) >= _MAX_SUBJECTS:
                self._subjects.clear()
            subject = self._subjects[key] = Subject(aggregate_type, aggregate_id)
        return subject


_MAX_SUBJECTS = 10_000  # shared only to save memory


def agent_in(data: bytes | msgspec.Raw) -> object:
    """What a payload says of an agent, before anybody has looked whether that can be one."""
    try:
        return _decode_deed(data).agent_id
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None  # no object: no fold can read it either, and says so


def agents_of(heads: Sequence[Head]) -> list[str | None]:
    """Whose deed each event is, as ``agent_of`` has it."""
    with suppress(msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        # The usual case without a call of ours for each.
        told = [head.aggregateid if head.aggregatetype == "agent" else _decode_deed(head.data).agent_id for head in heads]
        if _USUAL.issuperset(map(type, told)) and "" not in told:
            return told
    return [agent_of(head.aggregatetype, head.aggregateid, agent_in(head.data)) for head in heads]


_USUAL: Final = frozenset((str, type(None)))
