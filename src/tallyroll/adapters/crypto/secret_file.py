"""A secret in a file that only its owner may read: made once, whichever process comes first, and the same ever after."""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path
from tempfile import mkstemp
from typing import Final

from tallyroll.adapters.crypto import sealed_file
from tallyroll.adapters.durable import sync_folder
from tallyroll.errors import KeyRingUnavailable

log: Final = logging.getLogger("tallyroll.audit")

_SECRET_BYTES: Final = 32


def secret_in(path: Path, *, what: str = "the secret of the audit ledger") -> bytes:
    """The secret in that file, 32 random bytes made now where there is none; then one warning says where it is.

    Durable when it returns. Raises KeyRingUnavailable where the file cannot be used, or others than its owner may read it.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            _make(path, what)
    except OSError as error:
        raise KeyRingUnavailable(str(path), os.strerror(error.errno or 0)) from None
    try:
        secret = bytes.fromhex(sealed_file.read(path).decode())
    except ValueError:
        secret = b""
    if len(secret) != _SECRET_BYTES:
        raise KeyRingUnavailable(str(path), "it holds no secret; restore it from a copy")
    return secret


def _make(path: Path, what: str) -> None:
    """Linked into place whole: another process sees all of it or nothing, and the first one wins."""
    descriptor, name = mkstemp(prefix=f"{path.name}.", dir=path.parent)  # of mode 0600
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(os.urandom(_SECRET_BYTES).hex() + "\n")
            file.flush()
            os.fsync(descriptor)
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
            log.warning("made %s in %s; keep a copy elsewhere", what, path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
