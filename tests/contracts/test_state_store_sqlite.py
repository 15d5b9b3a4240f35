"""The SQLite state store keeps the contract of state stores, in memory and on disk."""

from __future__ import annotations

import sqlite3
from functools import partial
from pathlib import Path

import pytest

from tallyroll.adapters.sqlite.state_store import SqliteStateStore
from tallyroll.errors import StoreDamaged, StoreUnavailable
from tallyroll.events.position import TopicPartition
from tallyroll.ports import PartitionWrite, Progress
from tallyroll.testing.state_store_contract import CASES, SHARED_CASES, Case


def name_of(case: object) -> str:
    return case.__name__


@pytest.mark.parametrize("case", CASES, ids=name_of)
async def test_in_memory(case: Case) -> None:
    await case(partial(SqliteStateStore.open, None))


@pytest.mark.parametrize("case", [*CASES, *SHARED_CASES], ids=name_of)
async def test_on_disk(case: Case, tmp_path: Path) -> None:
    await case(partial(SqliteStateStore.open, tmp_path / "folder" / "state.db"))


async def test_a_file_of_another_program_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    with sqlite3.connect(path) as foreign:
        foreign.execute("CREATE TABLE theirs (x)")
    foreign.close()
    before = path.stat().st_size
    with pytest.raises(StoreUnavailable, match="no state store"):
        await SqliteStateStore.open(path)
    assert path.stat().st_size == before


@pytest.mark.parametrize("content", [b"not a database at all, but long enough to be read as one" * 40])
async def test_a_damaged_file_is_unavailable_and_its_content_is_not_quoted(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "state.db"
    path.write_bytes(content)
    with pytest.raises(StoreDamaged) as caught:
        await SqliteStateStore.open(path)
    assert "SQLITE_NOTADB" in str(caught.value)
    assert "the file is damaged, or no state store" in str(caught.value)
    assert "made anew from the log" in str(caught.value)
    assert "long enough" not in str(caught.value)


async def test_a_folder_that_cannot_be_made_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreUnavailable):
        await SqliteStateStore.open(tmp_path / "file" / "state.db")


async def test_a_closed_store_is_unavailable_and_can_be_closed_again() -> None:
    store = await SqliteStateStore.open(None)
    await store.close()
    await store.close()
    with pytest.raises(StoreUnavailable):
        await store.load_progress()


async def test_the_contract_notices_a_store_that_writes_half() -> None:
    class Half(SqliteStateStore):
        async def commit(self, writes: list[PartitionWrite]) -> None:
            for write in writes:
                await super().commit([write])

    broken = next(case for case in CASES if case.__name__ == "a_write_that_does_not_build_on_the_stored_progress_is_refused")
    with pytest.raises(AssertionError, match=r"positions of the conflict|afterwards"):
        await broken(partial(Half.open, None))


async def test_the_contract_notices_a_store_that_forgets_to_fence() -> None:
    class Loose(SqliteStateStore):
        async def commit(self, writes: list[PartitionWrite]) -> None:
            stored = await self.load_progress()
            await super().commit(
                [write._replace(expected=stored[write.partition].next if write.partition in stored else None) for write in writes]
            )

    broken = next(case for case in CASES if case.__name__ == "a_write_that_does_not_build_on_the_stored_progress_is_refused")
    with pytest.raises(AssertionError, match="refused"):
        await broken(partial(Loose.open, None))


async def test_a_commit_that_fails_half_way_leaves_nothing() -> None:
    store = await SqliteStateStore.open(None)
    write = PartitionWrite(TopicPartition("t", 0), None, Progress("fold", 0, 1), [("view", "a", b"1"), ("view", "b", None)])
    with pytest.raises(StoreUnavailable):
        await store.commit([write])
    assert await store.load_progress() == {}
    assert store.load_parts(TopicPartition("t", 0), "view", ["a"]) == {}
    await store.close()
