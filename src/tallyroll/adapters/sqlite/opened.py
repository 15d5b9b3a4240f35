"""Opening in a thread what has threads and files of its own: who is cancelled meanwhile leaves nothing open."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def opened(make: Callable[[], T], close: Callable[[T], object]) -> T:
    """What ``make`` gives, made beside the event loop. Cancelled meanwhile, it is closed as soon as it is there; nobody waits for that."""
    turn = threading.Lock()
    left, made = False, list[T]()

    def work() -> T:
        one = make()
        with turn:
            if not left:
                made.append(one)
                return one
        close(one)
        raise asyncio.CancelledError  # to nobody

    try:
        return await asyncio.to_thread(work)
    except asyncio.CancelledError:
        with turn:
            left = True
        if made:  # it was there, and nobody had taken it yet
            asyncio.get_running_loop().run_in_executor(None, close, made[0])
        raise
