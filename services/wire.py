"""As much of the Kafka protocol as readiness and faults need, by hand: no client library is installed yet.

Source: the protocol guide of Apache Kafka; ApiVersions 0, Metadata 7, SaslHandshake 1, SaslAuthenticate 0.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_METADATA, _SASL_HANDSHAKE, _API_VERSIONS, _SASL_AUTHENTICATE = 3, 17, 18, 36
_METADATA_VERSION = 7  # the oldest with the leader's epoch, and still without tagged fields
_CORRELATION_BYTES = 4  # of the id that begins every response; with one request at a time it says nothing
_MAX_RESPONSE_BYTES = 16 * 1024 * 1024  # a metadata answer is some kilobytes; more means this is no broker


class WireError(Exception):
    """The broker answered what we cannot use, or an error code; readiness treats it as "not yet"."""


@dataclass(frozen=True)
class PartitionState:
    """One partition as a broker sees it. `leader` is a node id, -1 while there is none; its epoch grows with each."""

    leader: int
    leader_epoch: int
    replicas: tuple[int, ...]
    in_sync: tuple[int, ...]


@dataclass(frozen=True)
class Metadata:
    """What one broker knows: addresses of the living brokers by node id, and partitions by (topic, index)."""

    brokers: Mapping[int, str]
    partitions: Mapping[tuple[str, int], PartitionState]


def fetch_metadata(port: int, *, user: tuple[str, str] | None, topics: Sequence[str] | None = (), timeout_s: float = 2.0) -> Metadata:
    """Metadata from the plain listener at 127.0.0.1:`port`; `topics=None` asks for all that `user` may see.

    `user` is (name, password) for SASL/PLAIN. Raises OSError (no connection, time-out) or WireError.
    """
    with socket.create_connection(("127.0.0.1", port), timeout=timeout_s) as sock:
        lowest, highest = _api_versions(sock)[_METADATA]
        if not lowest <= _METADATA_VERSION <= highest:
            raise WireError(f"Metadata {_METADATA_VERSION} is not among versions {lowest} to {highest}")
        if user is not None:
            _authenticate(sock, *user)
        names = struct.pack(">i", -1) if topics is None else _array([_string(topic) for topic in topics])
        return _read_metadata(_Reader(_call(sock, _METADATA, _METADATA_VERSION, names + b"\x00")))


def _api_versions(sock: socket.socket) -> dict[int, tuple[int, int]]:
    reader = _Reader(_call(sock, _API_VERSIONS, 0, b""))
    reader.check_error("ApiVersions")
    versions = {}
    for _ in range(reader.int32()):
        api_key, lowest, highest = reader.int16(), reader.int16(), reader.int16()
        versions[api_key] = (lowest, highest)
    return versions


def _authenticate(sock: socket.socket, name: str, password: str) -> None:
    _Reader(_call(sock, _SASL_HANDSHAKE, 1, _string("PLAIN"))).check_error("SaslHandshake")
    token = f"\0{name}\0{password}".encode()
    body = struct.pack(">i", len(token)) + token
    _Reader(_call(sock, _SASL_AUTHENTICATE, 0, body)).check_error("SaslAuthenticate")


def _read_metadata(reader: _Reader) -> Metadata:
    reader.int32()  # throttle time
    brokers = {}
    for _ in range(reader.int32()):
        node, host, port, _rack = reader.int32(), reader.string(), reader.int32(), reader.string()
        brokers[node] = f"{host}:{port}"
    reader.string()  # cluster id
    reader.int32()  # controller: in KRaft any broker, so of no use
    partitions = {}
    for _ in range(reader.int32()):
        reader.int16()  # an unknown topic shows as one without partitions
        topic = reader.string()
        reader.take(1)
        for _ in range(reader.int32()):
            reader.int16()
            index = reader.int32()
            partitions[topic, index] = PartitionState(
                leader=reader.int32(),
                leader_epoch=reader.int32(),
                replicas=reader.int32s(),
                in_sync=reader.int32s(),
            )
            reader.int32s()  # offline replicas
    return Metadata(brokers, partitions)


def _call(sock: socket.socket, api_key: int, version: int, body: bytes) -> bytes:
    header = struct.pack(">hhi", api_key, version, 1) + _string("services")
    sock.sendall(struct.pack(">i", len(header) + len(body)) + header + body)
    (size,) = struct.unpack(">i", receive_exactly(sock, 4))
    if not _CORRELATION_BYTES <= size <= _MAX_RESPONSE_BYTES:
        raise WireError(f"a response of {size} bytes: not a Kafka listener, or one with another security protocol")
    return receive_exactly(sock, size)[_CORRELATION_BYTES:]


def receive_exactly(sock: socket.socket, count: int) -> bytes:
    """Exactly `count` bytes. Raises WireError when the other side ends before."""
    chunks = bytearray()
    while len(chunks) < count:
        chunk = sock.recv(min(count - len(chunks), 1 << 20))
        if not chunk:
            raise WireError("the connection ended inside a message")
        chunks += chunk
    return bytes(chunks)


def _string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack(">h", len(raw)) + raw


def _array(items: Sequence[bytes]) -> bytes:
    return struct.pack(">i", len(items)) + b"".join(items)


class _Reader:
    """Fields of a response in order. Raises WireError where the bytes end too soon."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self._at = 0

    def take(self, count: int) -> bytes:
        if self._at + count > len(self._raw):
            raise WireError("the response is shorter than its fields")
        self._at += count
        return self._raw[self._at - count : self._at]

    def int16(self) -> int:
        return int.from_bytes(self.take(2), "big", signed=True)

    def int32(self) -> int:
        return int.from_bytes(self.take(4), "big", signed=True)

    def int32s(self) -> tuple[int, ...]:
        return tuple(self.int32() for _ in range(self.int32()))

    def string(self) -> str:
        size = self.int16()
        return "" if size < 0 else self.take(size).decode()

    def check_error(self, what: str) -> None:
        code = self.int16()
        if code != 0:
            raise WireError(f"{what} answered error code {code}")
