"""Alerts posted to a URL as JSON, signed."""

from __future__ import annotations

import hashlib
import hmac
import ssl
from typing import Final
from urllib.parse import urlsplit

from tallyroll.adapters.http.posting import AWAY, Poster
from tallyroll.errors import SinkRefused, SinkUnavailable
from tallyroll.ports import Clock, Notice
from tallyroll.settings import Secret

SIGNATURE_HEADER: Final = "Tallyroll-Signature"
ID_HEADER: Final = "Tallyroll-Notice-Id"

_TOO_EARLY_OR_MANY: Final = (408, 425, 429)
_SERVER_ERROR: Final = 500
_OK: Final = range(200, 300)


def signature(secret: Secret, timestamp_s: int, body: bytes) -> str:
    """``t=SECONDS,v1=HEX``: HMAC-SHA256 over the seconds, a dot and the body.

    Who receives computes it anew, compares in constant time, and refuses what is older than a few minutes: without the
    time in it, a notice that was listened to could be posted again for ever.
    """
    digest = hmac.new(secret.reveal().encode(), b"%d.%s" % (timestamp_s, body), hashlib.sha256).hexdigest()
    return f"t={timestamp_s},v1={digest}"


class WebhookSink:
    """Implements ``ports.AlertSink``: POST of the notice's JSON document to one URL.

    2xx is taken; 408, 425, 429 and 5xx may pass; any other answer, redirects among them, is a refusal. Certificates and host
    names are checked against the system's authorities. Not promised: that an answer is read beyond its status.
    """

    name: Final = "webhook"

    def __init__(self, url: str, secret: Secret | None, *, clock: Clock, timeout_s: float = 5.0, tls: ssl.SSLContext | None = None) -> None:
        parts = urlsplit(url)
        self._path = f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}"
        self._secret = secret
        self._clock = clock
        self._poster = Poster(parts, what="webhook", timeout_s=timeout_s, tls=tls)

    async def send(self, notice: Notice) -> None:
        headers = {"Content-Type": "application/json", ID_HEADER: notice.id}
        if self._secret is not None:
            headers[SIGNATURE_HEADER] = signature(self._secret, self._clock.now_us() // 1_000_000, notice.body)
        try:
            status, _ = await self._poster.post(self._path, notice.body, headers)
        except AWAY as error:
            raise SinkUnavailable(self.name, type(error).__name__) from None
        if status in _OK:
            return
        if status >= _SERVER_ERROR or status in _TOO_EARLY_OR_MANY:
            raise SinkUnavailable(self.name, f"HTTP {status}")
        raise SinkRefused(self.name, f"HTTP {status}")

    async def close(self) -> None:
        self._poster.close()
