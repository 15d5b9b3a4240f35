"""The embedded log beyond the contract: files, limits, failures of the disk, and how appends share commits."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections import Counter

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.patience import PATIENCE_S

from tallyroll.adapters.sqlite import SqliteLog, blocks
from tallyroll.adapters.sqlite.schema import OFFSET_BITS, connect, create
from tallyroll.adapters.system import SystemClock
from tallyroll.errors import Backpressure, LogUnavailable, PublishRejected, TopicConflict
from tallyroll.events.position import TopicPartition
from tallyroll.events.topics import Catalogue, TopicOverride
from tallyroll.ports import Delivered, Encoded, Rejected, Span, Unknown
from tallyroll.testing.builders import numbered
from tallyroll.testing.clock import FakeClock

CATALOGUE = Catalogue()
PLACE = TopicPartition("task-events", 0)


def some(count, first=0):
    return numbered(CATALOGUE, count, first=first, partition=0)


async def opened(folder, **options):
    return await SqliteLog.open(folder, CATALOGUE, clock=FakeClock(), **options)


async def numbers(log, end, start=0):
    return [int(value) async for batch in log.read([Span(*PLACE, start, end)]) for value in batch.values]


@pytest.fixture
async def log(tmp_path):
    log = await opened(tmp_path, lock_timeout_ms=50)
    yield log
    await log.close()


def other_connection(folder):
    return sqlite3.connect(folder / "log.db", isolation_level=None)


# Files


async def test_what_was_delivered_is_there_after_a_restart(tmp_path):
    log = await opened(tmp_path)
    await log.append(some(10)).settled()
    await log.close()
    assert [path.name for path in tmp_path.iterdir()] == ["log.db"]
    log = await opened(tmp_path)
    assert await numbers(log, 10) == list(range(10))
    assert (await log.append(some(1)).settled())[0].position.offset == 10
    await log.close()


async def test_missing_folders_are_made(tmp_path):
    await (await opened(tmp_path / "a" / "b")).close()
    assert (tmp_path / "a" / "b" / "log.db").exists()


@pytest.mark.parametrize(
    "content", [b"not a database, and longer than the sixteen bytes of its header" * 20, b"SQLite format 3\x00" + bytes(500)]
)
async def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path, content):
    (tmp_path / "log.db").write_bytes(content)
    with pytest.raises(LogUnavailable, match="choose another folder, or restore a copy"):
        await opened(tmp_path)
    assert (tmp_path / "log.db").read_bytes() == content


async def test_a_database_of_another_program_is_refused_and_left_alone(tmp_path):
    connection = other_connection(tmp_path)
    connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    before = (tmp_path / "log.db").read_bytes()
    with pytest.raises(LogUnavailable, match="another program"):
        await opened(tmp_path)
    assert (tmp_path / "log.db").read_bytes() == before


async def test_a_log_of_a_newer_version_is_refused(tmp_path):
    await (await opened(tmp_path)).close()
    connection = other_connection(tmp_path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(LogUnavailable, match="upgrade"):
        await opened(tmp_path)


async def test_a_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "data").write_text("")
    with pytest.raises(LogUnavailable, match="cannot be made"):
        await opened(tmp_path / "data")


async def test_another_partition_count_than_the_catalogue_s_is_a_conflict(tmp_path):
    await (await opened(tmp_path)).close()
    other = Catalogue(overrides={"task-events": TopicOverride(partitions=9)})
    with pytest.raises(TopicConflict, match="8 partitions, the catalogue 9"):
        await SqliteLog.open(tmp_path, other, clock=FakeClock())


async def test_catalogues_with_other_prefixes_share_a_file_and_nothing_else(tmp_path, log):
    await log.append(some(3)).settled()
    other = await SqliteLog.open(tmp_path, Catalogue(prefix="b."), clock=FakeClock())
    assert set((await other.ends(["b.task-events"])).values()) == {0}
    with pytest.raises(TopicConflict):
        await other.ends(["task-events"])
    await other.close()


async def test_a_flipped_bit_in_the_file_is_noticed(tmp_path, log):
    await log.append(some(3)).settled()
    connection = other_connection(tmp_path)
    payload = bytearray(connection.execute("SELECT payload FROM blocks").fetchone()[0])
    payload[-1] ^= 1
    connection.execute("UPDATE blocks SET payload = ?", (bytes(payload),))
    connection.close()
    with pytest.raises(LogUnavailable, match="damaged"):
        await numbers(log, 3)


async def test_a_missing_block_is_noticed(tmp_path, log):
    for first in range(3):
        await log.append(some(1, first)).settled()
    connection = other_connection(tmp_path)
    connection.execute("DELETE FROM blocks WHERE position = (SELECT position FROM blocks LIMIT 1 OFFSET 1)")
    connection.close()
    with pytest.raises(LogUnavailable, match="damaged"):
        await numbers(log, 3, start=1)
    with pytest.raises(LogUnavailable, match="damaged"):
        await log.positions_at(["task-events"], some(3)[2].timestamp_ms)


async def test_a_file_whose_blocks_lie_by_their_position_is_used_as_it_is(tmp_path):
    await (await opened(tmp_path)).close()
    connection = other_connection(tmp_path)
    connection.execute("DROP TABLE blocks")
    connection.execute(
        "CREATE TABLE blocks (position INTEGER PRIMARY KEY, count INTEGER NOT NULL, high_ms INTEGER NOT NULL, "
        "checksum INTEGER NOT NULL, payload BLOB NOT NULL) STRICT"
    )
    connection.close()
    log = await opened(tmp_path)
    await log.append(some(3)).settled()
    await log.append(some(2, 3)).settled()
    assert await numbers(log, 5, start=1) == [1, 2, 3, 4]
    assert (await log.ends(["task-events"]))[PLACE] == 5
    await log.close()


async def test_the_blocks_of_a_commit_lie_beside_each_other(tmp_path, log):
    few = [msgspec.structs.replace(record, partition=partition) for partition in range(8) for record in some(2)]
    for _ in range(3):
        await log.append(few).settled()
    connection = other_connection(tmp_path)
    rows = connection.execute("SELECT position FROM blocks ORDER BY rowid").fetchall()
    connection.close()
    partitions = [position >> OFFSET_BITS for (position,) in rows]
    assert partitions == partitions[:8] * 3
    assert await numbers(log, 6, start=1) == [1, 0, 1, 0, 1]


# Outcomes when the database cannot be written


def tell_sqlite(log, pragma):
    with log._current.writer._guarded.use() as connection:
        connection.execute(pragma)


async def refused(log):
    (outcome,) = await log.append(some(1, 100)).settled()
    assert isinstance(outcome, Rejected)
    assert isinstance(outcome.error, LogUnavailable)
    return str(outcome.error)


async def test_a_lock_that_is_held_for_too_long_refuses_and_leaves_no_trace(tmp_path, log):
    blocker = other_connection(tmp_path)
    blocker.execute("BEGIN IMMEDIATE")
    assert "another process held the lock" in await refused(log)
    blocker.execute("ROLLBACK")
    blocker.close()
    await log.append(some(2)).settled()
    assert await numbers(log, 10) == [0, 1]


async def test_a_full_disk_refuses_and_the_log_goes_on_when_there_is_room(log):
    tell_sqlite(log, "PRAGMA max_page_count = 1")  # stands for a file system that is full
    assert "disk is full" in await refused_large(log)
    tell_sqlite(log, "PRAGMA max_page_count = 1073741823")
    await log.append(some(2)).settled()
    assert await numbers(log, 10) == [0, 1]


async def refused_large(log):
    (outcome,) = await log.append([msgspec.structs.replace(some(1)[0], value=bytes(500_000))]).settled()
    assert isinstance(outcome, Rejected)
    return str(outcome.error)


async def test_a_read_only_database_refuses(log):
    tell_sqlite(log, "PRAGMA query_only = 1")
    assert "read-only" in await refused(log)


async def test_an_error_text_holds_nothing_of_the_record(log):
    tell_sqlite(log, "PRAGMA query_only = 1")
    (outcome,) = await log.append([msgspec.structs.replace(some(1)[0], key=b"canary", value=b"canary")]).settled()
    assert "canary" not in str(outcome.error)


# Limits


async def test_the_limit_of_a_record_counts_key_and_headers(tmp_path):
    log = await opened(tmp_path, max_record_bytes=100)
    fits = Encoded("e", *PLACE, b"k" * 10, b"v" * 80, [("h", b"x" * 9)], 0)
    outcomes = await log.append([fits, msgspec.structs.replace(fits, key=b"k" * 11)]).settled()
    assert [type(outcome) for outcome in outcomes] == [Delivered, Rejected]
    assert isinstance(outcomes[1].error, PublishRejected)
    assert "101 bytes" in str(outcomes[1].error)
    await log.close()


@pytest.mark.parametrize("limit", [{"max_queued_records": 10}, {"max_queued_bytes": 100}], ids=["records", "bytes"])
async def test_what_does_not_fit_is_refused_as_a_whole_and_fits_later(tmp_path, limit):
    log = await opened(tmp_path, **limit)
    blocker = other_connection(tmp_path)
    blocker.execute("BEGIN IMMEDIATE")
    first = log.append(some(8))
    with pytest.raises(Backpressure):
        log.append(some(8, 8))
    blocker.execute("ROLLBACK")
    blocker.close()
    await first.settled()
    await log.append(some(8, 8)).settled()
    assert await numbers(log, 100) == list(range(16))
    await log.close()


async def test_an_append_above_the_bound_is_taken_when_nothing_else_waits(tmp_path):
    log = await opened(tmp_path, max_queued_records=10)
    await log.append(some(100)).settled()
    assert await numbers(log, 100) == list(range(100))
    await log.close()


# Commits and wake-ups


async def test_appends_that_wait_together_share_commits(log):
    statements = Counter()
    with log._current.writer._guarded.use() as connection:
        connection.set_trace_callback(lambda statement: statements.update([statement]))

    async def one(number):
        await log.append(some(1, number)).settled()

    await asyncio.gather(*(one(number) for number in range(200)))
    assert 1 <= statements["COMMIT"] <= 100  # 200 without sharing; how many exactly depends on the machine


async def test_drain_tells_how_many_are_not_settled_in_time(tmp_path):
    log = await opened(tmp_path)
    blocker = other_connection(tmp_path)
    blocker.execute("BEGIN IMMEDIATE")
    pending = log.append(some(3))
    assert log.drain(0.01) == 3
    blocker.execute("ROLLBACK")
    blocker.close()
    assert log.drain(PATIENCE_S) == 0
    assert None not in pending.outcomes
    await log.close()


def test_a_loop_that_is_closed_while_its_records_wait_disturbs_nobody(tmp_path):
    blocker = None

    async def leave():
        nonlocal blocker
        log = await opened(tmp_path)
        blocker = other_connection(tmp_path)
        blocker.execute("BEGIN IMMEDIATE")
        waiting = asyncio.ensure_future(log.append(some(1)).settled())
        await asyncio.wait([waiting], timeout=0.01)
        return log, waiting

    loop = asyncio.new_event_loop()
    log, waiting = loop.run_until_complete(leave())
    waiting._log_destroy_pending = False  # it is left behind on purpose
    loop.close()
    blocker.execute("ROLLBACK")
    blocker.close()
    assert log.drain(PATIENCE_S) == 0

    async def go_on():
        await log.append(some(1, 1)).settled()
        assert await numbers(log, 10) == [0, 1]
        await log.close()

    asyncio.run(go_on())


async def test_a_closed_log_refuses_everything(tmp_path):
    log = await opened(tmp_path)
    await log.close()
    with pytest.raises(LogUnavailable, match="closed"):
        log.append(some(1))
    with pytest.raises(LogUnavailable, match="closed"):
        await log.ends(["task-events"])
    with pytest.raises(LogUnavailable, match="closed"):
        await numbers(log, 1)
    assert log.drain(0) == 0


async def test_the_embedded_log_needs_no_spool(log):
    assert log.durable_spool_needed is False


async def test_a_disk_that_fails_in_a_commit_leaves_the_outcome_open():
    from tallyroll.adapters.sqlite.writer import _outcome

    def failed(code):
        error = sqlite3.OperationalError()
        error.sqlite_errorcode = code
        return _outcome(LogUnavailable("log", "disk"), error)

    assert isinstance(failed(sqlite3.SQLITE_IOERR_FSYNC), Unknown)
    assert isinstance(failed(sqlite3.SQLITE_FULL), Rejected)
    assert isinstance(failed(sqlite3.SQLITE_BUSY), Rejected)


# Blocks

names = st.text(max_size=5)
headers = st.lists(st.tuples(names, st.binary(max_size=5)), max_size=3)
records = st.lists(
    st.builds(
        Encoded, names, st.just(PLACE.topic), st.just(0), st.binary(max_size=9), st.binary(max_size=9), headers, st.integers(0, 2**53)
    ),
    min_size=1,
    max_size=20,
)


@given(records, st.lists(st.integers(1, 5)), st.data())
@settings(max_examples=50)
def test_any_part_of_any_blocks_comes_back_as_it_was(made, sizes, data):
    connection = connect(None, synchronous="FULL", lock_timeout_ms=0)
    number = create(connection, None, CATALOGUE, lock_timeout_ms=0)[PLACE]
    offset = 0
    for size in [*sizes, len(made)]:
        for block in blocks.to_blocks(made[offset : offset + size], -1) if made[offset:] else ():
            connection.execute("INSERT INTO blocks VALUES (?, ?, ?, ?, ?)", (number << OFFSET_BITS | offset, *block))
            offset += block.length
    start = data.draw(st.integers(0, len(made) - 1))
    end = data.draw(st.integers(start + 1, len(made)))
    limit = data.draw(st.integers(1, 30))
    (batch,) = blocks.fetch(connection, [blocks.Want(PLACE, number, start, end)], limit)
    expected = made[start : min(end, start + limit)]
    assert list(batch.offsets) == list(range(start, start + len(expected)))
    assert list(batch.keys) == [record.key for record in expected]
    assert list(batch.values) == [record.value for record in expected]
    assert list(batch.timestamps_ms) == [record.timestamp_ms for record in expected]
    assert [list(batch.headers(i)) for i in range(len(batch))] == [list(record.headers) for record in expected]
    connection.close()


def test_blocks_are_bounded_in_records_and_bytes():
    assert [block.length for block in blocks.to_blocks(some(1_201), -1)] == [500, 500, 201]
    large = [msgspec.structs.replace(record, value=bytes(400_000)) for record in some(5)]
    assert [block.length for block in blocks.to_blocks(large, -1)] == [2, 2, 1]


async def test_a_batch_of_large_records_stays_below_its_bound(tmp_path):
    log = await SqliteLog.open(tmp_path, CATALOGUE, clock=SystemClock())
    now_ms = SystemClock().now_us() // 1_000
    large = [msgspec.structs.replace(record, value=bytes(800_000), timestamp_ms=now_ms) for record in some(30)]
    await log.append(large).settled()
    sizes = [len(batch) async for batch in log.read([Span(*PLACE, 0, 30)])]
    assert sum(sizes) == 30
    assert max(sizes) <= 21
    await log.close()


def test_a_new_file_that_another_process_makes_at_the_same_moment_is_ours(tmp_path):
    path = tmp_path / "log.db"
    came = []

    def make_it(statement):
        if statement == "PRAGMA user_version":  # while this one is still looking at what the file is
            try:
                create(other, path, Catalogue(), lock_timeout_ms=50)
                came.append("made")
            except sqlite3.OperationalError as error:  # it has to wait for us
                came.append(error.sqlite_errorname)

    other = connect(path, synchronous="FULL", lock_timeout_ms=50)
    with contextlib.closing(other), contextlib.closing(connect(path, synchronous="FULL", lock_timeout_ms=5_000)) as connection:
        connection.set_trace_callback(make_it)
        numbers = create(connection, path, Catalogue(), lock_timeout_ms=5_000)
        connection.set_trace_callback(None)
        assert came == ["SQLITE_BUSY"], "the other one was there, and at that moment"
        assert create(other, path, Catalogue(), lock_timeout_ms=50) == numbers != {}
