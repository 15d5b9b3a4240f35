"""A server that is frozen while a roll works on, and who waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from services.server import Server
from tests.flows.publishing import breathe
from tests.patience import PATIENCE_S

from tallyroll.events.event import AgentEvent
from tallyroll.roll import Roll
from tallyroll.telemetry import FOLLOW_FLUSH_FAILURES, Counters

_TRIES = 10
_ESTABLISHED = "01"


async def others_go_on(
    server: Server, roll: Roll, counters: Counters, follower: str, events: Callable[[int], Sequence[AgentEvent]]
) -> list[AgentEvent]:
    """While a server is frozen all go on but its own follower, and before its client gives up; what was published.

    The client gives up after some seconds, and whoever it held up goes on then, too: so all have to be there while it still waits.
    A machine can be slower than that client. Then a try has shown nothing, and there is another one, with the next of ``events``.
    """
    sent: list[AgentEvent] = []
    for number in range(_TRIES):
        given_up = counters.value(FOLLOW_FLUSH_FAILURES)
        server.freeze()
        try:
            first, *others = events(number)
            await roll.publish(first)
            async with asyncio.timeout(PATIENCE_S):
                while not _unread(server.port):
                    await breathe()
            for event in others:
                await roll.publish(event)
            for position in roll.publisher.last_positions():
                assert await roll.caught_up(position, PATIENCE_S)  # the state follower
            in_time = counters.value(FOLLOW_FLUSH_FAILURES) == given_up
            caught_up = [await roll.caught_up(position, 0, follower=follower) for position in roll.publisher.last_positions()]
            assert not all(caught_up)
        finally:
            server.thaw()
        sent += [first, *others]
        for position in roll.publisher.last_positions():
            assert await roll.caught_up(position, PATIENCE_S, follower=follower)
        if in_time:
            return sent
    pytest.fail(f"whenever {server.name} was frozen, nobody went on before {follower} gave up")


def _unread(port: int) -> int:
    """How many bytes wait for whoever listens there to read them."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(int(row[4].partition(":")[2], 16) for row in rows if row[3] == _ESTABLISHED and int(row[1].partition(":")[2], 16) == port)
