"""How far the stored state may be trusted to be current, and bringing it up to date where that disturbs nobody."""

from __future__ import annotations

from typing import NamedTuple

from tallyroll.cli.printing import counted, note
from tallyroll.events.position import Position
from tallyroll.roll import STATE_FOLLOWER, Lag, Roll


class Behind(NamedTuple):
    """How many records the store lacks, and in which partitions."""

    records: int
    partitions: list[Lag]


async def behind(roll: Roll, *followers: str) -> Behind:
    """What the store lacks now, or what other followers lack if they are named."""
    partitions = [one for one in await roll.lag(*followers) if one.records]
    return Behind(sum(one.records for one in partitions), partitions)


async def catch_up(roll: Roll, wait_s: float, follower: str = STATE_FOLLOWER) -> int:
    """How many records the store of a follower is behind the log, after following for at most ``wait_s`` seconds.

    On the embedded log this process follows along if nobody has. On Kafka it only looks: joining the group for a moment
    would make every member hand over partitions. Says on standard error what is left.
    """
    left = await behind(roll, follower)
    if left.records and not roll.settings.is_kafka and wait_s > 0:
        left = await follow_until(roll, left, wait_s, follower)
    if left.records:
        service = "tallyroll run" if follower == STATE_FOLLOWER else f"tallyroll run {follower}"
        note(f"the stored {follower} is {counted(left.records, 'record')} behind the log; '{service}' keeps it current")
    return left.records


async def follow_until(roll: Roll, wanted: Behind, wait_s: float, follower: str = STATE_FOLLOWER) -> Behind:
    """Follows in this process until the store has what is ``wanted``, or the time is over; what it lacks of it then."""
    loop = await roll.follow(follower)
    until = roll.clock.monotonic() + wait_s
    for one in wanted.partitions:
        left_s = until - roll.clock.monotonic()
        if left_s <= 0 or not await loop.caught_up(Position(*one.partition, one.end - 1), left_s):
            return await behind(roll, follower)
    return Behind(0, [])
