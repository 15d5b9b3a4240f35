"""The SQLite index of the archive keeps the contract of indexes, and each broken promise is caught by its case."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.patience import PATIENCE_S

from tallyroll.adapters.sqlite.archive_index import SqliteArchiveIndexes
from tallyroll.errors import StoreUnavailable
from tallyroll.events.position import TopicPartition
from tallyroll.ports import Append, Found, Judged, Owned, Tail
from tallyroll.testing import archive_index_contract as contract
from tallyroll.testing.archive_index_contract import INDEX_CASES, IndexCase


def name_of(item: object) -> str:
    return item.__name__


@pytest.mark.parametrize("case", INDEX_CASES, ids=name_of)
def test_the_index_keeps_its_contract(case: IndexCase, tmp_path: Path) -> None:
    case(lambda: SqliteArchiveIndexes(tmp_path))


def test_whoever_only_reads_waits_for_nobody_who_writes(tmp_path: Path) -> None:
    one = TopicPartition("one", 0)
    made = SqliteArchiveIndexes(tmp_path).open(one, create=True)
    made.append(Append(None, 0, 3, b"", [], 0))
    with contextlib.closing(sqlite3.connect(tmp_path / "one" / "0" / "index.db", isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        reading = SqliteArchiveIndexes(tmp_path).open(one, create=False)
        assert (reading.mark().next, reading.find(0, 9, 9), reading.segments()) == (3, (None, [], 0), [])
        writer.execute("ROLLBACK")
    reading.append(Append(3, 0, 4, b"", [], 0))
    assert made.mark().next == 4
    for index in (made, reading):
        index.close()
    with pytest.raises(StoreUnavailable):
        reading.append(Append(4, 0, 5, b"", [], 0))


def deed(offset: int, agent: str) -> Judged:
    return Judged(offset, offset, b"key", b"value", None, offset, agent, f"agent:{agent}", "first", "")


def test_an_owners_records_come_in_their_order_from_a_tail_with_holes(tmp_path: Path) -> None:
    index = SqliteArchiveIndexes(tmp_path).open(TopicPartition("one", 0), create=True)
    records = [deed(offset, f"a{offset % 3}") for offset in (*range(4_000, 4_200), 9_000, 10**12, 10**12 + 3)]
    index.append(Append(None, 0, 10**12 + 4, b"", records, 0))
    for start, end in ((0, 10**13), (4_095, 4_097), (4_100, 9_000), (9_001, 10**12), (10**12 + 4, 10**13), (9, 9)):
        for agent in ("a0", "a1", "nobody"):
            wanted = [one for one in records if one.agent == agent and start <= one.offset < end]
            assert index.owned(f"@{agent}", start, end) == index.owned(f"agent:{agent}", start, end) == Owned([], wanted, 0)
    index.close()


VERSION_1 = """
    DROP TABLE tail_record; DROP TABLE tail_owner; DROP TABLE pruned;
    CREATE TABLE tail (
        at INTEGER PRIMARY KEY, timestamp_ms INTEGER NOT NULL, key BLOB, value BLOB, headers BLOB, time_us INTEGER, agent TEXT,
        aggregate TEXT, verdict TEXT NOT NULL, reason TEXT NOT NULL
    ) STRICT;
    CREATE INDEX tail_by_agent ON tail (at >> 12, agent) WHERE verdict = 'first';
    CREATE INDEX tail_by_aggregate ON tail (at >> 12, aggregate) WHERE verdict = 'first';
    PRAGMA user_version = 1;
"""


def test_a_file_of_the_first_version_says_the_same_and_is_written_on(tmp_path: Path) -> None:
    one, path = TopicPartition("one", 0), tmp_path / "one" / "0" / "index.db"
    records = [deed(offset, f"a{offset % 3}") for offset in range(4_000, 9_000)]
    records[7] = Judged(4_007, 5, None, None, b"\x90", None, None, None, "poison", "why")
    records[8] = deed(4_008, "a0")._replace(verdict="repeat", key=b"", time_us=None)
    made = SqliteArchiveIndexes(tmp_path).open(one, create=True)
    made.append(Append(None, 0, 9_000, b"repeats", records, 5))
    tail, mark = made.tail(), made.mark()
    made.close()
    with contextlib.closing(sqlite3.connect(path)) as older:
        older.executescript(VERSION_1)
        older.executemany("INSERT INTO tail VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", records)
        older.commit()
    for more in ([], [deed(9_000, "a0")]):
        index = SqliteArchiveIndexes(tmp_path).open(one, create=False)
        assert (index.tail(), index.mark()) == (tail, mark)
        if more:
            index.append(Append(9_000, 0, 9_001, b"repeats", more, 6))
        assert index.find(0, 10_000, 10_000).records == [*records, *more]
        wanted = [each for each in [*records, *more] if each.agent == "a0" and each.verdict == "first"]
        assert index.owned("@a0", 0, 10_000) == index.owned("agent:a0", 0, 10_000) == Owned([], wanted, 0)
        index.close()
    with contextlib.closing(sqlite3.connect(path)) as now:
        assert now.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'tail'").fetchone() == (0,)


def test_a_newer_file_is_left_to_who_knows_it(tmp_path: Path) -> None:
    one, path = TopicPartition("one", 0), tmp_path / "one" / "0" / "index.db"
    SqliteArchiveIndexes(tmp_path).open(one, create=True).close()
    with contextlib.closing(sqlite3.connect(path)) as newer:
        newer.execute("PRAGMA user_version = 3")
    with pytest.raises(StoreUnavailable, match="archive rebuild"):
        SqliteArchiveIndexes(tmp_path).open(one, create=False)


def test_what_is_left_behind_a_seal_is_found_by_owner(tmp_path: Path) -> None:
    index = SqliteArchiveIndexes(tmp_path).open(TopicPartition("one", 0), create=True)
    for start, end in ((0, 5_000), (5_000, 9_000), (9_000, 9_010)):
        index.append(Append(start or None, 0, end, b"", [deed(offset, f"a{offset % 3}") for offset in range(start, end)], 0))
    index.seal(contract._sealed(0, 7_000), lambda: True)
    for agent, first in (("a0", 7_002), ("a1", 7_000), ("a2", 7_001)):
        assert [one.offset for one in index.owned(f"@{agent}", 0, 10_000).records] == [*range(first, 9_010, 3)]
    assert index.tail()[:2] == (2_010, 2_010 * len(b"keyvalue"))
    index.close()


def test_a_record_that_cannot_be_read_is_said_and_not_quoted(tmp_path: Path) -> None:
    index = SqliteArchiveIndexes(tmp_path).open(TopicPartition("one", 0), create=True)
    index.append(Append(None, 0, 1, b"", [deed(0, "a")._replace(reason="canary")], 0))
    with contextlib.closing(sqlite3.connect(tmp_path / "one" / "0" / "index.db")) as other:
        other.execute("UPDATE tail_record SET record = CAST(x'91' || record AS BLOB)")
        other.commit()
    for ask in (lambda: index.find(0, 9, 9), lambda: index.scan(0, 9, 9), lambda: index.owned("@a", 0, 9)):
        with pytest.raises(StoreUnavailable, match="archive rebuild") as caught:
            ask()
        assert "canary" not in str(caught.value)
    index.close()


def test_no_name_of_an_aggregate_is_taken_for_an_agent(tmp_path: Path) -> None:
    index = SqliteArchiveIndexes(tmp_path).open(TopicPartition("one", 0), create=True)
    records = [deed(0, "a:b"), deed(1, "c")._replace(aggregate="@a:b"), deed(2, "")._replace(aggregate="")]
    index.append(Append(None, 0, 3, b"", records, 0))
    assert index.owned("@a:b", 0, 9).records == records[:1]
    assert index.owned("@", 0, 9).records == index.owned("", 0, 9).records == records[2:]
    index.close()


class Around:
    """Hands everything on to an index that keeps its promises; subclasses break one."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


class Indexes(Around):
    def __init__(self, folder: Path, broken: type[Around]) -> None:
        super().__init__(SqliteArchiveIndexes(folder))
        self.broken = broken

    def open(self, partition: TopicPartition, *, create: bool) -> Any:
        index = self.inner.open(partition, create=create)
        return None if index is None else self.broken(index)


class AlwaysThere(Indexes):
    def open(self, partition: TopicPartition, *, create: bool) -> Any:  # noqa: ARG002
        return super().open(partition, create=True)


class SetsNothingAside(Indexes):
    def set_aside(self, partition: TopicPartition) -> None:
        pass


class OneForAll(Indexes):
    def open(self, partition: TopicPartition, *, create: bool) -> Any:  # noqa: ARG002
        return super().open(TopicPartition("one", 0), create=create)


class ForgetsHeaders(Around):
    def append(self, write: Any) -> None:
        self.inner.append(write._replace(records=[one._replace(headers=None) for one in write.records]))


class TrustsEveryWriter(Around):
    def append(self, write: Any) -> None:
        mark = self.inner.mark()
        self.inner.append(write._replace(expected=mark.next if mark else None, records=[] if mark else write.records))


class LosesWhatCameMeanwhile(Around):
    def tail(self) -> Tail:
        return Tail(0, 0, None) if self.inner.segments() else self.inner.tail()


class SealsAnything(Around):
    def seal(self, sealed: Any, is_whole: Callable[[], bool]) -> None:
        mark = self.inner.mark()
        is_whole()
        self.inner.seal(sealed._replace(segment=msgspec.structs.replace(sealed.segment, base=mark.sealed), kept=mark.kept), lambda: True)


class SweepsWithoutALock(Around):
    def sweep(self, remove: Callable[[frozenset[str]], None]) -> None:
        found: list[frozenset[str]] = []
        self.inner.sweep(found.append)
        remove(found[0])


class IgnoresTheSpan(Around):
    def owned(self, key: str, start: int, end: int) -> Owned:  # noqa: ARG002
        return self.inner.owned(key, 0, 10**12)


class IgnoresBounds(Around):
    def parts(self, view: str, reducer_id: str, *, end: int, order_us: int | None, owners: Any) -> Any:  # noqa: ARG002
        return self.inner.parts(view, reducer_id, end=end, order_us=None, owners=owners)


class ReplacesAnything(Around):
    def replace(self, old: Any, new: Any) -> None:  # noqa: ARG002
        [now] = self.inner.segments()
        self.inner.replace(now, new)


class SkipsAnything(Around):
    def skip(self, hole: Any, repeats: bytes) -> None:
        mark = self.inner.mark()
        if mark.sealed == mark.next == hole.start:
            self.inner.skip(hole, repeats)


class KeepsQuietAboutPruning(Around):
    def find(self, start: int, end: int, limit: int) -> Found:
        return self.inner.find(start, end, limit)._replace(kept=0)


class PrunesAnything(Around):
    def prune(self, pruned: Any, is_whole: Callable[[], bool]) -> None:
        is_whole()
        ends = {one.next: one.digest for one in self.inner.segments()}
        if pruned.kept in ends:
            self.inner.prune(pruned._replace(digest=ends[pruned.kept]), lambda: True)


class BeginsAtNothing(Around):
    def prune(self, pruned: Any, is_whole: Callable[[], bool]) -> None:
        self.inner.prune(pruned._replace(first=0, holes=[]), is_whole)


class ReopensItself(Around):
    closed = False

    def close(self) -> None:
        self.closed = True

    def mark(self) -> Any:
        return None if self.closed else self.inner.mark()


class AnswersInTwoSteps(Around):
    appended = threading.Event()

    def append(self, *given: Any) -> None:
        self.inner.append(*given)
        self.appended.set()

    def owned(self, key: str, start: int, end: int) -> Owned:
        self.appended.clear()
        runs = self.inner.owned(key, start, end).runs
        self.appended.wait(1)  # until the tail is another one, if it becomes one
        return Owned(runs, self.inner.owned(key, start, end).records)


BROKEN = [
    (AlwaysThere, contract.a_partition_that_was_never_archived_has_nothing),
    (ForgetsHeaders, contract.what_is_appended_is_the_tail),
    (TrustsEveryWriter, contract.an_append_that_does_not_build_on_what_is_stored_is_refused),
    (LosesWhatCameMeanwhile, contract.a_seal_takes_records_out_of_the_tail),
    (SealsAnything, contract.a_seal_that_does_not_follow_is_refused),
    (SweepsWithoutALock, contract.nobody_seals_while_files_are_swept),
    (IgnoresTheSpan, contract.an_owner_is_found_by_the_locator),
    (IgnoresBounds, contract.snapshots_are_found_by_view_reducer_and_owner),
    (ReplacesAnything, contract.a_file_is_replaced_where_the_manifest_holds_it),
    (SkipsAnything, contract.a_hole_is_skipped_only_from_where_everything_is_sealed),
    (KeepsQuietAboutPruning, contract.pruning_forgets_everything_below),
    (PrunesAnything, contract.a_pruning_of_what_is_not_there_is_refused),
    (BeginsAtNothing, contract.an_index_can_begin_where_it_was_pruned),
    (OneForAll, contract.another_client_sees_what_was_done),
    (SetsNothingAside, contract.an_index_that_is_set_aside_is_gone),
    (ReopensItself, contract.a_closed_index_is_unavailable),
    (AnswersInTwoSteps, contract.several_threads_may_read_and_write),
]


@pytest.mark.parametrize(("broken", "case"), BROKEN, ids=name_of)
def test_a_broken_index_is_caught(broken: type[Around], case: IndexCase, tmp_path: Path) -> None:
    def opener() -> Any:
        return broken(tmp_path, Around) if issubclass(broken, Indexes) else Indexes(tmp_path, broken)

    patient = {"watched_s": PATIENCE_S} if case is contract.nobody_seals_while_files_are_swept else {}
    with pytest.raises(AssertionError):
        case(opener, **patient)


def test_every_case_has_been_seen_to_fail() -> None:
    assert {case for _, case in BROKEN} == set(INDEX_CASES)


@pytest.mark.parametrize("case", INDEX_CASES, ids=name_of)
def test_the_wrapper_alone_breaks_nothing(case: IndexCase, tmp_path: Path) -> None:
    case(lambda: Indexes(tmp_path, Around))
