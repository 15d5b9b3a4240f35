"""The SQLite window store keeps the contract of window stores, in memory and on disk."""

from __future__ import annotations

import contextlib
import sqlite3
from functools import partial
from pathlib import Path

import pytest

from tallyroll.adapters.sqlite.state_store import SqliteStateStore
from tallyroll.adapters.sqlite.window_store import SqliteWindowStore
from tallyroll.errors import StoreUnavailable
from tallyroll.events.position import TopicPartition
from tallyroll.ports import DocumentWrite, OpenPair, PaneAt, PaneRow, WindowProgress, WindowWrite
from tallyroll.testing.window_store_contract import CASES, SHARED_CASES, Case


def name_of(case: object) -> str:
    return case.__name__


def the(name: str) -> Case:
    return next(case for case in CASES if case.__name__ == name)


@pytest.mark.parametrize("case", CASES, ids=name_of)
async def test_in_memory(case: Case) -> None:
    await case(partial(SqliteWindowStore.open, None))


@pytest.mark.parametrize("case", [*CASES, *SHARED_CASES], ids=name_of)
async def test_on_disk(case: Case, tmp_path: Path) -> None:
    await case(partial(SqliteWindowStore.open, tmp_path / "folder" / "analytics.db"))


async def test_a_file_of_another_program_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "analytics.db"
    with sqlite3.connect(path) as foreign:
        foreign.execute("CREATE TABLE theirs (x)")
    foreign.close()
    before = path.stat().st_size
    with pytest.raises(StoreUnavailable, match="no window store"):
        await SqliteWindowStore.open(path)
    assert path.stat().st_size == before


async def test_the_file_of_another_store_is_refused(tmp_path: Path) -> None:
    await (await SqliteStateStore.open(tmp_path / "state.db")).close()
    with pytest.raises(StoreUnavailable, match="no window store"):
        await SqliteWindowStore.open(tmp_path / "state.db")


async def test_a_closed_store_is_unavailable_and_can_be_closed_again() -> None:
    store = await SqliteWindowStore.open(None)
    await store.close()
    await store.close()
    with pytest.raises(StoreUnavailable):
        await store.version()


async def test_a_commit_that_fails_half_way_leaves_nothing() -> None:
    store = await SqliteWindowStore.open(None)
    at = PaneAt("agent", "a", 60, 0)
    write = WindowWrite(TopicPartition("t", 0), None, WindowProgress("specs", 0, 1, 0), [(at, 0, b"1"), (at._replace(key=None), 0, b"1")])
    with pytest.raises(StoreUnavailable):
        await store.commit([write])
    assert await store.load_progress() == {}
    assert await store.rows("agent", 60, 0, 1) == []
    await store.commit([write._replace(rows=write.rows[:1])])  # a dimension first seen in a commit that failed is no obstacle
    assert [row.data for row in await store.rows("agent", 60, 0, 1)] == [b"1"]
    await store.close()


async def test_many_rows_are_rolled_up_and_removed_in_steps() -> None:
    store = await SqliteWindowStore.open(None)
    rows = [(PaneAt("agent", f"agent-{number}", 60, start), 0, b"1") for number in range(600) for start in range(0, 900, 300)]
    await store.commit([WindowWrite(TopicPartition("t", 0), None, WindowProgress("specs", 0, 1, 10**12), rows)])
    assert await store.roll_up(width_s=60, into_s=900, settle_s=0, join=b"".join) == 600
    assert await store.prune(width_s=60, keep_s=0) == 1_800
    assert {row.data for row in await store.rows("agent", 60, 0, 900, rolled_s=900)} == {b"111"}
    with pytest.raises(ValueError, match="multiple"):
        await store.roll_up(width_s=60, into_s=90, settle_s=0, join=b"".join)
    await store.close()


class Half(SqliteWindowStore):
    async def commit(self, writes: list[WindowWrite], documents: list[DocumentWrite] = ()) -> None:
        for write in writes:
            await super().commit([write])
        await super().commit([], documents)


class Loose(SqliteWindowStore):
    async def commit(self, writes: list[WindowWrite], documents: list[DocumentWrite] = ()) -> None:
        stored = await self.load_progress()
        await super().commit(
            [write._replace(expected=stored[write.partition].next if write.partition in stored else None) for write in writes], documents
        )


class Unguarded(SqliteWindowStore):
    async def commit(self, writes: list[WindowWrite], documents: list[DocumentWrite] = ()) -> None:
        await super().commit(writes, [document._replace(guarded=False) for document in documents])


class Doubled(SqliteWindowStore):
    async def rows(self, *asked: object, rolled_s: int | None = None, **more: object) -> list[PaneRow]:
        found = [*await super().rows(*asked, **more), *(await super().rows(*asked, rolled_s=rolled_s, **more) if rolled_s else ())]
        return sorted(set(found), key=lambda row: (row.at.key, row.at.start, row.partition))


class Still(SqliteWindowStore):
    async def version(self) -> int:
        return 0


class Hasty(SqliteWindowStore):
    async def prune(self, *, width_s: int, keep_s: int) -> int:
        with self._file.writing() as connection:
            return connection.execute(
                "DELETE FROM pane WHERE series IN (SELECT id FROM series WHERE width_s = ?) AND start <= "
                "(SELECT watermark_us FROM progress WHERE progress.number = pane.number) / 1000000 - ? - ?",
                (width_s, keep_s, width_s),
            ).rowcount


@pytest.mark.parametrize(
    ("store", "case", "broken"),
    [
        (Half, "a_write_that_does_not_build_on_the_stored_progress_is_refused", "afterwards|positions of the conflict"),
        (Loose, "a_write_that_does_not_build_on_the_stored_progress_is_refused", "refused"),
        (Unguarded, "documents_are_written_removed_and_guarded", "refused"),
        (Doubled, "closed_minutes_are_rolled_up", "rows, wide and narrow"),
        (Still, "a_later_commit_replaces_rows_and_leaves_others", "version"),
        (Hasty, "old_rows_are_removed", "kept: as long as a row"),
        (Hasty, "a_late_row_is_rolled_up_again", "while a wider one is due"),
    ],
)
async def test_the_contract_notices(store: type[SqliteWindowStore], case: str, broken: str) -> None:
    with pytest.raises(AssertionError, match=broken):
        await the(case)(partial(store.open, None))


async def test_a_file_of_the_first_version_is_brought_up_to_date(tmp_path: Path) -> None:
    path = tmp_path / "analytics.db"
    await (await SqliteWindowStore.open(path)).close()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript("""
            DROP TABLE pair;
            CREATE TABLE pair (
                number INTEGER NOT NULL, pair TEXT NOT NULL, id TEXT NOT NULL, start_us INTEGER NOT NULL, PRIMARY KEY (number, pair, id)
            ) STRICT, WITHOUT ROWID;
            INSERT INTO progress VALUES (1, 'task-events', 0, 'specs', 0, 5, 9, x'');
            INSERT INTO pair VALUES (1, 'p', 'task-1', 7);
            PRAGMA user_version = 1;
        """)
    for _ in range(2):
        store = await SqliteWindowStore.open(path)
        assert await store.load_pairs(TopicPartition("task-events", 0)) == [OpenPair("p", "task-1", 7, 7)]
        await store.close()
