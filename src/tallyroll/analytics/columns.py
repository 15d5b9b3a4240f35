"""The events of one run, as columns of numbers. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tallyroll.analytics.coded import NO_NAME, Coded, Names, Sparse, sparse, translated
from tallyroll.analytics.lane import Lane
from tallyroll.analytics.moments import moments
from tallyroll.analytics.pairs import MAX_ID_LENGTH, PairKind, Steps, follow
from tallyroll.analytics.reading import ENVELOPE, PAYLOAD, Envelope, Kind, Reader, Schemas
from tallyroll.analytics.scanner import FIXED, scanner
from tallyroll.analytics.scanner import Kind as ScannedKind
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
_NAMED: Final[Mapping[str, str]] = {
    "task_type": f"{PAYLOAD}task_type",
    "tool": f"{PAYLOAD}tool_name",
    "model": f"{PAYLOAD}model",
    "tenant": "tenantid",
}


class Layout:
    """What is read for some metrics: which paths, as what, and which event types are told apart. Immutable once made.

    ``texts`` and ``numbers`` say in which slot of a ``Coded`` a path lies; of an exact one numbers are in the one and texts in
    the other. ``compiled``: by the scanner, where there is one. Raises ValueError for a path that no event has.
    """

    def __init__(self, specs: Sequence[MetricSpec], kinds: Sequence[PairKind], schemas: Schemas, *, compiled: bool = True) -> None:
        paths = set(_paths(specs, kinds))
        for path, _ in paths:
            if not path.startswith(PAYLOAD) and path not in (*ENVELOPE, AGENT):
                raise ValueError(f"{path!r} is not a path: it begins with {PAYLOAD!r} or is one of {', '.join((AGENT, *ENVELOPE))}")
        for path, kind in paths:
            if kind != "text" and not path.startswith(PAYLOAD):
                raise ValueError(f"{path!r} is a text, and no number: numbers lie below {PAYLOAD!r}")
        own: set[tuple[str, Kind]] = {(path, kind) for path, kind in paths if path.startswith(PAYLOAD)}
        if (AGENT, "text") in paths:
            own.add((_AGENT_ID, "text"))
        self.reader = Reader(own, schemas)
        self._inside = [(path, kind, self.reader.column(path, kind)) for path, kind in sorted(own)]
        self.texts = {path: slot for slot, path in enumerate(FIXED)}
        self.numbers: dict[tuple[str, Kind], int] = {}
        for path, kind, _ in self._inside:
            if kind in ("text", "exact"):
                self.texts.setdefault(path, len(self.texts))
            if kind != "text":
                self.numbers.setdefault((path, _NUMBER_OF[kind]), len(self.numbers))
        scanned: list[tuple[ScannedKind, str]] = [("text", path) for path in self.texts if path.startswith(PAYLOAD)]
        scanned += [("truth" if kind == "truth" else "number", path) for path, kind in self.numbers]
        self.scanner = None if not compiled else scanner([(kind, path.removeprefix(PAYLOAD)) for kind, path in scanned])
        named = {name for spec in specs for name in spec.event_types} | {name for kind in kinds for name in (kind.start, *kind.ends)}
        self.types = {name: number for number, name in enumerate(sorted(named - {ANY}), 1)}

    @property
    def slots(self) -> tuple[int, int]:
        """How many texts and how many numbers there are of each record."""
        return len(self.texts), len(self.numbers)

    def code(self, envelope: Envelope, members: Sequence[Any], names: Names) -> Coded:
        """What the reader has read of some events, as numbers; adds their names. After it nobody needs the events themselves."""
        texts = np.full((len(self.texts), len(members)), NO_NAME, np.int32)
        numbers: dict[int, Sparse] = {}
        for path in ENVELOPE:
            texts[self.texts[path]] = names.codes(envelope[path])
        of_members = self.reader.columns(members)
        for path, kind, column in self._inside:
            values = column.take(of_members)
            if kind == "text":
                texts[self.texts[path]] = names.codes(values)
            else:
                numbers[self.numbers[path, _NUMBER_OF[kind]]] = sparse(values)
            if kind == "exact" and str in set(map(type, values)):
                texts[self.texts[path]] = names.codes([one if type(one) is str else None for one in values])
        times_us = moments(envelope["time"])
        return Coded(envelope["id"], times_us, names.listed, texts, [numbers[slot] for slot in range(len(numbers))])


class Keys(NamedTuple):
    """A key for each of some rows: its place in ``names``, NO_NAME for none."""

    names: Sequence[str]
    at: NDArray[np.int32]


_NUMBER_OF: Final[Mapping[Kind, Kind]] = {"number": "number", "exact": "number", "truth": "truth"}


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

    ``lanes`` are the partitions, ``bounds`` where each begins and the last ends. ``coded`` is what was read, ``(n,)``:
    ``offsets`` in stretches, ``times_us`` event time, ``watermarks_us`` the partition's largest so far. Implements ``measuring.Events``.
    """

    def __init__(  # noqa: PLR0913  # one per column
        self,
        layout: Layout,
        lanes: Sequence[Lane],
        bounds: NDArray[np.int64],
        coded: Coded,
        offsets: Sequence[Sequence[int]],
        times_us: NDArray[np.int64],
        watermarks_us: NDArray[np.int64],
    ) -> None:
        self.lanes = lanes
        self.bounds = bounds
        self.times_us = times_us
        self.watermarks_us = watermarks_us
        self.ids = coded.ids
        self._layout = layout
        self._coded = coded
        self._offsets = offsets
        self._rows: dict[tuple[str, ...], NDArray[np.int32]] = {}
        self._numbers: dict[tuple[str, Kind, tuple[str, ...]], Sparse] = {}
        self._pairs: dict[str, tuple[NDArray[np.int32], NDArray[np.int64]]] = {}

    def __len__(self) -> int:
        return len(self.times_us)

    def offset(self, row: int) -> int:
        """Where an event lies in its partition."""
        for stretch in self._offsets:
            if row < len(stretch):
                return stretch[row]
            row -= len(stretch)
        raise IndexError(row)

    def of_each(self, numbers: Sequence[int]) -> NDArray[np.int32]:
        """For each event the number of its partition, given one for each."""
        return np.repeat(np.array(numbers, np.int32), self._sizes)

    @cached_property
    def _sizes(self) -> NDArray[np.int64]:
        return np.diff(self.bounds)

    def _translated(self, codes: NDArray[np.int32], of: Callable[[str], int], none: int) -> NDArray[np.int32]:
        return translated(codes, self._coded.names, of, none)

    @cached_property
    def _types(self) -> NDArray[np.int32]:
        """The number of each event's type, 0 for types that no metric names, -1 for anomalies."""
        types = self._layout.types
        return self._translated(self._codes("type"), lambda name: _ANOMALIES if name.startswith(_ANOMALY) else types.get(name, 0), 0)

    @cached_property
    def _agents(self) -> NDArray[np.int32]:
        """Which agent each event is about: the rule of ``events.event.agent_of``, without a call for each."""
        is_agent = self._translated(self._codes("aggregatetype"), AGENT.__eq__, 0) == 1
        return np.where(is_agent, self._codes("aggregateid"), self._codes(_AGENT_ID))

    def _codes(self, path: str) -> NDArray[np.int32]:
        return self._agents if path == AGENT else self._coded.texts[self._layout.texts[path]]

    @cached_property
    def _are_ids(self) -> NDArray[np.bool_]:
        """By name whether it is short enough for an id; the last is for none."""
        names = self._coded.names
        lengths = np.fromiter(map(len, (*names, "")), np.int64, len(names) + 1)
        return (lengths > 0) & (lengths <= MAX_ID_LENGTH)

    def _wanted(self, types: tuple[str, ...]) -> NDArray[np.bool_]:
        """By number of type, whether it is one of these."""
        wanted = np.zeros(len(self._layout.types) + 2, np.bool_)
        wanted[[self._layout.types[name] for name in types if name != ANY]] = True
        if ANY in types:
            wanted[:_ANOMALIES] = True
        return wanted

    def rows_of(self, types: tuple[str, ...]) -> NDArray[np.int32]:
        rows = self._rows.get(types)
        if rows is None:
            rows = self._rows[types] = np.flatnonzero(self._wanted(types)[self._types]).astype(np.int32)
        return rows

    def numbers(self, path: str, kind: Kind, types: tuple[str, ...]) -> Sparse:
        found = self._numbers.get((path, kind, types))
        if found is None:
            rows, values = self._coded.numbers[self._layout.numbers[path, kind]]
            if len(rows):
                own = self._wanted(types)[self._types[rows]]
                if not own.all():
                    rows, values = rows[own], values[own]
            found = self._numbers[path, kind, types] = rows, values
        return found

    def texts(self, path: str, rows: NDArray[np.int32]) -> Sequence[str | None]:
        names = self._coded.names
        return [names[code] if code >= 0 else None for code in self._codes(path)[rows].tolist()]

    def among(self, path: str, names: frozenset[str], types: tuple[str, ...]) -> NDArray[np.bool_]:
        codes = self._codes(path)
        rows = self.rows_of(types)
        if len(rows) < len(self):
            codes = codes[rows]
        found: NDArray[np.bool_] = self._translated(codes, names.__contains__, 0) == 1
        return found

    def pairs(self, name: str) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        return self._pairs[name]

    def match(self, kinds: Iterable[PairKind]) -> None:
        """Follows starts and ends; changes the open pairs of the lanes. Once, before ``pairs`` is asked."""
        for kind in kinds:
            rows = self.rows_of((kind.start, *kind.ends))
            ids = self._codes(kind.by)[rows]
            named = self._are_ids[ids]
            if not named.all():
                rows, ids = rows[named], ids[named]
            codes = self._types[rows]
            starts = codes == self._layout.types[kind.start]
            ends = np.isin(codes, [self._layout.types[name] for name in kind.ends]) if kind.start in kind.ends else ~starts
            of = np.searchsorted(self.bounds, rows, side="right") - 1
            steps = Steps(rows, of, ids, starts, ends, self.times_us[rows], self.watermarks_us[rows])
            self._pairs[kind.name] = follow(kind.name, [lane.pairs for lane in self.lanes], steps, self._coded.names)

    def has_keys(self, paths: Sequence[str]) -> bool:
        """Whether any event may have a key of these parts: of tenants there are often none."""
        return all(bool((self._codes(path) >= 0).any()) for path in paths)

    def keys(self, paths: Sequence[str], rows: NDArray[np.int32]) -> Keys:
        """The key of each of some rows; none where a part of it is missing."""
        names, parts = self._coded.names, [self._codes(path)[rows] for path in paths]
        if len(parts) == 1:
            return Keys(names, parts[0])
        there = np.ones(len(rows), np.bool_)
        for part in parts:
            there &= self._translated(part, bool, 0) == 1
        at = np.full(len(rows), NO_NAME, np.int32)
        distinct, at[there] = np.unique(np.stack(parts, axis=1)[there], axis=0, return_inverse=True)
        return Keys([_SEPARATOR.join(names[code] for code in key) for key in distinct.tolist()], at)
