"""From batches to panes: the one place where the columns of many partitions come together. No clock, no I/O.

``run`` reads the batches that wait, some thousand records at a time, and lets the caller look; ``cut`` puts the values into
panes and gives the rows that are to be stored, in steps between which runs go on. All take what comes: no input raises.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import numpy as np

from tallyroll.analytics.admitted_keys import OTHER, AdmittedKeys
from tallyroll.analytics.cells import Waiting, join, settle
from tallyroll.analytics.columns import Columns, Layout
from tallyroll.analytics.cut import Cut
from tallyroll.analytics.gathered import Tally
from tallyroll.analytics.gathering import gather
from tallyroll.analytics.lane import HeldRow, Lane
from tallyroll.analytics.lateness import KEPT, Fate, Judged, Timing, fate, judge
from tallyroll.analytics.left_out import TOO_OLD
from tallyroll.analytics.measuring import Measured, measure
from tallyroll.analytics.observing import Run, Seen
from tallyroll.analytics.pairs import OpenPairs, pair_kinds, pairs_of
from tallyroll.analytics.pane import Pane, merge
from tallyroll.analytics.reading import Schemas
from tallyroll.analytics.run import Observed
from tallyroll.analytics.spec import MetricSpec
from tallyroll.analytics.tables import Came, Table, gather_old, wait
from tallyroll.analytics.windows import USUALLY_KEPT, Retention
from tallyroll.events.position import TopicPartition
from tallyroll.ports import OpenPair, PaneAt

SETTLE_ROWS: Final = 1 << 19  # events whose values wait at which they go into panes whatever happens: bounds memory and sums
SCANNED_ROWS: Final = 32_768  # records of one run, some 40 ms of them: more gain little, and would be looked at later
DECODED_ROWS: Final = 8_192  # the same without the compiled scanner
_SLACK: Final = 1_000  # unused numbers that are not worth a look


class Kernel:
    """Folds the events of many partitions into panes of some metrics. Raises ValueError for a path that no event has.

    The owner gives each partition a ``Lane`` (``open``), puts batches into it, and stores what the lane has. Panes are the
    same for every batching, every order among partitions and every number of runs; float sums up to their last bits.
    They are the same, too, with the compiled scanner and without it, which ``compiled=False`` is for.
    ``retention`` says how long the store keeps panes: values behind that are left out, and the lane counts them.
    Not promised: that values are in panes before ``cut`` or ``settle``.
    """

    def __init__(
        self, specs: Sequence[MetricSpec], schemas: Schemas, retention: Retention = USUALLY_KEPT, *, compiled: bool = True
    ) -> None:
        self.specs = specs
        self.kinds = pair_kinds(specs)
        self.lanes: dict[int, Lane] = {}
        self._layout = Layout(specs, self.kinds, schemas, compiled=compiled)
        self._timings = [Timing(spec.pane_s, round(spec.disorder_s * 1e6), round(spec.lateness_s * 1e6)) for spec in specs]
        self._opened = 0
        self._cut: Cut | None = None
        self._waiting = 0  # events since values last were put into panes, or taken for that
        tables: dict[tuple[str, int, int], list[int]] = {}
        for number, spec in enumerate(specs):
            for dimension in dict.fromkeys(spec.per):
                tables.setdefault((dimension, spec.pane_s, spec.max_keys), []).append(number)
        self.tables = [Table(*which, metrics) for which, metrics in tables.items()]
        self.places = [one for table in self.tables for one in table.both()]
        self._kept_for = {spec.pane_s: retention.of(spec.pane_s) for spec in specs}
        self._least_kept_us = min((one.own_s for one in self._kept_for.values()), default=0) * 1_000_000
        self._pane_s = {spec.name: spec.pane_s for spec in specs}

    @property
    def run_rows(self) -> int:
        """How many records should wait at most before they are run: what a run costs by itself is spread over them."""
        return DECODED_ROWS if self._layout.scanner is None else SCANNED_ROWS

    def open(self, partition: TopicPartition, pairs: Sequence[OpenPair] = ()) -> Lane:
        """A new lane for a partition."""
        self._opened += 1
        admitted = [AdmittedKeys(table.names, table.max_keys) for table in self.tables]
        lane = self.lanes[self._opened] = Lane(self._opened, partition, OpenPairs(self.kinds, pairs), admitted)
        return lane

    def close(self, lane: Lane) -> None:
        """Forgets a lane and everything of it that waits."""
        if self.lanes.pop(lane.number, None) is not None:
            for keys in lane.admitted:
                keys.close()
        for table in self.places:
            table.forget(lane.number)

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
            fates = self._fates(columns)
            measured = self._measure(columns, fates, tally)
            for place, table in enumerate(self.tables):
                came = wait(table, place, columns, lane_of, measured)
                if came is not None:
                    self._count_overflow(came, tally)
                    came = gather_old(table, came, fates.get(table.pane_s, KEPT).gathered)
                if came is not None:
                    if observe:
                        observed += self._seen(table, came, measured)
                    table.waiting.append(came.waiting)
            self._waiting += len(columns)
            if self._waiting >= SETTLE_ROWS:
                self.settle()
        return Run(self, columns, observed, tally)

    def _fates(self, columns: Columns) -> Mapping[int, Fate]:
        """By pane length which values have no pane of their own any more; as a rule there are none."""
        if int((columns.watermarks_us - columns.times_us).max()) < self._least_kept_us:
            return {}
        return {pane_s: fate(pane_s, one, columns.times_us, columns.watermarks_us) for pane_s, one in self._kept_for.items()}

    def _measure(self, columns: Columns, fates: Mapping[int, Fate], tally: Tally) -> Mapping[int, tuple[Measured, Judged]]:
        """The values of each metric that are kept, by number, and which of the events are late for it."""
        found: dict[int, tuple[Measured, Judged]] = {}
        judged = {timing: judge(timing, columns.times_us, columns.watermarks_us) for timing in set(self._timings)}
        late, gone = np.zeros(len(columns), np.bool_), np.zeros(len(columns), np.bool_)
        for number, (spec, timing) in enumerate(zip(self.specs, self._timings, strict=True)):
            measured, verdict = measure(spec, columns), judged[timing]
            tally.invalid += measured.invalid
            if any(pairs_of(spec)):
                tally.unmatched[spec.name] += len(columns.rows_of(spec.event_types)) - len(measured.rows)
            if verdict.late is not None:
                late[measured.rows] |= verdict.late[measured.rows]
            left = fates.get(spec.pane_s, KEPT).gone
            if left is not None:
                gone[measured.rows] |= left[measured.rows]
                keep = ~left[measured.rows]
                measured = Measured(measured.rows[keep], measured.values[keep], measured.places[keep])
            if len(measured.rows):
                found[number] = measured, verdict
        tally.revised += int((late & ~gone).sum())
        if gone.any():
            tally.dropped += int(gone.sum())
            for lane, start, stop in zip(columns.lanes, columns.bounds[:-1].tolist(), columns.bounds[1:].tolist(), strict=True):
                lane.left_out.add(TOO_OLD, columns.times_us[start:stop][gone[start:stop]].tolist())
        return found

    def _count_overflow(self, came: Came, tally: Tally) -> None:
        others = came.waiting.key == OTHER
        if others.any():
            for number, part in came.waiting.parts.items():
                tally.overflowed[self.specs[number].name] += int(others[part.at].sum())

    def _seen(self, table: Table, came: Came, measured: Mapping[int, tuple[Measured, Judged]]) -> Iterator[Seen]:
        for number, part in came.waiting.parts.items():
            values, verdict = measured[number]
            seen = Seen(self.specs[number], table, part, came, uncounted=values.uncounted, past=verdict.past)
            if len(seen.part.at):
                yield seen

    def cut(self) -> Cut:
        """Takes what waits now, to be stored; what is measured from here on is not in it. One at a time."""
        self._cut, self._waiting = Cut(self), 0
        return self._cut

    def end_cut(self) -> None:
        """It is stored, or given back."""
        self._cut = None

    def settle(self) -> None:
        """Puts what waits into the panes of the lanes, but for late values whose panes are not in memory."""
        self._waiting = 0
        for table in self.places:
            self._settle(table)

    def _settle(self, table: Table) -> None:
        if self._cut is not None:
            self._cut.finish()  # its rows are taken without what came after it
        if table.waiting:
            left: list[Waiting] = []
            for _ in self.settling(table, table.waiting, left):
                pass
            table.waiting = []
            table.behind += left

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
            admitted = [lane.admitted[place] for lane in self.lanes.values()]
            if table.paths and len(table.names) > 2 * max((keys.count for keys in admitted), default=0) + _SLACK:
                held = np.zeros(len(table.names.names), np.bool_)
                for keys in admitted:
                    held[keys.held()] = True
                for waiting in (waiting for one in table.both() for waiting in (*one.waiting, *one.behind)):
                    held[waiting.key] = True
                table.names.keep(held, admitted)
