"""How the embedded log deals partitions out, and what becomes of members that do not come back."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.patience import PATIENCE_S

from tallyroll.adapters.sqlite import SqliteLog
from tallyroll.adapters.sqlite.membership import assign
from tallyroll.adapters.system import SystemClock
from tallyroll.errors import LogUnavailable, TopicConflict
from tallyroll.events.position import TopicPartition
from tallyroll.events.topics import Catalogue
from tallyroll.testing.contract import LogUnderTest, Member, deliver, until

quick = settings(max_examples=50)
names = st.sampled_from("abcdef")
places = st.builds(TopicPartition, st.sampled_from(["s", "t", "u"]), st.integers(0, 7))
partition_sets = st.lists(places, unique=True, max_size=24)
groups = st.dictionaries(names, st.sets(st.sampled_from(["s", "t", "u"]), min_size=1), min_size=1)
holdings = st.dictionaries(places, st.sampled_from("abcxyz"))


@quick
@given(groups, partition_sets, holdings)
def test_every_partition_that_somebody_wants_has_one_holder_who_wants_it(members, partitions, holders):
    dealt = assign(members, partitions, holders)
    assert set(dealt) == {partition for partition in partitions if any(partition.topic in topics for topics in members.values())}
    assert all(partition.topic in members[name] for partition, name in dealt.items())


@quick
@given(st.sets(names, min_size=1), partition_sets, holdings)
def test_members_of_the_same_topics_differ_by_one_partition_at_the_most(members, partitions, holders):
    dealt = Counter(assign(dict.fromkeys(members, "stu"), partitions, holders).values())
    assert max(dealt[name] for name in members) - min(dealt[name] for name in members) <= 1


@quick
@given(groups, partition_sets, holdings)
def test_what_is_dealt_out_stays_as_it_is(members, partitions, holders):
    dealt = assign(members, partitions, holders)
    assert assign(members, partitions, dealt) == dealt


@quick
@given(st.sets(names, min_size=1), partition_sets, st.data())
def test_a_newcomer_takes_no_more_than_its_share(members, partitions, data):
    newcomer = data.draw(names.filter(lambda name: name not in members) if len(members) < 6 else st.just("z"))
    before = assign(dict.fromkeys(members, "stu"), partitions, {})
    after = assign(dict.fromkeys({*members, newcomer}, "stu"), partitions, before)
    moved = {partition for partition in partitions if before[partition] != after[partition]}
    assert all(after[partition] == newcomer for partition in moved)


@quick
@given(groups, partition_sets, holdings, st.randoms())
def test_the_order_of_the_tables_does_not_matter(members, partitions, holders, random):
    shuffled = random.sample(partitions, len(partitions))
    turned = dict(reversed(members.items()))
    assert assign(turned, shuffled, holders) == assign(members, partitions, holders)


@pytest.fixture
async def under_test(tmp_path):
    catalogue = Catalogue()
    log = await SqliteLog.open(tmp_path, catalogue, clock=SystemClock(), session_timeout_ms=600_000)  # and nobody stands still for so long

    async def opened(_):
        return log

    yield LogUnderTest(catalogue, opened)
    await log.close()


def edit(tmp_path, sql, *values):
    connection = sqlite3.connect(tmp_path / "log.db")
    with connection:
        connection.execute(sql, values)
    connection.close()


@pytest.mark.parametrize("shift_us", [-3_600_000_000, 3_600_000_000], ids=["renewed long ago", "renewed before a reboot"])
async def test_a_member_whose_lease_ran_out_is_told_that_it_lost_its_partitions(under_test, tmp_path, shift_us):
    log, everything = await under_test.open(None), set(under_test.partitions)
    a = await Member("a").join(log, "g", under_test.topic.name)
    await until(lambda: a.held == everything, a, timeout_s=PATIENCE_S, what="a holds everything")
    edit(tmp_path, "UPDATE members SET renewed_us = renewed_us + ?", shift_us)
    b = await Member("b", history=a.history).join(log, "g", under_test.topic.name)
    await until(lambda: b.held == everything, b, timeout_s=PATIENCE_S, what="b takes over without waiting for a")
    await until(lambda: len(a.held) == len(b.held) == 4, a, b, timeout_s=PATIENCE_S, what="a comes back and gets its half")
    told = [item for item in a.history if item.member == "a"]
    assert [item.what for item in told[8:16]] == ["lost"] * 8
    await a.subscription.close()
    await b.subscription.close()


async def test_who_has_lost_a_partition_commits_nothing_for_it(under_test, tmp_path):
    log, name = await under_test.open(None), under_test.topic.name
    await deliver(under_test, log, under_test.numbered(10, partition=0))
    a = await Member("a").join(log, "g", name)
    await until(lambda: len(a.received) == 10, a, timeout_s=PATIENCE_S, what="everything has come")
    edit(tmp_path, "DELETE FROM claims")
    await a.commit()
    assert await log.committed("g", [name]) == {}
    await a.subscription.close()


async def test_a_listener_that_fails_is_asked_again_at_the_next_poll(under_test):
    log = await under_test.open(None)

    class Unwilling(Member):
        tries = 0

        async def assigned(self, partitions):
            self.tries += 1
            if self.tries == 1:
                raise LogUnavailable("store", "away")
            return await super().assigned(partitions)

    member = await Unwilling().join(log, "g", under_test.topic.name)
    with pytest.raises(LogUnavailable):
        await member.subscription.poll(0)
    await until(lambda: member.held == set(under_test.partitions), member, timeout_s=PATIENCE_S, what="assigned at the second try")
    await member.subscription.close()


async def test_closing_the_log_ends_memberships_so_that_a_restart_waits_for_nobody(tmp_path):
    catalogue = Catalogue()
    log = await SqliteLog.open(tmp_path, catalogue, clock=SystemClock(), session_timeout_ms=3_600_000)
    member = await Member().join(log, "g", "task-events")
    await member.step()
    await log.close()
    assert [told.what for told in member.history] == ["assigned"] * 8
    with pytest.raises(LogUnavailable):
        await member.subscription.poll(0)
    log = await SqliteLog.open(tmp_path, catalogue, clock=SystemClock())
    member = await Member().join(log, "g", "task-events")
    await until(lambda: len(member.held) == 8, member, timeout_s=PATIENCE_S, what="everything is free")
    await log.close()


async def test_who_is_cancelled_while_joining_has_not_joined(under_test, tmp_path):
    log = await under_test.open(None)
    other = sqlite3.connect(tmp_path / "log.db", isolation_level=None)
    for steps in range(10):
        other.execute("BEGIN IMMEDIATE")  # joining waits for this
        joining = asyncio.ensure_future(Member("gone").join(log, "g", under_test.topic.name))
        for _ in range(steps):
            await asyncio.to_thread(threading.active_count)  # the log's thread gets on meanwhile
        joining.cancel()
        other.execute("ROLLBACK")
        with pytest.raises(asyncio.CancelledError):
            await joining
    other.close()
    member = await Member().join(log, "g", under_test.topic.name)
    await until(lambda: member.held == set(under_test.partitions), member, timeout_s=PATIENCE_S, what="everything is free")
    await member.subscription.close()


async def test_members_with_different_topics_share_a_group(under_test):
    log = await under_test.open(None)
    a, b = Member("a"), Member("b")
    await a.join(log, "g", "task-events", "workflow-events")
    await b.join(log, "g", "workflow-events")
    await until(lambda: len(a.held) == 8 and len(b.held) == 4, a, b, timeout_s=PATIENCE_S, what="each holds what it wants, in balance")
    await a.subscription.close()
    await b.subscription.close()


async def test_a_topic_that_is_not_in_the_catalogue_cannot_be_subscribed(under_test):
    with pytest.raises(TopicConflict):
        await Member().join(await under_test.open(None), "g", "nowhere")


async def test_seeking_what_is_not_held_is_a_slip_of_the_caller(under_test):
    member = await Member().join(await under_test.open(None), "g", under_test.topic.name)
    with pytest.raises(ValueError, match="not held"):
        await member.subscription.seek(under_test.partitions[0], 0)
    await member.step()
    with pytest.raises(ValueError, match="an offset is 0 to"):
        await member.subscription.seek(under_test.partitions[0], -1)
    await member.subscription.close()
