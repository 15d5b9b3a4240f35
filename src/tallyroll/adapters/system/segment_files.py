"""The segments of the archive as files of a local folder."""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Sequence
from pathlib import Path

from tallyroll.adapters.durable import Fault, no_fault, sync_folder


class LocalSegmentFiles:
    """``SegmentFiles`` in one folder, made when the first file is put.

    Durability: ``put`` returns after fsync of the file and of its folder; a crash before leaves at most a temporary file.
    Not promised: use over a network file system.
    """

    def __init__(self, folder: Path, *, fault: Fault = no_fault) -> None:
        self._folder = folder
        self._fault = fault

    def put(self, name: str, content: bytes) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        temporary = self._folder / f".{name}.tmp"
        try:
            with temporary.open("wb") as file:
                file.write(content)
                self._fault("file written")
                file.flush()
                os.fsync(file.fileno())
            self._fault("file synced")
            temporary.replace(self._folder / name)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)  # a full disk is not left fuller
            raise
        self._fault("file renamed")
        for folder in (self._folder, self._folder.parent):  # its own entry may be new as well
            sync_folder(folder)

    def open(self, name: str) -> memoryview:
        with (self._folder / name).open("rb") as file:
            if not os.fstat(file.fileno()).st_size:
                return memoryview(b"")  # an empty file cannot be mapped
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))

    def size(self, name: str) -> int | None:
        try:
            return (self._folder / name).stat().st_size
        except FileNotFoundError:
            return None

    def names(self) -> Sequence[str]:
        try:
            return [path.name for path in self._folder.iterdir()]
        except FileNotFoundError:
            return []

    def remove(self, name: str) -> None:
        (self._folder / name).unlink(missing_ok=True)
