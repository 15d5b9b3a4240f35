"""A witness that is asked over HTTP, as c2sp.org/tlog-witness describes it. Standard library only, in one thread."""

from __future__ import annotations

import asyncio
import http.client
import ssl
from base64 import b64encode
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

from tallyroll.errors import WitnessRefused, WitnessUnavailable

_MOST_READ: Final = 65_536
_DIGITS: Final = 19
_REFUSALS: Final = (400, 403, 404, 409, 422)


class HttpWitness:
    """Implements ``ports.Witness``: POST to ``URL/add-checkpoint``. Certificates and host names are checked.

    Not promised: that it is another party's; who has its URL and who runs it is for people to see to.
    """

    def __init__(self, url: str, *, timeout_s: float = 5.0, tls: ssl.SSLContext | None = None) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port
        self._path = f"{parts.path.rstrip('/')}/add-checkpoint"
        self._tls = (tls or ssl.create_default_context()) if parts.scheme == "https" else None
        self._timeout_s = timeout_s
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tallyroll witness")

    @property
    def name(self) -> str:
        return self._host if self._port is None else f"{self._host}:{self._port}"

    async def add(self, old_size: int, note: bytes, proof: Sequence[bytes]) -> bytes:
        lines = [f"old {old_size}", *(b64encode(one).decode() for one in proof), "", ""]
        body = "\n".join(lines).encode() + note
        try:
            status, answer = await asyncio.get_running_loop().run_in_executor(self._thread, self._post, body)
        except (OSError, http.client.HTTPException) as error:  # TimeoutError and every SSLError among them
            raise WitnessUnavailable(self.name, type(error).__name__) from None
        if status == HTTPStatus.OK:
            return answer
        if status not in _REFUSALS:
            raise WitnessUnavailable(self.name, f"HTTP {status}")
        said = answer.strip()
        known = int(said) if status == HTTPStatus.CONFLICT and said.isdigit() and len(said) <= _DIGITS else None
        raise WitnessRefused(status, known)

    async def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _post(self, body: bytes) -> tuple[int, bytes]:
        connection: http.client.HTTPConnection
        if self._tls is None:
            connection = http.client.HTTPConnection(self._host, self._port, timeout=self._timeout_s)
        else:
            connection = http.client.HTTPSConnection(self._host, self._port, timeout=self._timeout_s, context=self._tls)
        try:
            connection.request("POST", self._path, body, {"Content-Type": "text/plain; charset=utf-8", "User-Agent": "tallyroll"})
            response = connection.getresponse()
            return response.status, response.read(_MOST_READ)
        finally:
            connection.close()
