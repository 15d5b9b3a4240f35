"""Columns of a file once more, a few rows at a time: for who looks for one owner's rows and would read a whole group for them."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Any, Final

import msgspec
import pyarrow as pa

from tallyroll.ports import SegmentColumn

_ZSTD: Final = pa.Codec("zstd", 3)  # 1 takes as long and as much room; 5 three times as long for a tenth less
_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final[Callable[[bytes], list[Any]]] = msgspec.msgpack.Decoder(list[tuple[list[Any], list[Any] | None]]).decode
_Places = tuple[int, int, list[str], list[int], list[int], list[int]]


class PieceWriter:
    """Puts pieces one behind the other; ``places`` tells afterwards what ``Pieces`` needs to find them."""

    def __init__(self, columns: Sequence[SegmentColumn], rows: int) -> None:
        self._columns = columns
        self._rows = rows
        self._written: list[tuple[int, int, int]] = []  # length, length when unpacked, CRC-32

    def add(self, table: Any) -> Iterator[bytes]:  # noqa: ANN401  # pyarrow has no types
        """The next rows, as what is to be written; only the last of all tables may end with a piece that is not full."""
        columns = [(_cells(table.column(name), kind), kind == "word") for name, kind in self._columns]
        for start in range(0, len(table), self._rows):
            stop = start + self._rows
            unpacked = _encode([_words(cells[start:stop]) if is_word else (cells[start:stop], None) for cells, is_word in columns])
            packed = _ZSTD.compress(unpacked, asbytes=True)
            self._written.append((len(packed), len(unpacked), zlib.crc32(packed)))
            yield packed

    def places(self, start: int) -> bytes:
        """Where everything is, if the first piece lies at ``start``."""
        lengths, sizes, checksums = map(list, zip(*self._written, strict=True)) if self._written else ([], [], [])
        return msgspec.json.encode((start, self._rows, [column.name for column in self._columns], lengths, sizes, checksums))


class Pieces:
    """Reads them. Raises OSError where they are not what was written."""

    def __init__(self, content: memoryview, places: bytes) -> None:
        try:
            start, self._rows, self._names, lengths, self._sizes, self._checksums = msgspec.json.decode(places, type=_Places)
        except msgspec.MsgspecError as error:
            raise OSError(f"its pieces cannot be found ({type(error).__name__})") from error
        self._bounds = [*accumulate(lengths, initial=start)]
        self._content = content

    def read(self, names: Sequence[str], start: int, stop: int) -> list[list[Any]]:
        """The cells of some rows: integers, text and bytes as they are, None where there is nothing."""
        made: list[list[Any]] = [[] for _ in names]
        try:
            columns = [self._names.index(name) for name in names]
            for number in range(start // self._rows, -(-stop // self._rows)):
                base, piece = number * self._rows, self._piece(number)
                first, last = max(start - base, 0), stop - base
                for into, at in zip(made, columns, strict=True):
                    known, codes = piece[at]
                    into.extend(known[first:last] if codes is None else map(known.__getitem__, codes[first:last]))
        except (pa.ArrowException, msgspec.MsgspecError, ValueError, LookupError, TypeError) as error:
            raise OSError(f"a piece cannot be read ({type(error).__name__})") from error
        return made

    def _piece(self, number: int) -> list[Any]:
        packed = self._content[self._bounds[number] : self._bounds[number + 1]]
        if zlib.crc32(packed) != self._checksums[number]:
            raise OSError("a piece is not what was written")
        return _decode(_ZSTD.decompress(packed, decompressed_size=self._sizes[number], asbytes=True))


def _cells(column: Any, kind: str) -> list[Any]:  # noqa: ANN401  # as above
    whole = column.combine_chunks()
    if kind == "json":
        whole = whole.cast(pa.binary())
    if kind == "word":
        words = [*whole.dictionary.to_pylist(), None]
        return [words[code] for code in whole.indices.fill_null(-1).to_numpy().tolist()]
    cells: list[Any] = whole.to_pylist() if whole.null_count else whole.to_numpy(zero_copy_only=False).tolist()
    return cells


def _words(cells: Sequence[str | None]) -> tuple[list[str | None], list[int]]:
    """The words that occur, and which one each row has."""
    places = {word: place for place, word in enumerate(dict.fromkeys(cells))}
    return list(places), [places[cell] for cell in cells]
