"""Raw records to what metrics read of them: a struct with just the members that some metric asks for. Pure.

All else is skipped inside the decoder. A record in which one of those members has another type is read again with patience:
that member is invalid, the others count. Old payloads are lifted by the registered upcasters first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from operator import attrgetter
from typing import Annotated, Any, Final, Literal, NamedTuple, Protocol, Union, cast

import msgspec
from msgspec.structs import astuple

from tallyroll.errors import Undecodable, UnknownSchema
from tallyroll.events.codec import Head, decode_head
from tallyroll.events.links import Told

PAYLOAD: Final = "payload."
ENVELOPE: Final = ("type", "aggregatetype", "aggregateid", "tenantid")
"""Members of the envelope that a path may name, beside those of the payload and ``agent``."""

INVALID: Final = float("nan")
"""In the place of a number that is none."""

Kind = Literal["number", "exact", "text", "truth"]
_ACCEPTS: Final[Mapping[str, tuple[type, ...]]] = {"number": (int, float), "exact": (int, float, str), "text": (str,), "truth": (bool,)}
_NUMERIC: Final = frozenset({"number", "exact"})
_BAD_RECORD: Final = (msgspec.MsgspecError, TypeError, UnicodeDecodeError, RecursionError)
_MAX_VERSIONS: Final = 10_000  # types are what publishers call them; real ones are some dozens
_decode_payload: Final = msgspec.json.Decoder(dict[str, Any]).decode


class Schemas(Protocol):
    """What is known of versions of payloads. Not promised: that every version in the log is known."""

    def is_current(self, event_type: str, version: str) -> bool:
        """Whether payloads of this version can be taken as they are. Raises UnknownSchema."""

    def upcast(self, event_type: str, version: str, payload: dict[str, Any]) -> list[dict[str, Any]]:
        """The payloads of the current version that an old one amounts to. Raises UnknownSchema, and what an upcaster raises."""


class _Node:
    """A member that is read, or that has members that are."""

    def __init__(self) -> None:
        self.kinds: set[Kind] = set()
        self.members: dict[str, _Node] = {}
        self.struct: type[Any] = msgspec.Struct
        self.attributes: dict[str, str] = {}

    def compile(self, name: str) -> None:
        """Makes the struct of the members."""
        self.attributes = {member: f"m{number}" for number, member in enumerate(self.members)}
        fields = []
        for member, node in self.members.items():
            if node.members:
                node.compile(f"{name}.{member}")
            fields.append((self.attributes[member], node.annotation(), None))
        renamed = {attribute: member for member, attribute in self.attributes.items()}
        self.struct = msgspec.defstruct(name, fields, rename=renamed, gc=False)

    def accepted(self) -> tuple[type, ...]:
        """The types of values, members aside."""
        return tuple(dict.fromkeys(one for kind in sorted(self.kinds) for one in _ACCEPTS[kind]))

    def annotation(self) -> Any:  # noqa: ANN401  # a type
        """What the decoder lets pass. Where members are looked for, anything but an object has none, and is no fault."""
        if self.members:
            return Union[self.struct, str, int, float, bool, list[msgspec.Raw], None]  # noqa: UP007  # made at run time
        return Union[(*self.accepted(), None)]

    def build(self, value: Mapping[str, Any]) -> tuple[Any, int]:
        """The struct of an object whatever its members are, and how many of them were invalid."""
        made, invalid = {}, 0
        for member, node in self.members.items():
            held = value.get(member)
            if held is None:
                continue
            if type(held) is dict and node.members:
                held, bad = node.build(held)
                invalid += bad
            elif not (node.members or type(held) in node.accepted()):
                held = INVALID if node.kinds <= _NUMERIC else None
                invalid += 1
            made[self.attributes[member]] = held
        return self.struct(**made), invalid


class Document(Protocol):
    """What every metric needs of a record; a ``Head`` is one, too. Not promised: anything of the payload."""

    id: str
    type: str
    time: str
    aggregatetype: str
    aggregateid: str
    schemaversion: str
    data: Any
    tenantid: str | None
    expects: str
    chainsession: str
    chainnumber: str


_MEMBERS: Final = tuple(Document.__annotations__)
_FILLED: Final = Annotated[str, msgspec.Meta(min_length=1)]


def _document(members: type[Any]) -> type[Any]:
    """The struct of a whole record, in the order on the wire; what is unusual does not decode, and is looked at with patience.

    A record counts when it decodes so or as a Head, whichever was tried first: whether heads were there may not matter.
    """
    fields: list[Any] = [
        ("specversion", Literal["1.0"]), ("id", str), ("source", str), ("type", str), ("time", str),
        ("aggregatetype", _FILLED), ("aggregateid", _FILLED), ("schemaversion", str), ("data", members),
        ("tenantid", str | None, None), ("expects", str, ""), ("chainsession", str, ""), ("chainnumber", str, ""),
        ("data_base64", None, None),
    ]  # fmt: skip
    return msgspec.defstruct("Document", fields, gc=False)


Envelope = Mapping[str, Sequence[Any]]
"""Members of some documents, a column each, by name."""


def envelope_of(documents: Sequence[Document]) -> Envelope:
    """The members of documents that a ``Document`` has. All of them in two steps: one at a time takes twice as long."""
    structs = cast("Sequence[msgspec.Struct]", documents)
    kinds: set[type[msgspec.Struct]] = set(map(type, structs))
    if len(kinds) != 1:  # heads, where another follower has read them, and what only decodes in another way
        return {name: [getattr(one, name) for one in structs] for name in _MEMBERS}
    return dict(zip(kinds.pop().__struct_fields__, zip(*map(astuple, structs), strict=True), strict=True))


def some_of(envelope: Envelope, places: Sequence[int]) -> Envelope:
    """The documents at some places."""
    return {name: [column[place] for place in places] for name, column in envelope.items()}


def _versions(envelope: Envelope) -> set[tuple[str, str]]:
    """The types, with the versions of their payloads."""
    versions = set(envelope["schemaversion"])
    if len(versions) == 1:
        [version] = versions
        return {(name, version) for name in set(envelope["type"])}
    return set(zip(envelope["type"], envelope["schemaversion"], strict=True))


def told_by(envelope: Envelope) -> Told:
    """What documents say of whether their records count."""
    return Told(
        envelope["id"], envelope["chainsession"], envelope["chainnumber"], envelope["expects"],
        envelope["aggregatetype"], envelope["aggregateid"],
    )  # fmt: skip


class Found(NamedTuple):
    """What was read of some records: columns of equal length, in their order, and what could not be.

    ``at`` says which records they are, ``envelope`` and ``members`` what they hold. ``undecodable`` and ``unknown_schema``
    count the records left out, ``invalid`` the members that could not be taken.
    """

    at: Sequence[int]
    envelope: Envelope
    members: Sequence[Any]
    undecodable: int = 0
    unknown_schema: int = 0
    invalid: int = 0


class Column(NamedTuple):
    """How to take one path out of the members of many records, which are a column each, for a kind of reading."""

    member: int
    steps: tuple[tuple[Callable[[Any], Any], type[Any]], ...]
    accepts: tuple[type, ...]
    mixed: bool
    otherwise: float | None

    def take(self, members: Sequence[Sequence[Any]]) -> Sequence[Any]:
        """The values, None where there is none; where the path is read as something else, too, only values of this kind."""
        values = members[self.member]
        if self.steps and values.count(None) == len(values):
            return values  # nothing to look into, and a look costs more than a count
        for get, inside in self.steps:
            values = [get(one) if type(one) is inside else None for one in values]
        if self.mixed:
            values = [one if one is None or type(one) in self.accepts else self.otherwise for one in values]
        return values


class Reader:
    """Reads records for a set of paths. Immutable once made; one for all partitions.

    ``paths`` are those of payloads, with what is looked for there. Raises ValueError for a path without a name.
    """

    def __init__(self, paths: Iterable[tuple[str, Kind]], schemas: Schemas) -> None:
        self._schemas = schemas
        self._root = _Node()
        for path, kind in sorted(set(paths)):
            node = self._root
            for member in path.removeprefix(PAYLOAD).split("."):
                if not member:
                    raise ValueError(f"{path!r} is not a path such as payload.result.status")
                node = node.members.setdefault(member, _Node())
            node.kinds.add(kind)
        self._root.compile("payload")
        self._decode: Callable[[Any], Document] = msgspec.json.Decoder(_document(self._root.struct)).decode
        self._decode_members: Callable[[Any], Any] = msgspec.json.Decoder(self._root.struct).decode
        self._current: set[tuple[str, str]] = set()  # types and versions that are taken as they are

    def column(self, path: str, kind: Kind) -> Column:
        """How to take a path of the constructor's."""
        first, *others = path.removeprefix(PAYLOAD).split(".")
        member, steps, node = list(self._root.members).index(first), [], self._root.members[first]
        for name in others:
            steps.append((attrgetter(node.attributes[name]), node.struct))
            node = node.members[name]
        otherwise = INVALID if kind in _NUMERIC else None
        mixed = bool(node.members) or node.accepted() != _ACCEPTS[kind]
        return Column(member, tuple(steps), _ACCEPTS[kind], mixed, otherwise)

    def columns(self, members: Sequence[Any]) -> Sequence[Sequence[Any]]:
        """The members of many records as columns. All of them in two steps, for an attribute of each at a time takes twice as long."""
        return list(zip(*map(astuple, members), strict=True)) if members else [()] * len(self._root.members)

    def read(self, values: Sequence[bytes | None], heads: Sequence[Head | Undecodable] | None) -> tuple[Sequence[int], Sequence[Document]]:
        """The documents of those records that have one, and which they are; ``heads`` where somebody has decoded them already."""
        if heads is None:
            try:
                return range(len(values)), list(map(self._decode, values))
            except _BAD_RECORD:
                found = [self._patiently(value) for value in values]
        else:
            found = [self._patiently(value) if isinstance(head, Undecodable) else head for head, value in zip(heads, values, strict=True)]
        documents = [one for one in found if one is not None]
        if len(documents) == len(values):
            return range(len(values)), documents
        return [index for index, one in enumerate(found) if one is not None], documents

    def _patiently(self, value: bytes | None) -> Document | None:
        try:
            return self._decode(value)
        except _BAD_RECORD:
            try:
                return decode_head(value)
            except Undecodable:
                return None

    def members(self, envelope: Envelope, index: Sequence[int], values: Sequence[bytes | None]) -> Found:
        """The members of readable documents; ``index`` says which of ``values`` they are."""
        try:
            if self.are_current(_versions(envelope)):
                return Found(index, envelope, self._quickly(envelope["data"]))
        except _BAD_RECORD:
            pass  # one of them: which one is found below
        return self._members_patiently(envelope, index, values)

    def _quickly(self, members: Sequence[Any]) -> Sequence[Any]:
        kinds = set(map(type, members))
        if msgspec.Raw not in kinds:
            return members
        if len(kinds) == 1:
            return list(map(self._decode_members, members))
        return [self._decode_members(one) if type(one) is msgspec.Raw else one for one in members]

    def are_current(self, pairs: AbstractSet[tuple[str, str]]) -> bool:
        """Whether payloads of these types and versions can be taken as they are."""
        if pairs <= self._current:
            return True
        try:
            if not all(self._schemas.is_current(*one) for one in pairs):
                return False
        except UnknownSchema:
            return False
        if len(self._current) < _MAX_VERSIONS:
            self._current |= pairs
        return True

    def _members_patiently(self, envelope: Envelope, index: Sequence[int], values: Sequence[bytes | None]) -> Found:
        found: list[tuple[int, Any]] = []
        undecodable = unknown = invalid = 0
        for place, which in enumerate(zip(envelope["type"], envelope["schemaversion"], envelope["data"], strict=True)):
            try:
                payloads = self._payloads(*which, values[index[place]])
            except UnknownSchema:
                unknown += 1
                continue
            except Exception:  # noqa: BLE001  # garbage inside, or an upcaster, which is foreign code; the state follower tells of it
                undecodable += 1
                continue
            for members, bad in payloads:
                invalid += bad
                found.append((place, members))
        places, members_ = zip(*found, strict=True) if found else ((), ())
        return Found([index[place] for place in places], some_of(envelope, places), members_, undecodable, unknown, invalid)

    def _payloads(self, event_type: str, version: str, data: object, value: bytes | None) -> Sequence[tuple[Any, int]]:
        is_current = self._schemas.is_current(event_type, version)
        if is_current and type(data) is self._root.struct:
            return [(data, 0)]
        payload = _decode_payload(data if type(data) is msgspec.Raw else decode_head(value).data)
        lifted = [payload] if is_current else self._schemas.upcast(event_type, version, payload)
        return [self._root.build(one) for one in lifted]
