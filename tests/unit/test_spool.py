"""The spool: in order, bounded, durable, and owned by one process."""

from __future__ import annotations

import asyncio
import resource
import signal
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tests.apart import Program

from tallyroll.adapters.sqlite.spool import SqliteSpool
from tallyroll.errors import Backpressure, SettingsError, StoreUnavailable
from tallyroll.events.position import TopicPartition
from tallyroll.events.topics import Catalogue
from tallyroll.testing.builders import numbered

CATALOGUE = Catalogue()
LANE = TopicPartition("task-events", 1)
ROOM = 1 << 20


def records(count, first=0, partition=1):
    return numbered(CATALOGUE, count, first=first, partition=partition)


async def ids(spool, lane=LANE):
    return [item.record.event_id for item in await spool.take(lane, 10_000)]


async def test_records_come_back_as_they_were_in_order():
    spool = SqliteSpool(None, max_bytes=ROOM)
    put = records(5)
    numbers = await spool.put(put)
    taken = await spool.take(LANE, 3)
    assert [item.record for item in taken] == put[:3]
    assert [item.number for item in taken] == list(numbers[:3]) == sorted(numbers[:3])
    await spool.close()


async def test_concurrent_puts_keep_the_order_of_the_calls():
    spool = SqliteSpool(None, max_bytes=ROOM)
    await asyncio.gather(*(spool.put(records(3, first=first)) for first in range(0, 300, 3)))
    assert await ids(spool) == [f"n-{number}" for number in range(300)]
    await spool.close()


async def test_lanes_are_counted_and_separate():
    spool = SqliteSpool(None, max_bytes=ROOM)
    await spool.put(records(2) + records(3, first=2, partition=4))
    assert spool.lanes() == {LANE: 2, TopicPartition("task-events", 4): 3}
    assert spool.depth == 5
    await spool.remove([item.number for item in await spool.take(LANE, 10)])
    assert spool.lanes() == {TopicPartition("task-events", 4): 3}
    await spool.close()


async def test_the_bound_holds_for_concurrent_puts_and_frees_with_removal():
    one = records(1)
    spool = SqliteSpool(None, max_bytes=0)
    size = len(one[0].key) + len(one[0].value) + 200
    await spool.close()
    spool = SqliteSpool(None, max_bytes=size * 3)
    results = await asyncio.gather(*(spool.put(one) for _ in range(5)), return_exceptions=True)
    assert [isinstance(result, Backpressure) for result in results] == [False] * 3 + [True] * 2
    assert not spool.has_room(1)
    await spool.remove(results[0])
    await spool.put(one)
    assert spool.size_bytes == size * 3
    await spool.close()


async def test_a_cancelled_put_is_counted_like_any_other():
    spool = SqliteSpool(None, max_bytes=ROOM)
    put = asyncio.create_task(spool.put(records(3)))
    await asyncio.sleep(0)  # noqa: TID251  # handed over to the spool's thread
    put.cancel()
    await asyncio.wait([put])
    assert len(await ids(spool)) == spool.depth == 3
    await spool.close()


async def test_refused_records_are_set_aside_and_kept(tmp_path):
    spool = SqliteSpool(tmp_path, max_bytes=ROOM)
    numbers = await spool.put(records(3))
    await spool.refuse({numbers[1]: "INVALID_RECORD"})
    assert (spool.depth, spool.refused) == (2, 1)
    assert await ids(spool) == ["n-0", "n-2"]
    await spool.close()
    spool = SqliteSpool(tmp_path, max_bytes=ROOM)
    assert (spool.depth, spool.refused) == (2, 1)
    await spool.close()


async def test_a_full_disk_is_back_pressure_without_a_partial_row_and_passes(tmp_path):
    spool = SqliteSpool(tmp_path, max_bytes=1 << 30)
    await spool.put(records(1))
    pages = spool._connection.execute("PRAGMA page_count").fetchone()[0]
    spool._connection.execute(f"PRAGMA max_page_count = {pages + 2}")  # SQLite's own way to be out of space
    with pytest.raises(Backpressure, match="disk"):
        await spool.put(records(2_000, first=1))
    assert await ids(spool) == ["n-0"]
    assert spool.depth == 1
    spool._connection.execute("PRAGMA max_page_count = 1000000")
    await spool.put(records(2_000, first=1))
    assert len(await ids(spool)) == spool.depth == 2_001
    await spool.close()


async def test_one_put_that_fails_spoils_no_other_of_its_commit(tmp_path):
    spool = SqliteSpool(tmp_path, max_bytes=1 << 30)
    await spool.put(records(1))
    pages = spool._connection.execute("PRAGMA page_count").fetchone()[0]
    spool._connection.execute(f"PRAGMA max_page_count = {pages + 2}")
    results = await asyncio.gather(
        spool.put(records(1, first=1)), spool.put(records(2_000, first=100)), spool.put(records(1, first=2)), return_exceptions=True
    )
    assert [isinstance(result, Backpressure) for result in results] == [False, True, False]
    assert await ids(spool) == ["n-0", "n-1", "n-2"]
    await spool.close()


async def test_the_depth_changes_in_the_step_in_which_who_waits_is_told():
    spool = SqliteSpool(None, max_bytes=ROOM)
    putting = asyncio.create_task(spool.put(records(3)))
    await asyncio.sleep(0)  # noqa: TID251  # lets it begin
    while not spool.size_bytes:
        threading.Event().wait(0.001)  # the spool's thread has written, and the event loop has not heard of it
    assert spool.depth == 0
    removing = asyncio.create_task(spool.remove(await putting))
    assert spool.depth == 3
    await asyncio.sleep(0)  # noqa: TID251  # as above
    while spool.size_bytes:
        threading.Event().wait(0.001)
    assert spool.depth == 3
    await removing
    assert spool.depth == 0
    await spool.close()


async def test_what_was_put_counts_also_when_nobody_waits_any_more():
    spool = SqliteSpool(None, max_bytes=ROOM)
    task = asyncio.create_task(spool.put(records(3)))
    await asyncio.sleep(0)  # noqa: TID251  # lets the task begin
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(await ids(spool)) == 3  # behind the put, in the same thread
    assert spool.depth == 3
    await spool.close()


async def test_put_now_writes_without_an_event_loop():
    spool = SqliteSpool(None, max_bytes=ROOM)
    assert await asyncio.to_thread(spool.put_now, records(3), 5.0)
    assert spool.depth == 3
    assert not spool.put_now(numbered(CATALOGUE, 100_000, partition=0), 5.0), "no room"
    await spool.close()


# Files and owners


async def test_an_empty_spool_leaves_no_file(tmp_path):
    spool = SqliteSpool(tmp_path, max_bytes=ROOM)
    await spool.remove(await spool.put(records(1)))
    await spool.close()
    assert list(tmp_path.iterdir()) == []


async def test_the_file_of_a_dead_process_is_taken_over_before_own_records(tmp_path):
    spool = SqliteSpool(tmp_path, max_bytes=ROOM)
    await spool.put(records(3))
    await spool.close()
    spool = SqliteSpool(tmp_path, max_bytes=ROOM)
    await spool.put(records(2, first=3))
    assert await ids(spool) == [f"n-{number}" for number in range(5)]
    assert len(list(tmp_path.glob("*.db"))) == 1
    await spool.close()


async def test_the_file_of_a_living_process_is_left_alone(tmp_path):
    first = SqliteSpool(tmp_path, max_bytes=ROOM)
    await first.put(records(3))
    second = SqliteSpool(tmp_path, max_bytes=ROOM)
    assert second.depth == 0
    await second.close()
    assert await ids(first) == ["n-0", "n-1", "n-2"]
    await first.close()


async def test_several_dead_processes_are_taken_over_oldest_first(tmp_path):
    living = [SqliteSpool(tmp_path, max_bytes=ROOM) for _ in range(3)]
    for number, spool in enumerate(living):
        await spool.put(records(2, first=number * 2))
    for spool in living:
        await spool.close()
    heir = SqliteSpool(tmp_path, max_bytes=ROOM)
    assert sorted(await ids(heir)) == [f"n-{number}" for number in range(6)]
    for first in range(0, 6, 2):
        order = await ids(heir)
        assert order.index(f"n-{first}") + 1 == order.index(f"n-{first + 1}"), "each file's own order stays"
    await heir.close()


@pytest.mark.parametrize("content", [b"", b"no database at all" * 300], ids=["empty", "garbage"])
async def test_a_file_that_is_no_spool_takes_nothing_down(tmp_path, content):
    (tmp_path / "0000.db").write_bytes(content)
    spool = SqliteSpool(tmp_path, max_bytes=ROOM)
    await spool.put(records(1))
    assert await ids(spool) == ["n-0"]
    await spool.close()
    if content:
        assert (tmp_path / "0000.damaged").read_bytes() == content


async def test_a_truncated_file_is_moved_aside(tmp_path):
    spool = SqliteSpool(tmp_path, max_bytes=1 << 30)
    await spool.put(records(3_000))
    await spool.close()
    (path,) = tmp_path.glob("*.db")
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 3)
    heir = SqliteSpool(tmp_path, max_bytes=1 << 30)
    assert heir.depth == 0
    assert len(list(tmp_path.glob("*.damaged"))) == 1
    await heir.close()


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Stands for a disk that is full: nothing written grows beyond that."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_no_room_for_a_new_spool_is_said_and_leaves_nothing_behind(tmp_path):
    with files_of_at_most(8_192), pytest.raises(StoreUnavailable, match="free some space"):
        SqliteSpool(tmp_path, max_bytes=ROOM)
    assert list(tmp_path.iterdir()) == []


async def test_what_a_dead_process_left_waits_as_it_is_while_there_is_no_room_to_take_it_over(tmp_path):
    spool = SqliteSpool(tmp_path, max_bytes=1 << 30)
    await spool.put(records(3_000))
    await spool.close()
    with files_of_at_most(65_536), pytest.raises(StoreUnavailable, match="spool"):
        SqliteSpool(tmp_path, max_bytes=1 << 30)
    heir = SqliteSpool(tmp_path, max_bytes=1 << 30)
    assert await ids(heir) == [f"n-{number}" for number in range(3_000)]
    await heir.close()


async def test_a_file_that_cannot_be_opened_now_is_not_taken_for_a_damaged_one(tmp_path):
    spool = SqliteSpool(tmp_path, max_bytes=ROOM)
    await spool.put(records(2))
    await spool.close()
    (path,) = tmp_path.glob("*.db")
    in_the_way = path.with_name(path.name + "-wal")
    in_the_way.mkdir()
    with pytest.raises(StoreUnavailable, match="cannot be opened"):
        SqliteSpool(tmp_path, max_bytes=ROOM)
    in_the_way.rmdir()
    heir = SqliteSpool(tmp_path, max_bytes=ROOM)
    assert await ids(heir) == ["n-0", "n-1"]
    await heir.close()


def test_a_folder_that_cannot_be_made_is_a_settings_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SettingsError, match="TALLYROLL_DATA_DIR"):
        SqliteSpool(tmp_path / "file" / "spool", max_bytes=ROOM)


def put_for_ever(folder):
    async def put():
        spool = SqliteSpool(folder, max_bytes=1 << 30)
        for first in range(0, 1_000_000, 3):
            await spool.put(numbered(Catalogue(), 3, first=first, partition=1))
            print(first + 3, flush=True)  # noqa: T201  # whoever kills it reads this

    asyncio.run(put())


@pytest.mark.slow
@pytest.mark.parametrize("after", [1, 20, 111])
def test_whatever_was_put_survives_kill_9_whole(tmp_path, after):
    program = Program(put_for_ever, tmp_path)
    for _ in range(after):
        program.lines.readline()
    program.kill()
    code, rest = program.ended()
    assert code == -signal.SIGKILL
    known = int(rest.split()[-1]) if rest else after * 3

    async def inherit():
        heir = SqliteSpool(tmp_path, max_bytes=1 << 30)
        found = await ids(heir)
        await heir.close()
        return found

    found = asyncio.run(inherit())
    assert found[:known] == [f"n-{number}" for number in range(known)]
    assert len(found) in (known, known + 3), "a put is there whole or not at all"


async def test_the_file_can_be_read_by_any_sqlite_tool(tmp_path):
    spool = SqliteSpool(tmp_path, max_bytes=ROOM)
    await spool.put(records(2))
    (path,) = tmp_path.glob("*.db")
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT event_id, topic, partition, value FROM record").fetchall() == [
            ("n-0", "task-events", 1, b"0"),
            ("n-1", "task-events", 1, b"1"),
        ]
    connection.close()
    await spool.close()
