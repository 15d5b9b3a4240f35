"""Waiting for something, and not for ever, by a clock that tests can move."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from tallyroll.ports import Clock

T = TypeVar("T")


async def ends_within(clock: Clock, seconds: float, task: asyncio.Future[Any]) -> bool:
    """Whether a task ends before the time is over; it goes on, and what comes of it is for who began it."""
    if seconds > 0 and not task.done():
        patience = asyncio.ensure_future(clock.sleep(seconds))
        try:
            await asyncio.wait({task, patience}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            patience.cancel()
    return task.done()


async def within(clock: Clock, seconds: float, work: Coroutine[Any, Any, T]) -> T:
    """What the work gives. Raises TimeoutError, and cancels it, when the time is over first."""
    task = asyncio.ensure_future(work)
    try:
        if await ends_within(clock, seconds, task):
            return task.result()
        raise TimeoutError
    finally:
        task.cancel()
