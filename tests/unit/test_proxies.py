"""The proxies that tests and soaks put before servers do what they say: else their faults would be none."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import struct
import threading
from collections.abc import Iterator

import pytest
from services import KafkaProxy, TcpProxy
from services.links import Proxy
from services.ports import is_free
from services.proxy import PRODUCE
from services.wire import receive_exactly
from tests.patience import PATIENCE_S, until

FETCH = 1


class Server(socketserver.ThreadingTCPServer):
    """Remembers what arrives, and answers each piece; a piece is a frame of Kafka where ``framed``."""

    allow_reuse_address = True

    def __init__(self, port: int = 0, *, framed: bool = False) -> None:
        self.framed = framed
        self.arrived: list[bytes] = []
        super().__init__(("127.0.0.1", port), Answering)
        self.port: int = self.server_address[1]
        self._serving = threading.Thread(target=self.serve_forever, args=(0.005,))
        self._serving.start()

    def close(self) -> None:
        self.shutdown()
        self._serving.join()
        self.server_close()

    @property
    def text(self) -> bytes:
        return b"".join(self.arrived)


class Answering(socketserver.BaseRequestHandler):
    server: Server

    def handle(self) -> None:
        with contextlib.suppress(Exception):  # the connection has ended
            while piece := (frame_from(self.request) if self.server.framed else self.request.recv(65_536)):
                self.server.arrived.append(piece)
                self.request.sendall(framed(piece[4:]) if self.server.framed else piece)


def framed(content: bytes) -> bytes:
    return struct.pack(">i", len(content)) + content


def frame_from(sock: socket.socket) -> bytes:
    (size,) = struct.unpack(">i", receive_exactly(sock, 4))
    return receive_exactly(sock, size)


def asked(number: int, api_key: int = PRODUCE) -> bytes:
    """A request, as the server gets it; its answer is the number."""
    return struct.pack(">hhi", api_key, 0, number) + b"request"


@contextlib.contextmanager
def client(proxy: Proxy) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=PATIENCE_S) as sock:
        yield sock


def has_ended(sock: socket.socket) -> bool:
    """Whether no more comes from there; waits for it."""
    try:
        return sock.recv(1) == b""
    except ConnectionError:
        return True


@pytest.fixture
def server() -> Iterator[Server]:
    with contextlib.closing(Server()) as running:
        yield running


@pytest.fixture
def broker() -> Iterator[Server]:
    with contextlib.closing(Server(framed=True)) as running:
        yield running


@pytest.fixture
def proxy(server: Server) -> Iterator[TcpProxy]:
    with TcpProxy(server.port) as proxy:
        yield proxy


@pytest.fixture
def kafka(broker: Server) -> Iterator[KafkaProxy]:
    with KafkaProxy() as proxy:
        proxy.connect(broker.port)
        yield proxy


# Any bytes


def test_it_passes_on_what_it_gets(proxy: TcpProxy, server: Server) -> None:
    sent = bytes(range(256)) * 4_000
    with client(proxy) as through:
        sending = threading.Thread(target=through.sendall, args=(sent,))
        sending.start()
        assert receive_exactly(through, len(sent)) == sent
        sending.join()
    assert server.text == sent
    assert proxy.passed_bytes == 2 * len(sent)


def test_it_cuts_and_takes_new_connections(proxy: TcpProxy) -> None:
    with client(proxy) as through, client(proxy) as beside:
        for one in (through, beside):
            one.sendall(b"a")
            assert one.recv(1) == b"a"
        proxy.cut()
        assert has_ended(through)
        assert has_ended(beside)
    with client(proxy) as after:
        after.sendall(b"b")
        assert after.recv(1) == b"b"


def test_what_it_holds_arrives_after_the_release_in_order_also_of_connections_made_meanwhile(proxy: TcpProxy, server: Server) -> None:
    with client(proxy) as before:
        before.sendall(b"first,")
        assert receive_exactly(before, 6) == b"first,"
        proxy.hold()
        before.sendall(b"second,")
        until(lambda: proxy.held_bytes == 7 or len(server.arrived) > 1, "nothing is held")
        before.sendall(b"third,")
        with client(proxy) as meanwhile:
            meanwhile.sendall(b"other")
            until(lambda: proxy.held_bytes == 12 or len(server.arrived) > 1, "a new connection is not taken")
            assert server.arrived == [b"first,"]
            proxy.release()
            before.sendall(b"fourth")
            assert receive_exactly(before, 19) == b"second,third,fourth"
            assert receive_exactly(meanwhile, 5) == b"other"
    assert proxy.held_bytes == 0
    assert server.text.replace(b"other", b"") == b"first,second,third,fourth"


@pytest.mark.parametrize("end", ["cut", "close"])
def test_what_was_held_of_a_connection_that_it_ends_never_arrives(proxy: TcpProxy, server: Server, end: str) -> None:
    with client(proxy) as through, contextlib.closing(TcpProxy(server.port)) as another, client(another) as beside:
        proxy.hold()
        through.sendall(b"held")
        until(lambda: proxy.held_bytes == 4 or server.arrived, "nothing is held")
        (proxy.cut if end == "cut" else proxy.close)()
        assert has_ended(through)
        until(lambda: proxy.held_bytes == 0, "who waited was not told")
        proxy.release()
        beside.sendall(b"later")
        assert receive_exactly(beside, 5) == b"later"
    server.close()  # it has read every connection to its end
    assert server.text == b"later"


def test_what_is_lost_was_done_and_its_connection_ends(proxy: TcpProxy, server: Server) -> None:
    with client(proxy) as through, client(proxy) as beside:
        for one in (through, beside):
            one.sendall(b"a")
            assert one.recv(1) == b"a"
        proxy.lose_answers()
        through.sendall(b"lost")
        until(lambda: proxy.lost_bytes == 4, "no answer is lost")
        assert server.text == b"aalost"
        proxy.release()
        assert has_ended(through)
        beside.sendall(b"b")
        assert beside.recv(1) == b"b", "it has lost nothing"


def test_a_server_that_is_away_refuses_and_is_found_when_it_is_back(proxy: TcpProxy, server: Server) -> None:
    server.close()
    with client(proxy) as through:
        assert has_ended(through)
    with contextlib.closing(Server(server.port)), client(proxy) as through:
        through.sendall(b"a")
        assert through.recv(1) == b"a"


@pytest.mark.parametrize("held", [False, True])
def test_after_it_is_closed_no_connection_is_left_and_its_port_is_free(proxy: TcpProxy, *, held: bool) -> None:
    with client(proxy) as through:
        through.sendall(b"a")
        assert through.recv(1) == b"a"
        assert not is_free(proxy.port)
        if held:
            proxy.hold()
        proxy.close()
        assert is_free(proxy.port)
        assert has_ended(through)
    with pytest.raises(ConnectionError), client(proxy):
        pass
    proxy.close()


# Kafka's requests and responses


def answers(sock: socket.socket, count: int) -> list[int]:
    return [int.from_bytes(frame_from(sock)[:4], "big") for _ in range(count)]


def send(sock: socket.socket, *requests: bytes) -> None:
    for request in requests:
        sock.sendall(framed(request))


def test_before_it_knows_its_broker_it_refuses(broker: Server) -> None:
    with KafkaProxy() as kafka:
        with client(kafka) as early:
            assert has_ended(early)
        kafka.connect(broker.port)
        with client(kafka) as through:
            send(through, asked(1))
            assert answers(through, 1) == [1]
        assert (kafka.counts().connections, kafka.counts().requests) == (1, {PRODUCE: 1})


def test_requests_that_it_holds_arrive_after_the_release_in_order(kafka: KafkaProxy, broker: Server) -> None:
    kafka.hold()
    with client(kafka) as through, client(kafka) as beside:
        send(through, *map(asked, range(5)))
        send(beside, asked(7, FETCH))
        kafka.wait_until(lambda counts: counts.requests == {PRODUCE: 1, FETCH: 1}, timeout_s=PATIENCE_S)
        assert broker.arrived == []
        kafka.release()
        send(through, asked(5))
        assert answers(through, 6) == [*range(6)]
        assert answers(beside, 1) == [7]
    assert [one for one in broker.arrived if one != asked(7, FETCH)] == [*map(asked, range(6))]


def test_requests_of_one_kind_that_it_holds_hold_up_what_is_behind_them_and_no_other_connection(kafka: KafkaProxy, broker: Server) -> None:
    kafka.hold(PRODUCE)
    with client(kafka) as through, client(kafka) as beside:
        send(through, asked(1, FETCH), asked(2), asked(3, FETCH))
        assert answers(through, 1) == [1]
        kafka.wait_until(lambda counts: PRODUCE in counts.requests, timeout_s=PATIENCE_S)
        send(beside, asked(4, FETCH))
        assert answers(beside, 1) == [4]
        assert broker.arrived == [asked(1, FETCH), asked(4, FETCH)]
        kafka.release()
        assert answers(through, 2) == [2, 3]


def test_requests_that_it_holds_never_arrive_when_it_is_closed(kafka: KafkaProxy, broker: Server) -> None:
    kafka.hold()
    with client(kafka) as through:
        send(through, asked(1))
        kafka.wait_until(lambda counts: counts.requests == {PRODUCE: 1}, timeout_s=PATIENCE_S)
        kafka.close()
        assert is_free(kafka.port)
        assert has_ended(through)
    broker.close()  # it has read every connection to its end
    assert broker.arrived == []


@pytest.mark.parametrize("cut", [True, False])
def test_a_response_that_it_loses_was_of_a_request_that_was_done(kafka: KafkaProxy, broker: Server, *, cut: bool) -> None:
    kafka.drop_responses(1, cut=cut)
    with client(kafka) as through:
        send(through, asked(1, FETCH), asked(2))
        assert answers(through, 1) == [1]
        if cut:
            assert has_ended(through)
        else:
            send(through, asked(3))
            assert answers(through, 1) == [3]
    assert kafka.counts().dropped_responses == 1
    assert broker.arrived[:2] == [asked(1, FETCH), asked(2)]


@pytest.mark.parametrize("cut", [True, False])
def test_a_request_that_it_loses_never_arrives(kafka: KafkaProxy, broker: Server, *, cut: bool) -> None:
    kafka.drop_requests(1, cut=cut)
    with client(kafka) as through:
        send(through, asked(1))
        if cut:
            assert has_ended(through)
        else:
            send(through, asked(2))
            assert answers(through, 1) == [2]
    with client(kafka) as after:
        send(after, asked(3))
        assert answers(after, 1) == [3]
    assert kafka.counts().dropped_requests == 1
    assert broker.arrived == [asked(3)] if cut else [asked(2), asked(3)]


def test_responses_that_it_delays_come_in_order(kafka: KafkaProxy) -> None:
    kafka.delay_responses(1, jitter_ms=20, seed=3)
    with client(kafka) as through:
        send(through, *map(asked, range(20)))
        assert answers(through, 20) == [*range(20)]
