"""The followers of a roll: how each is made, how far what it stores goes, and the loops that run in this process."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Final, NamedTuple

from tallyroll.adapters.extras import require
from tallyroll.bridges.forward import Forwarder, topics_of, types_named
from tallyroll.bridges.state_sync import TOPICS as STATES_TOPICS
from tallyroll.bridges.state_sync import StateSync
from tallyroll.events.position import Position, TopicPartition
from tallyroll.events.topics import AUDIT_TOPIC
from tallyroll.events.types import TASK_TOPIC
from tallyroll.follow.deadletter import DeadLetters
from tallyroll.follow.loop import FollowLoop
from tallyroll.follow.tail import repeats_before
from tallyroll.opening import alert_rules_of, open_alert_sinks, open_message_target, seal_limits
from tallyroll.ports import Follower
from tallyroll.replay.partition import PartitionFold
from tallyroll.replay.restore import archived
from tallyroll.replay.state import StateFollower, stored_positions
from tallyroll.roll.names import (
    ANALYTICS_FOLLOWER,
    ARCHIVE_FOLLOWER,
    AUDIT_FOLLOWER,
    FOLLOWERS,
    NATS_FOLLOWER,
    REDIS_FOLLOWER,
    STATE_FOLLOWER,
)
from tallyroll.roll.parts import Parts

log: Final = logging.getLogger("tallyroll.follow")


@dataclass(frozen=True, slots=True)
class Lag:
    """How far one follower is behind in one partition.

    ``stored`` is None where it has not stored anything yet; ``start`` is the first offset that still exists.
    """

    follower: str
    partition: TopicPartition
    stored: int | None
    end: int
    start: int = 0

    @property
    def records(self) -> int:
        """How many records it has still to apply."""
        return max(0, self.end - max(self.stored or 0, self.start))

    @property
    def ahead(self) -> bool:
        """Whether more is stored than the log has: it is an older copy, or another log, and what comes next would be passed over."""
        return (self.stored or 0) > self.end


class Stored(NamedTuple):
    """How far what a follower has stored goes: the topics it follows, and the next offset of partitions."""

    topics: Sequence[str]
    next: Mapping[TopicPartition, int]


class _Kind(NamedTuple):
    """One follower: how it is made, and how far it is, whoever runs it."""

    make: Callable[[], Awaitable[Follower]]
    stored: Callable[[], Awaitable[Stored]]


class Following:
    """What a process follows. A loop begins when it is asked for, and ends with the roll."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._pid = os.getpid()
        self._loops: dict[str, FollowLoop] = {}
        self._beginning = asyncio.Lock()
        self._told_behind: set[str] = set()
        self._kinds: Mapping[str, _Kind] = {
            STATE_FOLLOWER: _Kind(self._state, self._state_stored),
            ARCHIVE_FOLLOWER: _Kind(self._archive, self._archive_stored),
            ANALYTICS_FOLLOWER: _Kind(self._analytics, self._analytics_stored),
            REDIS_FOLLOWER: _Kind(self._redis, self._redis_stored),
            NATS_FOLLOWER: _Kind(self._nats, self._nats_stored),
            AUDIT_FOLLOWER: _Kind(self._audit, self._audit_stored),
        }

    # Loops

    async def follow(self, name: str) -> FollowLoop:
        """The loop of one follower, started. Raises RuntimeError in a forked child of the process that follows already."""
        if self._loops and self._pid != os.getpid():
            raise RuntimeError("this roll follows in the process that it was opened in; open one of its own in the forked child")
        async with self._beginning:
            return self._loops[name] if name in self._loops else self._begin(await self.make(name))

    async def forward(self, event_types: Collection[str] | None, subject: str | None) -> FollowLoop:
        """The loop that forwards these events to NATS, started. Raises ValueError when there is one already."""
        async with self._beginning:
            if NATS_FOLLOWER in self._loops:
                raise ValueError("this roll forwards already; open another one, with a group prefix of its own")
            return self._begin(self._forwarder(event_types, subject))

    async def caught_up(self, position: Position, wait_s: float, *, follower: str) -> bool:
        """Waits until what a follower has stored contains the record; false when the time is over first."""
        return await (await self.follow(follower)).caught_up(position, wait_s)

    async def catch_up(self, follower: str) -> None:
        """Waits, at most ``read_wait_ms``, until a follower has stored what this process has published."""
        clock, loop = self._parts.clock, await self.follow(follower)
        wait_until = clock.monotonic() + self._parts.settings.read_wait_ms / 1000
        for position in self._parts.publisher.last_positions():
            if not await loop.caught_up(position, max(0.0, wait_until - clock.monotonic())):
                self._tell_behind(follower)
                return

    def _tell_behind(self, follower: str) -> None:
        """Once: a process that reads ahead of what it follows does so with each read."""
        if follower not in self._told_behind:
            self._told_behind.add(follower)
            wait_s = self._parts.settings.read_wait_ms / 1000
            log.warning(
                "a read has waited %g s (TALLYROLL_READ_WAIT_MS); '%s' has not all that this process has published", wait_s, follower
            )

    async def lag(self, name: str) -> list[Lag]:
        """Per partition how far a follower is behind the log."""
        log, (topics, stored) = self._parts.log, await self._kind(name).stored()
        ends, starts = await log.ends(topics), await log.starts(topics)
        return [Lag(name, where, stored.get(where), end, starts.get(where, 0)) for where, end in sorted(ends.items())]

    async def make(self, name: str) -> Follower:
        """A follower, by name. Raises ValueError for another one, and what its parts raise."""
        return await self._kind(name).make()

    def _kind(self, name: str) -> _Kind:
        if name not in self._kinds:
            raise ValueError(f"{name!r} is no follower; there are {', '.join(FOLLOWERS)}")
        return self._kinds[name]

    def _begin(self, follower: Follower) -> FollowLoop:
        parts = self._parts
        parts.stack.push_async_callback(follower.close)
        letters = DeadLetters(
            parts.log, parts.catalogue, clock=parts.clock, telemetry=parts.telemetry, max_record_bytes=parts.settings.max_record_bytes
        )
        loop = self._loops[follower.name] = FollowLoop(
            parts.log, [follower], parts.catalogue, parts.settings,
            group=parts.settings.group(follower.name), dead_letters=letters,
            clock=parts.clock, telemetry=parts.telemetry, tracing=parts.tracing,
        )  # fmt: skip
        loop.start()
        parts.stack.push_async_callback(loop.stop)
        return loop

    async def _committed(self, follower: str, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        topics = sorted({partition.topic for partition in partitions})
        found = await self._parts.log.committed(self._parts.settings.group(follower), topics)
        return {partition: found[partition] for partition in partitions if partition in found}

    # Followers

    async def _state(self) -> Follower:
        return StateFollower(await self._parts.state_store(), self._parts.catalogue, telemetry=self._parts.telemetry)

    async def _state_stored(self) -> Stored:
        topics = [self._parts.catalogue[base].name for base in StateFollower.TOPICS]
        return Stored(topics, await stored_positions(await self._parts.state_store()))

    async def _archive(self) -> Follower:
        parts = self._parts
        return (await parts.opened_archive()).follower(parts.log, limits=seal_limits(parts.settings), telemetry=parts.telemetry)

    async def _archive_stored(self) -> Stored:
        partitions = self._parts.user_partitions
        archive = await self._parts.opened_archive()
        marks = await asyncio.to_thread(archive.reader.marks, partitions)
        topics = sorted({partition.topic for partition in partitions})
        return Stored(topics, {partition: mark.next for partition, mark in marks.items()})

    async def _analytics(self) -> Follower:
        parts = self._parts
        await asyncio.to_thread(_import_analytics)
        rules, sinks = alert_rules_of(parts.settings, parts.metrics), open_alert_sinks(parts.settings, parts.publisher.publish, parts.clock)
        analytics = await parts.analytics()
        return analytics.follower(rules, sinks, leading=self._leads_analytics)

    def _leads_analytics(self) -> bool:
        """One member of the group holds this partition; that one judges what no member sees alone."""
        loop = self._loops.get(ANALYTICS_FOLLOWER)
        return loop is not None and TopicPartition(self._parts.catalogue[TASK_TOPIC].name, 0) in loop.assignment

    async def _analytics_stored(self) -> Stored:
        analytics = await self._parts.analytics()
        return Stored(analytics.topics, await analytics.stored())

    async def _redis(self) -> Follower:
        parts = self._parts
        history = self._archived_parts if parts.is_archived else None
        return StateSync(parts.state_target(), parts.catalogue, clock=parts.clock, telemetry=parts.telemetry, history=history)

    async def _archived_parts(self, partition: TopicPartition) -> tuple[PartitionFold, int, int] | None:
        return await archived((await self._parts.replay_engine()).replayer, partition)

    async def _redis_stored(self) -> Stored:
        catalogue = self._parts.catalogue
        found = await self._parts.state_target().progress(catalogue.partitions(STATES_TOPICS))
        return Stored([catalogue[base].name for base in STATES_TOPICS], {partition: progress.next for partition, progress in found.items()})

    async def _nats(self) -> Follower:
        return self._forwarder(None, None)

    def _forwarder(self, event_types: Collection[str] | None, subject: str | None) -> Forwarder:
        parts, settings = self._parts, self._parts.settings
        target = open_message_target(settings)
        parts.stack.push_async_callback(target.close)
        return Forwarder(
            target, parts.catalogue, partial(self._committed, NATS_FOLLOWER),
            met=partial(repeats_before, parts.log),
            telemetry=parts.telemetry,
            event_types=event_types or types_named(settings.nats_event_types),
            subject=subject or settings.nats_subject,
        )  # fmt: skip

    async def _nats_stored(self) -> Stored:
        settings, catalogue = self._parts.settings, self._parts.catalogue
        topics = [catalogue[base].name for base in topics_of(types_named(settings.nats_event_types), catalogue)]
        return Stored(topics, await self._parts.log.committed(settings.group(NATS_FOLLOWER), topics))

    async def _audit(self) -> Follower:
        return await (await self._parts.audit()).follower()

    async def _audit_stored(self) -> Stored:
        topics = [*self._parts.user_topics, self._parts.catalogue[AUDIT_TOPIC].name]
        return Stored(topics, await (await self._parts.ledger_store()).progress())


def _import_analytics() -> None:
    """What the follower is made of, NumPy among it: a lot to import, and not for the event loop."""
    require("analytics")
    for name in ("detection", "exposition", "follower", "alerts.event_sink"):
        import_module(f"tallyroll.analytics.{name}")
