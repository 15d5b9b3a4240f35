"""Every setting: its default, a good value, a bad one; where it comes from; what is never shown."""

from __future__ import annotations

import json
import pickle
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from tallyroll.errors import SettingsError
from tallyroll.events.topic_plan import DEFAULT_RECORD_BYTES
from tallyroll.events.topics import DAY_MS, Catalogue, TopicOverride, catalogue_of
from tallyroll.roll import Roll
from tallyroll.settings import Secret, Settings, variable_of

CANARY = "canary-7f3a9c"
CANARY_KEY = "7f3a9c00" * 8
KAFKA = {"TALLYROLL_URL": "kafka://broker:9092"}
SASL = {**KAFKA, "KAFKA_SECURITY_PROTOCOL": "SASL_SSL", "KAFKA_SASL_USERNAME": "me", "KAFKA_SASL_PASSWORD": CANARY}

# variable, field, default, good text, what it becomes, bad text (None: every text is good)
VARIABLES: list[tuple[str, str, Any, str, Any, str | None]] = [
    ("TALLYROLL_URL", "url", "sqlite:///./tallyroll-data", "sqlite://:memory:", "sqlite://:memory:", "postgres://x"),
    ("TALLYROLL_DATA_DIR", "data_dir", Path("tallyroll-data"), "/var/lib/x", Path("/var/lib/x"), None),
    ("TALLYROLL_SOURCE", "source", "tallyroll", "urn:x", "urn:x", None),
    ("TALLYROLL_TOPIC_PREFIX", "topic_prefix", "", "acme.", "acme.", "acme/"),
    ("TALLYROLL_REPLICATION", "replication", 0, "3", 3, "-1"),
    ("TALLYROLL_TOPICS", "topics", {}, '{"task-events": {"partitions": 16}}', {"task-events": {"partitions": 16}}, "[1]"),
    ("KAFKA_WAIT_FOR_ACK", "wait_for_ack", True, "no", False, "maybe"),
    ("TALLYROLL_PUBLISH_DEADLINE_MS", "publish_deadline_ms", 30_000, "5000", 5_000, "0"),
    ("TALLYROLL_STALL_MS", "stall_ms", 2_000, "500", 500, "2s"),
    ("TALLYROLL_EXIT_GRACE_MS", "exit_grace_ms", 10_000, "0", 0, "-1"),
    ("TALLYROLL_MAX_IN_FLIGHT", "max_in_flight", 50_000, "10", 10, "0"),
    ("TALLYROLL_MAX_IN_FLIGHT_BYTES", "max_in_flight_bytes", 67_108_864, "1000000", 1_000_000, "1e6"),
    ("TALLYROLL_MAX_RECORD_BYTES", "max_record_bytes", 900_000, "1000", 1_000, "-1"),
    ("TALLYROLL_SPOOL_MAX_BYTES", "spool_max_bytes", 1_073_741_824, "1", 1, "0"),
    ("TALLYROLL_GROUP_PREFIX", "group_prefix", "tallyroll", "blue", "blue", "a b"),
    ("TALLYROLL_INSTANCE_ID", "instance_id", "", "pod-1", "pod-1", "pod 1"),
    ("TALLYROLL_BATCH_RECORDS", "batch_records", 500, "100", 100, "0"),
    ("TALLYROLL_FLUSH_INTERVAL_MS", "flush_interval_ms", 100, "50", 50, "0"),
    ("TALLYROLL_ARCHIVE_DIR", "archive_dir", None, "kept", Path("kept"), None),
    ("TALLYROLL_ARCHIVE_SEAL_RECORDS", "archive_seal_records", 262_144, "1000", 1_000, "0"),
    ("TALLYROLL_ARCHIVE_SEAL_BYTES", "archive_seal_bytes", 268_435_456, "1000", 1_000, "-1"),
    ("TALLYROLL_ARCHIVE_SEAL_AGE_MS", "archive_seal_age_ms", 21_600_000, "1000", 1_000, "0"),
    ("TALLYROLL_SESSION_TIMEOUT_MS", "session_timeout_ms", 10_000, "45000", 45_000, "0"),
    ("TALLYROLL_READ_WAIT_MS", "read_wait_ms", 2_000, "0", 0, "-5"),
    ("TALLYROLL_HTTP_HOST", "http_host", "127.0.0.1", "10.0.0.1", "10.0.0.1", None),
    ("TALLYROLL_HTTP_PORT", "http_port", None, "9090", 9_090, "65536"),
    ("ANALYTICS_WINDOW_SIZE", "analytics_window", "1hour", "5min", "5min", "2min"),
    ("TALLYROLL_METRICS_FILE", "metrics_file", None, "own.toml", Path("own.toml"), None),
    ("TALLYROLL_ANALYTICS_KEEP_DAYS", "analytics_keep_days", 35, "400", 400, "0"),
    ("AUDIT_SECRET_KEY", "audit_secret_key", None, CANARY_KEY, Secret(CANARY_KEY), CANARY),
    ("AUDIT_ENABLE_ENCRYPTION", "audit_enable_encryption", True, "off", False, "never"),
    ("AUDIT_KEYRING", "audit_keyring", "", "file:/keys/ring", "file:/keys/ring", "vault:x"),
    ("AUDIT_FRAMEWORKS", "audit_frameworks", "", "gdpr, SOX", "gdpr, SOX", "gdpr,rgpd"),
    ("AUDIT_RULES", "audit_rules", None, "own.toml", Path("own.toml"), None),
    ("AUDIT_WITNESS_KEYS", "audit_witness_keys", "", "w.example+1a2b3c4d+BQ==", "w.example+1a2b3c4d+BQ==", "w.example"),
    ("AUDIT_WITNESS", "audit_witness", "", "https://w.example", "https://w.example", "http://w.example"),
    ("AUDIT_CHECKPOINT_SECONDS", "audit_checkpoint_seconds", 1, "10", 10, "0"),
    ("AUDIT_HEARTBEAT_SECONDS", "audit_heartbeat_seconds", 5, "60", 60, "0"),
    ("AUDIT_DEFAULT_RETENTION_DAYS", "audit_default_retention_days", 365, "30", 30, "-1"),
    ("AUDIT_SUBJECT_FIELDS", "subject_fields", "customer_id,patient_id,user_id,subject_id,employee_id", "who", "who", None),
    ("TALLYROLL_ALERTS_FILE", "alerts_file", None, "own.toml", Path("own.toml"), None),
    ("TALLYROLL_ALERTS_WEBHOOK_URL", "alerts_webhook_url", "", "https://x.example/in", "https://x.example/in", "http://x.example/in"),
    ("TALLYROLL_ALERTS_WEBHOOK_SECRET", "alerts_webhook_secret", None, CANARY * 3, Secret(CANARY * 3), "too short"),
    ("REDIS_HOST", "redis_host", "", "cache", "cache", None),
    ("REDIS_PORT", "redis_port", 6_379, "7000", 7_000, "65536"),
    ("TALLYROLL_NATS_MODE", "nats_mode", "jetstream", "CORE", "core", "queue"),
    ("TALLYROLL_NATS_SUBJECT", "nats_subject", "agents.{aggregate_id}.status", "a.{agent_id}", "a.{agent_id}", None),
    ("TALLYROLL_NATS_EVENT_TYPES", "nats_event_types", "agent.started,task.completed", "task.failed", "task.failed", None),
    ("TALLYROLL_REDIS_PREFIX", "redis_prefix", "tallyroll:", "states:", "states:", "two words"),
    ("REDIS_PASSWORD", "redis_password", None, CANARY, Secret(CANARY), None),
    ("NATS_SERVERS", "nats_servers", "", "nats://bus:4222", "nats://bus:4222", "http://bus:4222"),
    ("TALLYROLL_LOG_FORMAT", "log_format", "text", "JSON", "json", "xml"),
    ("TALLYROLL_LOG_LEVEL", "log_level", "info", "DEBUG", "debug", "loud"),
    ("TALLYROLL_TRACES", "traces", "off", "otlp", "otlp", "jaeger"),
    ("TALLYROLL_TRACE_SPANS_PER_BATCH", "trace_spans_per_batch", 16, "0", 0, "-1"),
    ("TALLYROLL_KAFKA_PRESET", "kafka_preset", "default", "LATENCY", "latency", "fast"),
    ("TALLYROLL_KAFKA_PRODUCER", "kafka_producer", {}, '{"linger_ms": 9}', {"linger_ms": 9}, '{"linger": 9}'),
    ("TALLYROLL_KAFKA_CONSUMER", "kafka_consumer", {}, '{"fetch_min_bytes": 9}', {"fetch_min_bytes": 9}, "{"),
    ("KAFKA_SECURITY_PROTOCOL", "kafka_security_protocol", "PLAINTEXT", "ssl", "SSL", "TLS"),
    ("KAFKA_SASL_MECHANISM", "kafka_sasl_mechanism", "SCRAM-SHA-512", "plain", "PLAIN", "OAUTHBEARER"),
    ("KAFKA_SASL_USERNAME", "kafka_sasl_username", "", "me", "me", None),
    ("KAFKA_SASL_PASSWORD", "kafka_sasl_password", None, CANARY, Secret(CANARY), None),
    ("KAFKA_SSL_CA_LOCATION", "kafka_ssl_ca", None, "/ca.pem", Path("/ca.pem"), None),
    ("KAFKA_SSL_CERTIFICATE_LOCATION", "kafka_ssl_certificate", None, "/c.pem", Path("/c.pem"), None),
    ("KAFKA_SSL_KEY_LOCATION", "kafka_ssl_key", None, "/k.pem", Path("/k.pem"), None),
    ("KAFKA_SSL_KEY_PASSWORD", "kafka_ssl_key_password", None, CANARY, Secret(CANARY), None),
    ("TALLYROLL_KAFKA_TLS_MINIMUM", "kafka_tls_minimum", "1.3", "1.2", "1.2", "1.1"),
    ("TALLYROLL_SQLITE_SYNCHRONOUS", "sqlite_synchronous", "FULL", "normal", "NORMAL", "OFF"),
]
IDS = [row[0] for row in VARIABLES]
# What a good value needs beside it.
COMPANIONS = {
    "KAFKA_WAIT_FOR_ACK": KAFKA,
    "KAFKA_SSL_CERTIFICATE_LOCATION": {"KAFKA_SSL_KEY_LOCATION": "/k.pem"},
    "KAFKA_SSL_KEY_LOCATION": {"KAFKA_SSL_CERTIFICATE_LOCATION": "/c.pem"},
}


def test_every_field_has_a_row_in_this_table() -> None:
    """A new setting needs a row in VARIABLES."""
    covered = {row[1] for row in VARIABLES}
    own = {item.name for item in fields(Settings)}
    assert covered == own


@pytest.mark.parametrize(("env", "name", "default", "good", "value", "bad"), VARIABLES, ids=IDS)
def test_a_variable_has_the_documented_default(env: str, name: str, default: Any, good: str, value: Any, bad: str | None) -> None:  # noqa: ARG001, PLR0913  # one row of the table
    assert variable_of(name).env == env
    assert getattr(Settings(), name) == default
    assert getattr(Settings.from_env({}), name) == default


@pytest.mark.parametrize(("env", "name", "default", "good", "value", "bad"), VARIABLES, ids=IDS)
def test_a_good_value_is_taken(env: str, name: str, default: Any, good: str, value: Any, bad: str | None) -> None:  # noqa: ARG001, PLR0913  # one row of the table
    settings = Settings.from_env({**COMPANIONS.get(env, {}), env: good})
    assert getattr(settings, name) == value
    assert type(getattr(settings, name)) is type(value)


@pytest.mark.parametrize(("env", "bad"), [(row[0], row[5]) for row in VARIABLES if row[5] is not None])
def test_a_bad_value_is_refused_by_name_and_not_shown(env: str, bad: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_env({env: bad})
    assert caught.value.name in (env, "linger")
    if len(bad) > 2:
        assert bad not in str(caught.value)


@pytest.mark.parametrize("item", fields(Settings), ids=lambda item: item.name)
def test_every_field_is_documented(item: Any) -> None:
    variable = item.metadata["variable"]
    assert variable.env == variable.env.upper()
    assert variable.help.endswith(".")
    assert variable.unit or variable.accepts
    assert item.name.endswith("_ms") == (variable.unit == "ms")
    assert item.name.endswith("_bytes") <= (variable.unit == "bytes")


def test_every_variable_is_named_once() -> None:
    names = [item.metadata["variable"].env for item in fields(Settings)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("text", ["true", "TRUE", "1", "yes", "on"])
def test_what_is_true(text: str) -> None:
    assert Settings.from_env({"KAFKA_WAIT_FOR_ACK": text}).wait_for_ack is True


@pytest.mark.parametrize("text", ["false", "False", "0", "no", "off"])
def test_what_is_false(text: str) -> None:
    assert Settings.from_env({**KAFKA, "KAFKA_WAIT_FOR_ACK": text}).wait_for_ack is False


def test_an_empty_variable_is_an_unset_one() -> None:
    assert Settings.from_env({"TALLYROLL_MAX_IN_FLIGHT": "", "TALLYROLL_URL": ""}) == Settings()


def test_bootstrap_servers_stand_for_a_kafka_log() -> None:
    settings = Settings.from_env({"KAFKA_BOOTSTRAP_SERVERS": "a:1,b:2"})
    assert settings.is_kafka
    assert settings.bootstrap_servers == "a:1,b:2"


def test_the_url_wins_over_bootstrap_servers() -> None:
    settings = Settings.from_env({"KAFKA_BOOTSTRAP_SERVERS": "a:1", "TALLYROLL_URL": "sqlite://:memory:"})
    assert settings.in_memory
    assert not settings.is_kafka
    assert settings.bootstrap_servers == ""


def test_an_override_wins_over_the_environment() -> None:
    assert Settings.from_env({"KAFKA_BOOTSTRAP_SERVERS": "a:1"}, url="sqlite://:memory:").in_memory


@pytest.mark.parametrize(
    "url",
    ["kafka://", "kafka://:9092", "kafka://a:port", "kafka://me:secret@a:1", "kafka://a:1/x", "sqlite://", "sqlite:///", "sqlite://x", "x"],
)
def test_a_bad_url_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(SettingsError, match=r"^TALLYROLL_URL: ") as caught:
        Settings(url=url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(("url", "folder"), [("sqlite:///./a/b", "a/b"), ("sqlite:///a", "a"), ("sqlite:////var/a", "/var/a")])
def test_the_folder_of_the_embedded_log_holds_everything(url: str, folder: str) -> None:
    assert Settings(url=url).data_dir == Path(folder)


def test_a_folder_alone_says_where_the_embedded_log_lies(tmp_path: Path) -> None:
    settings = Settings.from_env({"TALLYROLL_DATA_DIR": str(tmp_path)})
    assert (settings.url, settings.data_dir) == (f"sqlite:///{tmp_path}", tmp_path)


def test_a_kafka_log_keeps_its_spool_in_the_folder(tmp_path: Path) -> None:
    assert Settings.from_env({**KAFKA, "TALLYROLL_DATA_DIR": str(tmp_path)}).data_dir == tmp_path


@pytest.mark.parametrize("env", ["KAFKA_SASL_PASSWORD", "KAFKA_SSL_KEY_PASSWORD"])
def test_a_secret_is_read_from_its_file(env: str, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(f"{CANARY}\n")
    settings = Settings.from_env({f"{env}_FILE": str(file)})
    assert CANARY in [secret.reveal() for secret in (settings.kafka_sasl_password, settings.kafka_ssl_key_password) if secret]


def test_a_secret_given_twice_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(CANARY)
    with pytest.raises(SettingsError, match="twice") as caught:
        Settings.from_env({"KAFKA_SASL_PASSWORD": CANARY, "KAFKA_SASL_PASSWORD_FILE": str(file)})
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize("content", [None, b"", b" \n", b"\xff\xfe"], ids=["missing", "empty", "blank", "not-utf-8"])
def test_a_secret_file_without_a_secret_is_refused(content: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SettingsError, match=r"^KAFKA_SASL_PASSWORD_FILE: "):
        Settings.from_env({"KAFKA_SASL_PASSWORD_FILE": str(file)})


def test_only_secrets_are_read_from_files(tmp_path: Path) -> None:
    file = tmp_path / "url"
    file.write_text("sqlite://:memory:")
    assert Settings.from_env({"TALLYROLL_URL_FILE": str(file)}) == Settings()


def test_a_secret_shows_itself_nowhere() -> None:
    settings = Settings.from_env({**SASL, "KAFKA_SSL_KEY_PASSWORD": CANARY})
    shown = [repr(settings), str(settings), f"{settings}", repr(settings.kafka_sasl_password), f"{settings.kafka_sasl_password!s:>20}"]
    assert not [text for text in shown if CANARY in text]
    assert "***" in repr(settings)
    with pytest.raises(TypeError) as caught:
        pickle.dumps(settings)
    assert CANARY not in str(caught.value)
    with pytest.raises(TypeError) as not_json:
        json.dumps(settings.kafka_sasl_password)
    assert CANARY not in str(not_json.value)


def test_equal_secrets_are_equal_and_others_are_not() -> None:
    assert Secret("a") == Secret("a")
    assert hash(Secret("a")) == hash(Secret("a"))
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"


@pytest.mark.parametrize(
    ("environ", "name"),
    [
        ({"KAFKA_WAIT_FOR_ACK": "false"}, "KAFKA_WAIT_FOR_ACK"),
        ({**KAFKA, "KAFKA_SECURITY_PROTOCOL": "SASL_SSL"}, "KAFKA_SASL_USERNAME"),
        ({**KAFKA, "KAFKA_SECURITY_PROTOCOL": "SASL_SSL", "KAFKA_SASL_USERNAME": "me"}, "KAFKA_SASL_PASSWORD"),
        ({"KAFKA_SSL_CERTIFICATE_LOCATION": "/c.pem"}, "KAFKA_SSL_CERTIFICATE_LOCATION"),
        ({"KAFKA_SSL_KEY_LOCATION": "/k.pem"}, "KAFKA_SSL_CERTIFICATE_LOCATION"),
        ({"TALLYROLL_KAFKA_PRODUCER": '{"acks": 1}'}, "acks"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(environ: dict[str, str], name: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_env(environ)
    assert caught.value.name == name


@pytest.mark.parametrize(
    "fields_",
    [{"kafka_preset": "fast"}, {"kafka_security_protocol": "ssl"}, {"kafka_tls_minimum": "1.0"}, {"sqlite_synchronous": "OFF"}],
)
def test_a_choice_is_checked_in_code_as_in_the_environment(fields_: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="expected one of"):
        Settings(**fields_)


def test_kafka_options_are_added_to_those_there_are() -> None:
    first = Settings().with_kafka(producer={"linger_ms": 1, "batch_size": 2}, consumer={"fetch_min_bytes": 3})
    second = first.with_kafka(producer={"linger_ms": 4})
    assert second.kafka_producer == {"linger_ms": 4, "batch_size": 2}
    assert second.kafka_consumer == {"fetch_min_bytes": 3}
    assert first.kafka_producer["linger_ms"] == 1


@pytest.mark.parametrize("options", [{"producer": {"linger": 1}}, {"consumer": {"linger_ms": 1}}, {"producer": {"acks": "1"}}])
def test_unknown_and_contradictory_kafka_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        Settings().with_kafka(**options)


def test_a_group_is_named_after_its_follower() -> None:
    assert Settings().group("analytics") == "tallyroll.analytics"
    assert Settings(topic_prefix="acme.", group_prefix="blue").group("analytics") == "acme.blue.analytics"


def test_the_size_of_a_record_is_the_same_here_and_in_the_topic_plan() -> None:
    assert Settings().max_record_bytes == DEFAULT_RECORD_BYTES


def test_the_catalogue_follows_the_settings() -> None:
    settings = Settings(
        topic_prefix="acme.", topics={"task-events": {"partitions": 16, "retention_days": 0.5, "durability": "write-ahead"}}
    )
    topic = catalogue_of(settings)["task-events"]
    assert (topic.name, topic.partitions, topic.retention_ms, topic.durability) == ("acme.task-events", 16, DAY_MS // 2, "write-ahead")


def test_the_catalogue_of_the_defaults_is_the_documented_one() -> None:
    catalogue = catalogue_of(Settings())
    assert {(topic.name, topic.partitions, topic.retention_days) for topic in catalogue.topics} == {
        ("agent-events", 8, 30),
        ("task-events", 8, 90),
        ("workflow-events", 4, 60),
        ("performance-events", 4, 7),
        ("audit-events", 8, 7 * 365),
        ("system-events", 4, 14),
        ("dead-letters", 4, 90),
    }


@pytest.mark.parametrize(
    ("topics", "name"),
    [
        ({"tasks": {}}, "TALLYROLL_TOPICS"),
        ({"task-events": 16}, "TALLYROLL_TOPICS.task-events"),
        ({"task-events": {"partition": 16}}, "TALLYROLL_TOPICS.task-events"),
        ({"task-events": {"cleanup_policy": "compact"}}, "TALLYROLL_TOPICS.task-events"),
        ({"task-events": {"partitions": 0}}, "TALLYROLL_TOPICS.task-events.partitions"),
        ({"task-events": {"partitions": 10_001}}, "TALLYROLL_TOPICS.task-events.partitions"),
        ({"task-events": {"partitions": "16"}}, "TALLYROLL_TOPICS.task-events.partitions"),
        ({"task-events": {"partitions": True}}, "TALLYROLL_TOPICS.task-events.partitions"),
        ({"task-events": {"retention_days": 0}}, "TALLYROLL_TOPICS.task-events.retention_days"),
        ({"task-events": {"retention_days": -1}}, "TALLYROLL_TOPICS.task-events.retention_days"),
        ({"task-events": {"retention_days": 1e-12}}, "TALLYROLL_TOPICS.task-events.retention_days"),
        ({"task-events": {"retention_days": float("nan")}}, "TALLYROLL_TOPICS.task-events.retention_days"),
        ({"task-events": {"retention_days": float("inf")}}, "TALLYROLL_TOPICS.task-events.retention_days"),
        ({"task-events": {"retention_days": "30"}}, "TALLYROLL_TOPICS.task-events.retention_days"),
        ({"task-events": {"durability": "disk"}}, "TALLYROLL_TOPICS.task-events.durability"),
        ({"task-events": {"durability": 1}}, "TALLYROLL_TOPICS.task-events.durability"),
    ],
)
def test_a_bad_override_of_a_topic_is_refused_by_name(topics: dict[str, Any], name: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings(topics=topics)
    assert caught.value.name == name


def test_overrides_in_code_are_checked_as_well() -> None:
    with pytest.raises(SettingsError, match="partitions"):
        Catalogue(overrides={"task-events": TopicOverride(partitions=0)})


def test_a_file_may_be_named_by_text_in_code_as_in_the_environment(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.toml"
    settings = Settings.from_env({}, metrics_file=str(metrics), alerts_file=str(metrics), archive_dir=str(tmp_path))
    assert settings == Settings(metrics_file=metrics, alerts_file=metrics, archive_dir=tmp_path)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"url": 5}, r"TALLYROLL_URL: expected text \(sqlite:///FOLDER, .*\), got int"),
        ({"data_dir": 5}, "TALLYROLL_DATA_DIR: expected a path, got int"),
        ({"topics": ["task-events"]}, "TALLYROLL_TOPICS: expected a table, got list"),
        ({"wait_for_ack": "yes"}, "KAFKA_WAIT_FOR_ACK: expected true or false, got str"),
        ({"redis_password": CANARY}, "REDIS_PASSWORD: expected a Secret, got str"),
        ({"redis_host": None}, r"REDIS_HOST: expected text \(a host\), got NoneType"),
    ],
)
def test_a_value_of_another_kind_is_refused_in_code_too(given: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=f"^{said}$"):
        Settings(**given)


async def test_a_roll_is_opened_by_a_url_by_settings_or_by_nothing() -> None:
    for wrong in (5, Path("folder")):
        with pytest.raises(SettingsError, match=r"^url: expected text \(sqlite:///FOLDER, "):
            async with Roll.open(wrong):  # type: ignore[arg-type]
                pass


@pytest.mark.parametrize(("metrics", "got"), [(["x"], "str"), ("x", "str"), (5, "int")])
async def test_what_is_no_metric_is_refused_as_that(metrics: Any, got: str) -> None:
    with pytest.raises(TypeError, match=f"^metrics: expected MetricSpec objects in a list, got {got}$"):
        async with Roll.open("sqlite://:memory:", metrics=metrics):
            pass


def test_a_number_is_a_number_in_code_as_in_the_environment() -> None:
    with pytest.raises(SettingsError, match="expected a number") as caught:
        Settings(read_wait_ms="2000")  # type: ignore[arg-type]  # the slip that is meant
    assert caught.value.name == "TALLYROLL_READ_WAIT_MS"


def test_settings_travel_through_an_environment_with_their_secrets() -> None:
    given = Settings(
        url="kafka://h:1",
        kafka_security_protocol="SASL_SSL",
        kafka_sasl_username="u",
        kafka_sasl_password=Secret("p w"),
        topics={"task-events": {"partitions": 3}},
        archive_dir=Path("kept"),
        flush_interval_ms=7,
    )
    assert Settings.from_env(given.to_env()) == given
    assert Settings.from_env(Settings().to_env()) == Settings()


def test_a_slip_is_told_by_the_name_it_was_written_under():
    for environ, given, name in (
        ({"TALLYROLL_URL": "foo"}, {}, "TALLYROLL_URL"),
        ({"KAFKA_BOOTSTRAP_SERVERS": "user:secret@broker"}, {}, "KAFKA_BOOTSTRAP_SERVERS"),
        ({"TALLYROLL_URL": "sqlite://:memory:"}, {"url": "foo"}, "url"),
    ):
        with pytest.raises(SettingsError) as caught:
            Settings.from_env(environ, **given)
        assert caught.value.name == name
        assert "secret" not in str(caught.value)
