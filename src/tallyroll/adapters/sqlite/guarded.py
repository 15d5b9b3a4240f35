"""Connections that are closed for the moment of a fork.

SQLite keeps its knowledge of file locks in memory of the process, and a forked child inherits it with locks that are not
its own: it would believe to hold what only the parent holds, and the two would damage the file. So nothing of SQLite may
be open, or at work in another thread, when a process forks. Source: "How To Corrupt An SQLite Database File", 2.6.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Final

# How long a fork waits for transactions at work; longer than those wait for a lock by default.
_FORK_WAIT_S: Final = 10.0


class Guarded:
    """One connection and the lock that whoever uses it holds. Opened at first use, and again after a fork.

    ``keep``: for a database in memory, which would be lost by closing. ``torn`` is true in a child whose parent could not
    be brought to rest in time; nothing may then be opened there.
    """

    def __init__(self, connect: Callable[[], sqlite3.Connection], *, keep: bool) -> None:
        self._connect = connect
        self._keep = keep
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._at_rest = False
        self.torn = False
        with _registering:
            _everything.add(self)

    @contextlib.contextmanager
    def use(self) -> Iterator[sqlite3.Connection]:
        """The connection, for the block alone. After a fork it is another one, whose ``data_version`` starts anew."""
        with self._lock:
            if self._connection is None:
                self._connection = self._connect()
            yield self._connection

    def close(self) -> None:
        """Closes it; a later use would open it again."""
        with self._lock:
            self._close()

    def rest(self, deadline: float) -> None:
        """Before a fork: waits for whoever uses it, closes it, and lets nobody in."""
        self._at_rest = self._lock.acquire(timeout=max(0.0, deadline - time.monotonic()))
        if self._at_rest and not self._keep:
            self._close()

    def go_on(self) -> None:
        """In the parent after the fork."""
        if self._at_rest:
            self._lock.release()

    def stay_behind(self) -> None:
        """In the child after the fork: nobody here uses it any more, and its lock stays taken."""
        self.torn = not self._at_rest

    def _close(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None


_registering: Final = threading.Lock()
_everything: Final[weakref.WeakSet[Guarded]] = weakref.WeakSet()
_resting: Final[list[Guarded]] = []
# What is torn, or in memory, must not be collected, and thereby closed, in the child.
_left_to_the_parent: Final[list[Guarded]] = []


def _before_fork() -> None:
    _registering.acquire()
    deadline = time.monotonic() + _FORK_WAIT_S
    _resting.extend(_everything)
    for guarded in _resting:
        guarded.rest(deadline)


def _after_fork_in_parent() -> None:
    for guarded in _resting:
        guarded.go_on()
    _resting.clear()
    _registering.release()


def _after_fork_in_child() -> None:
    for guarded in _resting:
        guarded.stay_behind()
    _left_to_the_parent.extend(_resting)
    _resting.clear()
    _everything.clear()
    _registering.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
