"""Every setting: its variable, its unit, its default. Frozen; read only by ``Settings.from_env`` and ``Settings.from_toml``."""

# ruff: noqa: RUF009  # _setting() makes the dataclass field itself
from __future__ import annotations

import os
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal, Self, TypeVar

import msgspec

from tallyroll.errors import SettingsError
from tallyroll.settings.checks import AUDIT_FRAMEWORK_NAMES, check
from tallyroll.settings.kinds import check_kinds
from tallyroll.settings.secret import Secret
from tallyroll.settings.sources import CONFIG_VARIABLE, DEFAULT, Declared, Found, Source, Variable, from_environment, from_file

Preset = Literal["default", "throughput", "latency"]
SecurityProtocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
SaslMechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]
TlsVersion = Literal["1.3", "1.2"]
LogFormat = Literal["text", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]
Traces = Literal["off", "otlp"]
Synchronous = Literal["FULL", "NORMAL"]
NatsMode = Literal["jetstream", "core"]
WindowName = Literal["1min", "5min", "15min", "1hour", "1day"]

_DEFAULT_URL: Final = "sqlite:///./tallyroll-data"
_DEFAULT_DIR: Final = Path("tallyroll-data")

_MAX_PORT: Final = 65_535


def _setting(  # noqa: PLR0913  # what there is to say of a setting
    env: str,
    default: Any,  # noqa: ANN401  # whatever a setting may be
    help: str,  # noqa: A002  # as argparse calls it
    *,
    unit: str = "",
    accepts: str = "",
    least: int | None = None,
    most: int | None = None,
) -> Any:  # noqa: ANN401
    metadata = {"variable": Variable(env, unit, accepts, help, least, most)}
    if isinstance(default, dict):
        return field(default_factory=dict, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True)
class Settings:
    """How a roll is put together. Times in milliseconds, sizes in bytes, retention in days; the suffix says which.

    ``Settings()`` is the embedded log in ``./tallyroll-data``. Every field has a variable (see ``from_env``); secrets can
    also be given as ``…_FILE``. Raises SettingsError naming the variable for values that contradict each other.
    """

    # Where the log is
    url: str = _setting("TALLYROLL_URL", _DEFAULT_URL, "Which log: the embedded one in a folder, in memory, or Kafka.",
                        accepts="sqlite:///FOLDER, sqlite://:memory:, kafka://HOST:PORT,…")  # fmt: skip
    data_dir: Path = _setting(
        "TALLYROLL_DATA_DIR",
        _DEFAULT_DIR,
        "Where spool and local stores lie; with sqlite:///FOLDER it is that folder, and without a URL the log lies here too.",
        accepts="a folder",
    )
    source: str = _setting(
        "TALLYROLL_SOURCE", "tallyroll", "Names the producer in every event (CloudEvents source).", accepts="a URI reference"
    )
    topic_prefix: str = _setting(
        "TALLYROLL_TOPIC_PREFIX", "", "Put before every topic and group name, for instance for a tenant.", accepts="letters, digits, . _ -"
    )
    replication: int = _setting(
        "TALLYROLL_REPLICATION",
        0,
        "Copies of each partition when topics are created; 0 means 3, or fewer where there are fewer brokers.",
        accepts="0 or more",
        least=0,
    )
    topics: Mapping[str, Mapping[str, Any]] = _setting(
        "TALLYROLL_TOPICS",
        {},
        "Overrides per topic: partitions, retention_days, durability (memory or write-ahead).",
        accepts='JSON such as {"task-events": {"partitions": 16, "retention_days": 30}}',
    )

    # Publishing
    wait_for_ack: bool = _setting(
        "KAFKA_WAIT_FOR_ACK",
        True,
        "false: publishing returns once the event is in the spool on disk; needs a Kafka log.",
        accepts="boolean",
    )
    publish_deadline_ms: int = _setting(
        "TALLYROLL_PUBLISH_DEADLINE_MS",
        30_000,
        "How long a caller waits for the log before the outcome is called uncertain.",
        unit="ms",
        least=1,
    )
    stall_ms: int = _setting(
        "TALLYROLL_STALL_MS",
        2_000,
        "A partition without any report for so long, while records are out, goes through the spool.",
        unit="ms",
        least=1,
    )
    exit_grace_ms: int = _setting(
        "TALLYROLL_EXIT_GRACE_MS",
        10_000,
        "How long closing, exit and SIGTERM wait for acknowledgements before the rest is spooled.",
        unit="ms",
        least=0,
    )
    max_in_flight: int = _setting(
        "TALLYROLL_MAX_IN_FLIGHT", 50_000, "Records handed to the client and not yet acknowledged; more wait.", unit="records", least=1
    )
    max_in_flight_bytes: int = _setting("TALLYROLL_MAX_IN_FLIGHT_BYTES", 67_108_864, "The same bound in bytes.", unit="bytes", least=1)
    max_record_bytes: int = _setting(
        "TALLYROLL_MAX_RECORD_BYTES", 900_000, "Value, key and headers together; larger events are refused.", unit="bytes", least=1
    )
    spool_max_bytes: int = _setting(
        "TALLYROLL_SPOOL_MAX_BYTES", 1_073_741_824, "How much the spool may hold while the log is away.", unit="bytes", least=1
    )

    # Following
    group_prefix: str = _setting(
        "TALLYROLL_GROUP_PREFIX", "tallyroll", "Consumer groups are named PREFIX.FOLLOWER.", accepts="letters, digits, . _ -"
    )
    instance_id: str = _setting(
        "TALLYROLL_INSTANCE_ID",
        "",
        "Static membership: a name that stays the same over restarts of this process.",
        accepts="letters, digits, . _ -",
    )
    batch_records: int = _setting(
        "TALLYROLL_BATCH_RECORDS", 500, "Most records read at once; more is slower, see the performance page.", unit="records", least=1
    )
    flush_interval_ms: int = _setting(
        "TALLYROLL_FLUSH_INTERVAL_MS",
        100,
        "How often followers write results and positions; writing takes half of the time at most, a fifth while they are behind.",
        unit="ms",
        least=1,
    )
    session_timeout_ms: int = _setting(
        "TALLYROLL_SESSION_TIMEOUT_MS",
        10_000,
        "How long a dead follower keeps its partitions.",
        unit="ms",
        least=1,
    )
    read_wait_ms: int = _setting(
        "TALLYROLL_READ_WAIT_MS",
        2_000,
        "How long a read waits for what this process has published.",
        unit="ms",
        least=0,
    )

    # The archive
    archive_dir: Path | None = _setting(
        "TALLYROLL_ARCHIVE_DIR", None, "Where the archive lies; unset: archive/ in the data folder.", accepts="a folder"
    )
    archive_seal_records: int = _setting(
        "TALLYROLL_ARCHIVE_SEAL_RECORDS", 262_144, "A tail with so many records becomes a segment.", unit="records", least=1
    )
    archive_seal_bytes: int = _setting(
        "TALLYROLL_ARCHIVE_SEAL_BYTES", 268_435_456, "The same bound in bytes of keys and values.", unit="bytes", least=1
    )
    archive_seal_age_ms: int = _setting(
        "TALLYROLL_ARCHIVE_SEAL_AGE_MS",
        21_600_000,
        "A tail whose oldest record came so long ago becomes a segment.",
        unit="ms",
        least=1,
    )

    # Analytics
    analytics_window: WindowName = _setting(
        "ANALYTICS_WINDOW_SIZE", "1hour", "The window of a query that names none.", accepts="1min, 5min, 15min, 1hour, 1day"
    )
    metrics_file: Path | None = _setting(
        "TALLYROLL_METRICS_FILE", None, "Metrics beside the built-in ones: tables [[metric]] in TOML.", accepts="a file"
    )
    analytics_keep_days: int = _setting(
        "TALLYROLL_ANALYTICS_KEEP_DAYS",
        35,
        "How far behind the newest event panes of a quarter hour are kept, and older events that are imported still counted.",
        unit="days",
        least=1,
    )

    # The audit ledger
    audit_secret_key: Secret | None = _setting(
        "AUDIT_SECRET_KEY",
        None,
        "What every key of the ledger comes from; better as AUDIT_SECRET_KEY_FILE. Unset: with the embedded log a file in the data"
        " folder, made once; with Kafka audit does not start.",
        accepts="hex or base64 of at least 32 bytes",
    )
    audit_enable_encryption: bool = _setting(
        "AUDIT_ENABLE_ENCRYPTION",
        True,
        "false: only what a rule demands, or holds personal data, is sealed; the rest is hashed and lies there in clear.",
        accepts="boolean",
    )
    audit_keyring: str = _setting(
        "AUDIT_KEYRING",
        "",
        "Where the keys are; unset: audit/keys in the data folder. https: another host keeps them ('tallyroll audit keys serve'). "
        "pkcs11: the root key stays in a token, the ring in that folder.",
        accepts="file:PATH, https://…, or pkcs11:token=NAME?module-path=LIBRARY&pin-source=file:PATH",
    )
    audit_frameworks: str = _setting(
        "AUDIT_FRAMEWORKS",
        "",
        "Whose rules hold for entries that name no framework.",
        accepts=f"of {', '.join(AUDIT_FRAMEWORK_NAMES)}, with commas between",
    )
    audit_rules: Path | None = _setting(
        "AUDIT_RULES",
        None,
        "Own compliance rules beside those that come with tallyroll, and how entries are derived from events.",
        accepts="a TOML file",
    )
    audit_witness: str = _setting(
        "AUDIT_WITNESS",
        "",
        "Who remembers and cosigns the ledger's checkpoints; on another machine, or it witnesses nothing.",
        accepts="file:PATH, https://…, or http:// on this machine",
    )
    audit_witness_keys: str = _setting(
        "AUDIT_WITNESS_KEYS",
        "",
        "Public keys of witnesses, as they print them: verifications and evidence packs then say how far they cosigned.",
        accepts="NAME+ID+BASE64, with commas between",
    )
    audit_checkpoint_seconds: int = _setting(
        "AUDIT_CHECKPOINT_SECONDS",
        1,
        "How often a checkpoint is signed while there is something new.",
        unit="s",
        least=1,
    )
    audit_heartbeat_seconds: int = _setting(
        "AUDIT_HEARTBEAT_SECONDS",
        5,
        "How often a process that records says how far it has come; three missed are a finding.",
        unit="s",
        least=1,
    )
    audit_default_retention_days: int = _setting(
        "AUDIT_DEFAULT_RETENTION_DAYS", 365, "How long an entry is kept that no rule says more of.", unit="days", least=1, most=365_000
    )
    subject_fields: str = _setting(
        "AUDIT_SUBJECT_FIELDS",
        "customer_id,patient_id,user_id,subject_id,employee_id",
        "Fields of a payload, at any depth, that name the person an entry is about, where subjects= does not.",
        accepts="names with commas between",
    )

    # The service
    http_host: str = _setting(
        "TALLYROLL_HTTP_HOST", "127.0.0.1", "Where 'tallyroll run' serves health and metrics; no TLS, no password.", accepts="an address"
    )
    http_port: int | None = _setting(
        "TALLYROLL_HTTP_PORT",
        None,
        "Its port, 0 for any free one; unset: 8080 for 'run all' and where analytics is followed, else nothing is served.",
        accepts="0 to 65535",
        least=0,
        most=_MAX_PORT,
    )
    log_format: LogFormat = _setting(
        "TALLYROLL_LOG_FORMAT",
        "text",
        "How 'tallyroll run' writes what it has to say to standard error: for people, or as one JSON object per line.",
        accepts="text, json",
    )
    log_level: LogLevel = _setting(
        "TALLYROLL_LOG_LEVEL", "info", "The least that 'tallyroll run' says.", accepts="debug, info, warning, error"
    )
    traces: Traces = _setting(
        "TALLYROLL_TRACES",
        "off",
        "otlp: spans of publishing and of each follower go out by OTLP over HTTP, where the variables OTEL_… say.",
        accepts="off, otlp",
    )
    trace_spans_per_batch: int = _setting(
        "TALLYROLL_TRACE_SPANS_PER_BATCH",
        16,
        "So many traces that a batch touches get a span of their own in it; the span of the batch links to more.",
        unit="spans",
        least=0,
    )

    # Alerts
    alerts_file: Path | None = _setting(
        "TALLYROLL_ALERTS_FILE", None, "Own alert rules; unset: the default rules alone.", accepts="a TOML or JSON file"
    )
    alerts_webhook_url: str = _setting(
        "TALLYROLL_ALERTS_WEBHOOK_URL", "", "Where alerts are posted as JSON.", accepts="https://…, or http:// on this machine"
    )
    alerts_webhook_secret: Secret | None = _setting(
        "TALLYROLL_ALERTS_WEBHOOK_SECRET",
        None,
        "Signs what is posted; better as TALLYROLL_ALERTS_WEBHOOK_SECRET_FILE.",
        accepts="text of at least 16 characters",
    )
    redis_host: str = _setting(
        "REDIS_HOST",
        "",
        "Where alerts are published, on channels tallyroll:alerts:SEVERITY, and where states and the outbox of created tasks are kept.",
        accepts="a host",
    )
    redis_port: int = _setting("REDIS_PORT", 6_379, "Its port.", accepts="1 to 65535", least=1, most=_MAX_PORT)
    redis_password: Secret | None = _setting("REDIS_PASSWORD", None, "Its password; better as REDIS_PASSWORD_FILE.", accepts="text")
    redis_prefix: str = _setting(
        "TALLYROLL_REDIS_PREFIX",
        "tallyroll:",
        "Stands before the keys of states, as in tallyroll:agent:ID:state; none: agent:ID:state itself, where it is free.",
        accepts="text without blanks; none",
    )
    nats_servers: str = _setting(
        "NATS_SERVERS",
        "",
        "Where alerts are published, on subjects tallyroll.alerts.SEVERITY, and events are forwarded.",
        accepts="nats://HOST:PORT,…",
    )
    nats_mode: NatsMode = _setting(
        "TALLYROLL_NATS_MODE",
        "jetstream",
        "jetstream: a stream acknowledges each forwarded event. core: nothing is kept for subscribers who are away.",
        accepts="jetstream, core",
    )
    nats_subject: str = _setting(
        "TALLYROLL_NATS_SUBJECT",
        "agents.{aggregate_id}.status",
        "The subject of a forwarded event.",
        accepts="a subject with {aggregate_id}, {agent_id}, {event_type}, {tenant}",
    )
    nats_event_types: str = _setting(
        "TALLYROLL_NATS_EVENT_TYPES",
        "agent.started,task.completed",
        "Which events are forwarded.",
        accepts="event types with commas between",
    )

    # Kafka client
    kafka_preset: Preset = _setting(
        "TALLYROLL_KAFKA_PRESET", "default", "A set of producer options; explicit options win.", accepts="default, throughput, latency"
    )
    kafka_producer: Mapping[str, Any] = _setting(
        "TALLYROLL_KAFKA_PRODUCER", {}, "Producer options by their known names.", accepts="JSON; see the Kafka options page"
    )
    kafka_consumer: Mapping[str, Any] = _setting(
        "TALLYROLL_KAFKA_CONSUMER", {}, "Consumer options by their known names.", accepts="JSON; see the Kafka options page"
    )
    kafka_security_protocol: SecurityProtocol = _setting(
        "KAFKA_SECURITY_PROTOCOL", "PLAINTEXT", "Encryption and authentication.", accepts="PLAINTEXT, SSL, SASL_PLAINTEXT, SASL_SSL"
    )
    kafka_sasl_mechanism: SaslMechanism = _setting(
        "KAFKA_SASL_MECHANISM", "SCRAM-SHA-512", "How SASL proves who we are.", accepts="PLAIN, SCRAM-SHA-256, SCRAM-SHA-512"
    )
    kafka_sasl_username: str = _setting("KAFKA_SASL_USERNAME", "", "The principal.", accepts="text")
    kafka_sasl_password: Secret | None = _setting(
        "KAFKA_SASL_PASSWORD", None, "Its password; better as KAFKA_SASL_PASSWORD_FILE.", accepts="text"
    )
    kafka_ssl_ca: Path | None = _setting(
        "KAFKA_SSL_CA_LOCATION", None, "The authorities that brokers are checked against.", accepts="a PEM file; unset: the system's"
    )
    kafka_ssl_certificate: Path | None = _setting(
        "KAFKA_SSL_CERTIFICATE_LOCATION", None, "Our certificate for mutual TLS.", accepts="a PEM file"
    )
    kafka_ssl_key: Path | None = _setting("KAFKA_SSL_KEY_LOCATION", None, "Its private key.", accepts="a PEM file")
    kafka_ssl_key_password: Secret | None = _setting(
        "KAFKA_SSL_KEY_PASSWORD", None, "The key's password; better as KAFKA_SSL_KEY_PASSWORD_FILE.", accepts="text"
    )
    kafka_tls_minimum: TlsVersion = _setting(
        "TALLYROLL_KAFKA_TLS_MINIMUM", "1.3", "Brokers that do not speak this version are not talked to.", accepts="1.3, 1.2"
    )

    # The embedded log
    sqlite_synchronous: Synchronous = _setting(
        "TALLYROLL_SQLITE_SYNCHRONOUS",
        "FULL",
        "FULL: an acknowledged event survives a power cut. NORMAL: only the death of the process.",
        accepts="FULL, NORMAL",
    )

    def __post_init__(self) -> None:
        for name in _path_fields(type(self)):  # type: ignore[arg-type]  # the class is hashable; mypy looks at its objects
            if isinstance(given := getattr(self, name), str):
                object.__setattr__(self, name, Path(given))
        if self.url == _DEFAULT_URL and self.data_dir != _DEFAULT_DIR:  # a folder alone says where the embedded log lies
            object.__setattr__(self, "url", f"sqlite:///{self.data_dir}")
        check_kinds(self)
        check(self)
        if not self.is_kafka and not self.in_memory:
            object.__setattr__(self, "data_dir", Path(self.url.removeprefix("sqlite:///")))

    @property
    def audit_keyring_is_remote(self) -> bool:
        """Whether another process keeps the key ring."""
        return self.audit_keyring.startswith(("https:", "http:"))

    @property
    def audit_frameworks_named(self) -> tuple[str, ...]:
        """``audit_frameworks``, one by one."""
        return _listed(self.audit_frameworks.lower())

    @property
    def audit_witness_keys_named(self) -> tuple[str, ...]:
        """``audit_witness_keys``, one by one."""
        return _listed(self.audit_witness_keys)

    @property
    def subject_fields_named(self) -> tuple[str, ...]:
        """``subject_fields``, one by one."""
        return _listed(self.subject_fields)

    @property
    def is_kafka(self) -> bool:
        """Whether the log is Apache Kafka."""
        return self.url.startswith("kafka://")

    @property
    def in_memory(self) -> bool:
        """Whether nothing is kept: log and stores live and die with the process."""
        return self.url == "sqlite://:memory:"

    @property
    def bootstrap_servers(self) -> str:
        """``host:port,…`` of a Kafka log; empty otherwise."""
        return self.url.removeprefix("kafka://") if self.is_kafka else ""

    def group(self, follower: str) -> str:
        """The name of the consumer group in which the instances of a follower share its partitions."""
        return f"{self.topic_prefix}{self.group_prefix}.{follower}"

    def with_kafka(self, *, producer: Mapping[str, Any] | None = None, consumer: Mapping[str, Any] | None = None) -> Self:
        """The same settings with client options by their known names, such as ``batch_size`` or ``linger_ms``.

        Raises SettingsError for names that are not known and for contradictions such as ``acks=1`` with idempotence.
        """
        return replace(
            self,
            kafka_producer={**self.kafka_producer, **(producer or {})},
            kafka_consumer={**self.kafka_consumer, **(consumer or {})},
        )

    def to_env(self) -> dict[str, str]:
        """The variables that ``from_env`` makes the same settings of, secrets in the clear: for a pipe to an own process only."""
        variables: dict[str, str] = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, Secret):
                variables[item.metadata["variable"].env] = value.reveal()
            elif isinstance(value, Mapping):
                if value:
                    variables[item.metadata["variable"].env] = msgspec.json.encode(value).decode()
            elif value not in (None, ""):
                variables[item.metadata["variable"].env] = str(value)
        return variables

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, **overrides: Any) -> Self:  # noqa: ANN401
        """The settings that the environment describes; ``overrides`` (by field name) win over it.

        ``TALLYROLL_URL`` wins over ``KAFKA_BOOTSTRAP_SERVERS``, which stands for ``kafka://…``. A secret may be in the file
        that ``NAME_FILE`` names. ``TALLYROLL_CONFIG`` names a file as for ``from_toml``. Raises SettingsError naming the
        variable and what it accepts, never its value.
        """
        environ = os.environ if environ is None else environ
        return cls.from_toml(environ.get(CONFIG_VARIABLE) or None, environ, **overrides)

    @classmethod
    def from_toml(cls, path: str | Path | None, environ: Mapping[str, str] | None = None, **overrides: Any) -> Self:  # noqa: ANN401
        """The settings of a TOML file; the environment wins over it, ``overrides`` (by field name) over both. None: no file.

        Keys are field names; ``redis_host`` may also stand as ``host`` in a table ``[redis]``. A secret is not taken, only
        the name of its file, as ``redis_password_file``. Raises UnknownSetting, SecretInFile, SettingsError.
        """
        return settings_and_sources(path, environ, cls=cls, **overrides)[0]


@cache
def _path_fields(cls: type[Settings]) -> tuple[str, ...]:
    return tuple(name for name, hint in typing.get_type_hints(cls).items() if hint is Path or Path in typing.get_args(hint))


_S = TypeVar("_S", bound=Settings)
_URL_GIVEN: Final = Source("given", "url")


def settings_and_sources(
    path: str | Path | None,
    environ: Mapping[str, str] | None = None,
    *,
    cls: type[_S] = Settings,  # type: ignore[assignment]  # the default is the bound itself
    **overrides: Any,  # noqa: ANN401  # any field of Settings
) -> tuple[_S, Mapping[str, Source]]:
    """As ``Settings.from_toml``, and by field name where each value comes from. Raises the same."""
    environ = os.environ if environ is None else environ
    hints = typing.get_type_hints(cls)
    declared = {item.name: Declared(item.metadata["variable"], hints[item.name]) for item in fields(cls)}
    found = from_file(declared, Path(path)) if path is not None else {}
    found |= from_environment(declared, environ)
    found |= {name: Found(value, Source("given", name)) for name, value in overrides.items()}
    sources = {name: found[name].source if name in found else DEFAULT for name in declared}
    try:
        settings = cls(**{name: one.value for name, one in found.items()})
    except SettingsError as error:
        raise _as_written(error, path, declared, sources) from None
    if settings.data_dir != _DEFAULT_DIR and not settings.is_kafka:  # one of the two follows from the other
        first = "data_dir" if sources["url"] == DEFAULT else "url"
        sources["url"] = sources["data_dir"] = sources[first]
    return settings, sources


def _as_written(
    error: SettingsError, path: str | Path | None, declared: Mapping[str, Declared], sources: Mapping[str, Source]
) -> SettingsError:
    """The same error, by the name that was written: a key of the file, another variable that stands for it, or the argument ``url``."""
    variable, dot, inside = error.name.partition(".")  # in a table: of which entry
    for name, one in declared.items():
        source = sources[name]
        if one.variable.env == variable and source.kind == "file":
            return SettingsError(f"{path}: {source.name}{dot}{inside}", error.reason)
        if one.variable.env == variable and (source.kind == "environment" or source == _URL_GIVEN):
            return SettingsError(f"{source.name}{dot}{inside}", error.reason)
    return error


def variable_of(name: str) -> Variable:
    """The documentation of the setting with that field name."""
    variable: Variable = Settings.__dataclass_fields__[name].metadata["variable"]
    return variable


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part for part in map(str.strip, text.split(",")) if part)
