"""What librdkafka is told. Whether it accepts it is asked of the client itself, without a broker to connect to."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer
from hypothesis import given
from hypothesis import strategies as st

from tallyroll.adapters.kafka.admin import KafkaAdmin
from tallyroll.adapters.kafka.config import LOGGER, RedactingLogger, client_config, client_logger, consumer_config, producer_config
from tallyroll.errors import SettingsError
from tallyroll.events.topic_plan import request_bytes
from tallyroll.settings import Secret, Settings
from tallyroll.settings.kafka_options import PRESETS

CANARY = "canary-7f3a9c"
PLAIN = Settings(url="kafka://broker:9092")
SECURE = Settings(
    url="kafka://broker:9092",
    kafka_security_protocol="SASL_SSL",
    kafka_sasl_username="me",
    kafka_sasl_password=Secret(CANARY),
    kafka_ssl_key_password=Secret(f"{CANARY}-key"),
)


def offline(config: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name != "bootstrap.servers"}


@pytest.mark.parametrize("preset", sorted(PRESETS))
@pytest.mark.parametrize("settings", [PLAIN, SECURE], ids=["plain", "secure"])
def test_the_client_accepts_every_preset(preset: Any, settings: Settings) -> None:
    producer = Producer(offline(producer_config(replace(settings, kafka_preset=preset))))
    producer.poll(0)  # the client's own log lines count as waiting until they are fetched
    assert len(producer) == 0


@pytest.mark.parametrize("group", [None, "tallyroll.analytics"])
@pytest.mark.parametrize(
    "settings",
    [
        PLAIN,
        SECURE,
        Settings(url="kafka://a:1", instance_id="pod-1", session_timeout_ms=600_000),
        Settings(url="kafka://a:1", session_timeout_ms=1),
    ],
    ids=["plain", "secure", "slow-static", "short-session"],
)
def test_the_client_accepts_what_a_consumer_is_told(group: str | None, settings: Settings) -> None:
    consumer = Consumer(offline(consumer_config(settings, group)))
    assert consumer.assignment() == []
    consumer.close()


def test_the_client_accepts_the_longest_fetch_that_the_options_allow() -> None:
    config = consumer_config(PLAIN.with_kafka(consumer={"fetch_max_wait_ms": 250_000}), None)
    Consumer(offline(config)).close()


def test_a_user_of_the_settings_cannot_turn_off_a_promise_by_an_option() -> None:
    settings = PLAIN.with_kafka(consumer={"auto_offset_reset": "latest", "enable_auto_commit": True})
    config = consumer_config(settings, "g")
    assert (config["auto.offset.reset"], config["enable.auto.commit"], config["enable.auto.offset.store"]) == ("error", False, False)


def test_the_client_never_gives_up_a_record_by_itself() -> None:
    for preset in sorted(PRESETS):
        assert producer_config(Settings(url="kafka://a:1", kafka_preset=preset))["message.timeout.ms"] == 0  # type: ignore[arg-type]


def test_keys_go_where_the_java_client_puts_them() -> None:
    assert producer_config(PLAIN)["partitioner"] == "murmur2_random"


def test_the_clients_queue_is_never_the_first_to_be_full() -> None:
    settings = Settings(url="kafka://a:1", max_in_flight=10, max_in_flight_bytes=1_048_576)
    config = producer_config(settings)
    assert config["queue.buffering.max.messages"] > settings.max_in_flight
    assert config["queue.buffering.max.kbytes"] * 1024 > settings.max_in_flight_bytes


def test_the_users_own_buffer_memory_is_kept() -> None:
    assert producer_config(PLAIN.with_kafka(producer={"buffer_memory": 33_554_432}))["queue.buffering.max.kbytes"] == 32_768


def test_the_greatest_record_fits_into_a_request() -> None:
    config = producer_config(Settings(url="kafka://a:1", max_record_bytes=5_000_000))
    assert config["message.max.bytes"] == request_bytes(5_000_000) > 5_000_000


def test_no_client_creates_topics() -> None:
    assert [c["allow.auto.create.topics"] for c in (client_config(PLAIN), producer_config(PLAIN), consumer_config(PLAIN, "g"))] == [
        False
    ] * 3


def test_a_consumer_keeps_its_name_over_restarts_only_if_it_has_one() -> None:
    named = consumer_config(Settings(url="kafka://a:1", instance_id="pod-1"), "g")
    assert named["group.instance.id"] == "pod-1"
    assert "group.instance.id" not in consumer_config(PLAIN, "g")


def test_a_heartbeat_has_two_more_chances_within_a_session() -> None:
    for timeout_ms in (6_000, 10_000, 45_000):
        config = consumer_config(Settings(url="kafka://a:1", session_timeout_ms=timeout_ms), "g")
        assert config["heartbeat.interval.ms"] * 3 <= config["session.timeout.ms"] == timeout_ms
        assert config["heartbeat.interval.ms"] <= 1_000, "who comes or leaves is heard of with a heartbeat"


def test_security_is_passed_on() -> None:
    config = client_config(SECURE)
    assert config["security.protocol"] == "SASL_SSL"
    assert config["sasl.mechanism"] == "SCRAM-SHA-512"
    assert (config["sasl.username"], config["sasl.password"]) == ("me", CANARY)
    assert config["enable.ssl.certificate.verification"] is True
    assert config["ssl.endpoint.identification.algorithm"] == "https"


def test_mutual_tls_is_passed_on() -> None:
    settings = Settings(
        url="kafka://a:1",
        kafka_security_protocol="SSL",
        kafka_ssl_ca=Path("/ca.pem"),
        kafka_ssl_certificate=Path("/c.pem"),
        kafka_ssl_key=Path("/k.pem"),
        kafka_ssl_key_password=Secret(CANARY),
    )
    config = client_config(settings)
    names = ("ssl.ca.location", "ssl.certificate.location", "ssl.key.location", "ssl.key.password")
    assert [config[name] for name in names] == ["/ca.pem", "/c.pem", "/k.pem", CANARY]


def test_a_plain_connection_is_told_nothing_of_security() -> None:
    assert not [name for name in client_config(PLAIN) if name.startswith(("ssl.", "sasl.", "enable.ssl"))]


def test_older_tls_is_possible_only_by_name() -> None:
    assert "ssl.cipher.suites" in client_config(SECURE)
    older = Settings(url="kafka://a:1", kafka_security_protocol="SSL", kafka_tls_minimum="1.2")
    assert "ssl.cipher.suites" not in client_config(older)


def test_no_secret_gets_into_a_log_line(caplog: pytest.LogCaptureFixture) -> None:
    logger = client_logger(SECURE)
    with caplog.at_level(logging.DEBUG, logger=LOGGER):
        logger.log(logging.ERROR, "%s [%s] %s", "SASL", "client-1", f"password is {CANARY}.")
        logger.log(logging.ERROR, "key %s!", f"{CANARY}-key")
        logger.error("by argument: %s", CANARY)
    assert CANARY not in caplog.text
    assert [record.getMessage() for record in caplog.records] == ["SASL [client-1] password is ***.", "key ***!", "by argument: ***"]


def test_a_log_line_without_a_secret_stays_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger=LOGGER):
        client_logger(PLAIN).log(logging.INFO, "%s of it", "100%")
        client_logger(PLAIN).log(logging.INFO, "100%")
    assert [record.getMessage() for record in caplog.records] == ["100% of it", "100%"]


@given(st.text(min_size=1), st.lists(st.text(min_size=1), min_size=1), st.text())
def test_a_redacted_text_holds_none_of_the_secrets(first: str, others: list[str], between: str) -> None:
    logger = RedactingLogger(logging.getLogger(LOGGER), [first, *others])
    redacted = logger.redacted(between.join([first, *others]))
    left = redacted.replace("***", "")
    assert not [secret for secret in (first, *others) if secret in left and secret not in between and "*" not in secret]


def test_an_empty_secret_changes_no_text() -> None:
    assert RedactingLogger(logging.getLogger(LOGGER), ["", ""]).redacted("as it is") == "as it is"


def test_what_the_client_does_not_accept_is_a_settings_error_without_the_secret() -> None:
    settings = Settings(
        url="kafka://a:1",
        kafka_security_protocol="SASL_SSL",
        kafka_sasl_username="me",
        kafka_sasl_password=Secret(CANARY),
        kafka_ssl_ca=Path(f"/nowhere/{CANARY}.pem"),
    )
    with pytest.raises(SettingsError) as caught:
        KafkaAdmin(settings)
    assert CANARY not in str(caught.value)
