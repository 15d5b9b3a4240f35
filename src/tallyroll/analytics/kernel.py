"""From batches to panes: the one place where the columns of many partitions come together. No clock, no I/O.

``run`` reads the batches that wait, some thousand records at a time, and lets the caller look; ``cut`` puts the values into
panes and gives the rows that are to be stored, in steps between which runs go on. All take what comes: no input raises.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tallyroll.analytics.cells import Part, Waiting, group, join, settle
from tallyroll.analytics.columns import Columns, Layout, dimension_paths
from tallyroll.analytics.gathering import Tally, gather
from tallyroll.analytics.keyring import DAY_US, OTHER, KeyNames, Keyring
from tallyroll.analytics.lane import HeldRow, Judged, Lane, Taken, Timing, judge
from tallyroll.analytics.measuring import NEGATIVE, Measured, measure
from tallyroll.analytics.pairs import OpenPairs, pair_kinds, pairs_of
from tallyroll.analytics.pane import Pane, merge
from tallyroll.analytics.reading import Schemas
from tallyroll.analytics.run import Observed
from tallyroll.analytics.spec import MetricSpec
from tallyroll.events.position import Position, TopicPartition
from tallyroll.ports import OpenPair, PaneAt

SETTLE_ROWS: Final = 1 << 19  # waiting rows of a dimension at which they go into panes whatever happens: bounds memory and sums
_STEP_ROWS: Final = 128  # rows made into bytes in one step, some milliseconds
_FLEET_CODE: Final = 1
_SLACK: Final = 1_000  # unused numbers that are not worth a look


class Table:
    """The metrics that share cells: one dimension, one pane length, one cap of keys; and their values that wait."""

    def __init__(self, dimension: str, pane_s: int, max_keys: int, metrics: Sequence[int]) -> None:
        self.dimension = dimension
        self.pane_s = pane_s
        self.max_keys = max_keys
        self.metrics = metrics
        self.paths = dimension_paths(dimension)
        self.names = KeyNames()
        self.waiting: list[Waiting] = []
        if not self.paths:
            self.names.names.append("")

    @property
    def name(self) -> str:
        """Tells it from the others, also after a restart."""
        return f"{self.dimension}/{self.pane_s}/{self.max_keys}"

    @property
    def rows(self) -> int:
        """How many rows wait."""
        return sum(len(one.lane) for one in self.waiting)

    def at(self, key: int, pane: int) -> PaneAt:
        """Where a cell is stored."""
        return PaneAt(self.dimension, self.names.names[key], self.pane_s, pane * self.pane_s)


class Cut:
    """What waited at one moment, on its way into panes, and the rows that have changed by then. Iterating does it, step by step.

    ``rows``: of each lane what is to be stored. ``left``: values whose panes are not in memory.
    """

    def __init__(self, kernel: Kernel) -> None:
        self.rows: dict[Lane, list[Taken]] = {}
        self.left: list[tuple[Table, Waiting]] = []
        self._kernel = kernel
        self._waiting = [(table, table.waiting) for table in kernel.tables if table.waiting]
        for table, _ in self._waiting:
            table.waiting = []
        self._steps = self._go()

    def __iter__(self) -> Iterator[None]:
        return self._steps

    def finish(self) -> None:
        """Does all steps that are not done yet."""
        for _ in self._steps:
            pass

    def put_left(self) -> None:
        """Puts what was left into its panes, which are in memory by now."""
        later = {lane: lane.take_dirty() for lane in self._kernel.lanes.values()}  # changed by what came after the cut
        self._waiting, self.left = [(table, [one]) for table, one in self.left], []
        self._steps = self._go()
        self.finish()
        for lane, rows in later.items():
            lane.dirty += rows

    def missing(self) -> Mapping[Lane, Sequence[PaneAt]]:
        """The panes that have to be read from the store first, by lane."""
        wanted: dict[Lane, list[PaneAt]] = {}
        for table, waiting in self.left:
            cells = group(waiting)
            for lane, key, pane in zip(cells.lane.tolist(), cells.key.tolist(), cells.pane.tolist(), strict=True):
                wanted.setdefault(self._kernel.lanes[lane], []).append(table.at(key, pane))
        return wanted

    def give_back(self) -> None:
        """What is left waits again. The rows are the lanes'."""
        self.finish()
        for table, waiting in self.left:
            table.waiting.insert(0, waiting)

    def _go(self) -> Iterator[None]:
        for table, waiting in self._waiting:
            left: list[Waiting] = []
            yield from self._kernel.settling(table, waiting, left)
            self.left += [(table, one) for one in left]
            yield
        for lane in self._kernel.lanes.values():
            rows, dirty = self.rows.setdefault(lane, []), lane.take_dirty()
            for start in range(0, len(dirty), _STEP_ROWS):
                rows += [row.take() for row in dirty[start : start + _STEP_ROWS]]
                if len(dirty) > _STEP_ROWS:
                    yield


class Run:
    """What a run of the kernel has seen; implements ``KernelRun``."""

    def __init__(self, kernel: Kernel, columns: Columns, observed: Sequence[Observed], tally: Tally) -> None:
        self._kernel = kernel
        self._columns = columns
        self.observed = observed
        self.tally = tally

    def evidence(self, row: int) -> tuple[str, Position]:
        lane = self._columns.lanes[int(np.searchsorted(self._columns.bounds, row, side="right")) - 1]
        return self._columns.ids[row], Position(*lane.partition, self._columns.offsets[row])

    def open_pane(self, metric: str, dimension: str, key: str, start: int) -> Pane:
        return self._kernel.pane(metric, dimension, key, start)


class Seen:
    """Some values of a run; implements ``Observed``. ``uncounted``: bad ones may be among them."""

    def __init__(self, spec: MetricSpec, table: Table, part: Part, waiting: tuple[NDArray[np.int32], Waiting], *, uncounted: bool) -> None:
        self.spec = spec
        self.dimension = table.dimension
        self.part = part.only(part.places < NEGATIVE) if uncounted else part
        self._table = table
        self._run_rows, self._waiting = waiting

    @cached_property
    def _keys(self) -> tuple[list[str], NDArray[np.int32]]:
        codes = self._waiting.key[self.part.at]
        marks = np.zeros(len(self._table.names.names), np.int32)
        marks[codes] = 1
        distinct = np.flatnonzero(marks)
        marks[distinct] = np.arange(len(distinct))
        names = self._table.names.names
        return [names[code] for code in distinct.tolist()], marks[codes]

    @property
    def keys(self) -> Sequence[str]:
        return self._keys[0]

    @property
    def key_of(self) -> NDArray[np.int32]:
        return self._keys[1]

    @cached_property
    def values(self) -> NDArray[np.float64]:
        return self.part.values.astype(np.float64, copy=False) / self.spec.scale

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        return self._waiting.pane[self.part.at] * self._table.pane_s

    @cached_property
    def rows(self) -> NDArray[np.int32]:
        return self._run_rows[self.part.at]


class Kernel:
    """Folds the events of many partitions into panes of some metrics. Raises ValueError for a path that no event has.

    The owner gives each partition a ``Lane`` (``open``), puts batches into it, and stores what the lane has. Panes are the
    same for every batching, every order among partitions and every number of runs; float sums up to their last bits.
    Not promised: that values are in panes before ``cut`` or ``settle``.
    """

    def __init__(self, specs: Sequence[MetricSpec], schemas: Schemas) -> None:
        self.specs = specs
        self.kinds = pair_kinds(specs)
        self.lanes: dict[int, Lane] = {}
        self._layout = Layout(specs, self.kinds, schemas)
        self._timings = [Timing(spec.pane_s, round(spec.disorder_s * 1e6), round(spec.lateness_s * 1e6)) for spec in specs]
        self._opened = 0
        self._cut: Cut | None = None
        tables: dict[tuple[str, int, int], list[int]] = {}
        for number, spec in enumerate(specs):
            for dimension in dict.fromkeys(spec.per):
                tables.setdefault((dimension, spec.pane_s, spec.max_keys), []).append(number)
        self.tables = [Table(*which, metrics) for which, metrics in tables.items()]
        self._pane_s = {spec.name: spec.pane_s for spec in specs}

    def open(self, partition: TopicPartition, pairs: Sequence[OpenPair] = ()) -> Lane:
        """A new lane for a partition."""
        self._opened += 1
        keyrings = [Keyring(table.names, table.max_keys) for table in self.tables]
        lane = self.lanes[self._opened] = Lane(self._opened, partition, OpenPairs(self.kinds, pairs), keyrings)
        return lane

    def close(self, lane: Lane) -> None:
        """Forgets a lane and everything of it that waits."""
        if self.lanes.pop(lane.number, None) is not None:
            for ring in lane.keyrings:
                ring.close()
        for table in self.tables:
            table.waiting = [left for one in table.waiting if len((left := one.only(one.lane != lane.number)).lane)]

    def run(self, now_us: int, *, observe: bool) -> Run | None:
        """Reads what waits in the lanes; None if nothing does. ``observe``: somebody wants to look at the values."""
        lanes = [lane for lane in self.lanes.values() if lane.batches]
        if not lanes:
            return None
        tally = Tally()
        columns = gather(lanes, self._layout, now_us, tally)
        observed: list[Observed] = []
        if len(columns):
            columns.match(self.kinds)
            lane_of = columns.of_each([lane.number for lane in lanes])
            measured = self._measure(columns, tally)
            for place, table in enumerate(self.tables):
                waiting = _wait(table, place, columns, lane_of, measured)
                if waiting is not None:
                    self._count_overflow(waiting, tally)
                    if observe:
                        observed += self._seen(table, waiting, measured)
                    table.waiting.append(waiting[1])
                    if table.rows >= SETTLE_ROWS:
                        self._settle(table)
        return Run(self, columns, observed, tally)

    def _measure(self, columns: Columns, tally: Tally) -> Mapping[int, tuple[Measured, Judged]]:
        """The values of each metric that came in time, by number, and which of the events are late for it."""
        found: dict[int, tuple[Measured, Judged]] = {}
        judged = {timing: judge(timing, columns.times_us, columns.watermarks_us) for timing in set(self._timings)}
        late, dropped = np.zeros(len(columns), np.bool_), np.zeros(len(columns), np.bool_)
        for number, (spec, timing) in enumerate(zip(self.specs, self._timings, strict=True)):
            measured, verdict = measure(spec, columns), judged[timing]
            tally.invalid += measured.invalid
            if any(pairs_of(spec)):
                tally.unmatched[spec.name] += len(columns.rows_of(spec.event_types)) - len(measured.rows)
            if verdict.late is not None:
                late[measured.rows] |= verdict.late[measured.rows]
            if verdict.dropped is not None:
                dropped[measured.rows] |= verdict.dropped[measured.rows]
                keep = ~verdict.dropped[measured.rows]
                measured = Measured(measured.rows[keep], measured.values[keep], measured.places[keep])
            if len(measured.rows):
                found[number] = measured, verdict
        tally.dropped += int(dropped.sum())
        tally.revised += int((late & ~dropped).sum())
        return found

    def _count_overflow(self, waiting: tuple[NDArray[np.int32], Waiting], tally: Tally) -> None:
        others = waiting[1].key == OTHER
        if others.any():
            for number, part in waiting[1].parts.items():
                tally.overflowed[self.specs[number].name] += int(others[part.at].sum())

    def _seen(
        self, table: Table, waiting: tuple[NDArray[np.int32], Waiting], measured: Mapping[int, tuple[Measured, Judged]]
    ) -> Iterator[Seen]:
        for number, part in waiting[1].parts.items():
            seen = Seen(self.specs[number], table, part, waiting, uncounted=measured[number][0].uncounted)
            if len(seen.part.at):
                yield seen

    def cut(self) -> Cut:
        """Takes what waits now, to be stored; what is measured from here on is not in it. One at a time."""
        self._cut = Cut(self)
        return self._cut

    def end_cut(self) -> None:
        """It is stored, or given back."""
        self._cut = None

    def settle(self) -> None:
        """Puts what waits into the panes of the lanes, but for late values whose panes are not in memory."""
        for table in self.tables:
            self._settle(table)

    def _settle(self, table: Table) -> None:
        if self._cut is not None:
            self._cut.finish()  # its rows are taken without what came after it
        if table.waiting:
            left: list[Waiting] = []
            for _ in self.settling(table, table.waiting, left):
                pass
            table.waiting = left

    def settling(self, table: Table, waiting: Sequence[Waiting], left: list[Waiting]) -> Iterator[None]:
        """Puts values of a table into the panes of the lanes, step by step; for cuts."""
        dimension, names, width_s, lanes = table.dimension, table.names.names, table.pane_s, self.lanes

        def get(lane: int, key: int, pane: int) -> HeldRow | None:
            return lanes[lane].row(dimension, names[key], width_s, pane * width_s)

        return settle(join(waiting), self.specs, get, left)

    def pane(self, metric: str, dimension: str, key: str, start: int) -> Pane:
        """What the lanes have of a pane, merged in the order of the partitions."""
        for table in self.tables:
            if table.dimension == dimension:
                self._settle(table)
        at = PaneAt(dimension, key, self._pane_s[metric], start)
        rows = [lane.find(at) for lane in sorted(self.lanes.values(), key=lambda lane: lane.partition)]
        return merge([pane for row in rows if row is not None and (pane := row.panes.get(metric)) is not None])

    def sweep(self) -> None:
        """Gives back the numbers of keys that have no place in any lane and wait for nothing. Not while there is a cut."""
        for place, table in enumerate(self.tables):
            rings = [lane.keyrings[place] for lane in self.lanes.values()]
            if table.paths and len(table.names) > 2 * max((ring.count for ring in rings), default=0) + _SLACK:
                held = np.zeros(len(table.names.names), np.bool_)
                for ring in rings:
                    held[ring.held()] = True
                for waiting in table.waiting:
                    held[waiting.key] = True
                table.names.keep(held, rings)


def _wait(
    table: Table, place: int, columns: Columns, lane_of: NDArray[np.int32], measured: Mapping[int, tuple[Measured, Judged]]
) -> tuple[NDArray[np.int32], Waiting] | None:
    """The values of a table's metrics as they wait, and which row of the run each of its rows is; None if there are none."""
    own = [(number, *measured[number]) for number in table.metrics if number in measured]
    if not own or not columns.has_keys(table.paths):
        return None
    touched = np.zeros(len(columns), np.bool_)
    for _, values, _ in own:
        touched[values.rows] = True
    rows = np.flatnonzero(touched).astype(np.int32)
    keys = _places(table, place, columns, rows)
    if (keys < 0).any():
        rows, keys = rows[keys >= 0], keys[keys >= 0]
        if not len(rows):
            return None
    at_row = np.full(len(columns), -1, np.int32)
    at_row[rows] = np.arange(len(rows), dtype=np.int32)
    parts, late = {}, np.zeros(len(rows), np.bool_)
    for number, values, verdict in own:
        at = at_row[values.rows]
        part = Part(at, values.values, values.places)
        if len(rows) < len(columns) and (at < 0).any():
            part = part.only(at >= 0)
        parts[number] = part
        if verdict.late is not None:
            late[part.at] |= verdict.late[rows[part.at]]
    return rows, Waiting(lane_of[rows], keys, columns.times_us[rows] // (table.pane_s * 1_000_000), late, parts)


def _places(table: Table, place: int, columns: Columns, rows: NDArray[np.int32]) -> NDArray[np.int32]:
    """Under which key each row is counted."""
    if not table.paths:
        return np.full(len(rows), _FLEET_CODE, np.int32)
    keys = columns.keys(table.paths, rows)
    codes = table.names.codes(keys)
    watermarks_us = columns.watermarks_us[rows]
    row_of = columns.of_each([lane.keyrings[place].row for lane in columns.lanes])[rows]
    if table.names.are_seen(row_of, codes, watermarks_us // DAY_US):
        return codes
    ends = np.searchsorted(rows, columns.bounds).tolist()
    found = [
        lane.keyrings[place].places(keys[start:stop], codes[start:stop], watermarks_us[start:stop])
        for lane, start, stop in zip(columns.lanes, ends[:-1], ends[1:], strict=True)
        if start < stop
    ]
    return found[0] if len(found) == 1 else np.concatenate(found)
