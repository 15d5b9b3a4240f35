"""POST requests of the standard library, over connections that are checked, in a thread of their own."""

from __future__ import annotations

import asyncio
import http.client
import ssl
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final
from urllib.parse import SplitResult

AWAY: Final = (OSError, http.client.HTTPException)
"""What ``post`` raises where there is no answer: TimeoutError and every SSLError among them."""

_MOST_READ: Final = 65_536  # of an answer, unless somebody says more


class Poster:
    """Posts to one server, one request after the other; certificates and host names are checked, redirects not followed."""

    def __init__(
        self, server: SplitResult, *, what: str, timeout_s: float, tls: ssl.SSLContext | None, most_read: int = _MOST_READ
    ) -> None:
        self._host, self._port = server.hostname or "", server.port
        self._tls = (tls or ssl.create_default_context()) if server.scheme == "https" else None
        self._timeout_s = timeout_s
        self._most_read = most_read
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"tallyroll {what}")

    async def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
        """The status and the beginning of the answer. Raises one of ``AWAY``."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self.post_now, path, body, headers)

    def close(self) -> None:
        """Sends nothing more; waits for nothing."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def post_now(self, path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
        """The same from the thread that calls, which it blocks; several may at once."""
        connection: http.client.HTTPConnection
        if self._tls is None:
            connection = http.client.HTTPConnection(self._host, self._port, timeout=self._timeout_s)
        else:
            connection = http.client.HTTPSConnection(self._host, self._port, timeout=self._timeout_s, context=self._tls)
        try:
            connection.request("POST", path, body, {"User-Agent": "tallyroll", **headers})
            answer = connection.getresponse()
            return answer.status, answer.read(self._most_read)
        finally:
            connection.close()
