"""One partition's parts, kept in memory while its records are folded in offset order.

Two passes over a batch: the first only reads (decode, take values out, find the parts), so that it can fail without a
trace; the second drops repeats and changes the parts, and cannot fail. What a record says whatever was before it is read once for
all who fold the batch, see ``readings``.
"""

from __future__ import annotations

import gc
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import count, filterfalse
from operator import attrgetter, itemgetter
from typing import Final

import msgspec

from tallyroll.errors import Undecodable
from tallyroll.events.batch import Batch
from tallyroll.events.codec import micros_of
from tallyroll.events.repeats import RepeatFilter
from tallyroll.events.rows import Rows
from tallyroll.replay.applied import Applied, Cut, Found
from tallyroll.replay.fields import INT_MAX, Of
from tallyroll.replay.fold import Fold, Part, Unfoldable
from tallyroll.replay.program import Program, Recall, Values
from tallyroll.replay.readings import UNFOLDABLE, Reading, Readings, TopicReader, read_old, unfoldable

Load = Callable[[int, Sequence[str]], Mapping[str, bytes]]
"""Stored parts by view number and owners; owners without one are left out. May raise StoreUnavailable."""

PartOf = tuple[int, str]
"""Which part: number of the view, and owner."""


@contextmanager
def no_collecting() -> Iterator[None]:
    """Folding makes thousands of short-lived tuples and no cycles; with the collector looking on it took half as long again."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


class PartitionFold:
    """Folds the batches of one partition; ``repeats`` and the parts together are its whole state.

    With ``view`` only the parts of that view are kept, with ``owner`` only that owner's: their states come out the same;
    ``aggregates`` then holds the keys of the aggregates whose events counted for the owner.
    Not promised: bounded memory; a caller with a store calls ``forget_old``.
    """

    def __init__(  # noqa: PLR0913  # one per thing that narrows the fold
        self,
        fold: Fold,
        topic: str,
        base: str,
        partition: int,
        *,
        view: int | None = None,
        owner: str | None = None,
        cut: Cut | None = None,
    ) -> None:
        self.topic = topic
        self.base = base
        self.partition = partition
        self.repeats = RepeatFilter()
        self.peak_us = 0
        self.dirty: list[Part] = []
        self.aggregates: set[str] = set()
        self._fold = fold
        self._programs = fold.programs(base, view)
        self._reader = TopicReader(fold, base, view)
        self._young: list[dict[str, Part]] = [{} for _ in fold.views]
        self._old: list[dict[str, Part]] = [{} for _ in fold.views]
        self._owner = owner
        self._aggregate = fold.views[view].owner if view is not None else ""
        self._needle = msgspec.json.encode(owner)[1:-1] if owner is not None else b""
        self._cut = cut
        self._awaited: dict[PartOf, Part] = {}
        self._left: list[Sequence[Reading]] = []
        self._ahead: dict[PartOf, int] = {}

    def apply(self, batch: Batch, load: Load | None = None) -> Applied:
        """Folds a batch; ``load`` gives the parts that are not in memory. What it raises leaves everything as it was.

        Without ``load`` nobody else folds the batch, and all that is not in memory begins here.
        """
        applied = Applied()
        with no_collecting():
            if load is None:
                self._fold_at_once(batch, applied)
                return applied
            readings = self._read(batch)
            missing = self._find(readings)
            try:
                if missing:
                    self._fill(missing, load)
            except BaseException:
                # A blank part in the cache would be taken for an owner without a past.
                for part in missing:
                    del self._young[part.view][part.owner]
                raise
            self._hit(self._counting(batch, readings, applied))
        return applied

    def take(self, batch: Batch) -> Applied:
        """Reads a batch as ``apply`` does and leaves the changes for ``settle``: for a store that must be awaited."""
        applied = Applied()
        with no_collecting():
            readings = self._read(batch)
            self._awaited.update({(part.view, part.owner): part for part in self._find(readings)})
            if counting := self._counting(batch, readings, applied):
                self._left.append(counting)
        return applied

    def awaited(self) -> list[PartOf]:
        """The parts that ``settle`` has to be told of, since they are not in memory."""
        return list(self._awaited)

    def settle(self, awaited: Iterable[PartOf], stored: Mapping[PartOf, tuple[int, bytes]], before: int) -> None:
        """Makes the changes that ``take`` has left, of records below ``before``, at which ``awaited`` was as it is given here.

        ``stored``: those of the awaited parts that there are, and up to which offset each goes.
        Records below that are in the part already and are passed over; it counts as changed all the same, so that
        whatever is made of it is made again.
        """
        for where, (end, dumped) in stored.items():
            self._fold.load(self._awaited[where], dumped)
            self._ahead[where] = end
        for where in awaited:
            del self._awaited[where]
        left, self._left = self._left, []
        last = -1
        with no_collecting():
            for readings in left:
                at = len(readings) if readings[-1][0] < before else bisect_left(readings, before, key=_OFFSET)
                if at < len(readings):
                    self._left.append(readings[at:])
                if at:
                    last = readings[at - 1][0]
                    self._hit([*map(self._behind, readings[:at])] if self._ahead else readings[:at])
        if last >= 0:
            self._ahead = {where: end for where, end in self._ahead.items() if end > last + 1}

    def apply_rows(self, rows: Rows, *, owned: bool = False) -> Applied:
        """Folds rows that were judged before; they come before the batches that follow them in the log.

        ``owned``: all of them are the owner's that the fold is narrowed to, so that nobody has to look.
        The indexes of what is found are those of the rows. ``repeats`` is left as it is: set it to what the archive kept
        before the first batch behind the rows comes.
        """
        applied = Applied()
        until_us = self._cut.until_us if self._cut is not None else INT_MAX
        young, narrow, recall, dirty = self._young, self._owner is not None, partial(self._recall, []), self.dirty
        programs = map(self._programs.get, rows.types)
        columns = zip(count(), programs, rows.offsets, rows.times_us, rows.versions, rows.subjects, rows.data)
        with no_collecting():
            for index, program, offset, time_us, version, of, data in columns:
                if time_us > until_us:
                    continue
                if program is None:
                    continue
                if narrow and not owned and not self._may_be_owned(of, data):
                    continue
                try:
                    if version == program.current_version:
                        counts = program.fold(data, of, time_us, offset, young, recall, dirty)
                    else:
                        counts = self._count_old(program, version, data, of, time_us, offset, recall)
                except UNFOLDABLE as error:
                    applied.found.append(_found(index, unfoldable(error)))
                    continue
                if counts:
                    applied.changed += 1
                    if narrow:
                        self.aggregates.add(f"{of.aggregatetype}:{of.aggregateid}")
        return applied

    def restore(self, view: int, owner: str, dumped: bytes) -> Part:
        """Puts a part that was kept elsewhere into memory; what is applied next goes on from there."""
        part = self._young[view][owner] = Part(view, owner, [])
        self._fold.load(part, dumped)
        return part

    def parts(self, view: int) -> Mapping[str, Part]:
        """The parts of a view that are in memory, by owner; those without events may be among them."""
        return {**self._old[view], **self._young[view]}

    def kept(self, view: int) -> dict[str, Part]:
        """The parts of a view themselves, by owner, to be added to; for a fold that never forgets."""
        return self._young[view]

    def cached(self) -> int:
        """How many parts are in memory."""
        return sum(len(parts) for parts in (*self._young, *self._old))

    def take_dirty(self) -> list[Part]:
        """The parts that changed since the last call."""
        taken, self.dirty = self.dirty, []
        for part in taken:
            part.dirty = False
        return taken

    def give_back(self, parts: Sequence[Part]) -> None:
        """Makes parts count as changed again, since they could not be stored."""
        for part in parts:
            if not part.dirty:
                part.dirty = True
                self.dirty.append(part)

    def forget_old(self) -> None:
        """Forgets the parts that were not used since the last call, except while changes wait to be stored."""
        if self.dirty or self._left:
            return
        self._old = self._young
        self._young = [{} for _ in self._young]

    def _fold_at_once(self, batch: Batch, applied: Applied) -> None:
        """Reads and changes record by record: no part has to be waited for, so nothing can fail but the records themselves."""
        heads, found, cut, narrow = batch.heads(), applied.found, self._cut, self._owner is not None
        copies = batch.copies(self.repeats)
        programs, young, recall, dirty = self._programs, self._young, partial(self._recall, []), self.dirty
        for index, head, offset in zip(count(), heads, batch.offsets):
            if isinstance(head, Undecodable):
                found.append(Found(index, "poison", head.reason, "Undecodable"))
                continue
            program = programs.get(head.type)
            if copies and index in copies:
                found.append(Found(index, copies[index]))
                continue
            if program is None or (narrow and not (wanted := self._may_be_owned(head, head.data)) and cut is None):
                continue
            try:
                time_us = micros_of(head.time)
                if cut is not None and ((time_us and not self._within_cut(cut, index, time_us, found)) or (narrow and not wanted)):
                    continue
                if head.schemaversion == program.current_version:
                    counts = program.fold(head.data, head, time_us, offset, young, recall, dirty)
                else:
                    counts = self._count_old(program, head.schemaversion, head.data, head, time_us, offset, recall)
            except UNFOLDABLE as error:
                found.append(_found(index, unfoldable(error)))
                continue
            if counts:
                applied.changed += 1
                if narrow:
                    self.aggregates.add(f"{head.aggregatetype}:{head.aggregateid}")

    def _read(self, batch: Batch) -> Readings:
        if self._owner is not None or self._cut is not None:
            raise ValueError("a fold that is narrowed to an owner or a time begins with nothing, and waits for no part")
        return batch.made(self._reader)

    def _find(self, readings: Readings) -> list[Part]:
        """Has all parts in memory that the readings concern; gives those that are blank and have to be filled."""
        missing: list[Part] = []
        for view, (owners, young) in enumerate(zip(readings.owners, self._young, strict=True)):
            for owner in [*filterfalse(young.__contains__, owners)]:
                self._recall(missing, view, owner)
        return missing

    def _counting(self, batch: Batch, readings: Readings, applied: Applied) -> Sequence[Reading]:
        """Those readings that count; notes what was found in others."""
        copies = batch.copies(self.repeats)
        applied.found += [Found(index, "poison", error.reason, "Undecodable") for index, error in batch.unreadable().items()]
        applied.changed = readings.records
        if not copies and not readings.refused:
            return readings.readings
        index_of = {offset: index for index, offset in enumerate(batch.offsets)}
        found = [Found(index, kind) for index, kind in copies.items()]
        found += [_found(index, why) for offset, why in readings.refused if (index := index_of[offset]) not in copies]
        applied.found += sorted(found, key=_INDEX)
        counting = [one for one in readings.readings if index_of[one[0]] not in copies]
        applied.changed = len({offset for offset, _, _ in counting})
        return counting

    def _count_old(  # noqa: PLR0913  # what a record says, in pieces, since heads and rows keep them differently
        self, program: Program, version: str, data: bytes | msgspec.Raw, of: Of, time_us: int, offset: int, recall: Recall
    ) -> bool:
        counts = False
        for values in read_old(program, version, data, of, time_us, self._fold, [{} for _ in self._young]):
            own = _without(program, values, lambda view, owner: not (self._young[view].get(owner) or recall(view, owner)))
            program.hit(own, offset, self._young, self.dirty)
            counts = counts or any(own[at] is not None for _, at in program.owners_at)
        return counts

    def _recall(self, missing: list[Part], view: int, owner: str) -> Part | None:
        if self._owner is not None and owner != self._owner:
            return None
        part = self._old[view].pop(owner, None)
        if part is None:
            part = self._fold.blank(view, owner)
            missing.append(part)
        self._young[view][owner] = part
        return part

    def _fill(self, missing: Sequence[Part], load: Load) -> None:
        for view in {part.view for part in missing}:
            blanks = {part.owner: part for part in missing if part.view == view}
            for owner, dumped in load(view, list(blanks)).items():
                self._fold.load(blanks[owner], dumped)

    def _hit(self, readings: Sequence[Reading]) -> None:
        """Changes the parts that records concern."""
        young, dirty = self._young, self.dirty
        for offset, program, values in readings:
            program.hit(values, offset, young, dirty)

    def _behind(self, reading: Reading) -> Reading:
        """The reading for those parts that do not have the record yet; the others are marked as changed."""
        offset, program, values = reading

        def has_it(view: int, owner: str) -> bool:
            ahead = offset < self._ahead.get((view, owner), 0)
            if ahead:
                self.give_back([self._young[view][owner]])
            return ahead

        return offset, program, _without(program, values, has_it)

    def _within_cut(self, cut: Cut, index: int, time_us: int, found: list[Found]) -> bool:
        """Whether the record counts; notes one that came later than the expected disorder allows."""
        if time_us > cut.until_us:
            self.peak_us = max(self.peak_us, time_us)
            return False
        if self.peak_us > cut.until_us + cut.skew_us:
            found.append(Found(index, "skew_exceeded"))
        return True

    def _may_be_owned(self, of: Of, raw: bytes | msgspec.Raw) -> bool:
        """False only if the record certainly is not the owner's; saves decoding payloads of others.

        A payload that holds no escape and not the owner's text cannot name the owner.
        """
        if self._aggregate == "aggregate":
            return f"{of.aggregatetype}:{of.aggregateid}" == self._owner
        if self._aggregate != "agent" or of.aggregatetype == "agent":
            return of.aggregatetype == self._aggregate and of.aggregateid == self._owner
        data = bytes(raw)
        return self._needle in data or b"\\" in data


_OFFSET: Final = itemgetter(0)
_INDEX: Final = attrgetter("index")


def _without(program: Program, values: Values, left_out: Callable[[int, str], bool]) -> Values:
    """The values without owners that are left out, by view and owner."""
    for view, at in program.owners_at:
        if values[at] is not None and left_out(view, values[at]):
            values = (*values[:at], None, *values[at + 1 :])
    return values


def _found(index: int, why: Unfoldable) -> Found:
    return Found(index, "unknown_schema" if why.reason == "unknown_schema" else "poison", why.reason, why.error)
