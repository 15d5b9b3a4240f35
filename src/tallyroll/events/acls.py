"""Least privilege as data: which service may do what to which topic and group. Pure: a catalogue in, rules out.

Names are literal. Only the operations principal of a tenant gets a pattern, the tenant's prefix. Nobody gets ``*``, and
nobody here may alter rights: that stays with the administrator of the cluster.
Source: operations and resources as in Kafka's "Authorization and ACLs"; Write on a topic covers idempotent producing
since Kafka 3.0 (KIP-679).
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final, Literal, NamedTuple

from tallyroll.events.topics import AUDIT_TOPIC, DEAD_LETTER_TOPIC, Catalogue
from tallyroll.events.types import AGENT_TOPIC, PERFORMANCE_TOPIC, SYSTEM_TOPIC, TASK_TOPIC, WORKFLOW_TOPIC

Resource = Literal["topic", "group"]
Pattern = Literal["literal", "prefixed"]
Operation = Literal["Alter", "AlterConfigs", "Create", "Delete", "Describe", "DescribeConfigs", "Read", "Write"]

OPERATIONS: Final = "operations"

_SOURCES: Final = (AGENT_TOPIC, TASK_TOPIC, WORKFLOW_TOPIC, PERFORMANCE_TOPIC, SYSTEM_TOPIC)
_TOPIC_CARE: Final[tuple[Operation, ...]] = ("Alter", "AlterConfigs", "Create", "Delete", "Describe", "DescribeConfigs")
_SEPARATORS: Final = (".", "_", "-")


class Acl(NamedTuple):
    """One thing that is allowed, from any host. Sorts by resource, name, pattern, operation."""

    resource: Resource
    name: str
    pattern: Pattern
    operation: Operation


@dataclass(frozen=True, slots=True)
class Service:
    """What one service does with the log: base names of topics, and its follower if it is a member of a group."""

    what: str
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    follower: str | None = None


SERVICES: Final[Mapping[str, Service]] = {
    "publisher": Service("puts the events of agents into the log", writes=_SOURCES),
    "deciding-publisher": Service(  # it learns who was first by reading what it writes to, and is a member of no group
        "publishes with expected versions as well, and asks for them", _SOURCES, _SOURCES
    ),
    "state": Service(
        "keeps the states of agents, tasks, workflows, and of what happens around them", _SOURCES, (DEAD_LETTER_TOPIC,), "state"
    ),
    "analytics": Service(  # what it finds goes to a topic that it does not read, so that it never feeds on itself
        "measures, and publishes the anomalies it finds",
        (AGENT_TOPIC, TASK_TOPIC, WORKFLOW_TOPIC, PERFORMANCE_TOPIC),
        (SYSTEM_TOPIC, DEAD_LETTER_TOPIC),
        "analytics",
    ),
    "archive": Service("keeps every record for good", _SOURCES, follower="archive"),  # also those that it cannot read
    "audit-writer": Service("seals audit entries and puts them into the log", writes=(AUDIT_TOPIC,)),
    "audit-sealer": Service(  # it seals what it cannot read instead of writing a dead letter
        "checks sealed entries, keeps the ledger, and publishes what it finds", (*_SOURCES, AUDIT_TOPIC), (SYSTEM_TOPIC,), "audit"
    ),
    "redis": Service("keeps the states in Redis", _SOURCES, (DEAD_LETTER_TOPIC,), "redis"),
    "nats": Service("forwards events to NATS", _SOURCES, (DEAD_LETTER_TOPIC,), "nats"),
    "replay": Service("reads spans of the log and changes nothing, not even an offset", (*_SOURCES, DEAD_LETTER_TOPIC)),
}


def acls_of(service: str, catalogue: Catalogue, *, group_prefix: str) -> list[Acl]:
    """Everything that a service, or ``operations``, needs and nothing more; sorted, without repeats.

    ``group_prefix`` is what stands before the dot in a group's name, with the tenant's prefix (``Settings.group``).
    Raises ValueError for a service that is not in SERVICES.
    """
    if service == OPERATIONS:
        return sorted(_operations(catalogue, group_prefix))
    if service not in SERVICES:
        raise ValueError(f"{service!r} is not a service; known are {', '.join((*SERVICES, OPERATIONS))}")
    needs = SERVICES[service]
    found = {Acl("topic", catalogue[base].name, "literal", "Describe") for base in (*needs.reads, *needs.writes)}
    found |= {Acl("topic", catalogue[base].name, "literal", "Read") for base in needs.reads}
    found |= {Acl("topic", catalogue[base].name, "literal", "Write") for base in needs.writes}
    if needs.follower is not None:
        found.add(Acl("group", f"{group_prefix}.{needs.follower}", "literal", "Read"))
    return sorted(found)


def matrix(catalogue: Catalogue, *, group_prefix: str) -> dict[str, list[Acl]]:
    """The rules of every service and of operations."""
    return {service: acls_of(service, catalogue, group_prefix=group_prefix) for service in (*SERVICES, OPERATIONS)}


def principal_of(name: str) -> str:
    """The principal as brokers name it: ``User:name``. Raises ValueError for nobody and for everybody."""
    kind, colon, rest = name.partition(":")
    found = name if colon and kind == "User" else f"User:{name}"
    rest = found.removeprefix("User:").strip()
    if not rest or rest == "*":
        raise ValueError("expected the name of one principal; rights for everybody are not given")
    return found


def commands(acls: Iterable[Acl], principal: str) -> list[str]:
    """``kafka-acls`` command lines that allow the principal exactly these, one per resource.

    To be run by the cluster's administrator, with ``BOOTSTRAP`` and ``ADMIN_CONFIG`` set in the shell. Idempotent.
    """
    lines = []
    for (resource, name, pattern), same in groupby(sorted(set(acls)), key=lambda acl: acl[:3]):
        options: Sequence[str] = [
            *("--add", "--allow-principal", principal_of(principal)),
            *(word for acl in same for word in ("--operation", acl.operation)),
            *(f"--{resource}", name, "--resource-pattern-type", pattern),
        ]
        lines.append(f'kafka-acls --bootstrap-server "$BOOTSTRAP" --command-config "$ADMIN_CONFIG" {shlex.join(options)}')
    return lines


def _operations(catalogue: Catalogue, group_prefix: str) -> set[Acl]:
    """Creates and alters topics and looks at groups; reads and writes no record.

    A tenant's operations may also make topics that are not in the catalogue yet, for a repartition. The prefix is only
    used as a pattern if it ends in a separator: ``acme`` would match the topics of ``acme2`` as well.
    """
    if catalogue.prefix.endswith(_SEPARATORS):
        topics: set[tuple[str, Pattern]] = {(catalogue.prefix, "prefixed")}
        groups: set[tuple[str, Pattern]] = {(catalogue.prefix, "prefixed")}
    else:
        topics = {(topic.name, "literal") for topic in catalogue.topics}
        groups = {(f"{group_prefix}.{service.follower}", "literal") for service in SERVICES.values() if service.follower}
    found = {Acl("topic", name, pattern, operation) for name, pattern in topics for operation in _TOPIC_CARE}
    return found | {Acl("group", name, pattern, "Describe") for name, pattern in groups}
