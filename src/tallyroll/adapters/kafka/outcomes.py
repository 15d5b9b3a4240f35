"""What a delivery report of librdkafka means for the event: delivered, refused for certain, or unknown.

Only codes that a broker or the client gives *before* it appends are refusals. Everything else is Unknown: with the
broker frozen past a time-out, all events that the client reported as failed were in the log.
"""

from __future__ import annotations

from typing import Final

from confluent_kafka import KafkaError

from tallyroll.errors import LogUnavailable, PublishRejected
from tallyroll.ports import Rejected, Unknown

# Codes that a broker may give to a second try whose first one another broker, or the same one earlier, has appended.
_DOUBTFUL: Final = frozenset(
    {KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED, KafkaError.UNKNOWN_TOPIC_OR_PART}
)

_REFUSED: Final = frozenset(
    {
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.INVALID_RECORD,
        KafkaError.INVALID_TIMESTAMP,
        KafkaError.POLICY_VIOLATION,
        KafkaError.TOPIC_EXCEPTION,
        KafkaError._UNKNOWN_TOPIC,  # noqa: SLF001  # librdkafka's own codes start with an underscore
        KafkaError._UNKNOWN_PARTITION,  # noqa: SLF001
        *_DOUBTFUL,
    }
)

_WORDS: Final = (
    (
        {KafkaError._TIMED_OUT, KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._MSG_TIMED_OUT},  # noqa: SLF001
        "does not answer",
    ),
    ({KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC}, "the topic is not there, 'tallyroll topics apply' makes it"),  # noqa: SLF001
    ({KafkaError.TOPIC_AUTHORIZATION_FAILED}, "this user has no right to it, see 'tallyroll topics acls'"),
    ({KafkaError._NOENT, KafkaError.LEADER_NOT_AVAILABLE}, "a partition has no leader now"),  # noqa: SLF001
    ({KafkaError._RESOLVE}, "its name is not known here"),  # noqa: SLF001
    ({KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED}, "refuses our user, password or certificate"),  # noqa: SLF001
)

_FATAL: Final = frozenset(
    {
        KafkaError._FATAL,  # noqa: SLF001
        KafkaError._FENCED,  # noqa: SLF001
        KafkaError._AUTHENTICATION,  # noqa: SLF001
        KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER,
        KafkaError.INVALID_PRODUCER_EPOCH,
        KafkaError.SASL_AUTHENTICATION_FAILED,
    }
)


def outcome_of(error: KafkaError, event_id: str, *, disconnected_since: bool) -> Rejected | Unknown:
    """The outcome behind an error. ``disconnected_since``: a connection broke after the record was handed over.

    A denial, or a topic that is not there, is only believed without such a break: an earlier try may have been appended.
    """
    code = error.code()
    if code in _REFUSED and not (disconnected_since and code in _DOUBTFUL):
        return Rejected(PublishRejected(event_id, reason_of(error)))
    return Unknown(LogUnavailable("broker", reason_of(error)))


def unavailable(servers: object, error: BaseException, to: str = "") -> LogUnavailable:
    """What an exception of the client means to who asked these brokers for something."""
    inner = error.args[0] if error.args else None
    reason = reason_of(inner) if isinstance(inner, KafkaError) else type(error).__name__
    return LogUnavailable(f"Kafka at {servers}{to}", reason)


def reason_of(error: KafkaError) -> str:
    """An error of the client in words, where it is one that people meet; its name is what one searches for."""
    words = next((words for codes, words in _WORDS if error.code() in codes), "")
    return f"{words} ({error.name()})" if words else str(error.name())


def is_fatal(error: KafkaError) -> bool:
    """Whether the client instance that reported this will never work again."""
    return bool(error.fatal()) or error.code() in _FATAL
