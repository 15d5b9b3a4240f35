"""Carries questions to a key ring, and its answers, over HTTP. They are sealed already; TLS is for who would rather not show that."""

from __future__ import annotations

import ssl
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

from tallyroll.adapters.http.posting import AWAY, Poster
from tallyroll.errors import KeyRingUnavailable

PATH: Final = "/key-ring"
_MOST_READ: Final = 1 << 21  # bytes of an answer: some 8,000 keys that were drawn at once take a quarter
_HEADERS: Final = {"Content-Type": "application/octet-stream"}


class HttpKeyRing:
    """Posts to ``URL/key-ring``, one connection each time, from whatever thread asks. Certificates and host names are checked."""

    def __init__(self, url: str, *, timeout_s: float = 5.0, tls: ssl.SSLContext | None = None) -> None:
        parts = urlsplit(url)
        self.name = f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)
        self._path = f"{parts.path.rstrip('/')}{PATH}"
        self._poster = Poster(parts, what="key ring", timeout_s=timeout_s, tls=tls, most_read=_MOST_READ)

    def carry(self, question: bytes) -> bytes:
        """The answer. Blocks. Raises KeyRingUnavailable."""
        try:
            status, answer = self._poster.post_now(self._path, question, _HEADERS)
        except AWAY as error:
            raise KeyRingUnavailable(self.name, f"who keeps the key ring does not answer ({type(error).__name__})") from None
        if status == HTTPStatus.FORBIDDEN:
            raise KeyRingUnavailable(self.name, "it does not have the same secret (AUDIT_SECRET_KEY)")
        if status != HTTPStatus.OK:
            raise KeyRingUnavailable(self.name, f"HTTP {status}")
        return answer

    def close(self) -> None:
        """Idempotent."""
        self._poster.close()
