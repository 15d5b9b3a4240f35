"""A witness that is asked over HTTP, as c2sp.org/tlog-witness describes it."""

from __future__ import annotations

import ssl
from base64 import b64encode
from collections.abc import Sequence
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

from tallyroll.adapters.http.posting import AWAY, Poster
from tallyroll.errors import WitnessRefused, WitnessUnavailable

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
        self._poster = Poster(parts, what="witness", timeout_s=timeout_s, tls=tls)

    @property
    def name(self) -> str:
        return self._host if self._port is None else f"{self._host}:{self._port}"

    async def add(self, old_size: int, note: bytes, proof: Sequence[bytes]) -> bytes:
        lines = [f"old {old_size}", *(b64encode(one).decode() for one in proof), "", ""]
        body = "\n".join(lines).encode() + note
        try:
            status, answer = await self._poster.post(self._path, body, {"Content-Type": "text/plain; charset=utf-8"})
        except AWAY as error:
            raise WitnessUnavailable(self.name, type(error).__name__) from None
        if status == HTTPStatus.OK:
            return answer
        if status not in _REFUSALS:
            raise WitnessUnavailable(self.name, f"HTTP {status}")
        said = answer.strip()
        known = int(said) if status == HTTPStatus.CONFLICT and said.isdigit() and len(said) <= _DIGITS else None
        raise WitnessRefused(status, known)

    async def close(self) -> None:
        self._poster.close()
