"""What every index of an archive must do: the behaviour of ``ports.ArchiveIndexes``, as cases that any adapter can run.

::

    def test_my_indexes():
        for case in INDEX_CASES:
            case(open_my_indexes)

``open_my_indexes`` gives one more client of the same indexes, as other processes would be; at first there are none, so each
case needs a new place. A case raises AssertionError with the promise that was broken, and closes what it opened. The ports
block, and so do the cases. Those for files and format are in ``archive_contract``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from tallyroll.errors import PositionConflict, StoreUnavailable
from tallyroll.events.position import TopicPartition
from tallyroll.ports import (
    Append,
    ArchivedFinding,
    ArchiveIndex,
    ArchiveIndexes,
    ArchiveMark,
    Judged,
    Pruned,
    Run,
    Sealed,
    Segment,
    Span,
    StoredPart,
    Tail,
    TailColumns,
)
from tallyroll.testing.contract import COMES_S, expect, expect_equal

__all__ = ["INDEX_CASES", "IndexCase", "OpenIndexes"]

OpenIndexes = Callable[[], ArchiveIndexes]
"""Gives one more client of the indexes under test."""

IndexCase = Callable[[OpenIndexes], None]

_ONE: Final = TopicPartition("contract.one", 0)
_TWO: Final = TopicPartition("contract.two", 7)
_ALL: Final = 10**12
_MANY: Final = 3_000  # above the number of parameters that some databases allow


@contextmanager
def _index(opener: OpenIndexes, partition: TopicPartition = _ONE) -> Iterator[ArchiveIndex]:
    index = opener().open(partition, create=True)
    assert index is not None  # noqa: S101  # so the port says
    try:
        yield index
    finally:
        index.close()


def _record(offset: int, agent: str | None = "a", aggregate: str | None = "task:t", **more: Any) -> Judged:  # noqa: ANN401  # fields of it
    """A first copy; its event time is ten times its offset."""
    made = Judged(offset, offset + 1_000, b"key", b"value-%d" % offset, None, offset * 10, agent, aggregate, "first", "")
    return made._replace(**more)


def _append(index: ArchiveIndex, start: int, end: int, *, first: bool = False, **more: Any) -> list[Judged]:  # noqa: ANN401  # fields of it
    records = [_record(offset, f"a-{offset % 2}", f"task:t-{offset % 3}") for offset in range(start, end)]
    index.append(Append(None if first else start, start, end, b"repeats-%d" % end, records, 7_000 + start)._replace(**more))
    return records


def _segment(base: int, following: int, **more: Any) -> Segment:  # noqa: ANN401  # fields of it
    told: dict[str, Any] = {"first_us": base * 10, "last_us": following * 10 - 10, "reducers": ("r",), **more}
    name = told.pop("name", f"{base:020d}-{following:020d}.parquet")
    rest = {"records": following - base, "raw_bytes": 100, "file_bytes": 50, "previous": f"d-{base}", "digest": f"d-{following}"}
    return Segment(name, base, following, **{**rest, "projection": "p", **told})


def _part(owner: str, end: int, **more: Any) -> StoredPart:  # noqa: ANN401  # fields of it
    return StoredPart("task", owner, _ONE, "r", end, end * 10, 1, b"part-%d" % end, b"sum")._replace(**more)


def _sealed(base: int, following: int, **more: Any) -> Sealed:  # noqa: ANN401  # fields of it
    runs = [Run("@a-0", 0, 2, base, base + 2, base * 10, base * 10 + 20), Run(f"task:only-{base}", 2, 1, base + 1, base + 1, None, None)]
    findings = [ArchivedFinding("gap", base, "why", "task:t", 2)]
    made = Sealed(_segment(base, following), runs, [_part("t", following)], findings, b"checks-%d" % following)
    return made._replace(**more)


def _columns(tail: TailColumns | None) -> list[Any]:
    return [] if tail is None else [*map(list, tail[:-1]), dict(tail.odd)]


def _pruned(kept: int, **more: Any) -> Pruned:  # noqa: ANN401  # fields of it
    made = Pruned(
        f"{kept}.anchor", 0, kept, kept * 10 - 10, f"d-{kept}", [], b"repeats", b"checks", ["r"],
        [_part("t", kept), _part("old", kept)],
    )  # fmt: skip
    return made._replace(**more)


def _three_segments(index: ArchiveIndex) -> None:
    """Offsets 0 to 30 in segments of ten, and five more in the tail."""
    for base in (0, 10, 20):
        _append(index, base, base + 10, first=base == 0)
        index.seal(_sealed(base, base + 10), lambda: True)
    _append(index, 30, 35)


def _refused(work: Callable[[], None], what: str) -> None:
    try:
        work()
    except PositionConflict:
        return
    raise AssertionError(f"{what} raises PositionConflict")


def a_partition_that_was_never_archived_has_nothing(opener: OpenIndexes) -> None:
    """There is no index until one is made; a new one is empty."""
    expect_equal(opener().open(_ONE, create=False), None, "an index that nobody made")
    with _index(opener) as index:
        expect_equal((index.mark(), index.checks(), index.tail()), (None, b"", Tail(0, 0, None)), "mark, checks and tail")
        expect_equal((list(index.segments()), index.find(0, _ALL, 10)), ([], (None, [], 0)), "what there is")
        expect_equal(index.owned("@a", 0, _ALL), ([], [], 0), "an owner's")
        expect_equal((list(index.findings(0, _ALL)), set(index.owners(["@a"], _ALL))), ([], set()), "findings and owners")
        expect_equal(list(index.parts("task", "r", end=_ALL, order_us=None, owners=None)), [], "snapshots")
        index.sweep(lambda names: expect_equal(names, frozenset(), "names of files"))
        other = opener().open(_ONE, create=False)
        expect(other is not None, "who was made is there for others")
        if other is not None:
            other.close()


def what_is_appended_is_the_tail(opener: OpenIndexes) -> None:
    """Records as they were given, in offset order, and how far they go; found by span and by owner."""
    odd = [
        _record(3, None, None, key=None, value=None, headers=b"\x00", time_us=None, verdict="poison", reason="empty"),
        _record(5, "ü 漢 🙂", "task:'; --", key=b"", value=b"", timestamp_ms=-1),
        _record(9, verdict="repeat", time_us=10_000),
    ]
    with _index(opener) as index:
        index.append(Append(None, 3, 12, b"repeats", odd, 77))
        expect_equal(index.mark(), ArchiveMark(3, 3, 12, b"repeats", last_us=50), "the mark")
        expect_equal(index.tail(), Tail(3, 10, 77), "the tail")
        expect_equal(list(index.find(0, _ALL, 10).records), odd, "all of it")
        expect_equal((list(index.find(4, 9, 10).records), list(index.find(0, _ALL, 2).records)), (odd[1:2], odd[:2]), "a span, and a few")
        for start, end, limit, some in ((0, _ALL, 10, odd), (4, 9, 10, odd[1:2]), (0, _ALL, 2, odd[:2])):
            expect_equal(_columns(index.scan(start, end, limit).tail), _columns(TailColumns.of(some)), "the same as columns")
        expect_equal(index.scan(10, _ALL, 10), (None, None, 0), "nothing as columns")
        for key in ("@ü 漢 🙂", "task:'; --"):
            expect_equal(list(index.owned(key, 0, _ALL).records), odd[1:2], f"first copies of {key}")
        expect_equal(list(index.owned("@a", 0, _ALL).records), [], "a copy is nobody's")
        index.append(Append(12, 0, 13, b"", [], 99))
        expect_equal((index.mark(), index.tail()), (ArchiveMark(3, 3, 13, b"", last_us=50), Tail(3, 10, 77)), "after an empty append")


def an_append_that_does_not_build_on_what_is_stored_is_refused(opener: OpenIndexes) -> None:
    """And changes nothing; the conflict says what is stored. Of two writers one goes on."""
    with _index(opener) as one, _index(opener) as two:
        _refused(lambda: one.append(Append(5, 5, 6, b"", [_record(5)], 0)), "going on from nothing")
        expect_equal(one.mark(), None, "the mark afterwards")
        _append(one, 0, 10, first=True)
        _refused(lambda: two.append(Append(None, 0, 4, b"", [_record(0)], 0)), "beginning a second time")
        _refused(lambda: two.append(Append(9, 0, 12, b"", [_record(11)], 0)), "going on from before the end")
        _append(two, 10, 12)
        _refused(lambda: one.append(Append(10, 0, 11, b"", [_record(10)], 0)), "going on from where the other one was")
        mark = one.mark()
        expect_equal((mark.next if mark else None, mark.repeats if mark else None), (12, b"repeats-12"), "what both see")
        expect_equal(one.tail().records, 12, "records")


def a_seal_takes_records_out_of_the_tail(opener: OpenIndexes) -> None:
    """All that comes with a segment is there at once, and what was appended meanwhile stays in the tail."""
    with _index(opener) as index:
        records = _append(index, 0, 12, first=True)
        index.seal(_sealed(0, 10, since_us=9_000), lambda: True)
        mark, tail = index.mark(), index.tail()
        expect_equal((mark.sealed if mark else 0, mark.next if mark else 0), (10, 12), "how far it is sealed, and goes")
        expect_equal((tail.records, tail.raw_bytes), (2, sum(len(one.value or b"") + 3 for one in records[10:])), "the tail")
        expect_equal(tail.since_us, 9_000, "since when what is left can have been waiting")
        expect_equal((list(index.segments()), index.checks()), ([_segment(0, 10)], b"checks-10"), "manifest and checks")
        expect_equal(
            (index.find(4, _ALL, 10).segment, index.scan(4, _ALL, 10)), (_segment(0, 10), (_segment(0, 10), None, 0)), "a sealed one's"
        )
        expect_equal(list(index.find(10, _ALL, 10).records), records[10:], "where another one is")
        expect_equal(list(index.findings(0, _ALL)), [ArchivedFinding("gap", 0, "why", "task:t", 2)], "findings")
        index.seal(_sealed(10, 12), lambda: True)
        expect_equal(index.tail(), Tail(0, 0, None), "the tail when all is sealed")
        _append(index, 12, 13)
        expect_equal(index.tail().since_us, 7_012, "since when the tail waits now")


def a_seal_that_does_not_follow_is_refused(opener: OpenIndexes) -> None:
    """Nor does one count whose file is gone; nothing of it is there."""
    with _index(opener) as index:
        records = _append(index, 0, 12, first=True)
        _refused(lambda: index.seal(_sealed(5, 10), lambda: True), "a seal that leaves records out")
        _refused(lambda: index.seal(_sealed(0, 13), lambda: True), "a seal of what is not there")
        _refused(lambda: index.seal(_sealed(0, 10), lambda: False), "a seal whose file is gone")
        _refused(lambda: index.seal(_sealed(0, 10, kept=4), lambda: True), "a seal that thinks of another start")
        expect_equal((list(index.segments()), index.checks(), list(index.findings(0, _ALL))), ([], b"", []), "what is there")
        expect_equal(list(index.find(0, _ALL, 100).records), records, "the tail")
        index.seal(_sealed(0, 10), lambda: True)
        _refused(lambda: index.seal(_sealed(0, 10), lambda: True), "the same seal again")


def nobody_seals_while_files_are_swept(opener: OpenIndexes, *, watched_s: float = 0.1) -> None:
    """The names are those of the manifest, and of what stands for pruned segments; seals wait.

    ``watched_s``: how long the seal is watched while it must wait.
    """
    with _index(opener) as index, _index(opener) as other:
        _three_segments(index)
        index.prune(_pruned(10), lambda: True)
        asked = threading.Event()

        def is_whole() -> bool:
            asked.set()
            return True

        sealing = threading.Thread(target=lambda: other.seal(_sealed(30, 35, kept=10), is_whole))

        def look(names: frozenset[str]) -> None:
            expect_equal(names, frozenset({"10.anchor", _segment(10, 20).name, _segment(20, 30).name}), "names")
            sealing.start()
            expect(not asked.wait(watched_s), "a seal waits until the sweep is over")

        index.sweep(look)
        sealing.join()
        expect_equal(len(index.segments()), 3, "segments in the end")


def an_owner_is_found_by_the_locator(opener: OpenIndexes) -> None:
    """Runs of each segment that the span touches, in offset order, then first copies of the tail."""
    with _index(opener) as index:
        _three_segments(index)
        owned = index.owned("@a-0", 0, _ALL)
        expect_equal([segment.base for segment, _ in owned.runs], [0, 10, 20], "segments")
        expect_equal([list(runs) for _, runs in owned.runs][1], [Run("@a-0", 0, 2, 10, 12, 100, 120)], "runs")
        expect_equal([one.offset for one in owned.records], [30, 32, 34], "records of the tail")
        some = index.owned("@a-0", 12, 31)
        expect_equal(([segment.base for segment, _ in some.runs], [one.offset for one in some.records]), ([10, 20], [30]), "a span")
        expect_equal([segment.base for segment, _ in index.owned("task:only-10", 0, _ALL).runs], [10], "somebody with one run")
        keys = ["@a-0", "task:only-10", "task:only-20", "@nobody", *(f"task:x-{number}" for number in range(_MANY))]
        expect_equal(set(index.owners(keys, 20)), {"@a-0", "task:only-10"}, "who is in segments below an offset")


def snapshots_are_found_by_view_reducer_and_owner(opener: OpenIndexes) -> None:
    """The newest within the bounds of each owner, or all of one, the newest first."""
    taken = [
        [_part("b", 10), _part("a", 10), _part("a", 10, view="agent"), _part("c", 10, reducer_id="other")],
        [_part("a", 20, order_us=500), *(_part(f"o-{number}", 20, part=bytes([number % 256])) for number in range(_MANY))],
    ]
    with _index(opener) as index:
        for base, parts in zip((0, 10), taken, strict=True):
            _append(index, base, base + 10, first=base == 0)
            index.seal(_sealed(base, base + 10, parts=parts), lambda: True)

        def ends(**bounds: Any) -> list[tuple[str, int]]:  # noqa: ANN401  # fields of it
            given = {"end": _ALL, "order_us": None, "owners": ["a", "b", "c", "nobody"], **bounds}
            return [(one.owner, one.end) for one in index.parts("task", "r", **given)]

        expect_equal(ends(), [("a", 20), ("b", 10)], "the newest")
        expect_equal((ends(end=19), ends(order_us=499)), ([("a", 10), ("b", 10)],) * 2, "the newest within bounds")
        expect_equal((ends(end=9), ends(order_us=99)), ([], []), "none within bounds")
        everybody = list(index.parts("task", "r", end=_ALL, order_us=None, owners=None))
        expect_equal([one.owner for one in everybody], sorted(one.owner for one in everybody), "order of owners")
        expect_equal(len(everybody), _MANY + 2, "everybody")
        many = [f"o-{number}" for number in range(_MANY)]
        expect_equal(len(index.parts("task", "r", end=_ALL, order_us=None, owners=many)), _MANY, "many owners by name")
        expect_equal(list(index.parts_of("task", "r", "a", end=_ALL, order_us=None)), [taken[1][0], taken[0][1]], "all of one")
        expect_equal([one.end for one in index.parts_of("task", "r", "a", end=_ALL, order_us=499)], [10], "of one within bounds")
        expect_equal(list(index.parts_of("task", "r", "a", end=_ALL, order_us=None, limit=1)), [taken[1][0]], "so many of one")


def a_file_is_replaced_where_the_manifest_holds_it(opener: OpenIndexes) -> None:
    """The records stay what they are; whoever thinks of another file is refused."""
    old, new = _segment(0, 10), _segment(0, 10, name="new", file_bytes=9, projection="q")
    with _index(opener) as index:
        _append(index, 0, 10, first=True)
        index.seal(_sealed(0, 10), lambda: True)
        index.replace(old, new)
        expect_equal(list(index.segments()), [new], "the manifest")
        _refused(lambda: index.replace(old, new), "replacing what is not there")


def a_hole_is_skipped_only_from_where_everything_is_sealed(opener: OpenIndexes) -> None:
    """Then the partition goes on behind it."""
    with _index(opener) as index:
        _append(index, 0, 10, first=True)
        hole = Span(*_ONE, 10, 15)
        _refused(lambda: index.skip(hole, b""), "a hole behind what is not sealed")
        index.seal(_sealed(0, 10), lambda: True)
        _refused(lambda: index.skip(Span(*_ONE, 9, 15), b""), "a hole somewhere else")
        index.skip(hole, b"repeats")
        expect_equal(index.mark(), ArchiveMark(0, 15, 15, b"repeats", (hole,), last_us=90), "the mark")
        _append(index, 15, 16)
        expect_equal(index.find(9, _ALL, 5).segment, _segment(0, 10), "what lies before it")


def pruning_forgets_everything_below(opener: OpenIndexes) -> None:
    """But what stands for it; who reads sees up to where in the same moment."""
    with _index(opener) as index:
        _three_segments(index)
        index.prune(_pruned(20), lambda: True)
        mark = index.mark()
        expect(mark is not None, "a mark")
        if mark is not None:
            expect_equal((mark.first, mark.sealed, mark.next, mark.kept), (0, 30, 35, 20), "how far it goes")
            expect_equal((list(mark.kept_for), mark.kept_us, mark.kept_digest), (["r"], 190, "d-20"), "what stands for it")
        expect_equal(list(index.segments()), [_segment(20, 30)], "segments")
        expect_equal(
            (index.find(0, _ALL, 5).kept, index.scan(0, _ALL, 5).kept, index.owned("@a-0", 0, _ALL).kept),
            (20, 20, 20),
            "up to where, beside an answer",
        )
        expect_equal([segment.base for segment, _ in index.owned("@a-0", 0, _ALL).runs], [20], "runs")
        expect_equal([one.offset for one in index.findings(0, _ALL)], [20], "findings")
        parts = {one.owner: one.end for one in index.parts("task", "r", end=20, order_us=None, owners=None)}
        expect_equal(parts, {"t": 20, "old": 20}, "snapshots at the start")
        expect_equal([one.end for one in index.parts_of("task", "r", "t", end=_ALL, order_us=None)], [30, 20], "an owner's snapshots")
        expect_equal((index.checks(), index.tail().records), (b"checks-30", 5), "what has nothing to do with it")


def a_pruning_of_what_is_not_there_is_refused(opener: OpenIndexes) -> None:
    """Between two ends of segments, behind the last, of other records, a second time, and without its file."""
    with _index(opener) as index:
        _three_segments(index)
        for pruned in (_pruned(15), _pruned(35), _pruned(20, digest="another")):
            _refused(lambda pruned=pruned: index.prune(pruned, lambda: True), "pruning where no such segment ends")  # type: ignore[misc]  # bound at once
        _refused(lambda: index.prune(_pruned(20), lambda: False), "pruning without the file that stands for it")
        expect_equal(len(index.segments()), 3, "segments")
        index.prune(_pruned(20), lambda: True)
        _refused(lambda: index.prune(_pruned(20), lambda: True), "pruning the same again")
        _refused(lambda: index.prune(_pruned(10), lambda: True), "pruning less")


def an_index_can_begin_where_it_was_pruned(opener: OpenIndexes) -> None:
    """One without a mark: made anew of what is left."""
    hole = Span(*_ONE, 4, 6)
    with _index(opener) as index:
        index.prune(_pruned(20, first=2, holes=[hole]), lambda: True)
        expect_equal(index.mark(), ArchiveMark(2, 20, 20, b"repeats", (hole,), 20, ("r",), 190, 190, "d-20"), "the mark")
        expect_equal(index.checks(), b"checks", "checks")
        _append(index, 20, 30)
        index.seal(_sealed(20, 30, kept=20), lambda: True)
        expect_equal(len(index.segments()), 1, "segments")


def another_client_sees_what_was_done(opener: OpenIndexes) -> None:
    """Also one that was open before, and after everybody has closed; each partition has an index of its own."""
    with _index(opener) as one, _index(opener) as two, _index(opener, _TWO) as other:
        _three_segments(one)
        expect_equal((len(two.segments()), two.mark()), (3, one.mark()), "what another client did")
        expect_equal((other.mark(), list(other.segments())), (None, []), "another partition")
    with _index(opener) as later:
        expect_equal((len(later.segments()), later.tail().records), (3, 5), "what was done before")


def an_index_that_is_set_aside_is_gone(opener: OpenIndexes) -> None:
    """As if it had never been; a new one can be made."""
    with _index(opener) as index:
        _three_segments(index)
    indexes = opener()
    indexes.set_aside(_ONE)
    expect_equal(indexes.open(_ONE, create=False), None, "an index that was set aside")
    with _index(opener) as index:
        expect_equal(index.mark(), None, "the mark of the new one")


def a_closed_index_is_unavailable(opener: OpenIndexes) -> None:
    """StoreUnavailable for reading and writing; closing again is no error."""
    with _index(opener) as index:
        index.close()
        index.close()
        for work in (index.mark, lambda: index.append(Append(None, 0, 1, b"", [], 0))):
            try:
                work()
            except StoreUnavailable:
                continue
            raise AssertionError("a closed index raises StoreUnavailable")


def several_threads_may_read_and_write(opener: OpenIndexes) -> None:
    """An answer is of one moment: what is sealed and what is in the tail are the whole, always."""
    with _index(opener) as index:
        _append(index, 0, 10, first=True)
        ended, begun, seen = threading.Event(), threading.Event(), list[list[int]]()

        def look() -> None:
            while not ended.is_set():
                begun.set()
                owned = index.owned("@a-0", 0, _ALL)
                sealed = sum(segment.records for segment, _ in owned.runs)
                seen.append([sealed, *(one.offset for one in owned.records)])

        looking = threading.Thread(target=look)
        looking.start()
        try:
            for base in range(0, 200, 10):
                begun.clear()  # each seal falls into a look
                expect(begun.wait(COMES_S), "looks go on")
                index.seal(_sealed(base, base + 10), lambda: True)
                _append(index, base + 10, base + 20)
        finally:
            ended.set()
            looking.join()
        for sealed, *tail in seen:
            expect(tail in ([], [*range(sealed, sealed + 10, 2)]), f"{sealed} records sealed, and {tail} in the tail")


INDEX_CASES: Final[Sequence[IndexCase]] = (
    a_partition_that_was_never_archived_has_nothing,
    what_is_appended_is_the_tail,
    an_append_that_does_not_build_on_what_is_stored_is_refused,
    a_seal_takes_records_out_of_the_tail,
    a_seal_that_does_not_follow_is_refused,
    nobody_seals_while_files_are_swept,
    an_owner_is_found_by_the_locator,
    snapshots_are_found_by_view_reducer_and_owner,
    a_file_is_replaced_where_the_manifest_holds_it,
    a_hole_is_skipped_only_from_where_everything_is_sealed,
    pruning_forgets_everything_below,
    a_pruning_of_what_is_not_there_is_refused,
    an_index_can_begin_where_it_was_pruned,
    another_client_sees_what_was_done,
    an_index_that_is_set_aside_is_gone,
    a_closed_index_is_unavailable,
    several_threads_may_read_and_write,
)
