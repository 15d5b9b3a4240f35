"""The topics as data. The creation plan, the drift report, the ACLs and the reference page are all made from here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, NamedTuple, Protocol, get_args

from tallyroll.errors import InvalidEvent, SettingsError
from tallyroll.events.partition import partition_for
from tallyroll.events.position import TopicPartition
from tallyroll.events.types import AGENT_TOPIC, PERFORMANCE_TOPIC, SYSTEM_TOPIC, TASK_TOPIC, WORKFLOW_TOPIC, type_info

DAY_MS: Final = 86_400_000
AUDIT_TOPIC: Final = "audit-events"
DEAD_LETTER_TOPIC: Final = "dead-letters"

Durability = Literal["memory", "write-ahead"]

_MAX_PARTITIONS: Final = 10_000  # far above what one cluster serves well
_MAX_RETENTION_DAYS: Final = 36_500  # a hundred years: no rule asks for more, and a slip of a unit is noticed


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic of the catalogue.

    ``base`` is the name users know, ``name`` the one in the log (with the prefix). ``durability`` says what an accepted
    event is worth before its acknowledgement: ``memory`` is lost by ``kill -9``, ``write-ahead`` is on disk first.
    """

    base: str
    name: str
    partitions: int
    retention_ms: int
    what: str
    durability: Durability = "memory"
    cleanup_policy: str = "delete"

    @property
    def user(self) -> bool:
        """Whether events of users go there; the audit and dead-letter topics are written by services only."""
        return self.base not in (AUDIT_TOPIC, DEAD_LETTER_TOPIC)

    @property
    def retention_days(self) -> float:
        """How long records are kept."""
        return self.retention_ms / DAY_MS


def _topic(base: str, partitions: int, retention_days: int, what: str, durability: Durability = "memory") -> Topic:
    return Topic(base, base, partitions, retention_days * DAY_MS, what, durability)


BUILT_IN: Final[tuple[Topic, ...]] = (
    _topic(AGENT_TOPIC, 8, 30, "agent lifecycle"),
    _topic(TASK_TOPIC, 8, 90, "tasks and the tools they use"),
    _topic(WORKFLOW_TOPIC, 4, 60, "workflows, and messages between agents"),
    _topic(PERFORMANCE_TOPIC, 4, 7, "performance metrics and resources"),
    _topic(AUDIT_TOPIC, 8, 7 * 365, "sealed audit entries, nothing else", "write-ahead"),
    _topic(SYSTEM_TOPIC, 4, 14, "the rest: authentication, authorization, state, configuration, anomalies"),
    _topic(DEAD_LETTER_TOPIC, 4, 90, "what a follower could not apply, with its original bytes and the reason"),
)


class TopicState(NamedTuple):
    """One topic as the log has it."""

    name: str
    partitions: int
    replication: int
    config: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class TopicOverride:
    """What a setting may change of one catalogued topic; None keeps the built-in value."""

    partitions: int | None = None
    retention_days: float | None = None
    durability: Durability | None = None


class Catalogue:
    """The topics in force: the built-in ones with prefix and overrides applied.

    Keys are hashed over the catalogue's partition count, also where the log has more partitions, so that a key never moves.
    """

    def __init__(self, *, prefix: str = "", overrides: Mapping[str, TopicOverride] | None = None) -> None:
        overrides = overrides or {}
        unknown = set(overrides) - {topic.base for topic in BUILT_IN}
        if unknown:
            raise SettingsError(_VARIABLE, f"unknown: {', '.join(sorted(unknown))}; known are {', '.join(t.base for t in BUILT_IN)}")
        self.prefix = prefix
        self.topics: tuple[Topic, ...] = tuple(_apply(topic, prefix, overrides.get(topic.base)) for topic in BUILT_IN)
        self._by_base = {topic.base: topic for topic in self.topics}
        self._by_name = {topic.name: topic for topic in self.topics}
        self._by_type: dict[str, Topic] = {}

    def __getitem__(self, base: str) -> Topic:
        """The topic with that base name. Raises KeyError."""
        return self._by_base[base]

    def named(self, name: str) -> Topic | None:
        """The topic that has this name in the log, or None."""
        return self._by_name.get(name)

    def for_type(self, event_type: str) -> Topic:
        """Where events of a type go. Raises InvalidEvent for a type that is not known here."""
        topic = self._by_type.get(event_type)
        if topic is None:
            info = type_info(event_type)
            if info is None:
                raise InvalidEvent("event_type", f"{event_type} is not registered, so it has no topic")
            topic = self._by_type[event_type] = self._by_base[info.topic]
        return topic

    def place(self, event_type: str, key: bytes) -> TopicPartition:
        """The partition that an event of this type with this key belongs to."""
        topic = self.for_type(event_type)
        return TopicPartition(topic.name, partition_for(key, topic.partitions))

    def partitions(self, bases: Iterable[str]) -> list[TopicPartition]:
        """Every partition of the named topics, in order."""
        return [
            TopicPartition(topic.name, partition)
            for topic in (self._by_base[base] for base in bases)
            for partition in range(topic.partitions)
        ]


class TopicSettings(Protocol):
    """The part of the settings that the catalogue is made from. Not promised: that the overrides are well-formed."""

    @property
    def topic_prefix(self) -> str:
        """Put before every topic name."""

    @property
    def topics(self) -> Mapping[str, Any]:
        """Per base name the overrides as they were given."""


def catalogue_of(settings: TopicSettings) -> Catalogue:
    """The topics in force under these settings. Raises SettingsError naming the override that is not accepted."""
    return Catalogue(
        prefix=settings.topic_prefix,
        overrides={base: _override(f"{_VARIABLE}.{base}", given) for base, given in settings.topics.items()},
    )


_VARIABLE: Final = "TALLYROLL_TOPICS"
_OVERRIDES: Final = tuple(TopicOverride.__dataclass_fields__)


def _override(where: str, given: object) -> TopicOverride:
    if not isinstance(given, Mapping):
        raise SettingsError(where, f"expected an object with {', '.join(_OVERRIDES)}")
    if unknown := sorted(str(name) for name in given if name not in _OVERRIDES):
        raise SettingsError(where, f"unknown: {', '.join(unknown)}; known are {', '.join(_OVERRIDES)}")
    override = TopicOverride(**given)
    # bool is an int to Python, and true partitions are a slip
    if type(override.partitions) not in (int, type(None)):
        raise SettingsError(f"{where}.partitions", "expected a whole number")
    if type(override.retention_days) not in (int, float, type(None)):
        raise SettingsError(f"{where}.retention_days", "expected a number of days")
    return override


def _apply(topic: Topic, prefix: str, override: TopicOverride | None) -> Topic:
    name = f"{prefix}{topic.base}"
    if override is None:
        return replace(topic, name=name)
    where = f"{_VARIABLE}.{topic.base}"
    if override.partitions is not None and not 1 <= override.partitions <= _MAX_PARTITIONS:
        raise SettingsError(f"{where}.partitions", f"expected 1 to {_MAX_PARTITIONS}")
    # a day has 86,400,000 ms, so what is above 0 days here is at least 1 ms there; NaN fails both comparisons
    if override.retention_days is not None and not 1 / DAY_MS <= override.retention_days <= _MAX_RETENTION_DAYS:
        raise SettingsError(f"{where}.retention_days", f"expected more than 0, at most {_MAX_RETENTION_DAYS}")
    if override.durability not in (None, *get_args(Durability)):
        raise SettingsError(f"{where}.durability", f"expected one of {', '.join(get_args(Durability))}")
    return replace(
        topic,
        name=name,
        partitions=override.partitions or topic.partitions,
        retention_ms=round(override.retention_days * DAY_MS) if override.retention_days is not None else topic.retention_ms,
        durability=override.durability or topic.durability,
    )
