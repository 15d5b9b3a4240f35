"""The client options that users know, and what they mean to librdkafka. Pure translation and refusal; opens nothing.

Known names are those of the Java and Python clients; values are translated to librdkafka's own units.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from tallyroll.errors import SettingsError

DEFAULT_PORT: Final = 9092


@dataclass(frozen=True, slots=True)
class Option:
    """One known option: librdkafka's name, how many of our units make one of theirs, and what it does."""

    client_name: str
    unit: str
    help: str
    divisor: int = 1


PRODUCER_OPTIONS: Final[Mapping[str, Option]] = {
    "batch_size": Option("batch.size", "bytes", "Most bytes of one request per partition."),
    "linger_ms": Option("linger.ms", "ms", "How long a record waits for company before it is sent."),
    "compression_type": Option("compression.type", "", "none, gzip, snappy, lz4 or zstd."),
    "acks": Option("acks", "", "'all', or 1 (the leader only: its loss loses acknowledged events), or 0 (no answer at all)."),
    "retries": Option("retries", "", "Accepted; the client retries until our own deadline and beyond, so that order is kept."),
    "buffer_memory": Option("queue.buffering.max.kbytes", "bytes", "Most bytes of records that wait in the client.", 1024),
    "send_buffer_bytes": Option("socket.send.buffer.bytes", "bytes", "Socket buffer; 0 leaves it to the system."),
    "receive_buffer_bytes": Option("socket.receive.buffer.bytes", "bytes", "Socket buffer; 0 leaves it to the system."),
    "max_in_flight_requests_per_connection": Option("max.in.flight.requests.per.connection", "requests", "At most 5 with idempotence."),
    "enable_idempotence": Option("enable.idempotence", "", "The broker drops repeats of our own re-sends. Default true."),
}

CONSUMER_OPTIONS: Final[Mapping[str, Option]] = {
    "fetch_min_bytes": Option(
        "fetch.min.bytes", "bytes", "The broker answers once it has that much, or after fetch_max_wait_ms; 65536 for followers, else 1."
    ),
    "fetch_max_wait_ms": Option("fetch.wait.max.ms", "ms", "The longest the broker lets a fetch wait; 20 for followers, else 100."),
    "max_partition_fetch_bytes": Option("max.partition.fetch.bytes", "bytes", "Most bytes of one partition in one answer."),
    "send_buffer_bytes": Option("socket.send.buffer.bytes", "bytes", "Socket buffer; 0 leaves it to the system."),
    "receive_buffer_bytes": Option("socket.receive.buffer.bytes", "bytes", "Socket buffer; 0 leaves it to the system."),
    "auto_offset_reset": Option("auto.offset.reset", "", "Where a follower without a position starts: earliest or latest."),
    "enable_auto_commit": Option("enable.auto.commit", "", "Accepted: commits on an interval, but only of what is flushed."),
    "auto_commit_interval_ms": Option("auto.commit.interval.ms", "ms", "How often flushed positions are committed."),
}

PRESETS: Final[Mapping[str, Mapping[str, Any]]] = {
    "default": {"linger_ms": 1, "compression_type": "lz4"},
    "throughput": {"batch_size": 1_048_576, "linger_ms": 20, "compression_type": "lz4", "buffer_memory": 134_217_728},
    "latency": {"batch_size": 16_384, "linger_ms": 0, "compression_type": "none"},
}

_COMPRESSIONS: Final = ("none", "gzip", "snappy", "lz4", "zstd")
_MAX_IN_FLIGHT_IDEMPOTENT: Final = 5  # librdkafka's own bound
_MAX_INT: Final = 2_147_483_647

# The lowest and highest value of each numeric option, in our units. librdkafka's own bounds, except that what only makes
# sense above 0 starts at 1.
_RANGES: Final[Mapping[str, tuple[int, int]]] = {
    "batch_size": (1, _MAX_INT),
    "linger_ms": (0, 900_000),
    "retries": (0, _MAX_INT),
    "buffer_memory": (1_024, _MAX_INT * 1_024),
    "send_buffer_bytes": (0, 100_000_000),
    "receive_buffer_bytes": (0, 100_000_000),
    "max_in_flight_requests_per_connection": (1, 1_000_000),
    "fetch_min_bytes": (1, 100_000_000),
    "fetch_max_wait_ms": (0, 300_000),
    "max_partition_fetch_bytes": (1, 1_000_000_000),
    "auto_commit_interval_ms": (1, 86_400_000),
}
_BOOLEANS: Final = frozenset({"enable_idempotence", "enable_auto_commit"})


def parse_servers(text: str) -> list[tuple[str, int]]:
    """The brokers in ``host:port,…`` as pairs; port 9092 where none is given. Raises ValueError on anything else.

    A user or a password in an address is refused: addresses are shown, and end up in logs.
    """
    servers = []
    for item in text.split(","):
        address = urlsplit(f"//{item.strip()}")
        if not address.hostname or address.username is not None or address.path or address.query or address.fragment:
            raise ValueError("expected HOST:PORT, separated by commas")
        servers.append((address.hostname, address.port or DEFAULT_PORT))
    return servers


def check_producer_options(options: Mapping[str, Any]) -> None:
    """Raises SettingsError for unknown names, bad values, and options that contradict each other."""
    _check_names("producer", options, PRODUCER_OPTIONS)
    _check_values(options)
    if "acks" in options and str(options["acks"]) not in ("0", "1", "all", "-1"):
        raise SettingsError("acks", "expected 0, 1 or all")
    if options.get("compression_type") not in (None, *_COMPRESSIONS):  # None is what other clients call none
        raise SettingsError("compression_type", f"expected one of {', '.join(_COMPRESSIONS)}")
    idempotent = _is_idempotent(options)
    if idempotent and _acks(options) != "all":
        raise SettingsError(
            "acks", f"acks={options['acks']} contradicts enable_idempotence; set enable_idempotence=False as well, and read what that loses"
        )
    if idempotent and options.get("max_in_flight_requests_per_connection", 1) > _MAX_IN_FLIGHT_IDEMPOTENT:
        raise SettingsError("max_in_flight_requests_per_connection", "at most 5 with idempotence, or order is lost")


def check_consumer_options(options: Mapping[str, Any]) -> None:
    """Raises SettingsError for unknown names and bad values."""
    _check_names("consumer", options, CONSUMER_OPTIONS)
    _check_values(options)
    if options.get("auto_offset_reset", "earliest") not in ("earliest", "latest"):
        raise SettingsError("auto_offset_reset", "expected earliest or latest")


def delivery_warnings(options: Mapping[str, Any]) -> list[str]:
    """What the chosen options may lose, in plain words; empty for the defaults."""
    acks = _acks(options)
    if acks == "0":
        return ["acks=0: the broker never answers, so 'delivered' only means sent; a broken connection loses events silently"]
    if acks == "1":
        return ["acks=1: events that only the leader has are lost with it, and a lost answer duplicates what was in flight"]
    if not _is_idempotent(options):
        return ["enable_idempotence=False: a lost answer duplicates what was in flight, and retries may change its order"]
    return []


def producer_config(preset: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The producer's configuration for librdkafka: the preset, then the options, then what is not negotiable."""
    merged = {**PRESETS[preset], **options}
    merged.pop("retries", None)
    config = _translate(merged, PRODUCER_OPTIONS)
    config["acks"] = _acks(options)
    config["enable.idempotence"] = _is_idempotent(options)
    return config


def consumer_config(options: Mapping[str, Any]) -> dict[str, Any]:
    """What librdkafka is told about fetching. How offsets are stored and reset is the adapter's, not the user's."""
    own = {"auto_offset_reset", "enable_auto_commit", "auto_commit_interval_ms"}
    return _translate({name: value for name, value in options.items() if name not in own}, CONSUMER_OPTIONS)


def _check_names(what: str, options: Mapping[str, Any], known: Mapping[str, Option]) -> None:
    for name in options:
        if name not in known:
            raise SettingsError(name, f"not a {what} option; known are {', '.join(sorted(known))}")


def _check_values(options: Mapping[str, Any]) -> None:
    for name, value in options.items():
        if name in _BOOLEANS and not isinstance(value, bool):
            raise SettingsError(name, "expected true or false")
        if name in _RANGES:
            low, high = _RANGES[name]
            # bool is an int to Python; only lingering knows fractions
            number = type(value) is int or (name == "linger_ms" and type(value) is float)
            if not number or not low <= value <= high:
                raise SettingsError(name, f"expected a number from {low} to {high}")


def _acks(options: Mapping[str, Any]) -> str:
    acks = str(options.get("acks", "all"))
    return "all" if acks == "-1" else acks


def _is_idempotent(options: Mapping[str, Any]) -> bool:
    return options.get("enable_idempotence", True) is True


def _translate(options: Mapping[str, Any], known: Mapping[str, Option]) -> dict[str, Any]:
    config: dict[str, Any] = {}
    for name, value in options.items():
        option = known[name]
        config[option.client_name] = "none" if value is None else value if option.divisor == 1 else value // option.divisor
    return config
