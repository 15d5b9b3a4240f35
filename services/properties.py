"""server.properties of one combined KRaft node. Pure: ports and passwords come in, text comes out."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

ADMIN = "admin"
"""The super user, and the name by which brokers know each other, wherever SASL is on."""

_USER_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")
_PASSWORD = re.compile(r"[^\"\\\r\n]+")


@dataclass(frozen=True)
class Tls:
    """A further listener with TLS. Files are PEM; the keystore holds a PKCS#8 private key and its chain.

    `truststore` makes clients need a certificate signed by it. `protocols` as Kafka names them, comma separated.
    """

    keystore: Path
    truststore: Path | None = None
    protocols: str = "TLSv1.3"


@dataclass(frozen=True)
class NodePorts:
    """The ports one node listens on, all on 127.0.0.1. Clients use `client` or `tls`, brokers use the others."""

    client: int
    internal: int
    controller: int
    tls: int


def check_passwords(passwords: Mapping[str, str]) -> None:
    """Raises ValueError for a name or password that a JAAS line cannot hold, or when the admin is missing."""
    if ADMIN not in passwords:
        raise ValueError(f"passwords needs an entry {ADMIN!r}: brokers use it among themselves")
    for name, password in passwords.items():
        if not _USER_NAME.fullmatch(name):
            raise ValueError(f"user name {name!r}: letters, digits, '_', '.', '-', beginning with a letter")
        if not _PASSWORD.fullmatch(password):
            raise ValueError(f"the password of {name!r} is empty, or holds a quote, a backslash or a line end")


def node_properties(  # noqa: PLR0913  # one flat configuration, each a name of its own
    node: int,
    ports: Mapping[int, NodePorts],
    *,
    log_dir: Path,
    advertised_port: int,
    passwords: Mapping[str, str] | None,
    authorizer: bool,
    tls: Tls | None,
) -> dict[str, str]:
    """All properties of node `node`; `ports` holds every node of the cluster."""
    mine = ports[node]
    several = len(ports) > 1
    plain = "PLAINTEXT" if passwords is None else "SASL_PLAINTEXT"
    protocols = {"CLIENT": plain, "INTERNAL": plain, "CONTROLLER": plain}
    listeners = {"CLIENT": mine.client, "INTERNAL": mine.internal, "CONTROLLER": mine.controller}
    advertised = {"CLIENT": advertised_port, "INTERNAL": mine.internal}
    if tls is not None:
        protocols["TLS"] = "SSL" if passwords is None else "SASL_SSL"
        listeners["TLS"] = advertised["TLS"] = mine.tls
    replicas, in_sync = ("3", "2") if several else ("1", "1")
    result = {
        "process.roles": "broker,controller",
        "node.id": str(node),
        "log.dirs": str(log_dir),
        "controller.quorum.voters": ",".join(f"{n}@127.0.0.1:{p.controller}" for n, p in ports.items()),
        "listeners": _addresses(listeners),
        "advertised.listeners": _addresses(advertised),
        "listener.security.protocol.map": ",".join(f"{name}:{value}" for name, value in protocols.items()),
        "inter.broker.listener.name": "INTERNAL",
        "controller.listener.names": "CONTROLLER",
        "default.replication.factor": replicas,
        "min.insync.replicas": in_sync,
        "offsets.topic.replication.factor": replicas,
        "offsets.topic.num.partitions": "4",
        "transaction.state.log.replication.factor": replicas,
        "transaction.state.log.min.isr": in_sync,
        "transaction.state.log.num.partitions": "4",
        "share.coordinator.state.topic.replication.factor": replicas,
        "share.coordinator.state.topic.min.isr": in_sync,
        "share.coordinator.state.topic.num.partitions": "4",
        "auto.create.topics.enable": "false",
        "unclean.leader.election.enable": "false",
        "group.initial.rebalance.delay.ms": "0",
        # Kafka's own 9 s is also how long a killed broker's successor waits to be let in, in every fault test.
        "broker.session.timeout.ms": "4000",
        "broker.heartbeat.interval.ms": "1000",
    }
    if passwords is not None:
        result |= _sasl(listeners, passwords)
    if authorizer:
        result |= {
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": f"User:{ADMIN}",
            "allow.everyone.if.no.acl.found": "false",
        }
    if tls is not None:
        result |= _tls(tls)
    return result


def properties_text(properties: Mapping[str, str]) -> str:
    """The file's text, as java.util.Properties reads it back: backslashes and anything beyond ASCII escaped."""
    return "".join(f"{key}={_escape(value)}\n" for key, value in properties.items())


def _addresses(listeners: Mapping[str, int]) -> str:
    return ",".join(f"{name}://127.0.0.1:{port}" for name, port in listeners.items())


def _sasl(listeners: Mapping[str, int], passwords: Mapping[str, str]) -> dict[str, str]:
    users = " ".join(f'user_{name}="{password}"' for name, password in passwords.items())
    jaas = f'org.apache.kafka.common.security.plain.PlainLoginModule required username="{ADMIN}" password="{passwords[ADMIN]}" {users};'
    return {
        "sasl.enabled.mechanisms": "PLAIN",
        "sasl.mechanism.inter.broker.protocol": "PLAIN",
        "sasl.mechanism.controller.protocol": "PLAIN",
        **{f"listener.name.{name.lower()}.plain.sasl.jaas.config": jaas for name in listeners},
    }


def _tls(tls: Tls) -> dict[str, str]:
    result = {
        "ssl.enabled.protocols": tls.protocols,
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(tls.keystore),
    }
    if tls.truststore is not None:
        result |= {
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(tls.truststore),
            "ssl.client.auth": "required",
        }
    return {f"listener.name.tls.{key}": value for key, value in result.items()}


def _escape(value: str) -> str:
    escaped = value.replace("\\", "\\\\").encode("utf-16-be")
    units = [int.from_bytes(escaped[at : at + 2], "big") for at in range(0, len(escaped), 2)]
    characters = [chr(unit) if chr(unit).isascii() and chr(unit).isprintable() else f"\\u{unit:04x}" for unit in units]
    text = "".join(characters)
    return "\\" + text if text.startswith(" ") else text
