"""Whether readers of one version of an event type understand events of another: rules over JSON Schema.

Works on what ``describe`` makes of a Struct (or on a file under ``schemas/``). Objects are open: a reader ignores fields it
does not know. Pure: descriptions in, problems out.

=====================================================  ========  =======
change                                                 backward  forward
=====================================================  ========  =======
add or drop an optional field with default             yes       yes
add a required field, narrow a type, drop an enum value  no      yes
drop a required field, widen a type, add an enum value  yes      no
rename, change a unit, int to float                    no        no
change a default                                       no        no
=====================================================  ========  =======

Backward: what is new reads what is old. Forward: what is old reads what is new. A changed default breaks both, since absent
fields of old events would suddenly mean something else. A dropped and an added field of one shape count as a rename.

Not promised: to see a change of meaning that no name, type, unit or default shows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from operator import gt, lt
from typing import Any, Final, Literal

import msgspec

from tallyroll.errors import IncompatibleSchema

Schema = Mapping[str, Any]
Mode = Literal["NONE", "BACKWARD", "FORWARD", "FULL", "BACKWARD_TRANSITIVE", "FORWARD_TRANSITIVE", "FULL_TRANSITIVE"]

_ANY: Final[Schema] = {}
_LOWER_BOUNDS: Final = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
_UPPER_BOUNDS: Final = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
_EXACT: Final = ("pattern", "format", "multipleOf", "contentEncoding", "propertyNames")


def describe(payload_type: Any) -> dict[str, Any]:  # noqa: ANN401  # whatever msgspec can describe
    """The JSON Schema of a Struct, dataclass or TypedDict, without prose: a reworded docstring changes no schema."""
    schema = msgspec.json.schema(payload_type)
    definitions = {name: _without_prose(definition) for name, definition in schema.pop("$defs", {}).items()}
    reference = schema.get("$ref", "").rpartition("/")[2]
    root = definitions.pop(reference) if reference and not _refers(definitions, reference) else _without_prose(schema)
    return {**root, **({"$defs": definitions} if definitions else {})}


def check(event_type: str, mode: Mode, history: Sequence[Schema], new: Schema) -> None:
    """Raises IncompatibleSchema listing every problem of ``new`` under ``mode``; ``history`` is oldest first, without ``new``.

    The plain modes look at the last version only, the transitive ones at every version.
    """
    if mode == "NONE" or not history:
        return
    problems: dict[str, None] = {}  # ordered, each once
    for old in history if mode.endswith("_TRANSITIVE") else history[-1:]:
        if mode.startswith(("BACKWARD", "FULL")):
            problems.update(dict.fromkeys(backward_problems(old, new)))
        if mode.startswith(("FORWARD", "FULL")):
            problems.update(dict.fromkeys(forward_problems(old, new)))
    if problems:
        raise IncompatibleSchema(event_type, mode, tuple(problems))


def backward_problems(old: Schema, new: Schema) -> list[str]:
    """Why a reader of ``new`` misunderstands events of ``old``; empty if it does not."""
    return list(_Reading(new, old, reader_is="new").problems())


def forward_problems(old: Schema, new: Schema) -> list[str]:
    """Why a reader of ``old`` misunderstands events of ``new``; empty if it does not."""
    return list(_Reading(old, new, reader_is="old").problems())


class _Reading:
    """One direction: can the reader's schema take, with the same meaning, whatever the writer's allows."""

    def __init__(self, reader: Schema, writer: Schema, *, reader_is: Literal["new", "old"]) -> None:
        self._reader = reader
        self._writer = writer
        self._reader_is = reader_is
        self._who = f"a reader of the {reader_is} version"
        self._open: set[tuple[bytes, bytes]] = set()  # what is being compared further up: recursive types end here

    def problems(self) -> Iterator[str]:
        yield from self._value(self._reader, self._writer, "")

    def _value(self, reader: Schema, writer: Schema, path: str) -> Iterator[str]:
        if _unit(reader) != _unit(writer):
            yield f"{_name(path)}: the unit changed"
        takers = list(_alternatives(reader, self._reader))
        for offered in _alternatives(writer, self._writer):
            tried = [list(self._alternative(taker, offered, path)) for taker in takers]
            if all(tried):
                # The nearest alternative tells most: one of the same kind, if there is one.
                same = [found for taker, found in zip(takers, tried, strict=True) if _kind(taker) == _kind(offered)]
                yield from min(same or tried[:1], key=len)

    def _alternative(self, reader: Schema, writer: Schema, path: str) -> Iterator[str]:
        kind = _kind(reader)
        if kind == "anything":
            return
        if kind == "enum" or _kind(writer) == "enum":
            yield from self._enum(reader, writer, path)
        elif kind != _kind(writer):
            yield f"{_name(path)}: {self._who} does not take {_kind(writer)}"
        else:
            yield from self._bounds(reader, writer, path)
            pair = (msgspec.json.encode(reader), msgspec.json.encode(writer))
            if kind in ("object", "array") and pair not in self._open:
                self._open.add(pair)
                yield from self._object(reader, writer, path) if kind == "object" else self._array(reader, writer, path)
                self._open.remove(pair)

    def _enum(self, reader: Schema, writer: Schema, path: str) -> Iterator[str]:
        if "enum" not in writer:
            yield f"{_name(path)}: {self._who} takes listed values only"
        elif "enum" in reader:
            unknown = [str(value) for value in writer["enum"] if not any(_same(value, known) for known in reader["enum"])]
            if unknown:
                yield f"{_name(path)}: {self._who} does not know the values {', '.join(unknown)}"
        elif any(_kind_of(value) != _kind(reader) for value in writer["enum"]):
            yield f"{_name(path)}: {self._who} takes {_kind(reader)}, not the listed values"

    def _bounds(self, reader: Schema, writer: Schema, path: str) -> Iterator[str]:
        for keywords, tighter in ((_LOWER_BOUNDS, gt), (_UPPER_BOUNDS, lt)):
            for keyword in keywords:
                own, other = reader.get(keyword), writer.get(keyword)
                if own is not None and (other is None or tighter(own, other)):
                    yield f"{_name(path)}: {keyword} of {self._who} is tighter"
        for keyword in _EXACT:
            if keyword in reader and not _same(reader[keyword], writer.get(keyword)):
                yield f"{_name(path)}: {self._who} demands another {keyword}"

    def _array(self, reader: Schema, writer: Schema, path: str) -> Iterator[str]:
        rest = _ANY if reader.get("items") in (None, False) else reader["items"]
        offered = _ANY if writer.get("items") in (None, False) else writer["items"]
        own, other = reader.get("prefixItems", ()), writer.get("prefixItems", ())
        for index, (first, second) in enumerate(zip_longest(own, other)):
            yield from self._value(rest if first is None else first, offered if second is None else second, f"{path}[{index}]")
        if writer.get("items") is not False and reader.get("items") is not False:
            yield from self._value(rest, offered, f"{path}[]")

    def _object(self, reader: Schema, writer: Schema, path: str) -> Iterator[str]:
        own, other = reader.get("properties", {}), writer.get("properties", {})
        needed, given = set(reader.get("required", ())), set(writer.get("required", ()))
        for name in own:
            inner = f"{path}.{name}" if path else name
            if name in needed - given:
                yield f"{inner}: {self._who} requires it, and it may be absent"
            if name in other:
                yield from self._property(own[name], other[name], inner, defaulted=name not in needed | given)
            elif "properties" not in writer:
                yield from self._value(own[name], _values(writer), inner)
        if reader.get("additionalProperties") is False:
            yield from (f"{path}.{name}".lstrip(".") + f": {self._who} refuses unknown fields" for name in other if name not in own)
            if "properties" not in writer:
                yield f"{_name(path)}: {self._who} refuses unknown fields"
        elif "properties" not in reader and isinstance(reader.get("additionalProperties"), Mapping):
            for name in other:
                yield from self._value(_values(reader), other[name], f"{path}.{name}".lstrip("."))
            if "properties" not in writer:
                yield from self._value(_values(reader), _values(writer), f"{path}.*".lstrip("."))
        yield from self._renames(own, other, path)

    def _property(self, reader: Schema, writer: Schema, path: str, *, defaulted: bool) -> Iterator[str]:
        if defaulted and not _same(reader.get("default", "no default"), writer.get("default", "no default")):
            yield f"{path}: the default changed, so absent fields of old events would mean something else"
        yield from self._value(reader, writer, path)

    def _renames(self, reader: Schema, writer: Schema, path: str) -> Iterator[str]:
        before, after = (writer, reader) if self._reader_is == "new" else (reader, writer)
        for name in (name for name in before if name not in after):
            for new_name in (new_name for new_name in after if new_name not in before):
                if _same(before[name], after[new_name]):
                    where = f"{path}.{name}".lstrip(".")
                    yield f"{where}: dropped while {new_name} of the same shape was added, which is a rename"


def _alternatives(schema: Schema, root: Schema) -> Iterator[Schema]:
    """Each single shape that a value may have; an empty one stands for anything."""
    while "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        schema = root.get("$defs", {}).get(name, root)
    if "anyOf" in schema:
        for part in schema["anyOf"]:
            yield from _alternatives(part, root)
    elif isinstance(schema.get("type"), list):
        for kind in schema["type"]:
            yield {**schema, "type": kind}
    elif "const" in schema:
        yield {"enum": [schema["const"]]}
    else:
        yield schema


def _kind(schema: Schema) -> str:
    kind: str = "enum" if "enum" in schema else schema.get("type", "anything")
    return kind


def _kind_of(value: object) -> str:
    if value is None:
        return "null"
    return {bool: "boolean", int: "integer", float: "number", str: "string"}.get(type(value), "anything")


def _unit(schema: Schema) -> str | None:
    """The unit that a field or one of its alternatives names."""
    if "unit" in schema and isinstance(schema["unit"], str):
        return schema["unit"]
    return next((unit for part in schema.get("anyOf", ()) if (unit := _unit(part))), None)


def _values(schema: Schema) -> Schema:
    """What a map's values look like."""
    values = schema.get("additionalProperties")
    return values if isinstance(values, Mapping) else _ANY


def _same(one: object, other: object) -> bool:
    """Equal as JSON: 1, 1.0 and true are three values."""
    return msgspec.json.encode(one, order="sorted") == msgspec.json.encode(other, order="sorted")


def _name(path: str) -> str:
    return path or "the payload"


def _without_prose(schema: Any) -> Any:  # noqa: ANN401  # any part of a schema
    if isinstance(schema, list):
        return [_without_prose(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {key: value for key, value in schema.items() if key not in ("description", "title")}
    for key, value in kept.items():
        if key == "properties":
            kept[key] = {name: _without_prose(part) for name, part in value.items()}
        elif key not in ("default", "enum", "const"):
            kept[key] = _without_prose(value)
    return kept


def _refers(definitions: Schema, name: str) -> bool:
    """Whether any definition refers to ``name``: then it has to stay where it is."""
    return f'"#/$defs/{name}"'.encode() in msgspec.json.encode(definitions)
