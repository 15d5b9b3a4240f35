"""Known client options, what they become for librdkafka, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from tallyroll.errors import SettingsError
from tallyroll.settings.kafka_options import (
    CONSUMER_OPTIONS,
    PRESETS,
    PRODUCER_OPTIONS,
    check_consumer_options,
    check_producer_options,
    consumer_config,
    delivery_warnings,
    parse_servers,
    producer_config,
)

UNSAFE = {"enable_idempotence": False}


@pytest.mark.parametrize(
    ("name", "value", "client_name", "client_value"),
    [
        ("batch_size", 16_384, "batch.size", 16_384),
        ("linger_ms", 7, "linger.ms", 7),
        ("linger_ms", 0.5, "linger.ms", 0.5),
        ("compression_type", "zstd", "compression.type", "zstd"),
        ("compression_type", None, "compression.type", "none"),
        ("acks", "all", "acks", "all"),
        ("acks", -1, "acks", "all"),
        ("buffer_memory", 33_554_432, "queue.buffering.max.kbytes", 32_768),
        ("send_buffer_bytes", 131_072, "socket.send.buffer.bytes", 131_072),
        ("receive_buffer_bytes", 0, "socket.receive.buffer.bytes", 0),
        ("max_in_flight_requests_per_connection", 5, "max.in.flight.requests.per.connection", 5),
        ("enable_idempotence", True, "enable.idempotence", True),
    ],
)
def test_a_producer_option_becomes_the_clients_in_its_unit(name: str, value: Any, client_name: str, client_value: Any) -> None:
    check_producer_options({name: value})
    assert producer_config("default", {name: value})[client_name] == client_value


@pytest.mark.parametrize(
    ("name", "value", "client_name"),
    [
        ("fetch_min_bytes", 1, "fetch.min.bytes"),
        ("fetch_max_wait_ms", 500, "fetch.wait.max.ms"),
        ("max_partition_fetch_bytes", 1_048_576, "max.partition.fetch.bytes"),
        ("send_buffer_bytes", 1, "socket.send.buffer.bytes"),
        ("receive_buffer_bytes", 1, "socket.receive.buffer.bytes"),
    ],
)
def test_a_consumer_option_becomes_the_clients(name: str, value: int, client_name: str) -> None:
    check_consumer_options({name: value})
    assert consumer_config({name: value}) == {client_name: value}


@pytest.mark.parametrize("options", [{"auto_offset_reset": "latest"}, {"enable_auto_commit": True}, {"auto_commit_interval_ms": 5_000}])
def test_how_offsets_are_kept_is_accepted_but_not_handed_to_the_client(options: dict[str, Any]) -> None:
    check_consumer_options(options)
    assert consumer_config(options) == {}


def test_retries_are_accepted_and_left_to_the_client() -> None:
    check_producer_options({"retries": 3})
    assert "retries" not in producer_config("default", {"retries": 3})


@pytest.mark.parametrize("name", sorted(PRODUCER_OPTIONS))
def test_every_producer_option_is_explained_and_known(name: str) -> None:
    assert PRODUCER_OPTIONS[name].help
    with pytest.raises(SettingsError, match=name):
        check_producer_options({name: object()})


@pytest.mark.parametrize("name", sorted(CONSUMER_OPTIONS))
def test_every_consumer_option_is_explained_and_known(name: str) -> None:
    assert CONSUMER_OPTIONS[name].help
    with pytest.raises(SettingsError, match=name):
        check_consumer_options({name: object()})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("batch_size", 0),
        ("batch_size", "16384"),
        ("batch_size", True),
        ("linger_ms", -1),
        ("linger_ms", float("nan")),
        ("linger_ms", None),
        ("compression_type", "brotli"),
        ("acks", 2),
        ("acks", True),
        ("retries", -1),
        ("buffer_memory", 1),
        ("send_buffer_bytes", -1),
        ("receive_buffer_bytes", 1.5),
        ("max_in_flight_requests_per_connection", 0),
        ("max_in_flight_requests_per_connection", 6),
        ("enable_idempotence", "false"),
        ("enable_idempotence", 1),
    ],
)
def test_a_bad_producer_value_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(SettingsError) as caught:
        check_producer_options({name: value})
    assert caught.value.name == name
    assert "expected" in caught.value.reason or "at most" in caught.value.reason


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("fetch_min_bytes", 0),
        ("fetch_max_wait_ms", 300_001),
        ("max_partition_fetch_bytes", "1"),
        ("auto_offset_reset", "none"),
        ("auto_offset_reset", None),
        ("enable_auto_commit", "yes"),
        ("auto_commit_interval_ms", 0),
    ],
)
def test_a_bad_consumer_value_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(SettingsError, match=f"^{name}: expected"):
        check_consumer_options({name: value})


@pytest.mark.parametrize("name", ["batch.size", "linger", "bootstrap_servers", "auto_offset_reset"])
def test_an_unknown_producer_option_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(SettingsError, match="batch_size"):
        check_producer_options({name: 1})


def test_an_unknown_consumer_option_is_refused_with_the_known_ones() -> None:
    with pytest.raises(SettingsError, match="fetch_min_bytes"):
        check_consumer_options({"linger_ms": 1})


@pytest.mark.parametrize("acks", [0, 1, "0", "1"])
def test_fewer_acknowledgements_contradict_idempotence(acks: Any) -> None:
    with pytest.raises(SettingsError, match="contradicts enable_idempotence"):
        check_producer_options({"acks": acks})
    with pytest.raises(SettingsError, match="contradicts enable_idempotence"):
        check_producer_options({"acks": acks, "enable_idempotence": True})


@pytest.mark.parametrize("acks", [0, 1, "0", "1"])
def test_fewer_acknowledgements_are_allowed_without_idempotence(acks: Any) -> None:
    check_producer_options({"acks": acks, **UNSAFE})
    config = producer_config("default", {"acks": acks, **UNSAFE})
    assert (config["acks"], config["enable.idempotence"]) == (str(acks), False)


def test_more_requests_in_flight_are_allowed_without_idempotence() -> None:
    check_producer_options({"max_in_flight_requests_per_connection": 50, **UNSAFE})


def test_the_defaults_lose_nothing_and_warn_of_nothing() -> None:
    config = producer_config("default", {})
    assert (config["acks"], config["enable.idempotence"]) == ("all", True)
    assert delivery_warnings({}) == []


@pytest.mark.parametrize(
    ("options", "word"),
    [({"acks": 0, **UNSAFE}, "silently"), ({"acks": 1, **UNSAFE}, "lost"), ({"acks": "all", **UNSAFE}, "duplicates")],
)
def test_a_choice_that_loses_says_what(options: dict[str, Any], word: str) -> None:
    (warning,) = delivery_warnings(options)
    assert word in warning


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_a_preset_is_made_of_known_options_and_keeps_every_promise(preset: str) -> None:
    check_producer_options(PRESETS[preset])
    config = producer_config(preset, {})
    assert (config["acks"], config["enable.idempotence"]) == ("all", True)


def test_an_explicit_option_wins_over_the_preset() -> None:
    assert producer_config("latency", {})["linger.ms"] == 0
    assert producer_config("latency", {"linger_ms": 3})["linger.ms"] == 3


@pytest.mark.parametrize(
    ("text", "servers"),
    [
        ("a:1", [("a", 1)]),
        ("a:1,b:2", [("a", 1), ("b", 2)]),
        ("a:1, b", [("a", 1), ("b", 9092)]),
        ("[::1]:9093", [("::1", 9093)]),
        ("127.0.0.1:9092", [("127.0.0.1", 9092)]),
    ],
)
def test_servers_are_read(text: str, servers: list[tuple[str, int]]) -> None:
    assert parse_servers(text) == servers


@pytest.mark.parametrize("text", ["", ",", "a:1,", ":9092", "a:b", "a:99999", "user:secret@a:1", "a:1/topic", "a:1?x=y", "http://a:1"])
def test_what_is_no_server_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # the sentence is the caller's; here only the kind is promised
        parse_servers(text)
