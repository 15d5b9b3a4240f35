"""States in Redis under a bridge that dies, a target that fails in the middle, and a Redis that forgets: one random history."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from redis import Redis
from tests.unit.replay_histories import CATALOGUE, Log, ReadOnlyLog, batch_of, replay

from tallyroll.bridges.state_sync import TOPICS, VIEWS, StateSync
from tallyroll.errors import PositionConflict, StoreUnavailable
from tallyroll.events.position import TopicPartition
from tallyroll.ports import StateTarget
from tallyroll.replay.fold import state_hash
from tallyroll.telemetry import Counters
from tallyroll.testing.clock import FakeClock

CALLS = ("progress", "acquire", "check", "parts", "write_parts", "write_views", "commit")


class Shaky:
    """A target whose calls fail at random, half of them after they were carried out."""

    def __init__(self, inner: StateTarget, rng: Random) -> None:
        self._inner = inner
        self._rng = rng
        self.share = 0.0

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._inner, name)
        if name not in CALLS:
            return call

        async def shaky(*arguments: Any) -> Any:
            fails = self._rng.random() < self.share
            if fails and self._rng.random() < 0.5:
                raise StoreUnavailable("redis", "before")
            result = await call(*arguments)
            if fails:
                raise StoreUnavailable("redis", "after")
            return result

        return shaky


class Process:
    """One process with a bridge: does what the loop does, for the partitions it holds."""

    def __init__(self, target: StateTarget, log: Log, rng: Random) -> None:
        self.target = Shaky(target, rng)
        self.log = log
        self.rng = rng
        self.clock = FakeClock()
        self.next: dict[TopicPartition, int] = {}
        self.sync = self._made()

    def _made(self) -> StateSync:
        return StateSync(self.target, CATALOGUE, clock=self.clock, telemetry=Counters(), max_cached_parts=self.rng.choice((0, 3, 1_000)))

    async def begin(self, partitions: Sequence[TopicPartition]) -> None:
        stored = await self.sync.positions(partitions)
        self.next.update({partition: stored.get(partition, 0) for partition in partitions})

    async def die(self, partitions: Sequence[TopicPartition]) -> None:
        """Gone without a flush; the next one begins with these partitions."""
        self.sync, self.next = self._made(), {}
        await self.begin(partitions)

    def read(self, most: int = 7) -> bool:
        """A batch of some partition is offered; false if there is none."""
        left = [partition for partition, offset in self.next.items() if offset < len(self.log[partition])]
        if not left:
            return False
        partition = self.rng.choice(left)
        start = self.next[partition]
        values = self.log[partition][start : start + self.rng.randint(1, most)]
        try:
            self.sync.apply(batch_of(partition, values, start))
        except StoreUnavailable:
            return True  # held; a flush finds the beginning, and gives it
        self.next[partition] = start + len(values)
        return True

    async def flush(self) -> bool:
        try:
            self.clock.advance(self.rng.choice((0, 2)))
            for partition, offset in (await self.sync.flush()).items():
                self.next[partition] = max(offset, self.next.get(partition, offset))
        except StoreUnavailable:
            return False
        except PositionConflict:
            held = list(self.next)
            self.sync.drop(held)
            await self.begin(held)
            return False
        return True

    async def finish(self) -> None:
        """Everything is read and stored, and is known to be there."""
        self.target.share = 0.0
        done = False
        while not done:
            while self.read(100):
                if not await self.flush():
                    continue
            self.clock.advance(2)
            done = await self.flush() and all(offset == len(self.log[partition]) for partition, offset in self.next.items())


def partitions_of(log: Log) -> list[TopicPartition]:
    bases = set(TOPICS)
    return [partition for partition in log if partition.topic in bases]


def states_in(redis: Redis) -> dict[str, str]:
    """Per ``view:id`` the bytes of the view."""
    names = [f"tallyroll:{view.name}:" for view in VIEWS]
    keys = [key.decode() for key in redis.scan_iter("tallyroll:*:state", count=1_000)]
    own = [key for key in keys if key.startswith(tuple(names))]
    return {key.removeprefix("tallyroll:").removesuffix(":state"): redis.get(key) for key in own}


async def replayed(log: Log) -> dict[str, str]:
    """Per ``view:id`` the hash of the state that a replay comes to."""
    found = {}
    for view in VIEWS:
        states = (await replay(ReadOnlyLog(log), CATALOGUE, view)).states
        found |= {f"{view.name}:{owner}": state_hash(state) for owner, state in states.items()}
    return found


class Office:
    """Two processes that share the partitions of a log."""

    def __init__(self, new_target: Callable[[], StateTarget], log: Log, rng: Random, wipe: Any) -> None:
        partitions = partitions_of(log)
        self.rng = rng
        self.wipe = wipe
        self.processes = [Process(new_target(), log, rng) for _ in range(2)]
        self.shares = [partitions[::2], partitions[1::2]]

    async def open(self) -> None:
        for process, share in zip(self.processes, self.shares, strict=True):
            await process.begin(share)
            process.target.share = self.rng.choice((0.0, 0.1, 0.3))

    async def turn(self) -> None:
        """Something happens."""
        dice, which = self.rng.random(), self.rng.randrange(2)
        process = self.processes[which]
        if dice < 0.6:
            process.read()
        elif dice < 0.75:
            await process.flush()
        elif dice < 0.87:
            await asyncio.gather(*(one.flush() for one in self.processes))
        elif dice < 0.93:
            await process.die(self.shares[which])
        elif dice < 0.97 and len(self.shares[which]) > 1:
            moved = self.shares[which].pop()  # the old holder goes on for a while: a zombie
            self.shares[1 - which].append(moved)
            await self.processes[1 - which].begin([moved])
        elif dice >= 0.97:
            self.wipe()

    async def finish(self) -> None:
        for process, share in zip(self.processes, self.shares, strict=True):
            await process.die(share)
        for process in (*self.processes, *self.processes):  # the second round: its neighbour may have found the target wiped
            await process.finish()
        for process in self.processes:
            await process.target.close()


async def history(new_target: Callable[[], StateTarget], log: Log, rng: Random, *, turns: int, wipe: Any) -> None:
    """Two processes share the partitions of a log while everything happens to them; at the end everything has been stored."""
    office = Office(new_target, log, rng, wipe)
    await office.open()
    for _ in range(turns):
        await office.turn()
    await office.finish()
