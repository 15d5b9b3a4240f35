"""Columns as a Parquet file and back."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tallyroll.adapters.parquet.pieces import Pieces, PieceWriter
from tallyroll.events.rows import IntColumn, TextColumn
from tallyroll.ports import SegmentColumn

_TYPES: Final = {
    "int": pa.int64(),
    "word": pa.dictionary(pa.int32(), pa.string()),
    "text": pa.string(),
    "bytes": pa.binary(),
    "json": pa.string(),
}
_AS_THEY_ARE: Final = ("bytes", "json")
_MOST_BYTES: Final = 2**31 - 1  # of one array
_KIND: Final = b"kind"
_FOLDED: Final = b"folded"  # where in the file the columns for folds are: start, length, CRC-32
_PIECES: Final = b"pieces"  # where the columns for look-ups are
_decode_folded: Final = msgspec.json.Decoder(tuple[int, int, int]).decode
_LEVEL: Final = 1  # of zstd: 3 took a third longer and saved 2 %


class ParquetCodec:
    """A ``SegmentCodec`` on Parquet, zstd; each page has a checksum, which is looked at when the page is read.

    Not promised: equal bytes from two versions of pyarrow.
    """

    def writer(self, columns: Sequence[SegmentColumn]) -> ParquetSegmentWriter:
        return ParquetSegmentWriter(columns)

    def open(self, content: memoryview) -> ParquetSegment:
        return ParquetSegment(content)


class ParquetSegmentWriter:
    """A ``SegmentWriter``. Cells become Arrow arrays as they come, and are sorted there, a row group at a time.

    Bytes, which are nearly all there is, stay as they are until then: each is copied once, into its group.

    Not promised: to take anything after ``finish``.
    """

    def __init__(self, columns: Sequence[SegmentColumn]) -> None:
        self._columns = tuple(columns)
        self._chunks: list[list[Any]] = [[] for _ in columns]

    def add(self, cells: Sequence[Iterable[object]]) -> None:
        taken = [
            [*values] if column.kind in _AS_THEY_ARE else _array(values, column.kind)
            for values, column in zip(cells, self._columns, strict=True)
        ]
        for chunks, some in zip(self._chunks, taken, strict=True):
            chunks.append(some)

    def finish(  # noqa: PLR0913  # as the port
        self,
        names: Sequence[str],
        order: NDArray[np.intp],
        footer: Mapping[str, str],
        *,
        group_rows: int,
        folded: Sequence[str] = (),
        folded_order: NDArray[np.intp] | None = None,
        looked_up: Sequence[str] = (),
        piece_rows: int = 1,
    ) -> bytes:
        kept = [column for column in self._columns if column.name in names]
        fields = [pa.field(one.name, _TYPES[one.kind], metadata={_KIND: one.kind.encode()}) for one in kept]
        schema = pa.schema(fields, metadata=dict(footer))
        wholes = {column.name: self._whole(at) for at, column in enumerate(self._columns) if column.name in names}
        sink, pieces, packed = (
            pa.BufferOutputStream(),
            PieceWriter([one for one in self._columns if one.name in looked_up], piece_rows),
            list[bytes](),
        )
        with pq.ParquetWriter(
            sink,
            schema,
            compression="zstd",
            compression_level=_LEVEL,
            use_dictionary=[one.name for one in kept if one.kind == "word"],
            column_encoding={one.name: "DELTA_BINARY_PACKED" for one in kept if one.kind == "int"},
            write_page_checksum=True,
            write_statistics=[one.name for one in kept if one.kind in ("int", "word")],
        ) as writer:
            for start in range(0, len(order), group_rows):
                group = _sorted(wholes, order[start : start + group_rows], schema)
                writer.write_table(_compact(group), row_group_size=group_rows)
                if looked_up:
                    packed += pieces.add(group)
            # What follows lies between the last group and the footer, where nobody who reads Parquet looks.
            if looked_up:
                writer.add_key_value_metadata({_PIECES: pieces.places(sink.tell())})
                sink.write(b"".join(packed))
            if folded and folded_order is not None:
                of_folds = pa.schema([schema.field(name) for name in folded], metadata=schema.metadata)
                start, piece = sink.tell(), _streamed(_sorted(wholes, folded_order, of_folds))
                sink.write(piece)
                writer.add_key_value_metadata({_FOLDED: msgspec.json.encode((start, len(piece), zlib.crc32(piece)))})
        content: bytes = sink.getvalue().to_pybytes()
        return content

    def _whole(self, at: int) -> Any:  # noqa: ANN401  # pyarrow has no types
        """One column in one piece, a list where the cells are kept as they are; its pieces are let go."""
        chunks, self._chunks[at] = self._chunks[at], []
        kind = self._columns[at].kind
        if kind in _AS_THEY_ARE:
            return [*chain.from_iterable(chunks)]
        whole = pa.concat_arrays(chunks)
        return whole.dictionary_encode() if kind == "word" else whole


class ParquetSegment:
    """An ``OpenSegment``. One thread reads at a time; the others wait.

    Not promised: to notice a change of bytes that nobody reads.
    """

    def __init__(self, content: memoryview) -> None:
        try:
            # Which columns come as dictionaries has to be said when the file is opened, and only its footer tells.
            metadata = pq.read_metadata(pa.BufferReader(pa.py_buffer(content)))
            schema = metadata.schema.to_arrow_schema()
            self._kinds = {field.name: (field.metadata or {}).get(_KIND, b"").decode() for field in schema}
            self._file = pq.ParquetFile(
                pa.BufferReader(pa.py_buffer(content)),
                metadata=metadata,
                read_dictionary=[name for name, kind in self._kinds.items() if kind == "word"],
                page_checksum_verification=True,
            )
        except (pa.ArrowException, ValueError, OSError) as error:
            raise OSError(f"not a Parquet file, or damaged ({type(error).__name__})") from error
        if any(_TYPES.get(self._kinds[field.name]) != field.type for field in schema):
            raise OSError("a column is none that the writer makes")
        self._reader = self._file.reader
        self._lock = threading.Lock()
        self._content = content
        told = metadata.metadata or {}
        self._folded = told.get(_FOLDED, b"")
        self._pieces = Pieces(content, told[_PIECES]) if _PIECES in told else None
        self._footer = {key.decode(): value.decode() for key, value in (schema.metadata or {}).items()}
        counts = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        self._starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self._places = {name: at for at, name in enumerate(self._kinds)}

    @property
    def footer(self) -> Mapping[str, str]:
        return self._footer

    @property
    def rows(self) -> int:
        return int(self._starts[-1])

    @property
    def names(self) -> Collection[str]:
        return self._kinds.keys()

    def read(self, names: Sequence[str], start: int = 0, stop: int | None = None) -> list[IntColumn | TextColumn | _Cells]:
        stop = self.rows if stop is None else min(stop, self.rows)
        first = int(np.searchsorted(self._starts, start, side="right")) - 1
        last = int(np.searchsorted(self._starts, stop, side="left"))
        places = [self._places[name] for name in names]
        try:
            with self._lock:
                table = self._reader.read_row_groups(list(range(first, last)), column_indices=places, use_threads=False)
            base = int(self._starts[first])
            if start > base or stop < int(self._starts[last]):
                table = table.slice(start - base, stop - start)
            by_name = {name: table.column(at) for at, name in enumerate(table.column_names)}
            return [_column(by_name[name], self._kinds[name]) for name in names]
        except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
            raise OSError(f"it cannot be read ({type(error).__name__})") from error

    @property
    def has_pieces(self) -> bool:
        return self._pieces is not None

    def look_up(self, names: Sequence[str], start: int, stop: int) -> list[list[Any]]:
        if self._pieces is None:
            raise OSError("there are no columns for look-ups")
        return self._pieces.read(names, start, min(stop, self.rows))

    def read_folded(self, names: Sequence[str]) -> list[IntColumn | TextColumn | _Cells]:
        try:
            start, length, checksum = _decode_folded(self._folded)
            piece = self._content[start : start + length]
            if zlib.crc32(piece) != checksum:
                raise OSError("the columns for folds are not those that were written")
            source = pa.BufferReader(pa.py_buffer(piece))
            known = pa.ipc.open_stream(source).schema.names
            source.seek(0)
            options = pa.ipc.IpcReadOptions(included_fields=sorted(map(known.index, names)), use_threads=False)
            table = pa.ipc.open_stream(source, options=options).read_all()
            return [_column(table.column(name), self._kinds[name]) for name in names]
        except (pa.ArrowException, msgspec.MsgspecError, ValueError, OverflowError) as error:
            raise OSError(f"the columns for folds cannot be read ({type(error).__name__})") from error


class _Cells:
    """``Cells`` of an Arrow array."""

    def __init__(self, array: Any) -> None:  # noqa: ANN401  # pyarrow has no types
        self._array = array

    def __len__(self) -> int:
        return len(self._array)

    def take(self, rows: NDArray[np.intp]) -> list[Any]:
        taken: list[Any] = self._array.take(pa.array(rows)).to_numpy(zero_copy_only=False).tolist()
        return taken


def _sorted(wholes: Mapping[str, Any], rows: NDArray[np.intp], schema: Any) -> Any:  # noqa: ANN401  # pyarrow has no types
    """Some rows of the columns that the schema names, in that order."""
    places, numbers = pa.array(rows), np.asarray(rows).tolist()
    arrays = [
        _joined([*map(whole.__getitem__, numbers)], field.type) if isinstance(whole, list) else whole.take(places)
        for field in schema
        for whole in (wholes[field.name],)
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def _joined(cells: Sequence[bytes | None], kind: Any) -> Any:  # noqa: ANN401  # as above
    """Bytes as an array of a type; without a step per cell where all are there, and no text has to be looked at."""
    if None not in cells:
        content = b"".join(cells)  # type: ignore[arg-type]  # no None among them
        if len(content) <= _MOST_BYTES and (kind == pa.binary() or content.isascii()):
            bounds = np.zeros(len(cells) + 1, np.int32)
            np.cumsum([*map(len, cells)], out=bounds[1:])  # type: ignore[arg-type]  # as above
            return pa.Array.from_buffers(kind, len(cells), [None, pa.py_buffer(bounds), pa.py_buffer(content)])
    return pa.array(cells, pa.binary()).cast(kind)


def _array(cells: Iterable[object], kind: str) -> Any:  # noqa: ANN401  # pyarrow has no types
    try:
        return pa.array(cells, pa.string() if kind == "word" else _TYPES[kind])
    except pa.ArrowInvalid as error:
        if kind == "int":
            raise OverflowError("beyond 64 bits") from error
        raise


def _compact(table: Any) -> Any:  # noqa: ANN401  # as above
    """With dictionaries of just the words that occur: a group carries its own."""
    columns = [
        pa.chunked_array([chunk.dictionary_decode().dictionary_encode() for chunk in column.chunks])
        if pa.types.is_dictionary(column.type)
        else column
        for column in table.columns
    ]
    return pa.Table.from_arrays(columns, schema=table.schema)


def _streamed(table: Any) -> bytes:  # noqa: ANN401  # as above
    """A table as an Arrow stream of one batch, compressed."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression=pa.Codec("zstd", _LEVEL))) as writer:
        writer.write_table(_compact(table.combine_chunks()))
    content: bytes = sink.getvalue().to_pybytes()
    return content


def _column(chunked: Any, kind: str) -> IntColumn | TextColumn | _Cells:  # noqa: ANN401  # as above
    if kind == "word":
        if chunked.num_chunks > 1:
            chunked = chunked.unify_dictionaries()
        array = chunked.combine_chunks()
        codes = _numbers(array.indices, np.dtype(np.int32))
        return TextColumn(np.where(_valid(array), codes, -1) if array.null_count else codes, array.dictionary.to_pylist())
    array = chunked.combine_chunks()
    if kind == "int":
        numbers, valid = _numbers(array, np.dtype(np.int64)), _valid(array)
        return IntColumn(np.where(valid, numbers, 0) if array.null_count else numbers, valid)
    if kind == "json":
        array = array.cast(pa.binary())
    return _Cells(array)


def _numbers(array: Any, kind: np.dtype[Any]) -> NDArray[Any]:  # noqa: ANN401  # as above
    """What is in an array, anything where there is nothing; without a kernel, which takes longer than all else here."""
    content = array.buffers()[1]
    if content is None:
        return np.zeros(len(array), kind)
    return np.frombuffer(content, kind, len(array), array.offset * kind.itemsize)


def _valid(array: Any) -> NDArray[np.bool_]:  # noqa: ANN401  # as above
    """Where there is something."""
    if not array.null_count:
        return np.ones(len(array), np.bool_)
    start = array.offset
    return np.unpackbits(np.frombuffer(array.buffers()[0], np.uint8), count=start + len(array), bitorder="little")[start:].view(np.bool_)
