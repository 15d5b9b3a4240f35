"""A few small pages over HTTP, answered by threads of their own: an event loop that hangs can still be asked how it is."""

from __future__ import annotations

import errno
import logging
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, NamedTuple

from tallyroll.errors import SettingsError

log: Final = logging.getLogger("tallyroll.http")

_SILENCE_S: Final = 5.0  # a client that says nothing for so long is let go
_DIGITS: Final = 9
_MAX_CLIENTS: Final = 32  # threads; a scraper and some probes need three
_REASONS: Final[Mapping[int, str]] = {
    errno.EADDRINUSE: "is in use by another process",
    errno.EACCES: "needs rights that this process does not have",
    errno.EADDRNOTAVAIL: "is no address of this machine",
}


class Answer(NamedTuple):
    """What a page says."""

    status: int
    content_type: str
    body: bytes


Page = Callable[[str], Answer]
"""A page: takes the header ``Accept`` ("" without one), gives the answer. Called from several threads; must be quick."""


Post = Callable[[bytes], Answer]
"""Takes what was posted, gives the answer. Called from several threads."""

MAX_POSTED: Final = 1 << 19
"""Bytes that may be posted."""


@contextmanager
def served(  # noqa: PLR0913  # where, what, and for how long
    host: str,
    port: int,
    pages: Mapping[str, Page],
    *,
    setting: str,
    posts: Mapping[str, Post] | None = None,
    silence_s: float = _SILENCE_S,
) -> Iterator[str]:
    """Serves the pages by their paths while the block runs; gives the URL, with the real port where 0 asked for any free one.

    Listening when it returns. GET and HEAD, POST for ``posts``; no TLS, no password: keep it on an address that only your machines reach.
    A client that says nothing for ``silence_s`` is let go.
    Raises SettingsError, which names ``setting``, where the address cannot be had. Not promised: requests under way at the
    end of the block are answered.
    """
    try:
        server = _Server(host, port, pages, posts or {}, silence_s)
    except OSError as error:
        raise SettingsError(setting, _refusal(host, port, error)) from None
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, name="tallyroll http", daemon=True)
    thread.start()
    try:
        yield f"http://{_shown(host)}:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def why_not_served(host: str, port: int) -> str | None:
    """Why nothing can be served at that address now; None where it can. Who asks and serves later may find it taken all the same."""
    try:
        _Server(host, port, {}, {}, _SILENCE_S).server_close()
    except OSError as error:
        return _refusal(host, port, error)
    return None


def _refusal(host: str, port: int, error: OSError) -> str:
    reason = "is not known" if isinstance(error, socket.gaierror) else _REASONS.get(error.errno or 0, error.strerror or "failed")
    return f"{_shown(host)}:{port} {reason}"


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64  # with the five of the parent a burst of clients waits seconds for its turn
    block_on_close = False  # a client that hangs does not hold back the end of the process

    def __init__(self, host: str, port: int, pages: Mapping[str, Page], posts: Mapping[str, Post], silence_s: float) -> None:
        self.pages = pages
        self.posts = posts
        self.silence_s = silence_s
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._places = threading.Semaphore(_MAX_CLIENTS)
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        """As the parent's parent: the name of the host is asked of nobody, which could take seconds."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]  # as the parent has it

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401  # as the parent has it
        """A thread for the request, unless too many are busy: then the connection is closed."""
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:  # noqa: ANN401  # as the parent has it
        """As the parent, and the place is free again."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401, ARG002  # as the parent has it
        """A client that went away in the middle is nobody's fault."""
        log.debug("a request ended early")


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def setup(self) -> None:
        """As the parent, with an end to silence."""
        self.request.settimeout(self.server.silence_s)
        super().setup()

    def version_string(self) -> str:
        """Who answers; not which Python."""
        return "tallyroll"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # as the parent has it
        """Every few seconds somebody asks: that is no news."""
        log.debug(format, *args)

    def do_GET(self) -> None:  # as the parent looks for it
        self._answer(self._find(self.path.partition("?")[0]), with_body=True)

    def do_HEAD(self) -> None:  # as the parent looks for it
        self._answer(self._find(self.path.partition("?")[0]), with_body=False)

    def do_POST(self) -> None:  # as the parent looks for it
        self._answer(self._take(self.path.partition("?")[0]), with_body=True)

    def _take(self, path: str) -> Answer:
        if not self.server.posts:
            self.close_connection = True
            return Answer(HTTPStatus.NOT_IMPLEMENTED, "text/plain; charset=utf-8", b"nothing is taken here\n")
        post, length = self.server.posts.get(path), self.headers.get("Content-Length", "")
        if post is None:
            return Answer(HTTPStatus.NOT_FOUND, "text/plain; charset=utf-8", b"nothing is taken there\n")
        if not length.isascii() or not length.isdecimal() or len(length) > _DIGITS or int(length) > MAX_POSTED:
            self.close_connection = True
            return Answer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "text/plain; charset=utf-8", b"too long, or nobody knows how long\n")
        try:
            return post(self.rfile.read(int(length)))
        except Exception:  # whatever it raises must not show to strangers
            log.exception("what was posted to %s failed", path)
            return Answer(HTTPStatus.INTERNAL_SERVER_ERROR, "text/plain; charset=utf-8", b"failed\n")

    def _answer(self, answer: Answer, *, with_body: bool) -> None:
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if with_body:
            self.wfile.write(answer.body)

    def _find(self, path: str) -> Answer:
        page = self.server.pages.get(path)
        if page is None:
            known = "".join(f"{one}\n" for one in self.server.pages)
            return Answer(HTTPStatus.NOT_FOUND, "text/plain; charset=utf-8", f"there is:\n{known}".encode())
        try:
            return page(self.headers.get("Accept", ""))
        except Exception:  # whatever a page raises must not show to strangers
            log.exception("the page %s failed", path)
            return Answer(HTTPStatus.INTERNAL_SERVER_ERROR, "text/plain; charset=utf-8", b"failed\n")
