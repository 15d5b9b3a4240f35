"""Topics and rights of a Kafka cluster: implements ``ports.TopicAdmin`` over confluent-kafka's AdminClient."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Final, NamedTuple, Self, TypeVar

from confluent_kafka import KafkaError, KafkaException, TopicCollection, TopicPartitionInfo
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourcePatternType,
    ResourceType,
)

from tallyroll.adapters.kafka.config import client_config, client_logger
from tallyroll.adapters.kafka.outcomes import reason_of
from tallyroll.adapters.kafka.tls import probe_tls
from tallyroll.errors import LogUnavailable, SettingsError, TallyrollError, TopicConflict
from tallyroll.events.acls import Acl, Operation, Pattern, Resource, principal_of
from tallyroll.events.topics import Topic, TopicState
from tallyroll.settings import Settings

K = TypeVar("K")
V = TypeVar("V")

_REQUEST_S: Final = 15.0  # one request; a healthy broker answers in milliseconds, a new controller is elected in seconds
_LOOK_S: Final = 0.1  # the pause between looks at what a request came to; without looking, a wrong password is a time-out
_MISSING: Final = (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC)  # noqa: SLF001  # librdkafka's own codes begin so
_UNAUTHENTICATED: Final = (KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED)  # noqa: SLF001  # as above
_UNAUTHORISED: Final = (
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
)

_SETTINGS: Final[Mapping[int, tuple[str, str]]] = {
    **dict.fromkeys(_UNAUTHENTICATED, ("KAFKA_SASL_PASSWORD", "the brokers refuse this principal, its password or the mechanism")),
    KafkaError.INVALID_REPLICATION_FACTOR: ("TALLYROLL_REPLICATION", "more copies than there are brokers alive"),
    KafkaError.TOPIC_EXCEPTION: ("TALLYROLL_TOPIC_PREFIX", "the brokers accept no topic of that name"),
    KafkaError.SECURITY_DISABLED: ("authorizer.class.name", "the brokers have no authorizer, so rights mean nothing there; set one first"),
}
_NOT_ACCEPTED: Final = (KafkaError.INVALID_PARTITIONS, KafkaError.INVALID_CONFIG, KafkaError.POLICY_VIOLATION, KafkaError.INVALID_REQUEST)

_OPERATIONS: Final[Mapping[Operation, AclOperation]] = {
    "Alter": AclOperation.ALTER,
    "AlterConfigs": AclOperation.ALTER_CONFIGS,
    "Create": AclOperation.CREATE,
    "Delete": AclOperation.DELETE,
    "Describe": AclOperation.DESCRIBE,
    "DescribeConfigs": AclOperation.DESCRIBE_CONFIGS,
    "Read": AclOperation.READ,
    "Write": AclOperation.WRITE,
}
_RESOURCES: Final[Mapping[Resource, ResourceType]] = {"topic": ResourceType.TOPIC, "group": ResourceType.GROUP}
_PATTERNS: Final[Mapping[Pattern, ResourcePatternType]] = {
    "literal": ResourcePatternType.LITERAL,
    "prefixed": ResourcePatternType.PREFIXED,
}
_RESOURCE_OF: Final = {int(theirs.value): ours for ours, theirs in _RESOURCES.items()}
_PATTERN_OF: Final = {int(theirs.value): ours for ours, theirs in _PATTERNS.items()}
_OPERATION_OF: Final = {int(theirs.value): ours for ours, theirs in _OPERATIONS.items()}


class Rights(NamedTuple):
    """What a principal may do: rules as they are made here, and in words those that are not (other hosts, denials, the cluster)."""

    acls: list[Acl]
    others: list[str]


class KafkaAdmin:
    """Creates and alters topics and rights; implements ``ports.TopicAdmin``.

    Durability: what a call changed is in the cluster's metadata log when it returns. Idempotence: every call may be made
    again. Raises, from every call: LogUnavailable (no answer in time, or not now), SettingsError (the principal is refused
    or may not do this), TopicConflict (the topic is not there, or its change is not accepted).
    ``request_s`` bounds each request in seconds.
    Not promised: that a change is visible to every broker and client at once.
    """

    def __init__(self, settings: Settings, *, request_s: float = _REQUEST_S) -> None:
        self._settings = settings
        self._request_s = request_s
        self._refusal: KafkaError | None = None
        try:
            config: dict[str, Any] = {**client_config(settings), "error_cb": self._on_error}
            self._client = AdminClient(config)
        except KafkaException as error:  # a file that cannot be read, a value that the client does not know
            reason = client_logger(settings).redacted(error.args[0].str())
            raise SettingsError("the settings of the Kafka client", reason) from None

    @classmethod
    async def open(cls, settings: Settings) -> Self:
        """An admin whose brokers speak TLS as the settings demand. Connects lazily. Raises SettingsError."""
        await asyncio.to_thread(probe_tls, settings)
        return cls(settings)

    async def describe(self, names: Sequence[str]) -> Mapping[str, TopicState]:
        if not names:
            return {}
        found = await self._partitions(names)
        if not found:
            return {}
        resources = [ConfigResource(ResourceType.TOPIC, name) for name in found]
        configs = await self._settle(self._client.describe_configs(resources, request_timeout=self._request_s))
        states = {}
        for resource, entries in configs.items():
            if isinstance(entries, KafkaError):
                raise self._translated(entries, resource.name, "describe its configuration")
            partitions = found[resource.name]
            states[resource.name] = TopicState(
                resource.name,
                len(partitions),
                min(len(partition.replicas) for partition in partitions),
                {name: entry.value for name, entry in entries.items() if entry.value is not None},
            )
        return states

    async def create(self, topic: Topic, *, replication: int, config: Mapping[str, str]) -> None:
        """See the port. Returns when a broker that was asked knows a leader of every partition, so that it can be used."""
        new = NewTopic(topic.name, topic.partitions, replication, config=dict(config))
        await self._change(
            self._client.create_topics([new], request_timeout=self._request_s), "create it", accepted=KafkaError.TOPIC_ALREADY_EXISTS
        )

        await self._until_usable(topic.name)

    async def set_config(self, name: str, config: Mapping[str, str]) -> None:
        entries = [ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET) for key, value in config.items()]
        resource = ConfigResource(ResourceType.TOPIC, name, incremental_configs=entries)
        futures = self._client.incremental_alter_configs([resource], request_timeout=self._request_s)
        await self._change({name: futures[resource]}, "configure it")

    async def broker_count(self) -> int:
        answers = await self._settle({"cluster": self._client.describe_cluster(request_timeout=self._request_s)})
        answer = answers["cluster"]
        if isinstance(answer, KafkaError):
            raise self._translated(answer, "cluster", "describe the cluster")
        return len(answer.nodes)

    async def create_acls(self, acls: Iterable[Acl], principal: str) -> None:
        """Allows the principal these, in addition to what it may already; rules that exist are left as they are.

        Needs the cluster's administrator. Not promised: that every broker enforces it at once.
        """
        bindings = [_binding(acl, principal_of(principal)) for acl in acls]
        if bindings:
            futures = self._client.create_acls(bindings, request_timeout=self._request_s)
            await self._change({_in_words(binding): future for binding, future in futures.items()}, "give rights")

    async def describe_acls(self, principal: str) -> Rights:
        """Everything that the cluster's rules name this principal for. Needs the cluster's administrator.

        Empty also where the brokers have no authorizer. Not promised: rules that hold for it without naming it
        (``User:*``), or that it is a super user.
        """
        wanted = AclBindingFilter(
            ResourceType.ANY,
            None,  # type: ignore[arg-type]  # any name, as its documentation has it
            ResourcePatternType.ANY,
            principal_of(principal),
            None,  # type: ignore[arg-type]  # any host
            AclOperation.ANY,
            AclPermissionType.ANY,
        )
        answers = await self._settle({"rights": self._client.describe_acls(wanted, request_timeout=self._request_s)})
        answer = answers["rights"]
        if isinstance(answer, KafkaError):
            raise self._translated(answer, "rights", "see rights")
        if not answer:
            await self._check_may_see_rights()
        rules = [(_acl(binding), binding) for binding in answer]
        return Rights(
            sorted(acl for acl, _ in rules if acl is not None), sorted(_in_words(binding) for acl, binding in rules if acl is None)
        )

    async def _partitions(self, names: Sequence[str]) -> dict[str, list[TopicPartitionInfo]]:
        """Of the topics that exist."""
        request = self._client.describe_topics(TopicCollection(list(names)), request_timeout=self._request_s)
        found: dict[str, list[TopicPartitionInfo]] = {}
        for name, answer in (await self._settle(request)).items():
            if not isinstance(answer, KafkaError):
                found[name] = answer.partitions
            elif answer.code() not in _MISSING:
                raise self._translated(answer, name, "describe it")
        return found

    async def _until_usable(self, name: str) -> None:
        deadline = time.monotonic() + self._request_s
        while True:
            partitions = (await self._partitions([name])).get(name, [])
            if partitions and all(partition.leader is not None for partition in partitions):
                return
            if time.monotonic() > deadline:
                raise LogUnavailable(f"topic {name}", "created, but not every partition has a leader yet")
            await asyncio.to_thread(self._client.poll, _LOOK_S)  # also a pause before the next look

    async def _check_may_see_rights(self) -> None:
        """Raises SettingsError if not: the client answers "none" as well when the broker denies the question."""
        request = self._client.describe_cluster(include_authorized_operations=True, request_timeout=self._request_s)
        answer = (await self._settle({"cluster": request}))["cluster"]
        if isinstance(answer, KafkaError):
            raise self._translated(answer, "cluster", "see rights")
        if AclOperation.DESCRIBE not in (answer.authorized_operations or ()):
            raise self._denied("the cluster", "see rights")

    async def _change(self, futures: Mapping[str, Future[Any]], what: str, *, accepted: int | None = None) -> None:
        for name, answer in (await self._settle(futures)).items():
            if isinstance(answer, KafkaError) and answer.code() != accepted:
                raise self._translated(answer, name, what)

    async def _settle(self, futures: Mapping[K, Future[V]]) -> dict[K, V | KafkaError]:
        """Per request its answer or its error. Holds the client until all are done: without it they fail with ``_DESTROY``."""
        self._client.poll(0)  # what happened before this call is not its answer
        self._refusal = None
        waiting = {key: asyncio.wrap_future(future) for key, future in futures.items()}
        try:
            pending = set(waiting.values())
            while pending:
                _, pending = await asyncio.wait(pending, timeout=_LOOK_S)
                self._client.poll(0)
                if self._refusal is not None:
                    raise self._translated(self._refusal, "cluster", "connect")
        finally:
            for future in waiting.values():
                future.cancel()
        answers: dict[K, V | KafkaError] = {}
        for key, future in waiting.items():
            error = future.exception()
            answers[key] = future.result() if error is None else _inner(error)
        return answers

    def _on_error(self, error: KafkaError) -> None:
        if error.code() in _UNAUTHENTICATED:
            self._refusal = error

    def _denied(self, name: str, what: str) -> SettingsError:
        return SettingsError(_identity_variable(self._settings), f"this principal may not do that to {name}: {what}")

    def _translated(self, error: KafkaError, name: str, what: str) -> TallyrollError:
        code = error.code()
        if code in _UNAUTHORISED:
            return self._denied(name, what)
        if code in _SETTINGS:
            variable, reason = _SETTINGS[code]
            return SettingsError(variable, reason)
        if code in _MISSING:
            return TopicConflict(name, "does not exist in the cluster")
        if code in _NOT_ACCEPTED:
            return TopicConflict(name, f"the broker does not accept to {what} ({error.name()}): {error.str()}")
        return LogUnavailable(f"Kafka at {self._settings.bootstrap_servers}, asked about {name}", reason_of(error))


def _inner(error: BaseException) -> KafkaError:
    if isinstance(error, KafkaException) and isinstance(error.args[0], KafkaError):
        return error.args[0]
    raise error


def _identity_variable(settings: Settings) -> str:
    if settings.kafka_security_protocol.startswith("SASL"):
        return "KAFKA_SASL_USERNAME"
    return "KAFKA_SSL_CERTIFICATE_LOCATION" if settings.kafka_ssl_certificate is not None else "KAFKA_SECURITY_PROTOCOL"


def _binding(acl: Acl, principal: str) -> AclBinding:
    return AclBinding(
        _RESOURCES[acl.resource],
        acl.name,
        _PATTERNS[acl.pattern],
        principal,
        "*",  # from any host: principals are proven, addresses are not
        _OPERATIONS[acl.operation],
        AclPermissionType.ALLOW,
    )


def _acl(binding: AclBinding) -> Acl | None:
    """The rule as it is made here, or None for one that is not."""
    resource, pattern = _RESOURCE_OF.get(binding.restype_int), _PATTERN_OF.get(binding.resource_pattern_type_int)
    operation = _OPERATION_OF.get(binding.operation_int)
    allowed = binding.permission_type_int == AclPermissionType.ALLOW.value and binding.host == "*"
    if resource is None or pattern is None or operation is None or not allowed:
        return None
    return Acl(resource, binding.name, pattern, operation)


def _in_words(binding: AclBinding) -> str:
    permission, operation = AclPermissionType(binding.permission_type_int), AclOperation(binding.operation_int)
    resource, pattern = ResourceType(binding.restype_int), ResourcePatternType(binding.resource_pattern_type_int)
    return f"{permission.name} {operation.name} on {resource.name} {pattern.name} {binding.name} from {binding.host}"
