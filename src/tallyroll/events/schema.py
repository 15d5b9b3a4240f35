"""The versions of each event type, and the way of an old payload to the newest shape.

Outside, a version is text such as ``1.2.0``; inside, a number per event type counts the distinct (major, minor) pairs, from
1. A patch never changes shape. The log is never rewritten: old payloads are lifted when they are read, by *upcasters*, each
a pure function ``dict -> list[dict]`` from one number to the next. None, one or several payloads may come out.

Types without a registered version (users' own) pass unchanged at any version and count as number 1.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import msgspec

from tallyroll.errors import IncompatibleSchema, UnknownSchema
from tallyroll.events.payloads import PAYLOADS
from tallyroll.events.schema_check import Mode, check, describe

Payload = dict[str, Any]
Upcaster = Callable[[Payload], list[Payload]]
"""Lifts one payload to the next number. Pure; may not change whose event it is. Give a changed one another name."""

DEFAULT_MODE: Final[Mode] = "BACKWARD_TRANSITIVE"  # the newest fold reads all history
IDENTITY_FIELDS: Final = ("agent_id", "task_id")  # whose deed it was, for which task: folds find their owner by these
_VERSION: Final = re.compile(r"(0|[1-9]\d{0,5})\.(0|[1-9]\d{0,5})\.(0|[1-9]\d{0,5})")


@dataclass(frozen=True)
class SchemaVersion:
    """One registered version of an event type: what its payload looks like and how the one before is lifted to it."""

    event_type: str
    version: str
    payload_type: type[Any]
    upcaster: Upcaster | None = None

    @cached_property
    def schema(self) -> dict[str, Any]:
        """The payload as JSON Schema. Made when first asked for; most versions are never compared."""
        return describe(self.payload_type)

    @property
    def upcaster_name(self) -> str:
        """How the upcaster is told from others in fingerprints; empty without one."""
        return f"{self.upcaster.__module__}.{self.upcaster.__qualname__}" if self.upcaster is not None else ""


class SchemaRegistry:
    """What is known of each event type's versions. Register when the program starts, before anything is read.

    Not promised: to check payloads against their schema; nothing is refused for what its payload lacks. Nor safety when
    one thread registers while another reads.
    """

    def __init__(self) -> None:
        self._lines: dict[str, list[SchemaVersion]] = {}
        self._current: dict[str, str] = {}

    def register(
        self,
        event_type: str,
        version: str,
        payload_type: type[Any],
        upcaster: Upcaster | None = None,
        *,
        mode: Mode = DEFAULT_MODE,
    ) -> None:
        """Adds the next version of a type.

        Without ``upcaster`` the payload type must be compatible under ``mode`` with the versions before it, back to the
        last one that an upcaster lifts; with one it may look as it likes. A patch (same major and minor) replaces its
        predecessor and must have the same shape. The same version with the same shape and upcaster again changes nothing.
        Raises IncompatibleSchema, and ValueError for a version that is malformed or older than the newest.
        """
        numbers = _parse(version)
        if numbers is None:
            raise ValueError(f"{version!r} is not a version such as 1.2.0")
        line = self._lines.get(event_type, [])
        new = SchemaVersion(event_type, version, payload_type, upcaster)
        if not line:
            if upcaster is not None:
                raise ValueError(f"{event_type} {version} is the first version; there is nothing to lift to it")
            line.append(new)
        elif numbers[:2] == _pair(line[-1].version):
            line[-1] = _patch(line[-1], new)
        elif numbers[:2] < _pair(line[-1].version):
            raise ValueError(f"{event_type} is at {line[-1].version} already; versions are registered in order")
        else:
            if upcaster is None:
                check(event_type, mode, [older.schema for older in _since_upcast(line)], new.schema)
            line.append(new)
        self._lines[event_type] = line
        self._current[event_type] = line[-1].version

    def current(self, event_type: str) -> str:
        """The newest registered version; ``1.0.0`` for a type without one."""
        return self._current.get(event_type, "1.0.0")

    def versions(self, event_type: str) -> tuple[SchemaVersion, ...]:
        """The registered versions, oldest first; the newest patch of each."""
        return tuple(self._lines.get(event_type, ()))

    def event_types(self) -> tuple[str, ...]:
        """The types that have registered versions, in order of registration."""
        return tuple(self._lines)

    def number(self, event_type: str, version: str) -> int:
        """The internal number of a version, from 1. Raises UnknownSchema if it is not known here."""
        line = self._lines.get(event_type)
        if line is None or version == line[0].version:
            return 1
        numbers = _parse(version)
        for number, known in enumerate(line, 1):
            if numbers is not None and numbers[:2] == _pair(known.version):
                return number
        raise UnknownSchema(event_type, version, line[-1].version)

    def is_current(self, event_type: str, version: str) -> bool:
        """Whether payloads of this version can be taken as they are; one dict lookup in the usual case.

        Raises UnknownSchema if the version is not known here.
        """
        current = self._current.get(event_type)
        return current is None or current == version or self.number(event_type, version) == len(self._lines[event_type])

    def upcast(self, event_type: str, version: str, payload: Payload) -> list[Payload]:
        """The payloads that one event of an old version means today: none, one or several, in order.

        A payload of the current version comes back as it is. The given one is never changed. Raises UnknownSchema for a
        version that is not known here, IncompatibleSchema for an upcaster that breaks its contract, and whatever an
        upcaster raises.
        """
        if self.is_current(event_type, version):
            return [payload]
        line = self._lines[event_type]
        payloads = [deepcopy(payload)]
        for step in line[self.number(event_type, version) :]:
            if step.upcaster is not None:
                payloads = [lifted for one in payloads for lifted in step.upcaster(one)]
        for lifted in payloads:
            _check_identity(event_type, payload, lifted)
        return payloads

    def fingerprint(self, event_types: Iterable[str] | None = None) -> str:
        """A hash of types, versions and names of upcasters, for the ids of folds: another one means, fold anew.

        ``event_types`` bounds it to what a fold reads, so that a new type elsewhere throws no snapshot away.
        """
        wanted = sorted(self._lines if event_types is None else set(event_types) & set(self._lines))
        lines = [[name, [[".".join(map(str, _pair(one.version))), one.upcaster_name] for one in self._lines[name]]] for name in wanted]
        return hashlib.sha256(msgspec.json.encode(lines)).hexdigest()


def _parse(version: str) -> tuple[int, int, int] | None:
    found = _VERSION.fullmatch(version)
    return (int(found[1]), int(found[2]), int(found[3])) if found else None


def _pair(version: str) -> tuple[int, int]:
    major, minor, _ = version.split(".")
    return int(major), int(minor)


def _patch(known: SchemaVersion, new: SchemaVersion) -> SchemaVersion:
    """The newer of two patches of one version."""
    if new.schema != known.schema:
        raise IncompatibleSchema(
            new.event_type, "PATCH", (f"{new.version} has another shape than {known.version}; that takes a new minor version",)
        )
    if new.upcaster is not known.upcaster:
        raise IncompatibleSchema(new.event_type, "PATCH", (f"{new.version} has another upcaster than {known.version}",))
    return new if (_parse(new.version) or ()) > (_parse(known.version) or ()) else known


def _since_upcast(line: list[SchemaVersion]) -> list[SchemaVersion]:
    """The versions whose payloads reach a new one without being lifted, oldest first."""
    start = max((index for index, one in enumerate(line) if one.upcaster is not None), default=0)
    return line[start:]


def _check_identity(event_type: str, before: Payload, after: Payload) -> None:
    for field in IDENTITY_FIELDS:
        if field in before and after.get(field) != before[field]:
            raise IncompatibleSchema(event_type, "UPCAST", (f"an upcaster changed {field}, and with it whose event it is",))


def _built_in() -> SchemaRegistry:
    registry = SchemaRegistry()
    for event_type, payload_type in PAYLOADS.items():
        registry.register(str(event_type), "1.0.0", payload_type)
    return registry


SCHEMAS: Final = _built_in()
"""The versions this installation knows; followers, folds and ``schema check`` read it."""
