"""What every outbox must do: the behaviour of ``ports.Outbox``, as cases that any adapter can run.

::

    async def test_my_outbox():
        for case in CASES:
            await case(open_my_outbox)

``open_my_outbox`` gives a client of one and the same outbox, which is empty when a case begins; each call another client.
A case raises AssertionError with the promise that was broken, and closes what it opened.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

from tallyroll.ports import Outbox, OutboxRow
from tallyroll.testing.contract import expect_equal, opened

__all__ = ["CASES", "Case", "OpenOutbox"]

OpenOutbox = Callable[[], Awaitable[Outbox]]
"""Gives a client of the outbox under test."""

Case = Callable[[OpenOutbox], Coroutine[Any, Any, None]]

_LARGE: Final = 2**53 + 1  # a double cannot tell it from its neighbour
_INTENT: Final = OutboxRow("one", 5, _LARGE, b"\x00request\xff")
_READY: Final = _INTENT._replace(event=b"event", until_us=7)


async def rows_are_kept_until_they_are_removed(opener: OpenOutbox) -> None:
    """Whoever looks sees them, byte for byte, oldest first and no more than asked for; removing twice is no error."""
    async with opened(opener, opener) as [ours, theirs]:
        expect_equal(list(await ours.rows()), [], "rows of an empty outbox")
        younger, same = OutboxRow("a", 6, 9, b""), OutboxRow("b", 6, 9, b"", b"")
        for row in (same, younger, _INTENT):
            await ours.put(row)
        expect_equal(list(await theirs.rows()), [_INTENT, younger, same], "rows, oldest first")
        expect_equal(list(await theirs.rows(2)), [_INTENT, younger], "the two oldest")
        for _ in range(2):
            await theirs.remove("a")
        expect_equal(list(await ours.rows()), [_INTENT, same], "rows that are left")


async def an_event_is_added_once(opener: OpenOutbox) -> None:
    """The first one stays; there is no adding to a row that is gone."""
    async with opened(opener, opener) as [ours, theirs]:
        await ours.put(_INTENT)
        expect_equal(await ours.ready("one", b"event", 7), True, "the first event")
        expect_equal(await theirs.ready("one", b"another", 8), False, "a second event")
        expect_equal(list(await theirs.rows()), [_READY], "the row")
        await ours.remove("one")
        expect_equal(await ours.ready("one", b"event", 7), False, "an event for nothing")
        expect_equal(list(await ours.rows()), [], "rows")


async def a_row_is_leased_as_it_was_read(opener: OpenOutbox) -> None:
    """Its time moves only if nothing about it has changed: a time that differs by one is another time."""
    async with opened(opener, opener) as [ours, theirs]:
        await ours.put(_INTENT)
        expect_equal(await theirs.lease(_INTENT._replace(until_us=_LARGE - 1), 9), False, "another time")
        expect_equal(await theirs.lease(_INTENT, 9), True, "the row as it is")
        expect_equal(await ours.lease(_INTENT, 10), False, "the row as it was")
        await ours.ready("one", b"event", 9)
        expect_equal(await theirs.lease(_INTENT._replace(until_us=9), 10), False, "an intent that became ready")
        expect_equal(await theirs.lease(_READY._replace(until_us=9), 7), True, "a ready row")
        expect_equal(list(await ours.rows()), [_READY], "the row")


async def one_of_many_wins(opener: OpenOutbox) -> None:
    """Of several clients that lease a row, or add its event, at the same moment, one is told that it did."""
    async with opened(*[opener] * 4) as clients:
        await clients[0].put(_INTENT)
        leased = await asyncio.gather(*(client.lease(_INTENT, 10 + number) for number, client in enumerate(clients)))
        expect_equal(sum(leased), 1, "who leased it")
        added = await asyncio.gather(*(client.ready("one", b"%d" % number, 20) for number, client in enumerate(clients)))
        expect_equal(sum(added), 1, "who added the event")
        expect_equal([row.event for row in await clients[0].rows()], [b"%d" % added.index(True)], "the event")


CASES: Final[tuple[Case, ...]] = (
    rows_are_kept_until_they_are_removed,
    an_event_is_added_once,
    a_row_is_leased_as_it_was_read,
    one_of_many_wins,
)
