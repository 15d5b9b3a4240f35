"""The columnar twin of the row fold: brings the parts of one partition forward by a segment of columns at a time.

Each kind of field has a twin that changes the slots of all owners at once; a kind without one goes through its own
``step()``, over just the rows that concern it. Both give exactly what ``PartitionFold.apply_rows`` gives, which is what
the tests hold them to. Only this module and ``replay.owned_rows`` import numpy (extra ``archive``). Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import repeat
from typing import Any, Final, NamedTuple

import numpy as np

from tallyroll.events.rows import Columns, IntColumn, Rows, TextColumn
from tallyroll.replay.by_name import MAX_NAMES, CountBy
from tallyroll.replay.fields import (
    COUNT,
    INT_MAX,
    LAST,
    SUM,
    Change,
    Count,
    Field,
    First,
    Last,
    Max,
    Min,
    Slots,
    Sum,
    Update,
)
from tallyroll.replay.fold import Fold, Part
from tallyroll.replay.open_set import CLOSED_ELSEWHERE, CLOSED_HERE, MAX_OPEN, OpenSet
from tallyroll.replay.owned_rows import Index, OwnedRows, Source, by_owner, is_text, is_whole, runs_of
from tallyroll.replay.partition import no_collecting
from tallyroll.replay.projection import Projection, needs_column


def project(fold: Fold, base: str, rows: Rows) -> Columns | None:
    """The rows as columns, for the views that read a topic (base name). None if a row cannot be kept so; fold the rows then."""
    projection = Projection(fold, base)
    taken = []
    for one in zip(rows.types, rows.versions, rows.data, rows.subjects, rows.times_us, strict=True):
        values = projection.take(*one)
        if values is None:
            return None
        taken.append(values)
    agents, *columns = zip(*taken, strict=True)
    try:
        kept = {
            name: _int_column(column) if whole else _text_column(column)
            for (name, whole), column in zip(projection.columns.items(), columns, strict=True)
        }
    except OverflowError:
        return None
    return Columns(
        rows.topic,
        rows.partition,
        np.array(rows.offsets, np.int64),
        np.array(rows.times_us, np.int64),
        _text_column(rows.types),
        _text_column(agents),
        _text_column([subject.key for subject in rows.subjects]),
        kept,
    )


def _int_column(values: Sequence[int | None]) -> IntColumn:
    return IntColumn(np.array([value or 0 for value in values], np.int64), np.array([value is not None for value in values]))


def _text_column(values: Sequence[str | None]) -> TextColumn:
    words: dict[str, int] = {}
    codes = [-1 if value is None else words.setdefault(value, len(words)) for value in values]
    return TextColumn(np.array(codes, np.int32), list(words))


class Plan(NamedTuple):
    """What a field takes out of events, and how each type changes it; only the types that change it at all."""

    field: Field
    sources: tuple[Source, ...]
    updates: Mapping[int, Update]

    @property
    def types(self) -> tuple[int, ...]:
        """The types that change the field."""
        return tuple(self.updates)


Twin = Callable[["Plan", OwnedRows, Slots], None]
"""Changes the slots of one field, one per owner of the segment, as the field's own changes would, row by row."""


class ColumnarFold:
    """Folds columns for one view. Made once, used for every segment of every partition of the topics that the view reads.

    ``columns`` names the values that it needs. ``twins`` says which kinds of fields are folded as a whole (None: the built-in
    ones); any other kind, also a subclass of one, goes row by row.
    Not promised: to notice columns of another projection; compare ``Projection.id``.
    """

    def __init__(self, fold: Fold, view: str, *, twins: Mapping[type[Field], Twin] | None = None) -> None:
        self._fold = fold
        self._number = fold.index(view)
        self._view = fold.views[self._number]
        self._blank = fold.blank(self._number, "").slots
        self._plans = [_plan(field, self._view.types) for field in self._view.fields.values()]
        self.columns = {source.value.column for plan in self._plans for source in plan.sources if needs_column(source.value)}
        self._twins = [(TWINS if twins is None else twins).get(type(plan.field), step_rows) for plan in self._plans]

    def apply(self, columns: Columns, parts: dict[str, Part], *, until_us: int | None = None) -> int:
        """Brings the parts of a partition (by owner; new ones are added) forward by the columns that follow. How many events counted.

        ``until_us``: event time at which the fold stops counting, inclusive. ``Part.dirty`` is left as it is. Raises
        ValueError, before anything is changed, for columns that lack a value of the view.
        """
        if missing := self.columns - columns.values.keys():
            raise ValueError(f"the columns lack {', '.join(sorted(missing))}: they are of another projection")
        with no_collecting():
            return self._apply(columns, parts, until_us)

    def _apply(self, columns: Columns, parts: dict[str, Part], until_us: int | None) -> int:
        owners, prefix = self._owners(columns)
        types = _numbers(columns.types, {name: number for number, name in enumerate(self._view.types)})
        wanted = (types >= 0) & (owners.codes >= 0)
        if until_us is not None:
            wanted &= columns.times_us <= until_us
        rows = np.flatnonzero(wanted)
        if not len(rows):
            return 0
        rows = by_owner(rows, owners.codes, columns.offsets)
        runs = runs_of(owners.codes[rows])
        lengths = runs.lasts - runs.firsts + 1
        names = [owners.words[code][prefix:] for code in runs.numbers]
        # New parts share one blank list until they get their own slots below; only containers have to be made for each.
        touched = [parts.get(owner) or Part(self._number, owner, self._blank) for owner in names]
        high_us = np.array([part.order_us for part in touched], np.int64)
        owned = OwnedRows(columns, rows, np.repeat(np.arange(len(touched)), lengths), types[rows], high_us)
        slots = [list(column) for column in zip(*(part.slots for part in touched), strict=True)]
        for plan, twin, column, blank in zip(self._plans, self._twins, slots, self._blank, strict=True):
            if isinstance(blank, dict | list):
                column[:] = [plan.field.start() if slot is blank else slot for slot in column]
            if plan.updates:
                twin(plan, owned, column)
        new_slots: Iterator[tuple[Any, ...]] = zip(*slots, strict=True) if slots else repeat((), len(touched))
        for part, row, length, order_us in zip(touched, new_slots, lengths.tolist(), owned.order_us[runs.lasts].tolist(), strict=True):
            part.slots = [*row]
            part.version += length
            part.order_us = order_us
        parts.update(zip(names, touched, strict=True))
        return len(rows)

    def _owners(self, columns: Columns) -> tuple[TextColumn, int]:
        """Whose part each row changes, and how many characters of each word stand before the owner."""
        rule = self._view.owner
        if rule == "agent":
            return columns.agents, 0
        if rule == "aggregate":
            return columns.aggregates, 0
        codes, words = columns.aggregates
        prefix = f"{rule}:"
        mine = np.fromiter((word.startswith(prefix) for word in words), np.bool_, len(words))
        return TextColumn(np.where(np.append(mine, False)[codes], codes, -1), words), len(prefix)


def _numbers(column: TextColumn, known: Mapping[str, int]) -> Index:
    """Per row the number of its word, -1 for none and for words that are not known."""
    return np.array([*(known.get(word, -1) for word in column.words), -1])[column.codes]  # code -1 is the last entry


def _plan(field: Field, types: Sequence[str]) -> Plan:
    steps = {number: step for number, name in enumerate(types) if (step := field.step(name)) is not None}
    by_value: dict[str, list[int]] = {}
    for number, (value, _) in steps.items():
        by_value.setdefault(value.name, []).append(number)
    sources = tuple(Source(steps[numbers[0]][0], tuple(numbers)) for numbers in by_value.values())
    return Plan(field, sources, {number: _update(change) for number, (_, change) in steps.items()})


def _update(change: Change) -> Update:
    return _NAMED[change] if isinstance(change, str) else change


def _count(slots: Slots, index: int, _value: Any, _order_us: int, _offset: int) -> None:  # noqa: ANN401  # Update
    slots[index] += 1


def _add(slots: Slots, index: int, value: Any, _order_us: int, _offset: int) -> None:  # noqa: ANN401  # Update
    if value:
        slots[index] += value


def _keep(slots: Slots, index: int, value: Any, order_us: int, offset: int) -> None:  # noqa: ANN401  # Update
    if value is not None:
        slots[index] = (order_us, offset, value)


_NAMED: Final[Mapping[str, Update]] = {COUNT: _count, SUM: _add, LAST: _keep}
"""The changes that compiled programs know by name."""


def step_rows(plan: Plan, owned: OwnedRows, slots: Slots, rows: Index | None = None) -> None:
    """The twin of every kind that has no other: the field's own changes, one row after the other."""
    rows = owned.of(plan.types) if rows is None else rows
    for number, owner, value, order_us, offset in zip(
        owned.types[rows].tolist(),
        owned.owners[rows].tolist(),
        owned.values(plan.sources, rows),
        owned.order_us[rows].tolist(),
        owned.offsets[rows].tolist(),
        strict=True,
    ):
        plan.updates[number](slots, owner, value, order_us, offset)


def count_rows(plan: Plan, owned: OwnedRows, slots: Slots) -> None:
    """The twin of Count."""
    counts = np.bincount(owned.owners[owned.of(plan.types)])
    owners = np.flatnonzero(counts)
    for owner, count in zip(owners.tolist(), counts[owners].tolist(), strict=True):
        slots[owner] += count


def add_numbers(plan: Plan, owned: OwnedRows, slots: Slots) -> None:
    """The twin of Sum. What might leave 64 bits on the way is added row by row, in integers that do not wrap."""
    value = plan.sources[0].value
    if not is_whole(value):
        step_rows(plan, owned, slots)
        return
    rows = owned.present(plan.sources)
    if not len(rows):
        return
    numbers, runs = owned.numbers(value, rows), runs_of(owned.owners[rows])
    if max(int(numbers.max()), -int(numbers.min())) * (int((runs.lasts - runs.firsts).max()) + 1) > INT_MAX:
        step_rows(plan, owned, slots)
        return
    for owner, total in zip(runs.numbers, np.add.reduceat(numbers, runs.firsts).tolist(), strict=True):
        slots[owner] += total


def keep_extreme(plan: Plan, owned: OwnedRows, slots: Slots) -> None:
    """The twin of Min and Max."""
    value = plan.sources[0].value
    if not is_whole(value):
        step_rows(plan, owned, slots)
        return
    rows = owned.present(plan.sources)
    if not len(rows):
        return
    runs = runs_of(owned.owners[rows])
    choose = np.maximum if isinstance(plan.field, Max) else np.minimum
    for owner, extreme in zip(runs.numbers, choose.reduceat(owned.numbers(value, rows), runs.firsts).tolist(), strict=True):
        slots[owner] = plan.field.join(slots[owner], extreme)


def keep_last(plan: Plan, owned: OwnedRows, slots: Slots) -> None:
    """The twin of Last."""
    rows = owned.present(plan.sources)
    runs = runs_of(owned.owners[rows])
    for owner, mark in zip(runs.numbers, owned.marks(plan.sources, rows[runs.lasts]), strict=True):
        slots[owner] = mark


def keep_first(plan: Plan, owned: OwnedRows, slots: Slots) -> None:
    """The twin of First."""
    rows = owned.present(plan.sources)
    runs = runs_of(owned.owners[rows])
    for owner, mark in zip(runs.numbers, owned.marks(plan.sources, rows[runs.firsts]), strict=True):
        if slots[owner] is None:
            slots[owner] = mark


def count_names(plan: Plan, owned: OwnedRows, slots: Slots) -> None:
    """The twin of CountBy. Owners that may come to the bound of names go row by row: which names are told apart depends on the order."""
    value = plan.sources[0].value
    if not is_text(value):
        step_rows(plan, owned, slots)
        return
    rows = owned.present(plan.sources)
    codes, words = owned.names(value, rows)
    size = len(words) + 1  # not 0
    pairs, counts = np.unique(owned.owners[rows] * size + codes, return_counts=True)
    owners, names = np.divmod(pairs, size)
    runs = runs_of(owners)
    crowded = {
        owner
        for owner, more in zip(runs.numbers, (runs.lasts - runs.firsts + 1).tolist(), strict=True)
        if len(slots[owner]) + more > MAX_NAMES
    }
    for owner, code, count in zip(owners.tolist(), names.tolist(), counts.tolist(), strict=True):
        if owner not in crowded:
            slot, name = slots[owner], words[code]
            slot[name] = slot.get(name, 0) + count
    if crowded:
        step_rows(plan, owned, slots, rows[np.isin(owned.owners[rows], list(crowded))])


def hold_open(plan: Plan, owned: OwnedRows, slots: Slots) -> None:
    """The twin of OpenSet: row by row, since what is forgotten depends on the order, but without a call for each."""
    value, field = plan.sources[0].value, plan.field
    assert isinstance(field, OpenSet)  # noqa: S101  # looked up by it
    if not is_text(value):
        step_rows(plan, owned, slots)
        return
    rows = owned.present(plan.sources)
    codes, words = owned.names(value, rows)
    opening = np.isin(owned.types[rows], [number for number, update in plan.updates.items() if update is field.open])
    marks = zip(owned.order_us[rows].tolist(), owned.offsets[rows].tolist(), strict=True)
    names = map(words.__getitem__, codes.tolist())
    for owner in np.unique(owned.owners[rows]).tolist():
        field.read(slots, owner)
    for owner, name, opens, mark in zip(owned.owners[rows].tolist(), names, opening.tolist(), marks, strict=True):
        opened, here, elsewhere = slots[owner]
        # As OpenSet does; looking before it is taken out costs half of what ``pop`` does.
        if opens:
            if name in here:
                del here[name]
            if name in elsewhere:
                del elsewhere[name]
            ids, most = opened, MAX_OPEN
        elif name in opened:
            del opened[name]
            ids, most = here, CLOSED_HERE
        else:
            ids, most = (here, CLOSED_HERE) if name in here else (elsewhere, CLOSED_ELSEWHERE)
        if name in ids:
            del ids[name]
        ids[name] = mark
        if len(ids) > most:
            del ids[next(iter(ids))]


TWINS: Final[Mapping[type[Field], Twin]] = {
    Count: count_rows,
    Sum: add_numbers,
    Min: keep_extreme,
    Max: keep_extreme,
    Last: keep_last,
    First: keep_first,
    CountBy: count_names,
    OpenSet: hold_open,
}
"""Which kinds are folded as a whole. A subclass may change events in another way: it is not looked up by its bases."""
