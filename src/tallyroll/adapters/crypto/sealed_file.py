"""A small file that only its owner may read, sealed as a whole, and replaced at once or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tallyroll.adapters import durable
from tallyroll.adapters.durable import Fault
from tallyroll.errors import KeyRingUnavailable

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
    """Puts new content in place, as ``adapters.durable`` does. Raises KeyRingUnavailable."""
    try:
        durable.replace(path, content, fault=lambda point: fault(f"{path.suffix}: {point}"))
    except OSError as error:
        raise KeyRingUnavailable(str(path), os.strerror(error.errno or 0)) from None
    fault(f"{path.suffix}: on disk")
