"""The segments of the archive on any file system that Arrow knows: a folder, a bucket, memory."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from pyarrow import fs


class ArrowSegmentFiles:
    """``SegmentFiles`` in one folder of a ``pyarrow.fs.FileSystem``, or under one prefix of an object store.

    Durability: ``put`` returns when the file system says that it is stored, which object stores mean; on a local disk nothing
    is synced, so use ``LocalSegmentFiles`` there. ``open`` maps local files where the file system was made with ``use_mmap``,
    and reads all of a remote one, which stays in memory while it is open.
    Not promised: that a crash on a local disk leaves what was put last.
    """

    def __init__(self, file_system: fs.FileSystem, folder: str) -> None:
        self._file_system = file_system
        self._folder = folder.rstrip("/")

    def put(self, name: str, content: bytes) -> None:
        self._file_system.create_dir(self._folder, recursive=True)
        temporary = self._path(f".{name}.tmp")
        try:
            with self._file_system.open_output_stream(temporary) as stream:
                stream.write(content)
            self._file_system.move(temporary, self._path(name))
        except OSError:
            with contextlib.suppress(OSError):
                self._file_system.delete_file(temporary)  # a full disk is not left fuller
            raise

    def open(self, name: str) -> memoryview:
        with self._file_system.open_input_file(self._path(name)) as file:
            return memoryview(file.read_buffer())

    def size(self, name: str) -> int | None:
        found = self._file_system.get_file_info(self._path(name))
        return found.size if found.type == fs.FileType.File else None

    def names(self) -> Sequence[str]:
        selector = fs.FileSelector(self._folder, allow_not_found=True)
        return [found.base_name for found in self._file_system.get_file_info(selector) if found.type == fs.FileType.File]

    def remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._file_system.delete_file(self._path(name))

    def _path(self, name: str) -> str:
        return f"{self._folder}/{name}"
