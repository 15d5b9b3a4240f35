"""Files that only their owner may read, replaced as a whole, and on disk when that returns."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

Fault = Callable[[str], None]
"""Called between two steps with the name of the place, so that a test can end the process there."""


def no_fault(_point: str) -> None:
    """The fault of everyday: none."""


def replace(path: Path, content: bytes, *, fault: Fault = no_fault) -> None:
    """Puts new content in place: another process sees the old or the new, and after the return only the new, on disk too.

    Writers take turns; who calls sees to that. Raises OSError.
    """
    temporary = path.with_name(f"{path.name}.tmp")
    fault("begin")
    temporary.unlink(missing_ok=True)  # left by a crash
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)
    fault("written")
    temporary.replace(path)
    fault("in place")
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Makes names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
