"""What every state store must do: the behaviour of ``ports.StateStore``, as cases that any adapter can run.

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

from tallyroll.events.position import TopicPartition
from tallyroll.ports import PartitionWrite, Progress, StateStore
from tallyroll.testing.contract import expect, expect_equal, opened, refused, unwritable

__all__ = ["CASES", "SHARED_CASES", "Case", "OpenStore"]

OpenStore = Callable[[], Awaitable[StateStore]]
"""Opens the store under test."""

Case = Callable[[OpenStore], Awaitable[None]]

_ONE: Final = TopicPartition("contract.one", 0)
_TWO: Final = TopicPartition("contract.two", 7)
_MANY: Final = 3_000  # above the number of parameters that some databases allow
_ODD_NAMES: Final = ('quote " and \\', "ü 漢 🙂", "a'; --", "%_*", " ")


def _write(
    partition: TopicPartition, expected: int | None, following: int, *parts: tuple[str, str, bytes], fold_id: str = "fold"
) -> PartitionWrite:
    return PartitionWrite(partition, expected, Progress(fold_id, 3, following, b"repeats"), parts)


async def an_empty_store_knows_nothing(opener: OpenStore) -> None:
    """No progress, no parts, no owners; an empty commit changes nothing."""
    async with opened(opener) as [store]:
        await store.commit([])
        expect_equal(dict(await store.load_progress()), {}, "progress of all")
        expect_equal(dict(await store.load_progress([_ONE])), {}, "progress of one")
        expect_equal(dict(store.load_parts(_ONE, "view", ["a"])), {}, "parts")
        found = await store.parts_of("fold", "view", "a")
        expect_equal((dict(found.progress), dict(found.parts)), ({}, {}), "parts of an owner")
        expect_equal(list(await store.owners("fold", "view")), [], "owners")


async def what_is_committed_can_be_read(opener: OpenStore) -> None:
    """Parts by partition, view and owner; progress with the repeats where a writer asks."""
    async with opened(opener) as [store]:
        await store.commit(
            [
                _write(_ONE, None, 10, ("view", "a", b"1a"), ("view", "b", b"1b"), ("other", "a", b"other")),
                _write(_TWO, None, 20, ("view", "a", b"2a")),
            ]
        )
        expect_equal(
            dict(await store.load_progress()),
            {_ONE: Progress("fold", 3, 10, b"repeats"), _TWO: Progress("fold", 3, 20, b"repeats")},
            "progress",
        )
        expect_equal(set(await store.load_progress([_TWO, TopicPartition("none", 0)])), {_TWO}, "progress of what was asked for")
        expect_equal(dict(store.load_parts(_ONE, "view", ["a", "b", "c"])), {"a": b"1a", "b": b"1b"}, "parts of one partition")
        expect_equal(dict(store.load_parts(_TWO, "other", ["a"])), {}, "parts of another view")
        found = await store.parts_of("fold", "view", "a")
        expect_equal(dict(found.parts), {_ONE: b"1a", _TWO: b"2a"}, "an owner's parts over partitions")
        expect_equal({partition: one.next for partition, one in found.progress.items()}, {_ONE: 10, _TWO: 20}, "progress beside the parts")


async def a_later_commit_replaces_parts_and_leaves_others(opener: OpenStore) -> None:
    """Only what is in the write changes."""
    async with opened(opener) as [store]:
        await store.commit([_write(_ONE, None, 1, ("view", "a", b"old"), ("view", "b", b"kept"))])
        await store.commit([_write(_ONE, 1, 2, ("view", "a", b"new"))])
        expect_equal(dict(store.load_parts(_ONE, "view", ["a", "b"])), {"a": b"new", "b": b"kept"}, "parts after two commits")
        await store.commit([_write(_ONE, 2, 5)])
        expect_equal((await store.load_progress())[_ONE].next, 5, "progress alone can be written")


async def a_write_that_does_not_build_on_the_stored_progress_is_refused(opener: OpenStore) -> None:
    """PositionConflict names both positions, and nothing of the commit is written."""
    async with opened(opener) as [store]:
        await store.commit([_write(_ONE, None, 10, ("view", "a", b"kept"))])
        for expected in (None, 9, 11):
            error = await refused(
                store.commit([_write(_TWO, None, 1, ("view", "z", b"z")), _write(_ONE, expected, 12, ("view", "a", b"lost"))])
            )
            expect_equal((error.stored, error.expected), (10, expected), "positions of the conflict")
        error = await refused(store.commit([_write(_TWO, 4, 5)]))
        expect_equal((error.stored, error.expected), (None, 4), "positions of a conflict with nothing stored")
        expect_equal({partition: one.next for partition, one in (await store.load_progress()).items()}, {_ONE: 10}, "progress afterwards")
        expect_equal(dict(store.load_parts(_ONE, "view", ["a"])), {"a": b"kept"}, "parts afterwards")
        expect_equal(list(await store.owners("fold", "view")), ["a"], "owners afterwards")


async def another_fold_starts_over_per_partition(opener: OpenStore) -> None:
    """Its first write removes what the earlier fold kept of that partition; until then, and elsewhere, nothing is mixed."""
    async with opened(opener) as [store]:
        await store.commit([_write(_ONE, None, 10, ("view", "a", b"1"), ("view", "b", b"1")), _write(_TWO, None, 20, ("view", "a", b"2"))])
        expect_equal(dict((await store.parts_of("new", "view", "a")).parts), {}, "parts under another fold")
        await refused(store.commit([_write(_ONE, 10, 11, fold_id="new")]))
        await store.commit([_write(_ONE, None, 1, ("view", "a", b"new"), fold_id="new")])
        expect_equal(dict(store.load_parts(_ONE, "view", ["a", "b"])), {"a": b"new"}, "parts of the partition that was started over")
        expect_equal(dict((await store.parts_of("new", "view", "a")).parts), {_ONE: b"new"}, "parts of the new fold")
        expect_equal(dict((await store.parts_of("fold", "view", "a")).parts), {_TWO: b"2"}, "parts of the old fold")
        expect_equal(list(await store.owners("new", "view")), ["a"], "owners of the new fold")
        await refused(store.commit([_write(_ONE, 10, 11)]))


async def owners_come_in_pages(opener: OpenStore) -> None:
    """Ascending by code point, each once whatever the number of partitions, none twice over pages."""
    names = sorted([f"owner-{number:02}" for number in range(25)] + ["Owner", "zu", "öl"])
    async with opened(opener) as [store]:
        parts = [("view", name, b"x") for name in names]
        await store.commit([_write(_ONE, None, 1, *parts), _write(_TWO, None, 1, *parts, ("other", "nobody", b"x"))])
        pages: list[str] = []
        while page := await store.owners("fold", "view", after=pages[-1] if pages else "", limit=10):
            expect(len(page) <= 10, "a page is not longer than asked for")  # noqa: PLR2004  # the limit above
            pages += page
        expect_equal(pages, names, "owners over all pages")


async def names_and_bytes_of_any_kind_come_back(opener: OpenStore) -> None:
    """Names are text of any kind, parts bytes of any kind, also long ones, and many at once."""
    parts = {name: bytes(range(256)) * (number * 400 + 1) for number, name in enumerate(_ODD_NAMES)}
    parts |= {f"owner-{number}": b"" for number in range(_MANY)}
    async with opened(opener) as [store]:
        await store.commit([_write(_ONE, None, 1, *(("view", name, data) for name, data in parts.items()))])
        expect_equal(dict(store.load_parts(_ONE, "view", list(parts))), parts, "every part as it was written")
        for name in _ODD_NAMES:
            expect_equal(dict((await store.parts_of("fold", "view", name)).parts), {_ONE: parts[name]}, "a part by its owner")


async def reads_go_on_while_commits_run(opener: OpenStore) -> None:
    """An answer is of one moment: parts and progress of the same commit, always."""
    async with opened(opener) as [store]:

        async def write() -> None:
            for number in range(1, 40):
                expected = number - 1 or None
                await store.commit([_write(one, expected, number, ("view", "a", b"%d" % number)) for one in (_ONE, _TWO)])

        writing = asyncio.create_task(write())
        while not writing.done():
            found = await store.parts_of("fold", "view", "a")
            expect_equal(
                {int(data) for data in found.parts.values()}, {one.next for one in found.progress.values()}, "parts and progress agree"
            )
        await writing


async def a_moment_can_be_read_while_commits_run(opener: OpenStore) -> None:
    """As it was, whatever is committed meanwhile; written to it is nothing, and the store goes on afterwards."""
    async with opened(opener) as [store]:
        await store.commit([_write(_ONE, None, 1, ("view", "a", b"1"), ("view", "b", b"1"))])
        async with store.at_one_moment() as then:
            await store.commit([_write(_ONE, 1, 2, ("view", "a", b"2"), ("view", "c", b"2"))])
            expect_equal((await then.load_progress())[_ONE].next, 1, "progress of the moment")
            expect_equal(dict((await then.parts_of("fold", "view", "a")).parts), {_ONE: b"1"}, "a part of the moment")
            expect_equal(list(await then.owners("fold", "view")), ["a", "b"], "owners of the moment")
            expect_equal(dict(then.load_parts(_ONE, "view", ["a", "c"])), {"a": b"1"}, "parts of the moment")
            await unwritable(then.commit([_write(_ONE, 1, 3)]))
            expect_equal(list(await store.owners("fold", "view")), ["a", "b", "c"], "owners of the store meanwhile")
        await store.commit([_write(_ONE, 2, 3, ("view", "a", b"3"))])
        async with store.at_one_moment() as then:
            expect_equal(dict(then.load_parts(_ONE, "view", ["a"])), {"a": b"3"}, "parts of a later moment")


async def another_client_sees_what_was_committed(opener: OpenStore) -> None:
    """Also one that was open before; and what was committed is there after everybody has closed."""
    async with opened(opener, opener) as [one, two]:
        await one.commit([_write(_ONE, None, 1, ("view", "a", b"1"))])
        expect_equal(dict(two.load_parts(_ONE, "view", ["a"])), {"a": b"1"}, "what another client committed")
        await two.commit([_write(_TWO, None, 1, ("view", "a", b"2"))])
        expect_equal(set(await one.load_progress()), {_ONE, _TWO}, "partitions of both")
    async with opened(opener) as [later]:
        expect_equal(dict((await later.parts_of("fold", "view", "a")).parts), {_ONE: b"1", _TWO: b"2"}, "what was committed before")


async def of_two_clients_one_writes_a_partition(opener: OpenStore) -> None:
    """The other gets PositionConflict, also when both commit at the same time."""
    async with opened(opener, opener) as stores:
        for number in range(10):
            writes = [[_write(_ONE, number or None, number + 1, ("view", "a", b"%d" % who))] for who in range(2)]
            results = await asyncio.gather(
                *(store.commit(write) for store, write in zip(stores, writes, strict=True)), return_exceptions=True
            )
            expect_equal(sorted(type(result).__name__ for result in results), ["NoneType", "PositionConflict"], "one commits, one yields")


CASES: Final[Sequence[Case]] = (
    an_empty_store_knows_nothing,
    what_is_committed_can_be_read,
    a_later_commit_replaces_parts_and_leaves_others,
    a_write_that_does_not_build_on_the_stored_progress_is_refused,
    another_fold_starts_over_per_partition,
    owners_come_in_pages,
    names_and_bytes_of_any_kind_come_back,
    reads_go_on_while_commits_run,
    a_moment_can_be_read_while_commits_run,
)
SHARED_CASES: Final[Sequence[Case]] = (another_client_sees_what_was_committed, of_two_clients_one_writes_a_partition)
