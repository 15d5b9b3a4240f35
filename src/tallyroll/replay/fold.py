"""The fold: events → parts → one joined state. The same code runs live and over a bounded span.

A *part* is what the events of one owner in one partition amount to, folded strictly in offset order. Parts of several
partitions are *joined*; the order key ``(order_us, topic, partition, offset)`` decides between them, where ``order_us`` is
the largest event time the part has met so far, so that the key never contradicts the log's own order. The state therefore
depends on nothing but how far each partition was read: not on batches, restarts, or which partition came first.

Pure: no clock, no randomness, no I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Any, Final, Protocol

import msgspec

from tallyroll.errors import UnknownSchema
from tallyroll.replay.fields import INT_MAX, Field, Place, Slots
from tallyroll.replay.joining import Joining, joining_of
from tallyroll.replay.program import Program, program_of

State = Mapping[str, Any]
"""A joined state: integers, text, booleans, None, lists and text-keyed maps. Always has ``version`` and ``last_updated_us``."""


class Schemas(Protocol):
    """What the fold asks of the catalogue of payload versions. Not promised: speed; only old versions come here."""

    def upcast(self, event_type: str, version: str, payload: dict[str, Any]) -> list[dict[str, Any]]:
        """The payloads of the current version that an old one amounts to. Raises UnknownSchema."""

    def current(self, event_type: str) -> str:
        """The version whose payloads are folded as they are."""

    def fingerprint(self, event_types: Iterable[str] | None = None) -> str:
        """Changes whenever ``upcast`` may give something else for one of the types."""


@dataclass(frozen=True)
class View:
    """What is made of the events of one owner, as a declaration.

    ``topics`` are the base names it reads, ``types`` the event types that count for it. ``owner``: ``agent`` is whose deed
    the event is (the aggregate if that is an agent, else ``payload.agent_id``); ``aggregate`` is the aggregate of any type,
    as ``type:id``; any other word is the aggregate of that type. ``version`` goes up whenever the same events would give
    another state under the same declaration.
    """

    name: str
    version: int
    owner: str
    topics: tuple[str, ...]
    types: tuple[str, ...]
    fields: Mapping[str, Field]

    @cached_property
    def joining(self) -> Joining:
        """How slots become a state."""
        return joining_of(self.fields)

    def describe(self) -> list[Any]:
        """The declaration as plain values."""
        fields = {name: field.describe() for name, field in self.fields.items()}
        return [self.name, self.version, self.owner, sorted(self.topics), sorted(self.types), fields]


class Part:
    """One owner's events in one partition, folded. ``version`` counts them."""

    __slots__ = ("dirty", "order_us", "owner", "slots", "version", "view")

    def __init__(self, view: int, owner: str, slots: Slots) -> None:
        self.view = view
        self.owner = owner
        self.slots = slots
        self.order_us = 0
        self.version = 0
        self.dirty = False

    def dump(self) -> bytes:
        """The part as JSON, for the store."""
        return _encode([self.version, self.order_us, self.slots])

    def load(self, dumped: bytes) -> None:
        """Becomes the part that ``dump`` described."""
        self.version, self.order_us, self.slots = _decode_part(dumped)


_TEXT: Final = frozenset((str,))
_PLAIN: Final = frozenset((str, bool, type(None)))
_CONTAINERS: Final = frozenset((dict, list))
_encode: Final = msgspec.json.Encoder().encode
_encode_sorted: Final = msgspec.json.Encoder(order="sorted").encode
_decode_part: Final = msgspec.json.Decoder(tuple[int, int, list[Any]]).decode
_decode_payload: Final = msgspec.json.Decoder(dict[str, Any]).decode


class Fold:
    """Several views compiled together. A record counts for all of them or, if it cannot be read, for none.

    ``fold_id`` names what the parts mean: of equal ids, parts may be mixed; otherwise they have to be built anew.
    What the schemas say is taken once, when the fold is first used: register own versions before.
    """

    def __init__(self, views: Sequence[View], schemas: Schemas) -> None:
        self.views = tuple(views)
        self.schemas = schemas
        self.topics = tuple(sorted({topic for view in views for topic in view.topics}))
        # Most slots start as a number or None, which can be shared; only containers are made for each part.
        self._blanks = [_blank_of(view) for view in views]
        self._index = {view.name: number for number, view in enumerate(views)}
        self._narrowed: dict[tuple[str, int], Mapping[str, Program]] = {}
        self._decoders = [_decoder_of(view) for view in views]

    @cached_property
    def reducer_ids(self) -> Mapping[str, str]:
        """Per view a hash of its declaration, of the upcasters, and of all that is taken out of the events it counts.

        The same id, the same meaning of its states. What other views take out is part of it, since one bad value voids a
        record for all of them: parts that voided other records must not be mixed. A hash of declarations and names alone,
        not of source text or bytecode, which a comment or another Python would change; golden histories find what it cannot.
        """
        return {
            view.name: sha256(_encode_sorted([view.describe(), self.schemas.fingerprint(view.types), self._taken(view)])).hexdigest()
            for view in self.views
        }

    def _taken(self, view: View) -> list[list[Any]]:
        programs = [(topic, self._programs[topic]) for topic in sorted(view.topics)]
        return [
            [topic, name, sorted(value.name for value in of_topic[name].values)]
            for topic, of_topic in programs
            for name in sorted(view.types)
            if name in of_topic
        ]

    @cached_property
    def fold_id(self) -> str:
        """One hash over all reducer ids."""
        return sha256(_encode_sorted(self.reducer_ids)).hexdigest()

    @cached_property
    def _programs(self) -> Mapping[str, Mapping[str, Program]]:
        return {topic: self._programs_of(topic) for topic in self.topics}

    def index(self, view: str) -> int:
        """The number of a view. Raises ValueError for a name that is not among them."""
        try:
            return self._index[view]
        except KeyError:
            raise ValueError(f"no view {view!r}; there are {', '.join(self._index)}") from None

    def programs(self, topic: str, view: int | None = None) -> Mapping[str, Program]:
        """Per event type what happens in a topic (base name), for all views or narrowed to one, which then meets just its own types."""
        programs = self._programs[topic]
        if view is None:
            return programs
        narrowed = self._narrowed.get((topic, view))
        if narrowed is None:
            counted = self.views[view].types
            narrowed = {name: program.narrowed(view) for name, program in programs.items() if name in counted}
            self._narrowed[topic, view] = narrowed
        return narrowed

    def blank(self, view: int, owner: str) -> Part:
        """A part without events."""
        template, containers = self._blanks[view]
        slots = template.copy()
        for slot, field in containers:
            slots[slot] = field.start()
        return Part(view, owner, slots)

    def load(self, part: Part, dumped: bytes) -> None:
        """As ``part.load``, for many of which few change: what a kind of field seldom looks at stays text until it does."""
        part.version, part.order_us, slots = self._decoders[part.view](dumped)
        part.slots = [*slots]

    def _programs_of(self, topic: str) -> dict[str, Program]:
        reading = [(number, view) for number, view in enumerate(self.views) if topic in view.topics]
        types = sorted({event_type for _, view in reading for event_type in view.types})
        return {
            event_type: program_of(event_type, self.schemas.current(event_type), [pair for pair in reading if event_type in pair[1].types])
            for event_type in types
        }


def _blank_of(view: View) -> tuple[list[Any], list[tuple[int, Field]]]:
    fields = list(view.fields.values())
    template = [field.start() for field in fields]
    return template, [(slot, fields[slot]) for slot, start in enumerate(template) if isinstance(start, dict | list)]


def _decoder_of(view: View) -> Callable[[bytes], tuple[int, int, Sequence[Any]]]:
    kept = tuple(field.kept for field in view.fields.values())
    slots: Any = tuple[kept] if kept else list[Any]  # type: ignore[valid-type]  # made at run time
    return msgspec.json.Decoder(tuple[int, int, slots]).decode


class Unfoldable(Exception):
    """A record that cannot be folded: a fixed reason code and the name of the error's class. Stays inside the fold."""

    def __init__(self, reason: str, error: str) -> None:
        self.reason = reason
        self.error = error
        super().__init__(reason)


def upcast(event_type: str, version: str, data: bytes | msgspec.Raw, schemas: Schemas) -> Sequence[msgspec.Raw]:
    """The payloads of the current version that one of another amounts to. Raises Unfoldable, or as decoding does."""
    payload = _decode_payload(data)
    try:
        payloads = schemas.upcast(event_type, version, payload)
    except UnknownSchema:
        raise Unfoldable("unknown_schema", "UnknownSchema") from None
    except Exception as error:  # an upcaster is foreign code, and live and replay must put its record aside alike
        raise Unfoldable("upcast_failed", type(error).__name__) from error
    # Through JSON again, so that old and new payloads are held to the same types.
    return [msgspec.Raw(_encode(one)) for one in payloads]


def join(view: View, parts: Iterable[tuple[Place, Part]]) -> State | None:
    """The state that the parts amount to, None if no event was applied. Parts must lie in different places.

    Raises OverflowError when an integer is beyond 64 bits signed.
    """
    met = [(place, part) for place, part in parts if part.version]
    if not met:
        return None
    if len(met) == 1:
        [(place, only)] = met
        state = view.joining.alone(only.slots, place)
        state["version"], state["last_updated_us"] = only.version, only.order_us
    else:
        state = view.joining.together([part.slots for _, part in met], [place for place, _ in met])
        state["version"], state["last_updated_us"] = sum([part.version for _, part in met]), max([part.order_us for _, part in met])
    check_canonical(state)
    return state


def check_canonical(value: Any, path: str = "state") -> None:  # noqa: ANN401  # anything may be offered
    """Raises TypeError for a float or a foreign object, OverflowError beyond 64 bits, with the path of the value."""
    if value is None or isinstance(value, str | bool):
        return
    if isinstance(value, int):
        if not -INT_MAX <= value <= INT_MAX:
            raise OverflowError(f"{path}: beyond 64 bits signed")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            check_canonical(item, f"{path}[{index}]")
    elif isinstance(value, dict) and (_TEXT.issuperset(map(type, value)) or all(isinstance(key, str) for key in value)):
        for key, item in value.items():
            kind = type(item)  # a call and a path for each would cost more than all the rest of a join
            if kind not in _PLAIN and not (kind is int and -INT_MAX <= item <= INT_MAX) and (item or kind not in _CONTAINERS):
                check_canonical(item, f"{path}.{key}")
    else:
        raise TypeError(f"{path}: {type(value).__name__} has no canonical form; a state holds integers, text, lists and maps")


def state_hash(state: State) -> str:
    """SHA-256 in hex over the canonical bytes of a state: JSON with sorted keys, no blanks, UTF-8."""
    return sha256(_encode_sorted(state)).hexdigest()


def states_hash(states: Mapping[str, State]) -> str:
    """SHA-256 in hex over the sorted ``[owner, state hash]`` lines of a set of states."""
    digest = sha256()
    for owner in sorted(states):
        digest.update(_encode([owner, state_hash(states[owner])]) + b"\n")
    return digest.hexdigest()
