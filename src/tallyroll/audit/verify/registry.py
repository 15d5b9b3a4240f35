"""What the registry says: who may write, what was erased, removed, held, lost. Read before anything else.

A registry record counts wherever it stands below the registry's noted size; whether it is genuine, the walk over the
registry's own partition decides, with the same checks as everywhere.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from . import fields
from .fields import Malformed
from .reading import META, REGISTRY, Buffer, Scan, control_at
from .report import Findings

DAY_US: Final = 86_400_000_000
_TS: Final = struct.Struct(">Q")
_DAYS: Final = 1 << 32


class Admitted(NamedTuple):
    """A writer epoch that may write."""

    commitment: bytes
    opened_us: int
    heartbeat_s: int
    ts_us: int


class Removal(NamedTuple):
    """Bodies or personal parts of a stretch of one class were removed on a day."""

    start: int
    end: int
    logged: int
    day: int


@dataclass
class Hold:
    """What may not be removed, from one registry index on and up to another."""

    index: int
    partition: int | None
    start: int
    end: int | None
    handle: bytes | None
    released: int | None = None

    def covers(self, partition: int, start: int, end: int, handles: set[bytes] | None) -> bool:
        """Whether it touches the stretch; ``handles`` None means that those of the records are not known."""
        if self.partition not in (None, partition) or end <= self.start or (self.end is not None and start >= self.end):
            return False
        return self.handle is None or handles is None or self.handle in handles

    def at(self, index: int | None) -> bool:
        """Whether it was set at that registry index; None asks for now."""
        if index is None:
            return self.released is None
        return self.index < index and (self.released is None or index < self.released)


class OpenHead(NamedTuple):
    """Where a chain stood at the end of a pruned prefix. Holes are (first missing, end, leaf before, what the record behind links to)."""

    writer: bytes
    epoch: int
    seq: int
    leaf: bytes
    mac_epoch: int
    closed: bool
    holes: tuple[tuple[int, int, bytes, bytes], ...]


class Prune(NamedTuple):
    """A prefix was removed whole."""

    logged: int
    day: int
    ts_us: int
    peaks: tuple[bytes, ...]
    heads: tuple[OpenHead, ...]
    keep_until_day: int


@dataclass
class Registry:
    """All of it, by what it is asked for."""

    admitted: dict[tuple[bytes, int], Admitted] = field(default_factory=dict)
    vkeys: list[tuple[int, str]] = field(default_factory=list)
    personal_days: dict[int, int | None] = field(default_factory=dict)
    erased_handles: dict[bytes, int] = field(default_factory=dict)
    erased_parts: dict[tuple[int, int, int], int] = field(default_factory=dict)
    requests: set[str] = field(default_factory=set)
    removals: defaultdict[tuple[int, str, int], list[Removal]] = field(default_factory=lambda: defaultdict(list))
    holds: dict[str, Hold] = field(default_factory=dict)
    gaps: defaultdict[tuple[int, bytes, int], list[tuple[int, int | None]]] = field(default_factory=lambda: defaultdict(list))
    prunes: dict[tuple[int, int], Prune] = field(default_factory=dict)
    topics: dict[tuple[str, int], int] = field(default_factory=dict)

    def read(self, buffer: Buffer, found: Scan, size: int, findings: Findings) -> None:
        """Takes in the registry's records below ``size``."""
        for index, at in zip(found.controls[::2], found.controls[1::2], strict=True):
            if index >= size:
                break
            kind = buffer[at + 5]
            reader = _READERS.get(kind)
            if reader is None:
                continue
            record = control_at(buffer, at)
            if record is None:
                findings.add("control", REGISTRY, index, detail="its env is missing, or its lengths do not fit")
                continue
            try:
                reader(self, fields.mapping(record[1]), index, _TS.unpack_from(record[0], 52)[0])
            except Malformed as error:
                findings.add("control", REGISTRY, index, detail=str(error))

    def held(self, partition: int, start: int, end: int, handles: set[bytes] | None, at: int | None) -> bool:
        """Whether a hold covered the stretch when the registry was that long, or covers it now."""
        return any(hold.at(at) and hold.covers(partition, start, end, handles) for hold in self.holds.values())


def _erasure(registry: Registry, env: dict[str, object], index: int, _: int) -> None:
    request = fields.text(env.get("request"))
    if env.get("erasure") == "request":
        registry.requests.add(request)
        return
    if env.get("erasure") != "done" or request not in registry.requests:
        raise Malformed("an erasure without its request")
    for handle in fields.array(env.get("handles")):
        registry.erased_handles.setdefault(fields.digest(handle, 16), index)
    for partition, place, part in fields.items(env.get("parts"), 3):
        registry.erased_parts.setdefault((fields.integer(partition, REGISTRY), fields.integer(place), fields.integer(part, 255)), index)


def _retention(registry: Registry, env: dict[str, object], index: int, ts_us: int) -> None:
    what, partition = env.get("retention"), fields.integer(env.get("partition"), META)
    if what == "prune":
        peaks = tuple(fields.digest(peak) for peak in fields.array(env.get("peaks")))
        heads = tuple(_open_head(*row) for row in fields.items(env.get("heads"), 7))
        day = fields.integer(env.get("keep_until_day"), _DAYS)
        registry.prunes[partition, fields.integer(env.get("size"))] = Prune(index, ts_us // DAY_US, ts_us, peaks, heads, day)
    elif what in ("body", "personal"):
        removal = Removal(fields.integer(env.get("start")), fields.integer(env.get("end")), index, ts_us // DAY_US)
        registry.removals[partition, str(what), fields.integer(env.get("retention_class"), 65_535)].append(removal)
    else:
        raise Malformed("a retention of an unknown kind")


def _open_head(writer: object, epoch: object, seq: object, leaf: object, *rest: object) -> OpenHead:
    mac_epoch, closed, holes = rest
    return OpenHead(
        fields.digest(writer, 16),
        fields.integer(epoch, _DAYS - 1),
        fields.integer(seq),
        fields.digest(leaf),
        fields.integer(mac_epoch),
        closed is not False,
        tuple(
            (fields.integer(start), fields.integer(end), fields.digest(before), fields.digest(behind))
            for start, end, before, behind in fields.items(holes, 4)
        ),
    )


def _hold(registry: Registry, env: dict[str, object], index: int, _: int) -> None:
    name = fields.text(env.get("id"))
    if env.get("hold") == "released":
        if name not in registry.holds:
            raise Malformed("a hold is released that was not set")
        if registry.holds[name].released is None:
            registry.holds[name].released = index
        return
    if env.get("hold") != "set" or name in registry.holds:
        raise Malformed("a hold is set twice, or neither set nor released")
    handle = None if env.get("handle") is None else fields.digest(env.get("handle"), 16)
    partition = fields.optional(env.get("partition"), REGISTRY)
    registry.holds[name] = Hold(index, partition, fields.integer(env.get("start")), fields.optional(env.get("end")), handle)


def _key(registry: Registry, env: dict[str, object], index: int, ts_us: int) -> None:
    what = env.get("key")
    if what == "writer":
        writer = fields.digest(env.get("writer"), 16), fields.integer(env.get("epoch"), _DAYS - 1)
        opened, beat = fields.integer(env.get("opened_us")), fields.integer(env.get("heartbeat_s"), 86_400)
        admitted = Admitted(fields.digest(env.get("commitment")), opened, beat, ts_us)
        # Two that seal may admit the same one at the same moment; saying the same thing twice says nothing new.
        if registry.admitted.setdefault(writer, admitted)[:3] != admitted[:3]:
            raise Malformed("a writer epoch is admitted twice")
    elif what == "topic":
        _topic(registry, env)
    elif what == "checkpoint":
        registry.vkeys.append((index, fields.text(env.get("vkey"))))
    elif what == "rule_set":
        for number, days in fields.mapping(env.get("classes")).items():
            if not number.isascii() or not number.isdigit() or len(number) > 5:
                raise Malformed("a retention class that is no number")
            if registry.personal_days.setdefault(int(number), fields.optional(days, _DAYS)) != days:
                raise Malformed("a retention class changed its days")
    else:
        raise Malformed("a key of an unknown kind")


def _topic(registry: Registry, env: dict[str, object]) -> None:
    topic, first = fields.text(env.get("topic")), fields.integer(env.get("first"), REGISTRY)
    place = fields.integer(env.get("partition"), META)
    for at in range(fields.integer(env.get("partitions"), META - place)):
        if registry.topics.setdefault((topic, first + at), place + at) != place + at:
            raise Malformed("a partition of a topic got two numbers")
    if len(set(registry.topics.values())) != len(registry.topics):
        raise Malformed("two partitions of topics got one number")


def _gap(registry: Registry, env: dict[str, object], _: int, __: int) -> None:
    gap = fields.mapping(env.get("gap"))
    chain = (fields.integer(gap.get("partition"), REGISTRY), fields.digest(gap.get("writer"), 16), fields.integer(gap.get("epoch")))
    registry.gaps[chain].append((fields.integer(gap.get("start")), fields.optional(gap.get("end"))))


_READERS: Final[dict[int, Callable[[Registry, dict[str, object], int, int], None]]] = {
    3: _erasure, 4: _retention, 5: _hold, 6: _key, 8: _gap,
}  # fmt: skip
