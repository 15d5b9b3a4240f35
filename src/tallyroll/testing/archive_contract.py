"""What the files and the format of an archive must do: ``ports.SegmentFiles`` and ``ports.SegmentCodec``, as cases for any adapter.

::

    def test_my_files():
        for case in FILES_CASES:
            case(open_my_files)

    def test_my_codec():
        for case in CODEC_CASES:
            case(MyCodec())

``open_my_files`` takes a partition and gives the place of its files, the same one every time; what is there at first must be
empty, so each case needs a new one. The cases for ``ports.ArchiveIndexes`` are in ``archive_index_contract``. A case raises
AssertionError with the promise that was broken. The ports block, and so do the cases.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, Final

import numpy as np

from tallyroll.events.position import TopicPartition
from tallyroll.events.rows import IntColumn, TextColumn
from tallyroll.ports import OpenSegment, SegmentCodec, SegmentColumn, SegmentFiles
from tallyroll.testing.contract import COMES_S, expect, expect_equal

__all__ = ["CODEC_CASES", "FILES_CASES", "CodecCase", "FilesCase", "OpenFiles"]

OpenFiles = Callable[[TopicPartition], SegmentFiles]
"""Gives the place of a partition's files."""

FilesCase = Callable[[OpenFiles], None]
CodecCase = Callable[[SegmentCodec], None]

_ONE: Final = TopicPartition("contract.one", 0)
_TWO: Final = TopicPartition("contract.two", 7)
_LARGE: Final = 1 << 20


# Files


def a_place_without_files_is_empty(files_of: OpenFiles) -> None:
    """Nothing has to be made before it is asked; what is not there has no size, cannot be opened, and may be removed."""
    files = files_of(_ONE)
    expect_equal(list(files.names()), [], "names")
    expect_equal(files.size("a"), None, "size of nothing")
    files.remove("a")
    _is_missing(files, "a")


def what_is_put_can_be_opened(files_of: OpenFiles) -> None:
    """Byte for byte, whatever the size; by everybody who opens the place."""
    contents = {"a.parquet": b"abc", "empty": b"", "00000000000000000007.anchor": bytes(range(256)) * 5, "large": b"\x00\xff" * _LARGE}
    writer, reader = files_of(_ONE), files_of(_ONE)
    for name, content in contents.items():
        writer.put(name, content)
    for files in (writer, reader):
        expect_equal(sorted(files.names()), sorted(contents), "names")
        for name, content in contents.items():
            expect_equal(files.size(name), len(content), f"size of {name}")
            expect(bytes(files.open(name)) == content, f"the content of {name}")


def partitions_have_places_of_their_own(files_of: OpenFiles) -> None:
    """The same name in two partitions is two files."""
    one, two = files_of(_ONE), files_of(_TWO)
    one.put("a", b"1")
    two.put("a", b"2")
    two.put("b", b"2")
    two.remove("a")
    expect_equal((list(one.names()), list(two.names())), (["a"], ["b"]), "names")
    expect_equal(bytes(one.open("a")), b"1", "content")


def a_file_is_replaced_as_a_whole(files_of: OpenFiles) -> None:
    """Who opens it gets the old content or the new one, and nothing else under a name of its own while it is being written."""
    files, contents = files_of(_ONE), [bytes([number]) * _LARGE for number in (1, 2)]
    files.put("a", contents[0])
    ended, begun, seen = threading.Event(), threading.Event(), list[bytes]()

    def look() -> None:
        other = files_of(_ONE)
        while not ended.is_set():
            begun.set()
            seen.append(bytes(other.open("a")))

    (looking := threading.Thread(target=look)).start()
    try:
        for number in range(20):
            begun.clear()  # each replacement falls into a look
            expect(begun.wait(COMES_S), "the file can be opened while it is being replaced")
            files.put("a", contents[number % 2])
    finally:
        ended.set()
        looking.join()
    expect(all(content in contents for content in seen), "old or new content, never a part or a mixture")
    expect_equal((list(files.names()), bytes(files.open("a")) == contents[1]), (["a"], True), "what is there in the end")


def a_removed_file_is_gone_but_for_who_reads_it(files_of: OpenFiles) -> None:
    """Removing is no error the second time."""
    files = files_of(_ONE)
    files.put("a", b"x" * _LARGE)
    content = files.open("a")
    files.remove("a")
    files.remove("a")
    expect_equal((list(files.names()), files.size("a")), ([], None), "what is left")
    _is_missing(files, "a")
    expect(bytes(content) == b"x" * _LARGE, "who has it open may go on reading")


def several_threads_may_call(files_of: OpenFiles) -> None:
    """Each puts, opens and removes files of its own, through one object."""
    files, failed = files_of(_ONE), list[str]()

    def work(number: int) -> None:
        for turn in range(10):
            name, content = f"{number}-{turn}", bytes([number]) * 1_000
            files.put(name, content)
            if bytes(files.open(name)) != content or name not in files.names():
                failed.append(name)
            if turn % 2:
                files.remove(name)

    _together([lambda number=number: work(number) for number in range(4)])  # type: ignore[misc]  # bound at once
    expect_equal(failed, [], "files that were not what was put")
    expect_equal(len(files.names()), 20, "files that are left")


def _is_missing(files: SegmentFiles, name: str) -> None:
    with suppress(FileNotFoundError):
        files.open(name)
        raise AssertionError("opening a file that is not there raises FileNotFoundError")


# The format

_COLUMNS: Final = (
    SegmentColumn("number", "int"),
    SegmentColumn("word", "word"),
    SegmentColumn("text", "text"),
    SegmentColumn("bytes", "bytes"),
    SegmentColumn("json", "json"),
)
_NAMES: Final = tuple(column.name for column in _COLUMNS)
_CELLS: Final[Sequence[Sequence[Any]]] = (
    [5, None, -(2**63), 2**63 - 1, 0],
    ["a", None, "", "ü 漢 🙂", "a"],
    ["x", "", None, 'quote " and \\', "x"],
    [b"", None, b"\x00\xff", bytes(range(256)), b"z"],
    [b"{}", b'{"a":"\xc3\xbc"}', None, b" [1, 2] ", b"null"],
)
_FOOTER: Final = {"format": "1", "odd": "ü 漢 🙂", "empty": ""}


def every_kind_of_cell_comes_back(codec: SegmentCodec) -> None:
    """Holes, odd characters, empty values and the ends of 64 bits; with the footer, the names and the number of rows."""
    opened = _made(codec, [_CELLS])
    expect_equal((opened.rows, list(opened.names)), (5, list(_NAMES)), "rows and names")
    expect_equal({name: opened.footer.get(name) for name in _FOOTER}, _FOOTER, "footer")
    for name, cells, column in zip(_NAMES, _CELLS, opened.read(_NAMES), strict=True):
        expect_equal(_shown(column), list(cells), f"column {name}")


def columns_come_in_the_order_and_number_asked_for(codec: SegmentCodec) -> None:
    """Any of them, in any order; only those that ``finish`` named are there."""
    opened = _made(codec, [_CELLS], names=("number", "json"))
    expect_equal(list(opened.names), ["number", "json"], "names")
    json, number = opened.read(["json", "number"])
    expect_equal((_shown(json), _shown(number)), (list(_CELLS[4]), list(_CELLS[0])), "columns")


def rows_lie_in_the_order_of_finish(codec: SegmentCodec) -> None:
    """Whatever the pieces that were added, and the groups."""
    for group_rows in (1, 2, 100):
        opened = _made(codec, [_CELLS, _CELLS], order=[9, 0, 8, 1, 2, 3, 4, 5, 6, 7], group_rows=group_rows)
        twice = [*_CELLS[1], *_CELLS[1]]
        expect_equal(_shown(opened.read(["word"])[0]), [twice[at] for at in (9, 0, 8, 1, 2, 3, 4, 5, 6, 7)], "order")


def columns_for_folds_have_an_order_of_their_own(codec: SegmentCodec) -> None:
    """Some rows of some columns once more, beside the others and not among them; OSError where there are none."""
    writer = codec.writer(_COLUMNS)
    writer.add(_CELLS)
    order = np.array([4, 3, 2, 1, 0])
    content = writer.finish(_NAMES, order, {}, group_rows=2, folded=("number", "word"), folded_order=np.array([3, 0, 4]))
    opened = codec.open(memoryview(content))
    expect_equal((opened.rows, list(opened.names)), (5, list(_NAMES)), "rows and names")
    word, number = opened.read_folded(["word", "number"])
    expect_equal((_shown(word), _shown(number)), tuple([_CELLS[kind][row] for row in (3, 0, 4)] for kind in (1, 0)), "columns for folds")
    expect_equal(_shown(opened.read(["number"])[0]), [_CELLS[0][row] for row in order.tolist()], "the column itself")
    for without, names in ((_made(codec, [_CELLS]), ["number"]), (opened, ["text"])):
        try:
            without.read_folded(names)
        except OSError:
            continue
        raise AssertionError("columns that were not kept for folds raise OSError")


def an_altered_byte_in_columns_for_folds_is_noticed_or_changes_nothing(codec: SegmentCodec) -> None:
    """As of the others."""
    writer, noticed = codec.writer(_COLUMNS[:2]), 0
    writer.add(_CELLS[:2])
    content = writer.finish(_NAMES[:2], np.arange(5), {}, group_rows=9, folded=_NAMES[:2], folded_order=np.arange(5))
    for at in range(0, len(content), max(1, len(content) // 120)):
        altered = content[:at] + bytes([content[at] ^ 0x40]) + content[at + 1 :]
        try:
            cells = [_shown(column) for column in codec.open(memoryview(altered)).read_folded(_NAMES[:2])]
        except (OSError, KeyError):  # as above
            noticed += 1
        else:
            expect_equal(cells, [list(column) for column in _CELLS[:2]], f"cells for folds after byte {at} was altered")
    expect(noticed, "some alteration is noticed")


def columns_for_look_ups_are_the_same_rows(codec: SegmentCodec) -> None:
    """Any run of them, in one piece or over several and over groups; some columns once more; OSError where there are none."""
    for group_rows, piece_rows in ((4, 2), (4, 4), (100, 3), (3, 1)):
        opened = codec.open(memoryview(_with_pieces(codec, group_rows, piece_rows)))
        expect(opened.has_pieces, "there are columns for look-ups")
        for start, stop in ((0, 5), (0, 1), (1, 4), (2, 3), (4, 5), (3, 3), (3, 9)):
            cells = [list(column) for column in opened.look_up(_NAMES[1:], start, stop)]
            rows = _PIECED_ORDER[start:stop]
            expect_equal(cells, [[column[row] for row in rows] for column in _CELLS[1:]], f"rows {start} to {stop}")
        json, word = opened.look_up(["json", "word"], 0, 5)
        expect_equal((json[0], word[0]), (_CELLS[4][4], _CELLS[1][4]), "columns in the order asked for")
    without = _made(codec, [_CELLS])
    expect(not without.has_pieces, "there are none if none were asked for")
    for which, names in ((without, ["word"]), (opened, ["number"])):
        try:
            which.look_up(names, 0, 1)
        except OSError:
            continue
        raise AssertionError("columns that were not kept for look-ups raise OSError")


def an_altered_byte_in_columns_for_look_ups_is_noticed_or_changes_nothing(codec: SegmentCodec) -> None:
    """As of the others."""
    content, noticed = _with_pieces(codec, 4, 2), 0
    for at in range(0, len(content), max(1, len(content) // 120)):
        altered = content[:at] + bytes([content[at] ^ 0x40]) + content[at + 1 :]
        try:
            cells = [list(column) for column in codec.open(memoryview(altered)).look_up(_NAMES[1:], 0, 5)]
        except OSError:
            noticed += 1
        else:
            expect_equal(cells, [[column[row] for row in _PIECED_ORDER] for column in _CELLS[1:]], f"after byte {at} was altered")
    expect(noticed, "some alteration is noticed")


_PIECED_ORDER: Final = (4, 3, 2, 1, 0)


def _with_pieces(codec: SegmentCodec, group_rows: int, piece_rows: int) -> bytes:
    writer = codec.writer(_COLUMNS)
    writer.add(_CELLS)
    return writer.finish(_NAMES, np.array(_PIECED_ORDER), {}, group_rows=group_rows, looked_up=_NAMES[1:], piece_rows=piece_rows)


def any_run_of_rows_can_be_read(codec: SegmentCodec) -> None:
    """Within a group and over several, and none at all; ``stop`` may lie behind the last row."""
    numbers = [*range(50)]
    words = [f"word-{number % 7}" for number in numbers]
    opened = _made(codec, [(numbers, words, words, [b"x"] * 50, [b"1"] * 50)], group_rows=8)
    for start, stop in ((0, 50), (0, 1), (7, 9), (8, 16), (3, 40), (49, 50), (10, 10), (45, 99)):
        number, word = opened.read(["number", "word"], start, stop)
        expect_equal((_shown(number), _shown(word)), (numbers[start:stop], words[start:stop]), f"rows {start} to {stop}")


def an_integer_beyond_64_bits_is_refused_with_its_rows(codec: SegmentCodec) -> None:
    """OverflowError; what was added before, and comes after, is not touched by it."""
    writer = codec.writer(_COLUMNS[:2])
    writer.add([[1], ["a"]])
    try:
        writer.add([[2, 2**63], ["b", "c"]])
    except OverflowError:
        writer.add([[3], ["d"]])
        opened = codec.open(memoryview(writer.finish(_NAMES[:2], np.arange(2), {}, group_rows=10)))
        expect_equal([_shown(column) for column in opened.read(_NAMES[:2])], [[1, 3], ["a", "d"]], "the rows that were taken")
    else:
        raise AssertionError("an integer beyond 64 bits raises OverflowError")


def what_no_writer_has_made_is_refused(codec: SegmentCodec) -> None:
    """OSError, for anything that is not a whole file."""
    content = _content(codec, [_CELLS])
    for damaged in (b"", b"PAR1", b"nothing of the kind" * 100, content[:-3], content[3:], content[: len(content) // 2]):
        try:
            codec.open(memoryview(damaged)).read(_NAMES)
        except OSError:
            continue
        raise AssertionError("content that is not what a writer made raises OSError")


def an_altered_byte_is_noticed_or_changes_nothing(codec: SegmentCodec) -> None:
    """OSError when the altered part is read; never other cells than those that were written."""
    content, noticed = _content(codec, [_CELLS]), 0
    for at in range(0, len(content), max(1, len(content) // 60)):
        altered = content[:at] + bytes([content[at] ^ 0x40]) + content[at + 1 :]
        try:
            opened = codec.open(memoryview(altered))
            cells = [_shown(column) for column in opened.read(_NAMES)]
        except (OSError, KeyError):  # a name of a column may be what was altered
            noticed += 1
        else:
            expect_equal(cells, [list(column) for column in _CELLS], f"cells after byte {at} was altered")
    expect(noticed, "some alteration is noticed")


def several_threads_may_read(codec: SegmentCodec) -> None:
    """One open segment, many readers."""
    numbers = [*range(5_000)]
    opened = _made(codec, [(numbers, ["w"] * 5_000, ["t"] * 5_000, [b"b"] * 5_000, [b"1"] * 5_000)], group_rows=100)
    failed = list[int]()

    def work(start: int) -> None:
        for turn in range(20):
            first = start + turn * 50
            if _shown(opened.read(["number"], first, first + 300)[0]) != numbers[first : first + 300]:
                failed.append(first)

    _together([lambda start=start: work(start) for start in (0, 1_000, 2_000)])  # type: ignore[misc]  # bound at once
    expect_equal(failed, [], "runs that were another's")


def _content(
    codec: SegmentCodec,
    pieces: Iterable[Sequence[Sequence[Any]]],
    names: Sequence[str] = _NAMES,
    order: Sequence[int] | None = None,
    group_rows: int = 100,
) -> bytes:
    writer, rows = codec.writer(_COLUMNS), 0
    for cells in pieces:
        writer.add(cells)
        rows += len(cells[0])
    return writer.finish(names, np.arange(rows) if order is None else np.array(order), _FOOTER, group_rows=group_rows)


def _made(codec: SegmentCodec, pieces: Iterable[Sequence[Sequence[Any]]], **more: Any) -> OpenSegment:  # noqa: ANN401  # as _content
    return codec.open(memoryview(_content(codec, pieces, **more)))


def _shown(column: Any) -> list[Any]:  # noqa: ANN401  # one of the three kinds
    """A column cell by cell, None for holes."""
    if isinstance(column, TextColumn):
        return [column.words[code] if code >= 0 else None for code in column.codes.tolist()]
    if isinstance(column, IntColumn):
        return [value if valid else None for value, valid in zip(column.values.tolist(), column.valid.tolist(), strict=True)]
    cells: list[Any] = column.take(np.arange(len(column)))
    return cells


def _together(works: Sequence[Callable[[], None]]) -> None:
    """Runs them at the same time; raises what one of them raised."""
    errors = list[BaseException]()

    def guarded(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001  # raised below
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


FILES_CASES: Final[Sequence[FilesCase]] = (
    a_place_without_files_is_empty,
    what_is_put_can_be_opened,
    partitions_have_places_of_their_own,
    a_file_is_replaced_as_a_whole,
    a_removed_file_is_gone_but_for_who_reads_it,
    several_threads_may_call,
)
CODEC_CASES: Final[Sequence[CodecCase]] = (
    every_kind_of_cell_comes_back,
    columns_come_in_the_order_and_number_asked_for,
    rows_lie_in_the_order_of_finish,
    columns_for_folds_have_an_order_of_their_own,
    columns_for_look_ups_are_the_same_rows,
    any_run_of_rows_can_be_read,
    an_integer_beyond_64_bits_is_refused_with_its_rows,
    what_no_writer_has_made_is_refused,
    an_altered_byte_is_noticed_or_changes_nothing,
    an_altered_byte_in_columns_for_folds_is_noticed_or_changes_nothing,
    an_altered_byte_in_columns_for_look_ups_is_noticed_or_changes_nothing,
    several_threads_may_read,
)
