"""The built-in adapters of the archive keep the contracts of its ports, and each broken promise is caught by its case."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from pyarrow import fs
from tests.contracts.test_archive import holds
from tests.unit.archiving import archive_in, archived, files_in
from tests.unit.replay_histories import random_log

from tallyroll.adapters.parquet.codec import ParquetCodec
from tallyroll.adapters.parquet.segment_files import ArrowSegmentFiles
from tallyroll.adapters.system.segment_files import LocalSegmentFiles
from tallyroll.events.position import TopicPartition
from tallyroll.ports import SegmentFiles
from tallyroll.testing import archive_contract
from tallyroll.testing.archive_contract import CODEC_CASES, FILES_CASES, CodecCase, FilesCase

Files = Callable[[Path, TopicPartition], SegmentFiles]


def local(folder: Path, place: TopicPartition) -> SegmentFiles:
    return LocalSegmentFiles(files_in(folder, place))


def arrow_local(folder: Path, place: TopicPartition) -> SegmentFiles:
    return ArrowSegmentFiles(fs.LocalFileSystem(use_mmap=True), str(files_in(folder, place)))


def arrow_below(folder: Path, place: TopicPartition) -> SegmentFiles:
    return ArrowSegmentFiles(fs.SubTreeFileSystem(str(folder), fs.LocalFileSystem()), f"{place.topic}/{place.partition}/")


FILES = (local, arrow_local, arrow_below)


def name_of(item: object) -> str:
    return item.__name__


@pytest.mark.parametrize("case", FILES_CASES, ids=name_of)
@pytest.mark.parametrize("files", FILES, ids=name_of)
def test_files_keep_their_contract(files: Files, case: FilesCase, tmp_path: Path) -> None:
    case(lambda place: files(tmp_path, place))


@pytest.mark.parametrize("case", CODEC_CASES, ids=name_of)
def test_the_codec_keeps_its_contract(case: CodecCase) -> None:
    case(ParquetCodec())


async def test_an_archive_on_another_file_system_is_the_same_archive(tmp_path: Path) -> None:
    log = random_log(Random(6), 120)  # noqa: S311  # a fixed history
    remote = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())
    remote.create_dir("bucket")

    def open_files(place: TopicPartition) -> SegmentFiles:
        return ArrowSegmentFiles(remote, f"bucket/{place.topic}/{place.partition}")

    with archive_in(tmp_path / "index", open_files=open_files) as archive:
        await archived(archive, log)
        holds(archive, log)
        for place in log:
            segments = archive.reader.segments(place)
            if segments:
                assert [found.base_name for found in remote.get_file_info(fs.FileSelector(f"bucket/{place.topic}/{place.partition}"))] == [
                    segments[0].name
                ]
                assert archive.keeper.rebuild(place) == segments
        holds(archive, log)


class Around:
    """Hands everything on to an adapter that keeps its promises; subclasses break one."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


class Truncates(Around):
    def put(self, name: str, content: bytes) -> None:
        self.inner.put(name, content[: 1 << 20])


class FindsEverything(Around):
    def open(self, name: str) -> memoryview:
        return self.inner.open(name) if name in self.inner.names() else memoryview(b"")


class RefusesToRemoveTwice(Around):
    def remove(self, name: str) -> None:
        if name not in self.inner.names():
            raise FileNotFoundError(name)
        self.inner.remove(name)


class WritesInPlace(Around):
    opened = threading.Event()

    def put(self, name: str, content: bytes) -> None:
        self.opened.clear()
        self.inner.put(name, content[:1_000])
        self.opened.wait(1)  # until somebody has opened it, if anybody does
        self.inner.put(name, content)

    def open(self, name: str) -> memoryview:
        content = self.inner.open(name)
        self.opened.set()
        return content


class LeavesAFile(Around):
    def put(self, name: str, content: bytes) -> None:
        self.inner.put(name, content)
        self.inner.put(f".{name}.tmp", b"")


class OnePlace(Around):
    """One folder for all partitions."""


class OfOneThread(Around):
    """For who has made it only."""

    def __init__(self, inner: Any) -> None:
        super().__init__(inner)
        self.mine = threading.get_ident()

    def __getattr__(self, name: str) -> Any:
        if threading.get_ident() != self.mine:
            raise AssertionError("another thread")
        return super().__getattr__(name)


BROKEN_FILES = [
    (FindsEverything, archive_contract.a_place_without_files_is_empty),
    (RefusesToRemoveTwice, archive_contract.a_place_without_files_is_empty),
    (Truncates, archive_contract.what_is_put_can_be_opened),
    (LeavesAFile, archive_contract.what_is_put_can_be_opened),
    (OnePlace, archive_contract.partitions_have_places_of_their_own),
    (WritesInPlace, archive_contract.a_file_is_replaced_as_a_whole),
    (FindsEverything, archive_contract.a_removed_file_is_gone_but_for_who_reads_it),
    (RefusesToRemoveTwice, archive_contract.a_removed_file_is_gone_but_for_who_reads_it),
    (OfOneThread, archive_contract.several_threads_may_call),
]


@pytest.mark.parametrize(("broken", "case"), BROKEN_FILES, ids=name_of)
def test_broken_files_are_caught(broken: type[Around], case: FilesCase, tmp_path: Path) -> None:
    place = TopicPartition("one", 0)
    with pytest.raises((AssertionError, OSError)):
        case(lambda asked: broken(local(tmp_path, place if broken is OnePlace else asked)))


def test_every_case_of_files_has_been_seen_to_fail() -> None:
    assert {case for _, case in BROKEN_FILES} == set(FILES_CASES)


class Writing(Around):
    """Breaks the writer, or what is opened, instead of the codec."""

    class broken(Around):  # noqa: N801  # what a subclass fills in
        pass

    def writer(self, columns: Any) -> Any:
        return self.broken(self.inner.writer(columns))


class Opening(Writing):
    def writer(self, columns: Any) -> Any:
        return self.inner.writer(columns)

    def open(self, content: memoryview) -> Any:
        return self.broken(self.inner.open(content))


class LosesHoles(Writing):
    class broken(Around):  # noqa: N801
        def add(self, cells: Any) -> None:
            self.inner.add([cells[0], ["" if cell is None else cell for cell in cells[1]], *cells[2:]])


class SortsAsAdded(Writing):
    class broken(Around):  # noqa: N801
        def finish(self, names: Any, order: Any, footer: Any, **more: Any) -> bytes:
            return self.inner.finish(names, sorted(order), footer, **more)


class KeepsAllColumns(Writing):
    class broken(Around):  # noqa: N801
        def finish(self, names: Any, order: Any, footer: Any, **more: Any) -> bytes:  # noqa: ARG002
            return self.inner.finish(archive_contract._NAMES, order, footer, **more)


class ReadsWholeGroups(Opening):
    class broken(Around):  # noqa: N801
        def read(self, names: Any, start: int = 0, stop: int | None = None) -> Any:
            return self.inner.read(names, start // 8 * 8, stop)


class TakesAPart(Writing):
    class broken(Around):  # noqa: N801
        def add(self, cells: Any) -> None:
            for row in zip(*cells, strict=True):
                self.inner.add([[cell] for cell in row])


def made_up() -> Any:
    writer, names = ParquetCodec().writer(archive_contract._COLUMNS), archive_contract._NAMES
    writer.add(archive_contract._CELLS)
    return ParquetCodec().open(memoryview(writer.finish(names, np.arange(4, -1, -1), {}, group_rows=9)))


class OpensAnything(Around):
    def open(self, content: memoryview) -> Any:
        try:
            return self.inner.open(content)
        except OSError:
            return made_up()


class MakesUpWhatItCannotRead(Opening):
    class broken(Around):  # noqa: N801
        def read(self, names: Any) -> Any:
            try:
                return self.inner.read(names)
            except OSError:
                return made_up().read(names)


class FoldsInTheOrderOfRows(Writing):
    class broken(Around):  # noqa: N801
        def finish(self, names: Any, order: Any, footer: Any, *, folded_order: Any = None, **more: Any) -> bytes:
            return self.inner.finish(names, order, footer, folded_order=None if folded_order is None else np.sort(folded_order), **more)


class MakesUpWhatItCannotFold(Opening):
    class broken(Around):  # noqa: N801
        def read_folded(self, names: Any) -> Any:
            try:
                return self.inner.read_folded(names)
            except OSError:
                return made_up().read(names)


class LooksUpWholePieces(Opening):
    class broken(Around):  # noqa: N801
        def look_up(self, names: Any, start: int, stop: int) -> Any:
            return self.inner.look_up(names, start // 2 * 2, stop)


class MakesUpWhatItCannotLookUp(Opening):
    class broken(Around):  # noqa: N801
        def look_up(self, names: Any, start: int, stop: int) -> Any:
            try:
                return self.inner.look_up(names, start, stop)
            except OSError:
                return [[None] * 5 for _ in names]


class ForOneThread(Opening):
    broken = OfOneThread


BROKEN_CODECS = [
    (LosesHoles, archive_contract.every_kind_of_cell_comes_back),
    (KeepsAllColumns, archive_contract.columns_come_in_the_order_and_number_asked_for),
    (SortsAsAdded, archive_contract.rows_lie_in_the_order_of_finish),
    (ReadsWholeGroups, archive_contract.any_run_of_rows_can_be_read),
    (TakesAPart, archive_contract.an_integer_beyond_64_bits_is_refused_with_its_rows),
    (OpensAnything, archive_contract.what_no_writer_has_made_is_refused),
    (MakesUpWhatItCannotRead, archive_contract.an_altered_byte_is_noticed_or_changes_nothing),
    (FoldsInTheOrderOfRows, archive_contract.columns_for_folds_have_an_order_of_their_own),
    (MakesUpWhatItCannotFold, archive_contract.an_altered_byte_in_columns_for_folds_is_noticed_or_changes_nothing),
    (LooksUpWholePieces, archive_contract.columns_for_look_ups_are_the_same_rows),
    (MakesUpWhatItCannotLookUp, archive_contract.an_altered_byte_in_columns_for_look_ups_is_noticed_or_changes_nothing),
    (ForOneThread, archive_contract.several_threads_may_read),
]


@pytest.mark.parametrize(("broken", "case"), BROKEN_CODECS, ids=name_of)
def test_a_broken_codec_is_caught(broken: type[Around], case: CodecCase) -> None:
    with pytest.raises((AssertionError, ValueError)):
        case(broken(ParquetCodec()))


def test_every_case_of_codecs_has_been_seen_to_fail() -> None:
    assert {case for _, case in BROKEN_CODECS} == set(CODEC_CASES)


def test_the_wrapper_alone_breaks_nothing(tmp_path: Path) -> None:
    for number, case in enumerate(FILES_CASES):
        case(lambda place, number=number: Around(local(tmp_path / str(number), place)))
    for case in CODEC_CASES:
        case(Around(ParquetCodec()))
