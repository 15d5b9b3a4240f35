"""What librdkafka is told: the settings as client configurations, every choice with its why. Opens nothing.

Secrets are revealed here and nowhere else. Hand a configuration to a client and to nothing that prints.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterable
from typing import Any, Final

from tallyroll.events.topic_plan import request_bytes
from tallyroll.settings import Secret, Settings, kafka_options

LOGGER: Final = "tallyroll.kafka"

_SOCKET_TIMEOUT_MS: Final = 30_000  # a broker that is frozen for longer is given up, and its requests go out again
_FETCH_WAIT_MS: Final = 100  # a partition that is resumed or sought waits for the fetch under way; the default is 500
# Who follows gets some records at a time. With an answer for each, broker and client spend more on answers than the follower on
# records: at 10,000 a second the broker took a third more for 16 KiB than for 128, and as much for 64. That long an event may be
# late: part of an alert's 100 ms.
_FOLLOW_WAIT_MS: Final = 20
_FOLLOW_BYTES: Final = 65_536
_QUEUE_SLACK: Final = 2  # the publisher's own bound is met first, so that the client's queue is never the one that is full
_HEARTBEATS_PER_SESSION: Final = 3  # two may get lost
_HEARTBEAT_MS: Final = 1_000  # members hear with it that somebody came or left: a hand-over takes three of them
_TOPIC_APPEARS_MS: Final = 10_000  # how long a topic that the broker does not know may still turn up before its records are refused
_MAX_POLL_INTERVAL_MS: Final = 300_000  # how long a batch may take before the partitions go to another member
_HIDDEN: Final = "***"
_REPEAT_S: Final = 30.0  # the same line again only after so long
_MAX_SHAPES: Final = 256  # kinds of lines remembered; librdkafka has fewer
_NUMBERS: Final = re.compile(r"[0-9]+")

# librdkafka has no option for the lowest TLS version. A pre-shared-key suite without a key is never offered, and it takes
# the place of every suite of TLS 1.2 and before, while those of 1.3 cannot be taken from the list. What is left is 1.3.
_ONLY_TLS_1_3: Final = "PSK-AES256-GCM-SHA384"


def client_config(settings: Settings) -> dict[str, Any]:
    """What every client needs: addresses, security, and a logger that shows no secret (do not pass another one).

    The lowest TLS version holds for every connection, also to brokers that are met later.
    """
    config: dict[str, Any] = {
        "bootstrap.servers": settings.bootstrap_servers,
        "client.id": settings.instance_id or "tallyroll",  # names us in quotas and in the broker's logs
        "security.protocol": settings.kafka_security_protocol,
        "logger": client_logger(settings),
        "allow.auto.create.topics": False,  # topics come from the catalogue; a misspelt one must fail
        "socket.timeout.ms": _SOCKET_TIMEOUT_MS,
        "socket.keepalive.enable": True,  # a firewall that forgets the connection is noticed without traffic
        "socket.nagle.disable": True,  # a small request is sent at once
        "reconnect.backoff.max.ms": 5_000,  # a broker that is back is found within seconds; the default is 10,000
        "log.connection.close": False,  # brokers close idle connections; that is no news
    }
    if settings.kafka_security_protocol.startswith("SASL"):
        config["sasl.mechanism"] = settings.kafka_sasl_mechanism
        config["sasl.username"] = settings.kafka_sasl_username
        config["sasl.password"] = _revealed(settings.kafka_sasl_password)
    if settings.kafka_security_protocol.endswith("SSL"):
        config |= _tls_config(settings)
    return config


def producer_config(settings: Settings) -> dict[str, Any]:
    """For the producer: the preset, the user's options, then what the promises of the publisher rest on."""
    config = client_config(settings) | kafka_options.producer_config(settings.kafka_preset, settings.kafka_producer)
    kbytes = settings.max_in_flight_bytes * _QUEUE_SLACK // 1024
    if "buffer_memory" not in settings.kafka_producer:
        config["queue.buffering.max.kbytes"] = max(kbytes, config.get("queue.buffering.max.kbytes", 0))
    return config | {
        # Never: a record that timed out may be in the log, and what is sent after it would overtake its re-send.
        "message.timeout.ms": 0,
        "topic.metadata.propagation.max.ms": _TOPIC_APPEARS_MS,
        # As the Java client. librdkafka's own choice puts 19 of 20 keys elsewhere.
        "partitioner": "murmur2_random",
        "message.max.bytes": request_bytes(settings.max_record_bytes),
        "queue.buffering.max.messages": settings.max_in_flight * _QUEUE_SLACK,
    }


def consumer_config(settings: Settings, group: str | None, *, follows: bool = False) -> dict[str, Any]:
    """For a consumer: a member of ``group`` (the full name), or with None one that is assigned, reads and commits nothing.

    ``follows``: it reads in the stead of members, and waits for records as they do.

    The loop stores and commits offsets itself, after results are flushed: committing by the client's own clock lost 167
    of 600 events when a process was killed.
    """
    config, follows = client_config(settings), follows or group is not None
    config |= {
        "fetch.wait.max.ms": _FOLLOW_WAIT_MS if follows else _FETCH_WAIT_MS,
        "fetch.min.bytes": _FOLLOW_BYTES if follows else 1,
        "fetch.error.backoff.ms": 100,  # a partition whose leader moved is asked again soon; the default is 500
        "fetch.queue.backoff.ms": 50,  # a drained queue is filled again at once; the default waits a second
    }
    config |= kafka_options.consumer_config(settings.kafka_consumer)
    config |= {
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        # A position that is gone is an error to be answered, never a silent jump that leaves out events.
        "auto.offset.reset": "error",
        "check.crcs": True,  # a flipped bit on the way is an error, not an event
        "isolation.level": "read_committed",  # what another writer's transaction took back was never there
        "queued.max.messages.kbytes": 16_384,  # bounds the memory of all partitions together
        # librdkafka wants at least a second between the two
        "socket.timeout.ms": max(_SOCKET_TIMEOUT_MS, int(config["fetch.wait.max.ms"]) + 5_000),
    }
    return config | (_member_config(settings, group) if group is not None else _reader_config(settings))


def _member_config(settings: Settings, group: str) -> dict[str, Any]:
    config = {
        "group.id": group,
        "partition.assignment.strategy": "cooperative-sticky",  # partitions that stay are not interrupted
        "session.timeout.ms": settings.session_timeout_ms,
        "heartbeat.interval.ms": min(_HEARTBEAT_MS, max(1, settings.session_timeout_ms // _HEARTBEATS_PER_SESSION)),
        "max.poll.interval.ms": max(_MAX_POLL_INTERVAL_MS, settings.session_timeout_ms),
    }
    if settings.instance_id:
        config["group.instance.id"] = settings.instance_id  # a restart within the session time-out moves no partition
    return config


def _reader_config(settings: Settings) -> dict[str, Any]:
    # The client refuses to start without a name. No request of an assigned consumer that commits nothing carries it.
    return {"group.id": settings.group("reader")}


def _tls_config(settings: Settings) -> dict[str, Any]:
    config: dict[str, Any] = {
        "enable.ssl.certificate.verification": True,
        "ssl.endpoint.identification.algorithm": "https",  # the certificate must be this host's
    }
    if settings.kafka_tls_minimum == "1.3":
        config["ssl.cipher.suites"] = _ONLY_TLS_1_3
    if settings.kafka_ssl_ca is not None:
        config["ssl.ca.location"] = str(settings.kafka_ssl_ca)
    if settings.kafka_ssl_certificate is not None:
        config["ssl.certificate.location"] = str(settings.kafka_ssl_certificate)
        config["ssl.key.location"] = str(settings.kafka_ssl_key)
    if settings.kafka_ssl_key_password is not None:
        config["ssl.key.password"] = _revealed(settings.kafka_ssl_key_password)
    return config


def _revealed(secret: Secret | None) -> str:
    return secret.reveal() if secret is not None else ""


def client_logger(settings: Settings) -> RedactingLogger:
    """The logger ``tallyroll.kafka`` for a client made from these settings, without their secrets."""
    given = (settings.kafka_sasl_password, settings.kafka_ssl_key_password)
    return RedactingLogger(logging.getLogger(LOGGER), [_revealed(secret) for secret in given if secret is not None])


class RedactingLogger(logging.LoggerAdapter[logging.Logger]):
    """Passes log lines on with every secret replaced by ``***``; what librdkafka gets as its logger.

    A line that differs from an earlier one in numbers only is passed on once in 30 seconds: while a broker is away, the
    client says so many times a second. Not promised: that a secret is found when it is written in another encoding, such as base64.
    """

    def __init__(self, logger: logging.Logger, secrets: Iterable[str]) -> None:
        super().__init__(logger, {})
        # The longest first: one secret may be the beginning of another.
        self._secrets = sorted({secret for secret in secrets if secret}, key=len, reverse=True)
        self._said: dict[str, float] = {}

    def redacted(self, text: str) -> str:
        """The text without the secrets."""
        for secret in self._secrets:
            text = text.replace(secret, _HIDDEN)
        return text

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:  # noqa: ANN401  # as logging has it
        # Formatted first: a secret may come in as an argument, or be put together from two.
        if self.isEnabledFor(level):
            text = self.redacted(str(msg) % args if args else str(msg))
            if not self._is_repetition(text):
                self.logger.log(level, "%s", text, **kwargs)

    def _is_repetition(self, text: str) -> bool:
        shape, now = _NUMBERS.sub("#", text), time.monotonic()
        if now - self._said.get(shape, -_REPEAT_S) < _REPEAT_S:
            return True
        if len(self._said) >= _MAX_SHAPES:
            self._said.clear()
        self._said[shape] = now
        return False
