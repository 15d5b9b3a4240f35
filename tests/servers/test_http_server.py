"""Pages over HTTP on a real port: what is answered, what is not, and that nobody can hold the server up."""

from __future__ import annotations

import http.client
import socket
import threading
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


def test_clients_that_say_nothing_do_not_hold_up_others(url: str) -> None:
    port = int(urlsplit(url).port or 0)
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(20)]
    assert ask(f"{url}/well")[0] == 200
    for one in silent:
        one.close()


def test_more_clients_than_places_are_turned_away_and_places_come_back(url: str) -> None:
    port = int(urlsplit(url).port or 0)
    silent = [socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) for _ in range(40)]
    assert silent[-1].recv(1) == b"", "closed without an answer"
    assert sum(thread.name.startswith("Thread") for thread in threading.enumerate()) <= 33
    for one in silent:
        one.close()
    until = threading.Event()
    while True:  # places come back as soon as the threads have noticed
        try:
            assert ask(f"{url}/well")[0] == 200
            break
        except OSError:
            assert not until.wait(0.01)
