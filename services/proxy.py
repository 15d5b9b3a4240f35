"""A TCP proxy that knows where a Kafka request begins and ends, and loses, delays or holds what a test tells it to."""

from __future__ import annotations

import contextlib
import queue
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from services.links import LOOK_S, Link, Proxy
from services.wire import WireError, receive_exactly

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping

PRODUCE = 0

_MAX_FRAME_BYTES = 128 * 1024 * 1024  # more than a broker takes; a TLS client's first bytes read as a size exceed it
_MAX_WAITING = 1_000  # delayed responses per connection; clients keep some tens in flight
_END = b""


@dataclass(frozen=True)
class ProxyCounts:
    """What a proxy has seen so far. `requests` by api key, as they came from clients, dropped ones included."""

    connections: int
    requests: Mapping[int, int]
    dropped_requests: int
    dropped_responses: int


@dataclass
class _Drops:
    """How many more frames of one api key get lost, and whether the connection goes with them."""

    left: int
    cut: bool


class KafkaProxy(Proxy):
    """Stands on 127.0.0.1:`port` before one broker's CLIENT listener; the broker must advertise this port.

    Listens from the start; connections made before `connect` are closed at once, as by a broker that is down.
    All methods may be called from any thread, at any time; a rule holds for frames that arrive after the call.
    Not promised: TLS (it cannot read it); speed beyond some tens of megabytes a second.
    """

    def __init__(self) -> None:
        """Listening; forwards nothing before `connect`."""
        self._upstream: int | None = None
        self._held: set[int | None] = set()
        self._drop_requests: dict[int, _Drops] = {}
        self._drop_responses: dict[int, _Drops] = {}
        self._delay: Callable[[], float] = _no_delay
        self._requests: Counter[int] = Counter()
        self._connections = self._dropped_requests = self._dropped_responses = 0
        super().__init__()

    def connect(self, broker_port: int) -> None:
        """New connections go to 127.0.0.1:`broker_port`."""
        self._upstream = broker_port

    def drop_responses(self, count: int = 1, *, api_key: int = PRODUCE, cut: bool = True) -> None:
        """The next `count` responses of `api_key` are lost, though the broker has done what was asked.

        `cut`: the connection ends there, after what was answered before (the client sends again at once); else the
        client waits for its time-out. 0 takes the rule back.
        """
        with self._changed:
            self._drop_responses[api_key] = _Drops(count, cut)

    def drop_requests(self, count: int = 1, *, api_key: int = PRODUCE, cut: bool = False) -> None:
        """The next `count` requests of `api_key` never reach the broker; 0 takes the rule back.

        `cut`: the connection ends, and with it the answers to what was sent before. Without it, requests behind the
        lost one on the same connection do arrive, as no real network would have it.
        """
        with self._changed:
            self._drop_requests[api_key] = _Drops(count, cut)

    def delay_responses(self, delay_ms: float, *, jitter_ms: float = 0.0, seed: int = 0) -> None:
        """Every response arrives `delay_ms` later, plus up to `jitter_ms` drawn from `seed`; 0 takes it back.

        Order within a connection stays, and delays of responses in flight do not add up.
        """
        chance = random.Random(seed)  # noqa: S311  # repeatable faults, no secret
        with self._changed:
            self._delay = lambda: (delay_ms + chance.uniform(0.0, jitter_ms)) / 1_000

    def hold(self, api_key: int | None = None) -> None:
        """Nothing is forwarded until `release`; connections stay open and new ones are taken.

        With `api_key`: only requests of that kind wait, and what comes behind them on the same connection.
        """
        with self._changed:
            self._held.add(api_key)

    def release(self) -> None:
        """What was held goes on, in order."""
        with self._changed:
            self._held.clear()
            self._changed.notify_all()

    def counts(self) -> ProxyCounts:
        """A snapshot."""
        with self._changed:
            return ProxyCounts(self._connections, dict(self._requests), self._dropped_requests, self._dropped_responses)

    def wait_until(self, reached: Callable[[ProxyCounts], bool], *, timeout_s: float = 10.0) -> ProxyCounts:
        """The first counts for which `reached` holds. Raises TimeoutError with the last ones."""
        deadline = time.monotonic() + timeout_s
        while True:
            counts = self.counts()
            if reached(counts):
                return counts
            with self._changed:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError(f"not seen within {timeout_s} s: {counts}")
                self._changed.wait(min(left, LOOK_S))

    def _server_port(self) -> int | None:
        return self._upstream

    def _linked(self, client: socket.socket, server: socket.socket) -> Link:
        self._connections += 1
        return _KafkaLink(self, client, server)

    def _take_request(self, api_key: int, link: Link) -> _Drops | None:
        """Count a request, wait while it is held; the rule by which it gets lost, if one does. Raises as `_wait_while`."""
        with self._changed:
            self._requests[api_key] += 1
            self._changed.notify_all()
            self._wait_while(lambda: self._held & {None, api_key}, link)
            drops = _take(self._drop_requests, api_key)
            self._dropped_requests += drops is not None
            return drops

    def _take_response(self, api_key: int, link: Link) -> _Drops | None:
        with self._changed:
            self._wait_while(lambda: self._held & {None}, link)
            drops = _take(self._drop_responses, api_key)
            self._dropped_responses += drops is not None
            self._changed.notify_all()
            return drops

    def _due(self) -> float:
        with self._changed:
            return time.monotonic() + self._delay()


class _KafkaLink(Link):
    """A thread for requests, one for responses, one that delays."""

    _proxy: KafkaProxy

    def __init__(self, proxy: KafkaProxy, client: socket.socket, broker: socket.socket) -> None:
        super().__init__(proxy, client, broker)
        self._api_keys: dict[int, int] = {}  # by correlation id; those of acks=0, never answered, stay to the end
        self._waiting: queue.Queue[tuple[float, bytes]] = queue.Queue(_MAX_WAITING)

    def start(self) -> None:
        for pump in (self._pump_requests, self._pump_responses, self._pump_delayed):
            threading.Thread(target=self._until_closed, args=(pump,), name=pump.__name__, daemon=True).start()

    def _until_closed(self, pump: Callable[[], None]) -> None:
        with contextlib.suppress(OSError, WireError):  # either side has gone: the other goes too
            pump()
        self.close()

    def _pump_requests(self) -> None:
        while True:
            frame = _read_frame(self._client)
            api_key = int.from_bytes(frame[4:6], "big", signed=True)
            drops = self._proxy._take_request(api_key, self)  # noqa: SLF001  # one class in two, split by lifetime
            if drops is None:
                self._api_keys[int.from_bytes(frame[8:12], "big")] = api_key
                self._server.sendall(frame)
            elif drops.cut:
                return

    def _pump_responses(self) -> None:
        with contextlib.suppress(OSError, WireError):  # the broker has gone
            self._hand_over_responses()
        self._hand_over(_END)  # what was answered before reaches the client, as a refused login and its reason must
        self.closed.wait()

    def _hand_over_responses(self) -> None:
        while True:
            frame = _read_frame(self._server)
            api_key = self._api_keys.pop(int.from_bytes(frame[4:8], "big"), -1)
            drops = self._proxy._take_response(api_key, self)  # noqa: SLF001  # as above
            if drops is None:
                self._hand_over(frame)
            elif drops.cut:
                return

    def _hand_over(self, frame: bytes) -> None:
        item = (self._proxy._due(), frame)  # noqa: SLF001  # as above
        while not self.closed.is_set():
            with contextlib.suppress(queue.Full):
                self._waiting.put(item, timeout=LOOK_S)
                return

    def _pump_delayed(self) -> None:
        while not self.closed.is_set():
            try:
                due, frame = self._waiting.get(timeout=LOOK_S)
            except queue.Empty:
                continue
            if frame == _END or self.closed.wait(max(0.0, due - time.monotonic())):
                return
            self._client.sendall(frame)


def _read_frame(sock: socket.socket) -> bytes:
    size = receive_exactly(sock, 4)
    count = int.from_bytes(size, "big")
    if count > _MAX_FRAME_BYTES:
        raise WireError(f"a frame of {count} bytes: not the Kafka protocol in plain text")
    return size + receive_exactly(sock, count)


def _take(rules: Mapping[int, _Drops], api_key: int) -> _Drops | None:
    drops = rules.get(api_key)
    if drops is None or drops.left <= 0:
        return None
    drops.left -= 1
    return drops


def _no_delay() -> float:
    return 0.0
