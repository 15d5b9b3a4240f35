"""Opening what the settings name: the log, the stores, the archive, processes. Each adapter is imported only when it is chosen."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import msgspec

from tallyroll.adapters.extras import available, require
from tallyroll.adapters.system.clock import SystemClock
from tallyroll.adapters.system.processes import PythonWorkers
from tallyroll.adapters.system.segment_files import LocalSegmentFiles
from tallyroll.analytics.spec import BUILT_IN, MetricSpec, specs_from_toml
from tallyroll.errors import KeyRingUnavailable, SettingsError, Undecodable
from tallyroll.events.position import TopicPartition
from tallyroll.events.topics import Catalogue, catalogue_of
from tallyroll.ports import (
    AlertSink,
    Archive,
    Clock,
    Detector,
    EventLog,
    LedgerStore,
    MessageSource,
    MessageTarget,
    Outbox,
    PiiFinder,
    SpoolFactory,
    StateStore,
    StateTarget,
    Tracing,
    WindowStore,
    Witness,
)
from tallyroll.replay.replayer import Replayer
from tallyroll.settings import Settings, key_bytes
from tallyroll.telemetry import Counters, Telemetry

if TYPE_CHECKING:
    from tallyroll.adapters.crypto import Root
    from tallyroll.analytics.alerts.event_sink import Publish
    from tallyroll.analytics.alerts.rules import AnyRule
    from tallyroll.archive.opening import OpenArchive
    from tallyroll.archive.sealing import SealLimits
    from tallyroll.audit.compliance.rules import RuleSet
    from tallyroll.audit.opening import AuditKeys
    from tallyroll.audit.sealing.witnessing import KeptWitness
    from tallyroll.publish.privacy import FieldSealer

_WORKER: Final = "tallyroll.worker"
_LEDGER: Final = "ledger.sqlite"

DETECTORS: Final = ("ensemble", "moving-average", "windowed-gaussian", "half-space-trees", "isolation-forest")
"""The detectors that can be chosen for a look at the past; the first is the one that watches."""


async def open_log(settings: Settings, catalogue: Catalogue, clock: Clock, telemetry: Telemetry) -> EventLog:
    """Each adapter is imported only when its log is chosen: a missing extra must not be noticed by the others."""
    if settings.is_kafka:
        require("kafka")
        from tallyroll.adapters.kafka.log import KafkaLog  # noqa: PLC0415

        return await KafkaLog.open(settings, catalogue, clock=clock, telemetry=telemetry)
    from tallyroll.adapters.sqlite.log import SqliteLog  # noqa: PLC0415

    return await SqliteLog.open(
        None if settings.in_memory else settings.data_dir,
        catalogue,
        clock=clock,
        synchronous=settings.sqlite_synchronous,
        max_record_bytes=settings.max_record_bytes,
        session_timeout_ms=settings.session_timeout_ms,
    )


def spool_of(settings: Settings, log: EventLog) -> SpoolFactory | None:
    """How the spool of this process is opened; None before a log that is always there."""
    if not log.durable_spool_needed:
        return None
    from tallyroll.adapters.sqlite.spool import SqliteSpool  # noqa: PLC0415

    folder: Path = settings.data_dir / "spool"
    return lambda: SqliteSpool(folder, max_bytes=settings.spool_max_bytes)


async def open_state_store(settings: Settings) -> StateStore:
    """The store of the state follower: a file beside the log. Raises StoreUnavailable."""
    from tallyroll.adapters.sqlite.state_store import SqliteStateStore  # noqa: PLC0415  # opened when first needed

    return await SqliteStateStore.open(None if settings.in_memory else settings.data_dir / "state.db")


async def open_window_store(settings: Settings) -> WindowStore:
    """The store of analytics: a file beside the log. Raises MissingExtra, StoreUnavailable."""
    require("analytics")
    from tallyroll.adapters.sqlite.window_store import SqliteWindowStore  # noqa: PLC0415  # opened when first needed

    return await SqliteWindowStore.open(None if settings.in_memory else settings.data_dir / "analytics.db")


def open_state_target(settings: Settings) -> StateTarget:
    """Where the Redis bridge keeps states; connects when first asked. Raises MissingExtra, SettingsError without a host."""
    if not settings.redis_host:
        raise SettingsError("REDIS_HOST", "expected a host, where states are kept")
    require("redis")
    from tallyroll.adapters.redis.state_target import RedisStateTarget  # noqa: PLC0415  # needs the extra

    prefix = "" if settings.redis_prefix == "none" else settings.redis_prefix
    return RedisStateTarget(settings.redis_host, settings.redis_port, settings.redis_password, prefix=prefix, tenant=settings.topic_prefix)


async def open_outbox(settings: Settings) -> Outbox:
    """The outbox of created tasks: in Redis where that is set, so that any host can finish it, else a file beside the log.

    Raises MissingExtra, StoreUnavailable for a file that cannot be opened.
    """
    if settings.redis_host:
        require("redis")
        from tallyroll.adapters.redis.outbox import RedisOutbox  # noqa: PLC0415  # needs the extra

        return RedisOutbox(settings.redis_host, settings.redis_port, settings.redis_password, tenant=settings.topic_prefix)
    from tallyroll.adapters.sqlite.outbox import SqliteOutbox  # noqa: PLC0415  # opened when first needed

    return await SqliteOutbox.open(None if settings.in_memory else settings.data_dir / "outbox.db")


def open_message_target(settings: Settings) -> MessageTarget:
    """Where events are forwarded to; connects when first asked. Raises MissingExtra, SettingsError without servers."""
    if not settings.nats_servers:
        raise SettingsError("NATS_SERVERS", "expected servers, where events are forwarded to")
    require("nats")
    from tallyroll.adapters.nats.message_target import NatsMessages  # noqa: PLC0415  # needs the extra

    return NatsMessages(settings.nats_servers.split(","), jetstream=settings.nats_mode == "jetstream")


def open_message_source(settings: Settings, subject: str) -> MessageSource:
    """Where events are taken from; connects when first asked. Raises MissingExtra, SettingsError without servers."""
    if not settings.nats_servers:
        raise SettingsError("NATS_SERVERS", "expected servers, where events are taken from")
    require("nats")
    from tallyroll.adapters.nats.message_source import NatsSource  # noqa: PLC0415  # needs the extra

    return NatsSource(settings.nats_servers.split(","), subject, settings.group("inward"))


def open_tracing(settings: Settings, clock: Clock) -> Tracing | None:
    """Where spans go; None where nothing is traced. Raises MissingExtra, SettingsError."""
    if settings.traces == "off":
        return None
    require("otel")
    from tallyroll.adapters.otel.tracing import otlp_tracing  # noqa: PLC0415  # needs the extra

    return otlp_tracing(settings, clock)


def metrics_of(settings: Settings, more: Sequence[MetricSpec] = ()) -> Sequence[MetricSpec]:
    """The built-in metrics, those of the settings' file, and more. Raises SettingsError naming the file for what is wrong in it."""
    declared: Sequence[MetricSpec] = ()
    if settings.metrics_file is not None:
        try:
            declared = specs_from_toml(settings.metrics_file.read_text("utf-8"))
        except OSError as error:
            raise SettingsError("TALLYROLL_METRICS_FILE", f"cannot be read ({error.strerror})") from error
        except ValueError as error:
            raise SettingsError("TALLYROLL_METRICS_FILE", str(error)) from error
    specs = (*BUILT_IN, *declared, *more)
    names = [spec.name for spec in specs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise SettingsError("TALLYROLL_METRICS_FILE", f"there are two metrics of the name {', '.join(twice)}; choose another")
    return specs


def alert_rules_of(settings: Settings, specs: Sequence[MetricSpec]) -> Sequence[AnyRule]:
    """The default alert rules, or those of the settings' file. Raises SettingsError naming the file for what is wrong in it."""
    from tallyroll.analytics.alerts.rules import DEFAULT_RULES, rules_from  # noqa: PLC0415  # needs the extra

    path = settings.alerts_file
    if path is None:
        return DEFAULT_RULES
    try:
        return rules_from(path.read_text("utf-8"), specs, toml=path.suffix != ".json")
    except OSError as error:
        raise SettingsError("TALLYROLL_ALERTS_FILE", f"cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise SettingsError("TALLYROLL_ALERTS_FILE", str(error)) from error


def open_alert_sinks(settings: Settings, publish: Publish, clock: Clock) -> Sequence[AlertSink]:
    """Where alerts go: the log file, an event, and what the settings name. Nothing is connected before something is sent."""
    from tallyroll.adapters.system.alert_log import LogSink  # noqa: PLC0415  # opened when first needed
    from tallyroll.analytics.alerts.event_sink import EventSink  # noqa: PLC0415  # as above

    sinks: list[AlertSink] = [LogSink(), EventSink(publish)]
    if settings.alerts_webhook_url:
        from tallyroll.adapters.http.webhook import WebhookSink  # noqa: PLC0415  # as above

        sinks.append(WebhookSink(settings.alerts_webhook_url, settings.alerts_webhook_secret, clock=clock))
    if settings.redis_host:
        require("redis")
        from tallyroll.adapters.redis.alert_sink import RedisSink  # noqa: PLC0415  # as above

        sinks.append(RedisSink(settings.redis_host, settings.redis_port, settings.redis_password))
    if settings.nats_servers:
        require("nats")
        from tallyroll.adapters.nats.alert_sink import NatsSink  # noqa: PLC0415  # as above

        sinks.append(NatsSink(settings.nats_servers.split(",")))
    return sinks


def new_detector(name: str) -> Detector:
    """A detector that has learned nothing yet. Raises MissingExtra; ValueError for a name that is not in DETECTORS."""
    if name not in DETECTORS:
        raise ValueError(f"no detector of that name; there are {', '.join(DETECTORS)}")
    if name == "half-space-trees":
        require("ml")
        from tallyroll.adapters.ml.half_space_trees import HalfSpaceTrees  # noqa: PLC0415  # needs the extra

        return HalfSpaceTrees()
    if name == "isolation-forest":
        require("ml")
        from tallyroll.adapters.ml.isolation_forest import IsolationForest  # noqa: PLC0415  # needs the extra

        return IsolationForest()
    require("analytics")
    from tallyroll.analytics.anomalies.detectors import Ensemble  # noqa: PLC0415  # needs the extra
    from tallyroll.analytics.anomalies.plain import MovingAverage, WindowedGaussian  # noqa: PLC0415  # as above

    if name == "ensemble":
        return Ensemble()
    return MovingAverage() if name == "moving-average" else WindowedGaussian()


def archive_folder(settings: Settings) -> Path:
    """Where the archive lies, whether or not there is one."""
    return settings.archive_dir or settings.data_dir / "archive"


def open_archive(settings: Settings, catalogue: Catalogue, clock: Clock) -> OpenArchive:
    """The archive of these settings; nothing is made before something is archived. Raises MissingExtra, SettingsError."""
    if settings.in_memory:
        raise SettingsError("archive", "a log in memory keeps nothing, so there is nothing to archive")
    require("archive")
    from tallyroll.adapters.parquet.codec import ParquetCodec  # noqa: PLC0415  # needs the extra
    from tallyroll.adapters.sqlite.archive_index import SqliteArchiveIndexes  # noqa: PLC0415  # opened when first needed
    from tallyroll.archive.opening import OpenArchive  # noqa: PLC0415  # needs the extra

    folder = archive_folder(settings)

    def files(partition: TopicPartition) -> LocalSegmentFiles:
        return LocalSegmentFiles(folder / partition.topic / str(partition.partition) / "segments")

    return OpenArchive(SqliteArchiveIndexes(folder), files, ParquetCodec(), catalogue, clock=clock)


def audit_folder(settings: Settings) -> Path:
    """Where the ledger of audit and its keys lie, whether or not there is one."""
    return settings.data_dir / "audit"


async def open_ledger_store(settings: Settings) -> LedgerStore:
    """The store of the audit ledger: a file beside the log. Raises StoreUnavailable."""
    from tallyroll.adapters.sqlite.ledger_store import SqliteLedgerStore  # noqa: PLC0415  # opened when first needed
    from tallyroll.audit.ledger.layout import take_out  # noqa: PLC0415  # as above

    return await SqliteLedgerStore.open(None if settings.in_memory else audit_folder(settings) / _LEDGER, take_out)


def open_audit_keys(settings: Settings) -> AuditKeys:
    """The keys of the audit ledger, all of one root: its id, the ring, the key of checkpoints. Blocks for some milliseconds.

    The root is ``AUDIT_SECRET_KEY``, or a key in a token (``AUDIT_KEYRING``), or with the embedded log a file that is made
    once. With Kafka it has to be set: keys that each host made for itself would be worth nothing to the others. Raises
    MissingExtra; SettingsError, also where the secret is not the one that the ring was made with; KeyRingUnavailable.
    """
    require("audit")
    from tallyroll.adapters.crypto import AesGcm, Ed25519Signer, FileKeyRing  # noqa: PLC0415  # needs the extra
    from tallyroll.adapters.sqlite.ledger_store import holds_records  # noqa: PLC0415  # as above
    from tallyroll.audit.opening import AuditKeys  # noqa: PLC0415  # opened when first needed

    with ExitStack() as stack:
        folder = audit_folder(settings)
        if settings.in_memory:
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="tallyroll-audit-", ignore_cleanup_errors=True)))
        path = Path(settings.audit_keyring.removeprefix("file:")) if settings.audit_keyring.startswith("file:") else folder / "keys"
        if not path.exists() and holds_records(folder / _LEDGER):  # a new one could open nothing, and would hide what is missing
            raise KeyRingUnavailable(str(path), "it is missing, and the ledger there was sealed with it; restore it from a copy")
        token = None
        if settings.audit_keyring.startswith("pkcs11:"):
            require("hsm")
            from tallyroll.adapters.pkcs11 import Pkcs11Token, TokenUri  # noqa: PLC0415  # needs the extra

            token = Pkcs11Token(TokenUri.parse(settings.audit_keyring))
            stack.callback(token.close)
        root = token.root() if token is not None else _audit_root(settings, folder)
        log_id = root.derive(b"tallyroll/audit/log-id")[:16]
        origin = f"tallyroll/{log_id.hex()}"
        ring = FileKeyRing(path, root)
        stack.callback(ring.close)
        signer = token.signer(origin) if token is not None else Ed25519Signer(origin, root.derive(b"tallyroll/audit/checkpoints"))
        return AuditKeys(log_id, ring, signer, AesGcm, stack.pop_all().close)


def open_witnesses(settings: Settings, key: str) -> Sequence[Witness]:
    """Who cosigns the checkpoints of the ledger with this public key; asks nobody yet. Raises MissingExtra, KeyRingUnavailable."""
    where = settings.audit_witness
    if not where:
        return []
    require("audit")
    if where.startswith("file:"):
        return [file_witness(Path(urlsplit(where).path), [key])]
    from tallyroll.adapters.http.witness import HttpWitness  # noqa: PLC0415  # as above

    return [HttpWitness(where)]


def file_witness(folder: Path, keys: Sequence[str], *, name: str = "tallyroll/witness") -> KeptWitness:
    """A witness whose own key and memory are in a folder, made there where there are none.

    ``keys`` are the public keys of the ledgers that it knows. Raises SettingsError for what is no key, KeyRingUnavailable.
    """
    from tallyroll.adapters.crypto import Ed25519Signer, is_signed, secret_in  # noqa: PLC0415  # needs the extra
    from tallyroll.adapters.system.shared_file import SharedFile  # noqa: PLC0415  # opened when first needed
    from tallyroll.audit.ledger.note import NoteKey  # noqa: PLC0415  # as above
    from tallyroll.audit.sealing.witnessing import KeptWitness  # noqa: PLC0415  # as above

    try:
        trusted = [NoteKey.parse(key) for key in keys]
    except Undecodable as error:  # before anything is made
        raise SettingsError("--key", str(error)) from None
    signer = Ed25519Signer(name, secret_in(folder / "key", what="the key of a witness"))
    return KeptWitness(signer, SharedFile(folder / "seen"), is_signed, clock=SystemClock(), trusted=trusted)


def _audit_root(settings: Settings, folder: Path) -> Root:
    from tallyroll.adapters.crypto import SecretRoot, secret_in  # noqa: PLC0415  # needs the extra

    if settings.audit_secret_key is not None:
        return SecretRoot(key_bytes(settings.audit_secret_key))
    if settings.is_kafka:
        raise SettingsError("AUDIT_SECRET_KEY", "needed with Kafka, the same on every host; 'openssl rand -hex 32' makes one")
    if settings.in_memory:
        return SecretRoot(os.urandom(32))
    if (folder / "keys").exists() and not (folder / "secret").exists():  # a new one could open nothing, and hide what is missing
        raise KeyRingUnavailable(str(folder / "secret"), "it is missing, and the keys beside it were made with it; restore it from a copy")
    return SecretRoot(secret_in(folder / "secret"))


def compliance_rules_of(settings: Settings) -> RuleSet:
    """The rules that come with tallyroll and those of the settings' file, under the versions of both.

    An own rule takes the place of one of the library's by its id and a higher version. Raises SettingsError naming the file
    for what is wrong in it.
    """
    from tallyroll.audit.compliance.library import library  # noqa: PLC0415  # opened when first needed
    from tallyroll.audit.compliance.rules import ComplianceRuleEngine, RuleSet, rule_set_from_toml  # noqa: PLC0415  # as above

    if settings.audit_rules is None:
        return library()
    try:
        own = rule_set_from_toml(settings.audit_rules.read_text("utf-8"))
        joined = ComplianceRuleEngine((*library().rules, *own.rules))
        return RuleSet(version=f"{library().version}+{own.version}"[:64], rules=tuple(joined.rules), derived=own.derived)
    except OSError as error:
        raise SettingsError("AUDIT_RULES", f"cannot be read ({error.strerror})") from error
    except SettingsError:
        raise
    except ValueError as error:
        raise SettingsError("AUDIT_RULES", str(error)) from error


def open_pii_finder() -> PiiFinder:
    """What finds personal data: RE2 where it is installed, else ``re``, which finds the same more slowly."""
    from tallyroll.audit.compliance.pii import PATTERNS, ReFinder  # noqa: PLC0415  # opened when first needed

    if not available("audit"):
        return ReFinder(PATTERNS)
    from tallyroll.adapters.re2 import Re2Finder  # noqa: PLC0415  # needs the extra

    return Re2Finder(PATTERNS)


def open_field_sealer(settings: Settings) -> tuple[FieldSealer, Callable[[], object]]:
    """What seals personal fields of events under the keys of the ledger, and what forgets these keys. Raises as ``open_audit_keys``."""
    from tallyroll.audit.compliance.pii import PiiScanner  # noqa: PLC0415  # opened when first needed
    from tallyroll.publish.privacy import FieldSealer  # noqa: PLC0415  # as above

    keys = open_audit_keys(settings)
    scanner = PiiScanner(open_pii_finder())
    fields = settings.subject_fields_named
    return FieldSealer(scanner, keys.ring, keys.new_cipher(), tenant=keys.log_id, subject_fields=fields), keys.close


def seal_limits(settings: Settings) -> SealLimits:
    """When the tail of a partition becomes a segment."""
    from tallyroll.archive.sealing import SealLimits  # noqa: PLC0415  # needs the extra

    return SealLimits(settings.archive_seal_records, settings.archive_seal_bytes, settings.archive_seal_age_ms * 1_000)


@asynccontextmanager
async def open_replayer(settings: Settings) -> AsyncIterator[Replayer]:
    """What a replay needs and nothing else: the log to be read, and the archive. No publisher, no spool, no group."""
    clock, catalogue = SystemClock(), catalogue_of(settings)
    async with AsyncExitStack() as stack:
        log = await open_log(settings, catalogue, clock, Counters())
        stack.push_async_callback(log.close)
        archive = None
        if not settings.in_memory and archive_folder(settings).is_dir():
            archive = open_archive(settings, catalogue, clock)
            stack.callback(archive.close)
        yield replayer_on(settings, log, catalogue, clock, archive.reader if archive is not None else None)


def replayer_on(settings: Settings, log: EventLog, catalogue: Catalogue, clock: Clock, archive: Archive | None) -> Replayer:
    """A replayer on what is open already."""
    workers = None if settings.in_memory else PythonWorkers(msgspec.json.encode(settings.to_env()), _WORKER)
    kept = None if settings.in_memory else LocalSegmentFiles(settings.data_dir / "projections")
    return Replayer(log, catalogue, clock=clock, archive=archive, workers=workers, kept=kept)
