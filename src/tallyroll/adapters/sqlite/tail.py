"""Where the log ends now, as far as this process knows: what pollers wait on.

The writer tells of its own commits at once. Those of other processes are noticed by a thread that asks SQLite every few
milliseconds whether anybody has committed.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import threading
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Final, TypeVar

from tallyroll.adapters.sqlite.guarded import Guarded

K = TypeVar("K")

# What a follower in another process waits for at the most, against 200 wake-ups a second of an idle process.
WATCH_INTERVAL_S: Final = 0.005

_SNAPSHOT: Final = """
SELECT (SELECT json_group_array(json_array(number, next_offset)) FROM partitions),
       (SELECT json_group_object(name, generation) FROM groups)
"""


def wake(futures: Iterable[asyncio.Future[None]]) -> None:
    """Resolves futures of any event loops from any thread: one call per loop, however many wait there."""
    by_loop: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = defaultdict(list)
    for future in futures:
        by_loop[future.get_loop()].append(future)
    for loop, waiting in by_loop.items():
        try:
            loop.call_soon_threadsafe(_resolve, waiting)
        except RuntimeError:  # that loop is closed, and with it whoever waited; the others are not
            continue


def _resolve(futures: Iterable[asyncio.Future[None]]) -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)


class Tail:
    """Known ends per partition number and generations per group; both only grow. For any thread.

    Not promised: to be up to date; asking the database is.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ends: dict[int, int] = {}
        self._generations: dict[str, int] = {}
        self._waiting: set[asyncio.Future[None]] = set()
        self._version = 0

    @property
    def version(self) -> int:
        """Rises with every change. Read it before looking, hand it to ``changed``, and nothing is missed."""
        return self._version

    def end(self, number: int) -> int:
        """One past the last known offset."""
        return self._ends.get(number, 0)

    def generation(self, group: str) -> int:
        """Rises whenever the members of the group have something to settle."""
        return self._generations.get(group, 0)

    def advance(self, ends: Mapping[int, int], generations: Mapping[str, int] | None = None) -> None:
        """Takes in what is committed, and wakes who waits if it is news."""
        with self._lock:
            changed = _raise_to(self._ends, ends)
            if generations is not None:
                changed = _raise_to(self._generations, generations) or changed
            if not changed:
                return
            self._version += 1
            waiting, self._waiting = self._waiting, set()
        wake(waiting)

    def refresh(self, connection: sqlite3.Connection) -> None:
        """Takes in what the database says; one step of SQLite, see ``blocks`` for why."""
        ends, generations = connection.execute(_SNAPSHOT).fetchone()
        self.advance(dict(json.loads(ends)), json.loads(generations))

    async def changed(self, seen: int, timeout_s: float) -> None:
        """Returns when ``version`` is no longer ``seen``, at the latest after the time-out."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        with self._lock:
            if self._version != seen:
                return
            self._waiting.add(future)
        try:
            await asyncio.wait((future,), timeout=timeout_s)
        finally:
            with self._lock:
                self._waiting.discard(future)


def _raise_to(known: dict[K, int], news: Mapping[K, int]) -> bool:
    changed = False
    for key, value in news.items():
        if value > known.get(key, -1):
            known[key] = value
            changed = True
    return changed


class Watcher:
    """The thread that notices what other processes commit. It owns the connection and closes it."""

    def __init__(self, guarded: Guarded, tail: Tail) -> None:
        self._guarded = guarded
        self._tail = tail
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tallyroll-sqlite-watcher", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stops the thread and waits for it."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        seen = None
        while not self._stop.wait(WATCH_INTERVAL_S):
            try:
                with self._guarded.use() as connection:
                    version = (connection, connection.execute("PRAGMA data_version").fetchone()[0])
                    if version != seen:
                        self._tail.refresh(connection)
                        seen = version
            except sqlite3.Error:  # locked or unreadable now; whoever reads will be told, this only looks again
                continue
        self._guarded.close()
