"""What observers of the kernel are shown: the values of one run, as columns that are made when somebody asks. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tallyroll.analytics.cells import Part
from tallyroll.analytics.columns import Columns
from tallyroll.analytics.gathered import Tally
from tallyroll.analytics.lateness import Bools
from tallyroll.analytics.measuring import NEGATIVE, ZERO
from tallyroll.analytics.pane import Pane, bin_of
from tallyroll.analytics.run import Observed
from tallyroll.analytics.spec import MetricSpec
from tallyroll.analytics.tables import Came, Table
from tallyroll.events.position import Position

if TYPE_CHECKING:
    from tallyroll.analytics.kernel import Kernel


class Run:
    """What a run of the kernel has seen; implements ``KernelRun``."""

    def __init__(self, kernel: Kernel, columns: Columns, observed: Sequence[Observed], tally: Tally) -> None:
        self._kernel = kernel
        self._columns = columns
        self.observed = observed
        self.tally = tally

    def evidence(self, row: int) -> tuple[str, Position]:
        lane = self._columns.lanes[int(np.searchsorted(self._columns.bounds, row, side="right")) - 1]
        return self._columns.ids[row], Position(*lane.partition, self._columns.offset(row))

    def open_pane(self, metric: str, dimension: str, key: str, start: int) -> Pane:
        return self._kernel.pane(metric, dimension, key, start)


class Seen:
    """Some values of a run; implements ``Observed``. ``uncounted``: bad ones may be among them. ``past``: rows that are no news."""

    def __init__(self, spec: MetricSpec, table: Table, part: Part, came: Came, *, uncounted: bool, past: Bools | None) -> None:  # noqa: PLR0913  # one column
        self.spec = spec
        self.dimension = table.dimension
        if uncounted:
            part = part.only(part.places < NEGATIVE)
        if past is not None:
            part = part.only(~past[came.rows[part.at]])
        self.part = part
        self._table = table
        self._run_rows, self._waiting = came

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

    @property
    def bins(self) -> NDArray[np.int32] | NDArray[np.int64]:
        if not self.spec.signed and int(self.part.places.max()) < ZERO:
            return self.part.places  # all inside the domain, as a rule
        return bin_of(np.maximum(self.part.values, self.spec.domain[0]))

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        return self._waiting.pane[self.part.at] * self._table.pane_s

    @cached_property
    def rows(self) -> NDArray[np.int32]:
        return self._run_rows[self.part.at]
