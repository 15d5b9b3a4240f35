"""The part of the log's contract that is about groups: who reads what, and how partitions change hands."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Awaitable, Callable
from itertools import chain
from multiprocessing.connection import Connection
from random import Random
from typing import Final

from tallyroll.events.ids import new_id
from tallyroll.ports import EventLog
from tallyroll.testing.contract import LogUnderTest, Member, Told, deliver, everything, expect, expect_equal, until

Case = Callable[[LogUnderTest], Awaitable[None]]
_EMPTY_POLL_MS: Final = 100
_DOOMED_RECORDS: Final = 10  # in a batch of the member that is killed, so that many commits lie before and after its end


async def a_member_gets_every_partition_and_every_record(under_test: LogUnderTest) -> None:
    """From the start of the log, when nothing says otherwise; in offset order within each partition."""
    async with under_test.client() as log:
        await deliver(under_test, log, under_test.numbered(1_500))
        member = await Member().join(log, _group(under_test), under_test.topic.name, max_records=100)
        await _until_received(under_test, 1_500, member)
        expect_equal(sorted(member.numbers), list(range(1_500)), "every record once")
        expect_equal(member.held, set(under_test.partitions), "one member holds everything")
        await member.subscription.close()
        expect_equal(member.held, set(), "close revokes what is held")


async def a_poll_without_news_returns_empty_after_its_time(under_test: LogUnderTest) -> None:
    """Not before, and not much later."""
    loop = asyncio.get_running_loop()
    async with under_test.client() as log:
        member = await _settled_member(under_test, log)
        start = loop.time()
        expect_equal(list(await member.subscription.poll(_EMPTY_POLL_MS)), [], "there is nothing to get")
        passed_ms = (loop.time() - start) * 1_000
        expect(passed_ms >= _EMPTY_POLL_MS * 0.9, f"an empty poll of {_EMPTY_POLL_MS} ms returned after {passed_ms:.0f} ms")
        expect(passed_ms < under_test.timeout_s * 1_000, f"an empty poll of {_EMPTY_POLL_MS} ms took {passed_ms:.0f} ms")
        await member.subscription.close()


async def a_poll_returns_when_something_arrives(under_test: LogUnderTest) -> None:
    """Long before its time is over."""
    loop = asyncio.get_running_loop()
    async with under_test.client() as log:
        member = await _settled_member(under_test, log)
        start = loop.time()
        polling = asyncio.ensure_future(member.step(round(under_test.timeout_s * 1_000)))
        await deliver(under_test, log, under_test.numbered(1))
        expect_equal(await polling, 1, "how many records came")
        expect(loop.time() - start < under_test.timeout_s / 2, "the poll did not wait for its time-out")
        await member.subscription.close()


async def a_group_goes_on_where_it_committed(under_test: LogUnderTest) -> None:
    """Commits belong to the group; partitions without one are left out, and start at the beginning."""
    group, name = _group(under_test), under_test.topic.name
    first, second = under_test.partitions[:2]
    async with under_test.client() as log:
        await deliver(under_test, log, under_test.numbered(10, partition=0) + under_test.numbered(10, first=10, partition=1))
        expect_equal(dict(await log.committed(group, [name])), {}, "a new group has committed nothing")
        member = await Member(commits=False).join(log, group, name)
        await _until_received(under_test, 20, member)
        await member.subscription.commit({first: 4})
        expect_equal(dict(await log.committed(group, [name])), {first: 4}, "what was committed is told")
        expect_equal(dict(await log.committed(f"{group}-other", [name])), {}, "another group has its own")
        await member.subscription.close()
        successor = await Member("b").join(log, group, name)
        await _until_received(under_test, 16, successor)
        numbers = {partition: [item.number for item in successor.received if item.partition == partition] for partition in (first, second)}
        expect_equal(numbers, {first: list(range(4, 10)), second: list(range(10, 20))}, "from the commit, else from the start")
        await successor.subscription.close()


async def what_the_listener_says_wins_over_the_commit(under_test: LogUnderTest) -> None:
    """A follower's own store knows better than the log's hint."""
    group, name, first = _group(under_test), under_test.topic.name, under_test.partitions[0]
    async with under_test.client() as log:
        await deliver(under_test, log, under_test.numbered(10, partition=0))
        member = await Member().join(log, group, name)
        await _until_received(under_test, 10, member)
        await member.subscription.close()
        successor = await Member("b", starts={first: 7}).join(log, group, name)
        await _until_received(under_test, 3, successor)
        expect_equal(successor.numbers, [7, 8, 9], "from where the listener said")
        await successor.subscription.close()


async def two_groups_each_get_everything(under_test: LogUnderTest) -> None:
    """Groups share nothing."""
    async with under_test.client() as log:
        await deliver(under_test, log, under_test.numbered(200))
        one = await Member("one").join(log, _group(under_test), under_test.topic.name)
        two = await Member("two").join(log, _group(under_test), under_test.topic.name)
        for member in (one, two):
            await _until_received(under_test, 200, member)
            expect_equal(sorted(member.numbers), list(range(200)), f"group {member.name} gets every record once")
        await one.subscription.close()
        await two.subscription.close()


async def groups_of_one_client_do_not_touch_each_other(under_test: LogUnderTest) -> None:
    """Whatever one of them does at the same time: goes back, waits, stays away for long. Each gets what comes next for it."""
    chance, partitions, sent = Random(11), under_test.partitions, 0  # noqa: S311  # the same each time
    async with under_test.client() as log:
        members = [await Member(name).join(log, _group(under_test), under_test.topic.name, max_records=40) for name in "abc"]
        everything_there = set(partitions)
        settled = "each holds everything"
        await until(lambda: all(one.held == everything_there for one in members), *members, timeout_s=under_test.timeout_s, what=settled)
        for _ in range(60):
            count = chance.randrange(60)
            await deliver(under_test, log, under_test.numbered(count, first=sent))
            sent += count
            one, where = chance.choice(members), chance.choice(partitions)
            if (come := one.next_in(where)) and chance.random() < 0.3:  # noqa: PLR2004  # not each time
                await one.seek(where, chance.randrange(come + 1))
            (one.subscription.pause if chance.random() < 0.3 else one.subscription.resume)(where)  # noqa: PLR2004  # as above
            await asyncio.gather(*[member.step() for member in members if chance.random() < 0.6])  # noqa: PLR2004  # as above
        for member in members:
            for where in partitions:
                member.subscription.resume(where)
        done = "each has every record"
        await until(lambda: all({*one.numbers} == {*range(sent)} for one in members), *members, timeout_s=under_test.timeout_s, what=done)
        for member in members:
            await member.subscription.close()


async def a_paused_partition_waits_while_the_others_go_on(under_test: LogUnderTest) -> None:
    """And goes on where it stopped when it is resumed."""
    first, second = under_test.partitions[:2]
    async with under_test.client() as log:
        member = await _settled_member(under_test, log)
        await deliver(under_test, log, under_test.numbered(10, partition=0))
        await _until_received(under_test, 10, member)
        member.subscription.pause(first)
        await deliver(under_test, log, under_test.numbered(20, first=10, partition=0))
        await deliver(under_test, log, under_test.numbered(20, first=30, partition=1))
        await _until_received(under_test, 30, member)
        await member.step(_EMPTY_POLL_MS)
        expect_equal([item.number for item in member.received[10:]], list(range(30, 50)), "only the other partition went on")
        expect_equal({item.partition for item in member.received[10:]}, {second}, "nothing of the paused one")
        member.subscription.resume(first)
        await _until_received(under_test, 50, member)
        expect_equal(member.numbers[30:], list(range(10, 30)), "it went on where it stopped")
        await member.subscription.close()


async def a_partition_that_comes_back_is_not_paused(under_test: LogUnderTest) -> None:
    """Whatever was asked of it when it was held before; what was held all the time still waits."""
    group, name, everything_there = _group(under_test), under_test.topic.name, set(under_test.partitions)
    count = len(everything_there)
    async with under_test.client() as log:
        stays, comes = await Member("a").join(log, group, name), Member("b")
        await until(lambda: stays.held == everything_there, stays, timeout_s=under_test.timeout_s, what="one member holds everything")
        for partition in everything_there:
            stays.subscription.pause(partition)
        await comes.join(log, group, name)
        half = count // 2
        await until(lambda: len(stays.held) == len(comes.held) == half, stays, comes, timeout_s=under_test.timeout_s, what="half each")
        moved = set(comes.held)
        await comes.subscription.close()
        await until(lambda: stays.held == everything_there, stays, timeout_s=under_test.timeout_s, what="one holds everything again")
        await deliver(
            under_test, log, [record for number in range(count) for record in under_test.numbered(1, first=number, partition=number)]
        )
        await _until_received(under_test, len(moved), stays)
        expect_equal({item.partition for item in stays.received}, moved, "what came back goes on, and nothing else")
        for partition in everything_there - moved:
            stays.subscription.resume(partition)
        await _until_received(under_test, count, stays)
        await stays.subscription.close()


async def seek_goes_back_and_forward(under_test: LogUnderTest) -> None:
    """The next batch of that partition starts there; the others are not touched."""
    first = under_test.partitions[0]
    async with under_test.client() as log:
        member = await _settled_member(under_test, log)
        await deliver(under_test, log, under_test.numbered(10, partition=0) + under_test.numbered(5, first=50, partition=1))
        await _until_received(under_test, 15, member)
        await member.seek(first, 3)
        await _until_received(under_test, 22, member)
        expect_equal(member.numbers[15:], list(range(3, 10)), "back")
        await member.seek(first, 8)
        await _until_received(under_test, 24, member)
        expect_equal(member.numbers[22:], [8, 9], "and forward")
        await member.subscription.close()


async def no_partition_starves(under_test: LogUnderTest) -> None:
    """One with a long backlog does not keep the others waiting until it is through."""
    async with under_test.client() as log:
        await deliver(under_test, log, under_test.numbered(5_000, partition=0))
        await deliver(under_test, log, under_test.numbered(50, first=5_000, partition=1))
        member = await Member().join(log, _group(under_test), under_test.topic.name, max_records=20)
        small = under_test.partitions[1]
        await until(
            lambda: sum(item.partition == small for item in member.received) == 50,  # noqa: PLR2004  # all of them
            member,
            timeout_s=under_test.timeout_s,
            what="the small partition is through",
        )
        await _until_received(under_test, 5_050, member)
        expect_equal(sorted(member.numbers), list(range(5_050)), "every record once")
        await member.subscription.close()


async def members_share_partitions_and_hand_them_over(under_test: LogUnderTest) -> None:
    """Each partition has one holder, who is told to give it up before the other is told to take it; no record is lost or doubled."""
    async with under_test.client() as log:
        await _hand_over(under_test, log, log)


async def clients_share_partitions_and_hand_them_over(under_test: LogUnderTest) -> None:
    """The same for members on two clients, as in two processes."""
    async with under_test.client() as one, under_test.client() as other:
        await _hand_over(under_test, one, other)


async def _hand_over(under_test: LogUnderTest, one: EventLog, other: EventLog) -> None:
    group, name, everything_there = _group(under_test), under_test.topic.name, set(under_test.partitions)
    history: list[Told] = []
    a, b = Member("a", history=history), Member("b", history=history)

    async def publish(first: int) -> None:
        await deliver(under_test, one, under_test.numbered(300, first=first))

    await publish(0)
    await a.join(one, group, name, max_records=50)
    await until(lambda: a.held == everything_there, a, timeout_s=under_test.timeout_s, what="one member holds everything")
    await b.join(other, group, name, max_records=50)
    await publish(300)
    half = len(everything_there) // 2
    await until(lambda: len(a.held) == len(b.held) == half, a, b, timeout_s=under_test.timeout_s, what="two members hold half each")
    expect_equal(a.held | b.held, everything_there, "together they hold everything")
    await publish(600)
    await _until_received(under_test, 900, a, b)
    await a.subscription.close()
    await publish(900)
    await until(lambda: b.held == everything_there, b, timeout_s=under_test.timeout_s, what="who stays takes what the other left")
    await _until_received(under_test, 1_200 - len(a.received), b)
    expect_equal(sorted(a.numbers + b.numbers), list(range(1_200)), "every record came to one of them, once")
    await b.subscription.close()
    _check_history(history)


def _check_history(history: list[Told]) -> None:
    holders: dict[object, str] = {}
    for told in history:
        if told.what == "assigned":
            expect(
                told.partition not in holders,
                f"{told.partition} was revoked from {holders.get(told.partition)} before {told.member} got it",
            )
            holders[told.partition] = told.member
        else:
            expect_equal(holders.pop(told.partition, None), told.member, f"the one told that {told.partition} is {told.what} held it")
    expect_equal(holders, {}, "whoever closed has been told")


async def a_killed_member_is_replaced_and_nothing_is_lost(under_test: LogUnderTest) -> None:
    """Another process dies by SIGKILL between two commits; the survivor gets its partitions, from its last commits."""
    group, name = _group(under_test), under_test.topic.name
    async with under_test.client() as log:
        await deliver(under_test, log, under_test.numbered(400))
        told = await asyncio.to_thread(_killed_member, under_test, group)
        await deliver(under_test, log, under_test.numbered(100, first=400))
        there, commits = await everything(under_test, log), await log.committed(group, [name])
        expect_equal(sorted(chain(*there.values())), list(range(500)), "the log is whole")
        done = {number for partition, numbers in there.items() for number in numbers[: commits.get(partition, 0)]}
        expect(done.issuperset(told), "what the dead one committed stays committed")
        expect(len(done) <= len(told) + _DOOMED_RECORDS, "and no more than the batch that it could not tell of any more")
        survivor = await Member("survivor").join(log, group, name)
        await until(
            lambda: len(survivor.received) >= 500 - len(done) and survivor.held == set(under_test.partitions),
            survivor,
            timeout_s=under_test.takeover_s,
            what="the survivor holds everything, and has what the dead one had not committed",
        )
        expect_equal(sorted(survivor.numbers), sorted(set(range(500)) - done), "each record that was not committed comes once")
        await survivor.subscription.close()


def _killed_member(under_test: LogUnderTest, group: str) -> list[int]:
    """What a member in another process told of as committed before it was killed."""
    context = multiprocessing.get_context("spawn")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_doomed_member, args=(under_test, group, sending), daemon=True)
    process.start()
    sending.close()
    try:
        told = _wait_for_commits(receiving, under_test.takeover_s)
        process.kill()
        process.join()
        return told + _commits_left(receiving)
    finally:
        process.kill()
        process.join()
        receiving.close()


def _doomed_member(under_test: LogUnderTest, group: str, sending: Connection) -> None:
    """Runs in a process of its own: commits each small batch, tells of it, takes the next one, until it is killed."""
    asyncio.run(_follow_for_ever(under_test, group, sending))


async def _follow_for_ever(under_test: LogUnderTest, group: str, sending: Connection) -> None:
    async with under_test.client() as log:
        member = await Member("doomed").join(log, group, under_test.topic.name, max_records=_DOOMED_RECORDS)
        told = 0
        while True:
            await member.step()
            await member.commit()
            sending.send(member.numbers[told:])
            told = len(member.received)


def _wait_for_commits(receiving: Connection, timeout_s: float) -> list[int]:
    """The first commits that are told."""
    while receiving.poll(timeout_s):
        numbers: list[int] = receiving.recv()
        if numbers:
            return numbers
    raise AssertionError(f"the other process committed nothing within {timeout_s} s")


def _commits_left(receiving: Connection) -> list[int]:
    """What was told until the sender died; a message that it was writing then does not count."""
    numbers: list[int] = []
    try:
        while receiving.poll():
            numbers += receiving.recv()
    except (EOFError, OSError):
        return numbers
    return numbers


async def _settled_member(under_test: LogUnderTest, log: EventLog) -> Member:
    member = await Member().join(log, _group(under_test), under_test.topic.name)
    expected = set(under_test.partitions)
    await until(lambda: member.held == expected, member, timeout_s=under_test.timeout_s, what="the only member holds everything")
    return member


async def _until_received(under_test: LogUnderTest, count: int, *members: Member) -> None:
    await until(
        lambda: sum(len(member.received) for member in members) >= count,
        *members,
        timeout_s=under_test.timeout_s,
        what=f"{count} records have come",
    )


def _group(under_test: LogUnderTest) -> str:
    return f"{under_test.catalogue.prefix}contract.{new_id()}"


GROUP_CASES: Final[tuple[Case, ...]] = (
    a_member_gets_every_partition_and_every_record,
    a_poll_without_news_returns_empty_after_its_time,
    a_poll_returns_when_something_arrives,
    a_group_goes_on_where_it_committed,
    what_the_listener_says_wins_over_the_commit,
    two_groups_each_get_everything,
    groups_of_one_client_do_not_touch_each_other,
    a_paused_partition_waits_while_the_others_go_on,
    a_partition_that_comes_back_is_not_paused,
    seek_goes_back_and_forward,
    no_partition_starves,
    members_share_partitions_and_hand_them_over,
)
SHARED_GROUP_CASES: Final[tuple[Case, ...]] = (clients_share_partitions_and_hand_them_over,)
PROCESS_CASES: Final[tuple[Case, ...]] = (a_killed_member_is_replaced_and_nothing_is_lost,)
