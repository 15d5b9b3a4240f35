"""A small file that only its owner may read, sealed as a whole, and replaced at once or not at all."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tallyroll.errors import KeyRingUnavailable

Fault = Callable[[str], None]
"""Called between two steps with the name of the place, so that a test can end the process there."""

NONCE: Final = 12
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


def seal(head: bytes, key: bytes, text: bytes) -> bytes:
    """Head in clear, but authenticated; then a random nonce and the sealed text."""
    nonce = os.urandom(NONCE)
    return head + nonce + AESGCM(key).encrypt(nonce, text, head)


def unseal(path: Path, content: bytes, head: int, key: bytes) -> bytes:
    """The text behind a head of that length. Raises KeyRingUnavailable where a byte is not as it was written."""
    try:
        return AESGCM(key).decrypt(content[head : head + NONCE], content[head + NONCE :], content[:head])
    except (InvalidTag, ValueError):
        raise KeyRingUnavailable(str(path), "its content is damaged; restore it from a backup") from None


def read(path: Path) -> bytes:
    """The content. Raises KeyRingUnavailable where it is missing, no plain file, another user's, or open to others."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & _OTHERS:
                raise KeyRingUnavailable(str(path), "others than its owner may use it; chown it, then chmod 600")
            return file.read()
    except OSError as error:
        raise KeyRingUnavailable(str(path), os.strerror(error.errno or 0)) from None


def replace(path: Path, content: bytes, fault: Fault) -> None:
    """Puts new content in place: another process sees the old or the new, and after the return only the new, on disk too."""
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        fault(f"{path.suffix}: begin")
        temporary.unlink(missing_ok=True)  # left by a crash; writers take turns
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        fault(f"{path.suffix}: written")
        temporary.replace(path)
        fault(f"{path.suffix}: in place")
        sync_folder(path.parent)
    except OSError as error:
        raise KeyRingUnavailable(str(path), os.strerror(error.errno or 0)) from None
    fault(f"{path.suffix}: on disk")


def sync_folder(folder: Path) -> None:
    """Makes names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
