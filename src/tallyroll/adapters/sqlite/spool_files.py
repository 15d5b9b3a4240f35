"""The files of spools in their folder: whose they are, and what an error of SQLite says of one."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import sqlite3
from pathlib import Path
from typing import Final

from tallyroll.errors import SettingsError, StoreUnavailable
from tallyroll.events.ids import new_id

_BUSY_MS: Final = 5_000
# What may pass while the file stays what it is. Of the failures of a disk those of reading are the file's own.
_PASSING: Final = tuple(
    f"SQLITE_{name}" for name in ("FULL", "IOERR", "BUSY", "LOCKED", "CANTOPEN", "READONLY", "PERM", "PROTOCOL", "NOMEM")
)
_UNREADABLE: Final = tuple(f"SQLITE_IOERR_{name}" for name in ("READ", "SHORT_READ", "DATA", "CORRUPTFS"))


def connect(path: Path | None) -> sqlite3.Connection:
    """A connection to one of them, None: in memory. What it has committed survives a power cut. Raises what SQLite raises."""
    connection = sqlite3.connect(path or ":memory:", isolation_level=None, check_same_thread=False, timeout=_BUSY_MS / 1000)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
    except BaseException:
        connection.close()
        raise
    return connection


def passes(error: sqlite3.Error) -> bool:
    """Whether the file may be as it was written, and only its disk, its rights or another process keep us from it."""
    name = getattr(error, "sqlite_errorname", None) or ""
    return name.startswith(_PASSING) and not name.startswith(_UNREADABLE)


def claim_new(folder: Path) -> tuple[Path, int]:
    """A name for a new file, and its lock. Raises SettingsError where no folder can be made, StoreUnavailable while the disk is full."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{new_id()}.db"
        return path, _lock(path)
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise StoreUnavailable(f"spool {folder}", "the disk is full; free some space, nothing was written") from None
        raise SettingsError("TALLYROLL_DATA_DIR", f"the spool cannot be made there: {error.strerror}") from None


def _lock(path: Path) -> int:
    descriptor = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def orphans(folder: Path, own: Path | None) -> list[tuple[Path, int]]:
    """Files of dead processes, oldest first, each locked by us now."""
    found = []
    for path in sorted(folder.glob("*.db")):
        if path != own:
            with contextlib.suppress(OSError):
                found.append((path, _lock(path)))
    return found


def delete(path: Path) -> None:
    """The file is gone, with what SQLite keeps beside it and its lock."""
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    path.with_suffix(".lock").unlink(missing_ok=True)
