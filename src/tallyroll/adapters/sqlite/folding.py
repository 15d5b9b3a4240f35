"""Folding a write-ahead log into its file beside whoever commits: inside a commit it would take 50 to 150 ms of everybody's time."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Final

FOLD_BYTES: Final = 16 << 20  # of write-ahead log between two times
MOST_BYTES: Final = 4 * FOLD_BYTES  # where folding beside the commits does not keep up, one of them does it
_PASSES: Final = 3  # each folds what was committed during the one before it; one that nothing was committed in syncs, in the writer's place

Using = Callable[[], AbstractContextManager[sqlite3.Connection]]
"""Gives a connection for as long as the block takes."""


class Folding:
    """Belongs to the thread that writes, which tells it of its commits. ``beside`` gives a connection that nobody else uses.

    Not promised: that the write-ahead log becomes short while somebody reads an old state; SQLite's own checkpoint, inside a
    commit, stays as the last bound.
    """

    def __init__(self, beside: Using, *, fold_bytes: int = FOLD_BYTES) -> None:
        self._beside = beside
        self._fold_bytes = fold_bytes
        self._written = 0
        self._thread: threading.Thread | None = None

    def committed(self, size_bytes: int, writing: Using) -> None:
        """Begins to fold when there is enough, and ends it on the writer's connection, for what was committed meanwhile.

        That is little; and only when nothing is left does the next commit begin the write-ahead log anew.
        """
        self._written += size_bytes
        if self._thread is None:
            if self._written >= self._fold_bytes:
                self._written = 0
                thread = threading.Thread(target=_fold, args=(self._beside, _PASSES), name="tallyroll-sqlite-folder", daemon=True)
                with contextlib.suppress(RuntimeError):  # the process ends, or may have no more threads
                    thread.start()
                    self._thread = thread
        elif not self._thread.is_alive():
            self._thread = None
            _fold(writing)

    def close(self) -> None:
        """Waits for what is running."""
        if self._thread is not None:
            self._thread.join()


def _fold(using: Using, passes: int = 1) -> None:
    # A disk that fails tells whoever writes next; what is not folded now is folded the next time.
    with contextlib.suppress(sqlite3.Error, OSError), using() as connection:
        for _ in range(passes):
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
