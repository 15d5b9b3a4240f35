"""What waited at one moment, on its way into panes and rows for the store, in steps between which runs of the kernel go on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from tallyroll.analytics.cells import Waiting, group
from tallyroll.analytics.lane import Lane, Taken
from tallyroll.analytics.tables import Table
from tallyroll.ports import PaneAt

if TYPE_CHECKING:
    from tallyroll.analytics.kernel import Kernel

_STEP_ROWS: Final = 128  # rows made into bytes in one step, some milliseconds


class Cut:
    """What waited at one moment, on its way into panes, and the rows that have changed by then. Iterating does it, step by step.

    ``rows``: of each lane what is to be stored. ``left``: values whose panes are not in memory.
    """

    def __init__(self, kernel: Kernel) -> None:
        self.rows: dict[Lane, list[Taken]] = {}
        self.left: list[tuple[Table, Waiting]] = []
        self._kernel = kernel
        waiting = [(table, taken) for table in kernel.places if (taken := table.take())]
        self._steps = self._go(waiting)

    def __iter__(self) -> Iterator[None]:
        return self._steps

    def finish(self) -> None:
        """Does all steps that are not done yet."""
        for _ in self._steps:
            pass

    def missing(self) -> Mapping[Lane, Sequence[PaneAt]]:
        """The panes that have to be read from the store first, by lane."""
        wanted: dict[Lane, list[PaneAt]] = {}
        for table, waiting in self.left:
            cells = group(waiting)
            for lane, key, pane in zip(cells.lane.tolist(), cells.key.tolist(), cells.pane.tolist(), strict=True):
                wanted.setdefault(self._kernel.lanes[lane], []).append(table.at(key, pane))
        return wanted

    def put_left(self) -> Iterator[None]:
        """Puts what was left into its panes, which are in memory by now; step by step, as before."""
        self._steps = self._put_left()
        return self._steps

    def give_back(self) -> None:
        """What is left waits again. The rows are the lanes'."""
        self.finish()
        for table, waiting in self.left:
            table.behind.insert(0, waiting)

    def _go(self, waiting: Sequence[tuple[Table, Sequence[Waiting]]]) -> Iterator[None]:
        for table, some in waiting:
            left: list[Waiting] = []
            yield from self._kernel.settling(table, some, left)
            self.left += [(table, one) for one in left]
            yield
        yield from self._take_rows()

    def _put_left(self) -> Iterator[None]:
        later = {lane: lane.take_dirty() for lane in self._kernel.lanes.values()}  # changed by what came after the cut
        waiting, self.left = [(table, [one]) for table, one in self.left], []
        yield from self._go(waiting)
        for lane, rows in later.items():
            lane.dirty += rows

    def _take_rows(self) -> Iterator[None]:
        for lane in self._kernel.lanes.values():
            rows, dirty = self.rows.setdefault(lane, []), lane.take_dirty()
            for start in range(0, len(dirty), _STEP_ROWS):
                rows += [row.take() for row in dirty[start : start + _STEP_ROWS]]
                if len(dirty) > _STEP_ROWS:
                    yield
