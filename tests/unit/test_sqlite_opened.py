"""Who is cancelled while a log or a store is being opened leaves no thread and no file open."""

from __future__ import annotations

import asyncio
import threading
from functools import partial
from pathlib import Path, PosixPath
from typing import Any

import pytest
from tests.patience import PATIENCE_S

from tallyroll.adapters.sqlite import SqliteLog
from tallyroll.adapters.sqlite.opened import opened
from tallyroll.errors import StoreUnavailable
from tallyroll.events.topics import Catalogue
from tallyroll.testing.clock import FakeClock


class Thing:
    """Is made when it is let, and remembers being closed."""

    def __init__(self, *, held: bool) -> None:
        self.begun, self.let, self.closed = threading.Event(), threading.Event(), threading.Event()
        if not held:
            self.let.set()

    def make(self) -> Thing:
        self.begun.set()
        assert self.let.wait(PATIENCE_S)
        return self

    def close(self) -> None:
        self.closed.set()


async def test_what_is_made_is_given_and_stays_open() -> None:
    thing = Thing(held=False)
    assert await opened(thing.make, Thing.close) is thing
    assert not thing.closed.is_set()


async def test_what_cannot_be_made_is_an_error() -> None:
    def fail() -> Thing:
        raise StoreUnavailable("x", "away")

    with pytest.raises(StoreUnavailable):
        await opened(fail, Thing.close)


async def test_cancelled_while_it_is_made_it_is_closed_once_it_is_there() -> None:
    thing = Thing(held=True)
    task = asyncio.create_task(opened(thing.make, Thing.close))
    assert await asyncio.to_thread(thing.begun.wait, PATIENCE_S)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not thing.closed.is_set()
    thing.let.set()
    assert await asyncio.to_thread(thing.closed.wait, PATIENCE_S)


async def test_cancelled_before_it_is_taken_it_is_closed() -> None:
    """Made, and the event loop has not come to hear of it."""
    thing = Thing(held=True)
    task = asyncio.create_task(opened(thing.make, Thing.close))
    assert await asyncio.to_thread(thing.begun.wait, PATIENCE_S)
    asyncio.get_running_loop().call_soon(partial(_made_then_cancelled, thing, task))
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(thing.closed.wait, PATIENCE_S)


def _made_then_cancelled(thing: Thing, task: asyncio.Task[Thing]) -> None:
    thing.let.set()
    task.cancel()


def test_a_log_whose_opening_was_cancelled_leaves_no_thread(tmp_path: Path) -> None:
    begun, let = threading.Event(), threading.Event()

    class Held(PosixPath):
        """Is the first thing that is asked for when a log is opened."""

        def mkdir(self, *args: Any, **more: Any) -> None:
            begun.set()
            assert let.wait(PATIENCE_S)
            super().mkdir(*args, **more)

    async def cancelled() -> None:
        task = asyncio.create_task(SqliteLog.open(Held(tmp_path / "log"), Catalogue(), clock=FakeClock()))
        assert await asyncio.to_thread(begun.wait, PATIENCE_S)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        let.set()

    asyncio.run(cancelled())  # waits for its pool, and with it for what was still being opened
    assert (tmp_path / "log" / "log.db").exists()
    assert [one.name for one in threading.enumerate() if one.name.startswith("tallyroll-sqlite")] == []
