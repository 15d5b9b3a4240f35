"""What every window store must do: the behaviour of ``ports.WindowStore``, as cases that any adapter can run.

::

    async def test_my_store():
        for case in CASES:
            await case(open_my_store)

``open_my_store`` opens a store and is awaited. ``CASES`` open one, which must be empty. ``SHARED_CASES`` open several,
which must be one and the same store, as other processes would see it. A case raises AssertionError with the promise that
was broken, and closes what it opened.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from tallyroll.errors import DocumentConflict
from tallyroll.events.position import TopicPartition
from tallyroll.ports import DocumentWrite, OpenPair, PaneAt, PaneRow, WindowProgress, WindowStore, WindowWrite
from tallyroll.testing.contract import expect, expect_equal, opened, refused, unwritable

__all__ = ["CASES", "SHARED_CASES", "Case", "OpenStore"]

OpenStore = Callable[[], Awaitable[WindowStore]]
"""Opens the store under test."""

Case = Callable[[OpenStore], Awaitable[None]]

_ONE: Final = TopicPartition("contract.one", 0)
_TWO: Final = TopicPartition("contract.one", 10)
_OTHER: Final = TopicPartition("contract.two", 7)
_MINUTE: Final = 60
_QUARTER: Final = 900
_DAY: Final = 86_400
_MANY: Final = 3_000  # above the number of parameters that some databases allow
_ODD_NAMES: Final = ('quote " and \\', "ü 漢 🙂", "a'; --", "%_*", " ", "a\x1fb", "")


def _at(key: str, start: int, *, width_s: int = _MINUTE, dimension: str = "agent") -> PaneAt:
    return PaneAt(dimension, key, width_s, start)


def _write(  # noqa: PLR0913  # what a write consists of
    partition: TopicPartition,
    expected: int | None,
    following: int,
    *rows: tuple[PaneAt, bytes],
    watermark_s: int = 0,
    spec_id: str = "specs",
    opened: Sequence[OpenPair] = (),
    closed: Sequence[tuple[str, str]] = (),
) -> WindowWrite:
    progress = WindowProgress(spec_id, 3, following, watermark_s * 1_000_000, b"repeats")
    return WindowWrite(partition, expected, progress, [(at, 1, data) for at, data in rows], opened, closed)


def _shown(rows: Sequence[PaneRow]) -> list[tuple[str, int, int, TopicPartition, bytes]]:
    return [(row.at.key, row.at.start, row.at.width_s, row.partition, row.data) for row in rows]


def _join(parts: Sequence[bytes]) -> bytes:
    return b"+".join(parts)


async def an_empty_store_knows_nothing(opener: OpenStore) -> None:
    """No progress, rows, pairs, keys or documents; there is nothing to roll up or to remove."""
    async with opened(opener) as [store]:
        await store.commit([])
        expect_equal(dict(await store.load_progress()), {}, "progress of all")
        expect_equal(dict(await store.load_progress([_ONE])), {}, "progress of one")
        expect_equal(list(await store.load_pairs(_ONE)), [], "pairs")
        expect_equal(list(await store.load_recent(_ONE, 0)), [], "recent rows")
        expect_equal(dict(store.load_rows(_ONE, [_at("a", 0)])), {}, "single rows")
        expect_equal(list(await store.rows("agent", _MINUTE, 0, _DAY, rolled_s=_QUARTER)), [], "rows")
        expect_equal(list(await store.keys("agent", 0, _DAY)), [], "keys")
        expect_equal(dict(await store.documents("baseline")), {}, "documents")
        expect_equal(await store.roll_up(width_s=_MINUTE, into_s=_QUARTER, settle_s=0, join=_join), 0, "rolled up")
        expect_equal(await store.prune(width_s=_MINUTE, keep_s=0), 0, "removed")


async def what_is_committed_can_be_read(opener: OpenStore) -> None:
    """Rows by dimension, width, time and key, over all partitions, in order; progress with watermark and repeats."""
    async with opened(opener) as [store]:
        await store.commit(
            [
                _write(_OTHER, None, 30, (_at("a", 60), b"other"), watermark_s=9),
                _write(_ONE, None, 10, (_at("b", 60), b"b60"), (_at("a", 120), b"a120"), (_at("a", 60), b"a60"), (_at("a", 0), b"a0")),
                _write(_TWO, None, 20, (_at("a", 60), b"two"), (_at("a", 60, width_s=10), b"w"), (_at("a", 60, dimension="tool"), b"t")),
            ]
        )
        progress = await store.load_progress()
        expect_equal(progress[_OTHER], WindowProgress("specs", 3, 30, 9_000_000, b"repeats"), "progress")
        expect_equal(set(await store.load_progress([_TWO, TopicPartition("none", 0)])), {_TWO}, "progress of what was asked for")
        a60 = [("a", 60, 60, _ONE, b"a60"), ("a", 60, 60, _TWO, b"two"), ("a", 60, 60, _OTHER, b"other")]
        a120, b60 = ("a", 120, 60, _ONE, b"a120"), ("b", 60, 60, _ONE, b"b60")
        expect_equal(_shown(await store.rows("agent", _MINUTE, 60, 121)), [*a60, a120, b60], "rows of all keys, by key, start, partition")
        expect_equal(_shown(await store.rows("agent", _MINUTE, 60, 120)), [*a60, b60], "the end is exclusive")
        expect_equal(_shown(await store.rows("agent", _MINUTE, 0, 999, ["b", "b", "zz"])), [b60], "rows of the asked keys, once")
        expect_equal(_shown(await store.rows("agent", _MINUTE, 0, 999, [])), [], "rows of no keys")
        expect_equal(_shown(await store.rows("agent", 10, 0, 999)), [("a", 60, 10, _TWO, b"w")], "rows of another width")
        expect_equal(_shown(await store.rows("tool", _MINUTE, 0, 999)), [("a", 60, 60, _TWO, b"t")], "rows of another dimension")
        expect_equal(_shown(await store.rows("none", _MINUTE, 0, 999)), [], "rows of a dimension that is not there")


async def a_later_commit_replaces_rows_and_leaves_others(opener: OpenStore) -> None:
    """Only what is in the write changes, with its revision; the version tells that something did."""
    async with opened(opener) as [store]:
        await store.commit([_write(_ONE, None, 1, (_at("a", 0), b"old"), (_at("b", 0), b"kept"))])
        before = await store.version()
        expect_equal(await store.version(), before, "the version stays while nothing is committed")
        write = _write(_ONE, 1, 2)
        await store.commit([write._replace(rows=[(_at("a", 0), 5, b"new")])])
        expect(await store.version() != before, "the version changes with a commit")
        rows = await store.rows("agent", _MINUTE, 0, 1)
        expect_equal([(row.data, row.revision) for row in rows], [(b"new", 5), (b"kept", 1)], "rows after two commits")
        before = await store.version()
        await store.commit([], [DocumentWrite("kind", "id", b"x")])
        expect(await store.version() != before, "the version changes with a document")


async def a_writer_finds_what_it_goes_on_from(opener: OpenStore) -> None:
    """Recent rows of all dimensions and widths of one partition; single rows; open pairs, oldest first."""
    pairs = [OpenPair("p", "young", 2, 9), OpenPair("p", "old", 1, 1), OpenPair("q", "old", 5, 5)]
    async with opened(opener) as [store]:
        rows = [(_at("a", 0), b"0"), (_at("a", 60), b"60"), (_at("a", 120), b"120"), (_at("", 0, width_s=900, dimension="fleet"), b"fleet")]
        await store.commit([_write(_ONE, None, 1, *rows, opened=pairs), _write(_TWO, None, 1, (_at("a", 120), b"two"))])
        recent = await store.load_recent(_ONE, 120)
        expect_equal({(row.at, row.data) for row in recent}, {rows[2], rows[3]}, "rows that end after that time")
        expect_equal({row.partition for row in recent}, {_ONE}, "of this partition alone")
        found = store.load_rows(_ONE, [_at("a", 60), _at("a", 180), _at("none", 60), _at("a", 60, dimension="none"), rows[3][0]])
        expect_equal(
            {at: (row.at, row.data) for at, row in found.items()}, {at: (at, data) for at, data in (rows[1], rows[3])}, "single rows"
        )
        expect_equal(list(await store.load_pairs(_ONE)), [pairs[1], pairs[2], pairs[0]], "pairs, oldest first")
        expect_equal(list(await store.load_pairs(_TWO)), [], "pairs of another partition")
        await store.commit([_write(_ONE, 1, 2, opened=[OpenPair("p", "new", 3, 3)], closed=[("p", "old"), ("p", "none")])])
        expect_equal(
            [(one.pair, one.id) for one in await store.load_pairs(_ONE)], [("p", "new"), ("q", "old"), ("p", "young")], "pairs later"
        )


async def a_write_that_does_not_build_on_the_stored_progress_is_refused(opener: OpenStore) -> None:
    """PositionConflict names both positions, and nothing of the commit is written."""
    async with opened(opener) as [store]:
        await store.commit([_write(_ONE, None, 10, (_at("a", 0), b"kept"))])
        lost = [DocumentWrite("kind", "id", b"lost")]
        for expected in (None, 9, 11):
            writes = [_write(_TWO, None, 1, (_at("z", 0), b"z")), _write(_ONE, expected, 12, (_at("a", 0), b"lost"))]
            error = await refused(store.commit(writes, lost))
            expect_equal((error.stored, error.expected), (10, expected), "positions of the conflict")
        error = await refused(store.commit([_write(_TWO, 4, 5)]))
        expect_equal((error.stored, error.expected), (None, 4), "positions of a conflict with nothing stored")
        expect_equal({partition: one.next for partition, one in (await store.load_progress()).items()}, {_ONE: 10}, "progress afterwards")
        expect_equal([row.data for row in await store.rows("agent", _MINUTE, 0, 1)], [b"kept"], "rows afterwards")
        expect_equal(dict(await store.documents("kind")), {}, "documents afterwards")


async def other_metrics_start_over_per_partition(opener: OpenStore) -> None:
    """The first write under another spec id removes rows, wider ones too, and pairs of that partition; others stay."""
    async with opened(opener) as [store]:
        row, pair = (_at("a", 0), b"1"), OpenPair("p", "id", 1, 1)
        await store.commit([_write(one, None, 10, row, watermark_s=_DAY, opened=[pair]) for one in (_ONE, _TWO)])
        await store.roll_up(width_s=_MINUTE, into_s=_QUARTER, settle_s=0, join=_join)
        await refused(store.commit([_write(_ONE, 10, 11, spec_id="new")]))
        await store.commit([_write(_ONE, None, 1, (_at("a", 60), b"new"), spec_id="new")])
        expect_equal(
            _shown(await store.rows("agent", _MINUTE, 0, _QUARTER, ["a"])), [("a", 0, 60, _TWO, b"1"), ("a", 60, 60, _ONE, b"new")], "rows"
        )
        mixed = [("a", 0, 900, _TWO, b"1"), ("a", 60, 60, _ONE, b"new")]
        expect_equal(_shown(await store.rows("agent", _MINUTE, 0, _QUARTER, ["a"], rolled_s=_QUARTER)), mixed, "wider rows")
        expect_equal((list(await store.load_pairs(_ONE)), list(await store.load_pairs(_TWO))), ([], [pair]), "pairs")
        await refused(store.commit([_write(_ONE, 10, 11)]))


async def keys_come_in_pages(opener: OpenStore) -> None:
    """Ascending by code point, each once whatever the number of rows, those alone that have a row in that time."""
    names = sorted([f"agent-{number:02}" for number in range(25)] + ["Agent", "zu", "öl"])
    async with opened(opener) as [store]:
        rows = [(_at(name, start), b"x") for name in names for start in (60, 120)]
        rows += [
            (_at("early", 0), b"x"),
            (_at("late", 180), b"x"),
            (_at("wide", 0, width_s=900), b"x"),
            (_at("t", 60, dimension="tool"), b"x"),
        ]
        await store.commit([_write(_ONE, None, 1, *rows), _write(_TWO, None, 1, *rows)])
        pages: list[str] = []
        while page := await store.keys("agent", 60, 180, after=pages[-1] if pages else "", limit=10):
            expect(len(page) <= 10, "a page is not longer than asked for")  # noqa: PLR2004  # the limit above
            pages += page
        expect_equal(pages, names, "keys over all pages")
        expect_equal(list(await store.keys("agent", 0, 60)), ["early", "wide"], "keys of another time, of any width")


async def names_and_bytes_of_any_kind_come_back(opener: OpenStore) -> None:
    """Keys and dimensions are text of any kind, rows bytes of any kind, also long ones, and many at once."""
    rows = {_at(name, 0): bytes(range(256)) * (number * 100 + 1) for number, name in enumerate(_ODD_NAMES)}
    rows |= {_at(f"key-{number}", 0): b"" for number in range(_MANY)}
    rows |= {_at("a", 0, dimension="payload.'; --\x1f"): b"dimension"}
    async with opened(opener) as [store]:
        await store.commit([_write(_ONE, None, 1, *rows.items())])
        expect_equal({at: row.data for at, row in store.load_rows(_ONE, list(rows)).items()}, rows, "every row as it was written")
        asked = await store.rows("agent", _MINUTE, 0, 1, [at.key for at in rows])
        expect_equal({row.at: row.data for row in asked}, {at: data for at, data in rows.items() if at.dimension == "agent"}, "rows by key")
        await store.commit([], [DocumentWrite("k'", name, b"\x00") for name in _ODD_NAMES])
        expect_equal(dict(await store.documents("k'")), dict.fromkeys(_ODD_NAMES, b"\x00"), "documents")


async def documents_are_written_removed_and_guarded(opener: OpenStore) -> None:
    """A guarded document is written only over what its writer has read; else nothing of the commit is."""
    async with opened(opener) as [store]:
        await store.commit([], [DocumentWrite("kind", "a", b"1"), DocumentWrite("kind", "b", b"1"), DocumentWrite("other", "a", b"1")])
        await store.commit([], [DocumentWrite("kind", "a", b"2"), DocumentWrite("kind", "b", None), DocumentWrite("kind", "none", None)])
        expect_equal(dict(await store.documents("kind")), {"a": b"2"}, "documents after a change and a removal")
        await store.commit(
            [], [DocumentWrite("kind", "a", b"3", guarded=True, expected=b"2"), DocumentWrite("kind", "n", b"1", guarded=True)]
        )
        expect_equal(dict(await store.documents("kind")), {"a": b"3", "n": b"1"}, "guarded documents that were as expected")
        for bad in (
            DocumentWrite("kind", "a", b"4", guarded=True, expected=b"2"),
            DocumentWrite("kind", "a", None, guarded=True),
            DocumentWrite("kind", "new", b"4", guarded=True, expected=b"x"),
        ):
            error = await refused(store.commit([_write(_ONE, None, 1, (_at("a", 0), b"lost"))], [DocumentWrite("kind", "c", b"lost"), bad]))
            expect(isinstance(error, DocumentConflict), "a document that differs is a DocumentConflict")
        expect_equal(dict(await store.documents("kind")), {"a": b"3", "n": b"1"}, "documents afterwards")
        expect_equal(dict(await store.load_progress()), {}, "progress afterwards")
        await store.commit([], [DocumentWrite("kind", "a", None, guarded=True, expected=b"3")])
        expect_equal(dict(await store.documents("kind")), {"n": b"1"}, "a guarded removal")


async def closed_minutes_are_rolled_up(opener: OpenStore) -> None:
    """Once the partition's watermark has passed them by the settling time; each stretch then comes once, wide or narrow."""
    async with opened(opener) as [store]:
        minutes = [(_at("a", start), b"%d" % start) for start in range(0, 2_700, 300)]
        await store.commit(
            [_write(_ONE, None, 1, *minutes, watermark_s=1_899), _write(_TWO, None, 1, (_at("b", 60), b"b"), watermark_s=900)]
        )
        expect_equal(await store.roll_up(width_s=_MINUTE, into_s=_QUARTER, settle_s=100, join=_join), 1, "wider rows made")
        expect_equal(await store.roll_up(width_s=_MINUTE, into_s=_QUARTER, settle_s=100, join=_join), 0, "wider rows made again")
        narrow = [("a", int(data), 60, _ONE, data) for _, data in minutes]
        wide, b60 = ("a", 0, 900, _ONE, b"0+300+600"), ("b", 60, 60, _TWO, b"b")
        expect_equal(
            _shown(await store.rows("agent", _MINUTE, 0, 3_600, rolled_s=_QUARTER)), [wide, *narrow[3:], b60], "rows, wide and narrow"
        )
        expect_equal(_shown(await store.rows("agent", _MINUTE, 0, 3_600)), [*narrow, b60], "narrow rows stay")
        expect_equal(_shown(await store.rows("agent", _QUARTER, 0, 3_600)), [], "wider rows are shown where they are asked for")
        expect_equal(list(await store.load_recent(_ONE, 2_399)), list(await store.rows("agent", 60, 2_400, 9_999)), "recent rows")
        await store.commit([_write(_ONE, 1, 2, watermark_s=1_900)])
        expect_equal(await store.roll_up(width_s=_MINUTE, into_s=_QUARTER, settle_s=100, join=_join), 1, "wider rows made later")
        second = ("a", 900, 900, _ONE, b"900+1200+1500")
        cut = [*narrow[1:3], second, *narrow[6:8]]
        expect_equal(_shown(await store.rows("agent", _MINUTE, 60, 2_400, ["a"], rolled_s=_QUARTER)), cut, "wide rows lie wholly inside")
        expect_equal(
            _shown(await store.rows("agent", _MINUTE, 60, 840, ["a"], rolled_s=_QUARTER)), narrow[1:3], "a time within one wide row"
        )


async def a_late_row_is_rolled_up_again(opener: OpenStore) -> None:
    """Until then its stretch is read from the narrow rows, so that no answer lacks it."""
    async with opened(opener) as [store]:
        await store.commit([_write(_ONE, None, 1, (_at("a", 0), b"0"), (_at("b", 0), b"b"), watermark_s=_DAY)])
        await store.roll_up(width_s=_MINUTE, into_s=_QUARTER, settle_s=0, join=_join)
        late = [(_at("a", 60), b"late"), (_at("new", 60), b"new")]
        await store.commit([_write(_ONE, 1, 2, *late, watermark_s=_DAY)])
        expected = [("a", 0, 60, _ONE, b"0"), ("a", 60, 60, _ONE, b"late"), ("b", 0, 900, _ONE, b"b"), ("new", 60, 60, _ONE, b"new")]
        expect_equal(_shown(await store.rows("agent", _MINUTE, 0, _DAY, rolled_s=_QUARTER)), expected, "rows while a wider one is due")
        expect_equal(await store.prune(width_s=_MINUTE, keep_s=0), 1, "narrow rows that may go while a wider one is due")
        expect_equal(await store.roll_up(width_s=_MINUTE, into_s=_QUARTER, settle_s=0, join=_join), 2, "wider rows made")
        expected = [("a", 0, 900, _ONE, b"0+late"), ("b", 0, 900, _ONE, b"b"), ("new", 0, 900, _ONE, b"new")]
        expect_equal(_shown(await store.rows("agent", _MINUTE, 0, _DAY, rolled_s=_QUARTER)), expected, "rows afterwards")


async def what_comes_when_minutes_are_gone_is_written_wide(opener: OpenStore) -> None:
    """Such rows come beside those that were rolled up, also where there never were narrow ones; rolling up leaves them alone."""
    async with opened(opener) as [store]:
        rows = [(_at("a", 0), b"0"), (_at("a", 60), b"60"), (_at("a", 900), b"900")]
        await store.commit([_write(_ONE, None, 1, *rows, watermark_s=_DAY)])
        await store.roll_up(width_s=_MINUTE, into_s=_QUARTER, settle_s=0, join=_join)
        expect_equal(await store.prune(width_s=_MINUTE, keep_s=_DAY - 900), 2, "removed")
        beside = [(_at("a", 0, width_s=_QUARTER), b"old"), (_at("x", 0, width_s=_QUARTER, dimension="tool"), b"tool")]
        await store.commit([_write(_ONE, 1, 2, *beside, watermark_s=_DAY)])
        expect_equal(await store.roll_up(width_s=_MINUTE, into_s=_QUARTER, settle_s=0, join=_join), 0, "rolled up again")
        wide = [("a", 0, 900, _ONE, b"0+60"), ("a", 0, 900, _ONE, b"old"), ("a", 900, 900, _ONE, b"900")]
        found = await store.rows("agent", _MINUTE, 0, _DAY, rolled_s=_QUARTER)
        expect_equal(sorted(_shown(found)), wide, "rows, those written wide beside those rolled up")
        expect_equal(_shown(await store.rows("agent", _MINUTE, 0, _DAY)), [("a", 900, 60, _ONE, b"900")], "narrow rows")
        tool = [("x", 0, 900, _ONE, b"tool")]
        expect_equal(_shown(await store.rows("tool", _MINUTE, 0, _DAY, rolled_s=_QUARTER)), tool, "where there are no others")
        expect_equal(set(store.load_rows(_ONE, [beside[0][0]])), {beside[0][0]}, "what a writer goes on from")


async def old_rows_are_removed(opener: OpenStore) -> None:
    """By the watermark of their own partition, and never before they are in a wider row."""
    async with opened(opener) as [store]:
        rows = [(_at("a", start), b"%d" % start) for start in (0, 840, 900, 960)]
        await store.commit([_write(_ONE, None, 1, *rows, watermark_s=1_070), _write(_TWO, None, 1, rows[0], watermark_s=60)])
        await store.roll_up(width_s=_MINUTE, into_s=_QUARTER, settle_s=0, join=_join)
        expect_equal(await store.prune(width_s=_MINUTE, keep_s=171), 0, "kept: as long as a row of the same wider one is")
        expect_equal(await store.prune(width_s=_MINUTE, keep_s=170), 2, "removed: what ends just long enough before the watermark")
        expect_equal(await store.prune(width_s=_MINUTE, keep_s=0), 0, "kept: what is in no wider row yet")
        left = [("a", 0, 60, _TWO, b"0"), ("a", 900, 60, _ONE, b"900"), ("a", 960, 60, _ONE, b"960")]
        expect_equal(_shown(await store.rows("agent", _MINUTE, 0, 9_999)), left, "narrow rows left")
        expect_equal(await store.prune(width_s=_QUARTER, keep_s=171), 0, "wider rows are kept for their own time")
        wide = ("a", 0, 900, _ONE, b"0+840")
        expect_equal(_shown(await store.rows("agent", _MINUTE, 0, 9_999, rolled_s=_QUARTER))[0], wide, "what was removed is in a wider row")
        expect_equal(await store.prune(width_s=_QUARTER, keep_s=170), 1, "wider rows removed")
        expect_equal(_shown(await store.rows("agent", _MINUTE, 0, 9_999, rolled_s=_QUARTER)), left, "rows left")


async def reads_go_on_while_commits_run(opener: OpenStore) -> None:
    """An answer is of one moment: the rows of the same commit, always."""
    async with opened(opener) as [store]:

        async def write() -> None:
            for number in range(1, 40):
                expected = number - 1 or None
                await store.commit([_write(one, expected, number, (_at("a", 0), b"%d" % number)) for one in (_ONE, _TWO)])

        writing = asyncio.create_task(write())
        while not writing.done():
            found = await store.rows("agent", _MINUTE, 0, 1)
            expect(len({row.data for row in found}) <= 1, "rows of several partitions are of one commit")
        await writing


async def a_moment_can_be_read_while_commits_run(opener: OpenStore) -> None:
    """As it was, whatever is committed meanwhile; written to it is nothing, and the store goes on afterwards."""
    at = _at("a", 0)
    async with opened(opener) as [store]:
        await store.commit([_write(_ONE, None, 1, (at, b"1"))], [DocumentWrite("kind", "id", b"1")])
        async with store.at_one_moment() as then:
            await store.commit([_write(_ONE, 1, 2, (at, b"2"), (_at("b", 0), b"2"))], [DocumentWrite("kind", "id", b"2")])
            expect_equal((await then.load_progress())[_ONE].next, 1, "progress of the moment")
            expect_equal([row.data for row in await then.rows("agent", _MINUTE, 0, _DAY)], [b"1"], "rows of the moment")
            expect_equal(dict(await then.documents("kind")), {"id": b"1"}, "documents of the moment")
            await unwritable(then.commit([_write(_ONE, 1, 3)]))
            expect_equal(len(await store.rows("agent", _MINUTE, 0, _DAY)), 2, "rows of the store meanwhile")
        await store.commit([_write(_ONE, 2, 3, (at, b"3"))])
        expect_equal((await store.load_progress())[_ONE].next, 3, "progress afterwards")


async def another_client_sees_what_was_committed(opener: OpenStore) -> None:
    """Also one that was open before, whose version changes; and it is there after everybody has closed."""
    async with opened(opener, opener) as [one, two]:
        before = await two.version()
        await one.commit([_write(_ONE, None, 1, (_at("a", 0), b"1"))])
        expect(await two.version() != before, "the version changes with another client's commit")
        expect_equal([row.data for row in await two.rows("agent", _MINUTE, 0, 1)], [b"1"], "what another client committed")
        await two.commit([_write(_TWO, None, 1, (_at("a", 0, dimension="new"), b"2"))])
        expect_equal(set(await one.load_progress()), {_ONE, _TWO}, "partitions of both")
        await one.commit([_write(_ONE, 1, 2, (_at("a", 0, dimension="new"), b"1"))])
    async with opened(opener) as [later]:
        expect_equal([row.data for row in await later.rows("new", _MINUTE, 0, 1)], [b"1", b"2"], "what was committed before")


async def of_two_clients_one_writes(opener: OpenStore) -> None:
    """The other gets PositionConflict, also when both commit at the same time; and so with guarded documents."""
    async with opened(opener, opener) as stores:
        for number in range(10):
            writes = [[_write(_ONE, number or None, number + 1, (_at("a", 0), b"%d" % who))] for who in range(2)]
            results = await asyncio.gather(
                *(store.commit(write) for store, write in zip(stores, writes, strict=True)), return_exceptions=True
            )
            expect_equal(sorted(type(result).__name__ for result in results), ["NoneType", "PositionConflict"], "one commits, one yields")
        for number in range(5):
            document = DocumentWrite("kind", "id", b"%d" % number, guarded=True, expected=b"%d" % (number - 1) if number else None)
            results = await asyncio.gather(*(store.commit([], [document]) for store in stores), return_exceptions=True)
            expect_equal(sorted(type(result).__name__ for result in results), ["DocumentConflict", "NoneType"], "one writes, one yields")


CASES: Final[Sequence[Case]] = (
    an_empty_store_knows_nothing,
    what_is_committed_can_be_read,
    a_later_commit_replaces_rows_and_leaves_others,
    a_writer_finds_what_it_goes_on_from,
    a_write_that_does_not_build_on_the_stored_progress_is_refused,
    other_metrics_start_over_per_partition,
    keys_come_in_pages,
    names_and_bytes_of_any_kind_come_back,
    documents_are_written_removed_and_guarded,
    closed_minutes_are_rolled_up,
    a_late_row_is_rolled_up_again,
    what_comes_when_minutes_are_gone_is_written_wide,
    old_rows_are_removed,
    reads_go_on_while_commits_run,
    a_moment_can_be_read_while_commits_run,
)
SHARED_CASES: Final[Sequence[Case]] = (another_client_sees_what_was_committed, of_two_clients_one_writes)
