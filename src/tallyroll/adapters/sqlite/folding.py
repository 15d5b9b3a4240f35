"""Folding the write-ahead log into its file beside the thread that writes: inside a commit it would take 150 ms of everybody's time."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from typing import Final

from tallyroll.adapters.sqlite.guarded import Guarded

FOLD_BYTES: Final = 12 << 20  # of records, some 16 MB of write-ahead log between two times


class Folding:
    """Belongs to the thread that writes, which tells it of its commits. Owns the connection that it folds over, and closes it.

    Not promised: that the write-ahead log becomes short while somebody reads an old state; SQLite's own checkpoint, inside a
    commit, stays as the last bound.
    """

    def __init__(self, guarded: Guarded, *, fold_bytes: int = FOLD_BYTES) -> None:
        self._guarded = guarded
        self._fold_bytes = fold_bytes
        self._written = 0
        self._thread: threading.Thread | None = None

    def committed(self, size_bytes: int, writing: Guarded) -> None:
        """Begins to fold when there is enough, and ends it on the writer's connection, for what was committed meanwhile.

        That is little; and only when nothing is left does the next commit begin the write-ahead log anew.
        """
        self._written += size_bytes
        if self._thread is None:
            if self._written >= self._fold_bytes:
                self._written = 0
                thread = threading.Thread(target=self._fold, args=(self._guarded,), name="tallyroll-sqlite-folder", daemon=True)
                with contextlib.suppress(RuntimeError):  # the process ends, or may have no more threads
                    thread.start()
                    self._thread = thread
        elif not self._thread.is_alive():
            self._thread = None
            self._fold(writing)

    def close(self) -> None:
        """Waits for what is running."""
        if self._thread is not None:
            self._thread.join()
        self._guarded.close()

    def _fold(self, guarded: Guarded) -> None:
        # A disk that fails tells whoever writes next; what is not folded now is folded the next time.
        with contextlib.suppress(sqlite3.Error), guarded.use() as connection:
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
