"""The metrics that share cells, and their values on the way there: as columns that wait until somebody wants their panes. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tallyroll.analytics.admitted_keys import DAY_US, NO_KEY, KeyNames
from tallyroll.analytics.cells import Part, Waiting
from tallyroll.analytics.coded import translated
from tallyroll.analytics.columns import Columns, dimension_paths
from tallyroll.analytics.lateness import Bools, Judged
from tallyroll.analytics.measuring import Measured
from tallyroll.analytics.windows import QUARTER_S
from tallyroll.ports import PaneAt

_FLEET_CODE: Final = 1


class Table:
    """The metrics that share cells: one dimension, one pane length, one cap of keys; and their values that wait.

    ``waiting``: for their panes. ``behind``: for panes that have to be read from the store first. ``quarters`` takes the
    values whose panes have been gathered into quarter hours; it knows keys by the same numbers.
    """

    def __init__(self, dimension: str, pane_s: int, max_keys: int, metrics: Sequence[int], names: KeyNames | None = None) -> None:
        self.dimension = dimension
        self.pane_s = pane_s
        self.max_keys = max_keys
        self.metrics = metrics
        self.paths = dimension_paths(dimension)
        self.waiting: list[Waiting] = []
        self.behind: list[Waiting] = []
        if names is None:
            names = KeyNames()
            if not self.paths:
                names.names.append("")
        self.names = names
        self.quarters = Table(dimension, QUARTER_S, max_keys, metrics, names) if pane_s < QUARTER_S else self

    @property
    def name(self) -> str:
        """Tells it from the others, also after a restart."""
        return f"{self.dimension}/{self.pane_s}/{self.max_keys}"

    def at(self, key: int, pane: int) -> PaneAt:
        """Where a cell is stored."""
        return PaneAt(self.dimension, self.names.names[key], self.pane_s, pane * self.pane_s)

    def both(self) -> Iterator[Table]:
        """Itself and the one of quarter hours."""
        yield self
        if self.quarters is not self:
            yield self.quarters

    def take(self) -> list[Waiting]:
        """Everything that waits."""
        taken, self.waiting, self.behind = [*self.behind, *self.waiting], [], []
        return taken

    def forget(self, lane: int) -> None:
        """Drops what waits of a lane."""
        self.waiting, self.behind = (
            [left for one in some if len((left := one.only(one.lane != lane)).lane)] for some in (self.waiting, self.behind)
        )


class Came(NamedTuple):
    """The values of a table's metrics of one run as they wait, and which row of the run each of their rows is."""

    rows: NDArray[np.int32]
    waiting: Waiting


def wait(
    table: Table, place: int, columns: Columns, lane_of: NDArray[np.int32], measured: Mapping[int, tuple[Measured, Judged]]
) -> Came | None:
    """The values of a table's metrics; None if there are none. ``place``: of its admitted keys in a lane."""
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
    at_row, is_all = np.full(len(columns), -1, np.int32), len(rows) == len(columns)
    at_row[rows] = np.arange(len(rows), dtype=np.int32)
    parts, late = {}, np.zeros(len(rows), np.bool_)
    for number, values, verdict in own:
        at = values.rows if is_all else at_row[values.rows]
        part = Part(at, values.values, values.places)
        if not is_all and (at < 0).any():
            part = part.only(at >= 0)
        parts[number] = part
        if verdict.late is not None:
            late[part.at] |= verdict.late[rows[part.at]]
    return Came(rows, Waiting(lane_of[rows], keys, columns.times_us[rows] // (table.pane_s * 1_000_000), late, parts))


def gather_old(table: Table, came: Came, gathered: Bools | None) -> Came | None:
    """Lets those values wait that belong into quarter hours; gives the others, None if that is all."""
    if gathered is None:
        return came
    old = gathered[came.rows]
    if old.any():
        some = came.waiting.only(old)
        table.quarters.waiting.append(some._replace(pane=some.pane * table.pane_s // QUARTER_S))
        came = Came(came.rows[~old], came.waiting.only(~old))
    return came if len(came.rows) else None


def _places(table: Table, place: int, columns: Columns, rows: NDArray[np.int32]) -> NDArray[np.int32]:
    """Under which key each row is counted."""
    if not table.paths:
        return np.full(len(rows), _FLEET_CODE, np.int32)
    keys = columns.keys(table.paths, rows)
    codes = translated(keys.at, keys.names, table.names.code, NO_KEY)
    watermarks_us = columns.watermarks_us[rows]
    row_of = columns.of_each([lane.admitted[place].row for lane in columns.lanes])[rows]
    if table.names.are_seen(row_of, codes, watermarks_us // DAY_US):
        return codes
    ends = np.searchsorted(rows, columns.bounds).tolist()
    found = [
        lane.admitted[place].places(keys.names, keys.at[start:stop], codes[start:stop], watermarks_us[start:stop])
        for lane, start, stop in zip(columns.lanes, ends[:-1], ends[1:], strict=True)
        if start < stop
    ]
    return found[0] if len(found) == 1 else np.concatenate(found)
