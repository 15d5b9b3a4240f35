"""A small file that several processes change in turn, each seeing what the one before has left."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from tallyroll.adapters.durable import replace
from tallyroll.errors import WitnessUnavailable


class SharedFile:
    """Implements ``ports.WitnessMemory``: replaced as a whole by a rename, file and folder synced, under a lock beside it.

    Not promised: use over a network file system without locks.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def changing(self, change: Callable[[bytes], bytes]) -> None:
        try:
            with self._turn():
                before = self._path.read_bytes() if self._path.exists() else b""
                after = change(before)
                if after != before:
                    replace(self._path, after)
        except OSError as error:
            raise WitnessUnavailable(str(self._path), os.strerror(error.errno or 0)) from None

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self._path.with_name(f"{self._path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
