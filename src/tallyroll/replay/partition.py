"""One partition's parts, kept in memory while its records are folded in offset order.

Two passes over a batch: the first only reads (decode, take values out, find the parts), so that it can fail without a
trace; the second drops repeats and changes the parts, and cannot fail.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import count
from typing import Final

import msgspec

from tallyroll.errors import Undecodable
from tallyroll.events.batch import Batch
from tallyroll.events.codec import Head, micros_of, timestamp_us
from tallyroll.events.repeats import RepeatFilter
from tallyroll.events.rows import Rows
from tallyroll.replay.applied import Applied, Cut, Found
from tallyroll.replay.fields import INT_MAX, Of
from tallyroll.replay.fold import Fold, Part, Unfoldable, old_facts
from tallyroll.replay.program import Program, Recall, Target

Load = Callable[[int, Sequence[str]], Mapping[str, bytes]]
"""Stored parts by view number and owners; owners without one are left out. May raise StoreUnavailable."""

PartOf = tuple[int, str]
"""Which part: number of the view, and owner."""

_Entry = tuple[int, Head, int, Sequence[Target] | Unfoldable]
# A plain tuple of a record's index, head, time_us or 0, and targets, since there is one per record: a named one costs 0.2 µs more.


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
        self._young: list[dict[str, Part]] = [{} for _ in fold.views]
        self._old: list[dict[str, Part]] = [{} for _ in fold.views]
        self._owner = owner
        self._aggregate = fold.views[view].owner if view is not None else ""
        self._needle = msgspec.json.encode(owner)[1:-1] if owner is not None else b""
        self._cut = cut
        self._awaited: dict[PartOf, Part] = {}
        self._left: list[tuple[Sequence[Target], int]] = []
        self._ahead: dict[PartOf, int] = {}

    def apply(self, batch: Batch, load: Load | None = None) -> Applied:
        """Folds a batch; ``load`` gives the parts that are not in memory. What it raises leaves everything as it was."""
        applied = Applied()
        missing: list[Part] = []
        with no_collecting():
            if load is None:
                self._fold_at_once(batch, applied)
                return applied
            try:
                entries = self._read(batch, applied, missing)
                if missing:
                    self._fill(missing, load)
            except BaseException:
                # A blank part in the cache would be taken for an owner without a past.
                for part in missing:
                    del self._young[part.view][part.owner]
                raise
            self._change(batch.offsets, entries, applied, self._hit)
            del entries
        return applied

    def take(self, batch: Batch) -> Applied:
        """Reads a batch as ``apply`` does and leaves the changes for ``settle``: for a store that must be awaited."""
        applied = Applied()
        missing: list[Part] = []
        with no_collecting():
            try:
                entries = self._read(batch, applied, missing)
            except BaseException:
                for part in missing:
                    del self._young[part.view][part.owner]
                raise
            self._awaited.update({(part.view, part.owner): part for part in missing})
            self._change(batch.offsets, entries, applied, self._leave)
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
        left = [one for one in self._left if one[1] < before]
        self._left = self._left[len(left) :]
        with no_collecting():
            for targets, offset in left:
                self._hit(self._behind(targets, offset) if self._ahead else targets, offset)
        if left:
            self._ahead = {where: end for where, end in self._ahead.items() if end > left[-1][1] + 1}

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
                except _UNFOLDABLE as error:
                    applied.found.append(_found(index, _unfoldable(error)))
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

    def _fold_at_once(self, batch: Batch, applied: Applied) -> None:  # noqa: C901  # one loop over every record of a log
        """Reads and changes record by record: no part has to be waited for, so nothing can fail but the records themselves."""
        heads, found, cut, narrow = batch.heads(), applied.found, self._cut, self._owner is not None
        copies = self.repeats.copies(*batch.readable())
        if copies:
            readable = [index for index, head in enumerate(heads) if not isinstance(head, Undecodable)]
            copies = {readable[at]: kind for at, kind in copies.items()}
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
            except _UNFOLDABLE as error:
                found.append(_found(index, _unfoldable(error)))
                continue
            if counts:
                applied.changed += 1
                if narrow:
                    self.aggregates.add(f"{head.aggregatetype}:{head.aggregateid}")

    def _read(self, batch: Batch, applied: Applied, missing: list[Part]) -> list[_Entry]:
        entries: list[_Entry] = []
        programs, young, cut, owner = self._programs, self._young, self._cut, self._owner
        recall = partial(self._recall, missing)
        targets: Sequence[Target] | Unfoldable
        for index, head in enumerate(batch.heads()):
            if isinstance(head, Undecodable):
                applied.found.append(Found(index, "poison", head.reason, "Undecodable"))
                continue
            targets = ()
            time_us = 0
            program = programs.get(head.type)
            if program is not None:
                wanted = owner is None or self._may_be_owned(head, head.data)
                try:
                    if wanted or cut is not None:
                        time_us = timestamp_us(head)
                    if wanted:
                        if head.schemaversion == program.current_version:
                            targets = program.aim(program.decode(head.data), head, time_us, young, recall)
                        else:
                            targets = self._aim_old(program, head.schemaversion, head.data, head, time_us, recall)
                        if targets and owner is not None:
                            self.aggregates.add(f"{head.aggregatetype}:{head.aggregateid}")
                except _UNFOLDABLE as error:
                    targets = _unfoldable(error)
            entries.append((index, head, time_us, targets))
        return entries

    def _aim_old(  # noqa: PLR0913  # what a record says, in pieces, since heads and rows keep them differently
        self, program: Program, version: str, data: bytes | msgspec.Raw, of: Of, time_us: int, recall: Recall
    ) -> list[Target]:
        many = old_facts(program, program.event_type, version, data, self._fold.schemas)
        return [target for facts in many for target in program.aim(facts, of, time_us, self._young, recall)]

    def _count_old(  # noqa: PLR0913  # as above
        self, program: Program, version: str, data: bytes | msgspec.Raw, of: Of, time_us: int, offset: int, recall: Recall
    ) -> bool:
        targets = self._aim_old(program, version, data, of, time_us, recall)
        self._hit(targets, offset)
        return bool(targets)

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

    def _change(
        self, offsets: Sequence[int], entries: Sequence[_Entry], applied: Applied, hit: Callable[[Sequence[Target], int], None]
    ) -> None:
        read = offsets if len(entries) == len(offsets) else [offsets[index] for index, _, _, _ in entries]
        copies = self.repeats.copies([head for _, head, _, _ in entries], read)
        cut, found = self._cut, applied.found
        for place, (index, _, time_us, targets) in enumerate(entries):
            if copies and place in copies:
                found.append(Found(index, copies[place]))
                continue
            if cut is not None and time_us and not self._within_cut(cut, index, time_us, found):
                continue
            if not targets:
                continue
            if isinstance(targets, Unfoldable):
                found.append(_found(index, targets))
                continue
            hit(targets, offsets[index])
            applied.changed += 1

    def _leave(self, targets: Sequence[Target], offset: int) -> None:
        self._left.append((targets, offset))

    def _behind(self, targets: Sequence[Target], offset: int) -> list[Target]:
        """Those targets whose part does not have the record yet; the others are marked as changed."""
        behind = []
        for target in targets:
            if offset >= self._ahead.get((target[0].view, target[0].owner), 0):
                behind.append(target)
            else:
                self.give_back([target[0]])
        return behind

    def _hit(self, targets: Sequence[Target], offset: int) -> None:
        """Changes the parts that a record concerns."""
        for part, apply, values in targets:
            apply(part, values, offset)
            if not part.dirty:
                part.dirty = True
                self.dirty.append(part)

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


_UNFOLDABLE: Final = (Unfoldable, Undecodable, msgspec.MsgspecError, ValueError, RecursionError)


def _unfoldable(error: Exception) -> Unfoldable:
    if isinstance(error, Unfoldable):
        return error
    return Unfoldable(error.reason if isinstance(error, Undecodable) else "bad_payload", type(error).__name__)


def _found(index: int, why: Unfoldable) -> Found:
    return Found(index, "unknown_schema" if why.reason == "unknown_schema" else "poison", why.reason, why.error)
