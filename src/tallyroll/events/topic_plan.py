"""What to do so that the log's topics match the catalogue, and what must not be done. Pure: states in, plan out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from tallyroll.errors import SettingsError
from tallyroll.events.topics import Catalogue, Topic, TopicState

DEFAULT_RECORD_BYTES: Final = 900_000

_WANTED_REPLICATION: Final = 3  # one copy may be lost and one more be down for maintenance, and nothing is lost
_ENOUGH_FOR_TWO: Final = 3  # with two copies, "two in sync" would stop all writing whenever one broker restarts
_REQUEST_OVERHEAD_BYTES: Final = 100_000  # the frame around one record of the greatest size, with room for headers of proxies
_BATCH_OVERHEAD_BYTES: Final = 48_588  # makes Kafka's own default of 1,048,588 from the default record size
_FOREVER: Final = -1


def request_bytes(max_record_bytes: int) -> int:
    """Most bytes of one produce request of a client, so that the greatest accepted record fits. 1,000,000 by default."""
    return max_record_bytes + _REQUEST_OVERHEAD_BYTES


def replication_for(wanted: int, brokers: int) -> int:
    """How many copies new topics get: what is wanted, or with 0 three, bounded by the brokers there are.

    Raises SettingsError if more copies are wanted by number than there are brokers.
    """
    if wanted > brokers:
        raise SettingsError("TALLYROLL_REPLICATION", f"{wanted} copies need as many brokers; {brokers} are alive")
    return wanted or max(1, min(_WANTED_REPLICATION, brokers))


def topic_config(topic: Topic, *, replication: int, max_record_bytes: int = DEFAULT_RECORD_BYTES) -> dict[str, str]:
    """The configuration a topic is created with; nothing that matters is left to the broker's defaults."""
    return {
        "cleanup.policy": topic.cleanup_policy,
        "compression.type": "producer",  # the publisher has compressed; doing it again costs the broker and gains nothing
        "max.message.bytes": str(request_bytes(max_record_bytes) + _BATCH_OVERHEAD_BYTES),
        "message.timestamp.type": "CreateTime",  # the publisher's moment, which positions_at() looks for
        "min.insync.replicas": str(2 if replication >= _ENOUGH_FOR_TWO else 1),
        "retention.bytes": str(_FOREVER),  # a broker-wide bound by size would cut history before its time
        "retention.ms": str(topic.retention_ms),
        "unclean.leader.election.enable": "false",  # a leader that lacks acknowledged records would lose them
    }


@dataclass(frozen=True, slots=True)
class CreateTopic:
    """A topic of the catalogue that the log does not have."""

    topic: Topic
    replication: int
    config: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class SetConfig:
    """Entries to set on a topic, and what stood there (absent where nothing did)."""

    name: str
    config: Mapping[str, str]
    before: Mapping[str, str]

    @property
    def removes_records(self) -> bool:
        """Whether the log will delete records that it would have kept: ask before this is applied."""
        if "retention.ms" not in self.config:
            return False
        kept, wanted = int(self.before.get("retention.ms", _FOREVER)), int(self.config["retention.ms"])
        return kept == _FOREVER or wanted < kept


Change = CreateTopic | SetConfig


class Refusal(NamedTuple):
    """A difference that is not mended, because mending it would break a promise; the reason names the way out."""

    topic: str
    reason: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What to apply, in order, and what is refused. Empty when the log is as the catalogue says.

    Not promised: that it still fits if the topics change between reading them and applying it; making a new plan is safe.
    """

    changes: tuple[Change, ...]
    refusals: tuple[Refusal, ...]


class Difference(NamedTuple):
    """One way in which the log is not as the catalogue says. ``actual`` is None where the log has nothing."""

    topic: str
    what: str
    expected: str
    actual: str | None


def plan(catalogue: Catalogue, actual: Mapping[str, TopicState], *, replication: int, max_record_bytes: int = DEFAULT_RECORD_BYTES) -> Plan:
    """The changes that bring ``actual`` (by topic name) to the catalogue, and the refusals.

    ``replication`` is the number of copies for new topics. Idempotent: after the changes, a new plan has none.
    """
    changes: list[Change] = []
    refusals: list[Refusal] = []
    for topic in catalogue.topics:
        state = actual.get(topic.name)
        if state is None:
            config = topic_config(topic, replication=replication, max_record_bytes=max_record_bytes)
            changes.append(CreateTopic(topic, replication, config))
            continue
        refusals.extend(Refusal(topic.name, reason) for reason in _refused(topic, state, replication))
        # By the copies there are: asking for two in sync of a topic with one copy would stop all writing to it.
        wanted = topic_config(topic, replication=state.replication, max_record_bytes=max_record_bytes)
        config = {name: value for name, value in wanted.items() if state.config.get(name) != value}
        if config:
            before = {name: state.config[name] for name in config if name in state.config}
            changes.append(SetConfig(topic.name, config, before))
    return Plan(tuple(changes), tuple(refusals))


def drift(
    catalogue: Catalogue,
    actual: Mapping[str, TopicState],
    *,
    replication: int | None = None,
    max_record_bytes: int = DEFAULT_RECORD_BYTES,
) -> list[Difference]:
    """Every difference between the catalogue and the log: by topic, then what differs.

    ``replication`` None: the number of copies is not judged.
    """
    found: list[Difference] = []
    for topic in catalogue.topics:
        state = actual.get(topic.name)
        if state is None:
            found.append(Difference(topic.name, "topic", "exists", None))
            continue
        if state.partitions != topic.partitions:
            found.append(Difference(topic.name, "partitions", str(topic.partitions), str(state.partitions)))
        if replication is not None and state.replication != replication:
            found.append(Difference(topic.name, "replication", str(replication), str(state.replication)))
        wanted = topic_config(topic, replication=state.replication, max_record_bytes=max_record_bytes)
        found.extend(
            Difference(topic.name, name, value, state.config.get(name)) for name, value in wanted.items() if state.config.get(name) != value
        )
    return found


def _refused(topic: Topic, state: TopicState, replication: int) -> list[str]:
    reasons = []
    keep = f'set {{"{topic.base}": {{"partitions": {state.partitions}}}}} in TALLYROLL_TOPICS to keep what is there'
    if topic.partitions < state.partitions:
        reasons.append(
            f"{state.partitions} partitions do not become {topic.partitions}: the log cannot remove a partition without its records; {keep}"
        )
    if topic.partitions > state.partitions:
        reasons.append(
            f"{state.partitions} partitions do not become {topic.partitions}: keys would move to other partitions and lose their order; "
            f"{keep}, or announce a cut and go on in a new topic"
        )
    if replication < state.replication:
        reasons.append(
            f"{state.replication} copies are not lowered to {replication}: acknowledged records would have fewer places to survive in"
        )
    if replication > state.replication:
        reasons.append(
            f"{state.replication} copies do not become {replication} here: records have to be moved between brokers; "
            "use kafka-reassign-partitions, then plan again"
        )
    return reasons
