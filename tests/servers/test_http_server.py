"""Pages over HTTP on a real port: what is answered, what is not, and that nobody can hold the server up."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Iterator
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import pytest
from tests.patience import PATIENCE_S

from tallyroll.adapters.http.server import Answer, served
from tallyroll.errors import SettingsError

pytestmark = [pytest.mark.server, pytest.mark.slow]


def broken(_: str) -> Answer:
    raise RuntimeError("canary-in-a-page")


PAGES = {"/well": lambda accept: Answer(200, "text/plain", f"well, {accept}".encode()), "/broken": broken}


@pytest.fixture
def url() -> Iterator[str]:
    with served("127.0.0.1", 0, PAGES, setting="--http") as url:
        yield url


@pytest.fixture
def patient_url() -> Iterator[str]:
    """Of a server that lets nobody go for saying nothing, as long as a test waits."""
    with served("127.0.0.1", 0, PAGES, setting="--http", silence_s=2 * PATIENCE_S) as url:
        yield url


def ask(url: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    try:
        with urlopen(Request(url, method=method, headers=headers), timeout=PATIENCE_S) as answer:  # noqa: S310  # our own server
            return answer.status, dict(answer.headers), answer.read()
    except HTTPError as error:
        return error.code, dict(error.headers), error.read()


def test_a_page_is_answered_with_its_type_and_what_was_accepted(url: str) -> None:
    status, headers, body = ask(f"{url}/well?x=1", Accept="text/plain")
    assert (status, headers["Content-Type"], body) == (200, "text/plain", b"well, text/plain")
    assert headers["Server"] == "tallyroll"
    assert headers["Cache-Control"] == "no-store"


def test_head_gives_the_length_and_no_body(url: str) -> None:
    status, headers, body = ask(f"{url}/well", "HEAD", Accept="x")
    assert (status, headers["Content-Length"], body) == (200, "7", b"")


def test_another_path_says_which_there_are(url: str) -> None:
    assert ask(f"{url}/../etc/passwd")[::2] == (404, b"there is:\n/well\n/broken\n")


def test_nothing_can_be_sent_to_it(url: str) -> None:
    assert ask(f"{url}/well", "POST")[0] == 501


def test_a_page_that_fails_shows_strangers_nothing(url: str, caplog: pytest.LogCaptureFixture) -> None:
    assert ask(f"{url}/broken")[::2] == (500, b"failed\n")
    assert "the page /broken failed" in caplog.text


def test_a_taken_port_is_named_with_its_setting(url: str) -> None:
    port = int(urlsplit(url).port or 0)
    with pytest.raises(SettingsError, match=rf"--http: 127.0.0.1:{port} is in use"), served("127.0.0.1", port, PAGES, setting="--http"):
        pass


@pytest.mark.parametrize("host", ["192.0.2.1", "no such host"])
def test_an_address_of_another_machine_is_named(host: str) -> None:
    with pytest.raises(SettingsError, match="TALLYROLL_HTTP_PORT"), served(host, 0, PAGES, setting="TALLYROLL_HTTP_PORT"):
        pass


def test_a_port_can_be_had_again_at_once() -> None:
    with served("127.0.0.1", 0, PAGES, setting="--http") as url:
        ask(f"{url}/well")
    with served("127.0.0.1", int(urlsplit(url).port or 0), PAGES, setting="--http") as again:
        assert ask(f"{again}/well")[0] == 200
    with pytest.raises(OSError, match="refused"):
        http.client.HTTPConnection("127.0.0.1", int(urlsplit(url).port or 0), timeout=PATIENCE_S).connect()


def connected(url: str, count: int) -> list[socket.socket]:
    """So many clients that say nothing yet."""
    return [socket.create_connection(("127.0.0.1", int(urlsplit(url).port or 0)), timeout=PATIENCE_S) for _ in range(count)]


def speaks(client: socket.socket) -> bytes:
    """What a client that was silent is answered when it asks at last; nothing if it was let go."""
    with client, client.makefile("rb") as answer:
        try:
            client.sendall(b"GET /well HTTP/1.0\r\nAccept: x\r\n\r\n")
            return answer.read().rpartition(b"\r\n")[2]
        except OSError:
            return b""


def test_clients_that_say_nothing_do_not_hold_up_others_and_are_served_when_they_speak(patient_url: str) -> None:
    silent = connected(patient_url, 20)
    assert ask(f"{patient_url}/well")[0] == 200
    assert [speaks(one) for one in silent] == [b"well, x"] * 20, "none was let go meanwhile"


def test_a_client_that_says_nothing_is_let_go() -> None:
    with served("127.0.0.1", 0, PAGES, setting="--http", silence_s=0.05) as url:
        (silent,) = connected(url, 1)
        assert silent.recv(1) == b""
        silent.close()


def is_open(client: socket.socket) -> bool:
    """Whether a client that said nothing was neither answered nor let go."""
    client.setblocking(False)
    try:
        client.recv(1)
    except BlockingIOError:
        return True
    return False


def test_more_clients_than_places_are_turned_away_and_places_come_back(patient_url: str) -> None:
    before = set(threading.enumerate())
    silent = connected(patient_url, 40)
    placed, others = silent[:32], silent[32:]
    assert [one.recv(1) for one in others] == [b""] * 8, "closed without an answer"
    assert sum("process_request_thread" in one.name for one in set(threading.enumerate()) - before) == 32
    assert [is_open(one) for one in placed] == [True] * 32
    for one in silent:
        one.close()
    end = time.monotonic() + PATIENCE_S
    while True:  # places come back as soon as the threads have noticed
        try:
            assert ask(f"{patient_url}/well")[0] == 200
            break
        except OSError:
            assert time.monotonic() < end
            threading.Event().wait(0.01)
