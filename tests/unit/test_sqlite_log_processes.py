"""The embedded log between processes: several writers, kill -9, fork."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
import traceback

import pytest
from tests.apart import server
from tests.patience import PATIENCE_S

from tallyroll.adapters.sqlite import SqliteLog
from tallyroll.adapters.system import SystemClock
from tallyroll.errors import LogUnavailable
from tallyroll.events.topics import Catalogue
from tallyroll.ports import Delivered
from tallyroll.testing.contract import LogUnderTest, Member, deliver, everything, until

pytestmark = pytest.mark.slow


async def opened(folder):
    return await SqliteLog.open(folder, Catalogue(), clock=SystemClock())


def under_test():
    return LogUnderTest(Catalogue(), opened)


async def numbers(log):
    found = await everything(under_test(), log)
    return sorted(number for own in found.values() for number in own)


def in_process(target, *arguments):
    process = server().Process(target=target, args=arguments, daemon=True)
    process.start()
    return process


def joined(process):
    process.join(PATIENCE_S)
    return process.exitcode


# Runs in processes of their own.


def append_apart(folder, gate, first):
    async def run():
        gate.wait(PATIENCE_S)  # all open a file that is not there yet at the same time
        log = await opened(folder)
        for number in range(first, first + 200):
            await deliver(under_test(), log, under_test().numbered(1, first=number))
        await log.close()

    asyncio.run(run())


def append_until_killed(folder, told):
    async def run():
        log = await opened(folder)
        for first in range(0, 1_000_000, 7):
            await deliver(under_test(), log, under_test().numbered(7, first=first))
            told.send(first + 7)

    asyncio.run(run())


def append_one_late(folder, gate):
    async def run():
        log = await opened(folder)
        gate.wait(PATIENCE_S)
        await deliver(under_test(), log, under_test().numbered(1))
        await log.close()

    asyncio.run(run())


def fork_while_records_are_queued(folder):
    """Five children, each forked while the parent has more in its queue than it can have written."""

    async def in_child(log, member, first):
        with pytest.raises(LogUnavailable):
            await member.subscription.poll(0)
        await deliver(under_test(), log, under_test().numbered(100, first=first))
        await log.close()

    async def before():
        log = await opened(folder)
        member = await Member().join(log, "g", "task-events")
        await member.step()
        return log, member

    async def after(log, pendings, member):
        for pending in pendings:
            assert all(isinstance(outcome, Delivered) for outcome in await pending.settled())
        await member.step()
        await member.subscription.close()
        await log.close()

    loop = asyncio.new_event_loop()
    log, member = loop.run_until_complete(before())
    pendings, children = [], []
    for number in range(5):
        pendings += [log.append(under_test().numbered(1_000, first=first)) for first in range(number * 5_000, (number + 1) * 5_000, 1_000)]
        if (pid := os.fork()) == 0:
            status = 1
            try:
                asyncio.run(in_child(log, member, 100_000 + number * 100))
                status = 0
            except BaseException:  # noqa: BLE001  # the child ends here, whatever it was
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(status)
        children.append(pid)
    loop.run_until_complete(after(log, pendings, member))
    loop.close()
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 5


def fork_with_a_log_in_memory():
    log = asyncio.run(opened(None))
    if (pid := os.fork()) == 0:
        status = 1
        try:
            log.append(under_test().numbered(1))
        except LogUnavailable:
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    asyncio.run(log.close())


# Tests


async def test_processes_that_open_and_write_at_the_same_time_lose_nothing(tmp_path):
    gate = server().Event()
    processes = [in_process(append_apart, tmp_path, gate, first) for first in (0, 1_000, 2_000)]
    gate.set()
    assert [await asyncio.to_thread(joined, process) for process in processes] == [0, 0, 0]
    log = await opened(tmp_path)
    for own in (await everything(under_test(), log)).values():
        for first in (0, 1_000, 2_000):
            part = [number for number in own if first <= number < first + 1_000]
            assert part == sorted(part)
    assert await numbers(log) == [*range(200), *range(1_000, 1_200), *range(2_000, 2_200)]
    await log.close()


async def test_what_was_delivered_survives_kill_9(tmp_path):
    receiving, sending = server().Pipe(duplex=False)
    process = in_process(append_until_killed, tmp_path, sending)
    sending.close()
    told = 0
    while told < 700:
        assert await asyncio.to_thread(receiving.poll, PATIENCE_S)
        told = receiving.recv()
    process.kill()
    await asyncio.to_thread(process.join)
    while receiving.poll():
        try:
            told = receiving.recv()
        except EOFError:
            break
    log = await opened(tmp_path)
    found = await numbers(log)
    assert found in (list(range(told)), list(range(told + 7)))  # the last group may have been committed and not told any more
    connection = sqlite3.connect(tmp_path / "log.db")
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
    await log.close()


async def test_a_poll_notices_what_another_process_appends(tmp_path):
    gate = server().Event()
    process = in_process(append_one_late, tmp_path, gate)
    log = await opened(tmp_path)
    member = await Member().join(log, "g", "task-events")
    await until(lambda: len(member.held) == 8, member, timeout_s=PATIENCE_S, what="it holds everything")
    polling = asyncio.ensure_future(member.step(60_000))
    gate.set()
    assert await polling == 1
    assert await asyncio.to_thread(joined, process) == 0
    await member.subscription.close()
    await log.close()


async def test_forked_children_and_their_parent_write_their_own_records_once(tmp_path):
    assert await asyncio.to_thread(joined, in_process(fork_while_records_are_queued, tmp_path)) == 0
    log = await opened(tmp_path)
    assert await numbers(log) == [*range(25_000), *range(100_000, 100_500)]
    connection = sqlite3.connect(tmp_path / "log.db")
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
    await log.close()


async def test_a_log_in_memory_is_not_for_a_forked_child():
    assert await asyncio.to_thread(joined, in_process(fork_with_a_log_in_memory)) == 0
