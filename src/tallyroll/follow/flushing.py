"""Flushes: each in a task of its own, so that the loop reads and applies while a store writes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from tallyroll.backoff import Backoff
from tallyroll.errors import PositionConflict, TallyrollError
from tallyroll.events.position import TopicPartition
from tallyroll.ports import Clock, Follower
from tallyroll.telemetry import FOLLOW_CONFLICTS, FOLLOW_FLUSH_FAILURES, FOLLOW_RETRIES, Telemetry

log: Final = logging.getLogger("tallyroll.follow")

_FLUSH_RECORDS: Final = 50_000  # records not flushed that force a flush, whatever the clock says: bounds memory
_MOST_RECORDS: Final = 4 * _FLUSH_RECORDS  # the same beside a flush that is under way: nothing more is read then

# A follower that has flushed rests so many times as long as that usually takes. Who keeps up with the log stores half of the time at
# most, since results should be seen soon; who is behind a fifth, since more records come to each result then.
_KEEPING_UP: Final = 1.0
_BEHIND: Final = 4.0

# Who is behind by the clock as well rests for a tenth of how late he is: what is late is hardly later for it, and more records come
# to each result.
_LATE: Final = 0.1
_LATE_MOST_S: Final = 1.0

Stored = Callable[[Follower, Mapping[TopicPartition, int]], Awaitable[None]]
"""Takes what a flush has stored: the next offsets of a follower."""


def rest_s(interval_s: float, took_s: float, before_s: float, *, behind: bool, late_s: float = 0.0) -> float:
    """How long a follower rests after a flush that took so long, and the one before it ``before_s``.

    Flushes begin an interval apart, and further where storing is slow. One slow flush among quick ones is an accident: what came
    meanwhile has waited for it already. ``late_s`` is how old the newest record is that was applied.
    """
    if not behind:
        return max(interval_s - took_s, _KEEPING_UP * min(took_s, before_s))
    return max(interval_s - took_s, _BEHIND * min(took_s, before_s), min(_LATE * late_s, _LATE_MOST_S))


class Flushes:
    """What of each follower is not stored yet, and the flushes that are under way, one per follower at most.

    ``stored`` is called as soon as a flush is durable. A follower in ``conflicted`` has to begin anew from what its store has
    before it is called again. Everything here is called by the task of the loop, or in its stead while it waits.
    """

    def __init__(self, followers: Sequence[Follower], *, interval_s: float, stored: Stored, clock: Clock, telemetry: Telemetry) -> None:
        self._followers = followers
        self._interval_s = interval_s
        self._stored = stored
        self._clock = clock
        self._telemetry = telemetry
        self._fresh = {follower.name: 0 for follower in followers}
        self._newest_ms = dict.fromkeys(self._fresh, -1)
        self._last = {follower.name: 0.0 for follower in followers}
        self._took_s = dict.fromkeys(self._last, (0.0, 0.0))  # the last flush, and the one before it
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._backoff = Backoff()
        self._due = 0.0
        self._fatal: Exception | None = None
        self._failing: set[str] = set()  # whose last flush has failed, and may pass
        self.conflicted: set[str] = set()

    def applied(self, follower: Follower, count: int, newest_ms: int) -> None:
        """So many records more are not stored; when the last of them was written, -1 where the log does not know."""
        self._fresh[follower.name] += count
        self._newest_ms[follower.name] = newest_ms

    def forget(self, follower: Follower) -> None:
        """The follower begins anew."""
        self._fresh[follower.name] = 0
        self.conflicted.discard(follower.name)

    @property
    def pending(self) -> bool:
        """Whether something is to be stored, or being stored."""
        return bool(self._tasks) or any(self._fresh.values())

    @property
    def overfull(self) -> bool:
        """Whether memory holds as much as it should. While the store is away that is less."""
        return max(self._fresh.values()) >= (_FLUSH_RECORDS if self._is_away() else _MOST_RECORDS)

    async def begin(self, *, asked: bool, behind: bool) -> bool:
        """Begins to flush whoever wants to, or with ``asked`` everybody. False if the store is not to be asked again yet.

        ``behind``: whether there was as much to read as is read at once.
        """
        now = self._clock.monotonic()
        wanting = [follower for follower in self._followers if self._wants(follower, now, behind=behind) or asked]
        away = self._is_away()
        if wanting and not away:
            self._start(wanting)
            await asyncio.sleep(0)  # noqa: TID251  # each takes what it stores in its first step, before anything else is applied
        self._raise_fatal()
        return not away

    async def everything(self) -> None:
        """Stores all there is, as far as the store is there; returns when it is durable. Raises what ends the loop.

        A store is waited for once: whose flush was under way and fails is not asked again.
        """
        under_way = set(self._tasks)
        await self.settled()
        self._start([one for one in self._followers if one.name not in under_way & self._failing])
        await self.settled()
        self._raise_fatal()

    async def settled(self) -> None:
        """Waits for the flushes that are under way, whatever comes of them."""
        while self._tasks:
            await asyncio.wait(list(self._tasks.values()))

    def _raise_fatal(self) -> None:
        fatal, self._fatal = self._fatal, None
        if fatal is not None:
            raise fatal

    def _is_away(self) -> bool:
        return self._clock.monotonic() < self._due

    def _wants(self, follower: Follower, now: float, *, behind: bool) -> bool:
        """Asks the follower, also during its flush; its interval is over, too, when memory holds as much as it should."""
        fresh, waited, runs = self._fresh[follower.name], now - self._last[follower.name], follower.name in self._tasks
        newest_ms = self._newest_ms[follower.name]
        late_s = self._clock.now_us() / 1_000_000 - newest_ms / 1_000 if newest_ms >= 0 else 0.0
        rest = rest_s(self._interval_s, *self._took_s[follower.name], behind=behind, late_s=late_s)
        over = not runs and fresh > 0 and (waited >= rest or fresh >= _FLUSH_RECORDS)
        return follower.wants_flush(interval_over=over)

    def _start(self, followers: Sequence[Follower]) -> None:
        for follower in followers:
            if follower.name not in self._tasks and follower.name not in self.conflicted:
                self._tasks[follower.name] = asyncio.create_task(self._flush(follower), name=f"flush {follower.name}")

    async def _flush(self, follower: Follower) -> None:
        name = follower.name
        taken, self._fresh[name] = self._fresh[name], 0
        begin = self._clock.monotonic()
        try:
            stored = await follower.flush()
        except PositionConflict as error:
            self._telemetry.count(FOLLOW_CONFLICTS, follower=name)
            log.warning("%s: %s", name, error, extra={"follower": name})
            self.conflicted.add(name)
        except Exception as error:  # noqa: BLE001  # whatever may not pass ends the loop, which raises it
            self._fresh[name] += taken
            if not isinstance(error, TallyrollError) or not error.retriable:
                self._fatal = error
                return
            self._failing.add(name)
            self._telemetry.count(FOLLOW_RETRIES, follower=name)
            self._telemetry.count(FOLLOW_FLUSH_FAILURES, follower=name)
            self._due = self._clock.monotonic() + self._backoff.next_s()
            log.warning("%s waits: %s; trying again", name, error, extra={"follower": name})
        else:
            self._backoff.reset()
            self._failing.discard(name)
            self._last[name] = end = self._clock.monotonic()
            self._took_s[name] = (end - begin, self._took_s[name][0])
            await self._stored(follower, stored)
        finally:
            del self._tasks[name]
