"""The events of one run, as columns that are made when first asked for. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import compress, islice, repeat
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tallyroll.analytics.lane import Lane
from tallyroll.analytics.pairs import MAX_ID_LENGTH, PairKind
from tallyroll.analytics.reading import ENVELOPE, PAYLOAD, Envelope, Kind, Reader, Schemas
from tallyroll.analytics.spec import FLEET, MetricSpec, Path, Success, read_by

ANY: Final = "*"
AGENT: Final = "agent"
_SEPARATOR: Final = "\x1f"
_ANOMALY: Final = "anomaly."
_ANOMALIES: Final = -1
_AGENT_ID: Final = f"{PAYLOAD}agent_id"
_SAYS_SUCCESS: Final[tuple[tuple[str, Kind], ...]] = (
    (f"{PAYLOAD}success", "truth"),
    (f"{PAYLOAD}status", "text"),
    (f"{PAYLOAD}result.status", "text"),
)
_ALWAYS: Final = ("id", "time", "type")
_NAMED: Final[Mapping[str, str]] = {
    "task_type": f"{PAYLOAD}task_type",
    "tool": f"{PAYLOAD}tool_name",
    "model": f"{PAYLOAD}model",
    "tenant": "tenantid",
}


class Layout:
    """What is read for some metrics: which paths, as what, and which event types are told apart. Immutable once made.

    Raises ValueError for a path that no event has.
    """

    def __init__(self, specs: Sequence[MetricSpec], kinds: Sequence[PairKind], schemas: Schemas) -> None:
        paths = set(_paths(specs, kinds))
        for path, _ in paths:
            if not path.startswith(PAYLOAD) and path not in (*ENVELOPE, AGENT):
                raise ValueError(f"{path!r} is not a path: it begins with {PAYLOAD!r} or is one of {', '.join((AGENT, *ENVELOPE))}")
        own: set[tuple[str, Kind]] = {(path, kind) for path, kind in paths if path.startswith(PAYLOAD)}
        if (AGENT, "text") in paths:
            own.add((_AGENT_ID, "text"))
        self.reader = Reader(own, schemas)
        self._inside = [(one, self.reader.column(*one)) for one in sorted(own)]
        self._outside = sorted({*_ALWAYS, *(path for path, _ in paths if path in ENVELOPE)})
        self._by_agent = (AGENT, "text") in paths
        taken = [*((path, "text") for path in self._outside), *(one for one, _ in self._inside), (AGENT, "text")]
        self.place = {one: number for number, one in enumerate(taken)}
        named = {name for spec in specs for name in spec.event_types} | {name for kind in kinds for name in (kind.start, *kind.ends)}
        self.types = {name: number for number, name in enumerate(sorted(named - {ANY}), 1)}

    def blank(self) -> list[list[Any]]:
        """Columns without events, in the order of ``place``."""
        return [[] for _ in self.place]

    def take(self, envelope: Envelope, members: Sequence[Any], into: Sequence[list[Any]]) -> None:
        """Adds what is read of some events to columns. After it nobody needs the events themselves."""
        columns = iter(into)
        for path in self._outside:
            next(columns).extend(envelope[path])
        of_members = self.reader.columns(members)
        agents: Sequence[str | None] = ()
        for (path, _), column in self._inside:
            values = column.take(of_members)
            next(columns).extend(values)
            if path == _AGENT_ID:
                agents = values
        if self._by_agent:
            next(columns).extend(_agents(envelope, agents))


def _agents(envelope: Envelope, agents: Sequence[str | None]) -> Iterable[str | None]:
    """Which agent each event is about: the rule of ``events.event.agent_of``, without a call for each."""
    kinds, aggregates = envelope["aggregatetype"], envelope["aggregateid"]
    alike = kinds.count(AGENT)
    if not alike:  # most topics have the one or the other
        return agents
    if alike == len(kinds):
        return aggregates
    return [aggregate if kind == AGENT else agent for kind, aggregate, agent in zip(kinds, aggregates, agents, strict=True)]


def dimension_paths(dimension: str) -> tuple[str, ...]:
    """The paths that make the key of a dimension; none for the fleet."""
    return tuple(_NAMED.get(part, part) for part in dimension.split("+") if part != FLEET)


def _paths(specs: Iterable[MetricSpec], kinds: Iterable[PairKind]) -> Iterator[tuple[str, Kind]]:
    for spec in specs:
        for value in read_by(spec.value):
            if isinstance(value, Path):
                yield value.path, "exact" if spec.exact and value is spec.value else "number"
            elif isinstance(value, Success):
                yield from _SAYS_SUCCESS
        for dimension in spec.per:
            yield from ((path, "text") for path in dimension_paths(dimension))
    for kind in kinds:
        yield kind.by, "text"


class Columns:
    """Events of several partitions, those of one partition next to each other and in the order of the log.

    ``lanes`` are the partitions, ``bounds`` where each begins and the last ends. ``taken`` is what the layout took, ``(n,)``:
    ``offsets``, ``times_us`` event time, ``watermarks_us`` the partition's largest so far. Implements ``measuring.Events``.
    """

    def __init__(  # noqa: PLR0913  # one per column
        self,
        layout: Layout,
        lanes: Sequence[Lane],
        bounds: NDArray[np.int64],
        taken: Sequence[Sequence[Any]],
        offsets: Sequence[int],
        times_us: NDArray[np.int64],
        watermarks_us: NDArray[np.int64],
    ) -> None:
        self.lanes = lanes
        self.bounds = bounds
        self.offsets = offsets
        self.times_us = times_us
        self.watermarks_us = watermarks_us
        self.ids: Sequence[str] = taken[layout.place["id", "text"]]
        self._layout = layout
        self._taken = taken
        self._rows: dict[tuple[str, ...], NDArray[np.int32]] = {}
        self._lists: dict[tuple[str, ...], Sequence[int]] = {}  # the same, for columns that are lists
        self._subsets: dict[tuple[str, Kind, tuple[str, ...]], Sequence[Any]] = {}
        self._pairs: dict[str, tuple[NDArray[np.int32], NDArray[np.int64]]] = {}

    def __len__(self) -> int:
        return len(self.offsets)

    def of_each(self, numbers: Sequence[int]) -> NDArray[np.int32]:
        """For each event the number of its partition, given one for each."""
        return np.repeat(np.array(numbers, np.int32), self._sizes)

    @cached_property
    def _sizes(self) -> NDArray[np.int64]:
        return np.diff(self.bounds)

    @cached_property
    def _types(self) -> NDArray[np.int16]:
        """The number of each event's type, 0 for types that no metric names, -1 for anomalies."""
        types = self._taken[self._layout.place["type", "text"]]
        codes = np.fromiter(map(self._layout.types.get, types, repeat(0)), np.int16, len(types))
        if any(name.startswith(_ANOMALY) for name in set(types)):
            codes[[name.startswith(_ANOMALY) for name in types]] = _ANOMALIES
        return codes

    def rows_of(self, types: tuple[str, ...]) -> NDArray[np.int32]:
        rows = self._rows.get(types)
        if rows is None:
            wanted = np.zeros(len(self._layout.types) + 2, np.bool_)
            wanted[[self._layout.types[name] for name in types if name != ANY]] = True
            if ANY in types:
                wanted[:_ANOMALIES] = True
            rows = self._rows[types] = np.flatnonzero(wanted[self._types]).astype(np.int32)
        return rows

    def column(self, path: str, kind: Kind, types: tuple[str, ...]) -> Sequence[Any]:
        subset = self._subsets.get((path, kind, types))
        if subset is None:
            subset, rows = self._taken[self._layout.place[path, kind]], self.rows_of(types)
            if len(rows) < len(self):
                at = self._lists.get(types)
                if at is None:
                    at = self._lists[types] = rows.tolist()
                subset = [subset[row] for row in at]
            self._subsets[path, kind, types] = subset
        return subset

    def pairs(self, name: str) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        return self._pairs[name]

    def match(self, kinds: Iterable[PairKind]) -> None:
        """Follows starts and ends; changes the open pairs of the lanes. Once, before ``pairs`` is asked."""
        for kind in kinds:
            types = (kind.start, *kind.ends)
            rows, ids = self.rows_of(types), self.column(kind.by, "text", types)
            if None in ids or "" in ids or max(map(len, ids), default=0) > MAX_ID_LENGTH:
                named = [bool(one) and len(one) <= MAX_ID_LENGTH for one in ids]
                rows, ids = rows[named], list(compress(ids, named))
            codes = self._types[rows]
            start = codes == self._layout.types[kind.start]
            ends = np.isin(codes, [self._layout.types[name] for name in kind.ends]) if kind.start in kind.ends else ~start
            columns = rows.tolist(), ends.tolist(), start.tolist(), ids, self.times_us[rows].tolist(), self.watermarks_us[rows].tolist()
            found: list[int] = []
            took_us: list[int] = []
            bounds = np.searchsorted(rows, self.bounds).tolist()
            steps = zip(*columns, strict=True)
            for lane, first, last in zip(self.lanes, bounds[:-1], bounds[1:], strict=True):
                if first < last:
                    lane.pairs.take(kind.name, ids[first:last], islice(steps, last - first), found, took_us)
            self._pairs[kind.name] = np.array(found, np.int32), np.array(took_us, np.int64)

    def has_keys(self, paths: Sequence[str]) -> bool:
        """Whether any event may have a key of these parts: of tenants there are often none."""
        return all(any(self._taken[self._layout.place[path, "text"]]) for path in paths)

    def keys(self, paths: Sequence[str], rows: NDArray[np.int32]) -> Sequence[str | None]:
        """The key of each of some rows; None where a part of it is missing."""
        parts = [self._taken[self._layout.place[path, "text"]] for path in paths]
        if len(rows) < len(self):
            at = rows.tolist()
            parts = [[part[row] for row in at] for part in parts]
        if len(parts) == 1:
            return parts[0]
        return [_SEPARATOR.join(some) if all(some) else None for some in zip(*parts, strict=True)]
