"""The writer of this process: one epoch of it at a time, its heads, and how it begins and ends.

A record is sealed and handed on in one step that nothing interrupts, so that the order of the numbers is that of the records.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Collection, Sequence
from functools import lru_cache, partial
from typing import Final

import msgspec
from msgspec.structs import replace

from tallyroll.audit.ledger import records
from tallyroll.audit.ledger.chain import Draft, Sealed, Writer
from tallyroll.audit.ledger.envelope import document_of, key_of
from tallyroll.audit.ledger.epoch_clock import EpochClock
from tallyroll.audit.ledger.layout import Kind
from tallyroll.events.event import iso
from tallyroll.events.ids import id_at
from tallyroll.events.moments import moment_at
from tallyroll.events.partition import partition_for
from tallyroll.events.topics import Topic
from tallyroll.ports import Cipher, Clock, KeyRing
from tallyroll.publish.load import Body

DAY_US: Final = 86_400_000_000
_CACHED_AGENTS: Final = 4_096


class Placed(msgspec.Struct, frozen=True, gc=False):
    """A sealed entry, its moment, and which of the bodies it is."""

    sealed: Sealed
    ts_us: int
    slot: int


class Epochs:
    """Seals into the chains of this process. Used from one event loop; a forked child begins as another writer.

    Not promised: that a chain is closed when the process is killed; its silence is a finding then.
    """

    def __init__(  # noqa: PLR0913  # what a writer needs
        self, log_id: bytes, ring: KeyRing, cipher: Cipher, topic: Topic, *, clock: Clock, source: str, rule_set: str, keep_days: int
    ) -> None:
        self._log_id = log_id
        self._ring = ring
        self._cipher = cipher
        self._topic = topic
        self._clock = clock
        self._source = source
        self._rule_set = rule_set
        self._keep_days = keep_days
        self._writer: Writer | None = None
        self._time = EpochClock(clock)
        self._pid = os.getpid()
        self._enrolling = asyncio.Lock()

    @property
    def is_current(self) -> bool:
        """Whether something can be sealed at once: this process has an epoch that is not over."""
        return self._writer is not None and self._pid == os.getpid() and not self._time.is_over

    async def begin(self) -> list[Body]:
        """Enrols where it is time to; gives the last records of the epoch before, which are to be handed on first.

        Raises KeyRingUnavailable.
        """
        async with self._enrolling:
            if self.is_current:
                return []
            last, time = self._writer, EpochClock(self._clock)
            writer, after = (None, 0) if last is None else (last.writer, last.epoch)
            enrolled = await asyncio.to_thread(partial(self._ring.enrol, time.opened_us, writer=writer, after=after))
            closing = self.close("the epoch is over")
            previous = None if last is None or last.writer != enrolled.writer else (last.epoch, last.heads)
            self._writer = Writer(self._log_id, enrolled, self._cipher, rule_set=self._rule_set, previous=previous)
            self._time = time
            return closing

    def seal(self, drafts: Sequence[tuple[str | None, str, Draft]]) -> tuple[list[Body], list[Placed]]:
        """Entries (agent, id, draft), sealed, all with the time of now; and their bodies, with those of the chains that begin."""
        writer, ts_us = self._current(), self._time.now_us()
        time, source, topic, owner = iso(moment_at(ts_us)).encode(), self._source, self._topic, writer.writer
        places: dict[int, list[tuple[int, str, bytes]]] = {}
        for index, (agent_id, _, _) in enumerate(drafts):
            partition, key, raw_key = _place_of(agent_id, owner, topic.partitions)
            places.setdefault(partition, []).append((index, key, raw_key))
        bodies: list[Body] = []
        placed: dict[int, Placed] = {}
        for partition, own in places.items():  # one partition after the other: order means something within one only
            sealed = writer.seal_all(partition, [drafts[index][2] for index, _, _ in own], ts_us)
            begins = len(sealed) - len(own)
            bodies += [self._body(item, id_at(ts_us, item.leaf), key_of(None, owner), time) for item in sealed[:begins]]
            for (index, key, raw_key), item in zip(own, sealed[begins:], strict=True):
                audit_id = drafts[index][1]
                placed[index] = Placed(item, ts_us, len(bodies))
                bodies.append(Body(audit_id, topic, partition, raw_key, document_of(item.packed(), audit_id, key, source, time)))
        return bodies, [placed[index] for index in range(len(drafts))]

    def beat(self) -> list[Body]:
        """A heartbeat: how far every chain has come."""
        writer = self._current()
        heads = writer.heads
        return self._control(heads[0].partition, Draft(Kind.HEADS, records.heads(heads))) if heads else []

    def close(self, reason: str) -> list[Body]:
        """The last record of every chain of this process; nothing is sealed after it."""
        if self._writer is None or self._pid != os.getpid():  # a parent's chains are the parent's
            return []
        last = Draft(Kind.CLOSE, records.close(reason))
        bodies = [body for head in self._writer.heads for body in self._control(head.partition, last)]
        self._writer = None
        return bodies

    def forget(self, keys: Collection[bytes]) -> None:
        """Drops what was derived from subjects' keys."""
        if self._writer is not None:
            for key in keys:
                self._writer.forget(key)

    def _control(self, partition: int, draft: Draft) -> list[Body]:
        writer = self._current()
        ts_us = self._time.now_us()
        kept = replace(draft, keep_until_day=ts_us // DAY_US + self._keep_days)
        key, time = key_of(None, writer.writer), iso(moment_at(ts_us)).encode()
        return [self._body(item, id_at(ts_us, item.leaf), key, time) for item in writer.seal(partition, kept, ts_us)]

    def _current(self) -> Writer:
        assert self._writer is not None  # noqa: S101  # begin() comes before
        self._writer.advance(self._time.second)
        return self._writer

    def _body(self, sealed: Sealed, event_id: str, key: str, time: bytes) -> Body:
        value = document_of(sealed.packed(), event_id, key, self._source, time)
        return Body(event_id, self._topic, sealed.chain.partition, key.encode(), value)


@lru_cache(_CACHED_AGENTS)
def _place_of(agent_id: str | None, writer: bytes, partitions: int) -> tuple[int, str, bytes]:
    """The partition of an agent's records, and their key."""
    key = key_of(agent_id, writer)
    raw_key = key.encode()
    return partition_for(raw_key, partitions), key, raw_key
