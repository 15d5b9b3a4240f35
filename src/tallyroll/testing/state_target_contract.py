"""What every target of the state bridge must do: the behaviour of ``ports.StateTarget``, as cases that any adapter can run.

::

    async def test_my_target():
        for case in CASES:
            await case(open_my_target)

``open_my_target`` gives a client of one and the same target, which is empty when a case begins; each call another client.
A case raises AssertionError with the promise that was broken, and closes what it opened.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

from tallyroll.events.position import TopicPartition
from tallyroll.ports import Claim, Merged, Progress, StateTarget, ViewsWritten
from tallyroll.testing.contract import expect_equal, refused

__all__ = ["CASES", "Case", "OpenTarget"]

OpenTarget = Callable[[], StateTarget]
"""Gives a client of the target under test."""

Case = Callable[[OpenTarget], Coroutine[Any, Any, None]]

_ONE: Final = TopicPartition("contract.one", 0)
_TWO: Final = TopicPartition("contract/two", 7)
_LARGE: Final = 2**53  # a double cannot tell it from the next number


@asynccontextmanager
async def _opened(*openers: OpenTarget) -> AsyncIterator[list[StateTarget]]:
    async with AsyncExitStack() as stack:
        targets = []
        for opener in openers:
            targets.append(opener())
            stack.push_async_callback(targets[-1].close)
        yield targets


async def _claimed(target: StateTarget, partition: TopicPartition, following: int | None = None, fold: str = "fold") -> Claim:
    return (await target.acquire([Claim(partition, fold, following)]))[0]


async def _written(target: StateTarget, claim: Claim, end: int, **parts: bytes) -> Mapping[str, Merged]:
    """Parts of one partition, owners by the last letter of their names."""
    return await target.write_parts([(claim, end)], {f"view:{name}": {claim.partition: data} for name, data in parts.items()})


async def _found(target: StateTarget, claim: Claim, names: str) -> dict[str, tuple[int, bytes]]:
    """The parts of one partition, likewise."""
    found = await target.parts(claim.fold_id, [(claim.partition, f"view:{name}") for name in names])
    return {owner: part for (_, owner), part in found.items()}


async def _committed(target: StateTarget, claim: Claim, end: int, *, first: int = 0) -> Claim:
    [moved], _ = await target.commit([(claim, Progress(claim.fold_id, first, end, b"\x00repeats"))])
    return moved


async def _flushed(target: StateTarget, claim: Claim, end: int, data: bytes) -> tuple[Claim, ViewsWritten]:
    """One whole flush of one owner."""
    merged = await _written(target, claim, end, a=data)
    written = await target.write_views([("view:a", merged["view:a"].change, data)], claim.fold_id)
    return await _committed(target, claim, end), written


async def an_empty_target_knows_nothing(opener: OpenTarget) -> None:
    """No progress, no parts; a claim to something is refused, one to nothing is given."""
    async with _opened(opener) as [target]:
        expect_equal(dict(await target.progress([_ONE])), {}, "progress")
        error = await refused(target.acquire([Claim(_ONE, "fold", 5)]))
        expect_equal((error.stored, error.expected), (None, 5), "positions of the conflict")
        claim = await _claimed(target, _ONE)
        expect_equal(await _found(target, claim, "a"), {}, "parts")
        expect_equal(await target.write_views([], "fold"), ViewsWritten(0, 0), "views of nobody")


async def a_flush_can_be_read_back(opener: OpenTarget) -> None:
    """Parts with their end, of both partitions; progress with the repeats; a counter that moves with each change."""
    async with _opened(opener) as [target]:
        one, two = await _claimed(target, _ONE), await _claimed(target, _TWO)
        first = await _written(target, one, 10, a=b"1a", b=bytes(range(256)))
        second = await _written(target, two, 20, a=b"2a")
        expect_equal(dict(first["view:a"].parts), {_ONE: b"1a"}, "parts after one write")
        expect_equal(dict(second["view:a"].parts), {_ONE: b"1a", _TWO: b"2a"}, "parts of both partitions")
        expect_equal(second["view:a"].change > first["view:a"].change, True, "the counter has moved")
        await _committed(target, one, 10, first=3)
        expect_equal(dict(await target.progress([_ONE, _TWO])), {_ONE: Progress("fold", 3, 10, b"\x00repeats")}, "progress")
        found = await _found(target, one, "abc")
        expect_equal(found, {"view:a": (10, b"1a"), "view:b": (10, bytes(range(256)))}, "parts with their ends")


async def partitions_are_written_together_or_not_at_all(opener: OpenTarget) -> None:
    """One call for several: each owner's parts are one change; one claim that does not hold stops all of it."""
    async with _opened(opener) as [target]:
        claims = await target.acquire([Claim(_ONE, "fold", None), Claim(_TWO, "fold", None)])
        ends = [(claims[0], 10), (claims[1], 20)]
        parts = {"view:a": {_ONE: b"1a", _TWO: b"2a"}, "view:b": {_TWO: b"2b"}}
        merged = await target.write_parts(ends, parts)
        expect_equal(merged, {owner: Merged(1, own) for owner, own in parts.items()}, "the parts of both")
        wanted = [(_TWO, "view:a"), (_ONE, "view:b"), (_ONE, "view:a")]
        expect_equal(dict(await target.parts("fold", wanted)), {wanted[0]: (20, b"2a"), wanted[2]: (10, b"1a")}, "parts read together")
        again = await target.write_parts([(claims[0], 11), (claims[1], 20)], {"view:a": {_ONE: b"11a", _TWO: b"other"}})
        expect_equal(again, {"view:a": Merged(2, {_ONE: b"11a", _TWO: b"2a"})}, "one part that goes on beside one that does not")
        stale = claims[1]._replace(token="stale")  # noqa: S106  # void, and that is the point
        for call in (
            target.write_parts([(claims[0], 30), (stale, 30)], {"view:b": {_ONE: b"lost"}}),
            target.commit([(claims[0], Progress("fold", 0, 30)), (stale, Progress("fold", 0, 30))]),
            target.acquire([claims[0], stale._replace(next=1)]),
        ):
            error = await refused(call)
            expect_equal(error.where, str(_TWO), "which claim does not hold")
        expect_equal(dict(await target.progress([_ONE, _TWO])), {}, "progress after refused calls")
        expect_equal(await _found(target, claims[0], "ab"), {"view:a": (11, b"11a")}, "parts after refused calls")
        moved, _ = await target.commit([(claims[0], Progress("fold", 0, 11)), (claims[1], Progress("fold", 0, 20))])
        expect_equal([claim.next for claim in moved], [11, 20], "claims to go on with")
        await target.check(moved)


async def a_part_never_goes_back(opener: OpenTarget) -> None:
    """The same end, or a smaller one, writes nothing, and gives what is there; also where numbers are beyond 2^53."""
    async with _opened(opener) as [target]:
        claim = await _claimed(target, _ONE)
        await _written(target, claim, _LARGE, a=b"large")
        again = await _written(target, claim, _LARGE, a=b"same")
        expect_equal(again, {"view:a": Merged(1, {_ONE: b"large"})}, "a repeated write")
        earlier = await _written(target, claim, 9, a=b"earlier")
        expect_equal(earlier, {"view:a": Merged(1, {_ONE: b"large"})}, "an earlier write")
        later = await _written(target, claim, _LARGE + 1, a=b"one more")
        expect_equal(later, {"view:a": Merged(2, {_ONE: b"one more"})}, "a write that goes one further")
        expect_equal(await _found(target, claim, "a"), {"view:a": (_LARGE + 1, b"one more")}, "the part that stands")


async def the_newest_claim_writes_and_no_other(opener: OpenTarget) -> None:
    """Whatever the older one tries is refused, and changes nothing."""
    async with _opened(opener, opener) as [old, new]:
        stale, _ = await _flushed(old, await _claimed(old, _ONE), 10, b"10")
        fresh = await _claimed(new, _ONE, 10)
        await refused(_written(old, stale, 11, a=b"lost"))
        await refused(_committed(old, stale, 11))
        await refused(old.check([stale]))
        await new.check([fresh])
        expect_equal(await _found(new, fresh, "a"), {"view:a": (10, b"10")}, "the part after refused writes")
        expect_equal((await new.progress([_ONE]))[_ONE].next, 10, "the position after refused writes")


async def a_write_builds_on_the_stored_position(opener: OpenTarget) -> None:
    """A claim to another position than the stored one is refused, with or without a token."""
    async with _opened(opener) as [target]:
        claim, _ = await _flushed(target, await _claimed(target, _ONE), _LARGE, b"x")
        for wrong in (None, _LARGE - 1, _LARGE + 1):
            error = await refused(target.acquire([claim._replace(next=wrong)]))
            expect_equal((error.stored, error.expected), (_LARGE, wrong), "positions of the conflict")
            await refused(_written(target, claim._replace(next=wrong), _LARGE + 2, a=b"lost"))
            await refused(target.check([claim._replace(next=wrong, token="")]))
        await target.check([claim, claim._replace(token="")])


async def views_are_written_once_and_only_while_fresh(opener: OpenTarget) -> None:
    """The same view again is not new, and one whose parts have moved is left to who moved them."""
    async with _opened(opener, opener) as [one, two]:
        left, right = await _claimed(one, _ONE), await _claimed(two, _TWO)
        before = await _written(one, left, 1, a=b"1")
        after = await _written(two, right, 1, a=b"2")
        expect_equal(await one.write_views([("view:a", before["view:a"].change, b"old")], "fold"), ViewsWritten(0, 0), "an outrun view")
        fresh = ("view:a", after["view:a"].change, b"fresh")
        expect_equal(await two.write_views([fresh], "fold"), ViewsWritten(1, 0), "a fresh view")
        expect_equal(await two.write_views([fresh], "fold"), ViewsWritten(0, 0), "the same view again")


async def the_last_views_come_with_the_position(opener: OpenTarget) -> None:
    """As if they had been written before it, each only while it is fresh; with a claim that does not hold neither is written."""
    async with _opened(opener) as [target]:
        claim = await _claimed(target, _ONE)
        merged = await _written(target, claim, 1, a=b"1", b=b"1")
        views = [("view:a", merged["view:a"].change, b"a"), ("view:b", merged["view:b"].change - 1, b"outrun")]
        stale = claim._replace(token="stale")  # noqa: S106  # void, and that is the point
        await refused(target.commit([(stale, Progress("fold", 0, 1))], views))
        expect_equal(dict(await target.progress([_ONE])), {}, "the position after a refused call")
        [moved], written = await target.commit([(claim, Progress("fold", 0, 1))], views)
        expect_equal((moved.next, written), (1, ViewsWritten(1, 0)), "the position, and the view that was not there before")
        expect_equal(await target.write_views(views, "fold"), ViewsWritten(0, 0), "the same views again")


async def another_fold_begins_anew(opener: OpenTarget) -> None:
    """Its claim is to nothing, and what the earlier fold has left is no part of it."""
    async with _opened(opener) as [target]:
        old, _ = await _flushed(target, await _claimed(target, _ONE), 10, b"old")
        other, _ = await _flushed(target, await _claimed(target, _TWO), 10, b"other")
        await refused(target.acquire([Claim(_ONE, "new", 10)]))
        claim = await _claimed(target, _ONE, fold="new")
        expect_equal(await _found(target, claim, "a"), {}, "parts under the new fold")
        await refused(_written(target, old, 11, a=b"lost"))
        merged = await _written(target, claim, 1, a=b"new")
        expect_equal(dict(merged["view:a"].parts), {_ONE: b"new"}, "parts of the new fold alone")
        expect_equal(dict((await _written(target, other, 11, a=b"o"))["view:a"].parts), {_TWO: b"o"}, "of the old fold alone")


async def of_two_clients_one_holds_a_partition(opener: OpenTarget) -> None:
    """Both acquire at once; one of them can flush then."""
    async with _opened(opener, opener) as targets:
        for number in range(10):
            claims = [await _claimed(target, _ONE, number or None) for target in targets]
            results = await asyncio.gather(
                *(_flushed(target, claim, number + 1, b"%d" % number) for target, claim in zip(targets, claims, strict=True)),
                return_exceptions=True,
            )
            expect_equal(sorted(type(result).__name__ for result in results), ["PositionConflict", "tuple"], "one flushes, one yields")


CASES: Final = (
    an_empty_target_knows_nothing,
    a_flush_can_be_read_back,
    partitions_are_written_together_or_not_at_all,
    a_part_never_goes_back,
    the_newest_claim_writes_and_no_other,
    a_write_builds_on_the_stored_position,
    views_are_written_once_and_only_while_fresh,
    the_last_views_come_with_the_position,
    another_fold_begins_anew,
    of_two_clients_one_holds_a_partition,
)
